"""New poses in the user's own files: poses.star, and poses.cs where the particles came from cryoSPARC.

Rows keep their order, and columns their text to the letter. What speaks of a former pose is new or gone, and what other
programs need is there (`particles.for_refinement`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from equipose.config.settings import PreparationConfig
from equipose.core.rotations import from_relion_angles, other_hand, to_relion_angles
from equipose.data.aberrations import read_aberrations
from equipose.io.cryosparc import read_records, write_cryosparc
from equipose.io.half_sets import SUBSET
from equipose.io.particles import (
    ANGLES,
    ORIGINS,
    chosen_rows,
    for_refinement,
    is_cryosparc,
    read_tables,
    without_poses,
    write_star,
)

SCORE = "rlnParticleFigureOfMerit"
"""RELION's name of a number for each particle: here its correlation with its projection (particle_scores.py)."""


def write_poses(
    output: Path,
    config: PreparationConfig,
    rotations: Sequence[np.ndarray],
    shifts: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
) -> int:
    """Write poses.star, and poses.cs of a .cs file, in folder `output`; returns how many rows `select` left out.

    Rotations (n, 3, 3), shifts (n, 2) in Å and scores (n,) are those of half 1 and of half 2.
    """
    star, datadir = Path(config.star), config.datadir and Path(config.datadir)
    tables = read_tables(star, told=config.told)
    halves = [chosen_rows(star, tables, half, config.limits) for half in (1, 2)]
    order = np.argsort(np.concatenate(halves))
    rows = np.concatenate(halves)[order]
    subset = np.repeat([1, 2], [len(half) for half in halves])[order]
    turned, moved, scored = (np.concatenate(part)[order] for part in (rotations, shifts, scores))
    aberrations = read_aberrations(star, tables[0], tables[1].iloc[rows])
    if aberrations is not None:
        moved = aberrations.shifts_in_images(moved, np.arange(len(rows)))
    optics, table = for_refinement(star, datadir, config.told, rows)
    write_star(output / "poses.star", optics, with_poses(table, turned, moved, subset, scored))
    if is_cryosparc(star):
        records = read_records(star, tuple(map(Path, config.told.passthrough)))
        write_cryosparc(output / "poses.cs", records, rows, turned, moved, subset, config.pixel_size)
    return len(tables[1]) - len(rows)


def with_poses(
    table: pd.DataFrame, rotations: np.ndarray, shifts: np.ndarray, subset: np.ndarray, scores: np.ndarray
) -> pd.DataFrame:
    """The particles (n,) with rotations (n, 3, 3), shifts (n, 2) in Å, halves and scores (n,)."""
    angles = dict(zip(ANGLES, to_relion_angles(rotations).T, strict=True))
    origins = dict(zip(ORIGINS, -shifts.T, strict=True))  # they point from the content to the centre
    return table.assign(**angles, **origins, **{SUBSET: subset, SCORE: scores})


def in_other_hand(poses: Path, output: Path) -> None:
    """Write the poses of a poses.star in the other hand, and with them those of a poses.cs beside it, in `output`."""
    optics, table = read_tables(poses, as_written=True)
    angles = table[list(ANGLES)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    rotations = other_hand(from_relion_angles(angles))
    turned = dict(zip(ANGLES, to_relion_angles(rotations).T, strict=True))
    write_star(output / "poses.star", optics, without_poses(table, but=(*ANGLES, *ORIGINS)).assign(**turned))
    if poses.with_suffix(".cs").is_file():
        shifts = -table[list(ORIGINS)].apply(pd.to_numeric).to_numpy(float)
        records, subset = read_records(poses.with_suffix(".cs")), pd.to_numeric(table[SUBSET]).to_numpy(np.int64)
        write_cryosparc(output / "poses.cs", records, np.arange(len(table)), rotations, shifts, subset)
