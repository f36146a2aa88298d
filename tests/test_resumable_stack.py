"""A stack that is made in parts: after an interruption its bytes are the same, and changed parts are made again."""

import errno
import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from equipose.errors import ConfigError
from equipose.io import resumable_stack
from equipose.io.stacks import HEADER

COUNT, BOX = 10, 4


class Maker:
    """Doubles images, counts the parts that it has made, and stops before the part that `stop_at` says."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "particles.mrcs"
        self.images = np.random.default_rng(0).normal(size=(COUNT, BOX, BOX)).astype(np.float32)
        self.made: list[int] = []
        self.said: list[str] = []

    def __call__(self, settings: str = "a", stop_at: int | None = None, error: type = KeyboardInterrupt) -> bytes:
        self.made.clear()

        def double(images: np.ndarray, place: slice) -> np.ndarray:
            if place.start == stop_at:
                raise error("stopped")
            self.made.append(place.start)
            return 2 * images

        shape = (COUNT, BOX, BOX)
        resumable_stack.write_stack(
            self.path, shape, 2.5, settings, 3, lambda place: self.images[place], double, self.said.append
        )
        return self.path.read_bytes()


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def test_the_stack_holds_every_image_and_nothing_else_is_left(make: Maker) -> None:
    make()
    np.testing.assert_array_equal(mrcfile.read(make.path), 2 * make.images)
    with mrcfile.open(make.path) as mrc:
        assert float(mrc.voxel_size.x) == 2.5 and mrc.is_image_stack()
    assert list(make.path.parent.iterdir()) == [make.path]


def test_an_interrupted_call_goes_on_where_it_was_to_the_same_bytes(make: Maker) -> None:
    whole = make()
    make.path.unlink()
    with pytest.raises(KeyboardInterrupt):
        make(stop_at=6)
    assert not make.path.exists() and make.made == [0, 3]
    assert make() == whole
    assert make.made == [6, 9] and "2 parts" in make.said[-1]


def test_a_part_whose_source_has_changed_is_made_again(make: Maker) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(stop_at=9)
    make.images[4] += 1
    make()
    assert make.made == [3, 9]
    np.testing.assert_array_equal(mrcfile.read(make.path), 2 * make.images)


def test_a_part_that_was_spoilt_on_the_disk_is_made_again(make: Maker) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(stop_at=9)
    partial = make.path.with_name(".partial-particles.mrcs")
    spoilt = bytearray(partial.read_bytes())
    spoilt[1024 + 5] ^= 1
    partial.write_bytes(spoilt)
    make()
    assert make.made == [0, 9]
    np.testing.assert_array_equal(mrcfile.read(make.path), 2 * make.images)


def test_other_settings_begin_anew(make: Maker) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(stop_at=9)
    make(settings="b")
    assert make.made == [0, 3, 6, 9]


def test_a_journal_that_was_cut_short_is_believed_as_far_as_it_goes(make: Maker) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(stop_at=9)
    journal = make.path.with_name(".partial-particles.sums")
    journal.write_text(journal.read_text()[:-30])
    make()
    assert make.made == [6, 9]


def test_an_image_that_is_refused_leaves_nothing_behind(make: Maker) -> None:
    with pytest.raises(ConfigError):
        make(stop_at=6, error=ConfigError)
    assert list(make.path.parent.iterdir()) == []


def test_a_disk_without_room_is_told_before_an_image_is_made(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is written to a mapped file on a full disk ends the process by a signal (Linux: SIGBUS)."""

    def full(descriptor: int, start: int, size: int) -> None:
        assert (start, size) == (0, HEADER.itemsize + 4 * COUNT * BOX**2)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        ConfigError, match="cannot be written .No space left on device.: make room, and the same command"
    ):
        make()
    assert make.made == [] and not make.path.exists()
    monkeypatch.undo()
    assert make() == make.path.read_bytes() and make.made == [0, 3, 6, 9]
