"""Scores of a finished run: `python -m equipose.training.evaluate --run DIR --dataset DIR --threads N`.

Reads the run's config.json, model.pt and history.csv and the dataset's particles.star and volume.mrc. Writes, in the
run folder, poses.star and volume.mrc (in the run's own frame, consistent with each other), volume_aligned.mrc (in the
truth's frame), fsc.csv and metrics.json. metrics.json scores the encoder's own poses (`direct`), those of the
`best_path` of a loss with several paths, and the `refined` poses. With `refine_passes`, poses and maps are the refined
ones. Without it, poses are those of the best path or the encoder's own, and the map is the decoder's.
`confirmed_share` needs no truth: it is the part of the poses that a search against the run's own map confirms.
metrics.json also records the settings of the run (`config`) and of its images (`images`), and the fingerprints of the
code that made the images, trained the model and scored it (`code`). Particles without a truth get nulls, and their
aligned volume is the volume itself.

The aligned volume is evaluated at a rotated or mirrored frequency grid. The decoder is a continuous function of
frequency, so its volume is not interpolated. A refined map is interpolated between points half a shell apart.
"""

import argparse
import dataclasses
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from equipose.config.settings import RunConfig
from equipose.core import fsc, point_groups
from equipose.core.fourier_grid import grid_values
from equipose.core.pose_metrics import IDENTITY, Alignment, exact_scores, paper_scores
from equipose.core.rotations import to_relion_angles
from equipose.core.volumes import aligned_volume
from equipose.errors import ConfigError
from equipose.io.files import CHECKPOINTS, REFINEMENT, read_json, write_json, write_text
from equipose.io.fingerprint import dataset_code, fingerprint, training_code
from equipose.io.locks import one_at_a_time
from equipose.io.maps import read_map, write_map
from equipose.io.particle_tables import ANGLES, ORIGINS, write_star
from equipose.io.particles import Particles, read_particles
from equipose.io.progress import Report, number, reporter, run_main, say
from equipose.model.autoencoder import Autoencoder, load_model
from equipose.model.devices import claim_device
from equipose.poses.pose_choice import EncoderPoses, best_path_finder, own_pose_finder
from equipose.poses.refinement import confirmed_share, refine
from equipose.training.run_progress import networks_trained

FSC_RULE = (
    "volume aligned by the poses' rotation, hand and translation; unmasked; frequencies rounded to whole shells 1 to"
    " L/2 - 1; `paper`: last shell before the first drop; `exact`: interpolated crossings"
)


@dataclass(frozen=True)
class RelionPoses:
    """Predicted rotations (n, 3, 3), and shifts (n, 2) in Å of the content from pixel L/2."""

    rotations: np.ndarray
    shifts: np.ndarray


def predict(model: Autoencoder, particles: Particles, progress: Report) -> tuple[RelionPoses, RelionPoses | None]:
    """Poses of all images: `direct`, the encoder's own, and the `best_path` of the run's loss (None for one path)."""
    device = next(model.parameters()).device
    finders = [finder for finder in (own_pose_finder(model), best_path_finder(model)) if finder is not None]
    found: list[list[EncoderPoses]] = [[] for _ in finders]
    for start in range(0, len(particles.images), model.config.model.batch):
        batch = slice(start, start + model.config.model.batch)
        images = torch.from_numpy(np.array(particles.images[batch], np.float32)).to(device) * model.image_scale
        ctf_parameters = torch.from_numpy(np.array(particles.ctf[batch], np.float32)).to(device)
        for poses, finder in zip(found, finders, strict=True):
            poses.append(finder(images, ctf_parameters))
        progress("the encoder's poses:", start + len(images), len(particles.images))
    direct, *best_path = (_gather(poses, model.voxel_size) for poses in found)
    return direct, best_path[0] if best_path else None


def unknown_poses(particles: Particles) -> RelionPoses:
    """Where networks were not trained: the same pose for all images. A search finds them their own."""
    count = len(particles.images)
    return RelionPoses(np.tile(np.eye(3), (count, 1, 1)), np.zeros((count, 2)))


def map_of(transform: Callable[[Tensor], Tensor], model: Autoencoder, alignment: Alignment) -> np.ndarray:
    """The volume (L, L, L), (z, y, x), of a `transform` (n, 3) → (n,), moved by `alignment`, in image units."""
    volume = aligned_volume(transform, model.box, model.voxel_size, alignment)
    return (volume / model.image_scale).astype(np.float32)


def score(predicted: RelionPoses, particles: Particles, rows: slice, symmetry: str) -> tuple[dict[str, Any], Alignment]:
    """The `paper` and `exact` entries of metrics.json for these rows of the particles, and the exact alignment.

    Poses are compared modulo the point group `symmetry`.
    """
    assert particles.rotations is not None
    rotations, true = predicted.rotations[rows], particles.rotations[rows]
    true_shifts = None if particles.shifts is None else particles.shifts[rows]
    same, shifts = point_groups.group(symmetry), predicted.shifts[rows]
    exact, alignment = exact_scores(rotations, true, shifts, true_shifts, particles.voxel_size, same)
    paper = paper_scores(rotations, true, same)
    return {"paper": dataclasses.asdict(paper), "exact": dataclasses.asdict(exact)}, alignment


def score_resolution(curve: np.ndarray, voxel_size: float) -> dict[str, Any]:
    """The `resolution` entry of metrics.json, from an FSC curve (L/2,)."""
    thresholds = {f"{threshold:g}": threshold for threshold in fsc.THRESHOLDS}
    return {
        "paper": {name: fsc.paper_resolution(curve, value, voxel_size) for name, value in thresholds.items()},
        "exact": {
            name: dataclasses.asdict(fsc.exact_resolution(curve, value, voxel_size))
            for name, value in thresholds.items()
        },
        "nyquist_reached": fsc.nyquist_reached(curve),
    }


def convergence(history: pd.DataFrame, converged_mse: float) -> dict[str, Any]:
    """Length of training, and the time at which the MSE first fell below `converged_mse` (never without a truth)."""
    reached = history[history["mse"] < converged_mse] if "mse" in history else history[:0]
    first = reached.iloc[0] if len(reached) else None
    return {
        "steps": int(history["step"].iloc[-1]),
        "seconds": float(history["seconds"].iloc[-1]),
        "converged": first is not None,
        "convergence_seconds": None if first is None else float(first["seconds"]),
        "convergence_steps": None if first is None else int(first["step"]),
    }


@torch.no_grad()
def evaluate(run: Path, dataset: Path, label: str, device: torch.device, say: Callable[[str], None]) -> None:
    """Score the run in folder `run` on the dataset in folder `dataset`, and write all results.

    `label` is the model's name in tables and figures; `say` gets a line of progress now and then.
    """
    config = RunConfig.load(run / "config.json")
    model = load_model(run / "model.pt").to(device)
    particles = read_particles(dataset / "particles.star")
    trained = networks_trained(run, config) or not config.model.refine_passes
    direct, best_path = predict(model, particles, reporter(say)) if trained else (unknown_poses(particles), None)
    if not (np.isfinite(direct.rotations).all() and np.isfinite(direct.shifts).all()):
        raise ConfigError(
            f"{run / 'model.pt'} predicts NaN poses: training diverged; lower training.optimizer.learning_rate."
        )

    kinds = {"direct": direct, "best_path": best_path, "refined": None}
    transform = functools.partial(_decoder_values, model)
    if config.model.refine_passes:
        start = best_path or direct
        where = run / REFINEMENT
        rotations, shifts, volume = refine(model, particles, start.rotations, start.shifts, say, where, trained)
        kinds["refined"] = RelionPoses(rotations, shifts)
        transform = functools.partial(_grid_values, model, volume)
    exported = kinds["refined"] or best_path or direct

    scores: dict[str, Any] = {"training": None, "held_out": None}
    alignment, symmetry = IDENTITY, config.dataset.symmetry
    if particles.rotations is not None:
        training = slice(0, config.dataset.images)
        held_out = slice(config.dataset.images, None)
        for name, rows in (("training", training), ("held_out", held_out)):
            if len(particles.rotations[rows]):
                scores[name] = {
                    kind: poses and score(poses, particles, rows, symmetry)[0] for kind, poses in kinds.items()
                }
        alignment = score(exported, particles, training, symmetry)[1]

    aligned = map_of(transform, model, alignment)
    resolution, curve = None, np.empty(0)
    if particles.rotations is not None and (dataset / "volume.mrc").exists():
        curve = fsc.fourier_shell_correlation(aligned, read_map(dataset / "volume.mrc")[0])
        resolution = score_resolution(curve, particles.voxel_size)

    write_map(run / "volume.mrc", map_of(transform, model, IDENTITY), particles.voxel_size)
    write_map(run / "volume_aligned.mrc", aligned, particles.voxel_size)
    write_star(run / "poses.star", particles.optics_table, pose_table(particles, exported, dataset, run))
    write_text(run / "fsc.csv", _fsc_table(curve, model.box, particles.voxel_size).to_csv(index=False))
    metrics = {
        "dataset": config.dataset.name,
        "model": config.model.name,
        "label": label,
        "symmetry": symmetry,
        "encoder": config.model.encoder,
        "loss": config.model.loss,
        "seed": config.seed,
        **convergence(pd.read_csv(run / "history.csv"), config.evaluation.converged_mse),
        **scores,
        "confirmed_share": confirmed_share(model, particles, exported.rotations, exported.shifts),
        "resolution": resolution,
        "fsc_rule": FSC_RULE,
        "config": dataclasses.asdict(config),
        "images": read_json(dataset / "config.json"),
        "code": dataset_code(dataset) | training_code(run) | {"evaluate": fingerprint("evaluate")},
    }
    write_json(run / "metrics.json", metrics)


def pose_table(particles: Particles, poses: RelionPoses, dataset: Path, run: Path) -> pd.DataFrame:
    """The particles' own table with predicted angles and origins, its stack named from the run folder."""
    table = particles.particle_table.copy()
    table[list(ANGLES)] = to_relion_angles(poses.rotations)
    table[list(ORIGINS)] = -poses.shifts  # origins point from the content to the centre
    from_run = os.path.relpath(dataset, run)
    parts = table["rlnImageName"].str.split("@", n=1)
    table["rlnImageName"] = [f"{number}@{os.path.normpath(os.path.join(from_run, stack))}" for number, stack in parts]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m equipose.training.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="run folder, with config.json, model.pt, history.csv")
    parser.add_argument("--dataset", type=Path, required=True, help="dataset folder, with particles.star, volume.mrc")
    parser.add_argument("--label", required=True, help="the model's name in tables and figures")
    parser.add_argument("--threads", type=number(int, 1), required=True, help="CPU threads")
    parser.add_argument(
        "--jobs-per-gpu", type=number(int, 1), required=True, help="that may share a GPU of this machine"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with one_at_a_time(arguments.run / "config.json", say), claim_device(arguments.jobs_per_gpu, say) as device:
        evaluate(arguments.run, arguments.dataset, arguments.label, device, say)
        for name in (*CHECKPOINTS, REFINEMENT):  # the results hold everything now
            (arguments.run / name).unlink(missing_ok=True)


def _gather(batches: list[tuple[Tensor, Tensor]], voxel_size: float) -> RelionPoses:
    """Batches of poses as one batch, shifts about L/2: the encoder has them about (L - 1)/2, half a pixel before."""
    rotations, shifts = (torch.cat(parts).cpu().double().numpy() for parts in zip(*batches, strict=True))
    return RelionPoses(rotations, shifts - 0.5 * voxel_size)


def _decoder_values(model: Autoencoder, k: Tensor) -> Tensor:
    return model.decoder(k.to(model.frequencies.device)).cpu()


def _grid_values(model: Autoencoder, volume: Tensor, k: Tensor) -> Tensor:
    return grid_values(volume, model.box // 2, k.to(volume.device)).cpu()


def _fsc_table(curve: np.ndarray, box: int, voxel_size: float) -> pd.DataFrame:
    shell = np.arange(len(curve))
    return pd.DataFrame({"shell": shell, "frequency_per_angstrom": shell / (box * voxel_size), "fsc": curve})


if __name__ == "__main__":
    run_main(main)
