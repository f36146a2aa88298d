"""An image stack that is written part by part. After an interruption, writing continues, and gives the same bytes.

A journal lies beside the unfinished stack. It holds the SHA-256 of all settings and, for each part, the SHA-256 of its
source and of its result. A part is made again if its source or result no longer agrees with the journal. All parts are
made again if the settings have changed.
"""

import hashlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np

from equipose.errors import ConfigError
from equipose.io.files import writable
from equipose.io.progress import reporter
from equipose.io.stacks import HEADER, moments_of, write_statistics


def write_stack(
    path: Path,
    shape: tuple[int, int, int],
    voxel_size: float,
    settings: str,
    part: int,
    source: Callable[[slice], np.ndarray],
    result: Callable[[np.ndarray, slice], np.ndarray],
    say: Callable[[str], None],
) -> None:
    """Write images of `shape` (n, L, L), float32: `source` reads and `result` computes `part` of them at a time.

    `settings` is the SHA-256 of everything else that decides the images. If `result` raises ConfigError, no file stays.
    """
    partial, journal = path.with_name(f".partial-{path.name}"), path.with_name(f".partial-{path.stem}.sums")
    made = _read_journal(partial, journal, settings)
    if made:
        say(f"continuing: {len(made)} parts of {part} images were made before; they are checked, not made again")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        _start(partial, journal, shape, voxel_size, settings)
    stack = np.memmap(partial, np.float32, "r+", HEADER.itemsize, shape)
    report, moments = reporter(say), []
    with open(journal, "a") as lines:
        for start in range(0, len(stack), part):
            place = slice(start, min(start + part, len(stack)))
            images = source(place)
            if made.get(start) != (sha256(images), sha256(stack[place])):
                try:
                    stack[place] = result(images, place)
                except ConfigError:
                    partial.unlink()
                    journal.unlink()
                    raise
                stack.flush()
                print(start, sha256(images), sha256(stack[place]), file=lines, flush=True)
            moments.append(moments_of(stack[place]))
            report("prepared", place.stop, len(stack))
    del stack
    write_statistics(partial, np.array(moments), math.prod(shape))
    os.replace(partial, path)
    journal.unlink()


def sha256(*parts: bytes | np.ndarray | None) -> str:
    """Of bytes and arrays, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).view(np.uint8).data if isinstance(part, np.ndarray) else part or b"")
    return digest.hexdigest()


def _start(partial: Path, journal: Path, shape: tuple[int, int, int], voxel_size: float, settings: str) -> None:
    """A stack of full size without images, and a journal without parts. Raises ConfigError where there is no room.

    The room is taken now: on a full disk, a page that is written to a mapped file ends the process by a signal.
    """
    journal.unlink(missing_ok=True)
    with mrcfile.new_mmap(partial, shape, mrc_mode=2, overwrite=True) as mrc:
        mrc.set_image_stack()
        mrc.voxel_size = voxel_size
        mrc.header.label[0] = "Prepared by equipose"  # in place of mrcfile's, which holds the time of day
    if sys.platform != "darwin":  # which has no such call
        with writable(partial), open(partial, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    journal.write_text(settings + "\n")


def _read_journal(partial: Path, journal: Path, settings: str) -> dict[int, tuple[str, str]]:
    """Sums of the source and of the result of each part that was made with the same settings, by its first image."""
    if not (partial.is_file() and journal.is_file()):
        return {}
    first, *lines = journal.read_text().split("\n")
    words = [line.split() for line in lines] if first == settings else []
    return {int(start): (source, result) for start, source, result in filter(lambda line: len(line) == 3, words)}
