"""Star files and stacks: order, signs, what is kept, and one clear message for each thing that can be wrong."""

import os
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch

from equipose.config.settings import Told
from equipose.core.ctf import CTF_COLUMNS, ctf
from equipose.core.fourier import from_half_disc, half_disc, shift_phase
from equipose.core.rotations import from_relion_angles
from equipose.data.simulate import padded_transform, slices
from equipose.errors import ConfigError, FileWarning
from equipose.io.half_sets import half_of
from equipose.io.maps import read_map
from equipose.io.particle_tables import (
    CTF_LABELS,
    check_inside,
    chosen_rows,
    find_datadir,
    image_names,
    of_groups,
    read_tables,
    write_star,
)
from equipose.io.particles import check_training_box, checked_rows, read_particles, summarise
from equipose.io.stacks import HEADER, Images

BY_RELION = Path(__file__).parent / "data/relion_project.star"

COUNT, BOX, PIXEL = 5, 8, 2.5


def write_stack(path: Path, images: np.ndarray, pixel: float = PIXEL) -> None:
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(images)
        mrc.set_image_stack()
        mrc.voxel_size = pixel


@pytest.fixture
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1, 2],
            "rlnOpticsGroupName": ["a", "b"],
            "rlnVoltage": [300.0, 200.0],
            "rlnSphericalAberration": [2.7, 2.0],
            "rlnAmplitudeContrast": [0.1, 0.07],
            "rlnImagePixelSize": [PIXEL, PIXEL],
        }
    )
    number = np.arange(COUNT)
    particles = pd.DataFrame(
        {
            "rlnImageName": [f"{i + 1:06d}@stack.mrcs" for i in number],
            "rlnOpticsGroup": [1, 2, 1, 2, 1],
            "rlnDefocusU": 20000.0 + number,
            "rlnDefocusV": 19000.0 + number,
            "rlnDefocusAngle": 10.0 * number,
            "rlnPhaseShift": 1.0 * number,
            "rlnAngleRot": 10.0 + number,
            "rlnAngleTilt": 20.0 + number,
            "rlnAnglePsi": 30.0 + number,
            "rlnOriginXAngst": 1.5 * number,
            "rlnOriginYAngst": -2.0 * number,
            "rlnSomethingOfTheirs": [f"note {i}" for i in number],
        }
    )
    return optics, particles


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(COUNT, BOX, BOX)).astype(np.float32)


@pytest.fixture
def star(tmp_path: Path, tables: tuple[pd.DataFrame, pd.DataFrame], images: np.ndarray) -> Callable[..., Path]:
    """A function that writes the particles, with columns replaced (or dropped, by None), and returns the star file."""

    def build(optics: dict | None = None, **columns: object) -> Path:
        optics_table, particle_table = (table.copy() for table in tables)
        for table, changes in ((optics_table, optics or {}), (particle_table, columns)):
            for label, values in changes.items():
                if values is None:
                    del table[label]
                else:
                    table[label] = values
        if not (tmp_path / "stack.mrcs").exists():
            write_stack(tmp_path / "stack.mrcs", images)
        write_star(tmp_path / "particles.star", optics_table, particle_table)
        return tmp_path / "particles.star"

    return build


def test_a_written_star_file_reads_back_with_every_column_in_order(star: Callable, tables: tuple) -> None:
    particles = read_particles(star())
    pd.testing.assert_frame_equal(particles.optics_table, tables[0])
    pd.testing.assert_frame_equal(particles.particle_table, tables[1])


def test_the_same_tables_give_the_same_bytes(star: Callable) -> None:
    first = star().read_bytes()
    assert star().read_bytes() == first
    assert b"# version 30001" in first


def test_images_are_read_where_they_are_indexed(tmp_path: Path, star: Callable, images: np.ndarray) -> None:
    particles = read_particles(star())
    assert isinstance(particles.images, Images) and particles.images[1:3].dtype == np.float32
    assert type(particles.images[:]) is np.ndarray  # no mapped file, whose pages would stay in memory
    np.testing.assert_array_equal(particles.images[:], images)
    write_stack(tmp_path / "stack.mrcs", 2 * images)
    np.testing.assert_array_equal(particles.images[:], 2 * images)


def test_poses_are_relions_matrices_and_shifts_are_minus_the_origins(star: Callable, tables: tuple) -> None:
    particles = read_particles(star())
    angles = tables[1][["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    np.testing.assert_allclose(particles.rotations, from_relion_angles(angles))
    np.testing.assert_allclose(particles.shifts, np.outer(np.arange(COUNT), [-1.5, 2.0]))
    assert particles.voxel_size == PIXEL


def test_each_particle_has_the_ctf_of_its_own_row_and_optics_group(star: Callable) -> None:
    particles = read_particles(star())
    assert len(CTF_LABELS) == len(CTF_COLUMNS)
    np.testing.assert_allclose(particles.ctf[1], [20001, 19001, 10, 200, 2.0, 0.07, 1])
    np.testing.assert_allclose(particles.ctf[2], [20002, 19002, 20, 300, 2.7, 0.1, 2])


def test_without_poses_shifts_and_phase_shift_the_first_two_are_none_and_the_last_zero(star: Callable) -> None:
    particles = read_particles(star(rlnAngleTilt=None, rlnOriginXAngst=None, rlnPhaseShift=None))
    assert particles.rotations is None and particles.shifts is None
    np.testing.assert_array_equal(particles.ctf[:, CTF_COLUMNS.index("phase_shift")], 0)


@pytest.mark.parametrize("order", [[4, 2, 0, 1, 3], [2, 3, 4], [1, 1, 1]])
def test_index_at_stack_is_honoured_in_any_order(
    tmp_path: Path, tables: tuple, images: np.ndarray, order: list[int]
) -> None:
    write_stack(tmp_path / "stack.mrcs", images)
    write_star(tmp_path / "particles.star", tables[0], tables[1].iloc[order])
    particles = read_particles(tmp_path / "particles.star")
    np.testing.assert_array_equal(particles.images, images[order])
    np.testing.assert_allclose(particles.ctf[:, 0], 20000 + np.array(order))


def test_images_of_several_stacks_in_subfolders_keep_the_order_of_the_rows(
    tmp_path: Path, star: Callable, images: np.ndarray
) -> None:
    (tmp_path / "micrographs").mkdir()
    write_stack(tmp_path / "micrographs" / "a.mrcs", images[[3, 1]])
    write_stack(tmp_path / "micrographs" / "b.mrcs", images[[0, 2, 4]])
    names = ["1@micrographs/b.mrcs", "2@micrographs/a.mrcs", "2@micrographs/b.mrcs", "1@micrographs/a.mrcs"]
    particles = read_particles(star(rlnImageName=[*names, "3@micrographs/b.mrcs"]))
    np.testing.assert_array_equal(particles.images, images)


def test_images_in_another_order_are_read_as_they_are_asked_for(
    tmp_path: Path, tables: tuple, images: np.ndarray
) -> None:
    write_stack(tmp_path / "stack.mrcs", images)
    write_star(tmp_path / "particles.star", tables[0], tables[1].iloc[[4, 2, 0, 1, 3]])
    lazy = read_particles(tmp_path / "particles.star").images
    assert lazy.shape == (COUNT, BOX, BOX) and not isinstance(lazy, np.ndarray)
    np.testing.assert_array_equal(lazy[1:3], images[[2, 0]])
    np.testing.assert_array_equal(lazy[np.array([3, 0])], images[[1, 4]])


def test_a_process_may_have_fewer_open_files_than_a_dataset_stacks(
    tmp_path: Path, star: Callable, images: np.ndarray
) -> None:
    for number, image in enumerate(images):
        write_stack(tmp_path / f"{number}.mrcs", image[None])
    path = star(rlnImageName=[f"1@{number}.mrcs" for number in range(COUNT)])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 2, hard))
    try:
        np.testing.assert_array_equal(read_particles(path).images, images)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_stack_of_a_machine_with_the_other_byte_order_is_read(
    tmp_path: Path, star: Callable, images: np.ndarray
) -> None:
    path = star()
    whole = (tmp_path / "stack.mrcs").read_bytes()
    header = np.frombuffer(whole[:1024], HEADER).astype(HEADER.newbyteorder(">"))
    (tmp_path / "stack.mrcs").write_bytes(header.tobytes() + images.astype(">f4").tobytes())
    np.testing.assert_array_equal(read_particles(path).images, images)


def test_a_mended_star_file_is_read_anew(star: Callable) -> None:
    path = star()
    sound = path.read_text()
    path.write_text(sound.replace("loop_", "", 1))
    with pytest.raises(ConfigError):
        read_particles(path)
    path.write_text(sound)
    assert len(read_particles(path).images) == COUNT


def test_integer_and_half_precision_stacks_become_float32(tmp_path: Path, star: Callable) -> None:
    for kind in (np.int16, np.uint16, np.float16):
        write_stack(tmp_path / "stack.mrcs", np.arange(COUNT * BOX * BOX, dtype=kind).reshape(COUNT, BOX, BOX))
        images = np.asarray(read_particles(star()).images)
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images.ravel(), np.arange(COUNT * BOX * BOX))


def test_a_stack_whose_header_does_not_know_the_pixel_size_is_read(
    tmp_path: Path, star: Callable, images: np.ndarray
) -> None:
    for unset in (0.0, 1.0):
        write_stack(tmp_path / "stack.mrcs", images, pixel=unset)
        assert read_particles(star()).voxel_size == PIXEL


def test_a_missing_star_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.star does not exist"):
        read_particles(tmp_path / "absent.star")


def test_a_star_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.star").write_text("data_\n\nloop_\n_rlnMicrographName #1\na.mrc\n")
    with pytest.raises(ConfigError, match="lists micrographs"):
        read_particles(tmp_path / "old.star")


@pytest.mark.parametrize("label", ["rlnDefocusU", "rlnImageName", "rlnOpticsGroup"])
def test_a_missing_particle_column_is_named(star: Callable, label: str) -> None:
    with pytest.raises(ConfigError, match=f"data_particles lacks the column {label}"):
        read_particles(star(**{label: None}))


@pytest.mark.parametrize("label", ["rlnVoltage", "rlnImagePixelSize"])
def test_a_missing_optics_column_is_named(star: Callable, label: str) -> None:
    with pytest.raises(ConfigError, match=f"data_optics lacks the column {label}"):
        read_particles(star(optics={label: None}))


def test_a_column_that_is_there_twice_is_refused(star: Callable) -> None:
    path = star()
    path.write_text(path.read_text().replace("_rlnDefocusV", "_rlnDefocusU"))
    with pytest.raises(ConfigError, match="has the column rlnDefocusU twice"):
        read_particles(path)


@pytest.mark.parametrize(("label", "value"), [("rlnVoltage", 300000.0), ("rlnAmplitudeContrast", 10.0)])
def test_optics_in_another_unit_are_refused(star: Callable, label: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"particle 1 has {label} {value:g}; it is"):
        read_particles(star(optics={label: value}))


def test_a_value_that_is_no_number_is_named_with_its_row(star: Callable) -> None:
    with pytest.raises(ConfigError, match="rlnDefocusV of row 3 is unknown"):
        read_particles(star(rlnDefocusV=[1.0, 2.0, "unknown", 4.0, 5.0]))


def test_an_unknown_optics_group_is_named(star: Callable) -> None:
    with pytest.raises(ConfigError, match="optics group 7"):
        read_particles(star(rlnOpticsGroup=[1, 2, 7, 1, 1]))


def blob(box: int, pixel: float, centre: tuple[float, float]) -> np.ndarray:
    """A Gaussian of 12 Å at `centre` (x, y) in Å from pixel box/2."""
    axis = (np.arange(box) - box // 2) * pixel
    return np.exp(-((axis - centre[0]) ** 2 + (axis[:, None] - centre[1]) ** 2) / (2 * 12.0**2)).astype(np.float32)


@pytest.mark.parametrize(("box", "pixel"), [(48, 4.0), (32, 4.4), (40, 6.0), (33, 4.0)])
def test_images_of_another_box_and_pixel_size_are_the_same_picture_at_the_smallest_field_of_view(
    tmp_path: Path, tables: tuple, box: int, pixel: float
) -> None:
    centre = (9.0, -13.0)
    write_stack(tmp_path / "small.mrcs", blob(32, 4.0, centre)[None], 4.0)
    write_stack(tmp_path / "large.mrcs", blob(box, pixel, centre)[None], pixel)
    optics, particles = tables
    particles = particles.iloc[:2].assign(rlnImageName=["1@small.mrcs", "1@large.mrcs"])
    write_star(tmp_path / "mixed.star", optics.assign(rlnImagePixelSize=[4.0, pixel]), particles)
    with pytest.warns(FileWarning, match="are brought to one size"):
        read = read_particles(tmp_path / "mixed.star")
    assert (read.images.shape, read.voxel_size) == ((2, 32, 32), 4.0)
    np.testing.assert_allclose(read.images[1], read.images[0], atol=2e-3)
    assert (summarise(tmp_path / "mixed.star").box, summarise(tmp_path / "mixed.star").voxel_size) == (32, 4.0)


def test_pixel_sizes_that_differ_by_rounding_are_one(star: Callable, images: np.ndarray) -> None:
    particles = read_particles(star(optics={"rlnImagePixelSize": [PIXEL, PIXEL * 1.00001]}))
    np.testing.assert_array_equal(particles.images, images)


def test_a_missing_stack_is_named(tmp_path: Path, star: Callable) -> None:
    path = star()
    (tmp_path / "stack.mrcs").unlink()
    with pytest.raises(ConfigError, match=r"stack\.mrcs does not exist"):
        read_particles(path)


def test_a_truncated_stack_is_told_by_its_size(tmp_path: Path, star: Callable) -> None:
    path = star()
    whole = (tmp_path / "stack.mrcs").read_bytes()
    for size in (len(whole) - 1, 1024, 500):
        (tmp_path / "stack.mrcs").write_bytes(whole[:size])
        with pytest.raises(ConfigError, match=r"stack\.mrcs"):
            read_particles(path)
    (tmp_path / "stack.mrcs").write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match="cut short: its header says 5 images of 8 × 8, 2304 bytes, and it has 2303"):
        read_particles(path)


@pytest.mark.parametrize("name", ["6@stack.mrcs", "0@stack.mrcs"])
def test_an_image_number_outside_the_stack_is_refused(star: Callable, name: str) -> None:
    with pytest.raises(ConfigError, match=r"asks for image [06] of stack\.mrcs in row 5, .* 1 to 5"):
        read_particles(star(rlnImageName=["1@stack.mrcs"] * 4 + [name]))


def test_an_image_name_without_a_number_is_refused(star: Callable) -> None:
    with pytest.raises(ConfigError, match="rlnImageName of particle 2 is stack.mrcs, which holds 5 images: say which"):
        read_particles(star(rlnImageName=["1@stack.mrcs", "stack.mrcs"] * 2 + ["1@stack.mrcs"]))


def test_a_name_without_a_number_is_that_of_a_file_with_one_image(
    tmp_path: Path, star: Callable, images: np.ndarray
) -> None:
    for number, image in enumerate(images):
        write_stack(tmp_path / f"{number}.mrc", image[None])
    particles = read_particles(star(rlnImageName=[f"{number}.mrc" for number in range(COUNT)]))
    np.testing.assert_array_equal(particles.images, images)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile's own, on writing such a stack
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_row_with_a_nan_image_is_named(
    tmp_path: Path, star: Callable, images: np.ndarray, value: float
) -> None:
    images[3, 2, 1] = images[4, 0, 0] = value
    write_stack(tmp_path / "stack.mrcs", images)
    with pytest.raises(ConfigError, match="image 000004@stack.mrcs of particle 4 has values that are not finite"):
        read_particles(star())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile's own, on writing such a stack
def test_a_quick_look_checks_images_evenly_spread_and_no_others(
    tmp_path: Path, star: Callable, images: np.ndarray, monkeypatch
) -> None:
    monkeypatch.setattr("equipose.io.particles.SAMPLE_BYTES", 3 * 4 * BOX**2)  # the first, the middle and the last of 5
    images[1] = np.nan
    write_stack(tmp_path / "stack.mrcs", images)
    assert checked_rows(read_particles(star(), quick=True).images).tolist() == [0, 2, 4]
    with pytest.raises(ConfigError, match="particle 2 has values that are not finite"):
        read_particles(star())
    images[2] = np.nan
    write_stack(tmp_path / "stack.mrcs", images)
    with pytest.raises(ConfigError, match="particle 3 has values that are not finite"):
        read_particles(star(), quick=True)


def test_images_that_are_not_square_are_refused(tmp_path: Path, star: Callable, images: np.ndarray) -> None:
    write_stack(tmp_path / "stack.mrcs", images[:, :6])
    with pytest.raises(ConfigError, match="square"):
        read_particles(star())


def test_the_star_files_pixel_size_counts_where_the_stacks_header_has_another(
    tmp_path: Path, star: Callable, images: np.ndarray
) -> None:
    write_stack(tmp_path / "stack.mrcs", images, pixel=3.0)
    with pytest.warns(FileWarning, match="3 Å by its header and 2.5 Å by the star"):
        assert read_particles(star()).voxel_size == PIXEL
    assert read_particles(star(), told=Told(pixel_size=3.0)).voxel_size == 3.0
    assert summarise(star(), told=Told(pixel_size=3.0)).voxel_size == 3.0


@pytest.mark.parametrize("box", [32, 64, 128, 256])
def test_the_training_boxes_are_accepted(box: int) -> None:
    check_training_box(box)


@pytest.mark.parametrize("box", [16, 33, 65, 96, 100, 512])
def test_odd_and_other_boxes_are_refused_with_the_ones_that_work(box: int) -> None:
    with pytest.raises(ConfigError, match=f"{box} × {box} .* 32, 64, 128, 256"):
        check_training_box(box)


def test_a_failed_write_leaves_the_old_star_file_and_no_other(
    tmp_path: Path, star: Callable, tables: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = star()
    before, files = path.read_bytes(), sorted(tmp_path.iterdir())

    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError):
        write_star(path, *tables)
    assert path.read_bytes() == before and sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize("stamp", [b"MAP ", b"    "])
def test_a_star_file_and_stack_by_relion_are_read_also_without_the_map_stamp(tmp_path: Path, stamp: bytes) -> None:
    whole = bytearray(BY_RELION.with_suffix(".mrcs").read_bytes())
    whole[208:212] = stamp
    (tmp_path / "relion_project.mrcs").write_bytes(whole)
    particles = read_particles(Path(shutil.copy(BY_RELION, tmp_path)))
    assert particles.images.shape == (3, 32, 32) and particles.voxel_size == 4
    np.testing.assert_allclose(particles.shifts[0], [-1.5, 2.25])
    np.testing.assert_allclose(particles.ctf[0], [18000, 16000, 25, 300, 2.7, 0.1, 0], rtol=1e-6)


def old_star(path: Path, tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """The particles as RELION 3.0 wrote them: one table, optics in every row, origins in pixels."""
    optics, particles = tables
    joined = particles.merge(optics, on="rlnOpticsGroup").drop(columns=["rlnOpticsGroup", "rlnOpticsGroupName"])
    joined["rlnDetectorPixelSize"] = 5.0
    joined["rlnMagnification"] = 1e4 * 5.0 / joined.pop("rlnImagePixelSize")
    for axis in "XY":
        joined[f"rlnOrigin{axis}"] = joined.pop(f"rlnOrigin{axis}Angst") / PIXEL
    text = "\ndata_\n\nloop_\n" + "".join(f"_{name} #{i + 1}\n" for i, name in enumerate(joined))
    rows = joined.astype(str).map(lambda value: f'"{value}"' if " " in value else value)
    path.write_text(text + "\n".join(" ".join(row) for row in rows.to_numpy()) + "\n")


def test_a_star_file_of_relion_3_0_reads_as_the_same_particles(
    tmp_path: Path, star: Callable, tables: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    new = read_particles(star())
    old_star(tmp_path / "old.star", tables)
    old = read_particles(tmp_path / "old.star")
    np.testing.assert_allclose(old.ctf, new.ctf)
    np.testing.assert_allclose(old.rotations, new.rotations)
    np.testing.assert_allclose(old.shifts, new.shifts, atol=1e-9)
    assert old.voxel_size == new.voxel_size
    assert list(old.particle_table["rlnSomethingOfTheirs"]) == list(new.particle_table["rlnSomethingOfTheirs"])


def cs_kinds(poses: bool = False) -> list[tuple]:
    """Fields of a .cs file of particles, as cryoSPARC names and stores them."""
    names = ("df1_A", "df2_A", "df_angle_rad", "phase_shift_rad", "accel_kv", "cs_mm", "amp_contrast")
    kinds = [
        ("blob/path", "S64"),
        ("blob/idx", "<u4"),
        ("blob/psize_A", "<f4"),
        *((f"ctf/{name}", "<f4") for name in names),
    ]
    aligned = {"pose": ("<f4", (3,)), "shift": ("<f4", (2,)), "psize_A": ("<f4",), "split": ("<u4",)}
    return kinds + [(f"alignments3D/{name}", *kind) for name, kind in aligned.items() if poses]


def cs_file(path: Path, poses: bool = False, without: str = "") -> Path:
    records = np.zeros(3, [kind for kind in cs_kinds(poses) if kind[0] != without])
    values = {"blob/path": b">stack.mrcs", "blob/idx": [4, 0, 2], "blob/psize_A": PIXEL, "ctf/df1_A": 2e4}
    values |= {"ctf/df2_A": 1.9e4, "ctf/df_angle_rad": np.pi / 6, "ctf/phase_shift_rad": np.pi / 2}
    values |= {"ctf/accel_kv": 300, "ctf/cs_mm": 2.7, "ctf/amp_contrast": 0.1}
    values |= {"alignments3D/pose": [0, 0, np.pi / 2], "alignments3D/shift": [2, -1]}
    values |= {"alignments3D/psize_A": 5.0, "alignments3D/split": [0, 1, 0]}
    for name in records.dtype.names:
        records[name] = values[name]
    with open(path, "wb") as file:
        np.save(file, records)
    return path


def test_a_cryosparc_file_gives_images_and_ctf_in_relions_units(tmp_path: Path, images: np.ndarray) -> None:
    write_stack(tmp_path / "stack.mrcs", images)
    particles = read_particles(cs_file(tmp_path / "particles.cs"))
    np.testing.assert_array_equal(particles.images, images[[4, 0, 2]])
    np.testing.assert_allclose(particles.ctf[0], [20000, 19000, 30, 300, 2.7, 0.1, 90], rtol=1e-6)
    assert particles.rotations is None


def test_poses_of_a_cryosparc_file_are_transposed_rotation_vectors_and_pixels_of_their_own(
    tmp_path: Path, images: np.ndarray
) -> None:
    """As cryoDRGN and pyem read them (tests/interop asks cryoDRGN)."""
    write_stack(tmp_path / "stack.mrcs", images)
    particles = read_particles(cs_file(tmp_path / "particles.cs", poses=True))
    np.testing.assert_allclose(particles.rotations[0], [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(particles.shifts[0], [-2 * 5.0, 1 * 5.0], rtol=1e-6)
    assert list(half_of(particles.particle_table, particles.optics_table)) == [1, 2, 1]


def test_images_rendered_from_a_cryosparc_files_poses_are_its_images(simulated_dataset, tmp_path: Path) -> None:
    folder = simulated_dataset.folder
    true = read_particles(folder / "particles.star")
    (tmp_path / "stack.mrcs").symlink_to(folder / "particles.mrcs")
    records = np.zeros(len(true.images), cs_kinds(poses=True))
    records["blob/path"], records["blob/idx"] = b">stack.mrcs", np.arange(len(records))
    records["blob/psize_A"] = records["alignments3D/psize_A"] = true.voxel_size
    names = ("df1_A", "df2_A", "df_angle_rad", "accel_kv", "cs_mm", "amp_contrast", "phase_shift_rad")
    for name, values in zip(names, true.ctf.T, strict=True):
        records[f"ctf/{name}"] = np.deg2rad(values) if "rad" in name else values
    records["alignments3D/pose"] = [_rotation_vector(rotation.T) for rotation in true.rotations]
    records["alignments3D/shift"] = -true.shifts / true.voxel_size
    with open(tmp_path / "theirs.cs", "wb") as file:
        np.save(file, records)
    particles = read_particles(tmp_path / "theirs.cs")
    disc = half_disc(32)
    volume, _ = read_map(folder / "volume.mrc")
    pixels = torch.from_numpy(particles.shifts / particles.voxel_size).float()
    transfer = ctf(torch.from_numpy(particles.ctf), disc.k, 32 * particles.voxel_size)
    rendered = slices(padded_transform(volume), particles.rotations, disc) * transfer * shift_phase(pixels, disc)
    for mine, image in zip(from_half_disc(rendered, disc).numpy(), particles.images, strict=True):
        assert np.corrcoef(mine.ravel(), image.ravel())[0, 1] > 0.999


def _rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Axis times angle in radians, from the logarithm of the matrix."""
    skew = scipy.linalg.logm(matrix).real
    return np.array([skew[2, 1], skew[0, 2], skew[1, 0]])


def test_a_cryosparc_file_without_ctf_or_with_python_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lacks the field ctf/df1_A"):
        read_particles(cs_file(tmp_path / "particles.cs", without="ctf/df1_A"))
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "evil.npy").rename(tmp_path / "evil.cs")
    with pytest.raises(ConfigError, match="not a cryoSPARC"):
        read_particles(tmp_path / "evil.cs")


def test_images_are_found_relative_to_another_folder(tmp_path: Path, star: Callable, images: np.ndarray) -> None:
    moved = tmp_path / "Extract/job1"
    moved.mkdir(parents=True)
    star().rename(moved / "particles.star")
    np.testing.assert_array_equal(read_particles(moved / "particles.star", tmp_path).images, images)
    with pytest.raises(ConfigError, match="datadir"):
        read_particles(moved / "particles.star")


def test_a_summary_tells_number_box_and_pixel_of_each_half(star: Callable) -> None:
    summary = summarise(star(rlnRandomSubset=[1, 2, 2, 1, 2]))
    assert (summary.subsets, summary.box, summary.voxel_size) == ({None: 5, 1: 2, 2: 3}, BOX, PIXEL)


def test_a_file_that_has_changed_is_summed_up_anew(star: Callable) -> None:
    """`equipose pose --watch` sums up one path again and again, for days."""
    before = summarise(path := star())
    assert summarise(path) is before, "an unchanged file is read once"
    lines = path.read_text().rstrip().splitlines()
    path.write_text("\n".join([*lines, lines[-1]]) + "\n")
    after = summarise(path)
    assert after.subsets[None] == before.subsets[None] + 1 and after.digest != before.digest


@pytest.mark.parametrize("form", ["3.0", "3.1"])
def test_what_is_written_in_a_star_file_is_there_as_text(tmp_path: Path, form: str) -> None:
    """Names that look like numbers, and numbers with more than six decimals."""
    columns = {"rlnImageName": "1@a.mrcs", "rlnMicrographName": "0071", "rlnOther": "1.25e-09", "rlnLost": "nan"}
    optics = {"rlnVoltage": "300.00", "rlnSphericalAberration": "2.70", "rlnAmplitudeContrast": "0.1000"}
    if form == "3.0":
        columns |= optics | {"rlnPixelSize": "2.5"}
        tables = [("data_", columns)]
    else:
        tables = [("data_optics", optics | {"rlnOpticsGroup": "1"}), ("data_particles", columns)]
    loops = (
        "\n".join(["", name, "", "loop_", *(f"_{label} #{number}" for number, label in enumerate(table, 1)), ""])
        + "\t".join(table.values())
        for name, table in tables
    )
    (tmp_path / "a.star").write_text("\n".join(loops) + "\n")
    found, table = read_tables(tmp_path / "a.star", as_written=True)
    for label in ("rlnImageName", "rlnMicrographName", "rlnOther", "rlnLost"):
        assert list(table[label]) == [columns[label]], label
    assert float(found["rlnVoltage"].iloc[0]) == 300 and (form == "3.0" or found["rlnVoltage"].iloc[0] == "300.00")


def test_a_cryosparc_file_that_claims_a_header_longer_than_itself_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "particles.cs").write_bytes(b"\x93NUMPY\x03\x00" + (600_000_000).to_bytes(4, "little") + b"{}")
    with pytest.raises(ConfigError, match="header is longer than the file"):
        read_particles(tmp_path / "particles.cs")


@pytest.mark.parametrize(
    ("stamp", "flags", "extremes", "unsigned"),
    [
        (1146047817, 0, (0, 0), True),
        (1146047817, 1, (0, 255), False),
        (0, 0, (3, 240), True),
        (0, 0, (-128, 127), False),
        (0, 0, (0, 0), False),  # unset
        (0, 0, (0, -1), False),  # unset, as MRC2014 has it
        (0, 0, (0, 100), False),
    ],
)
def test_bytes_have_a_sign_by_imods_stamp_or_the_extremes_or_else(
    tmp_path: Path, star: Callable, stamp: int, flags: int, extremes: tuple, unsigned: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, BOX, BOX)).astype(np.uint8)
    write_stack(tmp_path / "stack.mrcs", pixels.view(np.int8))
    whole = bytearray((tmp_path / "stack.mrcs").read_bytes())
    struct.pack_into("<fff", whole, 76, *extremes, 0)
    struct.pack_into("<ii", whole, 152, stamp, flags)
    (tmp_path / "stack.mrcs").write_bytes(whole)
    np.testing.assert_array_equal(read_particles(star()).images, pixels if unsigned else pixels.view(np.int8))


def test_the_pixel_size_of_a_header_is_its_cell_by_its_intervals(tmp_path: Path, star: Callable, recwarn) -> None:
    path = star()
    with mrcfile.open(tmp_path / "stack.mrcs", "r+") as mrc:
        mrc.header.mx, mrc.header.cella.x = 100, 100 * PIXEL
    read_particles(path)
    assert not [str(warning.message) for warning in recwarn if warning.category is FileWarning]


OTHERS = {
    "gzip": (b"\x1f\x8b\x08", "gunzip"),
    "bzip2": (b"BZh9", "bunzip2"),
    "HDF5": (b"\x89HDF\r\n", "e2proc2d.py"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    "TIFF": (b"II*\0", "tif2mrc"),
    "complex": (struct.pack("<4i", 8, 8, 5, 4), "Fourier transforms"),
    "four bits": (struct.pack("<4i", 8, 8, 5, 101), "four bits"),
    "SPIDER": (np.array([1, 32, 0, 0, 1, *[0] * 6, 32, 8, *[0] * 8, 1024, 128], ">f4").tobytes(), "is SPIDER's: write"),
    "IMAGIC": (bytes(56) + b"REAL", "is IMAGIC's: write it as .mrcs"),
    "an unfinished stack": (struct.pack("<4i", 8, 8, 0, 2), "has no images: its header says 0 of 8 × 8 pixels"),
    "a pickle of Python 3.7": (b"\x80\x03cnumpy", "is a Python pickle"),
    "a PNG": (b"\x89PNG\r\n", "name a stack of MRC's format"),
    "a short file": (b"abc", "has 3 bytes, less than a header"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_that_are_no_stacks_are_named_with_what_to_do(tmp_path: Path, star: Callable, name: str) -> None:
    start, message = OTHERS[name]
    path = star()
    (tmp_path / "stack.mrcs").write_bytes(start + bytes(2000 * (name != "a short file")))
    with pytest.raises(ConfigError, match=message):
        read_particles(path)


def test_only_rows_that_are_asked_for_need_be_sound(tmp_path: Path, star: Callable, images: np.ndarray) -> None:
    images[4] = 0
    write_stack(tmp_path / "stack.mrcs", images)
    names = ["000001@stack.mrcs", "2@gone.mrcs", "3@stack.mrcs", "4@stack.mrcs", "5@stack.mrcs"]
    path = star(
        rlnImageName=names,
        rlnDefocusU=[1e4, 1e4, -5.0, 1e4, 1e4],
        rlnAngleRot=["x"] * 5,
        rlnOpticsGroup=[1, 1, 1, 1, 7],
    )
    particles = read_particles(path, rows=np.array([0, 3]), poses=False)
    np.testing.assert_array_equal(particles.images, images[[0, 3]])
    assert particles.rotations is None and list(particles.optics_table["rlnOpticsGroup"]) == [1]
    for row, message in ((1, "row 2: image stack .*gone.mrcs"), (2, "particle 3 has a neg"), (4, "optics group 7")):
        with pytest.raises(ConfigError, match=message):
            read_particles(path, rows=np.array([0, row]), poses=False)
    with pytest.raises(ConfigError, match="rlnAngleRot of row 1 is x, not a number .2 of 2 rows are like this: 1, 4"):
        read_particles(path, rows=np.array([0, 3]))


def test_a_message_counts_bad_rows_and_names_the_first(tmp_path: Path, star: Callable, images: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"particle 2 has a negative .*\(3 of 5 rows are like this: 2, 4, 5\)"):
        read_particles(star(rlnDefocusU=[1e4, -1e4, 1e4, -1e4, -1e4]))
    with pytest.raises(ConfigError, match=r"row 3: image stack .*a.mrcs does not exist.*2 of 3 stacks .*: 3, 4, 5\)"):
        read_particles(star(rlnImageName=["1@stack.mrcs"] * 2 + ["1@a.mrcs", "2@a.mrcs", "1@b.mrcs"]))


def test_optics_groups_that_no_particle_is_in_do_not_count(star: Callable) -> None:
    optics = {"rlnImagePixelSize": [PIXEL, 9.0], "rlnImageSize": [BOX, 36], "rlnVoltage": [300.0, "lost"]}
    path = star(optics=optics, rlnOpticsGroup=[1] * COUNT)
    particles = read_particles(path)
    assert particles.voxel_size == PIXEL and particles.images.shape == (COUNT, BOX, BOX)
    assert (summarise(path).box, summarise(path).voxel_size) == (BOX, PIXEL)


def test_images_that_are_counted_from_0_are_told(star: Callable) -> None:
    with pytest.raises(ConfigError, match="images are counted from 1; if the file counts them from 0, add 1"):
        read_particles(star(rlnImageName=[f"{number}@stack.mrcs" for number in range(COUNT)]))


def test_without_a_second_defocus_it_is_the_first_as_in_relion(star: Callable) -> None:
    particles = read_particles(star(rlnDefocusV=None, rlnDefocusAngle=None))
    np.testing.assert_array_equal(particles.ctf[:, 1], particles.ctf[:, 0])
    np.testing.assert_array_equal(particles.ctf[:, 2], 0)


def test_images_without_a_ctf_have_one_of_1_at_all_frequencies(star: Callable) -> None:
    path = star(optics={"rlnSphericalAberration": None}, rlnDefocusU=None, rlnDefocusV=None, rlnPhaseShift=None)
    with pytest.raises(ConfigError, match="--no-ctf"):
        read_particles(star(rlnDefocusU=None))
    particles = read_particles(path, told=Told(no_ctf=True))
    transfer = ctf(torch.from_numpy(particles.ctf), half_disc(BOX).k, BOX * PIXEL)
    torch.testing.assert_close(transfer, torch.ones_like(transfer))


def test_b_and_scale_factors_are_two_more_columns_where_there_are_any(star: Callable) -> None:
    assert read_particles(star(rlnCtfBfactor=0.0, rlnCtfScalefactor=1.0)).ctf.shape == (COUNT, 7)
    particles = read_particles(star(rlnCtfBfactor=[0.0, 10.0, 20.0, 30.0, 40.0]))
    np.testing.assert_array_equal(particles.ctf[:, 7:], [[0, 1], [10, 1], [20, 1], [30, 1], [40, 1]])


@pytest.mark.parametrize(
    ("label", "value"), [("rlnEvenZernike", "[0,0.5,0]"), ("rlnOddZernike", "[0.1]"), ("rlnMtfFileName", "k3.star")]
)
def test_what_is_not_taken_into_account_is_named(star: Callable, label: str, value: str) -> None:
    with pytest.warns(FileWarning, match=f"{label} .* is not taken into account"):
        read_particles(star(optics={label: [value, value]}))


def test_what_relion_does_not_look_for_among_particles_is_named_and_does_not_count(star: Callable) -> None:
    with pytest.warns(FileWarning, match="rlnCtfDataArePhaseFlipped in data_particles is ignored.*--phase-flipped"):
        particles = read_particles(star(rlnCtfDataArePhaseFlipped=1))
    flipped = (Path("a.star"), "rlnCtfDataArePhaseFlipped", particles.optics_table, particles.particle_table)
    np.testing.assert_array_equal(of_groups(*flipped), 0)
    optics, table = read_tables(star(), told=Told(phase_flipped=True))
    np.testing.assert_array_equal(of_groups(*flipped[:2], optics, table), 1)


def test_the_project_that_a_job_is_in_is_found(tmp_path: Path, star: Callable, monkeypatch) -> None:
    job = tmp_path / "Refine3D/job012"
    job.mkdir(parents=True)
    path = star().rename(job / "run_data.star")
    monkeypatch.chdir("/")
    assert find_datadir(path, read_tables(path)[1]) == tmp_path
    (tmp_path / "stack.mrcs").unlink()
    assert find_datadir(path, read_tables(path)[1]) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csg", "results:\n  blob:\n    metafile: '>J5_particles.cs'\n", "group file: give .*names, J5_particles.cs"),
        ("a.star", "data_\n\nloop_\n_cisTEMPositionInStack #1\n1\n", "is cisTEM's"),
        ("a.cistem", "\x1a\0\0\0", "is cisTEM's: export the particles for RELION"),
        ("a.star", "data_particles\n\nloop_\n_rlnTomoName #1\n_rlnTomoParticleId #2\na 1\n", "lists subtomograms"),
        ("a.star", "data_micrographs\n\nloop_\n_rlnMicrographName #1\na.mrc\n", "lists micrographs: extract particles"),
        (
            "a.star",
            "data_movies\n\nloop_\n_rlnMicrographMovieName #1\na.tif\n",
            "lists movies: extract particles first",
        ),
        ("a.star", "data_\n\nloop_\n_rlnReferenceImage #1\n1@a.mrcs\n", "class averages .*of that run, …_data.star"),
        ("a.star", "data_optimiser_general\n\n_rlnModelStarFile a_model.star\n", "the state of a RELION run"),
        ("a.star", "data_job\n\n_rlnJobTypeLabel relion.refine3d\n", "the settings of a RELION job"),
        ("a.xmd", "# XMIPP_STAR_1 *\ndata_noname\nloop_\n _image\n 1@a.mrcs\n", "for Xmipp: write them for RELION"),
        ("a.par", "C   PSI   THETA\n 1 10.0 20.0\n", "is no star file, since it has no line that begins with data_"),
        ("a.star", "data_other\n\nloop_\n_rlnNothing #1\n1\n", "found data_other: is it the star file of another job"),
        ("a.mrcs", "", "is an image stack"),
        ("a.star", "<!DOCTYPE html><html>", "is a web page"),
        ("a.star", "data_images\nloop_\n_rlnMicrographName\n_rlnCoordinateX\na 1\n", "coordinates without images"),
        ("a.txt", "a.mrcs\nb.mrcs\n", "is a list of stacks, as cryoDRGN takes them"),
        ("a.sqlite", "SQLite format 3\0", "export particles for RELION"),
        ("a.star", "data_\nloop_\n_rlnImageName\n_rlnCtfImage\na.mrc b.mrc\n", "lists subtomograms"),
        ("a.star", "data_\n\n_rlnTomoTomogramsFile a.star\n", "lists subtomograms"),
        ("a.star", "data_particles\nloop_\n_rlnImageName\n_rlnOpticsGroup\n1@a.mrcs 1\n", "has no table data_optics"),
        (
            "a.star",
            "data_optics\nloop_\n_rlnOpticsGroup\n\ndata_particles\nloop_\n_rlnImageName\n1@a.mrcs\n",
            "lists no optics group: table data_optics is empty",
        ),
        (
            "a.star",
            "data_\nloop_\n_rlnImageName\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
            "_rlnMagnification\n_rlnDetectorPixelSize\n1@a.mrcs 300 2.7 0.1 0 5\n",
            "rlnMagnification is above 0 in no row",
        ),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_tables(tmp_path / name)


def test_a_single_table_of_any_name_is_one_of_relion_3_0(tmp_path: Path, star: Callable, tables: tuple) -> None:
    """RELION 1 called the table data_images, and pyem still does."""
    star()
    old_star(tmp_path / "old.star", tables)
    (tmp_path / "old.star").write_text((tmp_path / "old.star").read_text().replace("data_", "data_images"))
    assert read_particles(tmp_path / "old.star").images.shape == (COUNT, BOX, BOX)


def test_an_optics_group_that_is_there_twice_is_refused(star: Callable) -> None:
    with pytest.raises(ConfigError, match="data_optics has optics group 1 twice"):
        read_particles(star(optics={"rlnOpticsGroup": [1, 1]}, rlnOpticsGroup=1))


@pytest.mark.parametrize("unused", [2, "None"])
def test_optics_groups_that_no_particle_is_in_may_be_twice_or_no_numbers(
    star: Callable, tmp_path: Path, tables: tuple, unused: object
) -> None:
    star(rlnOpticsGroup=1)
    optics, table = tables
    more = optics.iloc[1:].assign(rlnOpticsGroup=unused)
    write_star(tmp_path / "a.star", pd.concat([optics.iloc[:1], more, more]), table.assign(rlnOpticsGroup=1))
    assert list(read_particles(tmp_path / "a.star").optics_table["rlnOpticsGroupName"]) == ["a"]


def test_particles_without_a_group_are_in_the_only_one(star: Callable, tmp_path: Path, tables: tuple) -> None:
    """RELION 3.1.3 stops: "Failed to get optics group". What is handed back to it has the column."""
    star()
    optics, table = tables[0].iloc[1:], tables[1].drop(columns="rlnOpticsGroup")
    write_star(tmp_path / "a.star", optics, table)
    with pytest.warns(FileWarning, match="lacks rlnOpticsGroup: all particles are in the only group"):
        assert set(read_tables(tmp_path / "a.star")[1]["rlnOpticsGroup"]) == {2}
    write_star(tmp_path / "a.star", tables[0], table)
    with pytest.raises(ConfigError, match="data_particles lacks the column rlnOpticsGroup: add it"):
        read_particles(tmp_path / "a.star")


@pytest.mark.parametrize(("label", "written"), [("rlnDefocusU", "rlndefocusu"), ("rlnImageName", "ImageName")])
def test_a_label_that_is_written_otherwise_is_named(star: Callable, label: str, written: str) -> None:
    path = star()
    path.write_text(path.read_text().replace(f"_{label} ", f"_{written} "))
    with pytest.raises(
        ConfigError, match=rf"lacks the column {label}: .*\(it has {written}, which RELION does not know"
    ):
        read_particles(path)


def test_a_selection_by_an_optics_column_and_rows_without_a_number(star: Callable) -> None:
    """A CTF fit that has failed has no resolution: such a row is within no limits."""
    path = star(rlnCtfMaxResolution=[4.0, "nan", 5.0, "inf", 9.0])
    tables = read_tables(path)
    assert list(chosen_rows(path, tables, None, (("rlnCtfMaxResolution", None, 8.0),))) == [0, 2]
    assert list(chosen_rows(path, tables, None, (("rlnCtfMaxResolution", 4.5, None),))) == [2, 3, 4]
    assert list(chosen_rows(path, tables, None, (("rlnVoltage", 250.0, None),))) == [0, 2, 4]
    with pytest.raises(ConfigError, match="rlnCtfMaxResolution of row 2 is failed, not a number"):
        chosen_rows(
            path,
            read_tables(star(rlnCtfMaxResolution=[4.0, "failed", 5.0, 6.0, 9.0])),
            None,
            (("rlnCtfMaxResolution", None, 8.0),),
        )


def test_a_folder_with_an_at_sign_is_found_from_a_star_file_below(tmp_path: Path, star: Callable) -> None:
    path = star(rlnImageName=[f"{i + 1}@a@b/stack.mrcs" for i in range(COUNT)])
    (tmp_path / "a@b").mkdir()
    (tmp_path / "stack.mrcs").rename(tmp_path / "a@b/stack.mrcs")
    (tmp_path / "Extract").mkdir()
    path.rename(tmp_path / "Extract/particles.star")
    table = read_tables(tmp_path / "Extract/particles.star")[1]
    assert find_datadir(tmp_path / "Extract/particles.star", table) == tmp_path


@pytest.mark.parametrize(("at", "value"), [(212, bytes(4)), (212, b"D   "), (208, b"MAP\0"), (208, bytes(4))])
def test_stamps_that_programs_write_otherwise_do_not_matter(
    star: Callable, tmp_path: Path, images: np.ndarray, at: int, value: bytes
) -> None:
    path = star()
    whole = bytearray((tmp_path / "stack.mrcs").read_bytes())
    whole[at : at + 4] = value
    (tmp_path / "stack.mrcs").write_bytes(whole)
    np.testing.assert_array_equal(read_particles(path).images, images)


def test_bytes_of_a_map_have_a_sign_or_none_as_those_of_a_stack(tmp_path: Path) -> None:
    voxels = np.full((4, 4, 4), 200, np.uint8)
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(voxels.view(np.int8))
        mrc.voxel_size = 2.0
        mrc.header.dmin, mrc.header.dmax = 0, 200
    assert (read_map(tmp_path / "a.mrc")[0] == 200).all()


def test_subtomograms_are_refused_by_their_dimensionality(star: Callable) -> None:
    with pytest.raises(ConfigError, match="subtomograms"):
        read_particles(star(optics={"rlnImageDimensionality": 3}))


def test_a_folder_is_named_with_the_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "J5_particles.cs").touch()
    with pytest.raises(ConfigError, match="is a folder: name one of its files, such as J5_particles.cs"):
        read_tables(tmp_path)


def test_the_micrographs_pixel_size_is_taken_where_the_images_is_not_there(star: Callable) -> None:
    path = star(optics={"rlnImagePixelSize": None, "rlnMicrographOriginalPixelSize": [1.5, 1.5]})
    with pytest.warns(FileWarning, match="rlnMicrographOriginalPixelSize is taken, as by RELION"):
        assert read_tables(path)[0]["rlnImagePixelSize"].tolist() == [1.5, 1.5]


@pytest.mark.parametrize(
    "names",
    [
        ["000003@a.mrcs", "000001@b/c.mrcs", "000002@a.mrcs"],
        ["3@a.mrcs", "1@b/c.mrcs", "2@a.mrcs"],
        ["3@a.mrcs", "01@b/c.mrcs", "2@a.mrcs"],
        ["3@a.mrcs", f"1@{'x' * 300}", "2@a.mrcs"],
        ["3@a.mrcs", "1@é.mrcs", "2@a.mrcs"],
        ["3@a.mrcs", "1@b@c.mrcs", "2@a.mrcs"],
    ],
)
def test_names_are_taken_apart_whatever_their_width(names: list[str]) -> None:
    found = image_names(Path("a.star"), pd.Series(names))
    assert list(found.place) == [2, 0, 1] and list(found.number) == [0, 1, 0] and found.alone == []
    assert found.stacks == ["a.mrcs", names[1].partition("@")[2]]


@pytest.mark.parametrize("name", ["x@a.mrcs", "1@", "@a.mrcs", "1234567890@a.mrcs", "٣@a.mrcs", "-1@a.mrcs"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="rlnImageName of particle 1 is .*2 of 2 rows are like this"):
        image_names(Path("a.star"), pd.Series([name, name]))
    with pytest.raises(ConfigError, match="rlnImageName of particle 2 is .*, not 000001@stack.mrcs"):
        image_names(Path("a.star"), pd.Series(["1@a.mrcs", name]))


def test_images_of_another_size_than_the_asked_one_are_brought_to_it(star: Callable) -> None:
    """The other half-set may have smaller images."""
    particles = read_particles(star(), size=(BOX - 2, PIXEL))
    assert particles.images.shape == (COUNT, BOX - 2, BOX - 2) and particles.voxel_size == PIXEL


@pytest.mark.parametrize("told", [Told(), Told(pixel_size=3.0)])
def test_origins_in_pixels_are_taken_in_angstrom_also_in_a_file_of_relion_3_1(
    star: Callable, tables: tuple, told: Told
) -> None:
    """cryoDRGN writes them so. With another pixel size they are as many pixels."""
    pixels = {"rlnOriginX": [1.0, 2.0, 0.0, -1.0, 0.5], "rlnOriginY": 3.0}
    path = star(rlnOriginXAngst=None, rlnOriginYAngst=None, **pixels)
    shifts = read_particles(path, told=told).shifts
    np.testing.assert_allclose(shifts[:, 0], (told.pixel_size or PIXEL) * np.array([-1.0, -2.0, 0.0, 1.0, -0.5]))
    np.testing.assert_allclose(shifts[:, 1], (told.pixel_size or PIXEL) * -3.0)
    old_star(path, tables)
    old = read_particles(path, told=told).shifts
    np.testing.assert_allclose(old[1], (told.pixel_size or PIXEL) / PIXEL * np.array([-1.5, 2.0]))


def test_origins_in_angstrom_count_where_there_are_both(star: Callable) -> None:
    np.testing.assert_allclose(read_particles(star(rlnOriginX=9.0, rlnOriginY=9.0)).shifts[1], [-1.5, 2.0])


@pytest.mark.parametrize(
    ("optics", "columns", "message"),
    [
        (
            {},
            {"rlnDefocusU": [1e4, 1.5, 1e4, 1e4, 1e4], "rlnDefocusV": [1e4, 1.4, 1e4, 1e4, 1e4]},
            "particle 2 has a def",
        ),
        ({}, {"rlnDefocusV": [1e4, 1e4, 0.0, 1e4, 1e4], "rlnDefocusU": 1e4}, r"particle 3 has two .*\(10000 and 0\)"),
        ({}, {"rlnDefocusU": 0.0, "rlnDefocusV": 0.0}, "all defoci are 0: if images have no CTF, say --no-ctf"),
        ({}, {"rlnPhaseShift": [1.2, 1.3, 1.4, 1.5, 1.6]}, "rlnPhaseShift is 1.6 at most, in degrees"),
    ],
)
def test_numbers_that_may_be_in_another_unit_are_named(
    star: Callable, optics: dict, columns: dict, message: str
) -> None:
    with pytest.warns(FileWarning, match=message):
        read_particles(star(optics, **columns), poses=False)


def test_sound_numbers_are_not_warned_of(star: Callable, recwarn) -> None:
    read_particles(star(rlnPhaseShift=[60.0, 61, 62, 63, 64]), told=Told(no_ctf=True))
    read_particles(star(rlnPhaseShift=[60.0, 61, 62, 63, 64], rlnDefocusU=[0.0, 1e4, 1e4, 1e4, 1e4], rlnDefocusV=None))
    assert not [str(warning.message) for warning in recwarn if warning.category is FileWarning]


def test_angles_that_seem_to_be_radians_are_named_where_poses_count(
    tmp_path: Path, tables: tuple, images: np.ndarray
) -> None:
    write_stack(tmp_path / "stack.mrcs", images)
    many = pd.concat([tables[1]] * 4, ignore_index=True).assign(rlnAngleRot=3.1, rlnAngleTilt=1.5, rlnAnglePsi=-3.1)
    write_star(tmp_path / "a.star", tables[0], many)
    with pytest.warns(FileWarning, match="so they may be in radians"):
        read_particles(tmp_path / "a.star")


@pytest.mark.parametrize(
    ("optics", "columns", "message"),
    [
        ({"rlnImagePixelSize": [4e-10] * 2}, {}, r"the pixel size is 4e-10 Å: .*\(0.05 to 1000\)"),
        ({"rlnImagePixelSize": [4e4] * 2}, {}, "the pixel size is 40000 Å"),
        ({}, {"rlnCtfScalefactor": [1.0, 0.0, 1.0, 1.0, -1.0]}, r"particle 2 has rlnCtfScalefactor 0.*2 of 5 .*: 2, 5"),
    ],
)
def test_numbers_that_cannot_be_are_refused(star: Callable, optics: dict, columns: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_particles(star(optics, **columns))


def test_pixels_whose_squares_single_precision_cannot_hold_are_refused(
    tmp_path: Path, star: Callable, images: np.ndarray
) -> None:
    images[3, 0, 0] = -1e20
    write_stack(tmp_path / "stack.mrcs", images)
    with pytest.raises(ConfigError, match=r"000004@stack.mrcs of particle 4 has values beyond 1e\+15"):
        read_particles(star())


def test_a_name_with_dots_is_refused_with_what_can_be_done(tmp_path: Path, star: Callable) -> None:
    with pytest.raises(ConfigError, match=r"in \.\./b/stack.mrcs, outside .*: write the names without \.\., from a"):
        check_inside(path := star(rlnImageName="1@../b/stack.mrcs"), None, read_tables(path)[1])
    with pytest.raises(ConfigError, match="--datadir; / for absolute names"):
        check_inside(path := star(rlnImageName="1@/b/stack.mrcs"), None, read_tables(path)[1])


def test_the_project_is_found_by_the_first_stack_that_is_there(tmp_path: Path, star: Callable, monkeypatch) -> None:
    """Else one missing stack would make all of them seem missing, in a folder that is not the project's."""
    job = tmp_path / "Extract/job007"
    job.mkdir(parents=True)
    path = star(rlnImageName=["1@gone.mrcs", "1@/gone.mrcs", "1@stack.mrcs", "2@stack.mrcs", "3@stack.mrcs"])
    path = path.rename(job / "particles.star")
    monkeypatch.chdir("/")
    assert find_datadir(path, read_tables(path)[1]) == tmp_path
    with pytest.raises(ConfigError, match=rf"row 1: image stack {tmp_path}/gone.mrcs does not exist"):
        read_particles(path, tmp_path)


def test_a_link_to_a_stack_that_is_gone_is_named_with_its_target(tmp_path: Path, monkeypatch) -> None:
    """cryoSPARC links imported stacks into its project."""
    (tmp_path / "stack.mrcs").symlink_to("/nowhere/stack.mrcs")
    (tmp_path / "J20").mkdir()
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnVoltage": 300.0, "rlnSphericalAberration": 2.7})
    optics = optics.assign(rlnAmplitudeContrast=0.1, rlnImagePixelSize=PIXEL)
    write_star(
        path := tmp_path / "J20/a.star", optics, pd.DataFrame({"rlnImageName": ["1@stack.mrcs"], "rlnOpticsGroup": 1})
    )
    monkeypatch.chdir("/")
    assert find_datadir(path, read_tables(path)[1]) == tmp_path
    with pytest.raises(ConfigError, match=r"row 1: .*stack.mrcs is a link to /nowhere/stack.mrcs, which is no file"):
        summarise(path, tmp_path)


def test_two_pixel_sizes_of_one_table_are_named(tmp_path: Path, star: Callable, tables: tuple) -> None:
    """RELION takes detector and magnification."""
    star()
    for label in ("rlnImagePixelSize", "rlnPixelSize"):
        old_star(tmp_path / "old.star", tables)
        text = (tmp_path / "old.star").read_text()
        assert "_rlnDetectorPixelSize" in text and label not in text
        head, rows = text.rsplit("\n_", 1)[0], text.rsplit("\n_", 1)[1].split("\n", 1)
        many = "\n".join(f"{row} {2.6 if number != 1 else PIXEL}" for number, row in enumerate(rows[1].splitlines()))
        (tmp_path / "old.star").write_text(f"{head}\n_{rows[0]}\n_{label}\n{many}\n")
        with pytest.warns(
            FileWarning,
            match=rf"size of row 1 is 2.6 Å by {label} and 2.5 Å by rlnDetectorPixelSize and .*: 1, 3, 4, 5\)",
        ):
            assert set(read_tables(tmp_path / "old.star")[0]["rlnImagePixelSize"]) == {2.6, 2.5}


def test_two_pixel_sizes_are_no_matter_where_they_agree_or_another_is_said(
    tmp_path: Path, star: Callable, tables: tuple, recwarn
) -> None:
    star()
    old_star(tmp_path / "old.star", tables)
    text = (tmp_path / "old.star").read_text()
    for size, told in ((PIXEL * 1.0005, Told()), (9.0, Told(pixel_size=PIXEL))):
        (tmp_path / "old.star").write_text(
            text.replace("\nloop_\n", "\nloop_\n_rlnPixelSize\n").replace("\n00000", f"\n{size} 00000")
        )
        read_particles(tmp_path / "old.star", told=told)
    assert not [str(warning.message) for warning in recwarn if warning.category is FileWarning]


def test_optics_of_both_tables_that_differ_are_named(star: Callable, recwarn) -> None:
    read_particles(star(rlnAmplitudeContrast=[0.1, 0.07, 0.1, 0.07, 0.1]))
    assert not recwarn.list
    with pytest.warns(FileWarning, match=r"rlnVoltage of row 2 is 300 in data_particles and 200 in .*rows .*: 2, 4\)"):
        assert set(read_particles(star(rlnVoltage=300.0)).ctf[:, 3]) == {300.0}


def test_a_value_of_an_optics_group_that_is_no_number_is_named_with_group_and_row(star: Callable) -> None:
    with pytest.raises(
        ConfigError, match=r"rlnVoltage of optics group 5 is lost, not a number \(row 2 is the first particle"
    ):
        read_particles(star({"rlnOpticsGroup": [1, 5], "rlnVoltage": [300.0, "lost"]}, rlnOpticsGroup=[1, 5, 1, 5, 1]))


def test_a_row_of_one_table_whose_optics_are_no_numbers_is_named(tmp_path: Path, star: Callable, tables: tuple) -> None:
    star()
    old_star(tmp_path / "old.star", tables)
    lines = (tmp_path / "old.star").read_text().splitlines()
    lines[-2] = lines[-2].replace(" 200.0", " unknown")
    (tmp_path / "old.star").write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match=r"rlnVoltage of optics group 3 is nan, not a number \(row 4 is"):
        read_particles(tmp_path / "old.star")


@pytest.mark.parametrize(("extremes", "unsigned"), [((5, 60000), True), ((-5, 60000), False), ((0, 30000), False)])
def test_words_have_no_sign_where_the_headers_extremes_say_so(
    tmp_path: Path, star: Callable, extremes: tuple, unsigned: bool
) -> None:
    pixels = np.random.default_rng(0).integers(5, 60000, (COUNT, BOX, BOX)).astype(np.uint16)
    write_stack(tmp_path / "stack.mrcs", pixels.view(np.int16))
    whole = bytearray((tmp_path / "stack.mrcs").read_bytes())
    struct.pack_into("<ff", whole, 76, *extremes)
    (tmp_path / "stack.mrcs").write_bytes(whole)
    np.testing.assert_array_equal(read_particles(star()).images, pixels if unsigned else pixels.view(np.int16))


def test_volumes_are_told_from_stacks_that_are_named_without_a_number(tmp_path: Path, star: Callable) -> None:
    for count, message in ((BOX, rf"if it is a volume of {BOX}³ voxels: .*no subtomograms"), (COUNT, r"stack.mrcs$")):
        write_stack(tmp_path / "stack.mrcs", np.ones((count, BOX, BOX), np.float32))
        with pytest.raises(ConfigError, match=rf"which holds {count} images: say which, as in .*{message}"):
            read_particles(star(rlnImageName="stack.mrcs"))


def test_subtomograms_need_no_stacks_and_no_defocus_to_be_refused(tmp_path: Path, star: Callable) -> None:
    with pytest.raises(ConfigError, match="rlnImageDimensionality is 3"):
        read_particles(star(optics={"rlnImageDimensionality": 3}, rlnImageName="gone.mrc", rlnDefocusU=None))


def test_a_header_with_too_few_images_is_told_from_a_wrong_stack(tmp_path: Path, star: Callable) -> None:
    path = star()
    whole = bytearray((tmp_path / "stack.mrcs").read_bytes())
    struct.pack_into("<i", whole, 8, 1)
    (tmp_path / "stack.mrcs").write_bytes(whole)
    with pytest.raises(ConfigError, match="image 2 .* images 1 to 1: that is what its header says, .* enough for 5"):
        read_particles(path)
