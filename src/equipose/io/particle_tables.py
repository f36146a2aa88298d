"""The two tables of a particle set, data_optics and data_particles, as RELION 3.1 has them.

Older star files and .cs files are converted to these tables. All columns are kept, also unknown ones. The rows keep the
file's order. The table's index has their numbers in the file, and messages count them from 1. Only the rows that are
asked for, and their optics groups, are checked.
"""

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from equipose.config.settings import Selection, Told
from equipose.errors import ConfigError, FileWarning
from equipose.io.cryosparc import COLUMNS, COMPRESSED, NUMPY, ignored_fields, read_cryosparc
from equipose.io.files import write_text
from equipose.io.half_sets import MICROGRAPH_PIXEL, half_of
from equipose.io.image_names import ImageNames, numbered_alike
from equipose.io.stacks import OTHER_FORMATS, SAME_PIXEL, stack_path
from equipose.io.starfiles import read_star, star_text

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst")
OF_A_POSE = re.compile("rln(Angle(Rot|Tilt|Psi)|Origin[XYZ])")
"""The beginning of all labels of a pose. RELION's local searches start from the priors among them, and cryoDRGN reads
rlnOriginX."""

PIXEL, SIZE = "rlnImagePixelSize", "rlnImageSize"
OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", PIXEL)
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
PHASE_SHIFT = "rlnPhaseShift"
CTF_LABELS = (*DEFOCUS, *OPTICS[:3], PHASE_SHIFT)
"""The star file's names of `ctf.CTF_COLUMNS`, in the same order and units."""

ENVELOPE = {"rlnCtfBfactor": 0.0, "rlnCtfScalefactor": 1.0}
"""The star file's names of `ctf.ENVELOPE_COLUMNS`, and their values if the file lacks them."""

FLIPPED, MULTIPLIED = "rlnCtfDataArePhaseFlipped", "rlnCtfDataAreCtfPremultiplied"
APPLIED = {FLIPPED: "flipped", MULTIPLIED: "multiplied"}
"""What another program may have done to the images with their CTF. RELION reads the second in data_optics only, and has
an option for the first (--ctf_phase_flipped)."""

TILT = ("rlnBeamTiltX", "rlnBeamTiltY")
MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
"""Beam tilt in mrad, and the matrix of an anisotropic magnification, of an optics group. Both are taken out of the
images."""

IGNORED = {
    "rlnEvenZernike": "symmetric aberrations of higher order",
    "rlnOddZernike": "antisymmetric aberrations of higher order",
    "rlnMtfFileName": "the detector's modulation transfer function",
}
"""Labels of data_optics that RELION uses for its CTF or map, and equipose does not."""

OLD_PIXEL = ("rlnDetectorPixelSize", "rlnMagnification", "rlnPixelSize")
OF_A_GROUP = (*OPTICS, *APPLIED, *TILT, *MAGNIFICATION, SIZE, "rlnImageDimensionality", MICROGRAPH_PIXEL, *IGNORED)
"""Columns that RELION 3.1 moved from the particles to the optics table."""

CISTEM = "is cisTEM's: export the particles for RELION there (Assets, Refinement Packages, Export)"

PARTICLE_FILES = (".star", ".cs")
"""Ends of the names of files of particles."""

LISTS = {
    "rlnReferenceImage": "class averages or models: name the particles of that run, …_data.star",
    "rlnExperimentalDataStarFile": "the state of a RELION run: name the particles of that run, …_data.star",
    "rlnModelStarFile": "the state of a RELION run: name the particles of that run, …_data.star",
    "rlnJobTypeLabel": "the settings of a RELION job: name a star file of particles that it has made",
    "rlnPipeLineJobCounter": "the jobs of a RELION project: name a star file of particles",
    "rlnMicrographMovieName": "movies: extract particles first (Extract/job…/particles.star)",
    "rlnCoordinateX": "coordinates without images: extract particles first (Extract/job…/particles.star)",
    "rlnMicrographCoordinates": "coordinates without images: extract particles first (Extract/job…/particles.star)",
    "rlnMicrographName": "micrographs: extract particles first (Extract/job…/particles.star)",
    "image": "particles for Xmipp: write them for RELION (Scipion: export particles)",
}
"""What a star file lists that has one of these labels, but no particles of RELION; the first label counts."""

LARGEST = 1e30
"""Larger numbers in a star file are refused. Single precision holds this one."""

NAMED = 5
"""Largest number of rows that a message names."""

SOUGHT = 1000
"""Number of stacks that are sought, if none of them is there, before it is said that they are missing."""

Tables = tuple[pd.DataFrame, pd.DataFrame]
"""data_optics and data_particles. The index of the second has the rows' numbers in the file."""


def groups_in_use(star: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> pd.DataFrame:
    """The optics groups that have particles. RELION also keeps groups that have none after a selection."""
    if "rlnOpticsGroup" not in optics_table or "rlnOpticsGroup" not in particle_table:
        return optics_table
    known = loose(optics_table["rlnOpticsGroup"])
    group = numbers(star, particle_table["rlnOpticsGroup"])
    twice = pd.Series(known).duplicated() & np.isin(known, group)
    if twice.any():
        raise ConfigError(f"star file {star}: data_optics has optics group {known[twice][0]:g} twice: remove one")
    unknown = ~np.isin(group, known)
    if unknown.any():
        raise ConfigError(
            f"{star}: particles are in optics group {group[unknown][0]:g}, which data_optics lacks: add it"
            + rows_like_this(particle_table, unknown)
        )
    return optics_table[np.isin(known, group)]


def per_particle(
    star: Path,
    label: str,
    optics_table: pd.DataFrame,
    particle_table: pd.DataFrame,
    absent: float = 0.0,
) -> np.ndarray:
    """A column (n,) of numbers, from the particles or else from their optics groups; `absent` if neither has it."""
    if label in particle_table:
        return numbers(star, particle_table[label])
    return of_groups(star, label, optics_table, particle_table, absent)


def of_groups(
    star: Path, label: str, optics_table: pd.DataFrame, particle_table: pd.DataFrame, absent: float = 0.0
) -> np.ndarray:
    """A column of the optics table for each particle, (n,); `absent` if the table lacks it."""
    if label not in optics_table:
        return np.full(len(particle_table), absent)
    used = groups_in_use(star, optics_table, particle_table)
    known, group = (numbers(star, table["rlnOpticsGroup"]) for table in (used, particle_table))
    order = np.argsort(known)
    place = order[np.searchsorted(known[order], group)]
    values = loose(used[label])
    bad = ~(np.abs(values) < LARGEST)
    if bad.any():
        first = int(np.argmax(bad))
        row = particle_table.index[int(np.argmax(place == first))] + 1
        raise ConfigError(
            f"star file {star}: {called(star, label)} of optics group {known[first]:g} is {used[label].iloc[first]},"
            " not a number"
            f" (row {row} is the first particle of the group)"
        )
    return values[place]


def chosen_rows(star: Path, tables: Tables, subset: int | None, select: Selection) -> np.ndarray:
    """Rows (n,) of a half-set whose columns lie within the limits of `select`; with `subset` None, of both half-sets.

    Half-sets are drawn from all particles, so they do not depend on `select`.
    """
    optics_table, particle_table = tables
    chosen = np.ones(len(particle_table), bool)
    if subset is not None:
        chosen = half_of(particle_table, optics_table) == subset
    for label, low, high in select:
        values = _sortable(star, label, optics_table, particle_table)
        chosen &= (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))
    return np.flatnonzero(chosen)


def _sortable(star: Path, label: str, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> np.ndarray:
    """A column (n,), also one of data_optics. Not a number is within no limits, but text is an error."""
    if label not in particle_table and label in optics_table:
        return of_groups(star, label, optics_table, particle_table)
    need(star, "particles", particle_table, (label,))
    column = particle_table[label]
    values = loose(column)
    text = np.isnan(values)
    text[text] = ~column[text].astype(str).str.lower().isin(["nan", "-nan"])
    return numbers(star, column) if text.any() else values


def write_star(path: Path, optics_table: pd.DataFrame, particle_table: pd.DataFrame) -> None:
    """Write a RELION 3.1 star file, whole or not at all; the same tables give the same bytes."""
    write_text(Path(path), star_text({"optics": optics_table, "particles": particle_table}))


def without_poses(particle_table: pd.DataFrame, but: tuple[str, ...] = ()) -> pd.DataFrame:
    """The table without all columns of a pose and of its priors; the columns of `but` stay."""
    gone = [label for label in particle_table if OF_A_POSE.match(label) and label not in but]
    return particle_table.drop(columns=gone)


def read_tables(star: Path, as_written: bool = False, told: Told = Told()) -> Tables:
    """The tables data_optics and data_particles of any file, in RELION 3.1's form.

    With `as_written`, the columns of a star file are its own text. So numbers keep all decimals, and names that look
    like numbers stay names. What `told` says about the CTF is then not added.
    """
    kind = _kind_of_file(star)
    if told.passthrough and kind != "cs":
        raise ConfigError(f"{told.passthrough[0]} is given beside {star}: only .cs files of one job are joined")
    if kind == "cs":
        passthrough = tuple(map(Path, told.passthrough))
        if unused := ignored_fields(star, passthrough):
            warn(f"{star}: {', '.join(unused)} of cryoSPARC's refinement is not taken into account")
        tables = _with_optics(star, read_cryosparc(star, passthrough, told.no_ctf, told.pixel_size), told)
    else:
        tables = _star_tables(star, as_written, told)
    if star.suffix not in PARTICLE_FILES:  # after the errors about what it is
        ends = " or ".join(PARTICLE_FILES)
        raise ConfigError(f"{star} must have a name that ends in {ends}: rename it, or link it to such a name")
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
    """The folder that image names start from: the file's folder, the working folder, or a folder above the file.

    RELION names images from the project's folder, which is above the file. It is the folder of the first stack that is
    there, be it a link to nowhere: earlier ones may be missing. None if no folder has a stack.
    """
    if "rlnImageName" not in particle_table:
        return None
    folders = star.parent, Path.cwd(), *star.parent.parents
    for name in image_names(star, particle_table["rlnImageName"]).stacks[:SOUGHT]:
        for folder in folders if not os.path.isabs(name) else ():
            if os.path.lexists(stack_path(folder, name)):
                return folder
    return None


def is_cryosparc(star: Path) -> bool:
    """Whether the file is a .cs file, by its name or its first bytes."""
    return _kind_of_file(star) == "cs"


def _kind_of_file(star: Path) -> str:
    """`cs` or `star`, by the file's first bytes. Raises ConfigError with the remedy if it is neither."""
    if star.is_dir():
        inside = sorted(path.name for kind in ("*.cs", "*.star") for path in star.glob(kind))
        found = f": name one of its files, such as {', '.join(inside[:NAMED])}" if inside else " without star files"
        raise ConfigError(
            f"{star} is a folder{found}. Of a cryoSPARC job, name the .cs file of its particles (Jn/…particles….cs)"
        )
    if not star.is_file():
        raise ConfigError(f"star file {star} does not exist: correct the path")
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
    if start.partition(b"\n")[0].strip().endswith((b".mrc", b".mrcs")):
        raise ConfigError(
            f"{star} is a list of stacks, as cryoDRGN takes them: give the star or .cs file that names their images"
        )
    if star.suffix == ".cistem":
        raise ConfigError(f"{star} {CISTEM}")
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
        raise ConfigError(f"star file {star} {CISTEM}")
    if any(re.match("rln(Tomo(Name|Particle|Sub|Visible|Tomogram)|CtfImage)", label) for label in labels):
        raise ConfigError(
            f"star file {star} lists subtomograms (tomography): equipose takes single particles, images of one"
            " projection each"
        )
    tables = {name: table for name, table in tables.items() if not name.startswith("general")}
    if "optics" not in tables and len(tables) == 1 and "rlnImageName" in (only := next(iter(tables.values()))):
        return _with_optics(star, _filled(star, "", only), told)
    if "optics" not in tables or "particles" not in tables:
        for label, what in LISTS.items():
            if label in labels and "rlnImageName" not in labels:
                raise ConfigError(f"star file {star} lists {what}")
        if not tables:
            raise ConfigError(
                f"{star} is no star file, since it has no line that begins with data_: export the particles as a star"
                " file of RELION, or as a .cs file of cryoSPARC"
            )
        raise ConfigError(
            f"star file {star} must have the tables data_optics and data_particles of RELION 3.1 or later, or one table"
            f" of particles of RELION 3.0, found {', '.join(f'data_{name}' for name in tables)}: is it the star file of"
            " another job?"
        )
    optics, particles = (_filled(star, name, tables[name]) for name in ("optics", "particles"))
    if "rlnOpticsGroup" not in particles and len(optics) == 1 and "rlnOpticsGroup" in optics:
        warn(f"star file {star}: data_particles lacks rlnOpticsGroup: all particles are in the only group")
        particles = particles.assign(rlnOpticsGroup=optics["rlnOpticsGroup"].iloc[0])
    optics = _with_pixel_size(star, optics)
    if (
        "rlnOriginX" in particles  # in pixels, as cryoDRGN writes them
        and set(ORIGINS).isdisjoint(particles)
        and {PIXEL, "rlnOpticsGroup"} <= set(optics)
        and "rlnOpticsGroup" in particles
    ):
        sizes = dict(zip(loose(optics["rlnOpticsGroup"]), loose(optics[PIXEL]), strict=True))
        pixel = pd.Series(loose(particles["rlnOpticsGroup"])).map(sizes).to_numpy(float)
        particles = _with_origins(particles, told.pixel_size or pixel)
    return optics, particles


def _filled(star: Path, name: str, table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        what = "no optics group" if name == "optics" else "no particles"
        raise ConfigError(f"star file {star} lists {what}: table data_{name} is empty: export the particles again")
    return table


def _with_pixel_size(star: Path, optics: pd.DataFrame) -> pd.DataFrame:
    """A pixel size for an optics table that lacks it, from the micrographs' pixel size, as RELION does."""
    for label in ("rlnMicrographPixelSize", MICROGRAPH_PIXEL):
        if PIXEL not in optics and label in optics:
            warn(f"star file {star}: data_optics lacks {PIXEL}: {label} is taken, as by RELION")
            return optics.assign(**{PIXEL: optics[label]})
    return optics


def _with_optics(star: Path, table: pd.DataFrame, told: Told) -> Tables:
    """The two tables of RELION 3.1 from the single one of 3.0: a group for each set of equal optics, origins in Å."""
    if not told.no_ctf:
        if "rlnOpticsGroup" in table and not set(OPTICS[:3]) & set(table):
            raise ConfigError(
                f"star file {star} has no table data_optics, which describes its optics groups: copy that table"
                " from the star file that this one was made from"
            )
        need(star, "particles", table, OPTICS[:3])
    optics = pd.DataFrame({label: loose(table[label]) for label in OPTICS[:3] if label in table})
    optics[PIXEL] = np.round(_old_pixel_size(star, table, told), 6)
    for label in OF_A_GROUP:
        if label in table and label not in optics:
            optics[label] = table[label].to_numpy()
    if "rlnOpticsGroup" in table:
        optics["rlnOpticsGroup"] = loose(table["rlnOpticsGroup"])
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
    return groups, _with_origins(particles, told.pixel_size or optics[PIXEL].to_numpy())


def _with_origins(particles: pd.DataFrame, pixel: float | np.ndarray) -> pd.DataFrame:
    """The particles with origins in Å in place of those in pixels; `pixel` is their size in Å."""
    old = {label: new for label, new in zip(("rlnOriginX", "rlnOriginY"), ORIGINS, strict=True) if label in particles}
    made = {new: loose(particles[label]) * pixel for label, new in old.items() if new not in particles}
    return particles.drop(columns=list(old)).assign(**made)


def _old_pixel_size(star: Path, table: pd.DataFrame, told: Told) -> np.ndarray:
    """Pixel size (n,) in Å of each row of RELION 3.0's single table. Warns where the table gives two that differ."""
    if told.pixel_size is not None:
        return np.full(len(table), told.pixel_size)
    found = {label: loose(table[label]) for label in (PIXEL, OLD_PIXEL[2]) if label in table}
    missing = [label for label in OLD_PIXEL[:2] if label not in table]
    if not missing:
        micrometres, magnification = (loose(table[label]) for label in OLD_PIXEL[:2])
        found[" and ".join(OLD_PIXEL[:2])] = 1e4 * micrometres / np.where(magnification > 0, magnification, np.nan)
    if not found:
        raise ConfigError(
            f"star file {star}: its particles have no pixel size ({PIXEL}, or {' and '.join(OLD_PIXEL[:2])}; it lacks"
            f" the column {', '.join(missing)}): add it, or say --pixel-size"
        )
    (label, sizes), *others = found.items()
    if not others and np.isnan(sizes).all() and not missing:
        raise ConfigError(f"star file {star}: {OLD_PIXEL[1]} is above 0 in no row: correct it, or say --pixel-size")
    for other, theirs in others:
        if (apart := np.abs(theirs - sizes) > SAME_PIXEL * sizes).any():
            row = int(np.argmax(apart))
            warn(
                f"star file {star}: the pixel size of row {table.index[row] + 1} is {sizes[row]:.4g} Å by {label} and"
                f" {theirs[row]:.4g} Å by {other}: the first is taken; say --pixel-size if it is wrong"
                + rows_like_this(table, apart)
            )
    return sizes


def warn(message: str) -> None:
    warnings.warn(message, FileWarning, stacklevel=3)


def need(star: Path, table: str, frame: pd.DataFrame, labels: tuple[str, ...]) -> None:
    if missing := [label for label in labels if label not in frame]:
        raise ConfigError(
            f"star file {star}: table data_{table} lacks the column {', '.join(missing)}: add it"
            + ", or say --pixel-size" * (missing == [PIXEL])
            + nearly(missing, frame)
        )


def nearly(missing: Sequence[str], frame: pd.DataFrame) -> str:
    """What a message says of columns whose labels are those that are missing but for capitals or `rln`."""
    plain = {str(label).lower().removeprefix("rln"): label for label in frame}
    found = [plain[key] for label in missing if (key := label.lower().removeprefix("rln")) in plain]
    return f" (it has {', '.join(found)}, which RELION does not know either)" if found else ""


def rows_like_this(table: pd.DataFrame | pd.Series, bad: np.ndarray) -> str:
    """The end of a message about bad rows, (n,) bool: their number, and the first of them. Empty for a single row."""
    count = int(bad.sum())
    if count < 2:
        return ""
    first = ", ".join(str(row + 1) for row in table.index[bad][:NAMED])
    return f" ({count} of {len(bad)} rows are like this: {first}{', …' if count > NAMED else ''})"


def loose(column: pd.Series) -> np.ndarray:
    """A column as float64 (n,), NaN where the text is no number."""
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64)


def called(star: Path, label: str) -> str:
    """What a message calls a column: its label, and the field of a .cs file that it was made from."""
    field = next((field for field, (name, _) in COLUMNS.items() if name == label), None)
    return f"{label} ({field})" if field and star.suffix == ".cs" else label


def numbers(star: Path, column: pd.Series) -> np.ndarray:
    """A column as float64 (n,). Raises ConfigError, naming the first row (from 1) that is not a finite number."""
    values = loose(column)
    bad = ~(np.abs(values) < LARGEST)
    if bad.any():
        first = int(np.argmax(bad))
        raise ConfigError(
            f"star file {star}: {called(star, str(column.name))} of row {column.index[first] + 1} is"
            f" {column.iloc[first]}, not a number" + rows_like_this(column, bad)
        )
    return values


def check_inside(star: Path, datadir: Path | None, particle_table: pd.DataFrame) -> None:
    """Raises ConfigError if a stack lies outside of the folder that image names start from.

    So it does if rows name an image both from that folder and from the root.
    """
    need(star, "particles", particle_table, ("rlnImageName",))
    found = image_names(star, particle_table["rlnImageName"])
    folder = os.path.abspath(datadir or star.parent)
    for code, stack in enumerate(found.stacks):
        if os.path.commonpath([folder, os.path.abspath(os.path.join(folder, stack))]) != folder:
            row = int(np.argmax(found.number == code))
            remedy = (
                "name stacks from a folder that holds them all (--datadir; / for absolute names)"
                if os.path.isabs(stack)
                else "write the names without .., from a folder that holds all stacks, and give this with --datadir"
            )
            raise ConfigError(
                f"star file {star}: the image of particle {particle_table.index[row] + 1} is in {stack}, outside of the"
                f" folder {folder}: {remedy}"
            )
    _check_named_alike(star, folder, particle_table, found)


def _check_named_alike(star: Path, folder: str, particle_table: pd.DataFrame, found: ImageNames) -> None:
    """Raises ConfigError if rows name one image both from `folder` and from the root: it would count as two images."""
    from_root = np.array([os.path.isabs(stack) for stack in found.stacks])[found.number]
    if from_root.all() or not from_root.any():
        return
    paths = [str(stack_path(Path(folder), stack).resolve()) for stack in found.stacks]
    image = pd.factorize(np.array(paths, object))[0][found.number] * (found.place.max() + 1) + found.place
    again = from_root & np.isin(image, image[~from_root])
    if again.any():
        row = int(np.argmax(again))
        other = int(np.argmax(~from_root & (image == image[row])))
        names = " and ".join(found.stacks[found.number[each]] for each in (row, other))
        raise ConfigError(
            f"star file {star}: particles {particle_table.index[row] + 1} and {particle_table.index[other] + 1} are one"
            f" image, whose stack has two names ({names}): give it one name, or the image counts as two"
            + rows_like_this(particle_table, again)
        )


def image_names(star: Path, names: pd.Series) -> ImageNames:
    """The parts of names `index@stack`. A name without `@` is a file with one image.

    Raises ConfigError, naming the first row, for any other name.
    """
    if (found := numbered_alike(names.to_numpy(object))) is not None:
        return found
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
            " 000001@stack.mrcs" + rows_like_this(names, bad)
        )
    number, unique = pd.factorize(np.array(stacks, dtype=object))
    alone = np.unique(number[np.array(at, dtype=object) == ""]).tolist()
    return ImageNames(np.array(list(map(int, images))) - 1, number, unique.tolist(), alone)
