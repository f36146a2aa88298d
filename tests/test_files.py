"""Files are whole or absent, a full disk gives one line, and no file keeps a time in the future."""

import contextlib
import errno
import os
import tempfile
import time
from pathlib import Path

import pytest

from equipose.errors import ConfigError
from equipose.io.files import cache_folder, check_writable, leave_the_future, sampled_digest, whole_file
from equipose.io.locks import one_at_a_time


def test_a_file_whose_writing_fails_stays_as_it_was_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("before")
    with pytest.raises(KeyError), whole_file(tmp_path / "x") as partial:
        partial.write_text("half")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "before"


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EROFS, "make the folder writable")])
def test_a_disk_that_takes_nothing_is_one_line_with_the_remedy(tmp_path: Path, number: int, remedy: str) -> None:
    message = f"x cannot be written .*: {remedy}, and the same command continues"
    with pytest.raises(ConfigError, match=message), whole_file(tmp_path / "x"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_caches_are_where_the_user_has_them_or_elsewhere_if_nothing_can_be_written_there(
    tmp_path: Path, monkeypatch, variable: str
) -> None:
    """Snakemake ends in a traceback without a cache. Homes of cluster nodes may be missing, read-only or full."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    assert cache_folder(tmp_path / "other") == tmp_path / ("own/.cache" if variable == "HOME" else "own")
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file"))
    assert cache_folder(tmp_path / "other") == tmp_path / "other"


def test_a_folder_right_in_the_results_that_takes_nothing_is_named(tmp_path: Path, monkeypatch) -> None:
    def read_only(dir: Path) -> contextlib.nullcontext:
        if dir.name == "runs":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return contextlib.nullcontext()

    check_writable(tmp_path / "not made yet")
    for name in ("datasets", "runs"):
        (tmp_path / name).mkdir()
    check_writable(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["datasets", "runs"]
    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(ConfigError, match="runs cannot be written .*: make the folder writable"):
        check_writable(tmp_path)


def test_torchs_own_error_for_a_full_disk_is_understood(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make room"), whole_file(tmp_path / "x"):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 (as torch raises it)


def test_another_mistake_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), whole_file(tmp_path / "x"):
        raise RuntimeError("shapes differ")


def test_files_of_ours_from_the_future_get_the_time_of_now_and_others_keep_theirs(tmp_path: Path) -> None:
    now = time.time()
    for name, when in (("tomorrow.pt", now + 86400), ("yesterday.pt", now - 86400), ("a user's", now + 86400)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (when, when))
    leave_the_future(tmp_path, lambda path: path.suffix == ".pt")
    assert (tmp_path / "tomorrow.pt").stat().st_mtime == pytest.approx(now, abs=10)
    assert (tmp_path / "yesterday.pt").stat().st_mtime == pytest.approx(now - 86400)
    assert (tmp_path / "a user's").stat().st_mtime == pytest.approx(now + 86400)


def test_whoever_comes_second_is_told_so(tmp_path: Path) -> None:
    said: list[str] = []
    child = os.fork()
    if child == 0:
        with one_at_a_time(tmp_path / "config.json", said.append):
            (tmp_path / "held").touch()
            time.sleep(0.5)
        os._exit(0)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with one_at_a_time(tmp_path / "config.json", said.append) as waited:
        assert waited and "waiting for its end" in said[0]
    os.waitpid(child, 0)
    with one_at_a_time(tmp_path / "config.json", said.append) as waited:
        assert not waited


def test_a_digest_of_small_files_sees_every_byte_and_no_time(tmp_path: Path) -> None:
    path = tmp_path / "stack.mrcs"
    path.write_bytes(bytes(1_000_000))
    before = sampled_digest([path])
    os.utime(path, (1, 1))
    assert sampled_digest([path]) == before
    with path.open("r+b") as file:
        file.seek(654_321)
        file.write(b"1")
    assert sampled_digest([path]) != before


def test_of_large_files_a_digest_reads_little_and_sees_their_size_and_all_blocks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("equipose.io.files.READ_WHOLE", 0)
    monkeypatch.setattr("equipose.io.files.BLOCKS", 4)
    monkeypatch.setattr("equipose.io.files.BLOCK", 10)
    content = bytearray(1000)
    path = tmp_path / "stack.mrcs"

    def digest() -> str:
        path.write_bytes(content)
        return sampled_digest([path])

    before = digest()
    for place in (0, 335, 999):  # of the blocks that start at 0, 330, 660 and 990
        content[place] = 1
        assert digest() != before
        content[place] = 0
    content[500] = 1
    assert digest() == before
    content += b"1"
    assert digest() != before
