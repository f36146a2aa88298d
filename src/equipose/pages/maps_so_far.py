"""The map that a run has so far, from the files that it writes: checkpoints, the state of refinement, its own map."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equipose.config.settings import RunConfig
from equipose.core.fourier_grid import FourierGrid, real_map
from equipose.core.likeness import likeness
from equipose.core.mask import masked_volume
from equipose.core.resizing import resized
from equipose.io.files import CHECKPOINTS, REFINEMENT
from equipose.io.maps import read_map
from equipose.poses.search import spread_rotations
from equipose.poses.search_stages import SearchState
from equipose.training.checkpoint import read_checkpoint

COMPARED = 4000
"""Rotations in which the half-sets' maps are laid over each other: half of those that a search tries, in half the time.
"""


@dataclass(frozen=True)
class MapSoFar:
    """A map (L, L, L), (z, y, x), in its run's own frame and hand."""

    volume: np.ndarray
    of: str
    """What made it"""
    starts_alike: float = 0.0
    """How alike the two most similar starts of its search are"""


def map_so_far(run: Path) -> MapSoFar | None:
    """The newest map in a run's folder; None if there is none yet."""
    newest = source_of(run)
    return None if newest is None else SOURCES[newest.name](run, newest)


def source_of(run: Path) -> Path | None:
    """The file with the newest map of a run."""
    return next((run / name for name in SOURCES if (run / name).is_file()), None)


def halves_alike(one: np.ndarray, other: np.ndarray, shells: float) -> float:
    """How alike two half-sets' maps are, whose frames and hands differ: 1 for the same map, 0 for chance."""
    torch.set_num_threads(1)  # a reconstruction is at work
    box = min(len(one), len(other))
    first, second = (torch.from_numpy(resized(volume, box)).float() for volume in (one, other))
    generator = torch.Generator().manual_seed(0)
    rotations = spread_rotations(COMPARED, generator, torch.eye(3)[None])
    return likeness(first, second, min(shells, box / 2 - 1), rotations)


def _own_map(_: Path, path: Path) -> MapSoFar:
    return MapSoFar(read_map(path)[0], "the run's map")


def _refined(run: Path, path: Path) -> MapSoFar:
    known = torch.load(path, map_location="cpu", weights_only=True)
    radius = RunConfig.load(run / "config.json").dataset.box // 2
    grid = FourierGrid(radius, known["signal"], known["power"])
    return MapSoFar(real_map(masked_volume(grid), radius).numpy(), f"after pass {known['passes']} of refinement")


def _trained(run: Path, path: Path) -> MapSoFar | None:
    progress: dict[str, Any] = read_checkpoint(path, torch.device("cpu"), mmap=True)["progress"]
    search: SearchState | None = progress["search"]
    if search is not None:
        return _searched(search, progress["step"], RunConfig.load(run / "config.json").dataset.box // 2)
    if progress["volumes"]:
        step, volume = max(progress["volumes"].values(), key=lambda kept: kept[0])
        return MapSoFar(volume.astype(np.float32), f"of the decoder at step {step}")
    if progress["found"] is not None:
        return MapSoFar(progress["found"].numpy(), "that the search found")
    return None


def _searched(search: SearchState, step: int, radius: int) -> MapSoFar | None:
    if search.volume is not None:
        return MapSoFar(real_map(search.volume, radius).numpy(), f"of the search at step {step}", search.alike)
    if not search.grid.radius:
        return None
    volume = real_map(masked_volume(search.grid), search.grid.radius).numpy()
    return MapSoFar(volume, f"of the search's first start at step {step}")


SOURCES: dict[str, Callable[[Path, Path], MapSoFar | None]] = {
    "volume.mrc": _own_map,
    REFINEMENT: _refined,
    CHECKPOINTS[0]: _trained,
}
"""The files with a run's map, the newest first."""
