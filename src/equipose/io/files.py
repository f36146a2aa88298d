"""Files and folders that are whole or absent."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from equipose.errors import ConfigError

CHECKPOINTS = ("checkpoint.pt", "checkpoint.former.pt")
"""Checkpoints in a run's folder, until the run is evaluated: the last one and the one before it."""

REFINEMENT = "refinement.pt"
"""File in a run's folder, while it is evaluated: the state after the last whole pass of refinement."""

MADE_FROM = ".made_from.json"
"""Ends the name of a file that says from which structure the atoms or the volume beside it were made."""

READ_WHOLE, BLOCKS, BLOCK = 64_000_000, 256, 65_536
"""`sampled_digest` reads files up to this many bytes whole; of more, it reads so many blocks of so many bytes."""

REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "make the folder writable",
    errno.EACCES: "make the folder writable",
}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, in a folder made if need be; moved to `path` once the block ends well."""
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".partial-{path.name}")
        try:
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())  # else a power cut may leave the new name with none of the content
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn a full disk or a read-only folder into a ConfigError of one line, while the block writes `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch hides the cause behind a RuntimeError
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno not in REMEDIES:
            raise
        raise ConfigError(
            f"{path} cannot be written ({cause.strerror}): {REMEDIES[cause.errno]}, and the same command continues"
        ) from error


def check_writable(folder: Path) -> None:
    """Raise a ConfigError if `folder`, or a folder right in it, exists but cannot be written to."""
    for path in (folder, *folder.glob("*/")):
        if path.exists():
            with writable(path), tempfile.TemporaryFile(dir=path):
                pass


def check_can_be_made(folder: Path) -> None:
    """Raise a ConfigError if `folder` is no folder or could not be written to; nothing is left behind."""
    try:
        there = next(path for path in (folder, *folder.parents) if _is_there(path))
        if not there.is_dir():
            raise ConfigError(f"{there} is no folder: name another one")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}): name another folder") from error
    check_writable(folder)


def cache_folder(fallback: Path) -> Path:
    """The folder of the user's caches, or `fallback` where nothing can be written there."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(BLOCK))  # a full quota may still leave room for an empty file
    except (OSError, RuntimeError):  # no home at all
        return fallback
    return folder


def _is_there(path: Path) -> bool:
    """Whether `path` exists, even as a broken link. Raises OSError if it never can: its name is too long, say."""
    with suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()
        return True
    return False


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, which must not exist; moved to `path` once the block ends well."""
    partial = path.with_name(f".partial-{path.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sampled_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of the sizes of files and of their content, in order; names and times do not count.

    Files of more than 64 MB together are read in 256 blocks of 64 kB, spread evenly over each file. That takes seconds
    for any size, but misses a change outside of these blocks that keeps the sizes.
    """
    digest, sizes = hashlib.sha256(), [path.stat().st_size for path in paths]
    whole, count = sum(sizes) <= READ_WHOLE, max(2, BLOCKS // max(len(paths), 1))
    for path, size in zip(paths, sizes, strict=True):
        digest.update(f"{size};".encode())
        with open(path, "rb") as file:
            if whole or size <= count * BLOCK:
                digest.update(file.read(size))
                continue
            for block in range(count):
                file.seek((size - BLOCK) * block // (count - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()


def leave_the_future(folder: Path, produced: Callable[[Path], bool]) -> None:
    """Set a time in the future to now, for the files in `folder` that a rule produces: a clock was wrong.

    Otherwise files made from them would count as older, and would be made again and again until that time.
    """
    now = time.time()
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a job that is at work moves its files
            if path.lstat().st_mtime > now + 1 and produced(path):  # file systems and clocks may round
                os.utime(path, (now, now), follow_symlinks=False)


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if there is no file."""
    return json.loads(path.read_text()) if path.exists() else None
