"""The contrast of each image, from its coefficients and those that a map predicts."""

import numpy as np
import pytest
import torch

from equipose.core.ctf import ctf
from equipose.core.rotations import random_rotations
from equipose.poses import contrast


def images(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, 300, dtype=torch.complex64, generator=generator)


def same(count: int) -> torch.Tensor:
    """Rotations (count, 3, 3) of one viewing direction."""
    return torch.eye(3).expand(count, 3, 3)


def test_contrasts_of_clean_images_are_found_whatever_was_taken_for_them_before() -> None:
    true, before = torch.tensor([0.5, 1.0, 1.5]), torch.tensor([2.0, 1.0, 0.5])
    molecule = images(3, torch.Generator().manual_seed(0))
    told = contrast.evidence(true[:, None] * molecule, before[:, None] * molecule, torch.full((300,), 1e4))
    torch.testing.assert_close(contrast.likeliest(before, *told, same(3)), true, rtol=1e-4, atol=0)


def test_contrasts_of_images_that_tell_nothing_are_1_and_none_is_below_0() -> None:
    molecule, weights = images(2, torch.Generator().manual_seed(0)), torch.ones(300)
    told = contrast.evidence(torch.tensor([[3.0], [0.1]]) * molecule, molecule, 1e-6 * weights)
    torch.testing.assert_close(contrast.likeliest(torch.ones(2), *told, same(2)), torch.ones(2), rtol=1e-3, atol=0)
    turned_over = contrast.evidence(torch.tensor([[-1.0], [1.0]]) * molecule, molecule, weights)
    assert contrast.likeliest(torch.ones(2), *turned_over, same(2)).min() > 0


def test_noise_leaves_the_contrasts_of_strong_images_and_draws_those_of_weak_ones_to_1() -> None:
    generator = torch.Generator().manual_seed(0)
    for signal, slope in ((1.0, 1.0), (0.1, 3 / 7)):  # power 300 and 3, beside the prior's 4
        molecule, true = signal * images(4000, generator), 1 + 0.2 * torch.randn(4000, generator=generator)
        target = true[:, None] * molecule + images(4000, generator)
        told = contrast.evidence(target, molecule, torch.ones(300))
        found = contrast.likeliest(torch.ones(4000), *told, same(4000))
        assert float(torch.cov(torch.stack([found, true]))[0, 1]) / 0.04 == pytest.approx(slope, rel=0.1)


def test_images_of_rare_views_are_not_taken_for_strong_ones_where_the_map_is_damped_there() -> None:
    """Nine of ten images see the map from near one direction; along others it has 0.7 of its strength."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    rotations = torch.from_numpy(random_rotations(4000, rng)).float()
    polar = rotations[:, 2, 2].abs()
    chosen = torch.cat([torch.nonzero(polar > 0.9)[:360, 0], torch.nonzero(polar < 0.6)[:40, 0]])
    rotations, rare = rotations[chosen], torch.arange(400) >= 360
    true = torch.exp(0.15 * torch.randn(400, generator=generator))
    molecule = images(400, generator)
    seen = torch.where(rare, 0.7, 1.0)[:, None] * molecule
    told = contrast.evidence(true[:, None] * molecule, seen, torch.full((300,), 1.0))
    found = contrast.likeliest(torch.ones(400), *told, rotations)
    assert float(found[rare].mean() / found[~rare].mean()) == pytest.approx(1, abs=0.08)
    assert float(torch.corrcoef(torch.stack([found, true]))[0, 1]) > 0.9


def test_a_scaled_ctf_is_the_ctf_times_the_contrast() -> None:
    plain = torch.tensor([[2e4, 1.9e4, 30.0, 300.0, 2.7, 0.1, 0.0], [1e4, 1e4, 0.0, 200.0, 2.0, 0.07, 90.0]])
    enveloped = torch.cat([plain, torch.tensor([[50.0, 0.9], [80.0, 1.1]])], 1)
    k, factor = torch.tensor([[1.0, 2.0], [0.0, 5.0], [7.0, 3.0]]), torch.tensor([0.5, 2.0])
    for parameters in (plain, enveloped):
        expected = factor[:, None] * ctf(parameters, k, 400.0)
        torch.testing.assert_close(ctf(contrast.scaled(parameters, factor), k, 400.0), expected)
