"""One device for one job: a GPU that no other equipose job on this machine holds, or the CPU."""

import ctypes
import fcntl
import functools
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from equipose.config.settings import Precision
from equipose.io.progress import duration

POLL_SECONDS = 5.0
CONVOLVED = (32, 32, 32, 32), (32, 32, 3, 3)
"""Shapes of the images and kernels on which precisions are timed."""

LOCK_FOLDER = Path(tempfile.gettempdir())
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


@contextmanager
def claim_device(
    jobs_per_gpu: int, say: Callable[[str], None], lock_folder: Path = LOCK_FOLDER
) -> Iterator[torch.device]:
    """A place on a GPU while the block runs, after a wait if all are held; the CPU if there is no GPU.

    A GPU has `jobs_per_gpu` places; second places are taken only if no GPU is idle. A place is held by a lock on a file
    named after us and the GPU's UUID. The system drops the lock when the process ends, however it ends. The file names
    the holder for waiting jobs. GPUs hidden by CUDA_VISIBLE_DEVICES (a cluster's scheduler sets it) are never touched.
    """
    if not torch.cuda.is_available():
        yield torch.device("cpu")
        return
    gpus = range(torch.cuda.device_count())
    uuids = [torch.cuda.get_device_properties(index).uuid for index in gpus]
    places = [
        (index, lock_folder / f"equipose-{os.getuid()}-gpu-{uuids[index]}-{place}.lock")
        for place, index in itertools.product(range(jobs_per_gpu), gpus)
    ]
    began = time.monotonic()
    waiting = False
    while True:
        for index, path in places:
            with open(path, "a+") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                lock.truncate(0)
                print(f"process {os.getpid()} in {Path.cwd()}", file=lock, flush=True)
                if waiting:
                    say(f"got GPU {index} after {duration(time.monotonic() - began)}")
                with torch.cuda.device(index):
                    yield torch.device("cuda", index)
                return
        if not waiting:
            holders = dict.fromkeys(path.read_text().strip() or "an unknown process" for _, path in places)
            say(f"waiting for a GPU: all of this machine's are held by {', '.join(holders)}")
        waiting = True
        time.sleep(POLL_SECONDS)


@functools.cache
def usable_precision(precision: Precision) -> Precision:
    """`precision`, but float32 on a processor that convolves no faster in bfloat16.

    Processors without instructions for bfloat16 emulate it. On some Intel processors its AVX-512 instructions take
    twice as long as float32's: only AMX makes it fast, and a virtual machine may hide AMX. A stopwatch decides, so a
    run decides once, at its start; its checkpoint and its model keep the decision.
    """
    if precision == "float32" or torch.cuda.is_available():
        return precision
    full, half = least_seconds(convolution(torch.float32), convolution(torch.bfloat16))
    return precision if half < full else "float32"


def convolution(kind: torch.dtype) -> Callable[[], Tensor]:
    """A convolution of an encoder's size, some milliseconds, in this precision."""
    images, kernels = (torch.ones(shape, dtype=kind) for shape in CONVOLVED)
    images, kernels = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (images, kernels))
    return lambda: torch.conv2d(images, kernels, padding=1)


def least_seconds(*ways: Callable[[], object]) -> list[float]:
    """The least time of each of several functions that take some milliseconds.

    They run in turn, so a busy processor delays all alike, and the least times have no delay.
    """
    times = []
    for _ in range(20):
        for way in ways:
            started = time.perf_counter()
            way()
            times.append(time.perf_counter() - started)
    return [min(times[turn :: len(ways)]) for turn in range(len(ways))]


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step rather than return it to the system.

    Activations are large, and glibc maps every large block anew: the system then clears each of its pages on first
    touch, in every step. Does nothing if the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
