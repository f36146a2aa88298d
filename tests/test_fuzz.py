"""Whatever bytes a file holds, reading it gives sound particles, atoms or maps, or one line that says what is wrong.

Nothing else may come of it: no other exception, no long wait, no memory that a few bytes in a header ask for, nothing
executed. Two kinds of files: sound ones with bytes flipped, deleted, doubled, replaced or cut off, and ones made up
field by field from values that are wrong in a way that a byte seldom is. `make fuzz` tries some ten thousand files.
"""

import gzip
import io
import os
import signal
import struct
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equipose.config.settings import Told
from equipose.data.structures import density, read_atoms
from equipose.errors import ConfigError, FileWarning
from equipose.io.maps import read_map
from equipose.io.particle_tables import check_inside, read_tables
from equipose.io.particles import _summarise, read_particles, summarise

CASES = int(os.environ.get("FUZZ_CASES", "60"))
"""Files that each test tries."""

SECONDS, BYTES = 5.0, 32_000_000
"""That a file of a few kilobytes may take."""

COUNT, BOX, RECORDS = 3, 8, 40

tried = settings(
    max_examples=CASES,
    deadline=None,
    derandomize="FUZZ_CASES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)

STAR_31 = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
1 "first one" 300.0 2.7 0.1 2.5 8
2 second 200.0 2.0 0.07 2.5 8

data_particles

loop_
_rlnImageName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnAngleRot #6
_rlnAngleTilt #7
_rlnAnglePsi #8
_rlnOriginXAngst #9
_rlnOriginYAngst #10
_rlnRandomSubset #11
000001@stack.mrcs 1 20000.0 19000.0 10.0 1.0 2.0 3.0 0.5 -0.5 1
000003@stack.mrcs 2 21000.0 20000.0 -20.0 4.0 5.0 6.0 1.5 -2.5 2
000002@stack.mrcs 1 22000.0 21000.0 30.0 7.0 8.0 9.0 0.0 0.0 1
"""

STAR_30 = """
data_

loop_
_rlnImageName #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
_rlnDetectorPixelSize #5
_rlnMagnification #6
_rlnDefocusU #7
_rlnDefocusV #8
_rlnDefocusAngle #9
_rlnOriginX #10
_rlnOriginY #11
000001@stack.mrcs 300.0 2.7 0.1 5.0 20000.0 20000.0 19000.0 10.0 0.5 -0.5
000003@stack.mrcs 200.0 2.0 0.1 5.0 20000.0 21000.0 20000.0 20.0 1.5 -2.5
"""

STAR_QUOTED = STAR_31.replace("_rlnRandomSubset #11", "_rlnMicrographName #11 # theirs").replace(
    " 1\n000003", ' "Bob\'s grid/a#1.mrc"\n000003'
)
STAR_QUOTED = STAR_QUOTED.replace(" 2\n000002", " 'b c' # why\n000002").replace("0.0 0.0 1\n", "0.0 0.0 d'e\n")

CS_FIELDS = {
    "uid": ("<u8", np.arange(40)),
    "blob/path": ("S16", b">stack.mrcs"),
    "blob/idx": ("<u4", 1),
    "blob/psize_A": ("<f4", 2.5),
    "ctf/df1_A": ("<f4", 2e4),
    "ctf/df2_A": ("<f4", 1.9e4),
    "ctf/df_angle_rad": ("<f4", 0.5),
    "ctf/phase_shift_rad": ("<f4", 0.0),
    "ctf/accel_kv": ("<f4", 300.0),
    "ctf/cs_mm": ("<f4", 2.7),
    "ctf/amp_contrast": ("<f4", 0.1),
    "alignments3D/pose": (("<f4", (3,)), 0.5),
    "alignments3D/shift": (("<f4", (2,)), 1.5),
    "alignments3D/psize_A": ("<f4", 2.5),
}

NUMBERS = ["0", "-1", "1", "2", "7", "1e-300", "1e39", "1e300", "nan", "inf", "-inf", "<NA>", "None", "true", "0x1f"]
NAMES = ["stack.mrcs", "2@stack.mrcs", "0@stack.mrcs", "99@stack.mrcs", "1@", "@", "1@.", "1@/", "1@\0.mrcs"]
NAMES += ["1@../../stack.mrcs", "1@/dev/zero", "1@empty.mrcs", "999999999@stack.mrcs", "٣@stack.mrcs", "1@" + 300 * "x"]
TEXTS = ['"', "'", '""', "#", "_rlnImageName", "loop_", "data_", "data_particles", "\t", "é", "\u2028", "\x1b[31m"]
ASCII = st.text(st.characters(min_codepoint=9, max_codepoint=126), max_size=8).map(str.encode)
ODD = st.sampled_from(NUMBERS + NAMES + TEXTS) | st.text(max_size=12)


KINDS = ["S4", "U4", "<f8", ">f4", "<i8", "?", "V3", "<c8", "<M8[s]", ("<f4", (3,)), ("<i2", (2, 2)), ("<f4", (0,))]

CLAIMS = {
    f"({RECORDS},)".encode(): [
        b"(1,)",
        b"(0,)",
        b"()",
        b"(2, 1)",
        b"(-1,)",
        b"(4611686018427387904,)",
        b"(99999,)",
        b"(True,)",
        b"x",
    ],
    b"'<f4'": [b"'|O'", b"'f16'", b"{}", b"((('<f4'", b"'<f4', -1", b"'<f4', (999999999,)"],
    b"'descr'": [b"'fortran_order'", 90 * b"[", b"__import__('os').abort()", b'"descr'],
    b"\x93NUMPY": [b"PK\x03\x04aa", b"\x80\x04K\x01.a", b"\x93NUMPX"],
}
"""Bytes of a .cs file's header, and what a false one has in their place."""


def stack_bytes() -> bytes:
    """Three images of 8 × 8 pixels of 2.5 Å."""
    header = np.zeros(1, mrcfile.dtypes.HEADER_DTYPE)
    header["nx"] = header["ny"] = header["mx"] = header["my"] = BOX
    header["nz"] = header["mz"] = COUNT
    header["mode"], header["map"], header["machst"] = 2, b"MAP ", [0x44, 0x44, 0, 0]
    header["cella"]["x"] = header["cella"]["y"] = 2.5 * BOX
    return header.tobytes() + np.random.default_rng(0).normal(size=(COUNT, BOX, BOX)).astype(np.float32).tobytes()


def cs_bytes(fields: dict[str, tuple]) -> bytes:
    """Records with these fields: kind and value of each, None for that kind's zero."""
    kinds = [(name, *kind) if isinstance(kind, tuple) else (name, kind) for name, (kind, _) in fields.items()]
    records, stream = np.zeros(RECORDS, kinds), io.BytesIO()
    for name, (_, value) in fields.items():
        if value is not None:
            records[name] = value
    np.save(stream, records)
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sound stack and an empty one; in `stacks/` a sound .cs file, whose stack a case replaces."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "stacks").mkdir()
    (folder / "empty.mrcs").touch()
    (folder / "stack.mrcs").write_bytes(stack_bytes())
    (folder / "stacks/particles.cs").write_bytes(cs_bytes(CS_FIELDS))
    return folder


class TooSlow(BaseException):
    """No Exception: a reader that catches those does not catch this one."""


@contextmanager
def limits() -> Iterator[None]:
    """Raises where the block takes more than `SECONDS` or, at any time, `BYTES` of memory."""

    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_sound_or_refused(star: Path, told: Told = Told()) -> bool:
    """True where the particles are read, and are sound; False where one line says why not."""
    _summarise.cache_clear()
    warnings.simplefilter("ignore", FileWarning)
    with limits():
        try:
            check_inside(star, None, read_tables(star, told=told)[1])
            particles = read_particles(star, told=told)
            count = summarise(star, told=told).subsets[None]
        except ConfigError as error:
            assert str(star.parent) in str(error)
            assert str(error).isprintable()
            return False
        images = np.asarray(particles.images)
    assert len(images) == len(particles.ctf) == len(particles.particle_table) == count > 0
    assert np.isfinite(images).all() and np.isfinite(particles.ctf).all() and particles.voxel_size > 0
    assert particles.rotations is None or np.isfinite(particles.rotations).all()
    assert particles.shifts is None or np.isfinite(particles.shifts).all()
    return True


def mutations(whole: bytes, letters: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The file with up to three places in it changed; `letters` are what replaces others."""
    place = st.tuples(st.integers(0, len(whole)), st.integers(1, 12))
    edit = st.tuples(st.sampled_from(["flip", "delete", "double", "replace", "cut"]), place, letters)
    return st.lists(edit, min_size=1, max_size=3).map(lambda edits: _edited(whole, edits))


def _edited(whole: bytes, edits: list) -> bytes:
    for kind, (start, length), letters in edits:
        head, part, tail = whole[:start], whole[start : start + length], whole[start + length :]
        flipped = bytes(byte ^ 1 << length % 8 for byte in part[:1]) + part[1:]
        replaced = letters + part[len(letters) :]
        middle = {"flip": flipped, "delete": b"", "double": part + part, "replace": replaced, "cut": part}[kind]
        whole = head + middle + (b"" if kind == "cut" else tail)
    return whole


@st.composite
def made_up_star(draw: st.DrawFn) -> bytes:
    """A sound star file in which words, whole columns or lines are replaced, left out or doubled."""
    lines = [line.split(" ") for line in draw(st.sampled_from([STAR_30, STAR_31, STAR_QUOTED])).splitlines()]
    table = [line for line in lines if len(line) > 5]
    for _ in range(draw(st.integers(1, 3))):
        change = draw(st.sampled_from(["word", "column", "label", "line"]))
        if change == "word":
            row = draw(st.sampled_from(table))
            row[draw(st.integers(0, len(row) - 1))] = draw(ODD)
        elif change == "column":  # the same in every row
            place, value = draw(st.integers(0, 10)), draw(ODD)
            for row in table:
                row[place : place + 1] = [value]
        elif change == "label":
            labels = [line for line in lines if line[0].startswith("_")]
            draw(st.sampled_from(labels))[0] = draw(st.sampled_from(labels))[0]
        else:
            start = draw(st.integers(0, len(lines) - 1))
            lines[start : start + 1] = draw(st.sampled_from([0, 2])) * [list(lines[start])]
    ends = draw(st.sampled_from(["\n", "\r\n", "\n\n", "\r"]))
    return ends.join(" ".join(line) for line in lines).encode(errors="replace")


@st.composite
def made_up_cs(draw: st.DrawFn) -> bytes:
    """Records with the fields' types or values changed, or a header that claims what the file does not hold."""
    fields = dict(CS_FIELDS)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=3)):
        kind, _ = fields.pop(name)
        change = draw(st.sampled_from(["drop", "kind", "value"]))
        if change == "kind":
            fields[name] = (draw(st.sampled_from(KINDS)), None)
        elif change == "value":
            values = {"S16": [b"\xff\xfe", b"", b">/dev/zero", b">a\nb"], "<u4": [7, 2**32 - 1], "<u8": [7, 2**64 - 1]}
            fields[name] = (kind, draw(st.sampled_from(values.get(kind, [np.nan, -1, 1e38, 0]))))
    whole = cs_bytes(fields)
    if draw(st.booleans()):
        old, false = draw(st.sampled_from(list(CLAIMS.items())))
        whole = whole.replace(old, draw(st.sampled_from(false)), 1)
    return whole


@st.composite
def made_up_stack(draw: st.DrawFn, whole: bytes) -> bytes:
    """A stack whose header says something else, in either byte order."""
    header = np.array([np.frombuffer(whole[:1024], mrcfile.dtypes.HEADER_DTYPE)[0]])
    for name in draw(st.lists(st.sampled_from(["nx", "ny", "nz", "nsymbt"]), max_size=3)):
        header[name] = draw(st.sampled_from([0, 1, 2, 3, 8, -1, -8, 2**15, 2**21, 2**31 - 1, -(2**31)]))
    header["mode"] = draw(st.sampled_from([2, 2, 2, 2, 0, 0, 1, 6, 12, 12, 3, 4, 101, -1, 2**24]))
    header["dmin"], header["dmax"] = draw(st.sampled_from([(0, 0), (0, 255), (-128, 127), (np.nan, np.inf), (3, 1e38)]))
    header["mx"] = draw(st.sampled_from([8, 0, 100, -1, 2**31 - 1]))
    header["extra2"] = draw(
        st.sampled_from([b"", struct.pack("<ii", 1146047817, 0), struct.pack(">ii", 1146047817, 1)])
    )
    header["cella"]["x"] = draw(st.sampled_from([20.0, 0.0, 8.0, -20.0, np.nan, np.inf, 1e38]))
    order = draw(st.sampled_from("<>"))
    return header.astype(header.dtype.newbyteorder(order)).tobytes() + whole[1024:]


@given(st.sampled_from([STAR_31, STAR_30, STAR_QUOTED]).flatmap(lambda text: mutations(text.encode(), ASCII)))
@tried
def test_star_files_with_bytes_changed(folder: Path, content: bytes) -> None:
    (folder / "mutated.star").write_bytes(content)
    is_sound_or_refused(folder / "mutated.star")


@given(made_up_star())
@tried
def test_star_files_with_words_that_do_not_belong_there(folder: Path, content: bytes) -> None:
    (folder / "made_up.star").write_bytes(content)
    is_sound_or_refused(folder / "made_up.star")


@given(mutations(cs_bytes(CS_FIELDS), st.binary(max_size=8)))
@tried
def test_cryosparc_files_with_bytes_changed(folder: Path, content: bytes) -> None:
    (folder / "mutated.cs").write_bytes(content)
    is_sound_or_refused(folder / "mutated.cs")


@given(made_up_cs())
@tried
def test_cryosparc_files_with_fields_and_claims_of_any_kind(folder: Path, content: bytes) -> None:
    (folder / "made_up.cs").write_bytes(content)
    is_sound_or_refused(folder / "made_up.cs")


@given(made_up_cs(), st.booleans())
@tried
def test_pass_through_files_with_fields_and_claims_of_any_kind(folder: Path, content: bytes, first: bool) -> None:
    (folder / "made_up.cs").write_bytes(content)
    (folder / "sound.cs").write_bytes(
        cs_bytes({name: CS_FIELDS[name] for name in list(CS_FIELDS)[: 6 if first else 1]})
    )
    pair = ("sound.cs", "made_up.cs") if first else ("made_up.cs", "sound.cs")
    is_sound_or_refused(folder / pair[0], Told(passthrough=(str(folder / pair[1]),)))


@given(mutations(stack_bytes(), st.binary(max_size=8)))
@tried
def test_stacks_with_bytes_changed(folder: Path, content: bytes) -> None:
    (folder / "stacks/stack.mrcs").write_bytes(content)
    is_sound_or_refused(folder / "stacks/particles.cs")


@given(made_up_stack(stack_bytes()))
@tried
def test_stacks_with_headers_of_any_kind(folder: Path, content: bytes) -> None:
    (folder / "stacks/stack.mrcs").write_bytes(content)
    is_sound_or_refused(folder / "stacks/particles.cs")


def npz_bytes(**arrays: object) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


COORDS = np.array([[1.0, 2.0, 3.0], [4.0, -5.0, 6.5], [-7.0, 8.0, 9.25]])
NPZ = npz_bytes(coords=COORDS, elements=np.array(["C", "N", "ZN"]))


def lying_npz(claim: str, kind: str = "<f4", body: bytes = b"\0" * 36) -> bytes:
    """An .npz whose coords say that they have another shape or type than they hold."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {claim}, }}".encode().ljust(117) + b"\n"
    elements, stream = io.BytesIO(), io.BytesIO()
    np.save(elements, np.array([6, 7, 30], np.uint8))
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("coords.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + body)
        archive.writestr("elements.npy", elements.getvalue())
    return stream.getvalue()


def cif_bytes(operators: str = "1-2", elements: tuple[str, ...] = ("C", "N", "ZN")) -> bytes:
    """Three atoms as mmCIF, and a biological assembly of copies that lie 50 Å apart."""
    entry, chain = gemmi.Structure(), gemmi.Chain("A")
    for number, (element, position) in enumerate(zip(elements, COORDS.tolist(), strict=True), 1):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "UNL", gemmi.SeqId(str(number))
        atom.name, atom.element, atom.pos = element, gemmi.Element(element), gemmi.Position(*position)
        residue.add_atom(atom)
        chain.add_residue(residue)
    entry.add_model(gemmi.Model(1))
    entry[0].add_chain(chain)
    entry.setup_entities()
    part, assembly = gemmi.Assembly.Gen(), gemmi.Assembly("1")
    part.subchains = sorted({residue.subchain for residue in entry[0][0]})
    for copy in range(4):
        operator = gemmi.Assembly.Operator()
        operator.transform = gemmi.Transform(gemmi.Mat33(), gemmi.Vec3(50.0 * copy, 0, 0))
        part.operators.append(operator)
    assembly.generators.append(part)
    entry.assemblies.append(assembly)
    return entry.make_mmcif_document().as_string().replace("1,2,3,4", f"'{operators}'").encode()


def pdb_bytes() -> bytes:
    return gemmi.read_structure_string(cif_bytes(), format=gemmi.CoorFormat.Mmcif).make_pdb_string().encode()


def map_bytes(**header: object) -> bytes:
    """A map of 4 × 6 × 8 voxels of 2 Å, whose header says something else where it is asked to."""
    fields = np.zeros(1, mrcfile.dtypes.HEADER_DTYPE)
    sizes = {"nz": 4, "ny": 6, "nx": 8, "mz": 4, "my": 6, "mx": 8, "mode": 2, "mapc": 1, "mapr": 2, "maps": 3}
    for name, value in ({"cella": (16.0, 12.0, 8.0), "map": b"MAP "} | sizes | header).items():
        fields[name] = value
    return fields.tobytes() + np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32).tobytes()


def atoms_are_sound_or_refused(path: Path) -> bool:
    """True where atoms are read, and are sound, as deposited and as an assembly; False where one line says why not."""
    try:
        with limits():
            coords, numbers = read_atoms(path)
            assert coords.shape == (len(numbers), 3) and len(numbers) > 0
            assert np.isfinite(coords).all() and (numbers > 0).all() and (numbers < 119).all()
            read_atoms(path, "1")
    except ConfigError as error:
        assert str(path) in str(error) and str(error).isprintable()
        return "has no assemblies" in str(error) or "has no biological assembly" in str(error)
    return True


def map_is_sound_or_refused(path: Path) -> bool:
    try:
        with limits(), np.errstate(all="raise", under="ignore"):
            volume, voxel_size = read_map(path)
            assert volume.ndim == 3 and volume.dtype == np.float32 and np.isfinite(volume).all() and voxel_size > 0
    except ConfigError as error:
        assert str(path) in str(error) and str(error).isprintable()
        return False
    return True


REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a header of 10^12 atoms": ("a.npz", lambda: lying_npz("(1000000000000, 3)"), "says that its shape is"),
    "a negative shape": ("a.npz", lambda: lying_npz("(-1, 3)"), "cannot be read"),
    "objects": ("a.npz", lambda: lying_npz("(3, 3)", "|O"), "holds Python objects"),
    "pickled objects": (
        "a.npz",
        lambda: npz_bytes(coords=np.array([{}, None], object), elements=[6, 7]),
        "Python objects",
    ),
    "atoms without a size": ("a.npz", lambda: lying_npz("(1000000000000, 3)", "<U0", b""), "not \\(n, 3\\)"),
    "a bomb": ("a.npz", lambda: npz_bytes(coords=np.zeros((1_000_000, 3)), elements=np.zeros(9)), "100 times as large"),
    "a coordinate that is nan": (
        "a.npz",
        lambda: npz_bytes(coords=COORDS * np.nan, elements=[6, 7, 8]),
        "atom 1",
    ),
    "a coordinate that is inf": (
        "a.npz",
        lambda: npz_bytes(coords=COORDS * [1, np.inf, 1], elements=[6, 7, 8]),
        "atom 1",
    ),
    "a coordinate too far": ("a.npz", lambda: npz_bytes(coords=COORDS * 1e300, elements=[6, 7, 8]), "up to 100,000 Å"),
    "no atoms": ("a.npz", lambda: npz_bytes(coords=COORDS[:0], elements=np.zeros(0, int)), "holds no atoms"),
    "coordinates of a plane": ("a.npz", lambda: npz_bytes(coords=COORDS[:, :2], elements=[6, 7, 8]), "not \\(n, 3\\)"),
    "too few elements": ("a.npz", lambda: npz_bytes(coords=COORDS, elements=[6, 7]), "not \\(n, 3\\)"),
    "complex coordinates": ("a.npz", lambda: npz_bytes(coords=COORDS * 1j, elements=[6, 7, 8]), "not of numbers"),
    "an unknown symbol": (
        "a.npz",
        lambda: npz_bytes(coords=COORDS, elements=["C", "Qq", "N"]),
        "Qq among",
    ),
    "an unknown number": ("a.npz", lambda: npz_bytes(coords=COORDS, elements=[6, 7, 119]), "119 among its elements"),
    "half an element": ("a.npz", lambda: npz_bytes(coords=COORDS, elements=[6, 7, 7.5]), "7.5 among its elements"),
    "packed coordinates of a line": (
        "a.npz",
        lambda: npz_bytes(coords_delta=np.zeros(3, np.int16), elements=[6, 7, 8]),
        "not \\(n, 3\\)",
    ),
    "a bomb of text": ("a.cif.gz", lambda: gzip.compress(b"#" + b" " * 30_000_000), "100 times as large"),
    "a text cut short": ("a.cif.gz", lambda: gzip.compress(cif_bytes())[:-20], "cannot be read"),
    "a cif cut within a row": ("a.cif", lambda: cif_bytes()[: cif_bytes().rindex(b"ZN") + 4], "cannot be read"),
    "an empty file": ("a.cif", lambda: b"", "cannot be read"),
    "no block": ("a.cif", lambda: b"# nothing", "cannot be read"),
    "no model": ("a.cif", lambda: b"data_x\n_entry.id x\n", "holds no atoms"),
    "no coordinate": ("a.cif", lambda: cif_bytes().replace(b"6.5", b"?"), "atom 2 lies at .*nan"),
    "elements that nobody knows": ("a.cif", lambda: cif_bytes(elements=("X", "X", "X")), "holds no atoms of known"),
    "endless operators": ("a.cif", lambda: cif_bytes("1-2147483647"), "more than 100,000 copies"),
    "another kind": ("a.xyz", lambda: b"3\n\nC 0 0 0\n", "its name ends with .xyz"),
    "a map of more than it holds": ("a.mrc", lambda: map_bytes(nx=40_000, ny=40_000), "is cut short"),
    "a long extended header": ("a.mrc", lambda: map_bytes(nsymbt=2**31 - 1), "is cut short"),
    "a negative extended header": ("a.mrc", lambda: map_bytes(nsymbt=-1024), "is cut short"),
    "a negative side": ("a.mrc", lambda: map_bytes(nz=-4), "must be one 3D volume"),
    "one section": ("a.mrc", lambda: map_bytes(nz=1), "must be one 3D volume"),
    "several volumes": ("a.mrc", lambda: map_bytes(ispg=401), "must be one 3D volume"),
    "complex voxels": ("a.mrc", lambda: map_bytes(mode=4), "not an MRC file of real numbers"),
    "a packed map": ("a.mrc", lambda: gzip.compress(map_bytes()), "not an MRC file of real numbers"),
    "a short file": ("a.map", lambda: map_bytes()[:1000], "not an MRC file of real numbers"),
    "no voxel size": ("a.mrc", lambda: map_bytes(cella=(0.0, 0.0, 0.0)), "set one positive size"),
    "a voxel size that is no number": ("a.mrc", lambda: map_bytes(cella=(np.nan, 12.0, 8.0)), "set one positive size"),
    "a huge voxel size": ("a.mrc", lambda: map_bytes(cella=(8e30, 6e30, 4e30)), "set one positive size"),
    "a tiny voxel size": ("a.mrc", lambda: map_bytes(cella=(8e-30, 6e-30, 4e-30)), "set one positive size"),
    "voxels that are no cubes": ("a.mrc", lambda: map_bytes(cella=(16.0, 16.0, 8.0)), "set one positive size"),
    "no sampling": ("a.mrc", lambda: map_bytes(mx=0, my=-6), "set one positive size"),
    "huge values": ("a.mrc", lambda: map_bytes()[:1024] + np.full(192, 3e38, "<f4").tobytes(), "finite values"),
    "infinite values": ("a.mrc", lambda: map_bytes()[:1024] + np.full(192, np.inf, "<f4").tobytes(), "finite values"),
    "a map of nothing": ("a.mrc", lambda: map_bytes()[:1024] + bytes(768), "the map is empty"),
}
"""Structures and maps that are wrong in a way that a changed byte seldom is: name, content, words of the message."""


@pytest.mark.parametrize("what", REFUSED)
def test_structures_and_maps_that_claim_what_is_not_so_are_refused_at_once(tmp_path: Path, what: str) -> None:
    name, content, words = REFUSED[what]
    (tmp_path / name).write_bytes(content())
    started = time.process_time()
    with limits(), pytest.raises(ConfigError, match=words) as refused:
        density(tmp_path / name, 32, 4.0, 2.0)
    assert time.process_time() - started < 1.0
    assert name in str(refused.value) and str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["a.npz", "a.cif", "a.mrc"])
def test_a_folder_in_place_of_a_structure_or_map_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name} is a folder"):
        density(tmp_path / name, 32, 4.0, 2.0)


def test_a_map_that_is_not_cubic_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.mrc").write_bytes(map_bytes())
    assert read_map(tmp_path / "a.mrc")[0].shape == (4, 6, 8)
    assert density(tmp_path / "a.mrc", 32, 1.0, 2.0).shape == (32, 32, 32)


@given(mutations(NPZ, st.binary(max_size=8)))
@tried
def test_npz_structures_with_bytes_changed(folder: Path, content: bytes) -> None:
    (folder / "mutated.npz").write_bytes(content)
    atoms_are_sound_or_refused(folder / "mutated.npz")


@given(st.sampled_from([cif_bytes(), pdb_bytes()]).flatmap(lambda whole: mutations(whole, ASCII)))
@tried
def test_structures_of_text_with_bytes_changed(folder: Path, content: bytes) -> None:
    path = folder / ("mutated.cif" if b"_atom_site" in content else "mutated.pdb")
    path.write_bytes(content)
    atoms_are_sound_or_refused(path)


@given(mutations(map_bytes(), st.binary(max_size=8)))
@tried
def test_maps_with_bytes_changed(folder: Path, content: bytes) -> None:
    (folder / "mutated.mrc").write_bytes(content)
    map_is_sound_or_refused(folder / "mutated.mrc")


def test_the_files_that_are_changed_are_sound_before(folder: Path) -> None:
    for name, content in {"a.star": STAR_31, "b.star": STAR_30, "q.star": STAR_QUOTED}.items():
        (folder / name).write_text(content)
        assert is_sound_or_refused(folder / name)
    for name, content in {"a.npz": NPZ, "b.cif": cif_bytes(), "c.pdb": pdb_bytes()}.items():
        (folder / name).write_bytes(content)
        assert atoms_are_sound_or_refused(folder / name)
    (folder / "d.mrc").write_bytes(map_bytes())
    assert map_is_sound_or_refused(folder / "d.mrc")
    (folder / "c.cs").write_bytes(cs_bytes(CS_FIELDS))
    assert is_sound_or_refused(folder / "c.cs")
    assert list(read_tables(folder / "q.star")[1]["rlnMicrographName"]) == ["Bob's grid/a#1.mrc", "b c", "d'e"]


def test_what_takes_long_or_asks_for_memory_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SECONDS", 0.05)
    with pytest.raises(TooSlow), limits():
        time.sleep(1)
    with pytest.raises(AssertionError), limits():
        np.zeros(BYTES, np.int8)
