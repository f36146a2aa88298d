"""Image stacks (.mrcs) of any number and size; images are read on access.

A header is checked against the file's size, so no memory is taken for images that the file lacks. Files are opened when
they are read, and closed again: a dataset may have more stacks than a process may have open files.
"""

import functools
import math
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np

from equipose.errors import ConfigError, FileWarning

KINDS = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
"""NumPy's names of the MRC modes whose pixels are real numbers."""

SUFFIXES = (":mrcs", ":mrc", ":st")
"""RELION's suffix for a file's kind: stack.mrc:mrcs is the stack stack.mrc."""

IMOD_STAMP = 1146047817
"""IMOD's stamp. In files with this stamp, bytes have a sign only if the first bit of the flags is set."""

SAME_PIXEL = 0.001
"""Part by which pixel sizes of header and star file may differ without a warning: headers are often rounded."""

OTHER_FORMATS = {
    b"\x1f\x8b\x08": "is compressed by gzip: unpack it first (gunzip)",
    b"BZh": "is compressed by bzip2: unpack it first (bunzip2)",
    b"\xfd7zXZ": "is compressed by xz: unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: unpack it first (unzstd)",
    b"PK\x03\x04": "is a zip archive: unpack it first (unzip); for NumPy's .npz, name the star or .cs file instead",
    b"\x89HDF": "is an HDF5 file (EMAN2, Imaris): write it as .mrcs (e2proc2d.py in.hdf out.mrcs)",
    b"II*\0": "is a TIFF file: write it as .mrcs (IMOD: tif2mrc)",
    b"MM\0*": "is a TIFF file: write it as .mrcs (IMOD: tif2mrc)",
    b"II+\0": "is a TIFF or EER movie, and no stack of particles: extract particles first",
    b"\x93NUMPY": "is a NumPy array or a cryoSPARC .cs file, and no MRC stack: name the stack",
    **dict.fromkeys(
        (b"\x80\x02c", b"\x80\x03c", b"\x80\x04\x95", b"\x80\x05\x95"),
        "is a Python pickle, such as cryoDRGN's poses or CTFs: name the star or .cs file of the particles",
    ),
    b"SQLite format 3": "is a database, such as Scipion's: export particles for RELION, and name their star file",
    b"version https://git-lfs": "is a pointer of Git LFS, and not the file itself: get it with `git lfs pull`",
}
"""First bytes of files that users give in place of MRC stacks, and the remedy for each."""

COMPLEX = "holds Fourier transforms (mode {mode}), and no images: transform it back first"

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
    pixel_size: float | None
    """Å, by the header; None where it does not know"""

    def map(self) -> np.ndarray:
        """The images as they are stored, memory-mapped."""
        return np.memmap(self.path, self.kind, "r", self.offset, self.shape)

    def room(self) -> int:
        """Number of whole images that the file has bytes for, whatever its header says."""
        return (os.path.getsize(self.path) - self.offset) // (math.prod(self.shape[1:]) * self.kind.itemsize)


@dataclass(frozen=True)
class Images:
    """Images (n, L, L) from several stacks, in any order; indexing reads a part of them as float32.

    Images of another size or pixel size are resampled to L pixels of the set's pixel size about pixel L/2.
    """

    stacks: tuple[Stack, ...]
    stack: np.ndarray
    """(n,) the number of each image's stack"""
    index: np.ndarray
    """(n,) its index there, from 0"""
    box: int
    """L"""
    pixel: np.ndarray
    """(n,) the pixel size of each image as a multiple of the set's"""
    sign: np.ndarray
    """(n,) 1 or -1, by which each image is multiplied"""

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self), self.box, self.box

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        stack, index, pixel = self.stack[rows], self.index[rows], self.pixel[rows]
        images = np.empty((len(index), self.box, self.box), np.float32)
        for number, multiple in set(zip(stack.tolist(), pixel.tolist(), strict=True)):
            here = (stack == number) & (pixel == multiple)
            found = self.stacks[number].map()[index[here]]
            if found.shape[-1] != self.box or multiple != 1:
                found = resampled(found, self.box, multiple)
            images[here] = found
        images[self.sign[rows] < 0] *= -1
        return images

    def of(self, rows: slice | np.ndarray) -> "Images":
        """Some of the images, not read yet."""
        parts = {name: getattr(self, name)[rows] for name in ("stack", "index", "pixel", "sign")}
        return replace(self, **parts)

    def __array__(self, dtype: np.dtype | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float32, copy=False)


def resampled(images: np.ndarray, box: int, multiple: float) -> np.ndarray:
    """Images (n, L, L), whose pixels are `multiple` of the wanted ones, as float32 (n, box, box), centre on centre."""
    matrix = _resampling(images.shape[-1], box, multiple)
    return matrix @ images.astype(np.float32) @ matrix.T


@functools.lru_cache(maxsize=64)
def _resampling(size: int, box: int, multiple: float) -> np.ndarray:
    """The matrix W (box, size): W I Wᵀ samples an image I (size, size) at the set's pixels, centre on centre.

    `multiple` is the image's pixel size in the set's. Exact for what is band-limited: each row is the Dirichlet kernel
    of the frequencies below both Nyquists. Images count as periodic beyond their edge.
    """
    highest = math.ceil(0.5 * size * min(1.0, multiple)) - 1
    place = size // 2 + (np.arange(box) - box // 2) / multiple
    angle = np.pi / size * (place[:, None] - np.arange(size))
    below = np.sin(angle)
    peak = np.abs(below) < 1e-9
    kernel = np.where(peak, 2 * highest + 1, np.sin((2 * highest + 1) * angle) / np.where(peak, 1, below))
    return (kernel / size).astype(np.float32)


def stack_path(folder: Path, name: str) -> Path:
    """The file that an image's name means, in `folder`: RELION's suffix `:mrcs` is no part of it."""
    path = folder / name
    for suffix in SUFFIXES:
        if name.endswith(suffix) and not os.path.isfile(path):
            return folder / name.removesuffix(suffix)
    return path


def relion_name(name: str) -> str:
    """The stack's name as RELION reads it: a name that does not end in .mrcs needs a suffix."""
    return name if name.endswith((".mrcs", *SUFFIXES)) or not name else f"{name}:mrcs"


def warn_of_pixel_sizes(stacks: tuple[Stack, ...], sizes: np.ndarray, star: Path) -> None:
    """Warn if a stack's header and the star file differ in pixel size; `sizes` (stacks,) in Å are the star file's.

    Programs that do not know the pixel size write 0 or 1. The star file counts, as for RELION: pixel sizes are
    calibrated after extraction, in the star file alone.
    """
    other = [
        (stack, size)
        for stack, size in zip(stacks, sizes.tolist(), strict=True)
        if stack.pixel_size and not abs(stack.pixel_size - size) <= SAME_PIXEL * size
    ]
    if other:
        stack, size = other[0]
        warnings.warn(
            f"{star}: image stack {stack.path} has pixels of {stack.pixel_size:.4g} Å by its header and {size:.4g} Å by"
            f" the star file{_and_more(len(other) - 1, 'stack')}. The star file's are taken; --pixel-size gives others",
            FileWarning,
            stacklevel=2,
        )


def _and_more(count: int, what: str) -> str:
    return f" (so have {count} more {what}{'s' * (count > 1)})" if count else ""


def open_stack(path: Path) -> Stack:
    """Open a stack. Raises ConfigError if it is no stack of images of real numbers, or is cut short.

    Only the header is read. No stamp is needed (old programs leave them out); only IMOD's stamp is looked at.
    """
    if not os.path.isfile(path):  # False too for a name that no file can have
        if os.path.islink(path):
            raise ConfigError(
                f"image stack {path} is a link to {os.path.realpath(path)}, which is no file: mend the link"
            )
        raise ConfigError(
            f"image stack {path} does not exist: rlnImageName is relative to the star file's folder, or to `datadir`"
            " (--datadir), for RELION the project's folder"
        )
    try:
        with open(path, "rb") as file:
            start, found = file.read(HEADER.itemsize), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ConfigError(f"image stack {path} cannot be read ({error.strerror})") from error
    header = None if start.startswith(tuple(OTHER_FORMATS)) or _of_spider_or_imagic(start) else read_header(start)
    if header is None:
        raise ConfigError(f"image stack {path} {_what_else(start)}")
    kind, offset, shape = data_of(header)
    needed = offset + math.prod(shape) * kind.itemsize
    if min(shape) < 1:
        raise ConfigError(
            f"image stack {path} has no images: its header says {shape[0]} of {shape[1]} × {shape[2]} pixels. The"
            " program that wrote it did not finish, or it is no stack: make it again"
        )
    if offset < HEADER.itemsize or found < needed:
        raise ConfigError(
            f"image stack {path} is cut short: its header says {shape[0]} images of {shape[1]} × {shape[2]}, {needed}"
            f" bytes, and it has {found}. Copy or make it again"
        )
    return Stack(path, kind, offset, shape, _pixel_size(header))


def data_of(header: np.void) -> tuple[np.dtype, int, tuple[int, int, int]]:
    """The kind of an MRC file's numbers, the byte at which they begin, and their shape (z, y, x), by its header."""
    name = KINDS[int(header["mode"])]
    kind = np.dtype(header.dtype["mode"].byteorder + (name if _signed(header) else name.replace("i", "u")))
    return kind, HEADER.itemsize + int(header["nsymbt"]), (int(header["nz"]), int(header["ny"]), int(header["nx"]))


def _pixel_size(header: np.void) -> float | None:
    """Å, the cell's length over its intervals; None for 0 and 1, from programs that do not know the size."""
    size = float(header["cella"]["x"]) / (int(header["mx"]) or int(header["nx"]))
    return size if 0 < size < math.inf and size != 1.0 else None


def _signed(header: np.void) -> bool:
    """Whether integers (modes 0, 1) have a sign: bytes by IMOD's stamp; else by the header's extremes; else yes."""
    words = np.dtype(header.dtype["mode"].byteorder + "i4")
    stamp, flags = np.frombuffer(header.tobytes(), words, 2, 152).tolist()
    if header["mode"] == 0 and stamp == IMOD_STAMP:
        return bool(flags & 1)
    low, high, largest = float(header["dmin"]), float(header["dmax"]), 127 if header["mode"] == 0 else 32767
    return not (0 <= low <= high and largest < high <= 2 * largest + 1)


def read_header(start: bytes) -> np.void | None:
    """A file's first bytes as an MRC header, in the byte order that gives a possible mode and width."""
    if len(start) < HEADER.itemsize:
        return None
    for order in "<>":
        header = np.frombuffer(start, HEADER.newbyteorder(order))[0]
        if int(header["mode"]) in KINDS and abs(int(header["nx"])) < WIDEST:
            return header
    return None


def _of_spider_or_imagic(start: bytes) -> str:
    """What a message says of a stack of SPIDER or IMAGIC, whose headers begin like no other; empty for other files."""
    if start[56:60] in (b"REAL", b"INTG", b"PACK", b"COMP"):
        return "is IMAGIC's: write it as .mrcs (EMAN2: e2proc2d.py in.hed out.mrcs)"
    for order in "<>":
        words = np.frombuffer(start[:92].ljust(92, b"\0"), f"{order}f4").astype(float)
        width, records, header, row = words[11], words[12], words[21], words[22]
        if words[4] == 1 and row == 4 * width > 0 and header == records * row:
            return "is SPIDER's: write it as .mrcs (EMAN2: e2proc2d.py in.spi out.mrcs)"
    return ""


def _what_else(start: bytes) -> str:
    """The kind of a file with these first bytes that is no MRC file of images, and the remedy."""
    for magic, what in OTHER_FORMATS.items():
        if start.startswith(magic):
            return what
    if what := _of_spider_or_imagic(start):
        return what
    modes = ", ".join(map(str, KINDS))
    if len(start) < HEADER.itemsize:
        return (
            f"is not an MRC file of images in a mode of {modes}: it has {len(start)} bytes, less than a header. Copy or"
            " make it again"
        )
    for order in "<>":
        mode, width = (int(np.frombuffer(start, HEADER.newbyteorder(order))[0][name]) for name in ("mode", "nx"))
        if mode in (3, 4) and 0 < width < WIDEST:
            return COMPLEX.format(mode=mode)
        if mode == 101 and 0 < width < WIDEST:
            return "has pixels of four bits (mode 101): write it in another mode (IMOD: newstack -mode 2)"
    return f"is not an MRC file of images in a mode of {modes}: name a stack of MRC's format (.mrcs)"


def moments_of(images: np.ndarray) -> list[float]:
    """Lowest and highest value, sum, and sum of squares of images (n, L, L)."""
    return [images.min(), images.max(), float(images.sum((1, 2)).sum(dtype=np.float64)), sum_of_squares(images)]


def sum_of_squares(images: np.ndarray) -> float:
    """Of images (n, L, L): in single precision over an image, in double precision over images."""
    return float(np.einsum("nyx,nyx->n", images, images).sum(dtype=np.float64))


def write_statistics(path: Path, moments: np.ndarray, pixels: int) -> None:
    """Write a stack's statistics into its header, from the `moments_of` its parts, (n, 4 or more).

    mrcfile would hold all of its `pixels` in memory.
    """
    mean = moments[:, 2].sum() / pixels
    with mrcfile.mmap(path, "r+") as mrc:
        mrc.header.dmin, mrc.header.dmax = moments[:, 0].min(), moments[:, 1].max()
        mrc.header.dmean = mean
        mrc.header.rms = math.sqrt(max(moments[:, 3].sum() / pixels - mean**2, 0))
