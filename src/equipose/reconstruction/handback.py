"""New poses in the user's own files: poses.star, and poses.cs for cryoSPARC.

Rows keep their order, and columns keep their text to the letter. Columns about former poses are replaced or removed.
Columns that other programs need are added (`for_refinement`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from equipose.config.settings import PreparationConfig, Told
from equipose.core.rotations import from_relion_angles, of_inverted, to_relion_angles
from equipose.data.aberrations import read_aberrations
from equipose.errors import ConfigError
from equipose.io.cryosparc import INDEX, UID, read_records, write_cryosparc
from equipose.io.cryosparc_records import records_of
from equipose.io.half_sets import SUBSET, repeats
from equipose.io.particle_tables import (
    ANGLES,
    APPLIED,
    ORIGINS,
    PHASE_SHIFT,
    SIZE,
    Tables,
    chosen_rows,
    groups_in_use,
    image_names,
    is_cryosparc,
    loose,
    need,
    numbers,
    of_groups,
    read_tables,
    without_poses,
    write_star,
)
from equipose.io.particles import sizes_of
from equipose.io.stacks import relion_name

SCORE = "rlnParticleFigureOfMerit"
"""RELION's column for the score of a particle: here its correlation with its projection (particle_scores.py)."""


PROBABILITY = "equiposeProbability"
"""Our own column: the probability that an image shows the molecule (junk.py). RELION 3.1 keeps unknown columns."""


def write_poses(
    output: Path,
    config: PreparationConfig,
    rotations: Sequence[np.ndarray],
    shifts: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    probabilities: Sequence[np.ndarray] | None = None,
) -> dict[str, int]:
    """Write poses.star in the folder `output`, and poses.cs unless these particles can have none.

    Each of `rotations` (n, 3, 3), `shifts` (n, 2) in Å, `scores` (n,) and `probabilities` (n,), which may be left out,
    has an array for half 1 and one for half 2.
    Returns how many rows `select` left out (`left_out`), and how many of the others repeat an image (`repeats`).
    """
    star = Path(config.star)
    tables = read_tables(star, told=config.told)
    halves = [chosen_rows(star, tables, half, config.limits) for half in (1, 2)]
    write_posed(output, config, tables, halves, rotations, shifts, scores, probabilities)
    rows = np.sort(np.concatenate(halves))
    return {"left_out": len(tables[1]) - len(rows), "repeats": repeats(tables[1].iloc[rows])}


def write_posed(
    output: Path,
    config: PreparationConfig,
    tables: Tables,
    halves: Sequence[np.ndarray],
    rotations: Sequence[np.ndarray],
    shifts: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    probabilities: Sequence[np.ndarray] | None = None,
) -> None:
    """`write_poses` for given rows of the tables: `halves` has those (n,) of half 1 and of half 2.

    Particles of a star file have no poses.cs where they have no CTF, flipped phases, a multiplied CTF, a beam tilt or
    a magnification matrix.
    """
    star, datadir = Path(config.star), Path(config.datadir) if config.datadir else None
    order = np.argsort(np.concatenate(halves))
    rows = np.concatenate(halves)[order]
    subset = np.repeat([1, 2], [len(half) for half in halves])[order]
    turned, moved, scored = (np.concatenate(part)[order] for part in (rotations, shifts, scores))
    aberrations = read_aberrations(star, tables[0], tables[1].iloc[rows])
    changed = any(of_groups(star, label, tables[0], tables[1].iloc[rows]).any() for label in APPLIED)
    if aberrations is not None:
        moved = aberrations.shifts_in_images(moved, np.arange(len(rows)))
    optics, table = for_refinement(star, datadir, config.told, rows)
    table = with_poses(table, turned, moved, subset, scored).drop(columns=PROBABILITY, errors="ignore")
    if probabilities is not None:
        table = table.assign(**{PROBABILITY: np.concatenate(probabilities)[order]})
    # A .cs file cannot say that images had their phases flipped or were multiplied by their CTF, and has another form
    # for beam tilts: one made of a star file would be wrong.
    if is_cryosparc(star):
        records = read_records(star, tuple(map(Path, config.told.passthrough)))
        write_cryosparc(output / "poses.cs", records, rows, turned, moved, subset, config.pixel_size)
    elif aberrations is None and not changed and (made := records_of(star, optics, table)):
        write_cryosparc(output / "poses.cs", made, np.arange(len(rows)), turned, moved, subset)
    else:
        (output / "poses.cs").unlink(missing_ok=True)  # of a former command, for other particles
    write_star(output / "poses.star", optics, table)  # the last: where it lies, all is written


def for_refinement(star: Path, datadir: Path | None, told: Told, rows: np.ndarray) -> Tables:
    """Some rows of the user's own tables, to the letter, with what other programs need and ready for new poses.

    RELION 3.1 needs rlnImageSize and rlnImageDimensionality in the optics table, and a stack's name to end in .mrcs;
    cryoDRGN makes NaN maps without rlnPhaseShift. Of former poses only `ANGLES` and `ORIGINS` stay, to be replaced.
    """
    optics, table = read_tables(star, as_written=True, told=told)
    table = table.iloc[rows]
    sizes = sizes_of(star, datadir or star.parent, groups_in_use(star, optics, table), table)
    optics, table = _split_by_size(star, optics, table, sizes[:, 0])
    index, number, stacks, _ = image_names(star, table["rlnImageName"])
    names = [relion_name(name) for name in stacks]
    if names != stacks:
        new = [f"{image + 1:06d}@{names[code]}" for image, code in zip(index.tolist(), number.tolist(), strict=True)]
        table = table.assign(rlnImageName=new)
    if PHASE_SHIFT not in table and PHASE_SHIFT not in optics:
        table = table.assign(**{PHASE_SHIFT: 0.0})
    return optics, without_poses(table, but=(*ANGLES, *ORIGINS)).reset_index(drop=True)


def _split_by_size(star: Path, optics: pd.DataFrame, table: pd.DataFrame, sizes: np.ndarray) -> Tables:
    """The tables with rlnImageSize and rlnImageDimensionality, `sizes` (n,) pixels: a group of each size.

    A group whose particles have several sizes, as files of RELION 3.0 may have them, becomes several.
    """
    group = numbers(star, table["rlnOpticsGroup"]).astype(np.int64)
    own = loose(optics["rlnOpticsGroup"])  # NaN where a group that no particle is in has no number
    box = {number: sorted(set(sizes[group == number].astype(int).tolist())) for number in np.unique(group).tolist()}
    usual = int(np.bincount(sizes.astype(int)).argmax())
    several = any(len(found) > 1 for found in box.values())
    if SIZE not in optics or several:
        optics = optics.assign(**{SIZE: [box.get(number, [usual])[0] for number in own.tolist()]})
        for number, found in box.items():
            for size in found[1:]:
                new = int(np.nanmax(own)) + 1
                own = np.append(own, new)
                row = optics[loose(optics["rlnOpticsGroup"]) == number]
                optics = pd.concat([optics, row.assign(rlnOpticsGroup=new, **{SIZE: size})], ignore_index=True)
                group = np.where((group == number) & (sizes == size), new, group)
        if several:
            optics["rlnOpticsGroupName"] = [f"opticsGroup{number:g}" for number in own]
            table = table.assign(rlnOpticsGroup=group)
    if "rlnImageDimensionality" not in optics:
        optics = optics.assign(rlnImageDimensionality=2)
    return optics, table


def with_poses(
    table: pd.DataFrame, rotations: np.ndarray, shifts: np.ndarray, subset: np.ndarray, scores: np.ndarray
) -> pd.DataFrame:
    """The table of n particles with new rotations (n, 3, 3), shifts (n, 2) in Å, half-sets (n,) and scores (n,)."""
    angles = dict(zip(ANGLES, to_relion_angles(rotations).T, strict=True))
    origins = dict(
        zip(ORIGINS, -shifts.T, strict=True)
    )  # RELION's origins point from the particle to the image's centre
    return table.assign(**angles, **origins, **{SUBSET: subset, SCORE: scores})


def in_other_hand(poses: Path, output: Path) -> None:
    """Write poses.star in the other hand into the folder `output`, and poses.cs, too, if one lies beside `poses`.

    Raises ConfigError where an angle is no number, and where poses.cs has other particles than poses.star.
    """
    optics, table = read_tables(poses, as_written=True)
    angles = np.stack([numbers(poses, table[label]) for label in ANGLES], axis=1)
    rotations = of_inverted(from_relion_angles(angles))
    turned = dict(zip(ANGLES, to_relion_angles(rotations).T, strict=True))
    changed = without_poses(table, but=(*ANGLES, *ORIGINS)).assign(**turned)
    write_star(output / "poses.star", optics, changed)
    write_beside(poses, output, changed, rotations)


def write_beside(poses: Path, output: Path, changed: pd.DataFrame, rotations: np.ndarray) -> None:
    """Write poses.cs into the folder `output`, if one lies beside the file `poses`.

    `changed` is the table of `poses` with new `rotations` (n, 3, 3) and origins. Raises ConfigError where poses.cs has
    other particles than the table.
    """
    beside = poses.with_suffix(".cs")
    if not beside.is_file():
        return
    need(poses, "particles", changed, (*ORIGINS, SUBSET))
    shifts = -np.stack([numbers(poses, changed[label]) for label in ORIGINS], axis=1)
    records, subset = read_records(beside), numbers(poses, changed[SUBSET]).astype(np.int64)
    place = image_names(poses, changed["rlnImageName"]).place
    if not np.array_equal(place, records.get(INDEX, np.empty(0))):
        raise ConfigError(
            f"{beside} has other particles than {poses.name} ({len(records[UID])} and {len(changed)}), or others in"
            f" their order: move it away, and {poses.name} alone is changed"
        )
    write_cryosparc(output / "poses.cs", records, np.arange(len(changed)), rotations, shifts, subset)
