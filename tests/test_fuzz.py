"""Whatever bytes a file holds, reading it gives sound particles or one line that says what is wrong.

Nothing else may come of it: no other exception, no long wait, no memory that a few bytes in a header ask for, nothing
executed. Two kinds of files: sound ones with bytes flipped, deleted, doubled, replaced or cut off, and ones made up
field by field from values that are wrong in a way that a byte seldom is. `make fuzz` tries some ten thousand files.
"""

import io
import os
import signal
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from equipose.errors import ConfigError
from equipose.particles import check_inside, read_particles, read_tables, summarise

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

CS_FIELDS = {
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


def is_sound_or_refused(star: Path) -> bool:
    """True where the particles are read, and are sound; False where one line says why not."""
    summarise.cache_clear()
    with limits():
        try:
            check_inside(star, None, read_tables(star)[1])
            particles = read_particles(star)
            count = summarise(star).subsets[None]
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
    lines = [line.split(" ") for line in draw(st.sampled_from([STAR_30, STAR_31])).splitlines()]
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
    return "\n".join(" ".join(line) for line in lines).encode(errors="replace")


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
            values = {"S16": [b"\xff\xfe", b"", b">/dev/zero", b">a\nb"], "<u4": [7, 2**32 - 1]}
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
    header["cella"]["x"] = draw(st.sampled_from([20.0, 0.0, 8.0, -20.0, np.nan, np.inf, 1e38]))
    order = draw(st.sampled_from("<>"))
    return header.astype(header.dtype.newbyteorder(order)).tobytes() + whole[1024:]


@given(st.sampled_from([STAR_31, STAR_30]).flatmap(lambda text: mutations(text.encode(), ASCII)))
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


def test_the_files_that_are_changed_are_sound_before(folder: Path) -> None:
    for name, content in {"a.star": STAR_31.encode(), "b.star": STAR_30.encode(), "c.cs": cs_bytes(CS_FIELDS)}.items():
        (folder / name).write_bytes(content)
        assert is_sound_or_refused(folder / name)


def test_what_takes_long_or_asks_for_memory_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SECONDS", 0.05)
    with pytest.raises(TooSlow), limits():
        time.sleep(1)
    with pytest.raises(AssertionError), limits():
        np.zeros(BYTES, np.int8)
