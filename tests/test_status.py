"""`equipose status`: the state of each run from its files, and the last words of what failed."""

import json
import os
import sys
from pathlib import Path

import pytest

from equipose import cli
from equipose.errors import ConfigError
from equipose.io.locks import alone
from equipose.study.status import STATES, run_status, status
from equipose.training.monitor import progress_line
from equipose.training.run_progress import Progress
from equipose.workflow.resolve import run_config

NOW = 1_800_000_000.0


@pytest.fixture
def results(paper_config: dict, tmp_path: Path) -> Path:
    """A results folder in which seven runs of the paper are about to begin."""
    for seed in range(7):
        config = run_config(paper_config, "80s_snr1", "d4_l2", seed)
        write(tmp_path / f"runs/80s_snr1/d4_l2/seed{seed}/config.json", config.to_json())
    return tmp_path


def write(path: Path, text: str, minutes_ago: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (NOW - 60 * minutes_ago,) * 2)


def log(results: Path, seed: int, text: str, minutes_ago: float = 0.0, rule: str = "train") -> None:
    write(results / f"logs/{rule}/80s_snr1/d4_l2/seed{seed}.log", text, minutes_ago)


def touch(results: Path, seed: int, name: str, minutes_ago: float = 0.0) -> None:
    write(results / f"runs/80s_snr1/d4_l2/seed{seed}/{name}", "", minutes_ago)


def state(results: Path, seed: int) -> str:
    return run_status(results, results / f"runs/80s_snr1/d4_l2/seed{seed}", 30.0, NOW).state


PROGRESS = "[80s_snr1 d4_l2 seed 1] step 4200, 1800 s · 70.0 min left · 440 ms a step · loss 0.1 · MSE 3.2000\n"


def test_each_state_is_read_from_the_files_of_a_run(results: Path) -> None:
    log(results, 0, PROGRESS, minutes_ago=900)
    touch(results, 0, "model.pt")
    touch(results, 0, "metrics.json")
    log(results, 1, PROGRESS, minutes_ago=2)
    log(results, 2, PROGRESS, minutes_ago=45)
    log(results, 3, PROGRESS + "stopped; the same command continues from the checkpoint\n", minutes_ago=45)
    log(results, 4, PROGRESS + "Traceback (most recent call last):\n  …\nRuntimeError: CUDA error\n", minutes_ago=45)
    log(results, 5, PROGRESS, minutes_ago=45)
    touch(results, 5, "model.pt")
    expected = ["done", "running", "stuck", "stopped", "failed", "trained", "waiting"]
    assert [state(results, seed) for seed in range(7)] == expected
    assert set(expected) == STATES.keys() - {"unreadable"}


def test_a_run_whose_checkpoint_is_young_is_not_stuck(results: Path) -> None:
    log(results, 0, "continuing from step 4200\n", minutes_ago=45)
    touch(results, 0, "checkpoint.pt", minutes_ago=1)
    assert state(results, 0) == "running"


def test_a_failed_evaluation_is_a_failed_run(results: Path) -> None:
    log(results, 0, PROGRESS)
    touch(results, 0, "model.pt")
    log(results, 0, "error: model.pt predicts NaN poses\n", rule="evaluate")
    assert state(results, 0) == "failed"


def test_a_run_whose_evaluation_is_at_work_is_running_and_stuck_once_nothing_is_heard(results: Path) -> None:
    log(results, 0, PROGRESS, minutes_ago=90)
    touch(results, 0, "model.pt", minutes_ago=90)
    log(results, 0, "", minutes_ago=29, rule="evaluate")
    assert state(results, 0) == "running"
    log(results, 0, "", minutes_ago=31, rule="evaluate")
    assert state(results, 0) == "stuck"


def test_the_page_counts_runs_hours_and_shows_metrics_and_last_words(results: Path) -> None:
    log(results, 1, PROGRESS, minutes_ago=2)
    log(results, 2, PROGRESS, minutes_ago=2)
    write(results / "logs/simulate/80s_snr1.log", "…\nerror: the disk is full\n")
    shown = status(results, 30.0, NOW)
    assert "7 runs: 2 running, 5 waiting\n" in shown
    hours = (2 * 70 + 5 * 100) / 60  # what two of them say, and five budgets of 6,000 s
    assert f"{hours:.1f} hours of training left, {hours / 2:.1f} hours at 2 runs at once" in shown
    assert "80s_snr1/d4_l2/seed1  step 4200, 1800 s · 70.0 min left" in shown and "MSE 3.2000  (2 min ago)" in shown
    assert "logs/simulate/80s_snr1.log ends with\n  …\n  error: the disk is full" in shown


def test_the_line_that_a_run_prints_is_understood(results: Path, small_run) -> None:
    progress = Progress(step=100, seconds=600.0, history=[{"loss": 0.1}])
    log(results, 0, progress_line(small_run(), progress) + "\n")
    assert run_status(results, results / "runs/80s_snr1/d4_l2/seed0", 30.0, NOW).minutes_left == 90.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{ broken", "Expecting property name"),
        ("[]", "Error"),
        ('{"seed": 1}', "`dataset` is missing"),
    ],
)
def test_a_run_that_cannot_be_read_is_listed_with_the_reason_and_the_others_as_usual(
    results: Path, text: str, reason: str
) -> None:
    log(results, 1, PROGRESS, minutes_ago=2)
    foreign = results / "runs/80s_snr1/d4_l2/seed3/config.json"
    foreign.write_text(text)
    shown = status(results, 30.0, NOW)
    assert "7 runs: 1 running, 1 unreadable, 5 waiting\n" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("  80s_snr1/d4_l2/seed3")]
    assert reason in line
    assert "80s_snr1/d4_l2/seed1  step 4200, 1800 s" in shown


def test_a_run_of_a_newer_version_is_read_without_the_keys_of_the_future(results: Path) -> None:
    newer = results / "runs/80s_snr1/d4_l2/seed3/config.json"
    newer.write_text(json.dumps(json.loads(newer.read_text()) | {"a key of the future": 1}))
    with pytest.warns(UserWarning, match="a key of the future"):
        assert "unreadable" not in status(results, 30.0, NOW)


@pytest.fixture
def reconstruction(paper_config: dict, tmp_path: Path) -> Path:
    """The folder of a reconstruction that has just begun."""
    write(tmp_path / "abinitio/particles.yaml", "")
    return tmp_path / "abinitio"


def test_a_reconstruction_says_its_stage_in_its_folder_and_in_the_one_of_its_workflow(
    reconstruction: Path, paper_config: dict, monkeypatch
) -> None:
    work = reconstruction / "work"
    for half in (1, 2):
        assert "stage 1 of 4: preparing the particles" in status(reconstruction, 30.0, NOW)
        write(work / f"datasets/half{half}/particles.star", "")
    for seed in range(2):
        config = run_config(paper_config, "80s_snr1", "d4_l2", seed)
        write(work / f"runs/80s_snr1/d4_l2/seed{seed}/config.json", config.to_json())
    for name, stage in (
        ("model.pt", "stage 2 of 4: training"),
        ("metrics.json", "stage 3 of 4: evaluating"),
    ):
        for seed in range(2):
            assert f"{reconstruction}: reconstruction, {stage}\n" in status(work, 30.0, NOW)
            touch(work, seed, name)
    assert "stage 4 of 4: joining the halves\n" in status(reconstruction, 30.0, NOW)
    write(work / "maps/particles/report.html", "")
    monkeypatch.chdir(work)
    for folder in (reconstruction, work, Path("."), Path("..")):
        assert "reconstruction, done\n" in status(folder, 30.0, NOW) and "2 runs: 2 done\n" in status(folder, 30.0, NOW)


def test_of_several_classes_the_stage_is_said_and_then_each_class(reconstruction: Path, paper_config: dict) -> None:
    write(reconstruction / "particles.yaml", "reconstructions: {particles: {classes: 2}}")
    work = reconstruction / "work"
    for half in (1, 2):  # their settings are those of the sorting; they are not trained
        config = run_config(paper_config, "80s_snr1", "d4_l2", half)
        write(work / f"runs/half{half}/d4_search/seed0/config.json", config.to_json())
    shown = status(reconstruction, 30.0, NOW)
    assert shown == f"{reconstruction}: 2 classes, stage 1 of 3: preparing the particles"
    for half in (1, 2):
        write(work / f"datasets/half{half}/particles.star", "")
    assert status(work, 30.0, NOW) == f"{reconstruction}: 2 classes, stage 2 of 3: sorting into classes"
    write(work / "logs/sort_classes/particles.log", "error: the disk is full\n")
    assert "sort_classes/particles.log ends with\n  error: the disk is full" in status(reconstruction, 30.0, NOW)
    write(work / "logs/sort_classes/particles.log", "")
    write(work / "classes/particles/classes.json", "{}")
    write(reconstruction / "class1/particles.yaml", "reconstructions: {particles: {classes: 1}}")
    assert status(reconstruction, 30.0, NOW) == (
        f"{reconstruction}: 2 classes, stage 3 of 3: reconstructing each class\n\n"
        f"{reconstruction}/class1: reconstruction, stage 1 of 4: preparing the particles"
    )
    write(reconstruction / "report.html", "")
    assert "2 classes, stage 3 of 3" in status(reconstruction, 30.0, NOW), "the page is that of a former command"
    finish(reconstruction / "class1")
    write(reconstruction / "reconstruction.json", '{"reconstructed": [{"folder": "class1"}]}')
    assert status(reconstruction, 30.0, NOW).startswith(f"{reconstruction}: 2 classes, done\n\n")


def finish(top: Path) -> None:
    """The files by which a reconstruction is done."""
    for half in (1, 2):
        write(top / f"work/datasets/half{half}/particles.star", "")
        for name in ("model.pt", "metrics.json"):
            write(top / f"work/runs/half{half}/d4_search/seed0/{name}", "")
    write(top / "work/maps/particles/report.html", "")


@pytest.fixture
def three_classes(reconstruction: Path) -> Path:
    """A finished reconstruction of three classes, the smallest of which was not made."""
    write(reconstruction / "particles.yaml", "reconstructions: {particles: {classes: 3}}")
    for half in (1, 2):
        write(reconstruction / f"work/datasets/half{half}/particles.star", "")
    sorting = {"particles": [[5, 5], [4, 4], [1, 1]]}
    write(reconstruction / "work/classes/particles/classes.json", json.dumps(sorting))
    for name in ("class1", "class2"):
        write(reconstruction / name / "particles.yaml", "")
        finish(reconstruction / name)
    made = [{"folder": "class1"}, {"folder": "class2"}]
    write(reconstruction / "reconstruction.json", json.dumps(sorting | {"reconstructed": made}))
    write(reconstruction / "report.html", "")
    return reconstruction


def test_classes_that_are_made_again_are_not_done_before_they_are_joined(three_classes: Path) -> None:
    assert status(three_classes, 30.0, NOW).count(", done") == 3
    with alone(three_classes / "work/reconstruct.lock", ""):  # the same command, which finds nothing to do
        assert "3 classes, stage 3 of 3: reconstructing each class\n" in status(three_classes, 30.0, NOW)
    kept = (three_classes / "reconstruction.json").read_text()
    write(three_classes / "reconstruction.json", "{ broken")
    assert "3 classes, stage 3 of 3" in status(three_classes, 30.0, NOW)
    write(three_classes / "reconstruction.json", kept)
    model = three_classes / "class2/work/runs/half1/d4_search/seed0/model.pt"
    model.unlink()  # trained again when the command was stopped
    assert "3 classes, stage 3 of 3" in status(three_classes, 30.0, NOW)
    write(model, "")
    sorting = three_classes / "work/classes/particles/classes.json"
    write(sorting, '{"particles": [[6, 6], [3, 3], [1, 1]]}', minutes_ago=-1)  # sorted otherwise, and then stopped
    shown = status(three_classes, 30.0, NOW)
    assert "3 classes, stage 3 of 3" in shown
    assert [line for line in shown.splitlines() if "class " in line] == [
        f"{three_classes / name}: a class of a former command" for name in ("class1", "class2")
    ]
    write(three_classes / "class1/particles.yaml", "", minutes_ago=-2)
    assert f"{three_classes / 'class1'}: reconstruction, done" in status(three_classes, 30.0, NOW)
    sorting.unlink()
    shown = status(three_classes, 30.0, NOW)
    assert "stage 2 of 3" in shown and shown.count("a class of a former command") == 2


def test_classes_of_a_former_command_are_named_where_one_map_was_asked_for(three_classes: Path) -> None:
    write(three_classes / "particles.yaml", "reconstructions: {particles: {classes: 1}}")
    shown = status(three_classes, 30.0, NOW)
    assert shown.startswith(f"{three_classes}: reconstruction, stage 2 of 4: training\n")
    assert shown.count("a class of a former command") == 2
    finish(three_classes)
    assert status(three_classes, 30.0, NOW).startswith(f"{three_classes}: reconstruction, done\n")


def test_a_run_that_ended_before_its_budget_is_done_and_has_no_time_left(reconstruction: Path, paper_config) -> None:
    work = reconstruction / "work"
    said = "step 384/984 (fit), 70 s · 1.8 min left · 182 ms a step · loss 0.2916"
    config = run_config(paper_config, "80s_snr1", "d4_l2", 0)
    write(work / "runs/80s_snr1/d4_l2/seed0/config.json", config.to_json())
    log(work, 0, f"[80s_snr1 d4_l2 seed 0] {said}\n")
    assert said in status(reconstruction, 30.0, NOW)
    touch(work, 0, "model.pt")
    touch(work, 0, "metrics.json")
    shown = status(reconstruction, 30.0, NOW)
    assert "seed0  384 steps, 70 s · 182 ms a step · loss 0.2916" in shown and "min left" not in shown


def test_a_folder_without_runs_is_one_message(tmp_path: Path, monkeypatch, capsys) -> None:
    with pytest.raises(ConfigError, match="has no runs"):
        status(tmp_path, 30.0, NOW)
    monkeypatch.setattr(sys, "argv", ["equipose", "status", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert capsys.readouterr().err.count("\n") == 1


def test_posed_particles_have_a_state_too_file_by_file(tmp_path: Path) -> None:
    """Of `equipose pose`, and of the folder that `--watch` fills."""
    write(tmp_path / "a/settings.json", "{}", minutes_ago=50)
    write(tmp_path / "a/pose.json", json.dumps({"particles": [30, 31], "doubtful_share": 0.02}))
    assert "0 parts posed" in status(tmp_path / "a", 30.0, NOW), "poses.star is written last"
    write(tmp_path / "a/poses.star", "")
    write(tmp_path / "b/settings.json", "{}", minutes_ago=50)
    for number, minutes in enumerate((9, 4)):
        write(tmp_path / f"b/partial/half1_{400 * number}.npz", "", minutes)
    done, at_work = status(tmp_path, 30.0, NOW).splitlines()
    assert done == f"{tmp_path}/a: 61 particles posed, 2.0% doubtful" == status(tmp_path / "a", 30.0, NOW)
    assert at_work.startswith(f"{tmp_path}/b: 2 parts posed, the last 4 minutes ago; if it has stopped, the same")
