"""How often the verdict is right: runs on simulated halves, good and bad, with the verdict beside the truth.

    python tests/benchmarks/verdicts.py --output results/reference/panel/verdicts.csv

A run is the command's second half: each half-set's poses are refined against its own map, each run finds poses for the
other half-set's images, and `compare`, FSC and `verdict` judge. Its first half, the search, is replaced: a good half
starts from the true map in a frame of its own, a bad one from a search that ends after a few steps. So runs are cheap,
and both kinds are made on purpose. Molecules are pieces of the spliceosome, placed by a point group's rotations. Rows
that are in the file are not made again. To save time, half-sets have 150 images and a single pass of refinement, and
C2, C3, C4 and C7 alone are tried among the Cn.
"""

import argparse
import csv
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import scipy.ndimage
import scipy.stats
import torch
import yaml
from scipy.spatial.transform import Rotation

from equipose.config.settings import RunConfig, merge
from equipose.core import fsc, symmetry_axes
from equipose.core.ctf import ctf
from equipose.core.fourier import from_half_disc, half_disc, shift_phase
from equipose.core.fourier_grid import enlarged, from_real_map, grid_frequencies, grid_map, grid_slices, grid_values
from equipose.core.mask import masked_volume, solvent_mask
from equipose.core.point_groups import group
from equipose.core.rotations import random_rotations
from equipose.data.atoms import read_atoms
from equipose.io.particles import Particles
from equipose.model.autoencoder import Autoencoder
from equipose.poses import refinement, search_stages
from equipose.reconstruction.common_symmetry import compare
from equipose.reconstruction.halves import Half, as_seen, back_project
from equipose.reconstruction.independent_shifts import independent_sums
from equipose.reconstruction.names import AGREES, THRESHOLD
from equipose.reconstruction.verdict import verdict
from equipose.study.panel import degrees, is_right
from equipose.training.evaluate import RelionPoses
from equipose.workflow.resolve import model_config, run_config

ROOT = Path(__file__).parents[2]
PRESET = "workflow/presets/particles.yaml"

BOX, SHIFT = 32, 1.0
"""Pixels, and the standard deviation of shifts in pixels."""

GROUPS = ("C1", "C2", "C3", "D2", "D7", "O", "nearly C2", "nearly C3")

CASES = {  # name: images a half, SNR at 32 px, which halves end early, voxel size told over the true one
    "good": (150, 1.0, (), 1.0),
    "half 2 ended early": (150, 1.0, (2,), 1.0),
    "both ended early": (150, 1.0, (1, 2), 1.0),
    "noisy": (150, 0.04, (), 1.0),
    "very noisy": (150, 0.01, (1, 2), 1.0),
    "few": (40, 0.5, (), 1.0),
    "few, half 1 ended early": (40, 0.5, (1,), 1.0),
    "noise alone": (150, 0.0, (1, 2), 1.0),
    "voxel size 1.5 times": (150, 1.0, (), 1.5),
}


def molecule(name: str, seed: int) -> tuple[np.ndarray, float]:
    """A map (L, L, L) of pieces of the spliceosome placed by a group, and its voxel size in Å."""
    rng, nearly = np.random.default_rng(seed), name.startswith("nearly")
    symmetry = name.split()[-1]
    atoms = read_atoms(ROOT / "workflow/resources/structures/5nrl.npz")[0][::10]
    share = 0.6 if symmetry == "C1" else 0.15
    middle = atoms[rng.integers(len(atoms))]
    piece = atoms[np.argsort(np.linalg.norm(atoms - middle, axis=1))[: int(share * len(atoms))]]
    piece = piece - piece.mean(0)
    reach = np.sqrt((piece**2).sum(1).mean())
    away = rng.normal(size=3)
    distance = 0.0 if symmetry == "C1" else 0.5 * reach * len(group(symmetry)) ** 0.5
    piece = piece @ Rotation.random(random_state=seed).as_matrix() + distance * away / np.linalg.norm(away)
    copies = [piece @ turn.T for turn in group(symmetry)]
    if nearly:  # the last copy has lost a third of itself
        copies[-1] = copies[-1][np.argsort(copies[-1] @ rng.normal(size=3))[len(piece) // 3 :]]
    every = np.concatenate(copies)
    if nearly:
        every = every - every.mean(0)
    side = 1.8 * 2 * np.linalg.norm(every, axis=1).max()
    voxel_size = side / BOX
    density = np.histogramdd(every[:, ::-1] / voxel_size + BOX // 2, [np.arange(BOX + 1) - 0.5] * 3)[0]
    return scipy.ndimage.gaussian_filter(density, 0.8).astype(np.float32), voxel_size


def particles(volume: np.ndarray, voxel_size: float, images: int, snr: float, told: float, seed: int) -> Any:
    """Simulated particles, and their true rotations (n, 3, 3) and shifts (n, 2) in Å."""
    rng, disc = np.random.default_rng(seed), half_disc(BOX)
    rotations, shifts = random_rotations(images, rng), SHIFT * rng.normal(size=(images, 2))
    defocus = rng.uniform(8e3, 25e3, images)
    optics = np.stack([defocus, defocus + rng.uniform(0, 600, images), rng.uniform(0, 180, images)], 1)
    parameters = np.concatenate([optics, np.tile([300.0, 2.7, 0.1, 0.0], (images, 1))], 1).astype(np.float32)
    transfer = ctf(torch.from_numpy(parameters), disc.k, BOX * voxel_size)
    field = from_real_map(torch.from_numpy(volume), BOX // 2)
    seen = transfer * shift_phase(torch.from_numpy(shifts).float(), disc)
    clean = from_half_disc(seen * grid_slices(field, BOX // 2, torch.from_numpy(rotations).float(), disc), disc).numpy()
    clean *= np.exp(rng.normal(0, 0.15, (images, 1, 1)))
    noise = clean.std() * rng.normal(size=clean.shape) / max(snr, 0.001) ** 0.5
    stack = (clean * (snr > 0) + noise).astype(np.float32)
    return Particles(stack, parameters, told * voxel_size, None, None, None, None), rotations, shifts * voxel_size  # type: ignore[arg-type]


def configured(voxel_size: float, images: int, seed: int) -> RunConfig:
    """The settings of `equipose reconstruct`, with fewer orientations and one pass of refinement."""
    plain, preset = (yaml.safe_load((ROOT / name).read_text()) for name in ("config.yaml", PRESET))
    run = run_config(plain, "spliceosome_noiseless", "d4_l2", seed)
    run = dataclasses.replace(run, model=model_config(merge(plain, preset), "d4_search"))
    search = dataclasses.replace(run.model.search, images=images, refine_orientations=1500, batch=min(100, images))
    model = dataclasses.replace(run.model, search=search, refine_passes=1, precision="float32")
    dataset = dataclasses.replace(
        run.dataset, box=BOX, voxel_size=voxel_size, images=images, shift_std=SHIFT * voxel_size, held_out=0
    )
    return dataclasses.replace(run, dataset=dataset, model=model)


def found_early(model: Autoencoder, data: Particles, steps: int) -> torch.Tensor:
    """The map (m³, 2) of a search that ends after so many of its 60 steps."""
    state = search_stages.start_search(model)

    def fetch(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.from_numpy(data.images[rows]) * model.image_scale
        return images, torch.from_numpy(data.ctf[rows])

    for step in range(steps):
        search_stages.initial_step(state, step, 0.0, model, [], fetch)
    return enlarged(masked_volume(state.grid), state.grid.radius, BOX // 2)


def half_run(number: int, volume: np.ndarray, data: Particles, early: bool, seed: int) -> tuple[Half, Autoencoder]:
    """A half-set with refined poses, and the model of its run."""
    rng = np.random.default_rng([seed, number])
    config = configured(data.voxel_size, len(data.images), seed + number)
    scale = float(1 / data.images.std())
    model = Autoencoder(config, scale)
    if early:
        start = found_early(model, data, 12)
    else:  # the true map, in the run's own frame
        turn = torch.from_numpy(Rotation.random(random_state=rng).as_matrix()).float()
        disc_values = from_real_map(torch.from_numpy(volume) * scale, BOX // 2)
        start = turned(disc_values, turn)
    poses = random_rotations(len(data.images), rng), np.zeros((len(data.images), 2))
    with (
        patch.object(refinement, "first_volume", lambda *_: start),  # raises where there is no such function
        tempfile.TemporaryDirectory() as folder,
    ):
        rotations, shifts, _ = refinement.refine(model, data, *poses, lambda _: None, Path(folder) / "refinement.pt")
    return Half(data, rotations, shifts, "C1"), model


def turned(values: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    k = grid_frequencies(BOX // 2, values.device)
    inside = k.norm(dim=-1) < BOX // 2
    result = torch.zeros_like(values)
    result[inside] = torch.view_as_real(grid_values(values, BOX // 2, k[inside] @ turn.T))
    return result


def true_share(halves: list[Half], true: list[np.ndarray], same: np.ndarray) -> float:
    """Share of all poses, both halves in one frame, within 15° of the truth."""
    found, wanted = np.concatenate([half.rotations for half in halves]), np.concatenate(true)
    return float(np.mean(degrees(found, wanted, same) < AGREES))


def judged(name: str, case: str, seed: int) -> dict[str, Any]:
    """One run: its verdict and the truth."""
    images, snr, early, told = CASES[case]
    volume, voxel_size = molecule(name, seed)
    sets = [particles(volume, voxel_size, images, snr, told, 10 * seed + half) for half in (1, 2)]
    runs = [half_run(half, volume, sets[half - 1][0], half in early, seed) for half in (1, 2)]
    halves = [run[0] for run in runs]
    asked = []
    for other, (half, model) in zip(reversed(halves), runs, strict=True):
        blank = random_rotations(images, np.random.default_rng(seed)), np.zeros((images, 2))
        asked.append(RelionPoses(*refinement.poses_against(model, as_seen(model, half), other.particles, *blank)))
    together = compare(halves, asked[::-1])
    found = [back_project(half) for half in together.halves]
    first, second = (grid_map(grid).numpy() for grid in independent_sums(together.halves, found, SHIFT * voxel_size))
    mask = solvent_mask(torch.from_numpy((first + second) / 2)).numpy()
    curve = fsc.corrected_fsc(first, second, mask)["corrected"]
    resolution = fsc.exact_resolution(curve, THRESHOLD, voxel_size).first
    summary = {
        "agree_within_degrees": AGREES,
        "halves_compared": [images] * 2,
        "halves_agree": together.agree,
        "resolution_angstrom": {"corrected": resolution},
        "fsc_off_centre": fsc.off_centre(first, second, mask, int(BOX * voxel_size / (resolution or 1e9))),
        "nearly_symmetric": together.nearly,
        "agree_modulo": together.symmetry,
        "symmetry_correlation": together.correlations,
    }
    state = verdict(summary).state
    symmetry = "C1" if name.startswith("nearly") else name
    truth = true_share(together.halves, [each[1] for each in sets], group(symmetry))
    modulo = true_share(together.halves, [each[1] for each in sets], group(name.split()[-1]))
    right = is_right(state, modulo if state == "partly converged" else truth)
    return {
        "molecule": name,
        "case": case,
        "seed": seed,
        "images_a_half": images,
        "within_15": round(100 * truth, 1),
        "within_15_modulo_near_group": round(100 * modulo, 1),
        "agree_1": round(100 * together.agree[0], 1),
        "agree_2": round(100 * together.agree[1], 1),
        "group_found": ("nearly " * together.nearly) + together.symmetry,
        "maps_alike": round(together.alike or 0, 3),
        "verdict": state,
        "right_verdict": "yes" if right else "no",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="csv; rows in it are not made again")
    parser.add_argument("--seeds", type=int, default=1, help="of each molecule in each case")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    symmetry_axes.CYCLIC = (2, 3, 4, 7)  # type: ignore[assignment]
    symmetry_axes.DIRECTIONS = 1500
    rows = list(csv.DictReader(arguments.output.open())) if arguments.output.exists() else []
    known = {(row["molecule"], row["case"], row["seed"]) for row in rows}
    cases = [(name, case, seed) for seed in range(arguments.seeds) for case in CASES for name in GROUPS]
    for name, case, seed in np.random.default_rng(0).permutation(np.array(cases, object)):
        if (name, case, str(seed)) in known:
            continue
        started = time.process_time()
        row = judged(name, case, seed) | {"cpu_seconds": round(time.process_time() - started)}
        rows.append(row)
        with arguments.output.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if len(rows) == 1:
                writer.writeheader()
            writer.writerow(row)
        right = sum(each["right_verdict"] == "yes" for each in rows)
        interval = scipy.stats.binomtest(right, len(rows)).proportion_ci(0.95, "exact")
        print(row, f"right: {right} of {len(rows)}, {interval.low:.1%} to {interval.high:.1%}", flush=True)


if __name__ == "__main__":
    main()
