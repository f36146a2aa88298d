"""cryoDRGN parses our star file and back-projects our map. `make test-interop` installs it beside, in .venv-interop."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from equipose import fsc
from equipose.structures import read_map

CRYODRGN = Path(os.environ.get("CRYODRGN", Path(__file__).parents[2] / ".venv-interop/bin/cryodrgn"))

pytestmark = pytest.mark.skipif(not CRYODRGN.exists(), reason=f"{CRYODRGN} does not exist: make test-interop")


def test_cryodrgn_backprojects_our_map_from_our_poses(halves: Path, joined: Path) -> None:
    """Its CTF is negative where ours is positive, and it inverts images unless told not to: the two cancel."""
    shutil.copy2(joined / "poses.star", halves / "ours.star")
    for command in (
        "parse_pose_star ours.star -o poses.pkl -D 32 --Apix 17",
        "parse_ctf_star ours.star -o ctf.pkl -D 32 --Apix 17",
        "backproject_voxel ours.star --datadir . --poses poses.pkl --ctf ctf.pkl -o cryodrgn",
    ):
        done = subprocess.run([CRYODRGN, *command.split()], cwd=halves, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    (theirs,) = [path for path in (halves / "cryodrgn").glob("*.mrc") if "half" not in path.name]
    curve = fsc.fourier_shell_correlation(read_map(joined / "volume.mrc")[0], read_map(theirs)[0])
    assert (curve[1:14] > 0.9).all(), curve
