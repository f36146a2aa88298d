"""The mask holds the molecule, and slices of the masked volume fit the molecule's images."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from equipose.core.fourier import half_disc, to_half_disc
from equipose.core.fourier_grid import FourierGrid, empty_grid, grid_slices, grid_volume, insert_slices
from equipose.core.mask import masked_volume, solvent_mask
from equipose.data.simulate import padded_transform, slices
from equipose.io.maps import read_map
from equipose.poses.search import random_rotations

BOX = 32


@pytest.fixture
def truth(simulated_dataset) -> np.ndarray:
    return read_map(simulated_dataset.folder / "volume.mrc")[0]


def projections(truth: np.ndarray, rotations: torch.Tensor) -> torch.Tensor:
    """Coefficients (n, k) by the simulation, which shares no code with the grid."""
    return slices(padded_transform(truth), rotations.double().numpy(), half_disc(BOX))


def back_projected(truth: np.ndarray, noise: float, images: int = 2000) -> FourierGrid:
    """The map of projections with noise, `noise` times as strong as the projections."""
    generator, grid = torch.Generator().manual_seed(0), empty_grid(BOX // 2, torch.device("cpu"))
    for rotations in random_rotations(images, generator).split(500):
        values = projections(truth, rotations)
        white = torch.randn(len(values), BOX, BOX, generator=generator)
        values = values + noise * values.abs().square().mean().sqrt() * to_half_disc(white, half_disc(BOX))
        insert_slices(grid, rotations, half_disc(BOX), values, torch.ones(values.shape), torch.eye(3)[None])
    return grid


def misses(volume: torch.Tensor, truth: np.ndarray) -> float:
    """Relative error, at the best scale, of slices of a volume in new orientations."""
    rotations = random_rotations(50, torch.Generator().manual_seed(1))
    found, wanted = grid_slices(volume, BOX // 2, rotations, half_disc(BOX)), projections(truth, rotations)
    found = found * (found.conj() * wanted).real.sum() / found.abs().square().sum()
    return float((found - wanted).norm() / wanted.norm())


def test_the_mask_holds_the_molecule_and_little_else(truth: np.ndarray) -> None:
    noisy = truth + 0.02 * truth.max() * np.random.default_rng(0).standard_normal(truth.shape)
    mask = solvent_mask(torch.from_numpy(noisy)).numpy()
    assert (truth * mask).sum() > 0.97 * truth.sum() and mask.mean() < 0.5


def test_the_mask_is_1_two_voxels_beyond_the_density_and_falls_to_0_over_three_more() -> None:
    """A ball, whose smoothed density along a radius is known."""
    radius, deviation, half = 8, 1.5, 20
    z, y, x = np.indices((2 * half,) * 3) - half
    ball = (np.sqrt(x**2 + y**2 + z**2) <= radius).astype(float)
    r = np.arange(1.0, half)
    near, far = (radius - r) / deviation, (radius + r) / deviation
    density = norm.cdf(near) - norm.cdf(-far) - deviation / r * (norm.pdf(near) - norm.pdf(far))
    last = int(r[density > 0.15][-1])
    assert density[last - 1] > 0.17 and density[last] < 0.13, "no voxel is near the threshold"
    along = solvent_mask(torch.from_numpy(ball)).numpy()[half, half, half:]
    np.testing.assert_allclose(along[: last + 3], 1)
    np.testing.assert_allclose(along[last + 3 :], [0.75, 0.25] + [0] * (half - last - 5), atol=1e-6)


def test_of_two_parts_the_larger_is_the_molecule() -> None:
    volume = torch.zeros(32, 32, 32)
    volume[8:20, 8:20, 8:20], volume[26:29, 26:29, 26:29] = 1, 2
    mask = solvent_mask(volume)
    assert mask[8:20, 8:20, 8:20].min() == 1 and mask[27, 27, 27] == 0


def test_a_map_without_any_density_is_not_masked_away() -> None:
    assert solvent_mask(-torch.ones(8, 8, 8)).min() == 1


def test_slices_of_the_masked_volume_are_the_molecule_s_projections(truth: np.ndarray) -> None:
    """Also at the rim, where those of `grid_volume` are dimmed."""
    grid = back_projected(truth, noise=0.0)
    assert misses(masked_volume(grid), truth) < 0.75 * misses(grid_volume(grid), truth)


def test_the_mask_takes_most_of_the_noise_away(truth: np.ndarray) -> None:
    grid = back_projected(truth, noise=3.0)
    assert misses(masked_volume(grid), truth) < 0.5 * misses(grid_volume(grid), truth)


def test_another_volume_s_mask_may_be_laid_over_it(truth: np.ndarray) -> None:
    grid = back_projected(truth, noise=0.0, images=500)
    assert masked_volume(grid, torch.zeros(BOX, BOX, BOX)).abs().max() == 0
