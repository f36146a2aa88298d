"""A cryoSPARC .cs file, as the table that RELION 3.0 would have of its particles.

It is a NumPy array of records. Nothing in it is executed, and no memory taken for records that it only claims to have.

A pose there is a rotation vector in radians, whose matrix maps image coordinates to the volume's: it is the transpose
of ours. Shifts are in pixels (of `alignments3D/psize_A`), with the sign of RELION's origins. cryoDRGN and pyem agree.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from equipose.errors import ConfigError
from equipose.rotations import to_relion_angles

STACK, INDEX, PIXEL = "blob/path", "blob/idx", "blob/psize_A"
POSE, SHIFT, POSE_PIXEL, SPLIT = (f"alignments3D/{name}" for name in ("pose", "shift", "psize_A", "split"))

COLUMNS = {
    "ctf/df1_A": ("rlnDefocusU", 1.0),
    "ctf/df2_A": ("rlnDefocusV", 1.0),
    "ctf/df_angle_rad": ("rlnDefocusAngle", 180 / np.pi),
    "ctf/phase_shift_rad": ("rlnPhaseShift", 180 / np.pi),
    "ctf/accel_kv": ("rlnVoltage", 1.0),
    "ctf/cs_mm": ("rlnSphericalAberration", 1.0),
    "ctf/amp_contrast": ("rlnAmplitudeContrast", 1.0),
    PIXEL: ("rlnPixelSize", 1.0),
}
"""Fields of a .cs file: RELION's name, and RELION's unit in theirs."""

NEEDED = {STACK, INDEX, *COLUMNS} - {"ctf/phase_shift_rad"}


def read_cryosparc(path: Path) -> pd.DataFrame:
    """Stacks, CTFs, and poses and halves where there are any. Raises ConfigError, naming the field."""
    try:
        _check_length(path)
        with np.errstate(over="ignore"):  # where the header claims more bytes than there are numbers
            records = np.load(path, mmap_mode="r", allow_pickle=False)
        names = set(records.dtype.names or ()) if records.ndim == 1 else set()
    except Exception as error:  # NumPy parses headers as Python literals, and raises whatever that hits first
        raise ConfigError(f"{path} is not a cryoSPARC .cs file ({error})") from error
    if missing := NEEDED - names:
        raise ConfigError(
            f"{path} lacks the field {', '.join(sorted(missing))}: export particles with their blobs and CTFs"
        )
    index, stacks = _field(path, records, INDEX, "iu"), _field(path, records, STACK, "S")
    names_in_stacks = (
        f"{int(number) + 1:06d}@{stack.decode(errors='replace').lstrip('>')}"
        for number, stack in zip(index, stacks, strict=True)
    )
    table = {"rlnImageName": list(names_in_stacks)}
    for field in sorted(COLUMNS.keys() & names):
        label, unit = COLUMNS[field]
        table[label] = unit * _field(path, records, field, "f").astype(float)
    if {POSE, SHIFT} <= names:
        rotations = Rotation.from_rotvec(_field(path, records, POSE, "f", 3)).inv().as_matrix()
        table |= dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), to_relion_angles(rotations).T, strict=True))
        pixel = _field(path, records, POSE_PIXEL if POSE_PIXEL in names else PIXEL, "f").astype(float)
        origins = _field(path, records, SHIFT, "f", 2).astype(float) * pixel[:, None]
        table |= dict(zip(("rlnOriginXAngst", "rlnOriginYAngst"), origins.T, strict=True))
    if SPLIT in names:
        table["rlnRandomSubset"] = 1 + _field(path, records, SPLIT, "iu").astype(int)
    return pd.DataFrame(table)


def _check_length(path: Path) -> None:
    """Raises ValueError where the header claims more bytes than the file has: NumPy would ask for memory for them."""
    with path.open("rb") as file:
        start = file.read(12)
    if start[6:7] > b"\1" and int.from_bytes(start[8:], "little") > path.stat().st_size:  # else at most 64 KiB
        raise ValueError("its header is longer than the file")


def _field(path: Path, records: np.ndarray, name: str, kinds: str, *shape: int) -> np.ndarray:
    """A field (n, *shape) whose NumPy kind is one of `kinds`; real numbers are finite."""
    values = records[name]
    if values.dtype.kind not in kinds or values.shape[1:] != shape:
        raise ConfigError(
            f"{path}: field {name} is of type {values.dtype} {values.shape[1:]}: export the particles again"
        )
    if values.dtype.kind == "f":
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if len(bad):
            raise ConfigError(f"{path}: {name} of particle {bad[0] + 1} is {values[bad[0]]}: leave the particle out")
    return values
