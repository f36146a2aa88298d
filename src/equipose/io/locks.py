"""Locks on files, which the system drops with the process that holds them, however it ends."""

import errno
import fcntl
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from equipose.io.files import writable

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
    """Remove the locks that Snakemakes of ours wrote here, where none of them is alive; those of others stay.

    Snakemake's locks are plain files, so that one that was killed leaves them behind, and the next would refuse to
    start. Returns what marks the caller as alive: an open file, to be kept as long as that holds, in which
    `remember_locks` notes what the caller writes.
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
    """Note that these locks are ours, for the Snakemake that finds them once we are dead."""
    alive.writelines(f"{identity}\n" for path in paths if (identity := _identity(path)))
    alive.flush()


def _identity(path: Path) -> str:
    """Of a lock, nothing where it is gone: a Snakemake that ends removes every lock. A name may be another's later."""
    with suppress(FileNotFoundError):
        found = path.stat()
        return f"{path.name} {found.st_ino} {found.st_mtime_ns}"
    return ""


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
