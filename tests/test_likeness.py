"""Two maps of one molecule are alike in whatever frames and hands they lie, and those of two molecules are not."""

import functools

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_symmetry_axes import BOX, blobs

from equipose.core.likeness import fit, laid, likeness
from equipose.poses.search import spread_rotations

ROTATIONS = functools.cache(lambda: spread_rotations(4000, torch.Generator().manual_seed(0), torch.eye(3)[None]))


def noise(seed: int) -> torch.Tensor:
    return 0.02 * torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_maps_of_one_molecule_are_alike_in_any_frame_and_hand(symmetry):
    turn = Rotation.random(random_state=2).as_matrix()
    one = blobs(symmetry, np.eye(3), np.zeros(3)) + noise(0)
    other = blobs(symmetry, turn, np.array([0.6, -0.4, 0.2])) + noise(1)
    assert likeness(one, other, 9.0, ROTATIONS()) > 0.85
    mirrored = other.flip(0).roll(1, 0)
    assert likeness(one, mirrored, 9.0, ROTATIONS()) > 0.85


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_second_map_is_laid_on_the_first(mirrored):
    turn, centre = Rotation.random(random_state=2).as_matrix(), np.array([0.6, -0.4, 0.2])
    one, other = blobs("C1", np.eye(3), np.zeros(3)), blobs("C1", turn, centre)
    if mirrored:  # z becomes -z
        other = other.flip(0).roll(1, 0)
    found = fit(one, other, 9.0, ROTATIONS())
    assert float(torch.corrcoef(torch.stack([one.flatten(), laid(other, found).flatten()]))[0, 1]) > 0.97
    point = np.array([3.0, -1.0, 2.0])
    there = (turn @ point + centre) * [1, 1, -1 if mirrored else 1]
    np.testing.assert_allclose(found.in_second(point), there, atol=0.2)


def test_maps_of_two_molecules_are_not_alike():
    one, other = blobs("C1", np.eye(3), np.zeros(3)), blobs("D2", np.eye(3), np.zeros(3))
    assert likeness(one + noise(0), other + noise(1), 9.0, ROTATIONS()) < 0.6
    assert likeness(noise(0), noise(1), 9.0, ROTATIONS()) < 0.5


def test_two_blobs_are_not_alike_though_they_correlate_in_any_frame():
    axis = np.arange(BOX) - BOX // 2
    squares = np.add.outer(np.add.outer(axis**2, axis**2), axis**2)
    blob = torch.from_numpy(30 * np.exp(-squares / (2 * 1.2**2))).float()
    assert likeness(blob + noise(0), blob + noise(1), 9.0, ROTATIONS()) < 0.5
