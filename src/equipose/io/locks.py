"""Locks on files. The system drops a lock when its process ends, however it ends."""

import errno
import fcntl
import io
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from equipose.errors import ConfigError
from equipose.io.files import writable

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of shared file systems without locks: there, two processes are not kept apart, and no lock counts as stale."""


@contextmanager
def one_at_a_time(path: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold `path`, made if need be, while the block runs. The block gets whether another process held it before."""
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115 (held to the end of the block)
    with file:
        waited = not lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, otherwise=True)
        if waited:
            say(f"{path.parent}: another process is at work here; waiting for its end")
            lock(file, fcntl.LOCK_EX, otherwise=True)
        yield waited


@contextmanager
def alone(path: Path, remedy: str) -> Iterator[int]:
    """Hold `path`, made if need be, while the block runs, and longer while a child that inherits it lives.

    The block gets the file descriptor to pass on. Raises ConfigError, with the process that holds it and the `remedy`,
    if another one does.
    """
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 (held to the end of the block)
    with file:
        if not lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, otherwise=True):
            file.seek(0)
            raise ConfigError(f"{file.read() or 'another process'}, or one that it started, {remedy}")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield file.fileno()


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
