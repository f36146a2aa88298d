"""Atoms of a structure's file (mmCIF, PDB or .npz), and their copies in its biological assembly.

A file's claims are checked against its size, so no memory is taken for data that the file lacks.
"""

import gzip
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from equipose.errors import ConfigError

DEUTERIUM = 119
"""Gemmi's number of deuterium among its elements, no atomic number (findings/gemmi_flat_deuterium.sh)."""

PACKED_ANGSTROM = 0.01
"""Unit of the packed coordinates of embedded structures."""

FORMATS = {".cif": "mmCIF", ".mmcif": "mmCIF", ".pdb": "PDB", ".ent": "PDB"}
"""Kinds of text by a file's suffix, `.gz` left away."""

TIMES, SLACK = 100, 2**20
"""Largest unpacked size of a packed file: so many times its own bytes, and this many more. Coordinates pack to a tenth
at best, a zip bomb to a thousandth."""

FARTHEST = 1e5
"""Largest distance of an atom from the origin in Å."""

MOST_ATOMS, MOST_COPIES = 20_000_000, 100_000
"""Largest number of atoms of a built assembly, and of copies in all assemblies of a file."""

READABLE = (
    "it must be an mmCIF or PDB file (.cif, .mmcif, .pdb, .ent, packed or not), or an .npz of `coords` (n, 3) in Å and"
    " `elements` (n,)"
)


class Row(NamedTuple):
    """A part of an assembly, as mmCIF writes it: operators such as `1-4`, `(1,3)` or a product, `(1-60)(61-88)`."""

    assembly: str
    operators: str
    chains: list[str]


def read_atoms(
    path: Path, assembly: str | None = None, say: Callable[[str], None] = lambda line: None
) -> tuple[np.ndarray, np.ndarray]:
    """Coords (n, 3) in Å and atomic numbers (n,) of an mmCIF or PDB file (.gz too) or an .npz.

    Of mmCIF and PDB files it reads the first model, one conformer, and all atoms of a known element, as deposited or as
    the biological `assembly` of that name. Without an `assembly`, `say` gets the number of copies in the file's
    assembly. An .npz holds `coords` and `elements` (symbols or atomic numbers), or comes from `pack_atoms`. Raises
    ConfigError.
    """
    if path.is_dir():
        raise ConfigError(f"structure file {path} is a folder: name the file in it, in config.yaml under structures")
    if not path.is_file():
        raise ConfigError(f"structure file {path} does not exist: check the path in config.yaml, under structures")
    try:
        if path.suffix != ".npz":
            coords, numbers = _read_structure(path, assembly, say)
        elif assembly is None:
            coords, numbers = _read_npz(path)
        else:
            raise ConfigError(f"structure file {path} has no assemblies: take `assembly` away, or name an mmCIF file")
    except ConfigError:
        raise
    except Exception as error:  # gemmi, NumPy and zipfile raise many kinds of errors for a broken file
        raise ConfigError(f"structure file {path} cannot be read ({_one_line(error)}): {READABLE}") from error
    known = numbers > 0
    bad = np.flatnonzero(known & ~(np.abs(coords) <= FARTHEST).all(axis=1))
    if len(bad):
        raise ConfigError(
            f"structure file {path}: atom {bad[0] + 1} lies at {coords[bad[0]].tolist()} Å; coordinates must be numbers"
            f" up to {FARTHEST:,.0f} Å. Correct it or take it away"
        )
    if not known.any():
        raise ConfigError(f"structure file {path} holds no atoms of known elements: {READABLE}")
    return coords[known], numbers[known]


def _one_line(error: Exception) -> str:
    """An exception's message as one short line: a broken file can make it long, or several lines."""
    words = " ".join(str(error).split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in words[:200])


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        if "coords_delta.npy" in archive.namelist():
            steps, elements = _arrays(path, archive, ["coords_delta", "elements"])
            coords = np.cumsum(steps, axis=0, dtype=np.int64) * PACKED_ANGSTROM
        else:
            coords, elements = _arrays(path, archive, ["coords", "elements"])
    if coords.ndim != 2 or coords.shape[1] != 3 or elements.shape != coords.shape[:1]:
        raise ValueError(f"coords is {coords.shape} and elements {elements.shape}, not (n, 3) and (n,)")
    if coords.dtype.kind not in "fiu":
        raise ValueError(f"coords is of type {coords.dtype}, not of numbers")
    return coords.astype(np.float64), _atomic_numbers(elements)


def _arrays(path: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> list[np.ndarray]:
    """Arrays of an .npz, after a check that the file can hold them, by their headers and unpacked sizes."""
    members = [archive.getinfo(f"{name}.npy") for name in names]
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise ValueError("it is packed in a way that NumPy does not write")
    _check_unpacked(sum(member.file_size for member in members), path)
    for member in members:
        with archive.open(member) as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f"{member.filename} is of another version than NumPy writes")
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            if kind.hasobject:
                raise ValueError(f"{member.filename} holds Python objects, not numbers")
            if math.prod(shape) * kind.itemsize > member.file_size:
                raise ValueError(f"{member.filename} says that its shape is {shape}, and holds less")
    arrays = []
    for member in members:
        with archive.open(member) as file:
            arrays.append(np.lib.format.read_array(file, allow_pickle=False))
    return arrays


def _check_unpacked(size: int, path: Path) -> None:
    if size > TIMES * path.stat().st_size + SLACK:
        raise ValueError(f"unpacked it is more than {TIMES} times as large, which no structure is")


def _atomic_numbers(elements: np.ndarray) -> np.ndarray:
    """Atomic numbers (n,), 0 where unknown (X), of symbols or numbers (n,)."""
    if elements.dtype.kind not in "USfiu":
        raise ValueError(f"elements is of type {elements.dtype}, not of symbols or atomic numbers")
    values, inverse = np.unique(elements, return_inverse=True)
    if elements.dtype.kind in "US":
        symbols = [name.strip() for name in values.astype(str).tolist()]
        numbers = [gemmi.Element(symbol).atomic_number for symbol in symbols]
        known = [number > 0 or symbol.upper() in ("X", "") for number, symbol in zip(numbers, symbols, strict=True)]
    else:
        numbers = values.tolist()
        known = [number in range(119) for number in numbers]
    if not all(known):
        raise ValueError(f"{values[known.index(False)]!s:.20} among its elements is none")
    return np.array(numbers, dtype=np.int64)[inverse]


def _read_structure(path: Path, assembly: str | None, say: Callable[[str], None]) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of the first model of an mmCIF or PDB file, one conformer of it, or of a biological assembly."""
    kind = FORMATS.get(Path(path.name.removesuffix(".gz")).suffix)
    if kind is None:
        raise ValueError(f"its name ends with {path.suffix or 'nothing'}")
    text, rows = _text(path), []
    if kind == "mmCIF":
        block = gemmi.cif.read_string(text)[0]
        table = block.find("_pdbx_struct_assembly_gen.", ["assembly_id", "oper_expression", "asym_id_list"])
        rows = [Row(row.str(0), row.str(1), row.str(2).split(",")) for row in table]
        _check_ranges(rows)
        structure = gemmi.make_structure_from_block(block)
    else:
        structure = gemmi.read_structure_string(text, format=gemmi.CoorFormat.Pdb)
    del structure[1:]
    structure.remove_alternative_conformations()
    if assembly is not None:
        _build(structure, assembly, rows, path)
    else:
        for name, copies in _copies(structure, rows).items():
            if copies > 1:
                say(
                    f"{path}: biological assembly {name} has {copies} copies of the atoms in the file, and one is read;"
                    f" `assembly: {name}` in the structure's line builds all of them"
                )
    atoms = gemmi.FlatStructure(structure)
    numbers = atoms.elements.astype(np.int64)
    numbers[numbers == DEUTERIUM] = 1
    return atoms.pos, numbers


def _text(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    with gzip.open(path) as file:
        text = file.read(TIMES * path.stat().st_size + SLACK + 1)
    _check_unpacked(len(text), path)
    return text


def _check_ranges(rows: list[Row]) -> None:
    """Raises ValueError for ranges of operators so long that gemmi, which writes them out, would never end."""
    copies = 0
    for row in rows:
        largest = max(map(int, re.findall(r"\d{1,18}", row.operators)), default=0)
        copies += 1 + row.operators.count(",") + row.operators.count("-") * largest
    if copies > MOST_COPIES:
        raise ValueError(f"it describes assemblies of more than {MOST_COPIES:,} copies")


def _copies(structure: gemmi.Structure, rows: list[Row]) -> dict[str, int]:
    """Names of assemblies, and the number of copies of each one's most repeated chain."""
    if rows:  # of an mmCIF file
        counts = [(row.assembly, row.chains, math.prod(map(_count, _factors(row.operators)))) for row in rows]
    else:
        parts = [(found.name, part) for found in structure.assemblies for part in found.generators]
        counts = [(name, [*part.chains, *part.subchains], len(part.operators)) for name, part in parts]
    copies: dict[str, Counter[str]] = {}
    for name, chains, count in counts:  # a chain may be in several parts of an assembly
        copies.setdefault(name, Counter()).update(dict.fromkeys(chains, count))
    return {name: max(of_chains.values(), default=0) for name, of_chains in copies.items()}


def _factors(operators: str) -> list[str]:
    """The factors of a product of operators: 1-60 and 61-88 of `(1-60)(61-88)`. gemmi 0.7.5 reads only the first."""
    return re.findall(r"[^()\s]+", operators)


def _count(operators: str) -> int:
    """The number of operators in `1-60` or `1,3`."""
    ranges = (re.fullmatch(r"(\d+)-(\d+)", part.strip()) for part in operators.split(","))
    return sum(int(found[2]) - int(found[1]) + 1 if found else 1 for found in ranges)


def _build(structure: gemmi.Structure, assembly: str, rows: list[Row], path: Path) -> None:
    """Turn a structure into its biological assembly of that name."""
    copies = _copies(structure, rows)
    if assembly not in copies:
        known = ", ".join(copies) or "none"
        raise ConfigError(f"structure file {path} has no biological assembly {assembly}; it has: {known}")
    for row in rows:
        if row.assembly == assembly and len(_factors(row.operators)) > 1:
            raise ConfigError(
                f"structure file {path}: biological assembly {assembly} is a product of operators, {row.operators},"
                " which is not built here. Name the PDB's own file of it as `path`, such as"
                f" https://files.rcsb.org/download/1abc-assembly{assembly}.cif.gz"
            )
    count = structure[0].count_atom_sites() * copies[assembly] if len(structure) else 0
    if count > MOST_ATOMS:
        raise ConfigError(
            f"structure file {path}: biological assembly {assembly} would have up to {count:,} atoms; at most"
            f" {MOST_ATOMS:,} are built. Leave `assembly` away"
        )
    structure.transform_to_assembly(assembly, gemmi.HowToNameCopiedChain.Dup)
