"""Pose the particle files that come into a folder, such as that of a live processing: each file once."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from equipose.errors import ConfigError, OtherParticles
from equipose.io.particle_tables import PARTICLE_FILES

JOINED = "passthrough"
"""Part of a name of .cs files that have no images of their own."""

SECONDS = 10.0
"""Between two looks into the folder. A file is whole once it is the same at two looks."""


MOST_VERSIONS = 1000
"""Folders, at most, of a file that grows again and again."""

PAUSE, LONGEST_PAUSE = 6, 360
"""Looks until a refused file is tried again, at first and at most: a minute and an hour."""


@dataclass(frozen=True)
class Refused:
    """A file that could not be posed: `why`, the look at which it is tried again, and the looks until then."""

    why: str
    due: int
    pause: int


def watch(
    folder: Path,
    output: Path,
    pose_one: Callable[[Path, Path], dict[str, Any]],
    say: Callable[[str], None],
    wait: Callable[[float], None],
) -> NoReturn:
    """Pose each file of `folder` into a folder of its name in `output`, for ever: `wait` ends it by an exception.

    `pose_one` poses a file into a folder, continues there after a kill, and does nothing more once it is done. It
    raises OtherParticles if the folder is of an earlier content of the file, which then gets a folder NAME_2. A file
    that it refuses is tried again when it has changed, and also at growing intervals: its stacks may still be copied.
    """
    seen: dict[Path, tuple[int, int]] = {}
    tried: dict[Path, tuple[int, int]] = {}
    refused: dict[Path, Refused] = {}
    look = 0
    while True:
        for path, state in _files(folder):
            if tried.get(path) != state:
                refused.pop(path, None)
            due = path in refused and refused[path].due <= look
            if seen.get(path) == state and (tried.get(path) != state or due):
                tried[path] = state
                try:
                    posed, summary = _posed(path, output, pose_one)
                except ConfigError as error:
                    former = refused.get(path, Refused("", look, PAUSE // 2))
                    pause = min(2 * former.pause, LONGEST_PAUSE)
                    refused[path] = Refused(str(error), look + pause, pause)
                    if str(error) != former.why:
                        say(f"error: {error}")
                else:
                    refused.pop(path, None)
                    count, share = sum(summary["particles"]), summary["doubtful_share"]
                    say(f"{posed}: {count} particles, {share:.1%} doubtful; looking for more in {folder}")
            seen[path] = state
        wait(SECONDS)
        look += 1


def _posed(path: Path, output: Path, pose_one: Callable[[Path, Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """The folder of a file's poses, and their summary. A file that has grown since it was posed gets another folder."""
    for name in (path.stem, *(f"{path.stem}_{number}" for number in range(2, MOST_VERSIONS))):
        with suppress(OtherParticles):
            return output / name, pose_one(path, output / name)
    raise ConfigError(f"{path} has changed {MOST_VERSIONS} times: write new particles to new files")


def _files(folder: Path) -> list[tuple[Path, tuple[int, int]]]:
    """The particle files in a folder with their size and time of change, the oldest first."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if Path(entry.name).suffix in PARTICLE_FILES and JOINED not in entry.name and entry.is_file():
                with suppress(FileNotFoundError):  # it has just been removed
                    state = entry.stat()
                    found.append((Path(entry.path), (state.st_size, state.st_mtime_ns)))
    return sorted(found, key=lambda file: (file[1][1], file[0]))
