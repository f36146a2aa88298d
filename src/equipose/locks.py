"""Locks on files, which the system drops with the process that holds them, however it ends."""

import errno
import fcntl
import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from equipose.files import writable

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What some shared file systems answer: there, two processes are not kept apart, and no lock counts as stale."""


@contextmanager
def one_at_a_time(path: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold `path`, made if need be, while the block runs; the block is told whether another process held it before."""
    with writable(path):
        file = open(path, "a")  # noqa: SIM115 (held to the end of the block)
    with file:
        waited = not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, otherwise=True)
        if waited:
            say(f"{path.parent}: another process is at work here; waiting for its end")
            _lock(file, fcntl.LOCK_EX, otherwise=True)
        yield waited


def drop_stale_locks(snakemake_folder: Path) -> io.TextIOBase:
    """Remove Snakemake's own locks where no Snakemake that uses this folder is alive.

    They are plain files, so that a Snakemake that was killed leaves them behind, and the next one would refuse to
    start. Returns what marks the caller as alive: an open file, to be kept as long as that holds.
    """
    snakemake_folder.mkdir(exist_ok=True)
    alive = open(snakemake_folder / "alive.lock", "a")  # noqa: SIM115 (kept open by the caller)
    if _lock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB, otherwise=False):
        shutil.rmtree(snakemake_folder / "locks", ignore_errors=True)
    _lock(alive, fcntl.LOCK_SH, otherwise=False)  # at most a moment, while another one removes what was stale
    return alive


def _lock(file: io.TextIOBase, kind: int, otherwise: bool) -> bool:
    """Whether we got the lock, and did not find it held by another process; `otherwise`, without locks on this disk."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return otherwise
    return True
