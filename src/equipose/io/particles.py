"""Particle sets: a star file of RELION 3.0 to 5, or cryoSPARC .cs files, and their image stacks.

Rows keep the file's order, whatever the order of the images in the stacks: `index@stack` is honoured, with stacks
relative to the star file's folder, or to another (`datadir`). RELION moves an image's content by *minus* its origin;
`shifts` here are the displacement itself. The tables are those of `particle_tables`.
"""

import functools
import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from equipose.config.settings import TRAINING_BOXES, Selection, Told
from equipose.core.rotations import from_relion_angles
from equipose.errors import ConfigError, FileWarning
from equipose.io.cryosparc import SIGN, SIGN_LABEL
from equipose.io.files import sampled_digest
from equipose.io.particle_tables import (
    ANGLES,
    APPLIED,
    CTF_LABELS,
    DEFOCUS,
    ENVELOPE,
    FLIPPED,
    IGNORED,
    MAGNIFICATION,
    NAMED,
    OPTICS,
    ORIGINS,
    PHASE_SHIFT,
    PIXEL,
    SIZE,
    TILT,
    Tables,
    called,
    chosen_rows,
    groups_in_use,
    image_names,
    loose,
    nearly,
    need,
    numbers,
    of_groups,
    per_particle,
    read_tables,
    rows_like_this,
    warn,
)
from equipose.io.stacks import Images, Stack, open_stack, stack_path, warn_of_pixel_sizes

LEAST_DEFOCUS = 100.0
"""Å; a typical defocus below this is one in micrometres."""

IN_MICROMETRES = 10.0
"""Å; a single defocus below this one, and not 0, may be in micrometres."""

ASTIGMATIC = 0.5
"""Part of the larger defocus by which the two defoci of an image differ at most, if they are right."""

SEVERAL = 20
"""Poses whose angles would not all be small by chance."""

PIXELS = (0.05, 1000.0)
"""Å; a pixel size outside of these limits is in another unit."""

LARGEST_PIXEL = 1e15
"""Absolute value of a pixel. The square of a larger one is beyond single precision."""

OPTICS_LIMITS = {
    "rlnVoltage": (10, 1000, "kV"),
    "rlnSphericalAberration": (-100, 100, "mm"),
    "rlnAmplitudeContrast": (0, 1, "a fraction"),
}
"""The range and unit of each CTF parameter."""

ALIKE = 1e-4
"""Pixel sizes that differ by at most this part count as one: 0.01 of a pixel at the edge of the largest box."""

CHUNK_BYTES = 16_000_000
"""Size of the images that are checked at once."""

SAMPLE_BYTES = 1_000_000_000
"""Size of the images that a quick look at a particle set checks."""


@dataclass(frozen=True)
class Particles:
    """n particles of L × L pixels. True or earlier poses are None if the star file has none."""

    images: np.ndarray | Images
    """(n, L, L) float32; those of files are read where they are indexed, and `images[:]` reads all"""
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
    """Facts of a star file that need no images."""

    subsets: dict[int | None, int]
    """Particles chosen in half 1, in half 2, and (None) in all."""
    box: int
    voxel_size: float
    """Å"""
    posed: bool
    """Whether each of the chosen particles has a pose"""
    digest: str
    """SHA-256 of the star file, or of the .cs files."""
    stacks: str
    """Digest of the image stacks (files.sampled_digest)."""
    paths: tuple[Path, ...]
    """The image stacks."""


def summarise(star: Path, datadir: Path | None = None, select: Selection = (), told: Told = Told()) -> Summary:
    """`summary_of` a star or .cs file, which is read again once it has changed.

    Warnings are not given: the first reading of the file's images gives them.
    """
    files = (path for path in (star, *map(Path, told.passthrough)) if path.exists())
    return _summarise(star, datadir, select, told, tuple((s.st_size, s.st_mtime_ns) for s in map(os.stat, files)))


@functools.lru_cache(maxsize=8)
def _summarise(
    star: Path, datadir: Path | None, select: Selection, told: Told, state: tuple[tuple[int, int], ...]
) -> Summary:
    """`summarise`, of files in this `state`: their sizes and times of change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FileWarning)
        return summary_of(star, datadir, read_tables(star, told=told), select, told)


def summary_of(
    star: Path, datadir: Path | None, tables: Tables, select: Selection = (), told: Told = Told()
) -> Summary:
    """Number, box and pixel size of the particles in the tables of a file. Raises ConfigError like `read_particles`."""
    folder, (optics_table, particle_table) = datadir or star.parent, tables
    need(star, "particles", particle_table, ("rlnImageName",))
    rows = {subset: chosen_rows(star, tables, subset, select) for subset in (None, 1, 2)}
    chosen = particle_table.iloc[rows[None]] if len(rows[None]) else particle_table
    optics_table = groups_in_use(star, optics_table, chosen)
    box, voxel_size = _common_size(sizes_of(star, folder, optics_table, chosen))
    _, number, names, _ = image_names(star, chosen["rlnImageName"])
    paths = tuple(stack.path for stack in _open_stacks(star, folder, names, number, chosen))
    posed = set(ANGLES) <= set(chosen) and bool(np.isfinite([loose(chosen[label]) for label in ANGLES]).all())
    digest = hashlib.sha256()
    for file in (star, *map(Path, told.passthrough)):
        digest.update(file.read_bytes())
    counts = {subset: len(part) for subset, part in rows.items()}
    return Summary(counts, box, voxel_size, posed, digest.hexdigest(), sampled_digest(paths), paths)


def read_particles(
    star: Path,
    datadir: Path | None = None,
    tables: Tables | None = None,
    rows: np.ndarray | None = None,
    told: Told = Told(),
    poses: bool = True,
    size: tuple[int, float] | None = None,
    quick: bool = False,
) -> Particles:
    """The particles of a star file, or a .cs file, whose image names are relative to `datadir` or the file's folder.

    `tables` is the result of an earlier `read_tables`: a million rows take some seconds. `rows` (n,) are the wanted
    rows, from 0; the others need not be sound. Without `poses`, poses are neither read nor checked. Images of several
    sizes or pixel sizes are brought to `size`, a box and a pixel size in Å. Without `size`, these are those of the
    smallest field of view, so that no image has to be padded. With `quick`, the values of `checked_rows` alone are
    checked.

    Raises ConfigError, naming the file, column or rows, for: a star file or stack that is missing or cut short, no
    optics table, a missing column, images that are not square, a box that is not the optics group's, and images that
    are not finite. Warns of pixel sizes that contradict the stacks' headers, and of columns that are not used.

    Examples:
        >>> particles = read_particles(folder / "particles.star")
        >>> particles.images.shape, particles.voxel_size
        ((100, 32, 32), 17.0)
    """
    optics_table, particle_table = tables or read_tables(star, told=told)
    if rows is not None:
        particle_table = particle_table.iloc[rows]
    need(star, "particles", particle_table, ("rlnImageName", "rlnOpticsGroup"))
    need(star, "optics", optics_table, ("rlnOpticsGroup", PIXEL))
    optics_table = groups_in_use(star, optics_table, particle_table)
    if (of_groups(star, "rlnImageDimensionality", optics_table, particle_table, 2.0) == 3).any():
        raise ConfigError(
            f"star file {star}: rlnImageDimensionality is 3, subtomograms (tomography): equipose takes single particles"
        )
    ctf = _read_ctf(star, optics_table, particle_table)
    _warn_of_columns(star, optics_table, particle_table)

    rotations = shifts = None
    if poses and all(label in particle_table for label in ANGLES):
        angles = np.stack([numbers(star, particle_table[label]) for label in ANGLES], axis=1)
        if len(angles) >= SEVERAL and 0 < np.abs(angles).max() <= 2 * np.pi:
            warn(
                f"star file {star}: all angles of poses are below 2 π, so they may be in radians: RELION's are in"
                " degrees"
            )
        rotations = from_relion_angles(angles)
    if poses and all(label in particle_table for label in ORIGINS):
        shifts = -np.stack([numbers(star, particle_table[label]) for label in ORIGINS], axis=1)

    images, voxel_size = _read_images(star, datadir or star.parent, optics_table, particle_table, size, quick)
    return Particles(images, ctf, voxel_size, rotations, shifts, optics_table, particle_table)


def check_training_box(box: int) -> None:
    """Raises ConfigError unless `box` is one that the encoders' pooling halves evenly down to 2 pixels."""
    if box not in TRAINING_BOXES:
        known = ", ".join(map(str, TRAINING_BOXES))
        raise ConfigError(
            f"images of {box} × {box} pixels cannot be trained on: box must be one of {known}. Re-scale them to one of"
            " these (relion_image_handler --rescale_angpix … --new_box …)"
        )


def _read_ctf(star: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> np.ndarray:
    """CTF parameters (n, 7), or (n, 9) with B and scale factors. RELION takes V as U where it is not there."""
    for label in OPTICS[:3]:
        if label not in particle_table:
            need(star, "optics", optics_table, (label,))
    if DEFOCUS[0] not in particle_table:
        raise ConfigError(
            f"star file {star}: table data_particles lacks the column {DEFOCUS[0]}: add it (CtfFind, then Extract), or"
            " say --no-ctf where images have no CTF, such as clean projections" + nearly(DEFOCUS[:1], particle_table)
        )
    columns = {label: per_particle(star, label, optics_table, particle_table) for label in CTF_LABELS}
    _warn_of_two_optics(star, optics_table, particle_table)
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
    _warn_of_units(star, ctf, particle_table)
    _check_scale(star, envelope["rlnCtfScalefactor"], particle_table)
    return ctf


def _warn_of_two_optics(star: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> None:
    """Warn where the two tables differ: of RELION's programs, some take the one, and some the other."""
    for label in OPTICS[:3]:
        if label in particle_table and label in optics_table:
            own, theirs = loose(particle_table[label]), of_groups(star, label, optics_table, particle_table)
            if (other := own != theirs).any():
                first = int(np.argmax(other))
                warn(
                    f"star file {star}: {label} of row {particle_table.index[first] + 1} is {own[first]:g} in"
                    f" data_particles and {theirs[first]:g} in data_optics: the first is taken, as by"
                    " relion_reconstruct, and relion_refine takes the second: remove the wrong one"
                    + rows_like_this(particle_table, other)
                )


def _check_scale(star: Path, scale: np.ndarray, table: pd.DataFrame) -> None:
    """Raises ConfigError where a scale factor (n,) leaves no CTF."""
    if (bad := scale <= 0).any():
        first = int(np.argmax(bad))
        raise ConfigError(
            f"star file {star}: particle {table.index[first] + 1} has {called(star, 'rlnCtfScalefactor')}"
            f" {scale[first]:g}, by which its CTF is multiplied: correct it, or remove the column"
            + rows_like_this(table, bad)
        )


def _warn_of_units(star: Path, ctf: np.ndarray, table: pd.DataFrame) -> None:
    """Warn of CTF parameters (n, 7) that are possible, but more likely in another unit, or missing."""
    high, low = ctf[:, :2].max(axis=1), ctf[:, :2].min(axis=1)
    small, apart = (high > 0) & (high < IN_MICROMETRES), high - low > ASTIGMATIC * high
    for bad, what in (
        (small, "a defocus that may be in micrometres: RELION's is in Å"),
        (apart & ~small, "two defoci that differ by more than half"),
    ):
        if bad.any():
            first = int(np.argmax(bad))
            warn(
                f"star file {star}: particle {table.index[first] + 1} has {what} ({ctf[first, 0]:g} and"
                f" {ctf[first, 1]:g}): correct it, or leave it out with --select{rows_like_this(table, bad)}"
            )
    if not high.any() and not (ctf[:, CTF_LABELS.index("rlnAmplitudeContrast")] == 1).all():
        warn(f"star file {star}: all defoci are 0: if images have no CTF, say --no-ctf")
    shift = np.abs(ctf[:, CTF_LABELS.index(PHASE_SHIFT)]).max()
    if 0.01 < shift <= np.pi:
        warn(
            f"star file {star}: {PHASE_SHIFT} is {shift:.3g} at most, in degrees: if these are radians, multiply them"
            " by 57.2958"
        )


def _warn_of_columns(star: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> None:
    """Warn of columns that are not used."""
    for label, what in IGNORED.items():
        if label in optics_table and optics_table[label].astype(str).str.contains("[1-9A-Za-z]").any():
            warn(f"star file {star}: {label} ({what}) is not taken into account")
    for label in (*APPLIED, *TILT, *MAGNIFICATION, PIXEL, SIZE):
        if label in particle_table:
            warn(
                f"star file {star}: {label} in data_particles is ignored by RELION, and so by equipose: move it to"
                " data_optics" + (", or say --phase-flipped (RELION: --ctf_phase_flipped)" if label == FLIPPED else "")
            )


def _check_optics(star: Path, ctf: np.ndarray, table: pd.DataFrame) -> None:
    """Raises ConfigError where CTF parameters (n, 7) are outside of `OPTICS_LIMITS`."""
    for label, (low, high, unit) in OPTICS_LIMITS.items():
        values = ctf[:, CTF_LABELS.index(label)]
        bad = (values < low) | (values > high)
        if bad.any():
            first = int(np.argmax(bad))
            raise ConfigError(
                f"star file {star}: particle {table.index[first] + 1} has {called(star, label)} {values[first]:g}; it"
                f" is {unit}, {low} to {high}" + rows_like_this(table, bad)
            )


def _check_defocus(star: Path, ctf: np.ndarray, table: pd.DataFrame) -> None:
    """Raises ConfigError where defoci are negative, or so small that they must be in micrometres."""
    defocus = ctf[:, :2]
    negative = (defocus < 0).any(axis=1)
    if negative.any():
        first = int(np.argmax(negative))
        raise ConfigError(
            f"star file {star}: particle {table.index[first] + 1} has a negative defocus, {defocus[first].min():g} Å"
            " (overfocus), and underfocus is positive: correct the sign, or leave such particles out"
            + rows_like_this(table, negative)
        )
    typical = float(np.median(defocus))
    if 0 < typical < LEAST_DEFOCUS:
        raise ConfigError(
            f"star file {star}: a defocus of {typical:g} is in micrometres, and RELION's is in Å: multiply"
            " rlnDefocusU and rlnDefocusV by 10,000"
        )


def sizes_of(star: Path, datadir: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> np.ndarray:
    """Box and pixel size in Å of each particle, (n, 2), by data_optics; boxes that it lacks, by the stacks' headers."""
    box = of_groups(star, SIZE, optics_table, particle_table)
    if not (box > 0).all():
        _, number, stacks, _ = image_names(star, particle_table["rlnImageName"])
        opened = _open_stacks(star, datadir, stacks, number, particle_table)
        box = np.array([stack.shape[-1] for stack in opened])[number]
    return np.stack([box, _pixel_sizes(star, optics_table, particle_table)], axis=1)


def _pixel_sizes(star: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> np.ndarray:
    """Å, (n,)"""
    pixel = of_groups(star, PIXEL, optics_table, particle_table)
    low, high = PIXELS
    bad = ~((pixel >= low) & (pixel <= high))
    if bad.any():
        raise ConfigError(
            f"star file {star}: the pixel size is {pixel[bad][0]:g} Å: correct {PIXEL}, or say --pixel-size ({low:g} to"
            f" {high:g})"
        )
    return pixel


def _common_size(sizes: np.ndarray) -> tuple[int, float]:
    """The common box and pixel size for images of several, (n, 2): those of the smallest field of view.

    Pixel sizes that are `ALIKE` count as one. If several share that field of view, the one with the most images counts.
    """
    kinds = pd.DataFrame(sizes).value_counts().index.to_frame().to_numpy()  # the most frequent first
    field = kinds[:, 0] * kinds[:, 1]
    box, pixel = kinds[np.argmax(field <= field.min() * (1 + ALIKE))]
    return int(box), float(pixel)


def _open_stacks(
    star: Path, datadir: Path, names: list[str], number: np.ndarray, particle_table: pd.DataFrame
) -> tuple[Stack, ...]:
    """The stacks of these names. If some are missing, one message names the first of them and counts them all."""
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
        raise ConfigError(f"{star}, row {row}: {absent[0][1]}{more}{rows_like_this(particle_table, missing)}")
    return tuple(opened)


def _read_images(
    star: Path,
    datadir: Path,
    optics_table: pd.DataFrame,
    particle_table: pd.DataFrame,
    common: tuple[int, float] | None,
    quick: bool,
) -> tuple[Images, float]:
    """The images, of one size and pixel size, and this in Å."""
    names = particle_table["rlnImageName"]
    index, number, stack_names, alone = image_names(star, names)
    stacks = _open_stacks(star, datadir, stack_names, number, particle_table)
    for code in alone:
        if stacks[code].shape[0] > 1:
            row = names.index[int(np.argmax(names == stack_names[code]))] + 1
            count, height, width = stacks[code].shape
            raise ConfigError(
                f"star file {star}: rlnImageName of particle {row} is {stack_names[code]}, which holds {count} images:"
                " say which, as in 000001@stack.mrcs"
                + f" (if it is a volume of {count}³ voxels: equipose takes no subtomograms)"
                * (count == height == width)
            )
    lengths, heights, widths = (np.array(part)[number] for part in zip(*(stack.shape for stack in stacks), strict=True))
    _check_indices(star, index, lengths, stacks, stack_names, number, names)
    if (heights != widths).any():
        shape = stacks[number[np.argmax(heights != widths)]].shape
        raise ConfigError(
            f"star file {star}: images must be square, found {shape[1]} × {shape[2]} pixels"
            + rows_like_this(names, heights != widths)
        )
    said = of_groups(star, SIZE, optics_table, particle_table)
    other = (said != widths) & (said > 0)
    if other.any():
        first = int(np.argmax(other))
        raise ConfigError(
            f"star file {star}: rlnImageSize is {said[first]:g}, but the images have {widths[first]} pixels: correct"
            " it, or name the right stacks" + rows_like_this(names, other)
        )
    sizes = np.stack([widths, _pixel_sizes(star, optics_table, particle_table)], axis=1)
    box, voxel_size = common or _common_size(sizes)
    pixel = sizes[:, 1] / voxel_size
    pixel[np.abs(pixel - 1) <= ALIKE] = 1
    _warn_of_stacks(star, stacks, number, index, sizes)
    sign = numbers(star, particle_table[SIGN_LABEL]) if SIGN_LABEL in particle_table else np.ones(len(names))
    if (sign < 0).any() and not (sign < 0).all():
        warn(
            f"{star}: {SIGN} is -1 for some particles and not for others: images are multiplied by it, as signs of"
            " their contrast. RELION does not do so: refine from poses.cs, or give RELION stacks of one contrast"
        )
    images = Images(stacks, number, index, box, pixel, sign)
    _check_images(star, images, names, checked_rows(images) if quick else np.arange(len(images)))
    return images, voxel_size


def _check_indices(
    star: Path,
    index: np.ndarray,
    lengths: np.ndarray,
    stacks: tuple[Stack, ...],
    stack_names: list[str],
    number: np.ndarray,
    names: pd.Series,
) -> None:
    bad = (index < 0) | (index >= lengths)
    if bad.any():
        row = int(np.argmax(bad))
        from_zero = (index < 0).any() and (index < lengths - 1).all()
        room = stacks[number[row]].room()
        raise ConfigError(
            f"star file {star} asks for image {index[row] + 1} of {stack_names[number[row]]} in row"
            f" {names.index[row] + 1}, which holds images 1 to {lengths[row]}: "
            + (
                "images are counted from 1; if the file counts them from 0, add 1 to each"
                if from_zero
                else f"that is what its header says, and its bytes are enough for {room}: the program that wrote it did"
                " not finish, so make it again"
                if index[row] < room
                else "the star file and the stack do not belong together"
            )
            + rows_like_this(names, bad)
        )


def _warn_of_stacks(
    star: Path, stacks: tuple[Stack, ...], number: np.ndarray, index: np.ndarray, sizes: np.ndarray
) -> None:
    """Warn of stacks that other programs read in another way, or that may surprise the user."""
    _, first = np.unique(number, return_index=True)
    warn_of_pixel_sizes(stacks, sizes[first, 1], star)
    boxes = np.unique(sizes[:, 0])
    low, high = sizes[:, 1].min(), sizes[:, 1].max()
    if len(boxes) > 1 or high > low * (1 + ALIKE):
        pixels = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        warn(
            f"{star}: images of {', '.join(f'{box:.0f}' for box in boxes[:NAMED])} pixels of {pixels} Å are brought to"
            " one size and pixel size. RELION 3.1 gives its map the size of the first image: put one of the wanted"
            " size first"
        )
    if (boxes % 2).any():
        warn(f"{star}: images have an odd number of pixels: RELION 3.1 reconstructs wrongly from such images")
    if any(stack.kind.kind == "u" and stack.kind.itemsize == 2 for stack in stacks):
        warn(
            f"{star}: stacks hold numbers of 16 bits without a sign (mode 6, or mode 1 with a maximum above 32,767)."
            " RELION 3.1 reads them with one, and values above 32,767 are wrong there"
        )


def checked_rows(images: np.ndarray | Images) -> np.ndarray:
    """Rows, evenly spread over (n, L, L), of images that are `SAMPLE_BYTES` in size; all rows of a smaller set."""
    most = max(1, SAMPLE_BYTES // (4 * images.shape[-1] ** 2))
    return np.linspace(0, len(images) - 1, min(len(images), most)).astype(np.int64)


def _check_images(star: Path, images: Images, names: pd.Series, chosen: np.ndarray) -> None:
    """Raises ConfigError, naming the first of the `chosen` rows whose image has values not finite, or all the same.

    An image that several rows name is read once.
    """
    images, names = images.of(chosen), names.iloc[chosen]
    place = images.index + images.stack * (int(images.index.max()) + 1)
    _, rows, again = np.unique(place, return_index=True, return_inverse=True)
    chunk = max(1, CHUNK_BYTES // (4 * images.shape[-1] ** 2))
    low, high = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), chunk):
        part = images[rows[start : start + chunk]]
        low[start : start + chunk], high[start : start + chunk] = part.min(axis=(1, 2)), part.max(axis=(1, 2))
    for fault, found in (
        (~np.isfinite(high) | ~np.isfinite(low), "has values that are not finite (NaN)"),
        (np.maximum(high, -low) > LARGEST_PIXEL, f"has values beyond {LARGEST_PIXEL:g}"),
        (low == high, "is constant"),
    ):
        if fault.any():
            bad = fault[again]
            row = int(np.argmax(bad))
            raise ConfigError(
                f"star file {star}: image {names.iloc[row]} of particle {names.index[row] + 1} {found}: remove the row"
                " or make the image again" + rows_like_this(names, bad)
            )
