"""Files that come into a watched folder are posed once each, when they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from equipose.errors import ConfigError, OtherParticles
from equipose.reconstruction import watching
from equipose.reconstruction.watching import watch


def test_each_file_is_posed_once_when_it_no_longer_grows_and_a_refused_one_when_it_has_changed(tmp_path: Path) -> None:
    folder, posed, said = tmp_path / "live", [], []
    folder.mkdir()

    def write(name: str, text: str, at: int) -> None:
        (folder / name).write_text(text)
        os.utime(folder / name, (at, at))

    def pose_one(star: Path, output: Path) -> dict[str, Any]:
        posed.append((star.name, star.read_text(), output.name))
        if star.read_text() == "broken":
            raise ConfigError(f"{star} is broken")
        return {"particles": [2, 3], "doubtful_share": 0.2}

    def come(look: int) -> None:
        if look == 1:
            write("late.star", "half", 200)
            write("early.star", "whole", 100)
            write("J1_passthrough_particles.cs", "", 50)
            write("notes.txt", "", 50)
        elif look == 2:
            write("late.star", "whole", 300)
        elif look == 4:
            write("bad.star", "broken", 400)
        elif look == 7:
            write("bad.star", "mended", 500)
        elif look == 10:
            raise KeyboardInterrupt

    looks = iter(range(1, 99))
    with pytest.raises(KeyboardInterrupt):
        watch(folder, tmp_path / "out", pose_one, said.append, lambda _: come(next(looks)))
    assert posed == [
        ("early.star", "whole", "early"),
        ("late.star", "whole", "late"),
        ("bad.star", "broken", "bad"),
        ("bad.star", "mended", "bad"),
    ]
    assert [line for line in said if line.startswith("error")] == [f"error: {folder / 'bad.star'} is broken"]
    assert "early: 5 particles, 20.0% doubtful" in said[0]


def test_a_file_whose_stacks_come_later_is_posed_and_its_error_is_said_once(tmp_path: Path) -> None:
    """Two are still copied when the file is whole; the first error of another kind is said, too."""
    folder, asked, said, looks = tmp_path / "live", [], [], iter(range(1, 99))
    folder.mkdir()
    (folder / "a.star").write_text("whole")
    errors = ["one.mrcs does not exist", "one.mrcs does not exist", "two.mrcs is cut short"]

    def pose_one(star: Path, output: Path) -> dict[str, Any]:
        asked.append(look)
        if len(asked) <= len(errors):
            raise ConfigError(errors[len(asked) - 1])
        return {"particles": [2, 3], "doubtful_share": 0.0}

    def wait(_: float) -> None:
        nonlocal look
        look = next(looks)
        if look == 90:
            raise KeyboardInterrupt

    look = 0
    with pytest.raises(KeyboardInterrupt):
        watch(folder, tmp_path / "out", pose_one, said.append, wait)
    assert asked == [1, 7, 19, 43]
    assert said[:2] == ["error: one.mrcs does not exist", "error: two.mrcs is cut short"] and "5 particles" in said[2]
    assert len(said) == 3


def test_a_file_that_grows_once_it_is_posed_gets_another_folder(tmp_path: Path) -> None:
    """RELION's on-the-fly processing writes the same file again, with more particles."""
    folder, looks, said = tmp_path / "live", iter(range(1, 99)), []
    folder.mkdir()
    known: dict[str, str] = {}

    def pose_one(star: Path, output: Path) -> dict[str, Any]:
        if known.setdefault(output.name, star.read_text()) != star.read_text():
            raise OtherParticles("another content")
        return {"particles": [2, 3], "doubtful_share": 0.0}

    def wait(_: float) -> None:
        look = next(looks)
        if look in (1, 4, 7):
            (folder / "a.star").write_text(f"at {look}")
            os.utime(folder / "a.star", (look, look))
        elif look == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(folder, tmp_path / "out", pose_one, said.append, wait)
    assert known == {"a": "at 1", "a_2": "at 4", "a_3": "at 7"}
    assert [line.partition(":")[0] for line in said] == [str(tmp_path / "out" / name) for name in known]


def test_a_file_that_is_removed_while_it_is_looked_at_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, listed = tmp_path / "live", os.scandir
    folder.mkdir()
    for name in ("gone.star", "stays.star"):
        (folder / name).touch()

    @contextmanager
    def removing(path: Path) -> Iterator[list[os.DirEntry]]:
        with listed(path) as entries:
            found = list(entries)
        (folder / "gone.star").unlink(missing_ok=True)
        yield found

    monkeypatch.setattr(os, "scandir", removing)
    assert [path.name for path, _ in watching._files(folder)] == ["stays.star"]
