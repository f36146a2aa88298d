"""cryoSPARC's .cs files: in words where they cannot be read, joined by uid, and handed back with new poses."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from equipose.config.settings import Told
from equipose.errors import ConfigError, FileWarning
from equipose.io.cryosparc import ignored_fields, read_cryosparc, read_records, write_cryosparc
from equipose.io.cryosparc_records import records_of
from equipose.io.half_sets import kept_together
from equipose.io.particle_tables import is_cryosparc, read_tables, write_star
from equipose.io.particles import read_particles

NUMBER = 6

BLOB = {"blob/path": b">J1/stack.mrc", "blob/idx": np.arange(NUMBER, dtype=np.uint32), "blob/psize_A": np.float32(2.5)}
BLOB |= {"blob/shape": np.full((NUMBER, 2), 32, np.uint32)}
CTF = {"df1_A": 2e4, "df2_A": 1.9e4, "df_angle_rad": 0.5, "accel_kv": 300.0, "cs_mm": 2.7, "amp_contrast": 0.1}
CTF = {f"ctf/{name}": np.float32(value) for name, value in CTF.items()}
PLACE = {
    "location/micrograph_path": b">J2/mic_1.mrc",
    "location/micrograph_shape": np.tile(np.array([3000, 4000], np.uint32), (NUMBER, 1)),
    "location/center_x_frac": np.float32(0.25),
    "location/center_y_frac": np.float32(0.1),
}


def cs(path: Path, fields: dict, uid: np.ndarray = np.arange(NUMBER) + 7) -> Path:
    columns = {"uid": uid.astype(np.uint64)} | {
        name: np.broadcast_to(value, (len(uid), *np.shape(value)[1:])) for name, value in fields.items()
    }
    records = np.zeros(len(uid), [(name, value.dtype, value.shape[1:]) for name, value in columns.items()])
    for name, value in columns.items():
        records[name] = value
    with open(path, "wb") as file:
        np.save(file, records)
    return path


def test_uid_micrograph_and_coordinates_are_there_in_relions_terms(tmp_path: Path) -> None:
    """RELION counts rows from above, cryoSPARC's heights are from below (pyem's csparc2star does the same)."""
    optics, table = read_tables(cs(tmp_path / "a.cs", BLOB | CTF | PLACE))
    assert list(table["ucsfUid"]) == list(range(7, 13))
    assert set(table["rlnMicrographName"]) == {"J2/mic_1.mrc"}
    np.testing.assert_allclose(table["rlnCoordinateX"], 0.25 * 4000)
    np.testing.assert_allclose(table["rlnCoordinateY"], 0.9 * 3000, rtol=1e-6)
    assert list(table["rlnImageName"][:2]) == ["000001@J1/stack.mrc", "000002@J1/stack.mrc"]
    assert list(optics["rlnImageSize"]) == [32] and list(optics["rlnImagePixelSize"]) == [2.5]


def test_a_pass_through_file_gives_its_fields_by_uid_in_any_order(tmp_path: Path) -> None:
    order = np.array([3, 1, 5, 0, 4, 2])
    main = cs(tmp_path / "J3_particles.cs", CTF)
    other = cs(
        tmp_path / "J3_passthrough_particles.cs",
        {k: np.broadcast_to(v, (NUMBER, *np.shape(v)[1:]))[order] for k, v in BLOB.items()},
        order + 7,
    )
    with pytest.raises(ConfigError, match="lacks the field blob/idx.*such as .*J3_passthrough_particles.cs"):
        read_cryosparc(main)
    table = read_cryosparc(main, [other])
    assert [name[:6] for name in table["rlnImageName"]] == [f"{number:06d}" for number in range(1, 7)]
    _, joined = read_tables(main, told=Told(passthrough=(str(other),)))
    assert list(joined["rlnImageName"]) == list(table["rlnImageName"]) and list(joined["ucsfUid"]) == list(range(7, 13))


def test_files_of_different_jobs_are_not_joined(tmp_path: Path) -> None:
    main = cs(tmp_path / "a.cs", CTF)
    other = cs(tmp_path / "b.cs", BLOB, np.arange(NUMBER) + 9)
    with pytest.raises(ConfigError, match="lacks 2 of the 6 particles of .*a.cs, by their uid"):
        read_cryosparc(main, [other])
    twice = cs(tmp_path / "c.cs", BLOB, np.array([7, 7, 8, 9, 10, 11]))
    with pytest.raises(ConfigError, match="uid twice"):
        read_cryosparc(main, [twice])


def test_uids_that_are_no_numbers_do_not_join(tmp_path: Path) -> None:
    records = np.zeros(NUMBER, [("uid", "S4"), ("blob/idx", "<u4")])
    with open(tmp_path / "b.cs", "wb") as file:
        np.save(file, records)
    with pytest.raises(ConfigError, match="b.cs: field uid is of type"):
        read_cryosparc(cs(tmp_path / "a.cs", CTF), [tmp_path / "b.cs"])


def test_exposure_groups_are_optics_groups(tmp_path: Path) -> None:
    group = np.array([4, 4, 9, 9, 4, 9], np.uint32)
    optics, table = read_tables(cs(tmp_path / "a.cs", BLOB | CTF | {"ctf/exp_group_id": group}))
    assert list(optics["rlnOpticsGroup"]) == [4, 9] and list(table["rlnOpticsGroup"]) == list(group)


def test_exposure_groups_from_0_are_counted_from_1_as_relion_does(tmp_path: Path) -> None:
    group = np.array([0, 1, 0, 1, 1, 0], np.uint32)
    optics, table = read_tables(cs(tmp_path / "a.cs", BLOB | CTF | {"ctf/exp_group_id": group}))
    assert list(optics["rlnOpticsGroup"]) == [1, 2] and list(table["rlnOpticsGroup"]) == list(group + 1)


def test_names_may_be_unicode_and_boxes_unknown(tmp_path: Path) -> None:
    fields = {name: value for name, value in BLOB.items() if name != "blob/shape"} | {"blob/path": np.str_(">J1/é.mrc")}
    optics, table = read_tables(cs(tmp_path / "a.cs", fields | CTF))
    assert table["rlnImageName"][0] == "000001@J1/é.mrc" and "rlnImageSize" not in optics


def test_a_header_of_any_length_is_read_if_the_file_has_it(tmp_path: Path) -> None:
    more = {f"alignments_class3D_{number}/shift": np.zeros((NUMBER, 2), np.float32) for number in range(300)}
    path = cs(tmp_path / "a.cs", BLOB | CTF | more)
    assert int.from_bytes(path.read_bytes()[8:10], "little") > 10_000
    assert len(read_cryosparc(path)) == NUMBER


def test_a_compressed_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.cs").write_bytes(bytes.fromhex("954353444154") + b"\x10\0\0\0{}")
    with pytest.raises(ConfigError, match=r"is a compressed .cs file.*save\('plain.cs', format=1\)"):
        read_tables(tmp_path / "a.cs")


def test_refined_aberrations_are_named_where_there_are_any(tmp_path: Path) -> None:
    none = {"ctf/tilt_A": np.zeros((NUMBER, 2), np.float32), "ctf/anisomag": np.zeros((NUMBER, 4), np.float32)}
    assert ignored_fields(cs(tmp_path / "a.cs", BLOB | CTF | none)) == []
    tilted = cs(tmp_path / "b.cs", BLOB | CTF | none | {"ctf/tilt_A": np.full((NUMBER, 2), 3, np.float32)})
    with pytest.warns(FileWarning, match=r"ctf/tilt_A \(beam tilt\) of cryoSPARC's refinement is not taken"):
        read_tables(tilted)


def test_a_pose_that_is_not_finite_matters_only_where_poses_are_asked_for(tmp_path: Path) -> None:
    poses = {
        "alignments3D/pose": np.zeros((NUMBER, 3), np.float32),
        "alignments3D/shift": np.zeros((NUMBER, 2), np.float32),
    }
    poses["alignments3D/pose"][2] = np.nan
    table = read_cryosparc(cs(tmp_path / "a.cs", BLOB | CTF | poses))
    assert list(np.isnan(table["rlnAngleRot"])) == [False, False, True, False, False, False]


def test_new_poses_stand_in_the_file_and_old_ones_do_not(tmp_path: Path) -> None:
    old = {"alignments3D/pose": np.ones((NUMBER, 3), np.float32), "alignments3D/error": np.float32(3)}
    old |= {"alignments3D/alpha": np.float32(0.7), "alignments3D/psize_A": np.float32(5.0)}
    records = read_records(cs(tmp_path / "a.cs", BLOB | CTF | PLACE | old))
    rng, rows = np.random.default_rng(0), np.array([0, 2, 5])
    rotations, shifts = Rotation.random(3, rng).as_matrix(), rng.normal(size=(3, 2))
    write_cryosparc(tmp_path / "b.cs", records, rows, rotations, shifts, np.array([1, 2, 1]))
    assert is_cryosparc(tmp_path / "b.cs")
    written = np.load(tmp_path / "b.cs")
    assert list(written["uid"]) == [7, 9, 12] and list(written["location/micrograph_path"]) == [b">J2/mic_1.mrc"] * 3
    np.testing.assert_allclose(
        Rotation.from_rotvec(written["alignments3D/pose"]).as_matrix(), rotations.transpose(0, 2, 1), atol=1e-6
    )
    np.testing.assert_allclose(written["alignments3D/shift"], -shifts / 2.5, rtol=1e-6)
    assert set(written["alignments3D/psize_A"]) == {2.5} and set(written["alignments3D/error"]) == {0}
    assert set(written["alignments3D/alpha"]) == {1} and list(written["alignments3D/split"]) == [0, 1, 0]
    again = read_cryosparc(tmp_path / "b.cs")
    np.testing.assert_allclose(again[["rlnOriginXAngst", "rlnOriginYAngst"]], -shifts, rtol=1e-5)


def test_a_file_without_records_or_fields_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lists no particles"):
        read_cryosparc(cs(tmp_path / "a.cs", CTF, np.zeros(0)))
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "b.npy").rename(tmp_path / "b.cs")
    with pytest.raises(ConfigError, match="has no fields"):
        read_cryosparc(tmp_path / "b.cs")


def test_texts_as_python_objects_and_micrographs_are_refused_with_the_remedy(tmp_path: Path) -> None:
    records = np.zeros(2, [("uid", "<u8"), ("blob/path", object)])
    with open(tmp_path / "objects.cs", "wb") as file:
        np.save(file, records, allow_pickle=True)
    with pytest.raises(ConfigError, match=r"holds Python objects, .*astype\('S'\)"):
        read_cryosparc(tmp_path / "objects.cs")
    with pytest.raises(ConfigError, match="lists micrographs: extract particles first"):
        read_cryosparc(cs(tmp_path / "exposures.cs", {"micrograph_blob/path": b"a.mrc"} | CTF))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"movie_blob/path": b"a.tif"} | CTF, "lists movies: extract particles first"),
        ({"map/path": b"a.mrc"}, "lists volumes: name the .cs file of the particles of that job"),
        ({"mask/path": b"a.mrc"}, "lists masks: name the .cs"),
        (PLACE, "lists picks without images: extract particles first"),
        (
            BLOB,
            r"lacks the field ctf/accel_kv.*\(class averages have no CTF: .*; of clean projections, say --no-ctf\)",
        ),
    ],
)
def test_files_of_other_things_than_particles_are_named(tmp_path: Path, fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_cryosparc(cs(tmp_path / "a.cs", fields))


def test_clean_projections_of_cryosparc_are_read_where_it_is_said_that_they_have_no_ctf(tmp_path: Path) -> None:
    optics, table = read_tables(cs(tmp_path / "a.cs", BLOB | PLACE), told=Told(no_ctf=True))
    assert list(optics["rlnAmplitudeContrast"]) == [1.0] and list(optics["rlnImagePixelSize"]) == [2.5]
    assert (table[["rlnDefocusU", "rlnDefocusV"]] == 0).all(axis=None) and len(table) == NUMBER
    with pytest.raises(ConfigError, match="lacks the field blob/idx"):
        read_tables(cs(tmp_path / "b.cs", {"blob/path": b"a.mrc", "blob/psize_A": 1.0}), told=Told(no_ctf=True))


def test_a_pixel_size_that_the_file_lacks_may_be_said(tmp_path: Path) -> None:
    fields = {name: value for name, value in BLOB.items() if name != "blob/psize_A"} | CTF
    fields |= {"alignments3D/pose": np.zeros((NUMBER, 3), np.float32)}
    fields |= {"alignments3D/shift": np.full((NUMBER, 2), 2, np.float32)}
    path = cs(tmp_path / "a.cs", fields)
    with pytest.raises(ConfigError, match="lacks the field blob/psize_A: .*, or say --pixel-size"):
        read_tables(path)
    optics, table = read_tables(path, told=Told(pixel_size=1.25))
    assert list(optics["rlnImagePixelSize"]) == [1.25] and set(table["rlnOriginXAngst"]) == {2.5}
    write_cryosparc(
        tmp_path / "b.cs",
        read_records(path),
        np.arange(2),
        np.tile(np.eye(3), (2, 1, 1)),
        np.ones((2, 2)),
        np.array([1, 2]),
        1.25,
    )
    optics, table = read_tables(tmp_path / "b.cs")
    assert list(optics["rlnImagePixelSize"]) == [1.25]
    np.testing.assert_allclose(table["rlnOriginXAngst"], -1, rtol=1e-6)


def test_places_whose_images_are_in_a_pass_through_file_are_no_picks(tmp_path: Path) -> None:
    cs(tmp_path / "J3_passthrough_particles.cs", BLOB | CTF)
    with pytest.raises(ConfigError, match="give the job's pass-through file too, such as .*J3_passthrough"):
        read_cryosparc(cs(tmp_path / "a.cs", PLACE))


@pytest.mark.parametrize(("content", "message"), [(b"", "it is empty"), (b"data_\n", "begins as no file of cryoSPARC")])
def test_a_file_of_that_name_alone_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.cs").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_tables(tmp_path / "a.cs")


def signed(path: Path, sign: np.ndarray) -> np.ndarray:
    """Images (n, 32, 32), stored with these signs (n,) beside path/a.cs."""
    images = np.random.default_rng(0).normal(size=(NUMBER, 32, 32)).astype(np.float32)
    (path / "J1").mkdir()
    with mrcfile.new(path / "J1/stack.mrc") as mrc:
        mrc.set_data(images * sign[:, None, None].astype(np.float32))
        mrc.set_image_stack()
        mrc.voxel_size = 2.5
    cs(path / "a.cs", BLOB | CTF | {"blob/sign": sign.astype(np.float32)})
    return images


def test_images_of_two_contrasts_are_multiplied_by_their_signs(tmp_path: Path) -> None:
    """Particles of two imports, one of them inverted: cryoSPARC makes them alike when it reads them."""
    sign = np.array([1, -1, -1, 1, 1, -1])
    images = signed(tmp_path, sign)
    with pytest.warns(FileWarning, match=r"blob/sign is -1 for some particles.*: refine from poses.cs"):
        particles = read_particles(tmp_path / "a.cs")
    np.testing.assert_array_equal(particles.images, images)
    np.testing.assert_array_equal(particles.images[2], images[2])
    rows = np.array([1, 2])  # of one contrast
    np.testing.assert_array_equal(read_particles(tmp_path / "a.cs", rows=rows).images, images[rows])
    write_star(tmp_path / "b.star", particles.optics_table, particles.particle_table)
    with pytest.warns(FileWarning, match="blob/sign"):
        np.testing.assert_array_equal(read_particles(tmp_path / "b.star").images, images)
    records = records_of(tmp_path / "b.star", particles.optics_table, particles.particle_table)
    np.testing.assert_array_equal(records["blob/sign"], sign)


def test_signs_that_are_all_alike_change_nothing(tmp_path: Path, recwarn) -> None:
    images = signed(tmp_path, np.full(NUMBER, -1))
    particles = read_particles(tmp_path / "a.cs")
    np.testing.assert_array_equal(particles.images, -images)
    assert "equiposeSign" not in particles.particle_table and not recwarn.list


def test_two_picks_of_one_particle_are_near_also_where_images_are_binned(tmp_path: Path) -> None:
    """Places count pixels of the micrograph: here 4 lie between the first two picks, and a box has 128 of them."""
    place = PLACE | {"location/center_x_frac": np.float32([100, 104, 1000, 1500, 2000, 2500]) / 4000}
    fields = BLOB | CTF | place | {"blob/psize_A": np.float32(4)}
    optics, table = read_tables(cs(tmp_path / "a.cs", fields))
    assert len(set(kept_together(table, optics))) == NUMBER
    fields |= {"location/micrograph_psize_A": np.float32(1)}
    optics, table = read_tables(cs(tmp_path / "a.cs", fields))
    assert list(optics["rlnMicrographOriginalPixelSize"]) == [1.0] and "rlnMicrographOriginalPixelSize" not in table
    assert list(kept_together(table, optics)) == [0, 0, 1, 2, 3, 4]
    optics, _ = read_tables(cs(tmp_path / "a.cs", fields | {"location/micrograph_psize_A": np.float32(0)}))
    assert "rlnMicrographOriginalPixelSize" not in optics


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("ctf/df1_A", [1e4, 1e4, np.nan, 1e4, 1e4, 1e4], r"rlnDefocusU \(ctf/df1_A\) of row 3 is nan, not a number"),
        ("ctf/accel_kv", [0] * NUMBER, r"particle 1 has rlnVoltage \(ctf/accel_kv\) 0; it is kV"),
        ("ctf/cs_mm", [2.7, np.nan] * 3, r"rlnSphericalAberration \(ctf/cs_mm\) of optics group 2 is nan.*\(row 2 is"),
        ("ctf/scale", [0] * NUMBER, r"rlnCtfScalefactor \(ctf/scale\) 0, by which"),
    ],
)
def test_messages_name_the_field_that_a_value_is_from(tmp_path: Path, field: str, values: list, message: str) -> None:
    path = cs(tmp_path / "a.cs", BLOB | CTF | {field: np.array(values, np.float32)})
    with pytest.raises(ConfigError, match=message):
        read_particles(path)
