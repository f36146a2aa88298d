"""Checkpoints: the training loop's whole state, in a file from which an interrupted run continues."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from equipose.config.settings import Precision, RunConfig
from equipose.core.fourier_grid import FourierGrid
from equipose.io.files import CHECKPOINTS, whole_file
from equipose.model.autoencoder import Autoencoder, load_state, state
from equipose.poses.search_stages import SearchState
from equipose.training.run_progress import Progress

IN_CHECKPOINT: list[Any] = [
    SearchState,
    FourierGrid,
    np.zeros(0).__reduce__()[0],
    np.float64().__reduce__()[0],
    np.ndarray,
]
IN_CHECKPOINT += [np.dtype, *(type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int64, bool))]
"""Types in a checkpoint besides tensors and plain numbers; numpy's two functions that rebuild arrays and scalars have
another name in each version."""


def checkpoint(
    output: Path, model: Autoencoder, averaged: Autoencoder, optimizers: list[Optimizer], progress: Progress
) -> None:
    """Write the loop's whole state; the last checkpoint is kept as the former one, in case a disk spoils this one."""
    content = {
        "config": model.config.to_json(),
        "image_scale": model.image_scale,
        "weights": state(model),
        "averaged": state(averaged),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "progress": vars(progress),
        "random_state": torch.get_rng_state(),
    }
    path, former = (output / name for name in CHECKPOINTS)
    with whole_file(path) as partial:
        with open(partial, "wb") as file:
            torch.save(content, file)
        if path.exists():
            path.replace(former)


def recorded_precision(output: Path, config: RunConfig) -> Precision | None:
    """The precision in which the run has been trained so far, if there is a checkpoint of it.

    A stopwatch chose it at the run's first start. It stays the same to the end: a busy machine, or another machine,
    might choose another precision, and the run would change its arithmetic half-way.
    """
    for path in (output / name for name in CHECKPOINTS):
        with suppress(Exception):  # of a broken file; `restore` reports what is wrong
            content = read_checkpoint(path, torch.device("cpu"), mmap=True)
            if RunConfig.from_json(content["config"], path) == config:
                return content["progress"]["made_with"][-1]["precision"]
    return None


def read_checkpoint(path: Path, device: torch.device, mmap: bool = False) -> dict[str, Any]:
    with torch.serialization.safe_globals(IN_CHECKPOINT):  # a pickle of anything else could run code
        return torch.load(path, map_location=device, weights_only=True, mmap=mmap)


def restore(
    output: Path, model: Autoencoder, averaged: Autoencoder, optimizers: list[Optimizer], say: Callable[[str], None]
) -> Progress | None:
    """Load the last good checkpoint into models and optimisers; one that is broken or of another run is set aside."""
    for path in (output / name for name in CHECKPOINTS):
        if not path.exists():
            continue
        try:
            content = read_checkpoint(path, model.frequencies.device)
            progress, problem = Progress(**content["progress"]), difference(model, content)
        except Exception as error:  # torch raises many kinds of errors for a truncated file
            problem = f"cannot be read ({type(error).__name__})"
        else:
            if problem is None:
                load_state(model, content["weights"])
                load_state(averaged, content["averaged"])
                for optimizer, state in zip(optimizers, content["optimizers"], strict=True):
                    optimizer.load_state_dict(state)
                    for moments in optimizer.state.values():  # Adam reads its count at every step: not from a GPU
                        moments |= {"step": moments["step"].cpu()} if "step" in moments else {}
                torch.set_rng_state(content["random_state"].cpu())
                say(f"continuing from step {progress.step} ({path})")
                return progress
        aside = path.with_suffix(".set-aside.pt")
        path.replace(aside)
        say(f"{path} {problem}; set aside as {aside.name}")
    return None


def difference(model: Autoencoder, content: dict[str, Any]) -> str | None:
    """The difference between the run of a checkpoint and this run, if there is one."""

    def shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
        return {name: weight.shape for name, weight in weights.items()}

    if RunConfig.from_json(content["config"], "the checkpoint") != model.config:  # also one of another version's text
        return "belongs to another configuration"
    if content["image_scale"] != model.image_scale:
        return "belongs to other images"
    if shapes(content["weights"]) != shapes(state(model)):
        return "belongs to other networks: the code has changed"
    return None
