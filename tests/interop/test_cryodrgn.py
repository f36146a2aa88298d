"""cryoDRGN parses our star file and back-projects our map. `make test-interop` installs it beside, in .venv-interop."""

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from equipose.core import fsc
from equipose.io.maps import read_map
from equipose.io.particle_tables import read_tables, write_star

CRYODRGN = Path(os.environ.get("CRYODRGN", Path(__file__).parents[2] / ".venv-interop/bin/cryodrgn"))

pytestmark = pytest.mark.skipif(not CRYODRGN.exists(), reason=f"{CRYODRGN} does not exist: make test-interop")


def test_poses_of_a_cryosparc_file_are_to_cryodrgn_what_they_are_to_us(tmp_path: Path) -> None:
    """It reads the .cs file, and the star file that we make of it, as the same poses."""
    rng, kinds = np.random.default_rng(0), [("blob/path", "S16"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,))]
    numbers = ["df1_A", "df2_A", "df_angle_rad", "accel_kv", "cs_mm", "amp_contrast"]
    kinds += [("blob/psize_A", "<f4"), *((f"ctf/{name}", "<f4") for name in numbers)]
    records = np.zeros(20, [*kinds, ("alignments3D/pose", "<f4", (3,)), ("alignments3D/shift", "<f4", (2,))])
    records["blob/path"], records["blob/shape"], records["blob/psize_A"] = b">stack.mrcs", 64, 2.5
    for name, value in zip(numbers, (2e4, 1.9e4, 0.3, 300, 2.7, 0.1), strict=True):
        records[f"ctf/{name}"] = value
    records["alignments3D/pose"] = rng.normal(size=(20, 3))
    records["alignments3D/shift"] = rng.normal(size=(20, 2))
    with open(tmp_path / "theirs.cs", "wb") as file:
        np.save(file, records)
    write_star(tmp_path / "ours.star", *read_tables(tmp_path / "theirs.cs"))
    cryodrgn("parse_pose_csparc theirs.cs -o theirs.pkl", tmp_path)
    cryodrgn("parse_pose_star ours.star -o ours.pkl -D 64 --Apix 2.5", tmp_path)
    (rotations, shifts), (our_rotations, our_shifts) = (
        pickle.loads((tmp_path / f"{name}.pkl").read_bytes()) for name in ("theirs", "ours")
    )
    np.testing.assert_allclose(our_rotations, rotations, atol=1e-5)
    np.testing.assert_allclose(our_shifts, shifts, atol=1e-6)


def cryodrgn(command: str, folder: Path) -> None:
    done = subprocess.run([CRYODRGN, *command.split()], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cryodrgn_backprojects_our_map_from_our_poses(halves: Path, joined: Path) -> None:
    """Its CTF is negative where ours is positive, and it inverts images unless told not to: the two cancel."""
    shutil.copy2(joined / "poses.star", halves / "ours.star")
    for command in (
        "parse_pose_star ours.star -o poses.pkl -D 32 --Apix 17",
        "parse_ctf_star ours.star -o ctf.pkl -D 32 --Apix 17",
        "backproject_voxel ours.star --datadir . --poses poses.pkl --ctf ctf.pkl -o cryodrgn",
    ):
        cryodrgn(command, halves)
    (theirs,) = [path for path in (halves / "cryodrgn").glob("*.mrc") if "half" not in path.name]
    curve = fsc.fourier_shell_correlation(read_map(joined / "volume.mrc")[0], read_map(theirs)[0])
    assert (curve[1:14] > 0.9).all(), curve
