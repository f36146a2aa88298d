"""A forecast of a training run's time and memory, before it starts.

Time is measured on some images of the run, with a copy of the model. Memory is counted: a forward pass on a few images
keeps tensors for the backward pass; they are scaled to the batch, and weights and moments are added. An evaluation
needs less.
"""

import copy
import datetime
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from equipose.io.progress import duration
from equipose.model.autoencoder import Autoencoder
from equipose.model.losses import LOSSES, PATHS
from equipose.poses.pose_choice import pose_finder

SAMPLE_PIXELS = 2**17
"""Number of images to measure with on a CPU, where time is in proportion; a GPU is measured with a whole batch."""

HEAP = 1.5
"""Size of a CPU's heap over its content: freed blocks are kept, and not all of them fit later blocks.

Measured: 1.3 to 1.7, most with large batches. PyTorch manages a GPU's memory itself, with next to no gaps.
"""


def forecast(
    model: Autoencoder, images: Tensor, ctf_parameters: Tensor, steps: int, seconds: float, search: bool
) -> str:
    """One line about the training ahead, from a batch of its images (b, L, L) and their CTF parameters.

    `steps` and `seconds` were done before an interruption; with `search`, steps of another kind come before training.
    """
    config = model.config
    gib = peak_bytes(model, images) / 2**30  # first: it begins with the memory in use
    per_step, per_image = measure(model, images, ctf_parameters)
    if config.budget.steps is not None:
        count = max(config.budget.steps - steps, 0)
        ahead = count * per_step
        length = f"{count:,} steps are {duration(ahead)}"
    else:
        ahead = max(config.budget.time - seconds, 0)
        count = int(ahead / per_step)
        length = f"{duration(ahead)} are {count:,} steps"
    evaluations = count // config.evaluation.every * 2 * config.evaluation.images * per_image
    end = datetime.datetime.now() + datetime.timedelta(seconds=ahead + evaluations)
    parts = [
        f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M weights",
        f"about {gib:.1f} GiB of {_memory_of(images.device)}",
        f"{per_step:.2g} s a step: {length}" + " (the search's steps take their own time)" * search,
        f"and {duration(evaluations)} of evaluations; ends {end:%a %H:%M}",
    ]
    return f"[{config.dataset.name} {config.model.name} seed {config.seed}] plan: {', '.join(parts)}"


def measure(model: Autoencoder, images: Tensor, ctf_parameters: Tensor) -> tuple[float, float]:
    """Seconds of a training step on these images, and of an image's evaluation; the model stays as it is."""
    model = copy.deepcopy(model)
    sample = len(images) if images.device.type == "cuda" else min(len(images), SAMPLE_PIXELS // model.box**2)
    few, parameters = images[:sample] * model.image_scale, ctf_parameters[:sample]

    def step() -> None:
        LOSSES[model.config.model.loss](model.train(), few, parameters).backward()

    def evaluation() -> None:
        with torch.no_grad():
            find_poses(few, parameters)

    per_step = _seconds(step)
    find_poses = pose_finder(model.eval())
    return per_step * len(images) / sample, _seconds(evaluation) / sample


def _seconds(work: Callable[[], None]) -> float:
    """Seconds of the second call: the first one prepares."""
    for _ in range(2):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_bytes(model: Autoencoder, images: Tensor) -> float:
    """Memory at the peak of training on batches like `images`: the memory in use now, and the run's own."""
    model = copy.deepcopy(model).train()
    training = model.config.model
    two, four = (saved_bytes(model.encoder, images[:1].repeat(count, 1, 1)) for count in (2, 4))
    copies = len(PATHS.get(training.loss, PATHS["l2"])) * len(images)
    encoder = two + (four - two) / 2 * (copies - 2)
    decoder = saved_bytes(model.decoder, torch.zeros(model.points, 3, device=images.device))
    # Gradients, and Adam's two or three moments, are as large as the weights.
    weights = (3 + training.optimizer.amsgrad) * sum(4 * weight.numel() for weight in model.parameters())
    gaps = HEAP if images.device.type == "cpu" else 1
    return _in_use(images.device) + weights + gaps * (encoder + decoder)


def saved_bytes(module: torch.nn.Module, x: Tensor) -> int:
    """Bytes that `module` keeps of a forward pass on `x` for the backward pass, each storage counted once."""
    saved = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = module(x)  # alive while its storages are counted
    del kept
    own = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    return sum(size for pointer, size in saved.items() if pointer not in own)


def _in_use(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    status = Path("/proc/self/status")
    found = re.search(r"VmRSS:\s*(\d+)", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


def _memory_of(device: torch.device) -> str:
    return "the GPU's memory" if device.type == "cuda" else "memory"
