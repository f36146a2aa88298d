"""The sampling compensation factor has its known values for even views, side views and top views."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from equipose.core import view_sampling
from equipose.core.point_groups import ALONE, group
from equipose.core.rotations import random_rotations
from equipose.core.view_sampling import compensation_factor


def looking_along(views: np.ndarray) -> np.ndarray:
    """Poses (n, 3, 3) with these viewing directions (n, 3)."""
    tilt, rot = np.arccos(views[:, 2]), np.arctan2(views[:, 1], views[:, 0])
    return Rotation.from_euler("ZYZ", np.stack([rot, tilt, 0 * rot], 1)).inv().as_matrix()


def test_even_views_have_one():
    assert compensation_factor(random_rotations(4000, np.random.default_rng(0)), ALONE) > 0.98


def test_views_from_all_sides_of_an_axis_have_eight_over_pi_squared():
    around = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    side = looking_along(np.stack([np.cos(around), np.sin(around), 0 * around], 1))
    assert compensation_factor(side, ALONE) == pytest.approx(8 / np.pi**2, abs=0.01)


def test_views_along_one_direction_sample_little_and_symmetry_helps():
    top = looking_along(np.array([[0.6, 0.0, 0.8]]) + 0.02 * np.random.default_rng(0).normal(size=(500, 3)))
    alone, mates = compensation_factor(top, ALONE), compensation_factor(top, group("O"))
    assert alone < 0.02 and mates > 3 * alone


def test_planes_are_counted_alike_in_parts_of_any_size(monkeypatch: pytest.MonkeyPatch):
    some = random_rotations(60, np.random.default_rng(0))
    whole = compensation_factor(some, group("C3"))
    monkeypatch.setattr(view_sampling, "VIEWS", 7)
    assert compensation_factor(some, group("C3")) == whole
    mates = np.concatenate([some @ mate for mate in group("C3")])
    assert compensation_factor(mates, ALONE) == pytest.approx(whole)
