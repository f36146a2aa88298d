"""Structures: downloads, readers, ChimeraX's density, maps on another grid, and the embedded coordinates."""

import gzip
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import gemmi
import mrcfile
import numpy as np
import pytest
import yaml
from scipy.spatial import cKDTree

from equipose.core.point_groups import group
from equipose.data.structures import (
    SIGMA_PER_RESOLUTION,
    centre_of_mass,
    density,
    fetch_entries,
    molmap,
    pack_atoms,
    particle_radius,
    read_atoms,
    resample,
    sharp_molmap,
)
from equipose.errors import ConfigError
from equipose.io.maps import read_map, write_map

EMBEDDED = Path(__file__).parents[1] / "workflow" / "resources" / "structures"

ATOMS = [("C", (1.0, 2.0, 3.0)), ("N", (4.0, -5.0, 6.5)), ("P", (-7.0, 8.0, 9.25)), ("ZN", (0.0, 0.5, -3.0))]
COORDS, NUMBERS = np.array([position for _, position in ATOMS]), np.array([6, 7, 15, 30])


def structure(atoms: list[tuple[str, tuple[float, float, float]]]) -> gemmi.Structure:
    entry, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    for number, (element, position) in enumerate(atoms, 1):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "UNL", gemmi.SeqId(str(number))
        atom.name, atom.element, atom.pos = element, gemmi.Element(element), gemmi.Position(*position)
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    entry.add_model(model)
    entry.setup_entities()
    return entry


def mmcif(atoms: list[tuple[str, tuple[float, float, float]]]) -> bytes:
    return structure(atoms).make_mmcif_document().as_string().encode()


def centre_of_density(volume: np.ndarray) -> np.ndarray:
    """(x, y, z) in voxels from voxel box/2."""
    grid = np.arange(len(volume)) - len(volume) // 2
    return np.array([volume.sum(axes) @ grid for axes in ((0, 1), (0, 2), (1, 2))]) / volume.sum()


@pytest.fixture
def run(command: Callable[..., CompletedProcess]) -> Callable[..., CompletedProcess]:
    return partial(command, "equipose.data.structures")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A stand-in for the Protein Data Bank. 1AAA and 1BBB have half of ATOMS each, and 1CUT is cut short."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "1AAA.cif.gz").write_bytes(gzip.compress(mmcif(ATOMS[:2])))
    (folder / "1BBB.cif.gz").write_bytes(gzip.compress(mmcif(ATOMS[2:])))
    (folder / "1CUT.cif.gz").write_bytes(gzip.compress(mmcif(ATOMS))[:-20])

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


# --- downloads


def test_several_entries_are_joined_in_their_common_frame(run: Callable, tmp_path: Path, server: str) -> None:
    output = tmp_path / "new" / "atoms.npz"
    result = run("fetch", "--pdb", "1aaa", "1BBB", "--url", server, "--output", output)
    assert result.returncode == 0, result.stderr
    coords, numbers = read_atoms(output)
    np.testing.assert_allclose(coords, COORDS, atol=1e-4)
    np.testing.assert_array_equal(numbers, NUMBERS)


@pytest.mark.parametrize(
    "entries, reason", [(["1AAA", "9ZZZ"], "PDB entry 9ZZZ: .* answers 404"), (["1CUT"], "PDB entry 1CUT cannot be")]
)
def test_an_entry_that_is_missing_or_cut_short_is_named_with_the_remedy(
    server: str, entries: list[str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){reason}.*offline: true.*path"):
        fetch_entries(entries, server)


def test_without_a_network_one_line_gives_the_remedy_and_nothing_is_left_behind(run: Callable, tmp_path: Path) -> None:
    result = run("fetch", "--pdb", "3J79", "--url", "http://127.0.0.1:1", "--output", tmp_path / "atoms.npz")
    assert result.returncode == 2
    assert result.stderr.startswith("error: PDB entry 3J79 cannot be downloaded from http://127.0.0.1:1/3J79.cif.gz")
    assert "offline: true" in result.stderr and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_was_downloaded_is_noted_and_an_entry_that_has_changed_is_said(
    run: Callable, tmp_path: Path, server: str
) -> None:
    fetch = ["fetch", "--pdb", "1aaa", "1BBB", "--url", server, "--output", tmp_path / "atoms.npz"]
    assert run(*fetch).stderr == ""
    noted = json.loads((tmp_path / "atoms.json").read_text())
    sums = {
        name: hashlib.sha256((tmp_path / f"server/{name}.cif.gz").read_bytes()).hexdigest() for name in ("1AAA", "1BBB")
    }
    assert {source["entry"]: source["sha256"] for source in noted} == sums
    assert noted[0]["address"] == f"{server}/1AAA.cif.gz"

    (tmp_path / "server/1AAA.cif.gz").write_bytes(gzip.compress(mmcif(ATOMS[:1])))
    again = run(*fetch)
    assert again.returncode == 0
    assert again.stderr.startswith(
        f"PDB entry 1AAA has changed since {noted[0]['downloaded']}: its SHA-256 was {sums['1AAA']}"
    )
    assert again.stderr.count("\n") == 1, "1BBB has not"
    assert len(read_atoms(tmp_path / "atoms.npz")[0]) == 3


@pytest.mark.parametrize("url", ["ftp://files.rcsb.org", "data:,x?", "/etc"])
def test_entries_come_over_http_or_from_a_file_alone(tmp_path: Path, server: str, url: str) -> None:
    with pytest.raises(ConfigError, match=f"over https, http, file alone: correct --url {re.escape(url)}"):
        fetch_entries(["1AAA"], url)
    assert len(fetch_entries(["1AAA"], f"file://{tmp_path}/server")[0]) == 2


def test_an_entry_s_assembly_is_fetched_and_one_that_it_lacks_is_named(
    run: Callable, tmp_path: Path, server: str
) -> None:
    entry = structure(ATOMS[:2])
    part, assembly = gemmi.Assembly.Gen(), gemmi.Assembly("1")
    part.subchains = sorted({residue.subchain for residue in entry[0][0]})
    for offset in (0.0, 100.0):
        operator = gemmi.Assembly.Operator()
        operator.transform = gemmi.Transform(gemmi.Mat33(), gemmi.Vec3(offset, 0, 0))
        part.operators.append(operator)
    assembly.generators.append(part)
    entry.assemblies.append(assembly)
    (tmp_path / "server/1CPY.cif.gz").write_bytes(gzip.compress(entry.make_mmcif_document().as_string().encode()))
    whole = tmp_path / "whole.npz"
    assert run("fetch", "--pdb", "1cpy", "--assembly", "1", "--url", server, "--output", whole).stderr == ""
    np.testing.assert_allclose(np.ptp(read_atoms(whole)[0][:, 0]), 103.0)
    deposited = run("fetch", "--pdb", "1cpy", "--url", server, "--output", tmp_path / "one.npz")
    assert "biological assembly 1 has 2 copies" in deposited.stderr
    assert len(read_atoms(tmp_path / "one.npz")[0]) == 2
    missing = run("fetch", "--pdb", "1aaa", "--assembly", "1", "--url", server, "--output", tmp_path / "no.npz")
    assert missing.returncode == 2 and "has no biological assembly 1; it has: none" in missing.stderr
    assert not list(tmp_path.glob("no.*"))


# --- readers


@pytest.mark.parametrize("name", ["a.cif", "a.cif.gz", "a.pdb", "a.pdb.gz"])
def test_mmcif_and_pdb_files_give_coordinates_and_atomic_numbers(tmp_path: Path, name: str) -> None:
    text = structure(ATOMS).make_pdb_string().encode() if "pdb" in name else mmcif(ATOMS)
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    coords, numbers = read_atoms(tmp_path / name)
    np.testing.assert_allclose(coords, COORDS, atol=1e-3)
    np.testing.assert_array_equal(numbers, NUMBERS)


def test_only_the_first_model_counts(tmp_path: Path) -> None:
    entry = structure(ATOMS)
    entry.add_model(entry[0].clone())
    entry[1].num = 2
    (tmp_path / "nmr.pdb").write_text(entry.make_pdb_string())
    assert len(read_atoms(tmp_path / "nmr.pdb")[0]) == len(ATOMS)


@pytest.mark.parametrize("elements", [["C", "N", "P", "ZN"], [6, 7, 15, 30]])
def test_an_npz_may_name_elements_or_number_them(tmp_path: Path, elements: list) -> None:
    np.savez(tmp_path / "a.npz", coords=COORDS.astype(np.float32), elements=np.array(elements))
    coords, numbers = read_atoms(tmp_path / "a.npz")
    np.testing.assert_allclose(coords, COORDS)
    np.testing.assert_array_equal(numbers, NUMBERS)


def test_packed_atoms_come_back_within_their_rounding_about_the_centre_of_mass(tmp_path: Path) -> None:
    coords = np.random.default_rng(0).uniform(-150, 150, (200, 3)) + 400
    numbers = np.full(200, 6)
    np.savez_compressed(tmp_path / "packed.npz", **pack_atoms(coords, numbers))
    unpacked, same = read_atoms(tmp_path / "packed.npz")
    np.testing.assert_allclose(unpacked, coords - coords.mean(0), atol=0.00501)
    np.testing.assert_array_equal(same, numbers)


@pytest.mark.parametrize(
    "name, content",
    [("a.cif", b"nonsense"), ("a.npz", b"nonsense"), ("a.txt", b"nonsense"), ("a.pdb", b""), ("a.cif.gz", b"\x1f\x8b")],
)
def test_a_file_that_is_no_structure_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"structure file .*{name}"):
        read_atoms(tmp_path / name)


def test_a_missing_structure_and_an_npz_of_other_arrays_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", coords=COORDS)
    with pytest.raises(ConfigError, match=r"a\.npz cannot be read"):
        read_atoms(tmp_path / "a.npz")
    with pytest.raises(ConfigError, match=r"absent\.cif does not exist"):
        read_atoms(tmp_path / "absent.cif")


# --- density


def test_one_atom_is_a_normalised_gaussian_times_its_atomic_number_on_the_middle_voxel() -> None:
    box, voxel, resolution = 24, 1.5, 6.0
    volume = molmap(np.array([[100.0, -20.0, 3.0]]), np.array([8]), box, voxel, resolution)
    sigma = SIGMA_PER_RESOLUTION * resolution
    axis = (np.arange(box) - box // 2) * voxel
    squared = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    expected = 8 * np.exp(-squared / (2 * sigma**2)) / (2 * np.pi * sigma**2) ** 1.5
    np.testing.assert_allclose(volume, expected, atol=2e-5 * expected.max())  # e^(-5²/2) is cut off


@pytest.mark.parametrize("voxel, resolution", [(3.0, 6.0), (2.0, 8.0), (4.25, 6.0)])
def test_the_density_is_the_sum_over_atoms_at_the_voxel_centres_x_along_the_last_axis(
    voxel: float, resolution: float
) -> None:
    rng = np.random.default_rng(0)
    coords, numbers, box = rng.normal(0, [3, 6, 9], (60, 3)), rng.integers(1, 30, 60), 32
    volume = molmap(coords, numbers, box, voxel, resolution)
    centred, sigma = coords - centre_of_mass(coords, numbers), SIGMA_PER_RESOLUTION * resolution
    axis = (np.arange(box) - box // 2) * voxel
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    expected = np.zeros((box,) * 3)
    for position, number in zip(centred, numbers, strict=True):
        squared = (x - position[0]) ** 2 + (y - position[1]) ** 2 + (z - position[2]) ** 2
        expected += number * np.exp(-squared / (2 * sigma**2)) / (2 * np.pi * sigma**2) ** 1.5
    np.testing.assert_allclose(volume, expected, atol=1e-5 * expected.max())


def test_many_atoms_are_added_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    coords, numbers = rng.normal(0, 6, (50, 3)), rng.integers(1, 30, 50)
    at_once = molmap(coords, numbers, 32, 3.0, 6.0)
    monkeypatch.setattr("equipose.data.structures.AT_ONCE", 7)
    np.testing.assert_allclose(molmap(coords, numbers, 32, 3.0, 6.0), at_once, atol=1e-6 * at_once.max())


def test_the_density_holds_every_electron_and_its_centre_of_mass_is_voxel_half_the_box() -> None:
    coords = np.random.default_rng(1).uniform(0, 60, (500, 3))
    numbers = np.where(np.arange(500) < 100, 15, 6)
    volume = molmap(coords, numbers, box=48, voxel_size=3.0, resolution=9.0)
    assert volume.sum() * 3.0**3 == pytest.approx(numbers.sum(), rel=1e-4)
    np.testing.assert_allclose(centre_of_density(volume), 0, atol=1e-3)


def test_a_particle_that_reaches_the_edge_of_the_smallest_box_it_is_told_loses_nothing() -> None:
    coords, numbers = np.array([[-30.0, 0, 0], [30.0, 0, 0], [0, 30.0, 0], [0, -30.0, 0]]), np.full(4, 6)
    with pytest.raises(ConfigError, match="reaches 30 Å.*`box` at least 20, or `voxel_size` at least 3.75"):
        molmap(coords, numbers, 16, 3.0, 6.0)
    volume = molmap(coords, numbers, 20, 3.0, 6.0)
    assert volume[10, 10, 0] == pytest.approx(volume.max(), rel=1e-6)


def test_a_density_sharper_than_the_grid_is_that_of_a_finer_grid_without_aliases() -> None:
    rng = np.random.default_rng(0)
    coords, numbers, box, voxel = rng.normal(0, 12, (200, 3)), rng.integers(1, 30, 200), 24, 6.0
    volume = sharp_molmap(coords, numbers, box, voxel, resolution=0.5 * voxel)
    # The transform of atoms under the Gaussian, at the frequencies below Nyquist, computed without any grid.
    k = np.array([[3, -5, 2], [0, 0, 7], [-9, 4, 6], [1, 0, 0]]) / (box * voxel)
    centred, sigma = coords - centre_of_mass(coords, numbers), SIGMA_PER_RESOLUTION * 0.5 * voxel
    expected = np.exp(-2j * np.pi * k @ centred.T) @ numbers * np.exp(-2 * (np.pi * sigma) ** 2 * (k**2).sum(1))
    axis = (np.arange(box) - box // 2) * voxel
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    phase = np.tensordot(k, np.stack([x, y, z]), 1)
    found = (np.exp(-2j * np.pi * phase) * volume).sum((1, 2, 3)) * voxel**3
    # The fine grid has aliases of its own, as the paper's has; the coarse one's would be 100 times as large.
    np.testing.assert_allclose(found, expected, atol=5e-3 * numbers.sum())


# --- maps


def gaussian_map(shape: tuple[int, int, int], voxel: float, centre: tuple[float, float, float]) -> np.ndarray:
    """A round Gaussian of σ = 6 Å about `centre` (x, y, z) Å from voxel 0."""
    z, y, x = np.meshgrid(*(np.arange(n) * voxel for n in shape), indexing="ij")
    return np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / (2 * 6.0**2))


@pytest.mark.parametrize("box, voxel", [(32, 3.0), (48, 2.3), (64, 1.5), (24, 4.0)])
def test_a_map_on_another_grid_keeps_its_density_and_is_centred(box: int, voxel: float) -> None:
    volume = gaussian_map((40, 44, 50), 2.0, (47.3, 41.1, 38.7)) + 5.0  # a background that is not zero
    moved = resample(volume, 2.0, box, voxel)
    middle = box // 2 * voxel
    np.testing.assert_allclose(moved, gaussian_map((box,) * 3, voxel, (middle,) * 3), atol=2e-3)


def test_what_the_coarser_grid_cannot_hold_is_cut_off_and_does_not_alias() -> None:
    wave = np.cos(2 * np.pi * 12 / 32 * np.arange(32))  # above the Nyquist frequency of a grid half as fine
    volume = gaussian_map((32, 32, 32), 2.0, (32.0, 32.0, 32.0)) * (1 + wave)
    expected = resample(gaussian_map((32, 32, 32), 2.0, (32.0, 32.0, 32.0)), 2.0, 16, 4.0)
    np.testing.assert_allclose(resample(volume, 2.0, 16, 4.0), expected, atol=0.02)


def test_a_map_too_large_for_the_box_and_an_empty_map_are_refused() -> None:
    with pytest.raises(ConfigError, match="the map reaches .* does not fit a box of 8 × 2.0 Å"):
        resample(gaussian_map((32, 32, 32), 2.0, (32.0, 32.0, 32.0)), 2.0, 8, 2.0)
    with pytest.raises(ConfigError, match="empty"):
        resample(np.full((8, 8, 8), 3.0), 2.0, 8, 2.0)


def test_a_structure_too_large_for_the_box_is_told_the_box_that_was_asked_for() -> None:
    """Also where the density is made on a finer grid."""
    coords, numbers = np.array([[-90.0, 0, 0], [90.0, 0, 0]]), np.array([6, 6])
    for resolution in (8.0, 4.0, 2.0):
        with pytest.raises(
            ConfigError, match="a box of 32 × 4.0 Å: make `box` at least 46, or `voxel_size` at least 5.6"
        ):
            sharp_molmap(coords, numbers, 32, 4.0, resolution)


def test_the_particles_radius_is_where_99_percent_of_the_squared_density_lie() -> None:
    axis = np.arange(32) - 16
    ball = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 <= 10**2).astype(np.float32)
    assert particle_radius(ball, np.full(3, 16.0)) == pytest.approx(10, abs=1)


def test_a_written_map_has_its_voxel_size_origin_zero_and_opens_as_a_volume(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    write_map(tmp_path / "map.mrc", volume, 4.25)
    assert mrcfile.validate(tmp_path / "map.mrc")
    with mrcfile.open(tmp_path / "map.mrc") as mrc:
        assert mrc.is_volume() and mrc.voxel_size.x == mrc.voxel_size.z == pytest.approx(4.25)
        assert mrc.header.origin.item() == (0, 0, 0) and mrc.header.nxstart == 0
    again, voxel = read_map(tmp_path / "map.mrc")
    np.testing.assert_array_equal(again, volume)
    assert voxel == pytest.approx(4.25)


def test_a_map_stored_in_another_order_of_axes_is_turned_to_z_y_x(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
    with mrcfile.new(tmp_path / "map.mrc") as mrc:
        mrc.set_data(volume.transpose(1, 2, 0))  # sections along y, rows along x, columns along z
        mrc.voxel_size = 2.0
        mrc.header.maps, mrc.header.mapr, mrc.header.mapc = 2, 1, 3
    np.testing.assert_array_equal(read_map(tmp_path / "map.mrc")[0], volume)


def test_a_map_that_is_cut_short_or_has_no_voxel_size_is_named(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", np.ones((8, 8, 8)), 0.0)
    with pytest.raises(ConfigError, match=r"a\.mrc has voxel size .* set one positive size"):
        read_map(tmp_path / "a.mrc")
    (tmp_path / "b.mrc").write_bytes((tmp_path / "a.mrc").read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"b\.mrc is cut short"):
        read_map(tmp_path / "b.mrc")


# --- the command, and what is embedded


def test_the_command_makes_a_map_of_atoms_and_another_of_that_map(run: Callable, tmp_path: Path) -> None:
    np.savez(tmp_path / "atoms.npz", coords=np.random.default_rng(0).normal(0, 15, (300, 3)), elements=np.full(300, 6))
    sizes = "--box", 32, "--voxel-size", 4.0, "--resolution", 3.0
    first = run("density", "--source", tmp_path / "atoms.npz", *sizes, "--output", tmp_path / "a.mrc")
    second = run("density", "--source", tmp_path / "a.mrc", *sizes, "--output", tmp_path / "b.mrc")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    (a, _), (b, voxel) = read_map(tmp_path / "a.mrc"), read_map(tmp_path / "b.mrc")
    assert voxel == pytest.approx(4.0)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999


def test_the_command_ends_with_one_line_when_the_particle_does_not_fit(run: Callable, tmp_path: Path) -> None:
    np.savez(tmp_path / "atoms.npz", coords=COORDS * 10, elements=NUMBERS)
    sizes = "--box", 16, "--voxel-size", 4.0, "--resolution", 2.0
    result = run("density", "--source", tmp_path / "atoms.npz", *sizes, "--output", tmp_path / "volume.mrc")
    assert result.returncode == 2 and "atoms.npz: the structure reaches" in result.stderr
    assert result.stderr.count("\n") == 1 and not (tmp_path / "volume.mrc").exists()


def test_the_embedded_files_have_their_checksums() -> None:
    sums = dict(reversed(line.split()) for line in (EMBEDDED / "SHA256SUMS").read_text().splitlines())
    assert set(sums) == {path.name for path in EMBEDDED.glob("*.npz")}
    for name, digest in sums.items():
        assert hashlib.sha256((EMBEDDED / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("name, atoms", [("5nrl", 118_701), ("4v6x", 237_685)])
def test_the_embedded_structures_are_whole_and_centred(name: str, atoms: int) -> None:
    coords, numbers = read_atoms(EMBEDDED / f"{name}.npz")
    assert coords.shape == (atoms, 3) and set(numbers) <= {6, 7, 8, 15, 16, 30}
    np.testing.assert_allclose(centre_of_mass(coords, numbers), 0, atol=0.01)
    neighbours = np.linalg.norm(np.diff(coords, axis=0), axis=1)
    assert np.median(neighbours) == pytest.approx(1.5, abs=0.2)  # Å: a covalent bond


def test_the_sidecar_says_what_each_embedded_structure_stands_in_for() -> None:
    sidecar = yaml.safe_load((EMBEDDED / "structures.yaml").read_text())
    assert set(sidecar) == {path.stem for path in EMBEDDED.glob("*.npz")}
    assert sidecar["4v6x"]["stands_in_for"] == "3J79 + 3J7A" and sidecar["5nrl"]["stands_in_for"] is None


@pytest.mark.parametrize(
    "name, symmetry", [("1ncb", "C4"), ("5a1a", "D2"), ("6vxx", "C3"), ("2cg9", "C2"), ("1oel", "D7")]
)
def test_embedded_symmetric_molecules_lie_on_the_axes_of_their_group(name: str, symmetry: str) -> None:
    coords, _ = read_atoms(EMBEDDED / f"{name}.npz")
    tree = cKDTree(coords)
    for turn in group(symmetry):
        apart = tree.query(coords[::50] @ turn.T)[0]
        assert np.median(apart) < 1.5  # Å; GroEL's subunits differ by 1.4 Å


@pytest.mark.parametrize("name, voxel", [("5nrl", 4.25), ("4v6x", 3.77)])
def test_the_papers_volumes_fit_their_boxes(name: str, voxel: float) -> None:
    volume = density(EMBEDDED / f"{name}.npz", 128, voxel, 2.0)
    assert volume.sum() * voxel**3 == pytest.approx(read_atoms(EMBEDDED / f"{name}.npz")[1].sum(), rel=1e-3)
    np.testing.assert_allclose(centre_of_density(volume), 0, atol=0.02)
