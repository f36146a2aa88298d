"""Particle sets: a star file of RELION 3.0 to 5, or a cryoSPARC .cs file, and their image stacks, in and out.

Rows keep the file's order, whatever the order of the images in the stacks: `index@stack` is honoured, with stacks
relative to the star file's folder, or to another (`datadir`). All columns are kept, known or not. RELION moves an
image's content by *minus* its origin; `shifts` here are the displacement itself. Older star files and .cs files are
read into the tables that RELION 3.1 would have.
"""

import functools
import hashlib
import linecache
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from equipose.config import TRAINING_BOXES, Selection
from equipose.cryosparc import read_cryosparc
from equipose.errors import ConfigError
from equipose.files import sampled_digest, write_text
from equipose.rotations import from_relion_angles
from equipose.stacks import Images, open_stack

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
CTF_LABELS = (*DEFOCUS, *OPTICS[:3], "rlnPhaseShift")
"""The star file's names of optics.CTF_COLUMNS, in the same order and units."""

SUBSET = "rlnRandomSubset"

OLD_OPTICS = (*OPTICS[:3], "rlnDetectorPixelSize", "rlnMagnification", "rlnPixelSize")
"""Columns of RELION 3.0 that stand in the optics table since 3.1, or make up what stands there."""

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

CHUNK_BYTES = 16_000_000
"""Of images that are checked at once."""


@dataclass(frozen=True)
class Particles:
    """n particles of L × L pixels. Truth or earlier estimates of the pose are None where the star file has none."""

    images: np.ndarray | Images
    """(n, L, L) float32, memory-mapped where they are one stack's images in order, else read as they are asked for."""
    ctf: np.ndarray
    """(n, 7) float32 in the order of optics.CTF_COLUMNS."""
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
    """SHA-256 of the star file."""
    stacks: str
    """Digest of its image stacks (files.sampled_digest)."""
    paths: tuple[Path, ...]
    """The image stacks."""


@functools.lru_cache(maxsize=8)
def summarise(star: Path, datadir: Path | None = None, select: Selection = ()) -> Summary:
    """Number, box and pixel size of the particles of a star or .cs file. Raises ConfigError like `read_particles`."""
    optics_table, particle_table = read_tables(star)
    voxel_size = _voxel_size(star, optics_table)
    _need(star, "particles", particle_table, ("rlnImageName",))
    _, names = _image_names(star, particle_table["rlnImageName"])
    stacks = [open_stack((datadir or star.parent) / name, voxel_size) for name in names.unique()]
    counts = {subset: len(chosen_rows(star, particle_table, subset, select)) for subset in (None, 1, 2)}
    return Summary(
        subsets=counts,
        box=stacks[0].shape[-1],
        voxel_size=voxel_size,
        digest=hashlib.sha256(star.read_bytes()).hexdigest(),
        stacks=sampled_digest([stack.path for stack in stacks]),
        paths=tuple(stack.path for stack in stacks),
    )


def has_halves(particle_table: pd.DataFrame) -> bool:
    """Whether every particle has one of two halves, and both are there: a column of ones alone makes none."""
    return SUBSET in particle_table and set(pd.to_numeric(particle_table[SUBSET], errors="coerce")) == {1, 2}


def half_of(particle_table: pd.DataFrame) -> np.ndarray:
    """The half, 1 or 2, that each particle belongs to: its rlnRandomSubset if all have one, else a fixed random one."""
    if has_halves(particle_table):
        return pd.to_numeric(particle_table[SUBSET]).to_numpy(np.int64)
    order = np.random.default_rng(0).permutation(len(particle_table))
    return 1 + order % 2


def read_particles(
    star: Path, datadir: Path | None = None, tables: tuple[pd.DataFrame, pd.DataFrame] | None = None
) -> Particles:
    """The particles of a star file, or a .cs file, whose image names are relative to `datadir` or the file's folder.

    `tables` is what `read_tables` gives, where that was called before: a million rows take a quarter of a minute.

    Raises ConfigError, naming the file, column or row, for: a star file or stack that is missing or cut short, no
    optics table, a missing column, images of several sizes, a pixel size that contradicts the stack's header, and
    images that are not finite.
    """
    optics_table, particle_table = tables or read_tables(star)
    _need(star, "optics", optics_table, ("rlnOpticsGroup", *OPTICS))
    _need(star, "particles", particle_table, ("rlnImageName", "rlnOpticsGroup", *DEFOCUS))
    voxel_size = _voxel_size(star, optics_table)
    ctf = np.zeros((len(particle_table), len(CTF_LABELS)), np.float32)
    for column, label in enumerate(CTF_LABELS):
        ctf[:, column] = per_particle(star, label, optics_table, particle_table)
    _check_optics(star, ctf)
    _check_defocus(star, ctf[:, :2])

    rotations = shifts = None
    if all(label in particle_table for label in ANGLES):
        angles = [_numbers(star, particle_table[label]) for label in ANGLES]
        rotations = from_relion_angles(np.stack(angles, axis=1))
    if all(label in particle_table for label in ORIGINS):
        shifts = -np.stack([_numbers(star, particle_table[label]) for label in ORIGINS], axis=1)

    images = _read_images(star, datadir or star.parent, particle_table["rlnImageName"], voxel_size, optics_table)
    return Particles(images, ctf, voxel_size, rotations, shifts, optics_table, particle_table)


def per_particle(star: Path, label: str, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> np.ndarray:
    """A column (n,) of numbers, from the particles or from their optics groups; zeros where neither table has it."""
    if label in particle_table:
        return _numbers(star, particle_table[label])
    group, known = (pd.Series(_numbers(star, table["rlnOpticsGroup"])) for table in (particle_table, optics_table))
    if unknown := set(group) - set(known):
        raise ConfigError(f"{star}: particles are in optics group {min(unknown):g}, which data_optics lacks: add it")
    if label not in optics_table:
        return np.zeros(len(particle_table))
    values = dict(zip(known, _numbers(star, optics_table[label]), strict=True))
    return group.map(values).to_numpy()


def chosen_rows(star: Path, particle_table: pd.DataFrame, subset: int | None, select: Selection) -> np.ndarray:
    """Rows (n,) of a half (None: of all) whose columns lie within the limits of `select`, in the table's order.

    The halves are those of all particles: a row that is left out moves no other one to the other half.
    """
    chosen = np.ones(len(particle_table), bool) if subset is None else half_of(particle_table) == subset
    for label, low, high in select:
        _need(star, "particles", particle_table, (label,))
        values = _numbers(star, particle_table[label])
        chosen &= (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))
    return np.flatnonzero(chosen)


def check_symmetry(symmetry: str) -> None:
    """Raises ConfigError for any point group but C1."""
    if symmetry.upper() != "C1":
        raise ConfigError(f"symmetry {symmetry} is not modelled: every particle is taken as C1. Leave it out")


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
    text = starfile.to_string({"optics": optics_table, "particles": particle_table})
    _, tables = text.split("\n", 1)  # starfile's first line is the time of day
    write_text(Path(path), "\n# version 30001\n" + tables)


def read_tables(star: Path, as_written: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables data_optics and data_particles, of RELION 3.1's form whatever form the file has.

    With `as_written` a star file's own columns are the text that stands there, and nothing of them is rounded: RELION
    has columns whose numbers six decimals do not hold, and names that look like numbers.
    """
    if not star.is_file():
        raise ConfigError(f"star file {star} does not exist")
    if star.suffix == ".cs":
        return _with_optics(star, read_cryosparc(star))
    linecache.clearcache()  # starfile reads through it, and it would give what a file of this name once held
    try:
        text = star.read_bytes().decode()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"star file {star} cannot be read: line {line} is not UTF-8 text: mend it") from error
    try:
        labels = re.findall(r"^\s*_(\S+)", text, re.MULTILINE) if as_written else []
        tables = starfile.read(star, always_dict=True, parse_as_string=labels)
    except Exception as error:  # starfile has no error class of its own: a broken file raises whatever it hits first
        raise ConfigError(f"star file {star} cannot be read ({error})") from error
    if "optics" not in tables and len(tables) == 1 and "rlnImageName" in (only := next(iter(tables.values()))):
        return _with_optics(star, _frame(star, "", only, as_written))
    if "optics" not in tables or "particles" not in tables:
        raise ConfigError(
            f"star file {star} must have the tables data_optics and data_particles of RELION 3.1 or later, or one table"
            f" of particles of RELION 3.0, found {', '.join(f'data_{name}' for name in tables) or 'none'}: is it"
            " the star file of another job?"
        )
    optics, particles = (_frame(star, name, tables[name], as_written) for name in ("optics", "particles"))
    return optics, particles


def _frame(star: Path, name: str, table: pd.DataFrame | dict, as_written: bool) -> pd.DataFrame:
    frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame([table])
    if frame.empty:
        raise ConfigError(f"star file {star} lists no particles: table data_{name} is empty")
    if frame.columns.has_duplicates:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise ConfigError(f"star file {star}: table data_{name} has the column {twice} twice: remove one")
    return frame.fillna("nan") if as_written else frame


def _with_optics(star: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """RELION 3.0's single table as those of 3.1: optics groups of equal optics, origins in Å."""
    _need(star, "particles", table, OPTICS[:3])
    if "rlnPixelSize" in table:
        pixel = _numbers(star, table["rlnPixelSize"])
    else:
        _need(star, "particles", table, ("rlnDetectorPixelSize", "rlnMagnification"))
        micrometres, magnification = (_numbers(star, table[label]) for label in OLD_OPTICS[3:5])
        pixel = 1e4 * micrometres / np.where(magnification > 0, magnification, np.nan)
    optics = pd.DataFrame({label: _numbers(star, table[label]) for label in OPTICS[:3]})
    optics["rlnImagePixelSize"] = pixel.round(6)
    groups = optics.drop_duplicates().reset_index(drop=True)
    groups.insert(0, "rlnOpticsGroup", np.arange(1, len(groups) + 1))
    number = optics.merge(groups, on=list(OPTICS), how="left")["rlnOpticsGroup"].to_numpy()
    particles = table.drop(columns=[label for label in OLD_OPTICS if label in table]).assign(rlnOpticsGroup=number)
    for old, new in zip(("rlnOriginX", "rlnOriginY"), ORIGINS, strict=True):
        if old in particles:
            particles[new] = _numbers(star, particles.pop(old)) * pixel
    return groups, particles


def _voxel_size(star: Path, optics_table: pd.DataFrame) -> float:
    _need(star, "optics", optics_table, ("rlnImagePixelSize",))
    sizes = np.unique(_numbers(star, optics_table["rlnImagePixelSize"]))
    if len(sizes) != 1 or not sizes[0] > 0:
        raise ConfigError(f"{star}: pixel sizes {sizes.tolist()} Å in one particle set: rescale to one size first")
    return float(sizes[0])


def _need(star: Path, table: str, frame: pd.DataFrame, labels: tuple[str, ...]) -> None:
    if missing := [label for label in labels if label not in frame]:
        raise ConfigError(f"star file {star}: table data_{table} lacks the column {', '.join(missing)}: add it")


def _numbers(star: Path, column: pd.Series) -> np.ndarray:
    """A column as float64 (n,). Raises ConfigError, naming the first row (from 1) that is not a finite number."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~(np.abs(values) < LARGEST))
    if len(bad):
        row = bad[0]
        raise ConfigError(f"star file {star}: {column.name} of row {row + 1} is {column.iloc[row]}, not a number")
    return values


def _check_optics(star: Path, ctf: np.ndarray) -> None:
    """Raises ConfigError where CTF parameters (n, 7) are outside of `OPTICS_LIMITS`."""
    for label, (low, high, unit) in OPTICS_LIMITS.items():
        values = ctf[:, CTF_LABELS.index(label)]
        bad = np.flatnonzero((values < low) | (values > high))
        if len(bad):
            raise ConfigError(
                f"star file {star}: particle {bad[0] + 1} has {label} {values[bad[0]]:g}; it is {unit}, {low} to {high}"
            )


def _check_defocus(star: Path, defocus: np.ndarray) -> None:
    """Raises ConfigError where defoci (n, 2) are negative, or so small that they must be in micrometres."""
    negative = (defocus < 0).any(axis=1)
    if negative.any():
        row = int(np.argmax(negative))
        raise ConfigError(
            f"star file {star}: particle {row + 1} has a negative defocus, {defocus[row].min():g} Å, overfocus:"
            " underfocus is positive; correct the sign"
        )
    if 0 < float(np.median(defocus)) < LEAST_DEFOCUS:
        raise ConfigError(
            f"star file {star}: half of the defoci are below {np.median(defocus):.3g} Å; they must be micrometres:"
            " multiply rlnDefocusU and rlnDefocusV by 10,000"
        )


def check_inside(star: Path, datadir: Path | None, particle_table: pd.DataFrame) -> None:
    """Raises ConfigError where an image's stack is outside of the folder that names are relative to."""
    _need(star, "particles", particle_table, ("rlnImageName",))
    _, stacks = _image_names(star, particle_table["rlnImageName"])
    folder = os.path.abspath(datadir or star.parent)
    for stack in stacks.unique():
        if os.path.commonpath([folder, os.path.abspath(os.path.join(folder, stack))]) != folder:
            row = int(np.argmax(stacks == stack))
            raise ConfigError(
                f"star file {star}: the image of particle {row + 1} is in {stack}, outside of the folder {folder}: name"
                " stacks from a folder that holds them all (--datadir; / for absolute names)"
            )


def _image_names(star: Path, names: pd.Series) -> tuple[np.ndarray, pd.Series]:
    """Indices from 0 (n,) and stacks (n,) of `index@stack`."""
    parts = names.astype(str).str.extract(r"^(\d{1,9})@(.+)$")
    bad = np.flatnonzero(parts[0].isna())
    if len(bad):
        name = names.iloc[bad[0]]
        raise ConfigError(f"star file {star}: rlnImageName of particle {bad[0] + 1} is {name}, not 000001@stack.mrcs")
    return parts[0].to_numpy(np.int64) - 1, parts[1]


def _read_images(
    star: Path, datadir: Path, names: pd.Series, voxel_size: float, optics_table: pd.DataFrame
) -> np.ndarray | Images:
    index, stack_names = _image_names(star, names)
    number, unique = pd.factorize(stack_names)
    stacks = tuple(open_stack(datadir / name, voxel_size) for name in unique)
    lengths = np.array([stack.shape[0] for stack in stacks])[number]
    bad = np.flatnonzero((index < 0) | (index >= lengths))
    if len(bad):
        row = bad[0]
        raise ConfigError(
            f"star file {star} asks for image {index[row] + 1} of {stack_names.iloc[row]} in row {row + 1}, which holds"
            f" images 1 to {lengths[row]}: the star file and the stack do not belong together"
        )
    boxes = {stack.shape[1:] for stack in stacks}
    if len(boxes) != 1 or len(set(*boxes)) != 1:
        raise ConfigError(f"star file {star}: images must be square and of one size, found {sorted(boxes)} pixels")
    if "rlnImageSize" in optics_table and set(optics_table["rlnImageSize"]) != set(*boxes):
        raise ConfigError(
            f"star file {star}: rlnImageSize is {optics_table['rlnImageSize'].iloc[0]}, but the images have"
            f" {boxes.pop()[0]} pixels: correct it, or name the right stacks"
        )

    images = Images(stacks, number, index)
    in_order = len(stacks) == 1 and np.array_equal(index, np.arange(index[0], index[0] + len(index)))
    if in_order and stacks[0].kind == np.float32:
        images = stacks[0].map()[index[0] : index[0] + len(index)]
    _check_images(star, images, names)
    return images


def _check_images(star: Path, images: np.ndarray | Images, names: pd.Series) -> None:
    """Raises ConfigError, naming the first row whose image has values that are not finite, or all the same."""
    chunk = max(1, CHUNK_BYTES // (4 * images.shape[-1] ** 2))
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk]
        low, high = part.min(axis=(1, 2)), part.max(axis=(1, 2))
        for fault, found in (
            (~np.isfinite(high) | ~np.isfinite(low), "has values that are not finite (NaN)"),
            (low == high, "is constant"),
        ):
            if fault.any():
                row = start + int(np.argmax(fault))
                raise ConfigError(
                    f"star file {star}: image {names.iloc[row]} of particle {row + 1} {found}: remove the row or make"
                    " the image again"
                )
