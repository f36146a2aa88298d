"""What every command shares: progress in few lines."""

import itertools

import pytest

from equipose import cli


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second passes from one look at it to the next."""
    seconds = itertools.count()
    monkeypatch.setattr(cli.time, "perf_counter", lambda: float(next(seconds)))


def lines_for(images: int) -> list[str]:
    said: list[str] = []
    report = cli.reporter(said.append)
    for done in range(1, images + 1):
        report("made", done, images)
    return said


def test_what_takes_long_is_said_with_the_time_left(clock: None) -> None:
    assert lines_for(100)[0] == "made 6 of 100 images, about 78 s to go"


def test_what_is_quick_says_nothing(clock: None) -> None:
    assert lines_for(5) == []


def test_what_takes_an_hour_says_no_more_than_what_takes_minutes(clock: None) -> None:
    assert len(lines_for(3600)) <= cli.REPORTS


def test_each_thing_that_is_done_has_its_own_time(clock: None) -> None:
    said: list[str] = []
    report = cli.reporter(said.append)
    for what in ("projected", "written"):
        for done in range(1, 8):
            report(what, done, 7)
    assert said == ["projected 6 of 7 images, about 1 s to go", "written 6 of 7 images, about 1 s to go"]
