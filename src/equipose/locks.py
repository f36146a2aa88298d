"""Locks on files, which the system drops with the process that holds them, however it ends."""

import errno
import fcntl
import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What some shared file systems answer: there, two processes are not kept apart."""


@contextmanager
def one_at_a_time(path: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold `path`, made if need be, while the block runs; the block is told whether another process held it before."""
    with open(path, "a") as file:
        waited = False
        if not _try(file, fcntl.LOCK_EX):
            say(f"{path.parent}: another process is at work here; waiting for its end")
            fcntl.flock(file, fcntl.LOCK_EX)
            waited = True
        yield waited


def drop_stale_locks(snakemake_folder: Path) -> io.TextIOBase:
    """Remove Snakemake's own locks where no Snakemake that uses this folder is alive.

    They are plain files, so that a Snakemake that was killed leaves them behind, and the next one would refuse to
    start. Returns what marks the caller as alive: an open file, to be kept as long as that holds.
    """
    snakemake_folder.mkdir(exist_ok=True)
    alive = open(snakemake_folder / "alive.lock", "a")  # noqa: SIM115 (kept open by the caller)
    if _try(alive, fcntl.LOCK_EX):
        shutil.rmtree(snakemake_folder / "locks", ignore_errors=True)
    _try(alive, fcntl.LOCK_SH)
    return alive


def _try(file: io.TextIOBase, kind: int) -> bool:
    """Take a lock, unless another process has it; where the file system has no locks, act as if nobody else did."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    return True
