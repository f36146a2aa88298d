"""Images of something else than the molecule have a low probability, and images of the molecule a high one."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_symmetry_axes import BOX, blobs

from equipose.core.ctf import ctf
from equipose.core.fourier import from_half_disc, half_disc, shift_phase, to_half_disc
from equipose.core.fourier_grid import from_real_map, grid_frequencies, grid_slices, real_map
from equipose.core.rotations import random_rotations
from equipose.core.symmetry_axes import centre_of
from equipose.io.particles import Particles
from equipose.reconstruction import junk
from equipose.reconstruction.halves import Half

GOOD, NOISE, ICE = 240, 60, 60
VOXEL = 6.0
CENTRE = np.array([1.0, -0.5, 0.5])


@pytest.fixture(scope="module")
def molecule() -> torch.Tensor:
    return blobs("C1", np.eye(3), CENTRE)


def images_at(volume: torch.Tensor, rotations: np.ndarray, shifts: np.ndarray, parameters: np.ndarray) -> torch.Tensor:
    """Images (n, L, L) of a map, without noise; shifts in Å."""
    disc = half_disc(BOX)
    turned, moved = torch.from_numpy(rotations).float(), torch.from_numpy(shifts / VOXEL).float()
    transfer = ctf(torch.from_numpy(parameters), disc.k, BOX * VOXEL)
    slices = grid_slices(from_real_map(volume, BOX // 2), BOX // 2, turned, disc)
    return from_half_disc(transfer * shift_phase(moved, disc) * slices, disc)


@pytest.fixture(scope="module")
def half(molecule: torch.Tensor) -> Half:
    """Images at SNR 1 of the molecule, of noise, and of a strong blob of ice."""
    rng, count = np.random.default_rng(0), GOOD + NOISE + ICE
    parameters = np.tile(np.array([0, 0, 0, 300, 2.7, 0.1, 0], np.float32), (count, 1))
    parameters[:, :2] = rng.uniform(8_000, 30_000, (count, 1))
    rotations, shifts = random_rotations(count, rng), rng.normal(0, 6, (count, 2))
    images = images_at(molecule, rotations, shifts, parameters)
    axis = torch.arange(BOX) - BOX // 2
    ice = torch.exp(-(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) / (2 * 4.0**2))
    images[GOOD : GOOD + NOISE] = 0
    images[GOOD + NOISE :] = 3 * images_at(ice, *(each[-ICE:] for each in (rotations, shifts, parameters)))
    noise = images[:GOOD].std()
    images = images + noise * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    particles = Particles(images.numpy(), parameters, VOXEL, None, None, pd.DataFrame(), pd.DataFrame())
    return Half(particles, rotations, shifts, "C1")


def scored(half: Half, molecule: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """Scores with the molecule and, at the same poses, with the decoy, whose outline is the molecule's."""
    monkeypatch.setattr(junk, "seen_by", lambda run, own: molecule)
    monkeypatch.setattr(junk, "posed_against", lambda run, some, decoy: some)
    both = [half, half], [Path("1"), Path("2")], [molecule.numpy()] * 2
    found, by_chance = junk.detail_scores(*both, np.ones([BOX] * 3, np.float32), 12)
    np.testing.assert_array_equal(found[0], found[1])
    return found[0], by_chance


def test_images_of_the_molecule_score_one_whatever_their_defocus_and_others_far_less(half, molecule, monkeypatch):
    scores, by_chance = scored(half, molecule, monkeypatch)
    good, others = scores[:GOOD], scores[GOOD:]
    assert np.median(good) == pytest.approx(1, abs=0.03) and np.quantile(good, 0.05) > 0.75
    assert abs(np.corrcoef(good, half.particles.ctf[:GOOD, 0])[0, 1]) < 0.2
    assert others.max() < 0.7 and len(by_chance) == 2 * junk.SAMPLE
    probable = junk.fit_mixture(scores, by_chance).probabilities(scores) >= junk.PROBABLE
    assert probable[:GOOD].mean() > 0.98 and probable[GOOD:].mean() < 0.02
    clean = junk.fit_mixture(good, by_chance).probabilities(good)
    assert (clean >= junk.PROBABLE).mean() > 0.98, "where all images show the molecule, none is called junk"


def test_scores_hang_neither_on_the_scale_of_images_nor_on_the_colour_of_their_noise(half, molecule, monkeypatch):
    scores, _ = scored(half, molecule, monkeypatch)
    disc = half_disc(BOX)
    dimmed = to_half_disc(torch.from_numpy(half.particles.images), disc) * 7 / (1 + disc.shells)
    particles = dataclasses.replace(half.particles, images=from_half_disc(dimmed, disc).numpy())
    coloured = dataclasses.replace(half, particles=particles)
    shell = grid_frequencies(BOX // 2, torch.device("cpu")).norm(dim=-1, keepdim=True).round()
    filtered = real_map(from_real_map(molecule, BOX // 2) * 7 / (1 + shell), BOX // 2)  # the map of such images
    again, _ = scored(coloured, filtered, monkeypatch)
    assert np.quantile(np.abs(again - scores), 0.9) < 0.1


def test_a_featureless_map_is_the_same_from_all_sides(molecule):
    blank = real_map(junk.featureless(molecule, centre_of(molecule)), BOX // 2)
    assert torch.allclose(blank[1:, 1:, 1:], blank.permute(1, 2, 0)[1:, 1:, 1:], atol=0.02 * float(blank.max()))
    assert torch.allclose(blank[1:, 1:, 1:], blank.flip(0, 1, 2)[:-1, :-1, :-1], atol=0.02 * float(blank.max()))
    assert float(blank.sum()) == pytest.approx(float(molecule.sum()), rel=0.03)


def test_a_mixture_finds_both_parts_and_a_tail_is_no_junk():
    rng = np.random.default_rng(1)
    good, by_chance = rng.normal(1, 0.1, 2000), rng.normal(0.5, 0.1, 400)
    others = np.concatenate([rng.normal(0.2, 0.06, 400), rng.normal(0.4, 0.15, 400)])
    found = junk.fit_mixture(np.concatenate([good, others]), by_chance)
    assert found.share == pytest.approx(800 / 2800, abs=0.03) and found.mean == pytest.approx(1, abs=0.02)
    assert (found.probabilities(good) < 0.5).mean() < 0.02 and (found.probabilities(others) < 0.5).mean() > 0.95
    assert (np.diff(found.probabilities(np.linspace(-1, 2, 300))) >= 0).all()
    below = found.probabilities(np.array([found.threshold() - 0.01, found.threshold() + 0.01]))
    assert below[0] < junk.PROBABLE < below[1]
    tailed = np.concatenate([good, rng.normal(0.85, 0.12, 300)])
    alone = junk.fit_mixture(tailed, by_chance)
    assert alone.share < 0.02 and (alone.probabilities(tailed) < 0.5).mean() < 0.02


def test_no_threshold_is_proposed_where_noise_hides_the_difference_and_what_is_said_agrees_with_the_numbers():
    rng = np.random.default_rng(2)
    scores, apart = rng.normal(1, 0.35, 1000), [np.zeros(500), np.full(500, 90.0)]
    scores[:400] -= 0.4
    hidden = junk.fit_mixture(scores, rng.normal(0.7, 0.35, 300))
    halves = [hidden.probabilities(part) for part in np.split(scores, 2)]
    summary = junk.summary_of(hidden, halves, apart, 15.0)
    assert summary["threshold"] is None and "no threshold is proposed" in junk.in_words(summary)
    clear = junk.Mixture(0.3, 1.0, 0.1, 0.2, 0.1)
    scores[:400], scores[400:] = 0.2, 1.0
    summary = junk.summary_of(clear, [clear.probabilities(part) for part in np.split(scores, 2)], apart, 15.0)
    assert summary["below"] == 400 and summary["of"] == 1000 and summary["molecule_lost"] < 0.01
    assert summary["halves_agree_on_the_others"] == [1.0, 0.0]
    assert junk.in_words(summary).startswith("400 of 1000 images (40.0%) more likely show something else")
