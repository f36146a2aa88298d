"""Biological assemblies: the line about copies that are not read, and assemblies that are built on request."""

from pathlib import Path

import gemmi
import numpy as np
import pytest

from equipose.data.atoms import read_atoms
from equipose.data.structures import density
from equipose.errors import ConfigError

COORDS = np.array([[10.0, 0.0, 1.0], [12.0, 1.0, 2.0], [14.0, 3.0, -1.0]])
QUARTER = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
FOUR = np.concatenate([COORDS @ np.linalg.matrix_power(QUARTER, turn).T for turn in range(4)])


def entry(copies: int = 4) -> gemmi.Structure:
    """Three atoms, and an assembly `1` of so many copies of them about z."""
    chain, structure, model = gemmi.Chain("A"), gemmi.Structure(), gemmi.Model(1)
    for number, position in enumerate(COORDS.tolist(), 1):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "UNL", gemmi.SeqId(str(number))
        atom.name, atom.element, atom.pos = "C", gemmi.Element("C"), gemmi.Position(*position)
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    part, assembly = gemmi.Assembly.Gen(), gemmi.Assembly("1")
    part.chains, part.subchains = ["A"], sorted({residue.subchain for residue in structure[0][0]})
    for turn in range(copies):
        operator = gemmi.Assembly.Operator()
        matrix = np.linalg.matrix_power(QUARTER, turn)
        operator.transform = gemmi.Transform(gemmi.Mat33(matrix.tolist()), gemmi.Vec3(0, 0, 0))
        part.operators.append(operator)
    assembly.generators.append(part)
    structure.assemblies.append(assembly)
    return structure


@pytest.fixture
def cif(tmp_path: Path) -> Path:
    path = tmp_path / "entry.cif"
    path.write_text(entry().make_mmcif_document().as_string())
    return path


def with_operators(path: Path, expression: str) -> Path:
    text = path.read_text()
    assert text.count("1,2,3,4") == 1
    path.write_text(text.replace("1,2,3,4", f"'{expression}'"))
    return path


def sorted_rows(coords: np.ndarray) -> np.ndarray:
    return np.array(sorted(np.round(coords, 3).tolist()))


def test_the_atoms_are_those_deposited_and_the_copies_left_out_are_said(cif: Path) -> None:
    said: list[str] = []
    coords, _ = read_atoms(cif, say=said.append)
    np.testing.assert_allclose(coords, COORDS, atol=1e-3)
    assert len(said) == 1
    assert "entry.cif: biological assembly 1 has 4 copies of the atoms in the file, and one is read" in said[0]
    assert "`assembly: 1`" in said[0]


@pytest.mark.parametrize("kind", ["cif", "pdb"])
def test_an_assembly_is_built_with_all_of_its_copies(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"entry.{kind}"
    path.write_text(entry().make_mmcif_document().as_string() if kind == "cif" else entry().make_pdb_string())
    coords, numbers = read_atoms(path, "1", pytest.fail)
    np.testing.assert_allclose(sorted_rows(coords), sorted_rows(FOUR), atol=2e-3)
    assert numbers.tolist() == 12 * [6]


def test_the_density_of_a_file_says_it_too(cif: Path) -> None:
    said: list[str] = []
    density(cif, 32, 4.0, 2.0, said.append)
    assert "has 4 copies" in said[0]


def test_an_assembly_of_one_copy_is_not_worth_a_word(tmp_path: Path) -> None:
    (tmp_path / "entry.cif").write_text(entry(1).make_mmcif_document().as_string())
    assert len(read_atoms(tmp_path / "entry.cif", say=pytest.fail)[0]) == 3


def test_copies_of_a_chain_are_counted_over_all_parts_of_an_assembly(cif: Path) -> None:
    """As in 4ZXB: a row for the first operator, and another for the second."""
    text = cif.read_text()
    row = next(line for line in text.splitlines() if "1,2,3,4" in line)
    cif.write_text(text.replace(row, "\n".join(row.replace("1,2,3,4", part) for part in ("1", "2-3"))))
    said: list[str] = []
    read_atoms(cif, say=said.append)
    assert "has 3 copies" in said[0]
    assert len(read_atoms(cif, "1")[0]) == 9


def test_an_assembly_that_is_not_there_is_named_with_those_that_are(cif: Path) -> None:
    with pytest.raises(ConfigError, match=r"entry\.cif has no biological assembly PAU; it has: 1"):
        read_atoms(cif, "PAU")


def test_a_product_of_operators_is_counted_and_not_built(cif: Path) -> None:
    """gemmi would build two of the four copies."""
    said: list[str] = []
    read_atoms(with_operators(cif, "(1-2)(3-4)"), say=said.append)
    assert "has 4 copies" in said[0]
    with pytest.raises(ConfigError, match=r"is a product of operators, \(1-2\)\(3-4\), .*assembly1\.cif\.gz"):
        read_atoms(cif, "1")


def test_an_assembly_of_too_many_atoms_is_not_built(cif: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equipose.data.atoms.MOST_ATOMS", 11)
    with pytest.raises(ConfigError, match="would have up to 12 atoms; at most 11"):
        read_atoms(cif, "1")
    monkeypatch.setattr("equipose.data.atoms.MOST_ATOMS", 12)
    assert len(read_atoms(cif, "1")[0]) == 12


def test_an_npz_has_no_assembly(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", coords=COORDS, elements=[6, 6, 6])
    with pytest.raises(ConfigError, match=r"a\.npz has no assemblies: take `assembly` away"):
        read_atoms(tmp_path / "a.npz", "1")


@pytest.mark.parametrize("kind", ["pdb", "cif"])
def test_deuterium_has_one_electron(tmp_path: Path, kind: str) -> None:
    """gemmi 0.7.5 numbers it 119 in an array of all atoms (findings/gemmi_flat_deuterium.sh)."""
    structure = entry(1)
    structure[0]["A"][1][0].element = gemmi.Element("D")
    path = tmp_path / f"entry.{kind}"
    written = structure.make_pdb_string() if kind == "pdb" else structure.make_mmcif_document().as_string()
    path.write_text(written)
    assert read_atoms(path)[1].tolist() == [6, 1, 6]
