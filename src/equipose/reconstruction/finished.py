"""A finished reconstruction, ready to give poses to particles that it has not seen.

Each half-set has its run's network and its own map. Each run has a frame of its own. `poses.star` and the maps are in
the first run's frame, or in the one that `flip-hand` or `symmetrise` gave them. The poses tell which: those of a run
and those of poses.star are the same but for one rotation, hand and translation.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipose.config.settings import PreparationConfig
from equipose.core.fourier_grid import real_map
from equipose.core.pose_metrics import Alignment, align, squared_distances
from equipose.core.rotations import from_relion_angles
from equipose.data.aberrations import read_aberrations
from equipose.errors import ConfigError
from equipose.io.half_sets import SUBSET
from equipose.io.maps import read_map
from equipose.io.particle_tables import ANGLES, ORIGINS, per_particle, read_tables
from equipose.model.autoencoder import Autoencoder, load_model
from equipose.reconstruction.halves import FURTHER, Half, as_seen, read_half
from equipose.reconstruction.handback import SCORE
from equipose.reconstruction.verdict import crossings, read_summary, verdict
from equipose.training.run_progress import networks_trained

NEEDED = ("poses.star", "half1.mrc", "half2.mrc", "mask.mrc", "reconstruction.json")

SAME = 1e-3
"""Largest squared distance of a pose from the run's own, moved into this frame: star files round angles."""


@dataclass(frozen=True)
class FinishedHalf:
    """One half-set's network and maps. Maps are (L, L, L), masked, in the frame of the reconstruction's poses.star."""

    model: Autoencoder
    trained: bool
    """Whether its networks were trained: they are not where two starts of the search found the same map"""
    prepared: dict[str, Any]
    """preparation.json of its particles"""
    frame: Alignment
    """The way of its run's poses into this frame"""
    own: Tensor
    """The map that its particles are compared with, in the model's scale"""
    other: Tensor
    """The other half-set's map, by which its particles are scored"""


@dataclass(frozen=True)
class Finished:
    folder: Path
    halves: tuple[FinishedHalf, FinishedHalf]
    config: PreparationConfig
    """Of the first half-set's particles"""
    optics: np.ndarray
    """(m, 3) the kV, Cs in mm and amplitude contrast that its particles have"""
    shells: float
    """Shells below which scores compare images"""
    mask: np.ndarray
    """(L, L, L) of the molecule, 0 to 1"""
    scores: np.ndarray
    """Of its own particles"""
    state: str
    """How far it has converged"""
    symmetry: str
    """The point group on whose axes its map is; C1 where it was made without one"""
    files: tuple[Path, ...]
    """Those that decide the poses of more particles"""


def read_finished(folder: Path, work: Path, anyway: bool) -> Finished:
    """The reconstruction in `folder`, whose runs are in `work` or where its reconstruction.json says.

    Raises ConfigError if a file or a run is missing, if poses.star is not of these runs, and if the reconstruction has
    not converged, unless `anyway`.
    """
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise ConfigError(
            f"{folder} lacks {', '.join(missing)}:"
            " name the folder of a finished reconstruction, or of one of its classes"
        )
    summary = read_summary(folder)
    judged = verdict(summary)
    if judged.state == "not converged" and not anyway:
        raise ConfigError(
            f"{folder} has not converged, so its poses would be wrong: {judged.says} --anyway poses particles all the"
            " same"
        )
    runs, datasets = _runs(folder, work, summary)
    mask = read_map(folder / "mask.mrc")[0]
    maps = [torch.from_numpy(read_map(folder / f"half{number}.mrc")[0] * mask) for number in (1, 2)]
    table, poses = _poses(folder / "poses.star")
    found, halves, symmetry = [], [], summary.get("symmetry", "C1")  # folders of before lack it
    for number, (run, dataset) in enumerate(zip(runs, datasets, strict=True), start=1):
        half, frame = _posed(folder, run, dataset, *(part[table[SUBSET] == number] for part in poses))
        halves.append(half)
        model = load_model(run / "model.pt")
        moved = half.moved(frame)
        if symmetry != "C1":  # the axes of a group that the run was told may lie elsewhere in a symmetrised frame
            moved = dataclasses.replace(moved, symmetry=symmetry)
        own = real_map(as_seen(model, moved), half.box // 2)
        prepared = json.loads((dataset / "preparation.json").read_text())
        found.append(FinishedHalf(model, networks_trained(run, model.config), prepared, frame, own, maps[2 - number]))
    first, second = found
    box, voxel_size = halves[0].box, halves[0].particles.voxel_size
    shells = box * voxel_size / (crossings(summary)["corrected"] or box * voxel_size) + 1
    optics = np.unique(np.concatenate([half.particles.ctf[:, 3:6] for half in halves]), axis=0)
    config = PreparationConfig.load(datasets[0] / "config.json")
    scores = table[SCORE].to_numpy(float)
    files = (*(run / "model.pt" for run in runs), *(folder / name for name in NEEDED))
    return Finished(folder, (first, second), config, optics, shells, mask, scores, judged.state, symmetry, files)


def _runs(folder: Path, work: Path, summary: dict[str, Any]) -> tuple[list[Path], list[Path]]:
    """The two halves' folders of runs and of datasets: in the reconstruction's own folder, or as it recorded them."""
    runs = [next(iter(sorted((work / "runs" / half).glob("*/*/model.pt"))), None) for half in ("half1", "half2")]
    places = [run.parent for run in runs if run] if all(runs) else [Path(run) for run in summary.get("runs", [])]
    datasets = [work / "datasets" / half for half in ("half1", "half2")] if all(runs) else summary.get("datasets", [])
    needed = [run / name for run in places for name in ("model.pt", "poses.star")]
    needed += [Path(dataset) / name for dataset in datasets for name in ("particles.star", "preparation.json")]
    absent = [path for path in needed if not path.is_file()]
    if not needed or absent:
        lost = f"{absent[0]} does not exist" if absent else "its networks are not known"
        raise ConfigError(
            f"{folder}: {lost}: name a folder of `equipose reconstruct` with all of its files. For a folder that"
            " flip-hand or symmetrise made, that of `reconstruct` must lie where it did"
        )
    return places, [Path(dataset) for dataset in datasets]


def _poses(star: Path) -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    """The particles' table of a poses.star, and the rotations (n, 3, 3) and shifts (n, 2) in Å of prepared images."""
    optics, table = read_tables(star)
    angles = np.stack([per_particle(star, label, optics, table) for label in ANGLES], axis=1)
    shifts = -np.stack([per_particle(star, label, optics, table) for label in ORIGINS], axis=1)
    aberrations = read_aberrations(star, optics, table)
    return table, (from_relion_angles(angles), aberrations.shifts_taken_out(shifts) if aberrations else shifts)


def _posed(folder: Path, run: Path, dataset: Path, rotations: np.ndarray, shifts: np.ndarray) -> tuple[Half, Alignment]:
    """The run's particles with those poses of it that poses.star has, and the way from them to poses.star."""
    for name in (FURTHER, "poses.star"):
        half = read_half(run, dataset, name) if (run / name).is_file() else None
        if half is not None and len(rotations) == len(half.rotations):
            frame = align(half.rotations, rotations, half.shifts, shifts)
            if np.median(squared_distances(frame.rotations(half.rotations), rotations)) < SAME:
                return half, frame
    raise ConfigError(
        f"{folder / 'poses.star'} does not have the poses of its runs: put the original file back, or reconstruct again"
    )
