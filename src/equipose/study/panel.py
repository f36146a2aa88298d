"""`equipose reconstruct` on simulated particles of known molecules, scored against the truth.

    python -m equipose.study.panel run --dataset DIR --output DIR/score.json --cores N
    python -m equipose.study.panel table --scores FILE … --output panel.csv

The star file of a simulated dataset has the true poses, and `reconstruct` never reads poses. A score counts poses
modulo the point group of the dataset, after the best rotation and hand: half by half, and both halves in one frame.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from equipose.config.settings import SimulationConfig
from equipose.core.fourier_grid import from_real_map, grid_values
from equipose.core.mask import solvent_mask
from equipose.core.point_groups import ALONE, group
from equipose.core.pose_metrics import Alignment, align, squared_distances
from equipose.core.resizing import resized
from equipose.core.rotations import degrees_from_squared_frobenius
from equipose.core.volumes import aligned_volume
from equipose.errors import ConfigError
from equipose.io.files import read_json, sampled_digest, write_json, write_text
from equipose.io.half_sets import SUBSET
from equipose.io.maps import read_map
from equipose.io.particle_tables import read_tables
from equipose.io.particles import read_particles
from equipose.io.processes import children_seconds, exit_after, run_stoppable
from equipose.io.progress import number, run_main
from equipose.reconstruction.names import AGREES, NOT_CONVERGED
from equipose.reconstruction.verdict import State, read_summary, verdict

RIGHT, MOSTLY = 0.9, 0.7
"""Share of poses within 15° of the truth that a converged reconstruction has at least, and a partly converged one."""

COLUMNS = {
    "dataset": "dataset",
    "symmetry": "group",
    "particles": "particles",
    "half_1": "half 1",
    "half_2": "half 2",
    "both": "both",
    "median_degrees": "median error",
    "map_correlation": "map",
    "group_found": "group found",
    "verdict": "verdict",
    "right_verdict": "right",
    "processor_seconds": "processor",
}
"""Numbers of a score, and their names in the table."""


def score(folder: Path, dataset: Path, processor_seconds: float) -> dict[str, Any]:
    """The scores of the reconstruction in `folder`, of the simulated particles in the folder `dataset`.

    It took so many `processor_seconds`. Shares of poses are of those within 15° of the truth. The map is compared
    inside of the true map's mask.

    Raises ConfigError if the folder has no reconstruction of these particles.
    """
    config = SimulationConfig.load(dataset / "config.json")
    found, true = read_particles(folder / "poses.star", dataset), read_particles(dataset / "particles.star")
    if len(found.images) != len(true.images) or found.rotations is None or true.rotations is None:
        raise ConfigError(f"{folder} is no reconstruction of {dataset}: delete it, and run the same command again")
    same, half = group(config.symmetry), read_tables(folder / "poses.star")[1][SUBSET].to_numpy(int)
    errors = {
        name: degrees(found.rotations[rows], true.rotations[rows], same)
        for name, rows in {"half_1": half == 1, "half_2": half == 2, "both": half > 0}.items()
    }
    alignment = align(found.rotations, true.rotations, found.shifts, true.shifts, same)
    summary = read_summary(folder)
    state, within = verdict(summary).state, {name: float(np.mean(each < AGREES)) for name, each in errors.items()}
    return {
        "dataset": config.name,
        "symmetry": config.symmetry,
        "particles": len(true.images),
        "snr": config.snr,
        **within,
        "median_degrees": float(np.median(errors["both"])),
        "map_correlation": map_correlation(folder / "volume.mrc", dataset / "volume.mrc", alignment),
        "group_found": summary["agree_modulo"],
        "verdict": state,
        "right_verdict": is_right(state, within["both"]),
        "processor_seconds": processor_seconds,
        "code": summary.get("code"),
    }


def degrees(found: np.ndarray, true: np.ndarray, same: np.ndarray = ALONE) -> np.ndarray:
    """Angles (n,) between rotations (n, 3, 3), after the best rotation and hand, modulo the group `same` (g, 3, 3)."""
    aligned = align(found, true, group=same).rotations(found)
    return degrees_from_squared_frobenius(squared_distances(aligned, true, same))


def map_correlation(found: Path, true: Path, alignment: Alignment) -> float:
    """Correlation of a map with the true one, resized to its box, inside of the true one's mask."""
    volume, voxel_size = read_map(found)
    box, radius = len(volume), len(volume) // 2
    wanted = resized(read_map(true)[0], box)
    values = from_real_map(torch.from_numpy(volume).float(), radius)
    moved = aligned_volume(lambda k: grid_values(values, radius, k), box, voxel_size, alignment)
    inside = solvent_mask(torch.from_numpy(wanted)).numpy() > 0.5
    return float(np.corrcoef(moved[inside], wanted[inside])[0, 1])


def is_right(state: State, within: float) -> bool:
    """Whether a verdict is right, for this share of poses within 15° of the truth, modulo the group."""
    asked_for = {"converged": within >= RIGHT, "partly converged": within >= MOSTLY, "not converged": within < RIGHT}
    return asked_for[state]


def add_processor_seconds(known: Path, of: str, before: float = 0.0) -> float:
    """Processor seconds of this process's ended children, but for those `before`, and of earlier commands.

    The file `known` has those of earlier commands on the same particles, which the digest `of` tells, and then the sum.
    """
    former = read_json(known) or {}
    seconds = children_seconds() - before + (former["seconds"] if former.get("of") == of else 0.0)
    write_json(known, {"of": of, "seconds": round(seconds, 1)})
    return seconds


def table(scores: list[dict[str, Any]]) -> pd.DataFrame:
    """A line for each score, with the columns of `COLUMNS`; shares in percent."""
    lines = pd.DataFrame(scores)[list(COLUMNS)]
    for name in ("half_1", "half_2", "both"):
        lines[name] = (100 * lines[name]).round(1)
    lines["right_verdict"] = lines["right_verdict"].map({True: "yes", False: "no"})
    return lines.round({"median_degrees": 1, "map_correlation": 3, "processor_seconds": 0})


def markdown(lines: pd.DataFrame) -> str:
    """The table for people."""
    named = lines.rename(columns=COLUMNS)
    named["median error"] = named["median error"].map("{:.1f}°".format)
    named["processor"] = named["processor"].map("{:.0f} s".format)
    rows = [[*named.columns], ["---"] * len(named.columns), *named.astype(str).to_numpy().tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="equipose.study.panel", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="reconstruct a dataset's particles, or continue, and score")
    run.add_argument("--dataset", type=Path, required=True, help="folder of a simulated dataset")
    run.add_argument("--output", type=Path, required=True, help="score.json; the reconstruction lies beside it")
    run.add_argument("--cores", type=number(int, 1), required=True)
    tabulate = commands.add_parser("table", help="a table of scores")
    tabulate.add_argument("--scores", type=Path, nargs="+", required=True, help="score.json of each dataset")
    tabulate.add_argument("--output", type=Path, required=True, help=".csv; the .md is written beside it")
    arguments = parser.parse_args()
    if arguments.command == "table":
        lines = table([json.loads(path.read_text()) for path in arguments.scores])
        write_text(arguments.output, lines.to_csv(index=False))
        write_text(arguments.output.with_suffix(".md"), markdown(lines))
        return
    folder, star = arguments.output.parent / "reconstruction", arguments.dataset / "particles.star"
    command = [sys.executable, "-m", "equipose.cli", "reconstruct", str(star), "--out", str(folder)]
    command += ["--contrast", "bright", "--cores", str(arguments.cores)]
    code, signalled = run_stoppable(command, dict(os.environ))
    of = sampled_digest([star, star.with_suffix(".mrcs")])
    seconds = add_processor_seconds(arguments.output.with_name("processor_seconds.json"), of)
    if signalled:
        exit_after(signalled, "; the same command continues")
    if code not in (0, NOT_CONVERGED):
        sys.exit(code)
    write_json(arguments.output, score(folder, arguments.dataset, seconds))


if __name__ == "__main__":
    run_main(main)
