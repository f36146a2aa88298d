"""The map that grows while particles are posed as they come: half-maps of all files so far, and their FSC.

Each posed file leaves the sums of its two half-sets. They are added to those of the files before, once each: a file
with the sums names what it has, so that a kill between two steps neither loses nor doubles a file.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from equipose.core.fourier_grid import FourierGrid, empty_grid, from_real_map, grid_map, together
from equipose.core.fsc import corrected_fsc
from equipose.errors import ConfigError
from equipose.io.files import read_json, whole_file, write_text
from equipose.io.maps import write_map
from equipose.reconstruction.finished import Finished
from equipose.reconstruction.halves import Half
from equipose.reconstruction.independent_shifts import back_project_apart

SUMS, GROWN, SETTINGS = "sums.npz", "grown.npz", "settings.json"
"""The file with the sums of one posed file, that with all sums so far, and that with what decides a file's poses."""


def sums_of(finished: Finished, number: int, parts: Iterable[Half]) -> FourierGrid:
    """The sums of particles of half-set `number`, 0 or 1, whose poses are in the frame of the reconstruction.

    They are averaged over its point group: poses are sought in the asymmetric unit, whose views alone leave holes.
    """
    radius, shift_std = len(finished.mask) // 2, finished.config.shift_std
    other = from_real_map(finished.halves[number].other, radius)
    grid = empty_grid(radius, torch.device("cpu"))
    for part in parts:
        grid = together(
            grid, back_project_apart(dataclasses.replace(part, symmetry=finished.symmetry), other, shift_std)
        )
    return grid


def write_sums(path: Path, grids: Sequence[FourierGrid], names: Sequence[str]) -> None:
    """Write the sums of both half-sets, and the names of the posed files that they have."""
    arrays = {f"signal{number}": grid.signal.numpy() for number, grid in enumerate(grids)}
    arrays |= {f"power{number}": grid.power.numpy() for number, grid in enumerate(grids)}
    with whole_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, names=np.array(names, dtype=str), **arrays)


def read_sums(path: Path, radius: int) -> tuple[list[FourierGrid], list[str]]:
    """The sums in a file, and the names of the posed files that they have; none without a file."""
    if not path.is_file():
        return [empty_grid(radius, torch.device("cpu")) for _ in range(2)], []
    with np.load(path) as arrays:
        pairs = [(torch.from_numpy(arrays[f"signal{n}"]), torch.from_numpy(arrays[f"power{n}"])) for n in range(2)]
        return [FourierGrid(radius, *pair) for pair in pairs], arrays["names"].tolist()


def summed_before(posed: Path) -> list[Path]:
    """The folders beside `posed` whose sums the map has."""
    if not (posed.parent / GROWN).is_file():
        return []
    with np.load(posed.parent / GROWN) as arrays:
        return [posed.parent / name for name in arrays["names"].tolist() if name != posed.name]


def grow(finished: Finished, posed: Path) -> None:
    """Add the sums that lie in the folder `posed` to those of the folder above, and write the maps of all there.

    These are volume.mrc, half1.mrc, half2.mrc and fsc.csv. Nothing is done for a folder without sums. Raises
    ConfigError where files before were posed by another reconstruction.
    """
    output, radius = posed.parent, len(finished.mask) // 2
    if not (posed / SUMS).is_file():
        return
    grids, names = read_sums(output / GROWN, radius)
    own, *others = (_reconstruction_of(output / name) for name in (posed.name, *names))
    if own and any(other not in (own, None) for other in others):
        raise ConfigError(
            f"{output / GROWN} has particles posed by another reconstruction than {finished.folder} is now, in another"
            " frame: name another folder with --out"
        )
    if posed.name not in names:
        grids = [together(*pair) for pair in zip(grids, read_sums(posed / SUMS, radius)[0], strict=True)]
        write_sums(output / GROWN, grids, [*names, posed.name])
    box, voxel_size = 2 * radius, finished.halves[0].prepared["voxel_size"]
    first, second, volume = (grid_map(grid).numpy() for grid in (*grids, together(*grids)))
    for name, data in (("half1", first), ("half2", second), ("volume", volume)):
        write_map(output / f"{name}.mrc", data, voxel_size)
    shell = np.arange(box // 2)
    table = {"shell": shell, "frequency_per_angstrom": shell / (box * voxel_size)}
    table |= corrected_fsc(first, second, finished.mask)
    write_text(output / "fsc.csv", pd.DataFrame(table).to_csv(index=False))
    (posed / SUMS).unlink()


def _reconstruction_of(posed: Path) -> str | None:
    """The digest of the reconstruction by which the file in folder `posed` was posed, if it is known."""
    return (read_json(posed / SETTINGS) or {}).get("its_files")
