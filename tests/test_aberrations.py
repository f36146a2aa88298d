"""Beam tilt and anisotropic magnification: images get them by RELION's formulas, and lose them again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from equipose.core.ctf import ctf, electron_wavelength
from equipose.core.fourier import HalfDisc, from_half_disc, half_disc, shift_phase
from equipose.data.aberrations import Aberrations, read_aberrations
from equipose.data.simulate import padded_transform, slices
from equipose.errors import ConfigError, FileWarning
from equipose.io.maps import read_map
from equipose.io.particles import read_particles

TILT, MATRIX = (20.0, -30.0), np.array([[1.03, 0.02], [0.01, 0.96]])
RADIUS = 15
PIXEL = 4.0
"""Å, for which the dataset's voxels are taken here, lest a beam tilt have no effect."""


def images_of(folder: Path, tilt: tuple[float, float], matrix: np.ndarray, count: int = 12) -> tuple:
    """Projections of the dataset's volume with aberrations (obs_model.cpp: everything at M k), and their poses."""
    particles = read_particles(folder / "particles.star")
    volume, _ = read_map(folder / "volume.mrc")
    disc, rotations, parameters = half_disc(32, RADIUS), particles.rotations[:count], particles.ctf[:count]
    parameters[:, 1] -= 3000
    moved = HalfDisc(32, disc.k @ torch.from_numpy(matrix).float().T, disc.weights)
    k = moved.k / (32 * PIXEL)
    strength = -2e4 * np.pi * 2.7 * float(electron_wavelength(torch.tensor(300.0))) ** 2
    phase = strength * (k**2).sum(-1) * (k @ torch.tensor(tilt))
    shifts = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (count, 2))).float()
    spectrum = slices(padded_transform(volume), rotations, moved) * ctf(
        torch.from_numpy(parameters), moved.k, 32 * PIXEL
    )
    spectrum = spectrum * torch.exp(1j * phase) * shift_phase(shifts, disc)
    return from_half_disc(spectrum, disc).numpy(), parameters, rotations, shifts.numpy().astype(float) * PIXEL


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean([np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(a, b, strict=True)]))


@pytest.mark.parametrize(
    ("tilt", "matrix", "before"), [(TILT, np.eye(2), 0.99), ((0.0, 0.0), MATRIX, 0.99), (TILT, MATRIX, 0.98)]
)
def test_images_without_their_aberrations_are_plain_projections(
    simulated_dataset, tilt: tuple, matrix: np.ndarray, before: float
) -> None:
    aberrated, parameters, rotations, shifts = images_of(simulated_dataset.folder, tilt, matrix)
    found = Aberrations(np.tile(tilt, (12, 1)), np.tile(matrix, (12, 1, 1)))
    taken_out = found.taken_out(aberrated, parameters, PIXEL, np.arange(12))
    disc, (volume, _) = half_disc(32, RADIUS), read_map(simulated_dataset.folder / "volume.mrc")
    moved = torch.from_numpy(found.shifts_taken_out(shifts) / PIXEL).float()
    plain = slices(padded_transform(volume), rotations, disc) * ctf(torch.from_numpy(parameters), disc.k, 32 * PIXEL)
    plain = from_half_disc(plain * shift_phase(moved, disc), disc).numpy()
    assert correlation(taken_out, plain) > 0.997
    assert correlation(aberrated, plain) < before
    np.testing.assert_allclose(found.shifts_in_images(found.shifts_taken_out(shifts), np.arange(12)), shifts)


def test_groups_without_aberrations_have_none_and_wild_ones_are_refused() -> None:
    table = pd.DataFrame({"rlnOpticsGroup": [1, 2, 2]})
    optics = pd.DataFrame({"rlnOpticsGroup": [1, 2], "rlnBeamTiltX": [0.0, 0.0], "rlnMagMat00": [1.0, 1.0]})
    assert read_aberrations(Path("a.star"), optics, table) is None
    found = read_aberrations(Path("a.star"), optics.assign(rlnBeamTiltX=[0.0, 0.5]), table)
    np.testing.assert_array_equal(found.tilt, [[0, 0], [0.5, 0], [0.5, 0]])
    np.testing.assert_array_equal(found.magnification, np.tile(np.eye(2), (3, 1, 1)))
    with pytest.raises(ConfigError, match="rlnMagMat00.* further than 0.2 from a matrix of one"):
        read_aberrations(Path("a.star"), optics.assign(rlnMagMat00=0.0), table)
    with pytest.raises(ConfigError, match="a beam tilt of -300 is too large: rlnBeamTiltX, rlnBeamTiltY are mrad"):
        read_aberrations(Path("a.star"), optics.assign(rlnBeamTiltY=[0.0, -300.0]), table)
    with pytest.warns(FileWarning, match="a beam tilt of -40 mrad is more than .* µrad, divide them by 1,000"):
        read_aberrations(Path("a.star"), optics.assign(rlnBeamTiltY=[0.0, -40.0]), table)
