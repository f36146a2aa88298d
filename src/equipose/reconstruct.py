"""Two runs on the two halves of a user's particles → one set of poses, one map, two half-maps and their FSC.

    python -m equipose.reconstruct --runs RUN1 RUN2 --datasets DATASET1 DATASET2 --output DIR

The halves were searched and trained apart, so their agreement is a gold-standard one. The second run is moved into
the first one's frame by poses: both encoders are asked about the first half's images, and the rotation, hand and
translation that bring their answers together are those of the maps. Each half-map is then back-projected, CTF-weighted,
from its own images at its own poses; `volume.mrc` from all of them. Which of the two hands is the true one no image
tells (`equipose flip-hand`).
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.ndimage
import torch

from equipose import fsc
from equipose.autoencoder import load_model
from equipose.cli import run_main
from equipose.config import PreparationConfig
from equipose.errors import ConfigError
from equipose.evaluate import predict
from equipose.files import whole_file
from equipose.fourier import half_disc, to_half_disc
from equipose.grid import FourierGrid, empty_grid, grid_values, grid_volume, insert_images
from equipose.metrics import Alignment, align, squared_distances
from equipose.noise import on_disc
from equipose.optics import ctf
from equipose.particles import ANGLES, ORIGINS, SUBSET, Particles, chosen_rows, read_particles, read_tables, write_star
from equipose.rotations import degrees_from_squared_frobenius, to_relion_angles
from equipose.structures import write_map
from equipose.volumes import real_volume

BATCH = 500
"""Images back-projected at once."""

COMPARED = 5000
"""Images of the first half by whose poses the two runs are brought together."""

AGREES = 10.0
"""Degrees within which two runs give an image the same pose."""


@dataclass(frozen=True)
class Half:
    """One run's particles with its poses: rotations (n, 3, 3), shifts (n, 2) in Å about pixel L/2.

    `whitening` is the filter by shell that its images have been through, if any.
    """

    particles: Particles
    rotations: np.ndarray
    shifts: np.ndarray
    whitening: list[float] | None


def reconstruct(runs: list[Path], datasets: list[Path], output: Path, say: Callable[[str], None]) -> None:
    """Write poses.star, volume.mrc, half1.mrc, half2.mrc, mask.mrc, fsc.csv and reconstruction.json in `output`."""
    configs = [PreparationConfig.load(dataset / "config.json") for dataset in datasets]
    if [config.subset for config in configs] != [1, 2] or len({(config.star, config.limits) for config in configs}) > 1:
        raise ConfigError("a reconstruction wants two datasets of one star file and `select`, with subset: 1 and 2")
    first, second = (_half(run, dataset) for run, dataset in zip(runs, datasets, strict=True))
    alignment, degrees = bring_together(first, runs[1])
    say(
        f"the two halves agree on {100 * np.mean(degrees < AGREES):.0f} % of images within {AGREES:.0f}°,"
        f" median {np.median(degrees):.2g}°; the second is in the {alignment.hand} hand"
    )
    moved = dataclasses.replace(
        second,
        rotations=alignment.rotations(second.rotations),
        shifts=alignment.shifts(second.rotations, second.shifts),
    )
    sums = [back_project(half) for half in (first, moved)]
    both = FourierGrid(sums[0].radius, sums[0].signal + sums[1].signal, sums[0].power + sums[1].power)
    box, voxel_size = first.particles.images.shape[-1], first.particles.voxel_size
    volume, *half_maps = (_map(grid, box) for grid in (both, *sums))
    mask = solvent_mask(volume)
    curves = fsc.corrected_fsc(*half_maps, mask)

    for name, data in (("volume", volume), ("half1", half_maps[0]), ("half2", half_maps[1]), ("mask", mask)):
        write_map(output / f"{name}.mrc", data, voxel_size)
    shell = np.arange(box // 2)
    table = pd.DataFrame({"shell": shell, "frequency_per_angstrom": shell / (box * voxel_size)} | curves)
    with whole_file(output / "fsc.csv") as path:
        table.to_csv(path, index=False)
    write_star(output / "poses.star", *pose_tables(configs[0], first, moved))
    summary = {
        "star": configs[0].star,
        "particles": [len(half.rotations) for half in (first, second)],
        "left_out": len(read_tables(Path(configs[0].star))[1]) - sum(len(half.rotations) for half in (first, second)),
        "select": configs[0].select,
        "voxel_size": voxel_size,
        "resolution_angstrom": {name: fsc.paper_resolution(curve, 0.143, voxel_size) for name, curve in curves.items()},
        "halves_agree": float(np.mean(degrees < AGREES)),
        "halves_median_degrees": float(np.median(degrees)),
        "second_half_was_in_hand": alignment.hand,
        "hand": "undetermined",
        "confirmed_share": [json.loads((run / "metrics.json").read_text())["confirmed_share"] for run in runs],
    }
    with whole_file(output / "reconstruction.json") as path:
        path.write_text(json.dumps(summary, indent=2) + "\n")
    say(f"FSC = 0.143 at {summary['resolution_angstrom']['corrected'] or float('nan'):.3g} Å (gold standard, masked)")


def bring_together(first: Half, other_run: Path) -> tuple[Alignment, np.ndarray]:
    """What moves the other run into the first one's frame, and how far apart (n,) their poses then are, in degrees.

    The other run never saw these images: its encoder is asked about them.
    """
    few = slice(min(COMPARED, len(first.rotations)))
    shown = dataclasses.replace(first.particles, images=first.particles.images[few], ctf=first.particles.ctf[few])
    with torch.no_grad():
        theirs, _ = predict(load_model(other_run / "model.pt"), shown)
    alignment = align(theirs.rotations, first.rotations[few], theirs.shifts, first.shifts[few])
    apart = squared_distances(alignment.rotations(theirs.rotations), first.rotations[few])
    return alignment, degrees_from_squared_frobenius(apart)


@torch.no_grad()
def back_project(half: Half) -> FourierGrid:
    """The sums over all images, Σ CTF Î and Σ CTF², of a CTF-weighted back-projection."""
    box = half.particles.images.shape[-1]
    disc, grid = half_disc(box), empty_grid(box // 2, torch.device("cpu"))
    whitened = 1.0 if half.whitening is None else on_disc(half.whitening, disc)
    for rows in np.array_split(np.arange(len(half.rotations)), max(1, len(half.rotations) // BATCH)):
        images = torch.from_numpy(np.asarray(half.particles.images[rows], np.float32))
        transfer = ctf(torch.from_numpy(half.particles.ctf[rows]), disc.k, box * half.particles.voxel_size)
        shifts = torch.from_numpy(half.shifts[rows] / half.particles.voxel_size).float()
        rotations = torch.from_numpy(half.rotations[rows]).float()
        insert_images(grid, rotations, shifts, disc, to_half_disc(images, disc) / whitened, transfer)
    return grid


def solvent_mask(volume: np.ndarray) -> np.ndarray:
    """A soft mask (L, L, L), 0 to 1, of the largest connected density of the smoothed map, two voxels wider."""
    smooth = scipy.ndimage.gaussian_filter(volume, 1.5)
    parts, count = scipy.ndimage.label(smooth > 0.15 * np.quantile(smooth, 0.9995))
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    inside = parts == 1 + int(np.argmax(sizes)) if count else np.ones_like(volume, bool)
    distance = scipy.ndimage.distance_transform_edt(~inside)
    return (0.5 + 0.5 * np.cos(np.pi * np.clip((distance - 2) / 3, 0, 1))).astype(np.float32)


def pose_tables(config: PreparationConfig, first: Half, second: Half) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The user's own tables with the new poses, and the half that each particle is in: every column, and every row in
    its order but those that `select` left out, which have no pose.
    """
    star = Path(config.star)
    optics, table = read_tables(star)
    rotations, shifts = np.empty((len(table), 3, 3)), np.empty((len(table), 2))
    halves = np.zeros(len(table), int)
    for number, half in ((1, first), (2, second)):
        rows = chosen_rows(star, table, number, config.limits)
        rotations[rows], shifts[rows], halves[rows] = half.rotations, half.shifts, number
    posed = halves > 0
    table = table[posed].reset_index(drop=True)
    table[list(ANGLES)] = to_relion_angles(rotations[posed])
    table[list(ORIGINS)] = -shifts[posed]  # origins point from the content to the centre
    table[SUBSET] = halves[posed]
    return optics, table


def _half(run: Path, dataset: Path) -> Half:
    particles, posed = (read_particles(folder) for folder in (dataset / "particles.star", run / "poses.star"))
    assert posed.rotations is not None and posed.shifts is not None
    preparation = json.loads((dataset / "preparation.json").read_text())
    return Half(particles, posed.rotations, posed.shifts, preparation["whitening"])


def _map(grid: FourierGrid, box: int) -> np.ndarray:
    return real_volume(functools.partial(grid_values, grid_volume(grid), grid.radius), box)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m equipose.reconstruct", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs=2, required=True, help="run folders of the two halves")
    parser.add_argument("--datasets", type=Path, nargs=2, required=True, help="their dataset folders")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reconstruct(arguments.runs, arguments.datasets, arguments.output, print)


if __name__ == "__main__":
    run_main(main)
