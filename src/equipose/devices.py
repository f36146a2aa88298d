"""One device for one job: the first GPU that no other equipose job on this machine holds, or the CPU."""

import fcntl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

POLL_SECONDS = 5.0
LOCK_FOLDER = Path(tempfile.gettempdir())


@contextmanager
def claim_device(lock_folder: Path = LOCK_FOLDER) -> Iterator[torch.device]:
    """A GPU of our own for as long as the block runs, waiting for one if all are held; the CPU where there is none.

    A GPU is held by a lock on a file named after its UUID, which the system drops when the process ends, however it
    ends. GPUs hidden by CUDA_VISIBLE_DEVICES (a cluster's scheduler sets it) are never touched.
    """
    if not torch.cuda.is_available():
        yield torch.device("cpu")
        return
    while True:
        for index in range(torch.cuda.device_count()):
            uuid = torch.cuda.get_device_properties(index).uuid
            with open(lock_folder / f"equipose-gpu-{uuid}.lock", "a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield torch.device("cuda", index)
                return
        time.sleep(POLL_SECONDS)
