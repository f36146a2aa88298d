"""Image stacks (.mrcs) of any number and size, read as their images are asked for.

A header is believed only as far as the file's size bears it out, so that no memory is taken for what it claims. Files
are opened when they are read, and closed again: a dataset may have more stacks than a process may have open files.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np

from equipose.errors import ConfigError

KINDS = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
"""NumPy's names of the MRC modes whose pixels are real numbers."""

WIDEST = 2**16
"""Pixels of an image's side; a wider one is a number in the other byte order."""

HEADER = mrcfile.dtypes.HEADER_DTYPE


@dataclass(frozen=True)
class Stack:
    """Where a file has its images, and of what kind."""

    path: Path
    kind: np.dtype
    offset: int
    shape: tuple[int, int, int]

    def map(self) -> np.ndarray:
        """The images as they are stored, memory-mapped."""
        return np.memmap(self.path, self.kind, "r", self.offset, self.shape)


@dataclass(frozen=True)
class Images:
    """Images (n, L, L) that stand in several stacks, in an order of their own; a part of them is read as float32."""

    stacks: tuple[Stack, ...]
    stack: np.ndarray
    """(n,) the number of each image's stack"""
    index: np.ndarray
    """(n,) its index there, from 0"""

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self), *self.stacks[0].shape[1:]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        stack, index = self.stack[rows], self.index[rows]
        images = np.empty((len(index), *self.shape[1:]), np.float32)
        for number in np.unique(stack):
            here = stack == number
            images[here] = self.stacks[number].map()[index[here]]
        return images

    def __array__(self, dtype: np.dtype | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float32, copy=False)


def open_stack(path: Path, voxel_size: float) -> Stack:
    """Raises ConfigError where it is no stack of images of real numbers, is cut short, or has pixels of another size.

    Only the header is read. Its stamps are not asked for: old programs leave them out.
    """
    if not os.path.isfile(path):  # False too for a name that no file can have
        raise ConfigError(
            f"image stack {path} does not exist: rlnImageName is relative to the star file's folder, or to `datadir`"
            " (--datadir), for RELION the project's folder"
        )
    try:
        with open(path, "rb") as file:
            start, found = file.read(HEADER.itemsize), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ConfigError(f"image stack {path} cannot be read ({error.strerror})") from error
    header = read_header(start)
    if header is None:
        raise ConfigError(f"image stack {path} is not an MRC file of images in a mode of {', '.join(map(str, KINDS))}")
    kind = np.dtype(KINDS[int(header["mode"])]).newbyteorder(header.dtype["mode"].byteorder)
    shape = tuple(int(header[name]) for name in ("nz", "ny", "nx"))
    offset = HEADER.itemsize + int(header["nsymbt"])
    needed = offset + math.prod(shape) * kind.itemsize
    if min(shape) < 1 or offset < HEADER.itemsize or found < needed:
        raise ConfigError(
            f"image stack {path} is cut short: its header says {shape[0]} images of {shape[1]} × {shape[2]}, {needed}"
            f" bytes, and it has {found}. Copy or make it again"
        )
    header_size = float(header["cella"]["x"]) / shape[2]
    # 0 and 1 are what programs write that do not know the pixel size.
    if header_size not in (0.0, 1.0) and not abs(header_size - voxel_size) <= 0.01 * voxel_size:
        raise ConfigError(
            f"image stack {path} has pixels of {header_size:.4g} Å by its header and {voxel_size:.4g} Å by the star"
            " file's rlnImagePixelSize: correct the wrong one"
        )
    return Stack(path, kind, offset, shape)


def read_header(start: bytes) -> np.void | None:
    """A file's first bytes as an MRC header, in the byte order in which its mode and width are what they can be."""
    if len(start) < HEADER.itemsize:
        return None
    for order in "<>":
        header = np.frombuffer(start, HEADER.newbyteorder(order))[0]
        if int(header["mode"]) in KINDS and abs(int(header["nx"])) < WIDEST:
            return header
    return None
