"""Point groups: closed, of the right order, on RELION's axes; poses that differ by a mate count as the same."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from equipose.core.point_groups import check_symmetry, group, mates, nearest_mates
from equipose.core.pose_metrics import align, exact_scores, hand_shares, paper_scores, squared_distances
from equipose.core.rotations import other_hand, random_rotations
from equipose.errors import ConfigError

ORDERS = {"C1": 1, "C2": 2, "C7": 7, "D2": 4, "D7": 14, "T": 12, "O": 24, "I": 60}


def same_sets(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two lists of rotations hold the same ones, to the digits that RELION prints."""
    return len(a) == len(b) and np.einsum("aij,bij->ab", a, b).max(1).min() > 3 - 1e-4


@pytest.mark.parametrize("name", ORDERS)
def test_a_group_has_its_order_and_holds_every_product(name):
    found = group(name)
    assert len(found) == ORDERS[name]
    assert np.allclose(found[0], np.eye(3))
    assert same_sets(found, found[-1] @ found)
    assert np.allclose(np.linalg.det(found), 1)


@pytest.mark.parametrize("name", ["C7", "D7", "T", "O", "I"])
def test_a_group_is_scipy_s_in_another_frame(name):
    """The angles of all its rotations are the same."""
    theirs = Rotation.create_group(name)
    assert np.allclose(np.sort(Rotation.from_matrix(group(name)).magnitude()), np.sort(theirs.magnitude()), atol=1e-6)


def test_axes_lie_where_relion_has_them():
    half_turns = {"D7": [1, 0, 0], "O": [1, 0, 0], "I": [0, 0, 1], "T": [0, 2**0.5, 1]}
    for name, axis in half_turns.items():
        turn = Rotation.from_rotvec(np.pi * np.array(axis) / np.linalg.norm(axis)).as_matrix()
        assert np.einsum("gij,ij->g", group(name), turn).max() > 3 - 1e-6, name
    for name, order in {"C4": 4, "D7": 7, "T": 3, "O": 4}.items():
        turn = Rotation.from_rotvec([0, 0, 2 * np.pi / order]).as_matrix()
        assert np.einsum("gij,ij->g", group(name), turn).max() > 3 - 1e-6, name


@pytest.mark.skipif(not shutil.which("relion_refine"), reason="RELION is not installed")
@pytest.mark.parametrize("name", ORDERS)
def test_a_group_is_the_one_that_relion_prints(name):
    command = ["relion_refine", "--sym", name, "--print_symmetry_ops"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    theirs = [list(map(float, found.split()[:9])) for found in re.findall(r"R\(\d+\)=\s*([-\d.e\s]+)", shown)]
    assert same_sets(np.reshape(theirs, (-1, 3, 3)), group(name))


@pytest.mark.parametrize("name", ["", "C0", "D", "C4x", "X2", "C61", "I3", "T2"])
def test_what_is_no_point_group_is_refused(name):
    with pytest.raises(ConfigError, match="is not known: it is C1, Cn or Dn"):
        check_symmetry(name)


def test_the_nearest_mate_is_a_mate_and_the_nearest():
    rng, same = np.random.default_rng(0), group("D3")
    rotations, to = random_rotations(50, rng), random_rotations(50, rng)
    chosen, every = nearest_mates(rotations, to, same), mates(rotations, same)
    assert np.allclose(np.abs(every - chosen[:, None]).max((2, 3)).min(1), 0)
    assert np.allclose(squared_distances(chosen, to), ((every - to[:, None]) ** 2).sum((2, 3)).min(1))


@pytest.mark.parametrize(("name", "hand"), [("C2", "same"), ("C3", "mirror"), ("D7", "same"), ("T", "mirror")])
def test_perfect_poses_moved_to_random_mates_score_as_perfect(name, hand):
    rng, same = np.random.default_rng(1), group(name)
    true = random_rotations(100, rng)
    gauge, chosen = random_rotations(1, rng)[0], same[rng.integers(len(same), size=100)]
    predicted = true @ chosen @ gauge if hand == "same" else other_hand(true @ chosen @ gauge)
    scores, alignment = exact_scores(predicted, true, group=same)
    assert alignment.hand == hand
    assert scores.mse == pytest.approx(0, abs=1e-9) and scores.medse == pytest.approx(0, abs=1e-9)
    assert paper_scores(predicted, true, same).mse == pytest.approx(0, abs=1e-9)
    assert hand_shares(predicted, true, same)[hand] == 1
    assert exact_scores(predicted, true)[0].mse > 1, "as C1, most of them are wrong"


def test_poses_of_which_some_are_wrong_are_not_made_right_by_a_group():
    rng, same = np.random.default_rng(2), group("D2")
    true = random_rotations(400, rng)
    predicted = true @ same[rng.integers(4, size=400)]
    predicted[:100] = random_rotations(100, rng)
    apart = squared_distances(align(predicted, true, group=same).rotations(predicted), true, same)
    assert np.mean(apart < 0.1) == pytest.approx(0.75, abs=0.02)
