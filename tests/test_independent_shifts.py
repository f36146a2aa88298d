"""Half-maps of noise that was aligned to a map: a peak at their centre, and none with shifts that are independent."""

import numpy as np
import pytest
import torch

from equipose.core.fourier import from_half_disc, half_disc, shift_phase
from equipose.core.fourier_grid import from_real_map, grid_map, grid_slices
from equipose.core.fsc import fourier_shell_correlation
from equipose.core.rotations import random_rotations
from equipose.io.particles import Particles
from equipose.reconstruction.halves import Half, back_project
from equipose.reconstruction.independent_shifts import back_project_apart, independent_sums

BOX, IMAGES, DEVIATION = 32, 300, 2.5
AXIS = np.arange(BOX) - BOX // 2


def a_half(images: np.ndarray, rotations: np.ndarray, shifts: np.ndarray) -> Half:
    """Images whose CTF is 1, with shifts in pixels of 1 Å."""
    parameters = np.tile(np.float32([0, 0, 0, 300, 0, 1, 0]), (len(images), 1))
    return Half(Particles(images, parameters, 1.0, None, None, None, None), rotations, shifts, "C1")


def brightest_spots(images: np.ndarray) -> np.ndarray:
    """Where each image is brightest, in pixels (x, y) from its centre, within reach of the shifts."""
    far = np.hypot(AXIS[:, None], AXIS) > 4 * DEVIATION
    row, column = np.unravel_index(np.where(far, -np.inf, images).reshape(len(images), -1).argmax(1), (BOX, BOX))
    return np.stack([AXIS[column], AXIS[row]], 1).astype(float)


@pytest.fixture(scope="module")
def noise() -> list[Half]:
    """White noise, each image's brightest spot moved to the centre, as an alignment to a peak there does it."""
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((IMAGES, BOX, BOX)).astype(np.float32) for _ in range(2)]
    return [a_half(part, random_rotations(IMAGES, rng), brightest_spots(part)) for part in images]


def peak(volume: np.ndarray) -> float:
    """The value at the centre, in standard deviations of the map."""
    return float(volume[BOX // 2, BOX // 2, BOX // 2] / volume.std())


def test_noise_has_no_peak_at_the_centre_and_no_resolution(noise: list[Half]) -> None:
    sums = [back_project(half) for half in noise]
    aligned = [grid_map(grid).numpy() for grid in sums]
    assert min(map(peak, aligned)) > 20 and fourier_shell_correlation(*aligned)[3:10].mean() > 0.1
    apart = [grid_map(grid).numpy() for grid in independent_sums(noise, sums, DEVIATION)]
    assert max(map(abs, map(peak, apart))) < 5
    assert abs(fourier_shell_correlation(*apart)[3:10].mean()) < 0.05


def test_the_map_of_a_molecule_loses_next_to_nothing() -> None:
    rng, disc = np.random.default_rng(1), half_disc(BOX)
    molecule = sum(
        np.exp(-((AXIS[:, None, None] - z) ** 2 + (AXIS[:, None] - y) ** 2 + (AXIS - x) ** 2) / 2)
        for x, y, z in rng.normal(0, 3.5, (25, 3))
    )
    volume = from_real_map(torch.from_numpy(molecule).float(), BOX // 2)
    rotations, shifts = random_rotations(IMAGES, rng), rng.normal(0, DEVIATION, (IMAGES, 2))
    seen = grid_slices(volume, BOX // 2, torch.from_numpy(rotations).float(), disc)
    clean = from_half_disc(seen * shift_phase(torch.from_numpy(shifts).float(), disc), disc).numpy()
    images = clean + rng.normal(0, 3 * clean.std(), clean.shape).astype(np.float32)  # an SNR of 0.11
    half = a_half(images, rotations, shifts)
    sums, apart = back_project(half), back_project_apart(half, volume, DEVIATION)
    torch.testing.assert_close(apart.power, sums.power)
    right, found = (fourier_shell_correlation(grid_map(grid).numpy(), molecule)[1:8] for grid in (sums, apart))
    assert (found > right - 0.03).all() and right[-1] > 0.5
