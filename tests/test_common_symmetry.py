"""Which group two half-sets are compared modulo: half-maps name the candidates, and images choose among them."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import VOXEL, in_other_frame
from scipy.spatial.transform import Rotation
from test_symmetry_axes import BOX, blobs

from equipose.core.fourier import from_half_disc, half_disc, shift_phase
from equipose.core.fourier_grid import from_real_map, grid_map, grid_slices
from equipose.core.point_groups import ALONE, group
from equipose.core.pose_metrics import squared_distances
from equipose.core.rotations import degrees_from_squared_frobenius, random_rotations
from equipose.io.particles import Particles
from equipose.reconstruction.common_symmetry import Together, agree_within, compare
from equipose.reconstruction.halves import Half, back_project
from equipose.training.evaluate import RelionPoses

IMAGES = 300

C3 = group("C3")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """C4 to C8 are not tried, and directions and rotations lie further apart."""
    monkeypatch.setattr("equipose.core.symmetry_axes.CYCLIC", [2, 3])
    monkeypatch.setattr("equipose.core.symmetry_axes.DIRECTIONS", 1000)
    monkeypatch.setattr("equipose.reconstruction.common_symmetry.FITS", 3000)


def halves(volume: torch.Tensor, mates: np.ndarray) -> tuple[list[Half], list[RelionPoses]]:
    """Noisy images of a map in two halves, and what the two runs say of each other's images.

    The second run has a frame and hand of its own. Every pose is off by a degree, and of any of the mates.
    """
    rng, disc = np.random.default_rng(0), half_disc(BOX)
    own, asked = [], []
    for half in (0, 1):
        true, shifts = random_rotations(IMAGES, rng), rng.normal(0, 1, (IMAGES, 2))
        moved = shift_phase(torch.from_numpy(shifts).float(), disc)
        slices = grid_slices(from_real_map(volume, BOX // 2), BOX // 2, torch.from_numpy(true).float(), disc)
        images = from_half_disc(slices * moved, disc).numpy()
        images = images + 0.3 * images.std() * rng.normal(size=images.shape)
        ctf = np.tile(np.array([0, 0, 0, 300, 0, 0, 90], np.float32), (IMAGES, 1))  # of the phase plate alone: 1
        said = []
        for run in (0, 1):
            off = Rotation.from_rotvec(np.radians(1) * rng.normal(size=(IMAGES, 3))).as_matrix()
            poses = off @ true @ mates[rng.integers(len(mates), size=IMAGES)], VOXEL * shifts
            said.append(RelionPoses(*(in_other_frame(*poses) if run else poses)))
        particles = Particles(images.astype(np.float32), ctf, VOXEL, None, None, pd.DataFrame(), pd.DataFrame())
        own.append(Half(particles, said[half].rotations, said[half].shifts, "C1"))
        asked.append(said[1 - half])
    return own, asked


@pytest.mark.parametrize(("name", "degrees"), [("C1", 15), ("C6", 15), ("D7", 360 / 28), ("C12", 7.5), ("I", 15)])
def test_poses_modulo_a_high_order_must_be_nearer_to_agree(name: str, degrees: float) -> None:
    assert agree_within(group(name)) == pytest.approx(degrees)


def test_two_runs_that_share_nothing_but_the_axis_of_a_group_do_not_agree() -> None:
    """Two smooth rings, told to be C12: within 15° all of their poses would be the same."""
    rng = np.random.default_rng(0)
    spins = Rotation.from_rotvec(np.outer(rng.uniform(0, 2 * np.pi, 2000), [0, 0, 1])).as_matrix()
    true = random_rotations(2000, rng)
    apart = degrees_from_squared_frobenius(squared_distances(true @ spins, true, group("C12")))
    assert np.mean(apart < 15) == 1 and np.mean(apart < agree_within(group("C12"))) == pytest.approx(0.5, abs=0.03)


def in_one_frame(together: Together) -> bool:
    volumes = [grid_map(back_project(half)).flatten() for half in together.halves]
    return float(torch.corrcoef(torch.stack(volumes))[0, 1]) > 0.8


def test_poses_of_any_mates_agree_modulo_the_group_that_the_maps_share() -> None:
    found = compare(*halves(blobs("C3", np.eye(3), np.zeros(3)), C3))
    assert found.symmetry == "C3" and not found.nearly and min(found.agree) > 0.98
    assert found.correlations is not None and found.correlations["C3"] > 0.97 > 0.8 > found.correlations["C2"]
    assert found.alike is not None and found.alike > 0.75 and in_one_frame(found)


def test_where_images_tell_the_mates_apart_there_is_no_group_however_alike_the_map_looks() -> None:
    found = compare(*halves(blobs("C3", np.eye(3), np.zeros(3)), ALONE))
    assert found.correlations is not None and found.correlations["C3"] > 0.97
    assert found.symmetry == "C1" and min(found.agree) > 0.98 and in_one_frame(found)


def test_a_molecule_that_is_nearly_symmetric_is_compared_modulo_that_group_and_said_to_be_so() -> None:
    whole, part = blobs("C3", np.eye(3), np.zeros(3)), blobs("C1", np.eye(3), np.zeros(3))
    found = compare(*halves(whole - 0.8 * part, C3[[0, 0, 0, 0, 0, 0, 1, 2]]))
    assert found.symmetry == "C3" and found.nearly and min(found.agree) > 0.98
    assert in_one_frame(found), "of three ways to lay one half on the other, one is right"


def test_runs_that_found_different_maps_do_not_agree_modulo_any_group() -> None:
    one, other = (halves(blobs(name, np.eye(3), np.zeros(3)), group(name)) for name in ("C3", "C2"))
    found = compare([one[0][0], other[0][1]], [one[1][0], other[1][1]])
    assert max(found.agree) < 0.99 and found.alike is not None and found.alike < 0.7
