"""Maps: .mrc volumes in and out."""

import math
from pathlib import Path

import mrcfile
import numpy as np

from equipose.errors import ConfigError
from equipose.io.files import whole_file
from equipose.io.stacks import HEADER, KINDS, data_of, read_header

LARGEST_VALUE = 1e15
"""Largest voxel value of a map: float32 can hold the sum of the squares."""

VOXEL_SIZES = 1e-3, 1e4
"""Smallest and largest voxel size in Å that a map may have."""

LAST_SPACE_GROUP = 230
"""A larger number in a map's header says that the file holds several volumes."""


def read_map(path: Path) -> tuple[np.ndarray, float]:
    """A map (z, y, x), float32, and its voxel size in Å. Raises ConfigError if either is missing or senseless.

    No memory is taken for voxels that the header claims but the file lacks.

    Examples:
        >>> volume, voxel_size = read_map(folder / "volume.mrc")
        >>> volume.shape, voxel_size
        ((32, 32, 32), 17.0)
    """
    if not path.is_file():
        raise ConfigError(f"map {path} {'is a folder' if path.is_dir() else 'does not exist'}: correct the path")
    try:
        with path.open("rb") as file:
            header = read_header(file.read(HEADER.itemsize))
    except OSError as error:
        raise ConfigError(f"map {path} cannot be read ({error.strerror}): make it readable") from error
    if header is None:
        raise ConfigError(
            f"map {path} is not an MRC file of real numbers: give a .mrc volume of mode {', '.join(map(str, KINDS))},"
            " not packed"
        )
    (kind, offset, shape), found = data_of(header), path.stat().st_size
    if min(shape) < 2 or int(header["ispg"]) > LAST_SPACE_GROUP:
        raise ConfigError(f"map {path} must be one 3D volume, found {shape[0]} × {shape[1]} × {shape[2]}: give one")
    if offset < HEADER.itemsize or found < offset + math.prod(shape) * kind.itemsize:
        raise ConfigError(
            f"map {path} is cut short: its header says {shape[0]} × {shape[1]} × {shape[2]} voxels from byte {offset}"
            f" on, and it has {found} bytes. Copy or make it again"
        )
    volume = np.array(np.memmap(path, kind, "r", offset, shape), dtype=np.float32)
    if not np.abs(volume).max() <= LARGEST_VALUE:
        raise ConfigError(f"map {path} must have finite values up to {LARGEST_VALUE:.0e}: make it again, or scale it")
    sampling = np.array([header[name] for name in ("mx", "my", "mz")], dtype=np.float64)
    sizes = np.array([header["cella"][axis] for axis in "xyz"], dtype=np.float64) / np.maximum(sampling, 1)
    if not (min(VOXEL_SIZES) <= sizes.min() <= sizes.max() <= max(VOXEL_SIZES)) or np.ptp(sizes) > 1e-3 * sizes[0]:
        raise ConfigError(
            f"map {path} has voxel size {sizes.tolist()} Å in its header: set one positive size for all axes"
        )
    # mapc, mapr, maps name the axis (1 = x, 2 = y, 3 = z) that columns, rows and sections run along.
    axes = [int(header[name]) for name in ("maps", "mapr", "mapc")]
    order = np.argsort(axes)[::-1] if sorted(axes) == [1, 2, 3] else [0, 1, 2]
    return np.ascontiguousarray(volume.transpose(order)), float(sizes[0])


def read_cube(path: Path, box: int | None = None) -> tuple[np.ndarray, float]:
    """`read_map` of a cube, with sides of `box` voxels if these are given. Raises ConfigError for another shape."""
    volume, voxel_size = read_map(path)
    if len({*volume.shape, box or len(volume)}) > 1:
        shape = " × ".join(map(str, volume.shape))
        raise ConfigError(
            f"map {path} has {shape} voxels: a reconstruction's maps are cubes of one size: name its folder"
        )
    return volume, voxel_size


def write_map(path: Path, volume: np.ndarray, voxel_size: float) -> None:
    """Write a volume (z, y, x) as .mrc with its voxel size in Å and origin 0, whole or not at all.

    Examples:
        >>> write_map(folder / "twice.mrc", 2 * volume, voxel_size)
        >>> bool((read_map(folder / "twice.mrc")[0] == 2 * volume).all())
        True
    """
    with whole_file(path) as partial, mrcfile.new(partial, overwrite=True) as mrc:
        mrc.set_data(np.asarray(volume, dtype=np.float32))
        mrc.voxel_size = voxel_size
        mrc.header.label[0] = "Written by equipose"  # in place of mrcfile's, which holds the time of day
