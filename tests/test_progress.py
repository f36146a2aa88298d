"""What every command shares: progress in few lines."""

import importlib
import itertools
import subprocess
import sys

import pytest
import yaml

from equipose.io import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second passes from one look at it to the next."""
    seconds = itertools.count()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(seconds)))


def lines_for(images: int) -> list[str]:
    said: list[str] = []
    report = progress.reporter(said.append)
    for done in range(1, images + 1):
        report("made", done, images)
    return said


def test_what_takes_long_is_said_with_the_time_left(clock: None) -> None:
    assert lines_for(100)[0] == "made 6 of 100 images, about 78 s to go"


def test_what_is_quick_says_nothing(clock: None) -> None:
    assert lines_for(5) == []


def test_what_takes_an_hour_says_no_more_than_what_takes_minutes(clock: None) -> None:
    assert len(lines_for(3600)) <= progress.REPORTS


def test_each_thing_that_is_done_has_its_own_time(clock: None) -> None:
    said: list[str] = []
    report = progress.reporter(said.append)
    for what in ("projected", "written"):
        for done in range(1, 8):
            report(what, done, 7)
    assert said == ["projected 6 of 7 images, about 1 s to go", "written 6 of 7 images, about 1 s to go"]


def test_a_time_for_people_has_two_digits_or_so() -> None:
    assert [progress.duration(seconds) for seconds in (0, 119.4, 120, 7140, 7200, 35_000, 1_846_800)] == [
        "0 s",
        "119 s",
        "2 minutes",
        "119 minutes",
        "2.0 hours",
        "9.7 hours",
        "513 hours",
    ]


def test_a_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture) -> None:
    def main() -> None:
        raise progress.ConfigError("the key is wrong")

    with pytest.raises(SystemExit, match="2"):
        progress.run_main(main)
    assert capsys.readouterr().err == "error: the key is wrong\n"


@pytest.mark.parametrize(
    "command",
    [["equipose.study.plan", "CONFIG"], ["equipose.cli", "--help"]],
    ids=["plan", "equipose --help"],
)
def test_a_pipe_that_nobody_reads_ends_a_command_without_a_traceback(tmp_path, paper_config, command) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(paper_config | {"pathvars": {"results": str(tmp_path)}}))
    words = [word.replace("CONFIG", str(tmp_path / "config.yaml")) for word in command]
    process = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == (0 if "--help" in command else 141)  # argparse sees to the first itself
    process.stderr.close()


@pytest.mark.parametrize(
    ("module", "words", "wanted"),
    [
        ("equipose.study.plan", ["config.yaml", "--gpus", "0"], "argument --gpus: 0 is no whole number of 1 or more"),
        ("equipose.training.train", ["--threads", "0"], "argument --threads: 0 is no whole number of 1 or more"),
        (
            "equipose.training.evaluate",
            ["--jobs-per-gpu", "0"],
            "argument --jobs-per-gpu: 0 is no whole number of 1 or more",
        ),
        ("equipose.data.structures", ["density", "--box", "-1"], "argument --box: -1 is no whole number of 1 or more"),
        (
            "equipose.data.structures",
            ["density", "--voxel-size", "nan"],
            "argument --voxel-size: nan is no number above 0",
        ),
        ("equipose.figures.subsets", ["--within", "0"], "argument --within: 0 is no number above 0"),
    ],
)
def test_numbers_of_modules_are_refused_by_the_name_of_their_option(
    monkeypatch, capsys, module: str, words: list[str], wanted: str
) -> None:
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(module).main()
    assert wanted in capsys.readouterr().err
