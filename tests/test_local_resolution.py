"""Local resolution: it is worse where half-maps differ, and gives the frequency from which they do."""

import numpy as np
import pytest

from equipose.core.local_resolution import local_resolution

BOX, VOXEL = 48, 2.0


def filtered(volume: np.ndarray, low: float, high: float) -> np.ndarray:
    """The volume's shells from `low` to `high`."""
    k = np.stack(np.meshgrid(*[np.fft.fftfreq(len(volume), 1 / len(volume))] * 3, indexing="ij"))
    radius = np.linalg.norm(k, axis=0)
    return np.fft.ifftn(np.fft.fftn(volume) * ((radius >= low) & (radius < high))).real


@pytest.fixture(scope="module")
def half_maps() -> tuple[np.ndarray, np.ndarray]:
    """Both half-maps have one signal. On the left, each also has noise of its own from shell 12 on."""
    signal, *noise = np.random.default_rng(0).standard_normal((3, BOX, BOX, BOX))
    left = np.arange(BOX) < BOX // 2
    first, second = (signal + left * 1.5 * filtered(part, 12, BOX) for part in noise)
    return first, second


def test_it_is_the_wavelength_at_which_the_half_maps_part_and_only_where_they_do(half_maps) -> None:
    local = local_resolution(*half_maps, VOXEL, 4.2)
    left, right = local[..., 10:14], local[..., 34:38]
    assert np.median(left) == pytest.approx(BOX * VOXEL / 12, rel=0.1)
    np.testing.assert_allclose(right, BOX * VOXEL / (BOX / 2 - 1), rtol=1e-5)  # the last shell


def test_equal_half_maps_reach_the_last_shell_everywhere_and_unrelated_ones_nothing(half_maps) -> None:
    np.testing.assert_allclose(local_resolution(half_maps[0], half_maps[0], VOXEL, 8.0), BOX * VOXEL / 23, rtol=1e-5)
    noise = np.random.default_rng(1).standard_normal((2, BOX, BOX, BOX))
    assert np.median(local_resolution(*noise, VOXEL, 8.0)) > 20 * VOXEL


def test_empty_half_maps_are_not_resolved() -> None:
    empty = np.zeros((BOX, BOX, BOX))
    np.testing.assert_allclose(local_resolution(empty, empty, VOXEL, 8.0), BOX * VOXEL)


def test_a_curve_that_falls_between_the_last_two_bands_is_seen_to_fall() -> None:
    """The last bands are at shells 10.9 and 11. The half-maps have noise of their own from shell 10.8 on."""
    signal, *noise = np.random.default_rng(0).standard_normal((3, 24, 24, 24))
    first, second = (signal + 1.2 * filtered(part, 10.8, 24) for part in noise)
    shell = 24 * VOXEL / local_resolution(first, second, VOXEL, 8.0)
    assert (shell > 10.9).all() and (shell < 10.99).all()
