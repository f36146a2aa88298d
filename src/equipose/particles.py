"""Particle sets: a RELION 3.1 star file and its image stacks, in and out.

Rows keep the star file's order, whatever the order of the images in the stacks: `index@stack` is honoured, with stacks
relative to the star file's folder. All columns are kept, known or not. RELION moves an image's content by *minus* its
origin; `shifts` here are the displacement itself.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import starfile

from equipose.errors import ConfigError
from equipose.files import whole_file
from equipose.rotations import from_relion_angles

TRAINING_BOXES = (32, 64, 128, 256)

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnImagePixelSize")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
CTF_LABELS = (*DEFOCUS, *OPTICS[:3], "rlnPhaseShift")
"""The star file's names of optics.CTF_COLUMNS, in the same order and units."""

CHUNK_BYTES = 64_000_000


@dataclass(frozen=True)
class Particles:
    """n particles of L × L pixels. Truth or earlier estimates of the pose are None where the star file has none."""

    images: np.ndarray
    """(n, L, L) float32, memory-mapped where they are one stack's images in order."""
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


def read_particles(star: Path) -> Particles:
    """The particles of a RELION 3.1 star file.

    Raises ConfigError, naming the file, column or row, for: a star file or stack that is missing or cut short, no
    optics table, a missing column, images of several sizes, a pixel size that contradicts the stack's header, and
    images that are not finite.
    """
    optics_table, particle_table = _read_tables(star)
    _need(star, "optics", optics_table, ("rlnOpticsGroup", *OPTICS))
    _need(star, "particles", particle_table, ("rlnImageName", "rlnOpticsGroup", *DEFOCUS))
    if unknown := set(particle_table["rlnOpticsGroup"]) - set(optics_table["rlnOpticsGroup"]):
        raise ConfigError(f"{star}: particles are in optics group {min(unknown)}, which the optics table lacks: add it")
    voxel_sizes = optics_table["rlnImagePixelSize"].unique()
    if len(voxel_sizes) != 1:
        raise ConfigError(
            f"{star}: pixel sizes {voxel_sizes.tolist()} Å in one particle set: rescale to one size first"
        )
    voxel_size = float(voxel_sizes[0])

    group = particle_table["rlnOpticsGroup"]
    per_group = optics_table.drop_duplicates("rlnOpticsGroup").set_index("rlnOpticsGroup")
    ctf = np.zeros((len(particle_table), len(CTF_LABELS)), np.float32)
    for column, label in enumerate(CTF_LABELS):
        if label in particle_table:
            ctf[:, column] = _numbers(star, particle_table[label])
        elif label in per_group:
            ctf[:, column] = _numbers(star, group.map(per_group[label]))

    rotations = shifts = None
    if all(label in particle_table for label in ANGLES):
        angles = [_numbers(star, particle_table[label]) for label in ANGLES]
        rotations = from_relion_angles(np.stack(angles, axis=1))
    if all(label in particle_table for label in ORIGINS):
        shifts = -np.stack([_numbers(star, particle_table[label]) for label in ORIGINS], axis=1)

    images = _read_images(star, particle_table["rlnImageName"], voxel_size)
    return Particles(images, ctf, voxel_size, rotations, shifts, optics_table, particle_table)


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
    with whole_file(Path(path)) as partial:
        partial.write_text("\n# version 30001\n" + tables)


def _read_tables(star: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    if not star.is_file():
        raise ConfigError(f"star file {star} does not exist")
    try:
        tables = starfile.read(star, always_dict=True)
    except Exception as error:  # starfile has no error class of its own: a broken file raises whatever it hits first
        raise ConfigError(f"star file {star} cannot be read ({error})") from error
    if "optics" not in tables or "particles" not in tables:
        raise ConfigError(
            f"star file {star} must have the tables data_optics and data_particles of RELION 3.1 or later, found"
            f" {', '.join(f'data_{name}' for name in tables) or 'none'}: convert it with relion_convert_star"
        )
    optics, particles = (
        table if isinstance(table, pd.DataFrame) else pd.DataFrame([table])
        for table in (tables["optics"], tables["particles"])
    )
    if particles.empty:
        raise ConfigError(f"star file {star} lists no particles")
    return optics, particles


def _need(star: Path, table: str, frame: pd.DataFrame, labels: tuple[str, ...]) -> None:
    if missing := [label for label in labels if label not in frame]:
        raise ConfigError(f"star file {star}: table data_{table} lacks the column {', '.join(missing)}: add it")


def _numbers(star: Path, column: pd.Series) -> np.ndarray:
    """A column as float64 (n,). Raises ConfigError, naming the first row (from 1) that is not a finite number."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        row = bad[0]
        raise ConfigError(f"star file {star}: {column.name} of particle {row + 1} is {column.iloc[row]}, not a number")
    return values


def _read_images(star: Path, names: pd.Series, voxel_size: float) -> np.ndarray:
    parts = names.astype(str).str.extract(r"^(\d+)@(.+)$")
    bad = np.flatnonzero(parts[0].isna())
    if len(bad):
        name = names.iloc[bad[0]]
        raise ConfigError(f"star file {star}: rlnImageName of particle {bad[0] + 1} is {name}, not 000001@stack.mrcs")
    index = parts[0].to_numpy(np.int64) - 1
    stacks = {name: _open_stack(star.parent / name, voxel_size) for name in parts[1].unique()}
    for name, stack in stacks.items():
        asked = index[parts[1] == name]
        if asked.min() < 0 or asked.max() >= len(stack):
            raise ConfigError(
                f"star file {star} asks for image {asked.max() + 1 if asked.min() >= 0 else 0} of {name}, which holds"
                f" images 1 to {len(stack)}: the star file and the stack do not belong together"
            )
    boxes = {stack.shape[1:] for stack in stacks.values()}
    if len(boxes) != 1 or len(set(*boxes)) != 1:
        raise ConfigError(f"star file {star}: images must be square and of one size, found {sorted(boxes)} pixels")

    if len(stacks) == 1:
        (images,) = stacks.values()
        in_order = np.array_equal(index, np.arange(index[0], index[0] + len(index)))
        images = images[index[0] : index[0] + len(index)] if in_order else images[index]
    else:
        images = np.empty((len(index), *boxes.pop()), np.float32)
        for name, stack in stacks.items():
            rows = np.flatnonzero(parts[1] == name)
            images[rows] = stack[index[rows]]
    _check_finite(star, images, names)
    return images


def _open_stack(path: Path, voxel_size: float) -> np.ndarray:
    """Images (n, L, L) of a stack, memory-mapped if they are native float32."""
    if not path.is_file():
        raise ConfigError(
            f"image stack {path} does not exist: rlnImageName is relative to the star file's folder; move the star"
            " file or link the stack there"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # old programs leave the MAP stamp out: harmless
            with mrcfile.open(path, header_only=True, permissive=True) as mrc:
                header = mrc.header
                shape = (int(header.nz), int(header.ny), int(header.nx))
                kind = mrcfile.utils.data_dtype_from_header(header)
                offset = 1024 + int(header.nsymbt)
                header_size = float(header.cella.x) / max(shape[2], 1)
    except ValueError as error:
        raise ConfigError(f"image stack {path} is not an MRC file ({error})") from error
    needed, found = offset + int(np.prod(shape)) * kind.itemsize, path.stat().st_size
    if min(shape) < 1 or found < needed:
        raise ConfigError(
            f"image stack {path} is cut short: its header says {shape[0]} images of {shape[1]} × {shape[2]}, {needed}"
            f" bytes, and it has {found}. Copy or make it again"
        )
    # 0 and 1 are what programs write that do not know the pixel size.
    if header_size not in (0.0, 1.0) and abs(header_size - voxel_size) > 0.01 * voxel_size:
        raise ConfigError(
            f"image stack {path} has pixels of {header_size:.4g} Å by its header and {voxel_size:.4g} Å by the star"
            " file's rlnImagePixelSize: correct the wrong one"
        )
    images = np.memmap(path, kind, "r", offset, shape)
    return images if kind == np.dtype(np.float32) else images.astype(np.float32)


def _check_finite(star: Path, images: np.ndarray, names: pd.Series) -> None:
    chunk = max(1, CHUNK_BYTES // images[0].nbytes)
    for start in range(0, len(images), chunk):
        finite = np.isfinite(images[start : start + chunk]).all(axis=(1, 2))
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ConfigError(
                f"star file {star}: image {names.iloc[row]} of particle {row + 1} has values that are not finite (NaN):"
                " remove the row or make the image again"
            )
