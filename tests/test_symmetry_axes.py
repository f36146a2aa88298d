"""A point group's axes are found in a map of any orientation. A map without the group has a low correlation."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from equipose.core.fourier_grid import real_map
from equipose.core.point_groups import group
from equipose.core.symmetry_axes import SYMMETRIC, centre_of, detect, detected, find_axes, symmetrised

BOX = 32


def blobs(symmetry: str, turn: np.ndarray, centre: np.ndarray) -> torch.Tensor:
    """A map (L, L, L) of Gaussians with a point group, turned, and moved by `centre` (x, y, z) voxels."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(0, 3.5, (9, 3)) + [0, 0, 1]
    every = np.concatenate([atoms @ rotation.T for rotation in group(symmetry)]) @ turn.T + centre
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    density = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * 1.3**2)) for a, b, c in every)
    return torch.from_numpy(density.astype(np.float32))


@pytest.mark.parametrize("symmetry", ["C3", "D2", "T"])
def test_a_group_s_axes_are_found_wherever_they_lie(symmetry):
    turn, centre = Rotation.random(random_state=3).as_matrix(), np.array([0.7, -0.4, 0.3])
    frame = find_axes(blobs(symmetry, turn, centre), symmetry, 10)
    assert frame.correlation > 0.95
    wanted = turn @ group(symmetry) @ turn.T  # the group's rotations in the map's frame
    found = frame.rotation @ group(symmetry) @ frame.rotation.T
    assert np.einsum("aij,bij->ab", found, wanted).max(1).min() > 1 + 2 * np.cos(np.radians(2))


def test_a_group_that_a_map_does_not_have_correlates_little():
    volume = blobs("C3", np.eye(3), np.zeros(3))
    assert find_axes(volume, "C4", 10).correlation < 0.5
    assert find_axes(volume, "D3", 10).correlation < 0.7


def test_noise_does_not_hide_a_group_from_two_half_maps_and_a_part_off_still_breaks_it():
    """Alone, a noisy map correlates too little with its mates, and no more than one with a ninth of a third missing."""
    whole, part = blobs("C3", np.eye(3), np.zeros(3)), blobs("C1", np.eye(3), np.zeros(3))
    noise = [0.06 * torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    first, second = whole + noise[0], whole + noise[1]
    alone, together = find_axes(first, "C3", 10), find_axes(first, "C3", 10, second)
    assert alone.correlation < 0.9 and not alone.found
    assert together.correlation > SYMMETRIC and together.found
    assert not find_axes(noise[0], "C3", 10, noise[1]).nearly, "of maps that share nothing"
    broken = find_axes(first - 0.4 * part, "C3", 10, second - 0.4 * part)
    assert not broken.found and broken.nearly


def test_a_centre_that_is_off_is_found():
    """The centre of mass is, where a map has a spot that its mates lack."""
    volume = blobs("C3", np.eye(3), np.array([0.4, -0.3, 0.0]))
    lopsided = volume.clone()
    lopsided[BOX // 2 + 4, BOX // 2, BOX // 2 + 5] += 0.03 * float(volume.sum())
    frame = find_axes(lopsided, "C3", 8)
    assert np.linalg.norm(centre_of(lopsided)[:2] - [0.4, -0.3]) > 0.12, "or nothing is tested"
    assert np.linalg.norm(frame.centre[:2] - [0.4, -0.3]) < 0.08


def test_a_blob_that_looks_alike_from_all_sides_has_no_group(monkeypatch):
    """White noise leaves such a map: a search moves the brightest spot of every image to the centre."""
    monkeypatch.setattr("equipose.core.symmetry_axes.CYCLIC", [2])
    axis = np.arange(BOX) - BOX // 2
    squares = np.add.outer(np.add.outer(axis**2, axis**2), axis**2)
    blob = 10 * np.exp(-squares / (2 * 1.2**2)) + 0.005 * np.random.default_rng(0).normal(size=[BOX] * 3)
    frames = detect(torch.from_numpy(blob.astype(np.float32)), 10)
    assert frames["C2"].correlation > SYMMETRIC, "or this blob tests nothing"
    assert detected(frames) == "C1"
    assert detected(detect(blobs("C2", np.eye(3), np.zeros(3)), 10)) == "C2"


@pytest.mark.parametrize(("symmetry", "tried"), [("C12", [3]), ("C9", [3]), ("C11", [5, 11])])
def test_axes_of_high_orders_are_found_from_those_that_divide_them(monkeypatch, symmetry, tried):
    monkeypatch.setattr("equipose.core.symmetry_axes.CYCLIC", tried)
    rng, axis = np.random.default_rng(0), np.arange(BOX) - BOX // 2
    atoms = rng.normal(0, 0.7, (3, 3)) + [[9, 0, -3], [7, 1, 2], [10, 1, 1]]
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    every = np.concatenate([atoms @ rotation.T for rotation in group(symmetry)])
    density = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * 1.2**2)) for a, b, c in every)
    assert detected(detect(torch.from_numpy(density.astype(np.float32)), 14)) == symmetry


def test_a_symmetrised_map_lies_on_relion_s_axes_and_is_the_molecule():
    turn = Rotation.random(random_state=5).as_matrix()
    frame = find_axes(blobs("C3", turn, np.array([0.5, 0, -0.5])), "C3", 10)
    made = real_map(symmetrised(blobs("C3", turn, np.array([0.5, 0, -0.5])), "C3", frame), BOX // 2)
    again = find_axes(made, "C3", 10)
    assert again.correlation > 0.99
    assert np.allclose(np.abs(again.rotation[:, 2]), [0, 0, 1], atol=0.02)
