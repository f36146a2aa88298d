"""cryoSPARC .cs files, as the table that RELION 3.0 would have of their particles, and back.

A .cs file is a NumPy array of records. Nothing in it is executed, and no memory is taken for records that it claims but
lacks. A job often writes two files, one of them `…passthrough…`: they are joined by the particles' `uid`.

A cryoSPARC pose is a rotation vector in radians. Its matrix maps image coordinates to the volume's, so it is the
transpose of ours. Shifts are in pixels (of `alignments3D/psize_A`), with the sign of RELION's origins. cryoDRGN and
pyem agree. Coordinates on the micrograph are parts of its height and width, counted from below; RELION counts rows from
above (pyem).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib import recfunctions
from scipy.spatial.transform import Rotation

from equipose.core.rotations import to_relion_angles
from equipose.errors import ConfigError
from equipose.io.files import whole_file

NUMPY, COMPRESSED = b"\x93NUMPY", b"\x95CSDAT"
"""How .cs files begin."""

UID, STACK, INDEX, PIXEL, SHAPE = "uid", "blob/path", "blob/idx", "blob/psize_A", "blob/shape"
POSE, SHIFT, POSE_PIXEL, SPLIT = (f"alignments3D/{name}" for name in ("pose", "shift", "psize_A", "split"))
MICROGRAPH, MICROGRAPH_SHAPE = "location/micrograph_path", "location/micrograph_shape"
MICROGRAPH_PIXEL = "location/micrograph_psize_A"
CENTRE_X, CENTRE_Y, TUBE = "location/center_x_frac", "location/center_y_frac", "filament/filament_uid"

LARGEST_TUBE = 2**31 - 2
"""RELION's numbers of tubes have 32 bits, and cryoSPARC's have 64."""

SIGN, SIGN_LABEL = "blob/sign", "equiposeSign"
"""The sign of an image's contrast, as we read a field that no public document defines, and our own column of it."""

COLUMNS = {
    "ctf/df1_A": ("rlnDefocusU", 1.0),
    "ctf/df2_A": ("rlnDefocusV", 1.0),
    "ctf/df_angle_rad": ("rlnDefocusAngle", 180 / np.pi),
    "ctf/phase_shift_rad": ("rlnPhaseShift", 180 / np.pi),
    "ctf/accel_kv": ("rlnVoltage", 1.0),
    "ctf/cs_mm": ("rlnSphericalAberration", 1.0),
    "ctf/amp_contrast": ("rlnAmplitudeContrast", 1.0),
    "ctf/bfactor": ("rlnCtfBfactor", 1.0),
    "ctf/scale": ("rlnCtfScalefactor", 1.0),
    "ctf/ctf_fit_to_A": ("rlnCtfMaxResolution", 1.0),
    PIXEL: ("rlnImagePixelSize", 1.0),
}
"""Fields of a .cs file: RELION's name, and RELION's unit in theirs."""

OTHER_LISTS = {
    "micrograph_blob/path": "micrographs: extract particles first, and name their .cs file",
    "movie_blob/path": "movies: extract particles first, and name their .cs file",
    "map/path": "volumes: name the .cs file of the particles of that job",
    "mask/path": "masks: name the .cs file of the particles of that job",
    "location/micrograph_path": "picks without images: extract particles first, and name their .cs file",
}
"""What a .cs file lists that has one of these fields, but no particles; the first field counts."""

NEEDED = {
    STACK,
    INDEX,
    PIXEL,
    *(f"ctf/{name}" for name in ("df1_A", "df2_A", "df_angle_rad", "accel_kv", "cs_mm", "amp_contrast")),
}

IGNORED = {
    "ctf/tilt_A": "beam tilt",
    "ctf/trefoil_A": "trefoil",
    "ctf/tetra_A": "tetrafoil",
    "ctf/shift_A": "beam shift",
    "ctf/anisomag": "anisotropic magnification",
}
"""Fields that the CTF here does not use: they are zero unless cryoSPARC has refined them."""

FORMER = {"alpha": 1, "alpha_min": 1, "weight": 1, "class_posterior": 1}
"""New values of the fields of `alignments3D` that describe a former pose; all other such fields become zero."""


def read_cryosparc(
    path: Path, passthrough: Sequence[Path] = (), no_ctf: bool = False, pixel_size: float | None = None
) -> pd.DataFrame:
    """Stacks, CTFs, micrographs, and poses and halves where there are any. Raises ConfigError, naming the field.

    With `no_ctf`, fields of the CTF may be missing. With `pixel_size` in Å, `blob/psize_A` may be missing.
    """
    records = read_records(path, passthrough)
    names = set(records)
    beside = sorted(other for other in path.parent.glob("*passthrough*.cs") if other not in (path, *passthrough))
    for field, what in OTHER_LISTS.items():
        if field in names and STACK not in names and not beside:
            raise ConfigError(f"{path} lists {what}")
    needed = {STACK, INDEX, PIXEL} if no_ctf else NEEDED
    if pixel_size is not None:
        needed = needed - {PIXEL}
    if missing := needed - names:
        said = ", or say --pixel-size" * (missing == {PIXEL})
        raise ConfigError(f"{path} lacks the field {', '.join(sorted(missing))}: {_remedy(beside, names)}{said}")
    index, stacks = _field(path, records, INDEX, "iu"), _texts(path, records, STACK)
    table: dict[str, object] = {
        "rlnImageName": [f"{number + 1:06d}@{stack}" for number, stack in zip(index.tolist(), stacks, strict=True)]
    }
    if UID in names:
        table["ucsfUid"] = _field(path, records, UID, "iu")
    for field in sorted(COLUMNS.keys() & names):
        label, unit = COLUMNS[field]
        table[label] = unit * _field(path, records, field, "f").astype(float)
    if "ctf/exp_group_id" in names:
        table["rlnOpticsGroup"] = _field(path, records, "ctf/exp_group_id", "iu").astype(np.int64)
    if SHAPE in names:
        table["rlnImageSize"] = _field(path, records, SHAPE, "iu", 2)[:, 0].astype(np.int64)
    if SIGN in names:
        negative = _field(path, records, SIGN, "if") < 0
        if negative.any() and not negative.all():  # else all images have one contrast, which is seen in them
            table[SIGN_LABEL] = np.where(negative, -1, 1)
    if {MICROGRAPH} <= names:
        table["rlnMicrographName"] = _texts(path, records, MICROGRAPH)
    if MICROGRAPH_PIXEL in names:
        size = _field(path, records, MICROGRAPH_PIXEL, "f").astype(float)
        if (size > 0).all():
            table["rlnMicrographOriginalPixelSize"] = size.round(6)
    if {CENTRE_X, CENTRE_Y, MICROGRAPH_SHAPE} <= names:
        height, width = _field(path, records, MICROGRAPH_SHAPE, "iu", 2).astype(float).T
        table["rlnCoordinateX"] = _field(path, records, CENTRE_X, "f").astype(float) * width
        table["rlnCoordinateY"] = (1 - _field(path, records, CENTRE_Y, "f").astype(float)) * height
    if TUBE in names:
        uids = _field(path, records, TUBE, "iu").astype(np.uint64)
        table["rlnHelicalTubeID"] = 1 + (uids % np.uint64(LARGEST_TUBE)).astype(np.int64)  # the same in each file
    if {POSE, SHIFT} <= names:
        vectors = _field(path, records, POSE, "f", 3).astype(float)
        known = np.isfinite(vectors).all(axis=1)  # the caller that wants poses reports the others
        rotations = Rotation.from_rotvec(np.where(known[:, None], vectors, 0)).inv().as_matrix()
        angles = np.where(known[:, None], to_relion_angles(rotations), np.nan)
        table |= dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True))
        own = next((name for name in (POSE_PIXEL, PIXEL) if name in names), None)
        pixel = _field(path, records, own, "f").astype(float)[:, None] if own else pixel_size
        origins = _field(path, records, SHIFT, "f", 2).astype(float) * pixel
        table |= dict(zip(("rlnOriginXAngst", "rlnOriginYAngst"), origins.T, strict=True))
    if SPLIT in names:
        table["rlnRandomSubset"] = 1 + _field(path, records, SPLIT, "iu").astype(np.int64)
    return pd.DataFrame(table)


def read_records(path: Path, passthrough: Sequence[Path] = ()) -> dict[str, np.ndarray]:
    """The fields (n, …) of a .cs file and the further fields of its pass-through files, joined by `uid`."""
    joined = _load(path)
    for other in passthrough:
        more = _load(other)
        for file, fields in ((path, joined), (other, more)):
            if UID not in fields:
                raise ConfigError(f"{file} lacks the field uid, by which .cs files are joined: give it alone")
        uid, wanted = _field(other, more, UID, "iu"), _field(path, joined, UID, "iu")
        known, first = np.unique(uid, return_index=True)
        if len(known) < len(uid):
            raise ConfigError(f"{other} has a particle's uid twice, and so cannot be joined by it: give it first")
        place = np.searchsorted(known, wanted).clip(max=len(known) - 1)
        absent = known[place] != wanted
        if absent.any():
            raise ConfigError(
                f"{other} lacks {absent.sum()} of the {len(absent)} particles of {path}, by their uid: give the files"
                " of one job"
            )
        joined |= {name: values[first[place]] for name, values in more.items() if name not in joined}
    return joined


def ignored_fields(path: Path, passthrough: Sequence[Path] = ()) -> list[str]:
    """The names, in words, of the `IGNORED` fields that are not zero (or, for the magnification, not one)."""
    records, found = read_records(path, passthrough), []
    for name, what in IGNORED.items():
        values = records.get(name, np.zeros(0))
        if values.dtype.kind != "f":
            continue
        identity = values.shape[1:] == (4,) and np.allclose(values, [1, 0, 0, 1], atol=1e-4)
        if not identity and np.abs(values).max(initial=0) > 1e-4:
            found.append(f"{name} ({what})")
    return found


def write_cryosparc(
    path: Path,
    records: dict[str, np.ndarray],
    rows: np.ndarray,
    rotations: np.ndarray,
    shifts: np.ndarray,
    subset: np.ndarray,
    pixel_size: float | None = None,
) -> None:
    """Write some rows (m,) of records with new poses, whole or not at all.

    Rotations are (m, 3, 3), shifts (m, 2) in Å, halves (m,) 1 or 2, in the order of `rows`. `pixel_size` in Å
    replaces the file's.
    """
    fields = {name: values[rows] for name, values in records.items()}
    for name in fields:
        group, _, kind = name.partition("/")
        if group == "alignments3D" and name not in (POSE, SHIFT, POSE_PIXEL, SPLIT):
            fields[name] = np.full_like(fields[name], FORMER.get(kind, 0))
    if pixel_size is not None:
        fields[PIXEL] = np.full(len(rows), pixel_size, np.float32)
    pixel = fields[PIXEL].astype(np.float32)
    fields |= {
        POSE: Rotation.from_matrix(rotations).inv().as_rotvec().astype(np.float32),
        SHIFT: (-shifts / pixel[:, None]).astype(np.float32),
        POSE_PIXEL: pixel,
        SPLIT: (subset - 1).astype(np.uint32),
    }
    kinds = [(name, values.dtype, values.shape[1:]) for name, values in fields.items()]
    made = np.zeros(len(rows), kinds)
    for name, values in fields.items():
        made[name] = values
    with whole_file(path) as partial, open(partial, "wb") as file:
        np.save(file, recfunctions.repack_fields(made), allow_pickle=False)


def _load(path: Path) -> dict[str, np.ndarray]:
    """The fields of one file, memory-mapped."""
    try:
        size = path.stat().st_size
        _check_length(path, size)
        with np.errstate(over="ignore"):  # where the header claims more bytes than there are numbers
            records = np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=size)  # type: ignore[call-arg] # numpy 1's hints lack it
        names = (records.dtype.names or ()) if records.ndim == 1 else ()
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist: correct the path") from error
    except ConfigError:
        raise
    except Exception as error:
        if "Python objects" in str(error):
            raise ConfigError(
                f"{path} is not a cryoSPARC .cs file that can be read: it holds Python objects, which may run anything."
                " Write its texts with a fixed length, in Python: array['blob/path'].astype('S')"
            ) from error
        # NumPy parses headers as Python literals, and raises whatever that hits first
        raise ConfigError(f"{path} is not a cryoSPARC .cs file ({error})") from error
    if not names:
        raise ConfigError(f"{path} is not a cryoSPARC .cs file: it has no fields")
    if not len(records):
        raise ConfigError(f"{path} lists no particles")
    return {name: records[name] for name in names}


def _check_length(path: Path, size: int) -> None:
    """Raises ValueError if the header claims more bytes than the file has: NumPy would take memory for them."""
    with path.open("rb") as file:
        start = file.read(12)
    if start.startswith(COMPRESSED):
        raise ConfigError(
            f"{path} is a compressed .cs file: write it as a plain one, in Python with cryosparc-tools: from"
            f" cryosparc.dataset import Dataset; Dataset.load('{path.name}').save('plain.cs', format=1)"
        )
    if not start.startswith(NUMPY):
        what = "it is empty" if not start else "it begins as no file of cryoSPARC does"
        raise ConfigError(f"{path} is not a cryoSPARC .cs file: {what}: copy or export it again")
    if start[6:7] > b"\1" and int.from_bytes(start[8:], "little") > size:  # else at most 64 KiB
        raise ValueError("its header is longer than the file")


def _remedy(beside: Sequence[Path], names: set[str]) -> str:
    """What to do about missing fields: a pass-through file in the same folder may have them."""
    if beside:
        return f"give the job's pass-through file too, such as {beside[0]}"
    averages = STACK in names and not any(name.startswith("ctf/") for name in names)
    return "give the job's pass-through file too, after it, or export particles with their blobs and CTFs" + (
        " (class averages have no CTF: name the particles of that job; of clean projections, say --no-ctf)"
        if averages
        else ""
    )


def _texts(path: Path, records: dict[str, np.ndarray], name: str) -> list[str]:
    """A field of text (n,), without the `>` that stands for the project's folder."""
    values = _field(path, records, name, "SU")
    if values.dtype.kind == "S":
        unique, place = np.unique(values, return_inverse=True)
        values = np.array([text.decode(errors="replace") for text in unique.tolist()], dtype=object)[place]
    return [text.lstrip(">") for text in values.tolist()]


def _field(path: Path, records: dict[str, np.ndarray], name: str, kinds: str, *shape: int) -> np.ndarray:
    """A field (n, *shape) whose NumPy kind is one of `kinds`."""
    values = records[name]
    if values.dtype.kind not in kinds or values.shape[1:] != shape:
        raise ConfigError(
            f"{path}: field {name} is of type {values.dtype} {values.shape[1:]}: export the particles again"
        )
    return values
