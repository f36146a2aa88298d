"""Structures: PDB entries or files → atoms → density on a voxel grid (.mrc).

    python -m equipose.data.structures fetch --pdb 3J79 3J7A --output atoms.npz
    python -m equipose.data.structures assemble --source 1abc.cif --assembly 1 --output atoms.npz
    python -m equipose.data.structures density --source a.npz --box 128 --voxel-size 3.77 --resolution 2 --output v.mrc
    python -m equipose.data.structures pack --source atoms.npz --output 4v6x.npz

The density is ChimeraX `molmap`'s: Σ atomic number × normalised Gaussian of σ = 0.225 × resolution, sampled at the
voxel centres. cryoAI, and the paper after it (Apx. C), made their volumes with it. gemmi's density calculator uses
X-ray or electron form factors with B-factors instead: closer to physics, but not the data of the paper.

Arrays are (z, y, x); the particle's centre of mass lies on voxel box/2, and every map's header origin is 0, so that
maps of one box overlay in ChimeraX.
"""

import argparse
import datetime
import gzip
import hashlib
import http.client
import itertools
import json
import math
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equipose.core.resizing import resized
from equipose.data.atoms import PACKED_ANGSTROM, read_atoms
from equipose.errors import ConfigError
from equipose.io.files import MADE_FROM, whole_file, write_json
from equipose.io.maps import read_map, write_map
from equipose.io.progress import number, run_main, say

PDB_URL = "https://files.rcsb.org/download"

SCHEMES = ("https", "http", "file")
"""Schemes of URLs from which entries are downloaded; `file` is for tests."""

MOST_BYTES = 2**30
"""Largest size of a download; the largest entries have a tenth of it."""

SIGMA_PER_RESOLUTION = 0.225
"""molmap's default sigmaFactor, 1 / (π √2): the Gaussian's transform falls to 1/e at a wavenumber of 1 / resolution."""

SAMPLED_RESOLUTION = 2.0
"""The sharpest density that a grid is given as it is, in voxels: the paper's own."""

CUTOFF_SIGMAS = 5.0
"""Gaussians end here, as molmap's do."""

AT_ONCE = 2**18
"""Atoms whose Gaussians are added at once: all atoms of a ribosome; a capsid's go in parts, to bound memory."""

POWER_IN_PARTICLE = 0.99
"""A map's particle is the sphere that holds this share of its squared density."""


def fetch_entries(
    entries: Sequence[str], url: str, assembly: str | None = None, say: Callable[[str], None] = lambda line: None
) -> tuple[np.ndarray, np.ndarray, list[dict[str, str]]]:
    """Atoms of PDB `entries` in their common frame: coords (n, 3) in Å, atomic numbers (n,), and what was downloaded.

    Downloads <url>/<entry>.cif.gz, and takes each as deposited or as its biological `assembly`. Raises ConfigError
    where an entry is missing or the server cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        downloads = [_download(entry, url, Path(folder)) for entry in entries]
        parts = [read_atoms(path, assembly, say) for path, _ in downloads]
    coords, numbers = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return coords, numbers, [made_from for _, made_from in downloads]


def note_sources(path: Path, sources: list[dict[str, str]], say: Callable[[str], None]) -> None:
    """Write the sources of atoms beside them, and report entries that have changed since the last time."""
    beside = path.with_suffix(".json")
    former = {entry["entry"]: entry for entry in json.loads(beside.read_text())} if beside.is_file() else {}
    for source in sources:
        known = former.get(source["entry"])
        if known and known["sha256"] != source["sha256"]:
            say(
                f"PDB entry {source['entry']} has changed since {known['downloaded']}: its SHA-256 was"
                f" {known['sha256']} and is {source['sha256']}. Datasets made from it change with it"
            )
    write_json(beside, sources)


def note_origin(path: Path, structure: dict[str, Any] | None) -> None:
    """Write what `path` is made from into a .json file beside it, which is no output: a change is compared with it."""
    if structure is not None:
        write_json(path.with_suffix(MADE_FROM), structure)


def pack_atoms(coords: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Atoms as small arrays, about their centre of mass: steps of 0.01 Å from each to the next, and element bytes."""
    steps = np.rint((coords - centre_of_mass(coords, numbers)) / PACKED_ANGSTROM)
    if np.abs(steps).max() > np.iinfo(np.int16).max:
        raise ConfigError("only structures within 327 Å of their centre of mass can be packed: keep the mmCIF file")
    return {"coords_delta": np.diff(steps, axis=0, prepend=0).astype(np.int16), "elements": numbers.astype(np.uint8)}


def centre_of_mass(coords: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Mean position (3,) weighted by atomic number, which is the centre of mass of the density too."""
    return np.average(coords, axis=0, weights=numbers)


def _centred(coords: np.ndarray, numbers: np.ndarray, box: int, voxel_size: float) -> np.ndarray:
    """Coordinates (n, 3) about their centre of mass. Raises ConfigError where they do not fit the box."""
    centred = coords - centre_of_mass(coords, numbers)
    _check_fits(np.linalg.norm(centred, axis=1).max(), box, voxel_size, "structure")
    return centred


def molmap(coords: np.ndarray, numbers: np.ndarray, box: int, voxel_size: float, resolution: float) -> np.ndarray:
    """Density (box, box, box) in electrons per Å³, float32, of atoms (n, 3) Å about their centre of mass.

    `resolution` in Å: σ = 0.225 × resolution. Raises ConfigError where the particle does not fit the box.
    """
    sigma = SIGMA_PER_RESOLUTION * resolution
    centred = _centred(coords, numbers, box, voxel_size)

    reach = int(np.ceil(CUTOFF_SIGMAS * sigma / voxel_size + 0.5))
    offsets = np.arange(-reach, reach + 1)
    # The margin takes the ends of the Gaussians of atoms near a face.
    wide = box + 1 + 2 * reach
    density = np.zeros(wide**3)
    for start in range(0, len(centred), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        position = centred[some] / voxel_size + box // 2  # in voxels, (n, 3) along x, y, z
        nearest = np.rint(position).astype(np.int64)
        distance = (nearest - position)[..., None] + offsets  # (n, 3, w) voxels
        gaussian = np.exp(-0.5 * (distance * (voxel_size / sigma)) ** 2) / (np.sqrt(2 * np.pi) * sigma)
        gx, gy, gz = gaussian.transpose(1, 2, 0)  # each (w, n)
        gz = gz * numbers[some]
        x, y, z = (nearest + reach).T
        for dz, dy in itertools.product(range(len(offsets)), repeat=2):
            row = ((z + offsets[dz]) * wide + y + offsets[dy]) * wide + x
            index = row + offsets[:, None]  # (w, n)
            density += np.bincount(index.ravel(), (gz[dz] * gy[dy] * gx).ravel(), minlength=wide**3)
    inner = slice(reach, reach + box)
    return density.reshape(wide, wide, wide)[inner, inner, inner].astype(np.float32)


def sharp_molmap(coords: np.ndarray, numbers: np.ndarray, box: int, voxel_size: float, resolution: float) -> np.ndarray:
    """`molmap` at any resolution. A density too sharp for the grid is made on a finer one and Fourier-cropped.

    Sampled at the coarse voxels at once, it would alias.
    """
    finer = math.ceil(SAMPLED_RESOLUTION * voxel_size / resolution)
    if finer <= 1:
        return molmap(coords, numbers, box, voxel_size, resolution)
    _centred(coords, numbers, box, voxel_size)  # else the finer grid's box and voxels would be named
    fine = molmap(coords, numbers, finer * box, voxel_size / finer, resolution)
    return resized(fine, box).astype(np.float32)


def resample(volume: np.ndarray, voxel_size: float, box: int, new_voxel_size: float) -> np.ndarray:
    """A map (z, y, x) on another grid, float32: its background removed, its centre of mass on voxel box/2.

    The background is the median, the mass what stands above it. The map is read as a Fourier series, cut at the lower
    Nyquist frequency of the two grids, and evaluated at the new voxel centres: a Fourier crop or pad for any ratio of
    voxel sizes. Raises ConfigError where the particle does not fit the box.
    """
    density = volume - np.median(volume)
    mass = np.clip(density, 0, None)
    if not mass.any():
        raise ConfigError("the map is empty, every voxel has the same value: give another")
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


def density(
    source: Path, box: int, voxel_size: float, resolution: float, say: Callable[[str], None] = lambda line: None
) -> np.ndarray:
    """Volume (box, box, box) of a structure file or an .mrc map; `resolution`, of atoms only, in voxels.

    If atoms are read as deposited, `say` gets the number of their copies in the biological assembly.
    """
    if source.suffix in (".mrc", ".map"):
        volume, source_voxel_size = read_map(source)
        return _named(source, resample, volume, source_voxel_size, box, voxel_size)
    return _named(source, sharp_molmap, *read_atoms(source, say=say), box, voxel_size, resolution * voxel_size)


def _named(source: Path, make: Callable[..., np.ndarray], *arguments: object) -> np.ndarray:
    """The result of `make` for a file's content; its ConfigErrors get the file's name."""
    try:
        return make(*arguments)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(prog="equipose.data.structures", description="Atoms and densities of structures.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch_parser = commands.add_parser("fetch", help="download PDB entries, in one frame")
    fetch_parser.add_argument("--pdb", nargs="+", required=True, help="entries, such as 3J79 3J7A")
    fetch_parser.add_argument("--url", default=PDB_URL, help=f"folder of <entry>.cif.gz (default {PDB_URL})")
    fetch_parser.add_argument("--assembly", help="build each entry's biological assembly of this name, such as 1")
    assemble_parser = commands.add_parser("assemble", help="build the biological assembly of a structure file")
    assemble_parser.add_argument("--source", type=Path, required=True, help=".cif or .pdb (.gz)")
    assemble_parser.add_argument("--assembly", required=True, help="its name, such as 1")
    density_parser = commands.add_parser("density", help="volume of a structure or a map, centred")
    density_parser.add_argument("--source", type=Path, required=True, help=".cif, .pdb (.gz), .npz or .mrc")
    density_parser.add_argument("--box", type=number(int, 1), required=True, help="voxels")
    density_parser.add_argument("--voxel-size", type=number(float, 0, above=True), required=True, help="Å")
    density_parser.add_argument(
        "--resolution", type=number(float, 0, above=True), required=True, help="voxels; of atoms, not of maps"
    )
    pack_parser = commands.add_parser("pack", help="make a small .npz, as workflow/resources/structures has")
    pack_parser.add_argument("--source", type=Path, required=True)
    for command in (fetch_parser, assemble_parser, density_parser, pack_parser):
        command.add_argument("--output", type=Path, required=True)
        command.add_argument(
            "--structure", type=json.loads, help="JSON of what this is made from, to be kept beside it"
        )
    arguments = parser.parse_args()

    if arguments.command == "density":
        volume = density(arguments.source, arguments.box, arguments.voxel_size, arguments.resolution, say)
        note_origin(arguments.output, arguments.structure)
        write_map(arguments.output, volume, arguments.voxel_size)
        return
    sources: list[dict[str, Any]] = []
    if arguments.command == "fetch":
        coords, numbers, sources = fetch_entries(arguments.pdb, arguments.url, arguments.assembly, say)
        arrays = _arrays(coords, numbers)
    elif arguments.command == "assemble":
        arrays = _arrays(*read_atoms(arguments.source, arguments.assembly))
    else:
        arrays = pack_atoms(*read_atoms(arguments.source))
    note_origin(arguments.output, arguments.structure)
    with whole_file(arguments.output) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)
    if sources:
        note_sources(arguments.output, sources, say)


def _arrays(coords: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Atoms as an .npz holds them."""
    return {"coords": coords.astype(np.float32), "elements": numbers.astype(np.uint8)}


def _download(entry: str, url: str, folder: Path) -> tuple[Path, dict[str, str]]:
    """A PDB entry's file in `folder`, and its address, SHA-256 and day."""
    address = f"{url.rstrip('/')}/{entry.upper()}.cif.gz"
    target = folder / f"{entry}.cif.gz"
    remedy = (
        "Set `offline: true` to use the embedded structure, or download the file yourself and name it under"
        " structures as `path`"
    )
    if urllib.parse.urlsplit(address).scheme not in SCHEMES:
        raise ConfigError(f"PDB entries are downloaded over {', '.join(SCHEMES)} alone: correct --url {url}")
    try:
        with urllib.request.urlopen(address, timeout=60) as response, open(target, "wb") as file:
            content = response.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise ConfigError(f"PDB entry {entry}: {address} has more than {MOST_BYTES:,} bytes. {remedy}")
            file.write(content)
        with gzip.open(target) as file:  # the checksum at its end tells a cut download
            while file.read(1 << 20):
                pass
    except urllib.error.HTTPError as error:
        raise ConfigError(
            f"PDB entry {entry}: {address} answers {error.code}. Check the entry's id. {remedy}"
        ) from error
    except (OSError, EOFError, zlib.error, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"PDB entry {entry} cannot be downloaded from {address}: {reason}. {remedy}") from error
    today = datetime.date.today().isoformat()
    digest = hashlib.sha256(content).hexdigest()
    return target, {"entry": entry.upper(), "address": address, "sha256": digest, "downloaded": today}


def _mean_position(mass: np.ndarray) -> np.ndarray:
    """Mean position (3,) in voxels, (z, y, x), of a map of weights."""
    profiles = mass.sum((1, 2)), mass.sum((0, 2)), mass.sum((0, 1))
    return np.array([np.average(np.arange(len(profile)), weights=profile) for profile in profiles])


def _check_fits(radius: float, box: int, voxel_size: float, what: str) -> None:
    """Raises ConfigError unless a sphere of `radius` Å about voxel box/2 lies inside of the box."""
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
