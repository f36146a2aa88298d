"""Locks on files. The system drops a lock when its process ends, however it ends."""

import errno
import fcntl
import io
import os
from collections.abc import Callable, Iterator
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
        waited = not lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, otherwise=True)
        if waited:
            say(f"{path.parent}: another process is at work here; waiting for its end")
            lock(file, fcntl.LOCK_EX, otherwise=True)
        yield waited


def lock(file: io.TextIOBase, kind: int, otherwise: bool) -> bool:
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


def is_held(path: Path) -> bool:
    """Whether a process of this machine holds the lock on `path`, by Linux's list; to ask takes no lock."""
    with suppress(OSError):
        place = path.stat()
        known = Path("/proc/locks").read_text().split()
        return f"{os.major(place.st_dev):02x}:{os.minor(place.st_dev):02x}:{place.st_ino}" in known
    return False
