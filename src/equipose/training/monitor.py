"""A run's scores and maps during training: its history, its trace and its line of progress."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from equipose.config.settings import RunConfig
from equipose.core import point_groups
from equipose.core.pose_metrics import hand_shares, paper_scores
from equipose.io.particles import Particles
from equipose.model.autoencoder import Autoencoder, decoder_volume
from equipose.poses.pose_choice import pose_finder
from equipose.poses.search_stages import Fetch, search_length, stage
from equipose.training.run_progress import Progress, spent_part


@torch.no_grad()
def predict_poses(model: Autoencoder, fetch: Fetch, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (n, 3, 3) and shifts (n, 2) in Å about the array's centre, of a model in evaluation mode."""
    starts = range(0, len(indices), model.config.model.batch)  # as many at once as in training: no more memory
    batches = (fetch(indices[start : start + model.config.model.batch]) for start in starts)
    find_poses = pose_finder(model)
    predictions = [find_poses(images * model.image_scale, parameters) for images, parameters in batches]
    rotations, shifts = (torch.cat(parts).double().cpu().numpy() for parts in zip(*predictions, strict=True))
    return rotations, shifts


def record_scores(
    model: Autoencoder,
    progress: Progress,
    particles: Particles,
    fetch: Fetch,
    evaluated: tuple[np.ndarray, np.ndarray],
    say: Callable[[str], None],
) -> None:
    """Score the fixed training and held-out images, and keep what the figures of Apx. G need.

    The model is in evaluation mode.
    """
    if particles.rotations is None and knows_nothing(model.config, progress):
        rotations = np.full((len(evaluated[0]), 3, 3), np.nan)
    else:
        rotations, _ = predict_poses(model, fetch, evaluated[0])
    row = {
        "step": progress.step,
        "seconds": round(progress.seconds, 3),
        "loss": progress.loss_sum / max(progress.loss_count, 1) if progress.loss_count else float("nan"),
    }
    if particles.rotations is not None:
        group = point_groups.group(model.config.dataset.symmetry)
        scores = paper_scores(rotations, particles.rotations[evaluated[0]], group)
        row |= dataclasses.asdict(scores)
        if len(evaluated[1]):
            held_out, _ = predict_poses(model, fetch, evaluated[1])
            unseen = paper_scores(held_out, particles.rotations[evaluated[1]], group)
            row |= {f"held_out_{name}": value for name, value in dataclasses.asdict(unseen).items()}
        shares = hand_shares(rotations, particles.rotations[evaluated[0]], group)
        row |= {f"share_{hand}": share for hand, share in shares.items()}
        keep_snapshots(model, progress, row)
    progress.history.append(row)
    progress.poses.append(rotations.astype(np.float32))
    progress.loss_sum, progress.loss_count = 0.0, 0
    say(progress_line(model.config, progress))


def knows_nothing(config: RunConfig, progress: Progress) -> bool:
    """Whether no step has trained the networks yet."""
    return progress.search is not None and progress.step <= search_length(config.model.search)


def keep_snapshots(model: Autoencoder, progress: Progress, row: dict[str, Any]) -> None:
    """Keep a map at evaluations 1, 2, 4, 8, …, and at the evaluation with the strongest mixture of hands."""

    def snapshot() -> tuple[int, np.ndarray]:
        return progress.step, decoder_volume(model).astype(np.float16)

    def mixture(entry: dict[str, Any]) -> float:
        return min(entry["share_same"], entry["share_mirror"])

    count = len(progress.history)
    if count and count & (count - 1) == 0:
        progress.volumes[f"step_{progress.step}"] = snapshot()
    trained = progress.history[1:]  # a random start has no hands
    if count and mixture(row) > max(map(mixture, trained), default=-1.0):
        progress.volumes["mixture_peak"] = snapshot()


def progress_line(config: RunConfig, progress: Progress) -> str:
    """A line about one evaluation, for people: steps done, time left, errors."""
    row = progress.history[-1]
    parts = [_so_far(config, progress, row["loss"])]
    if "mse" in row:
        parts += [f"MSE {row['mse']:.4f}", f"MedSE {row['medse']:.4f} ({row['hand']} hand)"]
    if "held_out_mse" in row:
        parts.append(f"held out {row['held_out_mse']:.4f}")
    return " · ".join(parts)


def news_line(config: RunConfig, progress: Progress) -> str:
    """A line between two evaluations: steps done, time left, loss since the last evaluation."""
    return _so_far(config, progress, progress.loss_sum / progress.loss_count)


def _so_far(config: RunConfig, progress: Progress, loss: float) -> str:
    budget, rate = config.budget, progress.seconds / max(progress.step, 1)
    if budget.steps is not None:
        done, left = f"step {progress.step}/{budget.steps}", (budget.steps - progress.step) * rate
    else:
        done, left = f"step {progress.step}", max(budget.time - progress.seconds, 0)
    if progress.search is not None:
        done += f" ({stage(progress.step, spent_part(config, progress), config.model.search)[0]})"
    parts = [f"[{config.dataset.name} {config.model.name} seed {config.seed}] {done}, {progress.seconds:.0f} s"]
    if progress.step:
        parts += [f"{left / 60:.1f} min left", f"{1000 * rate:.0f} ms a step", f"loss {loss:.4f}"]
    return " · ".join(parts)
