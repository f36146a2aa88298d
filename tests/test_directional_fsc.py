"""The FSC along a direction sees what noise is put into its cone, and nothing else."""

import numpy as np
import pytest

from equipose.core.directional_fsc import directional_curves, extremes
from equipose.core.fsc import fourier_shell_correlation, radii

BOX, VOXEL = 32, 5.0


def half_maps(axis: np.ndarray, width: float, noise: float) -> list[np.ndarray]:
    """Two white maps that share all but the frequencies from shell 6 on within `width` degrees of an axis (x, y, z)."""
    grid = np.fft.fftfreq(BOX, 1 / BOX)
    z, y, x = np.meshgrid(grid, grid, grid[: BOX // 2 + 1], indexing="ij")
    radius = radii(BOX)
    along = np.abs(x * axis[0] + y * axis[1] + z * axis[2]) / np.maximum(radius, 1)
    missing = (along > np.cos(np.radians(width))) & (radius > 5.5)
    rngs = [np.random.default_rng(seed) for seed in range(3)]
    molecule, *own = (np.fft.rfftn(rng.normal(size=[BOX] * 3)) for rng in rngs)
    return [
        np.fft.irfftn(np.where(missing, each, molecule + noise * each), s=[BOX] * 3, axes=(0, 1, 2)) for each in own
    ]


@pytest.mark.parametrize("axis", [np.array([0.0, 0.6, 0.8]), np.array([1.0, 0.0, 0.0])])
def test_the_worst_direction_is_the_one_without_signal(axis):
    first, second = half_maps(axis, 35, 0.1)
    found = extremes(first, second, 0.143, VOXEL)
    assert abs(found.worst_along @ axis) > np.cos(np.radians(20))
    assert abs(found.best_along @ axis) < np.cos(np.radians(50))
    assert found.worst_angstrom == pytest.approx(BOX * VOXEL / 6, rel=0.15)
    assert found.best_angstrom == pytest.approx(BOX * VOXEL / 15)
    assert found.worst[8:].mean() < 0.3 < 0.95 < found.best[8:].mean()


def test_a_map_that_is_the_same_in_all_directions_has_the_shells_curve_in_each():
    first, second = half_maps(np.array([0.0, 0.0, 1.0]), 0, 1.0)
    whole = fourier_shell_correlation(first, second)
    curves = directional_curves(first, second, np.eye(3))
    np.testing.assert_allclose(curves[:, 10:].mean(1), whole[10:].mean(), atol=0.06)
    np.testing.assert_allclose(curves[:, 1:3], np.broadcast_to(whole[1:3], (3, 2)), atol=1e-9)
