"""Train one run: `python -m equipose.training.train --config config.json --dataset DIR --output DIR`.

It writes model.pt, history.csv, trace.npz and provenance.json. Until the run is evaluated, two checkpoints lie beside
them: checkpoint.pt has the loop's whole state, and checkpoint.former.pt its state at the evaluation before. So the same
command continues after any interruption. On a CPU with a budget in steps, an interrupted run ends with the same bits as
an uninterrupted one, given the same packages, processor and number of threads. On a GPU it does not: the threads of
`index_add_` and of some of cuDNN's gradients add their numbers in any order. There, two runs of one seed differ in
their last digits after a step, and visibly after many. With a budget in seconds, a run's number of steps depends on the
machine's speed.
"""

import argparse
import copy
import functools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim import Optimizer

from equipose.config.settings import RunConfig
from equipose.errors import ConfigError
from equipose.io.files import CHECKPOINTS, REFINEMENT, whole_file, write_json, write_text
from equipose.io.fingerprint import fingerprint
from equipose.io.locks import one_at_a_time
from equipose.io.particles import Particles, check_training_box, read_particles
from equipose.io.processes import stop_on_signals
from equipose.io.progress import number, run_main, say
from equipose.io.provenance import provenance
from equipose.io.stacks import Images
from equipose.model.autoencoder import Autoencoder, mode, save_model, state
from equipose.model.devices import claim_device, keep_freed_memory, usable_precision
from equipose.model.losses import LOSSES
from equipose.model.optimizers import descend, make_optimizers, set_rates, training_rates
from equipose.poses.search_stages import Fetch, found_map, initial_step, search_length, stage, start_search
from equipose.training.checkpoint import checkpoint, recorded_precision, restore
from equipose.training.forecast import forecast
from equipose.training.monitor import news_line, record_scores
from equipose.training.run_progress import Progress, budget_spent, spent_part

NEWS_SECONDS, CHECKPOINT_COST = 20.0, 0.02
"""Seconds without an evaluation after which a run writes a line and a checkpoint, of which the live page shows the map;
later, if checkpoints would take more than this part of the time.
"""


def train_step(model: Autoencoder, optimizers: list[Optimizer], images: Tensor, ctf_parameters: Tensor) -> Tensor:
    """One update on a batch of images (b, L, L); returns the loss, which stays on the device."""
    config = model.config.model
    loss = LOSSES[config.loss](model, images * model.image_scale, ctf_parameters)
    descend(model, optimizers, loss)
    return loss.detach()


def batch_indices(images: int, batch: int, seed: int, step: int) -> np.ndarray:
    """The images of a step: epochs are permutations drawn from (seed, epoch), so a step needs no memory of the last.

    The few images that do not fill an epoch's last batch wait for the next permutation.
    """
    epoch, position = divmod(step, images // batch)
    return epoch_order(images, seed, epoch)[position * batch : (position + 1) * batch]


@functools.lru_cache(maxsize=1)
def epoch_order(images: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of an epoch, kept while the epoch lasts."""
    return np.random.default_rng([seed, epoch]).permutation(images)


def image_scale(images: np.ndarray | Images, sample: int = 1000) -> float:
    """1 / standard deviation of the first images, so that an empty prediction has a loss of 1."""
    return float(1 / np.std(images[:sample], dtype=np.float64))


class Interrupted(Exception):
    """A signal asked us to stop; the checkpoint holds everything."""


def train(
    config: RunConfig,
    particles: Particles,
    output: Path,
    device: torch.device,
    say: Callable[[str], None],
    stop_requested: Callable[[], int] = lambda: False,
) -> None:
    """Train to the end of the budget, continuing from a checkpoint if there is one, and write the run's outputs.

    Raises Interrupted soon after `stop_requested` returns True; the checkpoint then holds the whole state.
    """
    recorded = recorded_precision(output, config)
    precision = recorded or usable_precision(config.model.precision)
    torch.manual_seed(config.seed)
    model = Autoencoder(config, image_scale(particles.images), precision).to(device)
    optimizers = make_optimizers(model, config.model.optimizer)
    averaged = copy.deepcopy(model) if config.model.average else model  # the model that is scored and kept
    progress = restore(output, model, averaged, optimizers, say) or Progress()
    if config.model.init == "search" and progress.step == 0:
        progress.search = start_search(model)
    started_with = {"from_step": progress.step, "precision": precision, "fingerprint": fingerprint("train")}
    progress.made_with.append(started_with | provenance(device))

    training = config.dataset.images
    fetch = batch_source(particles, device)
    fixed = min(config.evaluation.images, training)
    evaluated = np.arange(fixed), np.arange(training, min(training + fixed, len(particles.images)))

    if precision != config.model.precision:
        why = "this run began so" if recorded else f"this processor is no faster in {config.model.precision}"
        say(f"{why}: training in {precision}")
    first = fetch(batch_indices(training, config.model.batch, config.seed, 0))
    own_device = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(own_device):  # or a network that draws numbers would draw others after an interruption
        say(forecast(model, *first, progress.step, progress.seconds, progress.search is not None))
    if progress.step == 0:
        with mode(averaged, training=False):
            record_scores(averaged, progress, particles, fetch, evaluated, say)
    news_after = NEWS_SECONDS
    while not budget_spent(config, progress):
        started = time.perf_counter()
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)  # the same sum, wherever it is interrupted
        elapsed = 0.0
        model.train()
        while True:
            loss_sum += update(model, optimizers, progress, fetch, elapsed)
            progress.step += 1
            follow(averaged, model, progress.step)
            progress.loss_count += 1
            elapsed = time.perf_counter() - started
            due = progress.step % config.evaluation.every == 0
            if due or stop_requested() or budget_spent(config, progress, elapsed) or elapsed > news_after:
                break
        progress.loss_sum += loss_sum.item()  # waits for the device, so the clock below is honest
        progress.seconds += time.perf_counter() - started
        if not (np.isfinite(progress.loss_sum) and all(x.isfinite().all() for x in state(model).values())):
            kept = f" The last good state is in {CHECKPOINTS[0]}." if (output / CHECKPOINTS[0]).exists() else ""
            raise ConfigError(
                f"{output}: the loss is not finite at step {progress.step}.{kept} Lower"
                " training.optimizer.learning_rate, or look for broken images in the dataset."
            )
        if due or budget_spent(config, progress):
            with mode(averaged, training=False):
                record_scores(averaged, progress, particles, fetch, evaluated, say)
        else:
            say(news_line(config, progress))
        started = time.perf_counter()
        checkpoint(output, model, averaged, optimizers, progress)
        news_after = max(NEWS_SECONDS, (time.perf_counter() - started) / CHECKPOINT_COST)
        if stop_requested():
            raise Interrupted

    if progress.search is not None:
        progress.found = found_map(progress.search, model)
        if progress.step < search_length(config.model.search):
            say(f"{output}: the budget ended in the search, before it had a map: this model knows nothing.")
    averaged.found = progress.found
    write_outputs(output, averaged, progress, particles, fixed)


def update(
    model: Autoencoder, optimizers: list[Optimizer], progress: Progress, fetch: Fetch, more_seconds: float
) -> Tensor:
    """The next step of a run, training or what comes before it; returns the loss.

    `more_seconds` have passed since those of `progress`.
    """
    config, step, spent = model.config, progress.step, spent_part(model.config, progress, more_seconds)
    if progress.search is not None:
        if stage(step, spent, config.model.search)[0] != "train":
            return initial_step(progress.search, step, spent, model, optimizers, fetch)
        progress.found, progress.search = found_map(progress.search, model), None
    model.march(step)
    set_rates(optimizers, training_rates(config.model.optimizer, spent))
    batch = batch_indices(config.dataset.images, config.model.batch, config.seed, step)
    return train_step(model, optimizers, *fetch(batch))


@torch.no_grad()
def follow(averaged: Autoencoder, model: Autoencoder, step: int) -> None:
    """Update `averaged`: weights and statistics of `model`, averaged over the last part of all steps so far.

    The part is the model's `average`. At a high learning rate, much of a network's error is the noise of its last
    steps; an average does not have it.
    """
    if averaged is model:
        return
    rate = min(1.0, 1 / (model.config.model.average * step))
    means = averaged.state_dict()
    for name, current in model.state_dict().items():  # in training mode, whose names every mode has
        mean = means[name]
        if mean.is_floating_point():
            mean.lerp_(current, rate)
        else:
            mean.copy_(current)


def batch_source(particles: Particles, device: torch.device) -> Callable[[np.ndarray], tuple[Tensor, Tensor]]:
    """A function from indices to (images, CTF parameters) on the device, where all of them live if they fit."""
    ctf_parameters = torch.from_numpy(particles.ctf).float().to(device)
    size = 4 * math.prod(particles.images.shape)
    if device.type == "cuda" and size < 0.5 * torch.cuda.mem_get_info(device)[0]:
        resident = torch.from_numpy(np.ascontiguousarray(particles.images[:], dtype=np.float32)).to(device)

        def fetch(indices: np.ndarray) -> tuple[Tensor, Tensor]:
            rows = torch.from_numpy(indices).to(device, non_blocking=True)
            return resident[rows], ctf_parameters[rows]

    else:

        def fetch(indices: np.ndarray) -> tuple[Tensor, Tensor]:
            images = torch.from_numpy(np.ascontiguousarray(particles.images[indices], dtype=np.float32))
            return images.to(device, non_blocking=True), ctf_parameters[torch.from_numpy(indices)]

    return fetch


def write_outputs(output: Path, model: Autoencoder, progress: Progress, particles: Particles, fixed: int) -> None:
    """Write model.pt, history.csv, trace.npz and their provenance, each complete or absent."""
    write_json(output / "provenance.json", progress.made_with)
    save_model(model, output / "model.pt")
    write_text(output / "history.csv", pd.DataFrame(progress.history).to_csv(index=False))
    box = model.box
    volumes = [volume for _, volume in progress.volumes.values()]
    trace = {
        "steps": np.array([row["step"] for row in progress.history]),
        "seconds": np.array([row["seconds"] for row in progress.history]),
        "predicted": np.stack(progress.poses),
        "volumes": np.stack(volumes) if volumes else np.zeros((0, box, box, box), np.float16),
        "volume_steps": np.array([step for step, _ in progress.volumes.values()], dtype=int),
        "volume_names": np.array(list(progress.volumes), dtype=str),
    }
    if particles.rotations is not None:
        trace["true"] = particles.rotations[:fixed].astype(np.float32)
    with whole_file(output / "trace.npz") as partial:
        np.savez_compressed(partial, **trace)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="the run's config.json")
    parser.add_argument("--dataset", type=Path, required=True, help="folder with particles.star")
    parser.add_argument("--output", type=Path, required=True, help="the run's folder")
    parser.add_argument("--threads", type=number(int, 1), required=True, help="CPU threads")
    parser.add_argument(
        "--jobs-per-gpu", type=number(int, 1), required=True, help="that may share a GPU of this machine"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    config = RunConfig.load(arguments.config)
    particles = read_particles(arguments.dataset / "particles.star")
    check_training_box(particles.images.shape[-1])
    arguments.output.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(arguments.config, say) as waited:  # a killed Snakemake leaves its jobs behind, still training
        if waited and (arguments.output / "model.pt").exists():
            say(f"{arguments.output}: the other process has finished this run")
            return
        if recorded_precision(arguments.output, config) is None:  # no checkpoint of this run: this is of a former model
            (arguments.output / REFINEMENT).unlink(missing_ok=True)
        with claim_device(arguments.jobs_per_gpu, say) as device, stop_on_signals() as stop_requested:
            try:
                train(config, particles, arguments.output, device, say, stop_requested)
            except Interrupted:
                sys.exit("stopped; the same command continues from the checkpoint")


if __name__ == "__main__":
    run_main(main)
