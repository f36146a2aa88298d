"""RELION finds a point group where `symmetrise` puts its axes, and its own search for axes does no better."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_relion import relion
from test_symmetry_axes import BOX, blobs

from equipose.core.fourier_grid import real_map
from equipose.core.symmetry_axes import find_axes, symmetrised
from equipose.io.maps import read_map, write_map

pytestmark = pytest.mark.skipif(shutil.which("relion_image_handler") is None, reason="relion is not installed")

VOXEL = 5.0
IN_RELION = {"C4": "C4", "D2": "D2", "D7": "D7", "T": "T", "O": "O", "I": "I2"}


def kept_by_relion(path: Path, symmetry: str) -> float:
    """The correlation of a map with what RELION makes of it by the rotations of a group, within a ball."""
    relion("image_handler", "--i", path.name, "--o", "mates.mrc", "--sym", symmetry, cwd=path.parent)
    ours, theirs = read_map(path)[0], read_map(path.parent / "mates.mrc")[0]
    axis = np.arange(len(ours)) - len(ours) // 2
    ball = np.add.outer(np.add.outer(axis**2, axis**2), axis**2) < 13**2
    return float(np.corrcoef(ours[ball], theirs[ball])[0, 1])


@pytest.mark.parametrize("symmetry", IN_RELION)
def test_relion_s_rotations_leave_a_symmetrised_map_as_it_is(symmetry: str, tmp_path: Path) -> None:
    turned = blobs(symmetry, Rotation.random(random_state=1).as_matrix(), np.array([0.6, -0.5, 0.4]))
    write_map(tmp_path / "turned.mrc", turned.numpy(), VOXEL)
    made = real_map(symmetrised(turned, symmetry, find_axes(turned, symmetry, 12)), BOX // 2)
    write_map(tmp_path / "ours.mrc", made.numpy(), VOXEL)
    kept = [kept_by_relion(tmp_path / name, IN_RELION[symmetry]) for name in ("turned.mrc", "ours.mrc")]
    assert kept[1] > 0.99 and 1 - kept[1] < 0.2 * (1 - kept[0]), "RELION's rotations are those of our axes"


@pytest.mark.parametrize("symmetry", ["C4", "D2", "O"])
def test_relion_s_own_search_for_axes_leaves_no_more_symmetry(symmetry: str, tmp_path: Path) -> None:
    turned = blobs(symmetry, Rotation.random(random_state=2).as_matrix(), np.array([0.6, -0.5, 0.4]))
    write_map(tmp_path / "turned.mrc", turned.numpy(), VOXEL)
    asked = ("--i", "turned.mrc", "--o", "aligned.mrc", "--sym", IN_RELION[symmetry], "--box_size", 32)
    relion("align_symmetry", *asked, cwd=tmp_path)
    made = real_map(symmetrised(turned, symmetry, find_axes(turned, symmetry, 12)), BOX // 2)
    write_map(tmp_path / "ours.mrc", made.numpy(), VOXEL)
    theirs, ours = (kept_by_relion(tmp_path / name, IN_RELION[symmetry]) for name in ("aligned.mrc", "ours.mrc"))
    assert ours >= theirs > 0.9
