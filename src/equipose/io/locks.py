"""Locks on files. The system drops a lock when its process ends, however it ends."""

import errno
import fcntl
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from equipose.io.files import writable

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of shared file systems without locks: there, two processes are not kept apart, and no lock counts as stale."""


@contextmanager
def one_at_a_time(path: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold `path`, made if need be, while the block runs. The block gets whether another process held it before."""
    with writable(path):
        file = open(path, "a")  # noqa: SIM115 (held to the end of the block)
    with file:
        waited = not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, otherwise=True)
        if waited:
            say(f"{path.parent}: another process is at work here; waiting for its end")
            _lock(file, fcntl.LOCK_EX, otherwise=True)
        yield waited


def drop_stale_locks(snakemake_folder: Path) -> io.TextIOBase:
    """Remove the locks that our Snakemakes wrote here, if none of these is alive; locks of other pipelines stay.

    Snakemake's locks are plain files: a killed Snakemake leaves them behind, and the next one would refuse to start.
    Returns an open file that marks the caller as alive. Keep it open as long as the caller runs; `remember_locks` notes
    the caller's locks in it.
    """
    snakemake_folder.mkdir(exist_ok=True)
    alive = open(snakemake_folder / "alive.lock", "a+")  # noqa: SIM115 (kept open by the caller)
    if _lock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB, otherwise=False):
        alive.seek(0)
        ours = set(alive.read().splitlines())
        for path in (snakemake_folder / "locks").glob("*"):
            if _identity(path) in ours:
                path.unlink(missing_ok=True)
        alive.truncate(0)
    _lock(alive, fcntl.LOCK_SH, otherwise=False)  # at most a moment, while another one removes what was stale
    return alive


def remember_locks(alive: io.TextIOBase, paths: Iterable[Path]) -> None:
    """Note that these locks are ours, for a later Snakemake that finds them after we were killed."""
    alive.writelines(f"{identity}\n" for path in paths if (identity := _identity(path)))
    alive.flush()


def _identity(path: Path) -> str:
    """Name, inode and time of a lock; empty if it is gone: a Snakemake that ends removes every lock. Another process
    may use the name later.
    """
    with suppress(FileNotFoundError):
        found = path.stat()
        return f"{path.name} {found.st_ino} {found.st_mtime_ns}"
    return ""


def _lock(file: io.TextIOBase, kind: int, otherwise: bool) -> bool:
    """Whether we got the lock, not held by another process; `otherwise` if this disk has no locks."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return otherwise
    return True
