"""cryosparc-tools 5.0.3 reads our poses.cs, and we what it writes. `make test-interop` installs it in .venv-interop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from equipose.errors import ConfigError
from equipose.io.cryosparc import read_cryosparc, read_records, write_cryosparc

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_cryosparc import BLOB, CTF, PLACE, cs

PYTHON = Path(os.environ.get("CRYOSPARC_PYTHON", Path(__file__).parents[2] / ".venv-interop/bin/python"))
ABSENT = not PYTHON.exists() or subprocess.run([PYTHON, "-c", "import cryosparc"], capture_output=True).returncode

pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"{PYTHON} has no cryosparc-tools: make test-interop")


def python(code: str, folder: Path) -> str:
    code = f"from cryosparc.dataset import Dataset; import json; {code}"
    done = subprocess.run([PYTHON, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_poses_are_read_with_all_other_fields(tmp_path: Path) -> None:
    records = read_records(cs(tmp_path / "a.cs", BLOB | CTF | PLACE))
    rotations, shifts = Rotation.random(6, np.random.default_rng(0)).as_matrix(), np.full((6, 2), [2.5, -5.0])
    write_cryosparc(tmp_path / "poses.cs", records, np.arange(6), rotations, shifts, np.array([1, 2] * 3))
    read = "d = Dataset.load('poses.cs'); print(json.dumps({f: d[f].tolist() for f in d.fields()}, default=str))"
    read = json.loads(python(read, tmp_path))
    assert read["uid"] == list(range(7, 13)) and read["blob/path"] == [">J1/stack.mrc"] * 6
    assert read["alignments3D/split"] == [0, 1] * 3 and read["alignments3D/shift"] == [[-1.0, 2.0]] * 6
    vectors = Rotation.from_rotvec(read["alignments3D/pose"]).as_matrix()
    np.testing.assert_allclose(vectors, rotations.transpose(0, 2, 1), atol=1e-6)


def test_what_it_writes_is_read_and_its_compressed_files_are_not(tmp_path: Path) -> None:
    ours = read_cryosparc(cs(tmp_path / "a.cs", BLOB | CTF | PLACE))
    python("d = Dataset.load('a.cs'); d.save('b.cs'); d.save('c.cs', format=2)", tmp_path)
    assert read_cryosparc(tmp_path / "b.cs").equals(ours)
    with pytest.raises(ConfigError, match="compressed"):
        read_cryosparc(tmp_path / "c.cs")
    python("Dataset.load('c.cs').save('plain.cs', format=1)", tmp_path)  # as the message says
    assert read_cryosparc(tmp_path / "plain.cs").equals(ours)
