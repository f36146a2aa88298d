"""Structures: PDB entries or files → atoms → density on a voxel grid (.mrc).

    python -m equipose.structures fetch --pdb 3J79 3J7A --output atoms.npz
    python -m equipose.structures density --source atoms.npz --box 128 --voxel-size 3.77 --resolution 2 --output map.mrc
    python -m equipose.structures pack --source atoms.npz --output 4v6x.npz

The density is ChimeraX `molmap`'s: Σ atomic number × normalised Gaussian of σ = 0.225 × resolution, sampled at the
voxel centres. cryoAI, and the paper after it (Apx. C), made their volumes with it. gemmi's density calculator is
another thing, X-ray or electron form factors with B-factors: closer to physics, but not the data of the paper.

Arrays are (z, y, x); the particle's centre of mass lies on voxel box/2, and every map's header origin is 0, so that
maps of one box overlay in ChimeraX.
"""

import argparse
import gzip
import itertools
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path

import gemmi
import mrcfile
import numpy as np

from equipose.cli import number, run_main
from equipose.errors import ConfigError
from equipose.files import whole_file

PDB_URL = "https://files.rcsb.org/download"

SIGMA_PER_RESOLUTION = 0.225
"""molmap's default sigmaFactor, 1 / (π √2): the Gaussian's transform falls to 1/e at a wavenumber of 1 / resolution."""

CUTOFF_SIGMAS = 5.0
"""Gaussians end here, as molmap's do."""

PACKED_ANGSTROM = 0.01
"""Unit of the packed coordinates of embedded structures."""

POWER_IN_PARTICLE = 0.99
"""A map's particle is the sphere that holds this share of its squared density."""


def fetch_entries(entries: Sequence[str], url: str) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of PDB `entries` in their common frame: coords (n, 3) in Å and atomic numbers (n,).

    Downloads <url>/<entry>.cif.gz. Raises ConfigError where an entry is missing or the server cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        parts = [read_atoms(_download(entry, url, Path(folder))) for entry in entries]
    return np.concatenate([coords for coords, _ in parts]), np.concatenate([numbers for _, numbers in parts])


def read_atoms(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Coords (n, 3) in Å and atomic numbers (n,) of an mmCIF or PDB file (.gz too) or an .npz.

    Of mmCIF and PDB files: the first model, one conformer, all atoms of a known element. An .npz holds `coords` and
    `elements` (symbols or atomic numbers), or is one that `pack_atoms` wrote. Raises ConfigError.
    """
    if not path.is_file():
        raise ConfigError(f"structure file {path} does not exist: check the path in config.yaml, under structures")
    try:
        coords, numbers = _read_npz(path) if path.suffix == ".npz" else _read_coordinates(path)
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"structure file {path} cannot be read ({error}): it must be an mmCIF or PDB file, an .npz of `coords`"
            " (n, 3) in Å and `elements` (n,), or an .mrc map"
        ) from error
    if len(coords) == 0 or not np.isfinite(coords).all():
        raise ConfigError(f"structure file {path} holds no atoms of known elements with finite coordinates")
    return coords, numbers


def pack_atoms(coords: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Atoms as small arrays, about their centre of mass: steps of 0.01 Å from each to the next, and element bytes."""
    steps = np.rint((coords - centre_of_mass(coords, numbers)) / PACKED_ANGSTROM)
    if np.abs(steps).max() > np.iinfo(np.int16).max:
        raise ConfigError("only structures within 327 Å of their centre of mass can be packed: keep the mmCIF file")
    return {"coords_delta": np.diff(steps, axis=0, prepend=0).astype(np.int16), "elements": numbers.astype(np.uint8)}


def centre_of_mass(coords: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Mean position (3,) weighted by atomic number, which is the centre of mass of the density too."""
    return np.average(coords, axis=0, weights=numbers)


def molmap(coords: np.ndarray, numbers: np.ndarray, box: int, voxel_size: float, resolution: float) -> np.ndarray:
    """Density (box, box, box) in electrons per Å³, float32, of atoms (n, 3) Å about their centre of mass.

    `resolution` in Å: σ = 0.225 × resolution. Raises ConfigError where the particle does not fit the box.
    """
    sigma = SIGMA_PER_RESOLUTION * resolution
    centred = coords - centre_of_mass(coords, numbers)
    _check_fits(np.linalg.norm(centred, axis=1).max(), box, voxel_size, "structure")

    position = centred / voxel_size + box // 2  # in voxels, (n, 3) along x, y, z
    nearest = np.rint(position).astype(np.int64)
    reach = int(np.ceil(CUTOFF_SIGMAS * sigma / voxel_size + 0.5))
    offsets = np.arange(-reach, reach + 1)
    distance = (nearest - position)[..., None] + offsets  # (n, 3, w) voxels
    gaussian = np.exp(-0.5 * (distance * (voxel_size / sigma)) ** 2) / (np.sqrt(2 * np.pi) * sigma)
    gx, gy, gz = gaussian.transpose(1, 2, 0)  # each (w, n)
    gz = gz * numbers

    # The margin takes the ends of the Gaussians of atoms near a face.
    wide = box + 1 + 2 * reach
    x, y, z = (nearest + reach).T
    density = np.zeros(wide**3)
    for dz, dy in itertools.product(range(len(offsets)), repeat=2):
        row = ((z + offsets[dz]) * wide + y + offsets[dy]) * wide + x
        index = row + offsets[:, None]  # (w, n)
        density += np.bincount(index.ravel(), (gz[dz] * gy[dy] * gx).ravel(), minlength=wide**3)
    inner = slice(reach, reach + box)
    return density.reshape(wide, wide, wide)[inner, inner, inner].astype(np.float32)


def resample(volume: np.ndarray, voxel_size: float, box: int, new_voxel_size: float) -> np.ndarray:
    """A map (z, y, x) on another grid, float32: its background removed, its centre of mass on voxel box/2.

    The background is the median, the mass what stands above it. The map is read as a Fourier series, cut at the lower
    Nyquist frequency of the two grids, and evaluated at the new voxel centres: a Fourier crop or pad for any ratio of
    voxel sizes. Raises ConfigError where the particle does not fit the box.
    """
    density = volume - np.median(volume)
    mass = np.clip(density, 0, None)
    if not mass.any():
        raise ConfigError("the map is empty: every voxel has the same value")
    centre = _mean_position(mass)
    _check_fits(particle_radius(density, centre) * voxel_size, box, new_voxel_size, "map")
    ratio = new_voxel_size / voxel_size
    for axis, n in enumerate(density.shape):
        position = (np.arange(box) - box // 2) * ratio + centre[axis]
        density = np.moveaxis(np.tensordot(_fourier_interpolation(position, n, ratio), density, (1, axis)), 0, axis)
    return density.astype(np.float32)


def particle_radius(volume: np.ndarray, centre: np.ndarray) -> float:
    """Radius in voxels of the sphere about `centre` (z, y, x) that holds 99 % of the squared density."""
    squared = [(np.arange(n) - c) ** 2 for n, c in zip(volume.shape, centre, strict=True)]
    radius = np.sqrt(squared[0][:, None, None] + squared[1][:, None] + squared[2])
    power = np.bincount(np.ceil(radius).astype(np.int64).ravel(), (volume.astype(np.float64) ** 2).ravel())
    share = np.cumsum(power) / power.sum()
    return float(np.searchsorted(share, POWER_IN_PARTICLE))


def read_map(path: Path) -> tuple[np.ndarray, float]:
    """A map (z, y, x), float32, and its voxel size in Å. Raises ConfigError where either is missing or senseless."""
    try:
        with mrcfile.open(path) as mrc:
            # mapc, mapr, maps name the axis (1 = x, 2 = y, 3 = z) that columns, rows and sections run along.
            axes = [int(mrc.header[name]) for name in ("maps", "mapr", "mapc")]
            volume, voxel = np.array(mrc.data, dtype=np.float32), mrc.voxel_size
    except (OSError, ValueError) as error:
        raise ConfigError(f"map {path} cannot be read ({error}): give a complete .mrc volume") from error
    if volume.ndim != 3 or not np.isfinite(volume).all():
        raise ConfigError(f"map {path} must be one 3D volume of finite values, found shape {volume.shape}")
    sizes = np.array([voxel.x, voxel.y, voxel.z], dtype=np.float64)
    if sizes[0] <= 0 or np.ptp(sizes) > 1e-3 * sizes[0]:
        raise ConfigError(
            f"map {path} has voxel size {sizes.tolist()} Å in its header: set one positive size for all axes"
        )
    order = np.argsort(axes)[::-1] if sorted(axes) == [1, 2, 3] else [0, 1, 2]
    return np.ascontiguousarray(volume.transpose(order)), float(sizes[0])


def write_map(path: Path, volume: np.ndarray, voxel_size: float) -> None:
    """Write a volume (z, y, x) as .mrc with its voxel size in Å and origin 0, whole or not at all."""
    with whole_file(path) as partial, mrcfile.new(partial, overwrite=True) as mrc:
        mrc.set_data(np.asarray(volume, dtype=np.float32))
        mrc.voxel_size = voxel_size
        mrc.header.label[0] = "Written by equipose"  # in place of mrcfile's, which holds the time of day


def density(source: Path, box: int, voxel_size: float, resolution: float) -> np.ndarray:
    """Volume (box, box, box) of a structure file or an .mrc map; `resolution`, of atoms only, in voxels."""
    if source.suffix in (".mrc", ".map"):
        volume, source_voxel_size = read_map(source)
        return resample(volume, source_voxel_size, box, voxel_size)
    return molmap(*read_atoms(source), box, voxel_size, resolution * voxel_size)


def main() -> None:
    parser = argparse.ArgumentParser(prog="equipose.structures", description="Atoms and densities of structures.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch_parser = commands.add_parser("fetch", help="download PDB entries, in one frame")
    fetch_parser.add_argument("--pdb", nargs="+", required=True, help="entries, such as 3J79 3J7A")
    fetch_parser.add_argument("--url", default=PDB_URL, help=f"folder of <entry>.cif.gz (default {PDB_URL})")
    density_parser = commands.add_parser("density", help="volume of a structure or a map, centred")
    density_parser.add_argument("--source", type=Path, required=True, help=".cif, .pdb (.gz), .npz or .mrc")
    density_parser.add_argument("--box", type=number(int, 1), required=True, help="voxels")
    density_parser.add_argument("--voxel-size", type=number(float, 0, above=True), required=True, help="Å")
    density_parser.add_argument(
        "--resolution", type=number(float, 0, above=True), required=True, help="voxels; of atoms, not of maps"
    )
    pack_parser = commands.add_parser("pack", help="make a small .npz, as workflow/resources/structures has")
    pack_parser.add_argument("--source", type=Path, required=True)
    for command in (fetch_parser, density_parser, pack_parser):
        command.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    if arguments.command == "density":
        volume = density(arguments.source, arguments.box, arguments.voxel_size, arguments.resolution)
        write_map(arguments.output, volume, arguments.voxel_size)
        return
    if arguments.command == "fetch":
        coords, numbers = fetch_entries(arguments.pdb, arguments.url)
        arrays = {"coords": coords.astype(np.float32), "elements": numbers.astype(np.uint8)}
    else:
        arrays = pack_atoms(*read_atoms(arguments.source))
    with whole_file(arguments.output) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)


def _download(entry: str, url: str, folder: Path) -> Path:
    address = f"{url.rstrip('/')}/{entry.upper()}.cif.gz"
    target = folder / f"{entry}.cif.gz"
    remedy = (
        "Set `offline: true` to use the embedded structure, or download the file yourself and name it under"
        " structures as `path`"
    )
    try:
        with urllib.request.urlopen(address, timeout=60) as response, open(target, "wb") as file:
            shutil.copyfileobj(response, file)
        with gzip.open(target) as file:  # the checksum at its end tells a cut download
            while file.read(1 << 20):
                pass
    except urllib.error.HTTPError as error:
        raise ConfigError(
            f"PDB entry {entry}: {address} answers {error.code}. Check the entry's id. {remedy}"
        ) from error
    except (OSError, EOFError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"PDB entry {entry} cannot be downloaded from {address}: {reason}. {remedy}") from error
    return target


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as arrays:
        if "coords_delta" in arrays:
            coords = np.cumsum(arrays["coords_delta"], axis=0, dtype=np.int64) * PACKED_ANGSTROM
            return coords, arrays["elements"].astype(np.int64)
        coords, elements = arrays["coords"].astype(np.float64), arrays["elements"]
    if coords.ndim != 2 or coords.shape[1] != 3 or elements.shape != coords.shape[:1]:
        raise ValueError(f"coords is {coords.shape} and elements {elements.shape}, not (n, 3) and (n,)")
    if elements.dtype.kind in "US":
        names, inverse = np.unique(elements.astype(str), return_inverse=True)
        elements = np.array([gemmi.Element(name).atomic_number for name in names])[inverse]
    return _known(coords, elements.astype(np.int64))


def _read_coordinates(path: Path) -> tuple[np.ndarray, np.ndarray]:
    structure = gemmi.read_structure(str(path))
    structure.remove_alternative_conformations()
    atoms = gemmi.FlatStructure(structure)
    first = atoms.model_num == atoms.model_num[:1]
    return _known(atoms.pos[first], atoms.elements[first].astype(np.int64))


def _known(coords: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return coords[numbers > 0], numbers[numbers > 0]


def _mean_position(mass: np.ndarray) -> np.ndarray:
    """Mean position (3,) in voxels, (z, y, x), of a map of weights."""
    profiles = mass.sum((1, 2)), mass.sum((0, 2)), mass.sum((0, 1))
    return np.array([np.average(np.arange(len(profile)), weights=profile) for profile in profiles])


def _check_fits(radius: float, box: int, voxel_size: float, what: str) -> None:
    """A sphere of `radius` Å about voxel box/2 must lie inside the box, whichever way it is turned."""
    if radius > box / 2 * voxel_size:
        raise ConfigError(
            f"the {what} reaches {radius:.0f} Å from its centre and does not fit a box of {box} × {voxel_size} Å: make"
            f" `box` at least {2 * int(np.ceil(radius / voxel_size))}, or `voxel_size` at least {2 * radius / box:.2f}"
        )


def _fourier_interpolation(position: np.ndarray, n: int, ratio: float) -> np.ndarray:
    """Matrix (len(position), n) from n samples to their Fourier series at `position` (samples), 0 outside the map.

    Frequencies above the Nyquist frequency of either grid are left out; `ratio` = new over old spacing.
    """
    k = np.arange(-(n // 2), n // 2 + 1)
    k = k[np.abs(k) < n / 2 * min(1, 1 / ratio)]
    weights = np.exp(2j * np.pi / n * np.outer(position, k)) @ np.exp(-2j * np.pi / n * np.outer(k, np.arange(n)))
    inside = (position > -1) & (position < n)
    return np.where(inside[:, None], weights.real / n, 0)


if __name__ == "__main__":
    run_main(main)
