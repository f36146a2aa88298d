"""Particle sets: a star file of RELION 3.0 to 5, or cryoSPARC .cs files, and their image stacks, in and out.

Rows keep the file's order, whatever the order of the images in the stacks: `index@stack` is honoured, with stacks
relative to the star file's folder, or to another (`datadir`). All columns are kept, known or not. RELION moves an
image's content by *minus* its origin; `shifts` here are the displacement itself. Older star files and .cs files are
read into the tables that RELION 3.1 would have.

Only what is used is checked: rows that are asked for, optics groups that they are in, poses where poses are wanted.
Messages give a row by its number in the file, from 1.
"""

import functools
import hashlib
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from equipose.config.settings import TRAINING_BOXES, Selection, Told
from equipose.core.rotations import from_relion_angles
from equipose.errors import ConfigError, FileWarning
from equipose.io.cryosparc import COMPRESSED, NUMPY, ignored_fields, read_cryosparc
from equipose.io.files import sampled_digest, write_text
from equipose.io.half_sets import half_of
from equipose.io.stacks import OTHER_FORMATS, Images, Stack, open_stack, relion_name, stack_path, warn_of_pixel_sizes
from equipose.io.starfiles import read_star, star_text

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
OF_A_POSE = re.compile("rln(Angle(Rot|Tilt|Psi)|Origin[XYZ])")
"""How every label begins that speaks of a pose: RELION's local searches start from priors, cryoDRGN from rlnOriginX."""

PIXEL, SIZE = "rlnImagePixelSize", "rlnImageSize"
OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", PIXEL)
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
PHASE_SHIFT = "rlnPhaseShift"
CTF_LABELS = (*DEFOCUS, *OPTICS[:3], PHASE_SHIFT)
"""The star file's names of optics.CTF_COLUMNS, in the same order and units."""

ENVELOPE = {"rlnCtfBfactor": 0.0, "rlnCtfScalefactor": 1.0}
"""The names of optics.ENVELOPE_COLUMNS, and what they are where the file has none."""

FLIPPED, MULTIPLIED = "rlnCtfDataArePhaseFlipped", "rlnCtfDataAreCtfPremultiplied"
APPLIED = {FLIPPED: "flipped", MULTIPLIED: "multiplied"}
"""What a program may have done to images with their CTF. RELION looks for it in data_optics alone."""

TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
"""Beam tilt in mrad, and the matrix of an anisotropic magnification: of optics groups, and corrected in the images."""

IGNORED = {
    "rlnEvenZernike": "symmetric aberrations of higher order",
    "rlnOddZernike": "antisymmetric aberrations of higher order",
    "rlnMtfFileName": "the detector's modulation transfer function",
}
"""Labels of data_optics that RELION puts into its CTF or map, and that are not taken into account here."""

OLD_PIXEL = ("rlnDetectorPixelSize", "rlnMagnification", "rlnPixelSize")
OF_A_GROUP = (*OPTICS, *APPLIED, *TILT, *MAGNIFICATION, SIZE, "rlnImageDimensionality", *IGNORED)
"""Columns of older files that stand in the optics table since 3.1."""

LEAST_DEFOCUS = 100.0
"""Å; a typical defocus below this is one in micrometres."""

OPTICS_LIMITS = {
    "rlnVoltage": (10, 1000, "kV"),
    "rlnSphericalAberration": (-100, 100, "mm"),
    "rlnAmplitudeContrast": (0, 1, "a fraction"),
}
"""What these can be, and in what unit."""

LARGEST = 1e30
"""No number in a star file is larger, and single precision holds it."""

ALIKE = 1e-4
"""Part by which pixel sizes may differ and count as one: 0.01 of a pixel at the edge of the largest box."""

NAMED = 5
"""Rows that a message names."""

CHUNK_BYTES = 16_000_000
"""Of images that are checked at once."""


@dataclass(frozen=True)
class Particles:
    """n particles of L × L pixels. Truth or earlier estimates of the pose are None where the star file has none."""

    images: np.ndarray | Images
    """(n, L, L) float32, memory-mapped where they are one stack's images in order, else read as they are asked for."""
    ctf: np.ndarray
    """(n, 7) float32 in the order of optics.CTF_COLUMNS; (n, 9) with ENVELOPE_COLUMNS where the file has these."""
    voxel_size: float
    """Å"""
    rotations: np.ndarray | None
    """(n, 3, 3) float64"""
    shifts: np.ndarray | None
    """(n, 2) float64, Å along (x, y)"""
    optics_table: pd.DataFrame
    particle_table: pd.DataFrame


@dataclass(frozen=True)
class Summary:
    """What a star file says before its images are read."""

    subsets: dict[int | None, int]
    """Particles chosen in half 1, in half 2, and (None) in all."""
    box: int
    voxel_size: float
    """Å"""
    digest: str
    """SHA-256 of the star file, or of the .cs files."""
    stacks: str
    """Digest of the image stacks (files.sampled_digest)."""
    paths: tuple[Path, ...]
    """The image stacks."""


Tables = tuple[pd.DataFrame, pd.DataFrame]
"""data_optics and data_particles. The rows of the second keep the numbers that they have in the file, as its index."""


@functools.lru_cache(maxsize=8)
def summarise(star: Path, datadir: Path | None = None, select: Selection = (), told: Told = Told()) -> Summary:
    """Number, box and pixel size of the particles of a star or .cs file. Raises ConfigError like `read_particles`.

    What warnings say was said when the file was first looked at.
    """
    folder = datadir or star.parent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FileWarning)
        optics_table, particle_table = read_tables(star, told=told)
        _need(star, "particles", particle_table, ("rlnImageName",))
        rows = {subset: chosen_rows(star, (optics_table, particle_table), subset, select) for subset in (None, 1, 2)}
        chosen = particle_table.iloc[rows[None]] if len(rows[None]) else particle_table
        optics_table = groups_in_use(star, optics_table, chosen)
        box, voxel_size = _common_size(_sizes(star, folder, optics_table, chosen))
        _, number, names, _ = image_names(star, chosen["rlnImageName"])
        paths = tuple(stack.path for stack in _open_stacks(star, folder, names, number, chosen))
    digest = hashlib.sha256()
    for file in (star, *map(Path, told.passthrough)):
        digest.update(file.read_bytes())
    counts = {subset: len(part) for subset, part in rows.items()}
    return Summary(counts, box, voxel_size, digest.hexdigest(), sampled_digest(paths), paths)


def read_particles(
    star: Path,
    datadir: Path | None = None,
    tables: Tables | None = None,
    rows: np.ndarray | None = None,
    told: Told = Told(),
    poses: bool = True,
) -> Particles:
    """The particles of a star file, or a .cs file, whose image names are relative to `datadir` or the file's folder.

    `tables` is what `read_tables` gives, where that was called before: a million rows take some seconds. `rows` (n,)
    are those that are wanted, from 0; the others need not be sound. Without `poses` those are neither read nor checked.
    Images of several sizes or pixel sizes are brought to one: that of the smallest field of view, so that none has to
    be padded.

    Raises ConfigError, naming the file, column or rows, for: a star file or stack that is missing or cut short, no
    optics table, a missing column, images that are not square, a box that is not the optics group's, and images that
    are not finite. Warns of pixel sizes that contradict the stacks' headers, and of columns that are not used.
    """
    optics_table, particle_table = tables or read_tables(star, told=told)
    if rows is not None:
        particle_table = particle_table.iloc[rows]
    _need(star, "particles", particle_table, ("rlnImageName", "rlnOpticsGroup"))
    _need(star, "optics", optics_table, ("rlnOpticsGroup", PIXEL))
    optics_table = groups_in_use(star, optics_table, particle_table)
    ctf = _read_ctf(star, optics_table, particle_table)
    _warn_of_columns(star, optics_table, particle_table)

    rotations = shifts = None
    if poses and all(label in particle_table for label in ANGLES):
        angles = [_numbers(star, particle_table[label]) for label in ANGLES]
        rotations = from_relion_angles(np.stack(angles, axis=1))
    if poses and all(label in particle_table for label in ORIGINS):
        shifts = -np.stack([_numbers(star, particle_table[label]) for label in ORIGINS], axis=1)

    images, voxel_size = _read_images(star, datadir or star.parent, optics_table, particle_table)
    return Particles(images, ctf, voxel_size, rotations, shifts, optics_table, particle_table)


def groups_in_use(star: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> pd.DataFrame:
    """The optics groups that particles are in: after a selection RELION keeps the others too."""
    if "rlnOpticsGroup" not in optics_table or "rlnOpticsGroup" not in particle_table:
        return optics_table
    known = _numbers(star, optics_table["rlnOpticsGroup"])
    twice = pd.Series(known).duplicated()
    if twice.any():
        raise ConfigError(f"star file {star}: data_optics has optics group {known[twice][0]:g} twice: remove one")
    group = _numbers(star, particle_table["rlnOpticsGroup"])
    unknown = ~np.isin(group, known)
    if unknown.any():
        raise ConfigError(
            f"{star}: particles are in optics group {group[unknown][0]:g}, which data_optics lacks: add it"
            + _rows(particle_table, unknown)
        )
    return optics_table[np.isin(known, group)]


def per_particle(
    star: Path,
    label: str,
    optics_table: pd.DataFrame,
    particle_table: pd.DataFrame,
    absent: float = 0.0,
) -> np.ndarray:
    """A column (n,) of numbers, from the particles or else from their optics groups; `absent` where neither has it."""
    if label in particle_table:
        return _numbers(star, particle_table[label])
    return of_groups(star, label, optics_table, particle_table, absent)


def of_groups(
    star: Path, label: str, optics_table: pd.DataFrame, particle_table: pd.DataFrame, absent: float = 0.0
) -> np.ndarray:
    """A column of the optics table for each particle, (n,); `absent` where the table has none."""
    if label not in optics_table:
        return np.full(len(particle_table), absent)
    used = groups_in_use(star, optics_table, particle_table)
    known, group = (_numbers(star, table["rlnOpticsGroup"]) for table in (used, particle_table))
    order = np.argsort(known)
    return _numbers(star, used[label], "optics group")[order][np.searchsorted(known[order], group)]


def chosen_rows(star: Path, tables: Tables, subset: int | None, select: Selection) -> np.ndarray:
    """Rows (n,) of a half (None: of all) whose columns lie within the limits of `select`, in the table's order.

    The halves are those of all particles: a row that is left out moves no other one to the other half.
    """
    optics_table, particle_table = tables
    chosen = np.ones(len(particle_table), bool)
    if subset is not None:
        chosen = half_of(particle_table, optics_table) == subset
    for label, low, high in select:
        _need(star, "particles", particle_table, (label,))
        values = _numbers(star, particle_table[label])
        chosen &= (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))
    return np.flatnonzero(chosen)


def check_training_box(box: int) -> None:
    """Raises ConfigError unless `box` is one that the encoders' pooling halves evenly down to 2 pixels."""
    if box not in TRAINING_BOXES:
        known = ", ".join(map(str, TRAINING_BOXES))
        raise ConfigError(
            f"images of {box} × {box} pixels cannot be trained on: box must be one of {known}. Re-scale them to one of"
            " these (relion_image_handler --rescale_angpix … --new_box …)"
        )


def write_star(path: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> None:
    """Write a RELION 3.1 star file, whole or not at all; the same tables give the same bytes."""
    write_text(Path(path), star_text({"optics": optics_table, "particles": particle_table}))


def for_refinement(star: Path, datadir: Path | None, told: Told, rows: np.ndarray) -> Tables:
    """Some rows of the user's own tables, to the letter, with what other programs need and ready for new poses.

    RELION 3.1 needs rlnImageSize and rlnImageDimensionality in the optics table, and a stack's name to end in .mrcs;
    cryoDRGN makes NaN maps without rlnPhaseShift. Of former poses only `ANGLES` and `ORIGINS` stay, to be replaced.
    """
    optics, table = read_tables(star, as_written=True, told=told)
    table = table.iloc[rows]
    sizes = _sizes(star, datadir or star.parent, groups_in_use(star, optics, table), table)
    optics, table = _split_by_size(star, optics, table, sizes[:, 0])
    index, number, stacks, _ = image_names(star, table["rlnImageName"])
    names = [relion_name(name) for name in stacks]
    if names != stacks:
        new = [f"{image + 1:06d}@{names[code]}" for image, code in zip(index.tolist(), number.tolist(), strict=True)]
        table = table.assign(rlnImageName=new)
    if PHASE_SHIFT not in table and PHASE_SHIFT not in optics:
        table = table.assign(**{PHASE_SHIFT: 0.0})
    return optics, without_poses(table, but=(*ANGLES, *ORIGINS)).reset_index(drop=True)


def without_poses(particle_table: pd.DataFrame, but: tuple[str, ...] = ()) -> pd.DataFrame:
    """The table without any column that speaks of a pose, priors of searches included, `but` for these."""
    gone = [label for label in particle_table if OF_A_POSE.match(label) and label not in but]
    return particle_table.drop(columns=gone)


def read_tables(star: Path, as_written: bool = False, told: Told = Told()) -> Tables:
    """The tables data_optics and data_particles, of RELION 3.1's form whatever form the file has.

    With `as_written` a star file's own columns are the text that stands there, and nothing of them is rounded: RELION
    has columns whose numbers six decimals do not hold, and names that look like numbers. What `told` says of the CTF is
    then left out, since the file is not told.
    """
    kind = _kind_of_file(star)
    if told.passthrough and kind != "cs":
        raise ConfigError(f"{told.passthrough[0]} is given beside {star}: only .cs files of one job are joined")
    if kind == "cs":
        passthrough = tuple(map(Path, told.passthrough))
        if unused := ignored_fields(star, passthrough):
            _warn(f"{star}: {', '.join(unused)} of cryoSPARC's refinement is not taken into account")
        tables = _with_optics(star, read_cryosparc(star, passthrough), told)
    else:
        tables = _star_tables(star, as_written, told)
    optics, particles = tables
    if told.pixel_size is not None:
        optics = optics.assign(**{PIXEL: told.pixel_size})
    if not as_written and told.phase_flipped:
        optics = optics.assign(**{FLIPPED: 1, MULTIPLIED: 0})
    if not as_written and told.no_ctf:
        optics = optics.assign(rlnVoltage=300.0, rlnSphericalAberration=0.0, rlnAmplitudeContrast=1.0)
        particles = particles.drop(columns=[*OPTICS[:3], *ENVELOPE, PHASE_SHIFT], errors="ignore")
        particles = particles.assign(**dict.fromkeys(DEFOCUS, 0.0))  # sin(asin(1)) = 1 at every frequency
    return optics, particles


def find_datadir(star: Path, particle_table: pd.DataFrame) -> Path | None:
    """The folder that image names are relative to: the file's own, the working one, or one that the file is in.

    RELION names images from the project's folder, some folders above the file. None where none of these has them.
    """
    if "rlnImageName" not in particle_table:
        return None
    name = str(particle_table["rlnImageName"].iloc[0]).rpartition("@")[2]
    if not name or os.path.isabs(name):
        return None
    for folder in (star.parent, Path.cwd(), *star.parent.parents):
        if os.path.isfile(stack_path(folder, name)):
            return folder
    return None


def is_cryosparc(star: Path) -> bool:
    """Whether the file is a .cs file, by its name or its first bytes."""
    return _kind_of_file(star) == "cs"


def _kind_of_file(star: Path) -> str:
    """`cs` or `star`, by how the file begins. Raises ConfigError, with what to do, for what is neither."""
    if star.is_dir():
        inside = sorted(path.name for kind in ("*.cs", "*.star") for path in star.glob(kind))
        found = f": name one of its files, such as {', '.join(inside[:NAMED])}" if inside else " without star files"
        raise ConfigError(
            f"{star} is a folder{found}. Of a cryoSPARC job, name the .cs file of its particles (Jn/…particles….cs)"
        )
    if not star.is_file():
        raise ConfigError(f"star file {star} does not exist")
    try:
        with open(star, "rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise ConfigError(f"star file {star} cannot be read ({error.strerror})") from error
    if star.suffix == ".cs" or start.startswith((NUMPY, COMPRESSED)):
        return "cs"
    for magic, what in OTHER_FORMATS.items():
        if start.startswith(magic):
            raise ConfigError(f"star file {star} {what}")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ConfigError(f"star file {star} is a web page: download the file itself, not the page that shows it")
    if star.suffix == ".csg" or b"metafile:" in start:
        files = re.findall(r"metafile:\s*['\"]?>?([^'\"\s]+)", star.read_text(errors="replace"))
        named = f", {', '.join(dict.fromkeys(files))}" if files else ""
        raise ConfigError(f"{star} is a cryoSPARC group file: give the .cs files that it names{named}")
    if star.suffix in (".mrcs", ".mrc", ".st") or start[208:212] == b"MAP ":
        raise ConfigError(f"{star} is an image stack: give the star file that names its images, or the .cs file")
    return "star"


def _star_tables(star: Path, as_written: bool, told: Told) -> Tables:
    tables = read_star(star, as_written)
    labels = {label for table in tables.values() for label in table}
    if any(label.startswith("cisTEM") for label in labels):
        raise ConfigError(
            f"star file {star} is cisTEM's: export the particles for RELION there (Assets, Refinement Packages, Export)"
        )
    if any(re.match("rlnTomo(Name|Particle|Sub|Visible)", label) for label in labels):
        raise ConfigError(
            f"star file {star} lists subtomograms (tomography): equipose takes single particles, images of one"
            " projection each"
        )
    tables = {name: table for name, table in tables.items() if not name.startswith("general")}
    if "optics" not in tables and len(tables) == 1 and "rlnImageName" in (only := next(iter(tables.values()))):
        return _with_optics(star, _filled(star, "", only), told)
    if "optics" not in tables or "particles" not in tables:
        raise ConfigError(
            f"star file {star} must have the tables data_optics and data_particles of RELION 3.1 or later, or one table"
            f" of particles of RELION 3.0, found {', '.join(f'data_{name}' for name in tables) or 'none'}: is it"
            " the star file of another job?"
        )
    optics, particles = (_filled(star, name, tables[name]) for name in ("optics", "particles"))
    return _with_pixel_size(star, optics), particles


def _filled(star: Path, name: str, table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        raise ConfigError(f"star file {star} lists no particles: table data_{name} is empty")
    return table


def _with_pixel_size(star: Path, optics: pd.DataFrame) -> pd.DataFrame:
    """RELION takes rlnMicrographPixelSize and rlnMicrographOriginalPixelSize where rlnImagePixelSize is not there."""
    for label in ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize"):
        if PIXEL not in optics and label in optics:
            _warn(f"star file {star}: data_optics lacks {PIXEL}: {label} is taken, as by RELION")
            return optics.assign(**{PIXEL: optics[label]})
    return optics


def _with_optics(star: Path, table: pd.DataFrame, told: Told) -> Tables:
    """RELION 3.0's single table as those of 3.1: optics groups of equal optics, origins in Å."""
    if not told.no_ctf:
        _need(star, "particles", table, OPTICS[:3])
    optics = pd.DataFrame({label: _loose(table[label]) for label in OPTICS[:3] if label in table})
    optics[PIXEL] = np.round(_old_pixel_size(star, table, told), 6)
    for label in OF_A_GROUP:
        if label in table and label not in optics:
            optics[label] = table[label].to_numpy()
    if "rlnOpticsGroup" in table:
        optics["rlnOpticsGroup"] = _loose(table["rlnOpticsGroup"])
    number = optics.groupby(list(optics), sort=False, dropna=False).ngroup().to_numpy()
    groups = optics[~pd.Series(number).duplicated().to_numpy()].reset_index(drop=True)
    own = groups.get("rlnOpticsGroup", pd.Series(np.nan, groups.index))
    if own.isna().any() or own.duplicated().any() or not (own.gt(0) & own.eq(own.round())).all():
        own = pd.Series(np.arange(1, len(groups) + 1))
    own = own.astype(np.int64)
    groups = groups.drop(columns="rlnOpticsGroup", errors="ignore")
    groups.insert(0, "rlnOpticsGroup", own)
    groups.insert(1, "rlnOpticsGroupName", [f"opticsGroup{group}" for group in own])
    particles = table.drop(columns=[label for label in (*OF_A_GROUP, *OLD_PIXEL) if label in table])
    particles = particles.assign(rlnOpticsGroup=own.to_numpy()[number])
    for old, new in zip(("rlnOriginX", "rlnOriginY"), ORIGINS, strict=True):
        if old in particles:
            origin = _loose(particles.pop(old)) * optics[PIXEL].to_numpy()
            if new not in particles:
                particles[new] = origin
    return groups, particles


def _old_pixel_size(star: Path, table: pd.DataFrame, told: Told) -> np.ndarray:
    """Å, (n,), of RELION 3.0's single table."""
    for label in (PIXEL, "rlnPixelSize"):
        if label in table:
            return _loose(table[label])
    if told.pixel_size is not None:
        return np.full(len(table), told.pixel_size)
    if missing := [label for label in OLD_PIXEL[:2] if label not in table]:
        raise ConfigError(
            f"star file {star}: its particles have no pixel size ({PIXEL}, or {' and '.join(OLD_PIXEL[:2])}; it lacks"
            f" the column {', '.join(missing)}): add it, or say --pixel-size"
        )
    micrometres, magnification = (_loose(table[label]) for label in OLD_PIXEL[:2])
    return 1e4 * micrometres / np.where(magnification > 0, magnification, np.nan)


def _read_ctf(star: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> np.ndarray:
    """CTF parameters (n, 7), or (n, 9) with B and scale factors. RELION takes V as U where it is not there."""
    for label in OPTICS[:3]:
        if label not in particle_table:
            _need(star, "optics", optics_table, (label,))
    if DEFOCUS[0] not in particle_table:
        raise ConfigError(
            f"star file {star}: table data_particles lacks the column {DEFOCUS[0]}: add it (CtfFind, then Extract), or"
            " say --no-ctf where images have no CTF, such as clean projections"
        )
    columns = {label: per_particle(star, label, optics_table, particle_table) for label in CTF_LABELS}
    if DEFOCUS[1] not in particle_table:
        columns[DEFOCUS[1]] = columns[DEFOCUS[0]]
    envelope = {
        label: per_particle(star, label, optics_table, particle_table, absent) for label, absent in ENVELOPE.items()
    }
    if any((envelope[label] != absent).any() for label, absent in ENVELOPE.items()):
        columns |= envelope
    ctf = np.stack(list(columns.values()), axis=1).astype(np.float32)
    _check_optics(star, ctf, particle_table)
    _check_defocus(star, ctf, particle_table)
    return ctf


def _warn(message: str) -> None:
    warnings.warn(message, FileWarning, stacklevel=3)


def _warn_of_columns(star: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> None:
    """What stands in the file and is not taken into account."""
    for label, what in IGNORED.items():
        if label in optics_table and optics_table[label].astype(str).str.contains("[1-9A-Za-z]").any():
            _warn(f"star file {star}: {label} ({what}) is not taken into account")
    for label in (*APPLIED, *TILT, *MAGNIFICATION, PIXEL, SIZE):
        if label in particle_table:
            _warn(
                f"star file {star}: {label} stands in data_particles, where RELION does not look for it, and neither"
                " does equipose: it belongs into data_optics"
                + (" (or say --phase-flipped)" if label == FLIPPED else "")
            )


def _need(star: Path, table: str, frame: pd.DataFrame, labels: tuple[str, ...]) -> None:
    if missing := [label for label in labels if label not in frame]:
        raise ConfigError(f"star file {star}: table data_{table} lacks the column {', '.join(missing)}: add it")


def _rows(table: pd.DataFrame | pd.Series, bad: np.ndarray) -> str:
    """What a message says of bad rows, (n,) bool, beyond the first: how many they are, and where."""
    count = int(bad.sum())
    if count < 2:
        return ""
    first = ", ".join(str(row + 1) for row in table.index[bad][:NAMED])
    return f" ({count} of {len(bad)} rows are like this: {first}{', …' if count > NAMED else ''})"


def _loose(column: pd.Series) -> np.ndarray:
    """A column as float64 (n,), not a number where it has none: only what is used is checked."""
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64)


def _numbers(star: Path, column: pd.Series, what: str = "row") -> np.ndarray:
    """A column as float64 (n,). Raises ConfigError, naming the first row (from 1) that is not a finite number."""
    values = _loose(column)
    bad = ~(np.abs(values) < LARGEST)
    if bad.any():
        first = int(np.argmax(bad))
        raise ConfigError(
            f"star file {star}: {column.name} of {what} {column.index[first] + 1} is {column.iloc[first]}, not a number"
            + _rows(column, bad)
        )
    return values


def _check_optics(star: Path, ctf: np.ndarray, table: pd.DataFrame) -> None:
    """Raises ConfigError where CTF parameters (n, 7) are outside of `OPTICS_LIMITS`."""
    for label, (low, high, unit) in OPTICS_LIMITS.items():
        values = ctf[:, CTF_LABELS.index(label)]
        bad = (values < low) | (values > high)
        if bad.any():
            first = int(np.argmax(bad))
            raise ConfigError(
                f"star file {star}: particle {table.index[first] + 1} has {label} {values[first]:g}; it is {unit},"
                f" {low} to {high}" + _rows(table, bad)
            )


def _check_defocus(star: Path, ctf: np.ndarray, table: pd.DataFrame) -> None:
    """Raises ConfigError where defoci are negative, or so small that they must be in micrometres."""
    defocus = ctf[:, :2]
    negative = (defocus < 0).any(axis=1)
    if negative.any():
        first = int(np.argmax(negative))
        raise ConfigError(
            f"star file {star}: particle {table.index[first] + 1} has a negative defocus, {defocus[first].min():g} Å,"
            " overfocus: underfocus is positive; correct the sign, or leave such particles out" + _rows(table, negative)
        )
    typical = float(np.median(defocus))
    if 0 < typical < LEAST_DEFOCUS:
        raise ConfigError(
            f"star file {star}: a defocus of {typical:g} is one in micrometres: RELION's is in Å; multiply"
            " rlnDefocusU and rlnDefocusV by 10,000"
        )


def check_inside(star: Path, datadir: Path | None, particle_table: pd.DataFrame) -> None:
    """Raises ConfigError where an image's stack is outside of the folder that names are relative to."""
    _need(star, "particles", particle_table, ("rlnImageName",))
    _, number, stacks, _ = image_names(star, particle_table["rlnImageName"])
    folder = os.path.abspath(datadir or star.parent)
    for code, stack in enumerate(stacks):
        if os.path.commonpath([folder, os.path.abspath(os.path.join(folder, stack))]) != folder:
            row = int(np.argmax(number == code))
            raise ConfigError(
                f"star file {star}: the image of particle {particle_table.index[row] + 1} is in {stack}, outside of the"
                f" folder {folder}: name stacks from a folder that holds them all (--datadir; / for absolute names)"
            )


class ImageNames(NamedTuple):
    """What rlnImageName says of n images."""

    index: np.ndarray
    """(n,) from 0"""
    number: np.ndarray
    """(n,) the number of each one's stack"""
    stacks: list[str]
    """Names, in the order of their first images"""
    alone: list[int]
    """Stacks that were named without an index"""


def image_names(star: Path, names: pd.Series) -> ImageNames:
    """`index@stack`, taken apart; a name without `@` is that of a file with one image.

    Raises ConfigError, naming the first row, for any other name.
    """
    images, at, stacks = zip(*(str(name).partition("@") for name in names), strict=True)
    if not all(at):
        stacks = tuple(stack if sign else image for image, sign, stack in zip(images, at, stacks, strict=True))
        images = tuple(image if sign else "1" for image, sign in zip(images, at, strict=True))
    if not (
        all(stacks) and all(map(str.isdigit, images)) and all(map(str.isascii, images)) and max(map(len, images)) < 10
    ):
        pairs = zip(images, stacks, strict=True)
        bad = np.array([not (re.fullmatch("[0-9]{1,9}", image) and stack) for image, stack in pairs])
        first = int(np.argmax(bad))
        raise ConfigError(
            f"star file {star}: rlnImageName of particle {names.index[first] + 1} is {names.iloc[first]}, not"
            " 000001@stack.mrcs" + _rows(names, bad)
        )
    number, unique = pd.factorize(np.array(stacks, dtype=object))
    alone = np.unique(number[np.array(at, dtype=object) == ""]).tolist()
    return ImageNames(np.array(list(map(int, images))) - 1, number, unique.tolist(), alone)


def _sizes(star: Path, datadir: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> np.ndarray:
    """Box and pixel size in Å of each particle, (n, 2), by data_optics; boxes that it lacks, by the stacks' headers."""
    pixel = of_groups(star, PIXEL, optics_table, particle_table)
    bad = ~(pixel > 0)
    if bad.any():
        raise ConfigError(
            f"star file {star}: the pixel size is {pixel[bad][0]:g} Å: correct {PIXEL}, or say --pixel-size"
        )
    box = of_groups(star, SIZE, optics_table, particle_table)
    if not (box > 0).all():
        _, number, stacks, _ = image_names(star, particle_table["rlnImageName"])
        opened = _open_stacks(star, datadir, stacks, number, particle_table)
        box = np.array([stack.shape[-1] for stack in opened])[number]
    return np.stack([box, pixel], axis=1)


def _common_size(sizes: np.ndarray) -> tuple[int, float]:
    """The box and pixel size that images of several, (n, 2), are brought to: those of the smallest field of view.

    Pixel sizes that are `ALIKE` count as one. Of several of the same field of view it is the one with the most images.
    """
    kinds = pd.DataFrame(sizes).value_counts().index.to_frame().to_numpy()  # the most frequent first
    field = kinds[:, 0] * kinds[:, 1]
    box, pixel = kinds[np.argmax(field <= field.min() * (1 + ALIKE))]
    return int(box), float(pixel)


def _open_stacks(
    star: Path, datadir: Path, names: list[str], number: np.ndarray, particle_table: pd.DataFrame
) -> tuple[Stack, ...]:
    """The stacks of these names. Where some are missing, one message names the first of them and counts them all."""
    opened: list[Stack] = []
    absent: list[tuple[int, ConfigError]] = []
    for code, name in enumerate(names):
        path = stack_path(datadir, name)
        try:
            opened.append(open_stack(path))
        except ConfigError as error:
            if os.path.isfile(path):
                raise
            absent.append((code, error))
    if absent:
        missing = np.isin(number, [code for code, _ in absent])
        more = f"; {len(absent)} of {len(names)} stacks do not exist" if len(absent) > 1 else ""
        row = particle_table.index[int(np.argmax(number == absent[0][0]))] + 1
        raise ConfigError(f"{star}, row {row}: {absent[0][1]}{more}{_rows(particle_table, missing)}")
    return tuple(opened)


def _read_images(
    star: Path, datadir: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame
) -> tuple[np.ndarray | Images, float]:
    """The images, of one size and pixel size, and this in Å."""
    names = particle_table["rlnImageName"]
    index, number, stack_names, alone = image_names(star, names)
    stacks = _open_stacks(star, datadir, stack_names, number, particle_table)
    for code in alone:
        if stacks[code].shape[0] > 1:
            row = names.index[int(np.argmax(names == stack_names[code]))] + 1
            raise ConfigError(
                f"star file {star}: rlnImageName of particle {row} is {stack_names[code]}, which holds"
                f" {stacks[code].shape[0]} images: say which, as in 000001@stack.mrcs"
            )
    lengths, heights, widths = (np.array(part)[number] for part in zip(*(stack.shape for stack in stacks), strict=True))
    _check_indices(star, index, lengths, stack_names, number, names)
    if (heights != widths).any():
        shape = stacks[number[np.argmax(heights != widths)]].shape
        raise ConfigError(
            f"star file {star}: images must be square, found {shape[1]} × {shape[2]} pixels"
            + _rows(names, heights != widths)
        )
    said = of_groups(star, SIZE, optics_table, particle_table)
    other = (said != widths) & (said > 0)
    if other.any():
        first = int(np.argmax(other))
        raise ConfigError(
            f"star file {star}: rlnImageSize is {said[first]:g}, but the images have {widths[first]} pixels: correct"
            " it, or name the right stacks" + _rows(names, other)
        )
    if (of_groups(star, "rlnImageDimensionality", optics_table, particle_table, 2.0) == 3).any():
        raise ConfigError(
            f"star file {star}: rlnImageDimensionality is 3, subtomograms (tomography): equipose takes single particles"
        )
    sizes = _sizes(star, datadir, optics_table.drop(columns=SIZE, errors="ignore").assign(**{SIZE: 1}), particle_table)
    sizes[:, 0] = widths
    box, voxel_size = _common_size(sizes)
    pixel = sizes[:, 1] / voxel_size
    pixel[np.abs(pixel - 1) <= ALIKE] = 1
    _warn_of_stacks(star, stacks, number, index, sizes)
    images = Images(stacks, number, index, box, pixel)
    in_order = len(stacks) == 1 and np.array_equal(index, np.arange(index[0], index[0] + len(index)))
    plain = in_order and stacks[0].kind == np.float32 and (pixel == 1).all()
    _check_images(star, images, names)
    return (stacks[0].map()[index[0] : index[0] + len(index)] if plain else images), voxel_size


def _check_indices(
    star: Path, index: np.ndarray, lengths: np.ndarray, stack_names: list[str], number: np.ndarray, names: pd.Series
) -> None:
    bad = (index < 0) | (index >= lengths)
    if bad.any():
        row = int(np.argmax(bad))
        from_zero = (index < 0).any() and (index < lengths - 1).all()
        raise ConfigError(
            f"star file {star} asks for image {index[row] + 1} of {stack_names[number[row]]} in row"
            f" {names.index[row] + 1}, which holds images 1 to {lengths[row]}: "
            + (
                "images are counted from 1; if the file counts them from 0, add 1 to each"
                if from_zero
                else "the star file and the stack do not belong together"
            )
            + _rows(names, bad)
        )


def _warn_of_stacks(
    star: Path, stacks: tuple[Stack, ...], number: np.ndarray, index: np.ndarray, sizes: np.ndarray
) -> None:
    """What other programs, or the user, may not expect of these stacks."""
    _, first = np.unique(number, return_index=True)
    warn_of_pixel_sizes(stacks, sizes[first, 1], star)
    boxes = np.unique(sizes[:, 0])
    low, high = sizes[:, 1].min(), sizes[:, 1].max()
    if len(boxes) > 1 or high > low * (1 + ALIKE):
        pixels = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        _warn(
            f"{star}: images of {', '.join(f'{box:.0f}' for box in boxes[:NAMED])} pixels of {pixels} Å are brought to"
            " one size and pixel size. RELION 3.1 sizes its map by the first of them: put those of the wanted box first"
        )
    if (boxes % 2).any():
        _warn(f"{star}: images of an odd number of pixels: RELION 3.1 takes their centre half a pixel off")
    if any(stack.kind.kind == "u" and stack.kind.itemsize == 2 for stack in stacks):
        _warn(
            f"{star}: stacks of mode 6 have no sign; RELION 3.1 reads them with one: values above 32,767 are lost there"
        )


def _check_images(star: Path, images: Images, names: pd.Series) -> None:
    """Raises ConfigError, naming the first row whose image has values that are not finite, or all the same.

    An image that several rows name is read once.
    """
    place = images.index + images.stack * (int(images.index.max()) + 1)
    _, rows, again = np.unique(place, return_index=True, return_inverse=True)
    chunk = max(1, CHUNK_BYTES // (4 * images.shape[-1] ** 2))
    low, high = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), chunk):
        part = images[rows[start : start + chunk]]
        low[start : start + chunk], high[start : start + chunk] = part.min(axis=(1, 2)), part.max(axis=(1, 2))
    for fault, found in (
        (~np.isfinite(high) | ~np.isfinite(low), "has values that are not finite (NaN)"),
        (low == high, "is constant"),
    ):
        if fault.any():
            bad = fault[again]
            row = int(np.argmax(bad))
            raise ConfigError(
                f"star file {star}: image {names.iloc[row]} of particle {names.index[row] + 1} {found}: remove the row"
                " or make the image again" + _rows(names, bad)
            )


def _split_by_size(star: Path, optics: pd.DataFrame, table: pd.DataFrame, sizes: np.ndarray) -> Tables:
    """The tables with rlnImageSize and rlnImageDimensionality, `sizes` (n,) pixels: a group of each size.

    A group whose particles have several sizes, as files of RELION 3.0 may have them, becomes several.
    """
    group = _numbers(star, table["rlnOpticsGroup"]).astype(np.int64)
    own = _numbers(star, optics["rlnOpticsGroup"], "optics group").astype(np.int64)
    box = {number: sorted(set(sizes[group == number].astype(int).tolist())) for number in own.tolist()}
    usual = int(np.bincount(sizes.astype(int)).argmax())
    if SIZE not in optics or any(len(found) > 1 for found in box.values()):
        optics = optics.assign(**{SIZE: [box[number][0] if box[number] else usual for number in own.tolist()]})
        for number, found in box.items():
            for size in found[1:]:
                new = int(own.max()) + 1
                own = np.append(own, new)
                row = optics[_numbers(star, optics["rlnOpticsGroup"]) == number]
                optics = pd.concat([optics, row.assign(rlnOpticsGroup=new, **{SIZE: size})], ignore_index=True)
                group = np.where((group == number) & (sizes == size), new, group)
        if len(own) > len(box):
            optics["rlnOpticsGroupName"] = [f"opticsGroup{number}" for number in own]
            table = table.assign(rlnOpticsGroup=group)
    if "rlnImageDimensionality" not in optics:
        optics = optics.assign(rlnImageDimensionality=2)
    return optics, table
