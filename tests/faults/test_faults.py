"""Real faults: `make test-faults`. After each fault the same command ends with equal results.

The configuration has one dataset and one run of 120 steps, evaluated every 20. Faults on disks mount small file
systems, and are skipped where that is not allowed. Each test adds a line to the table that is printed at the end.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from broken_runs import assert_equal_runs, starts

from equipose.study.status import status

ROOT = Path(__file__).parents[2]
FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
EVERY, STEPS = 20, 120
RUN = Path("results/faults/runs/smoke_noiseless/d4_l2/seed0")
DATASET = Path("results/faults/datasets/smoke_noiseless")
LOG = Path("results/faults/logs/train/smoke_noiseless/d4_l2/seed0.log")
CONFIG = {
    "pathvars": {"results": "results/faults"},
    "run": ["faults"],
    "experiments": {
        "faults": {
            "datasets": ["smoke_noiseless"],
            "models": ["d4_l2"],
            "seeds": [0],
            "budget": {"steps": STEPS},
            "table": "best",
        }
    },
    "evaluation": {"every": EVERY, "images": 50},
}


class Project:
    """A copy of the repository, in which one command is run again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.log = folder, folder / RUN, folder / LOG
        self.started: subprocess.Popen | None = None

    def start(self, target: str = "train_all", **environment: str) -> subprocess.Popen:
        """The command, as the leader of a process group, as a batch system starts one."""
        command = [sys.executable, "-m", "snakemake", target, "--cores", "2"]
        command += ["--configfile", "workflow/presets/smoke.yaml", "faults.yaml"]
        self.started = subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder / "src"), "CUDA_VISIBLE_DEVICES": ""} | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self.started

    def finish(self, target: str = "train_all") -> str:
        """What the same command shows, which now has to succeed."""
        process = self.start(target)
        shown, _ = process.communicate(timeout=300)
        assert process.returncode == 0, shown
        return shown

    def wait_for_step(self, step: int) -> None:
        """Until the run's log reports the evaluation at `step`."""
        for _ in range(3000):
            if self.log.exists() and f"step {step}/{STEPS}" in self.log.read_text():
                return
            time.sleep(0.05)
        raise AssertionError(f"no step {step}: {self.log.read_text() if self.log.exists() else 'no log'}")

    def processes(self, word: str = "") -> list[int]:
        """Ids of all processes that work in this project, or of the Python programs that have `word` as an argument."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                here = Path(os.readlink(process / "cwd")) == self.folder
                words = (process / "cmdline").read_text().split("\0")
                if here and (not word or (word in words and words[0].endswith("python"))):
                    found.append(int(process.name))
        return found

    def signal_all(self, number: signal.Signals) -> float:
        """Signal all of them at once, as a batch system or a power cut would, and the seconds until all have ended."""
        began = time.monotonic()
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        if self.started:
            self.started.communicate(timeout=60)
        while self.processes() and time.monotonic() < began + 60:
            time.sleep(0.1)
        return time.monotonic() - began

    def starts(self) -> list[int]:
        """The step that each start of training went on from."""
        return starts(self.run)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with its dataset, and no run."""
    project = Project(tmp_path_factory.mktemp("prepared"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(ROOT / name, project.folder)
    for name in ("src", "workflow", "envs", "profiles"):
        shutil.copytree(ROOT / name, project.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (project.folder / "faults.yaml").write_text(yaml.safe_dump(CONFIG))
    project.finish("simulate_all")
    return project


@pytest.fixture(scope="session")
def whole(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose run nothing disturbed."""
    folder = shutil.copytree(prepared.folder, tmp_path_factory.mktemp("whole") / "project")
    Project(folder).finish()
    return Project(folder)


@pytest.fixture
def project(prepared: Project, tmp_path: Path) -> Iterator[Project]:
    copy = Project(shutil.copytree(prepared.folder, tmp_path / "project"))
    yield copy
    copy.signal_all(signal.SIGKILL)


@pytest.fixture
def disk() -> Iterator[Callable[[Path, str], None]]:
    """A function that puts a small file system in place of a folder, with the folder's content in it."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        content = shutil.copytree(folder, folder.with_name(folder.name + ".before"))
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
        mounted.append(folder)
        shutil.copytree(content, folder, dirs_exist_ok=True)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def assert_equal(project: Project, whole: Project) -> None:
    assert_equal_runs(project.run, whole.run)


def lost_one_evaluation_at_most(project: Project, reported: int = 2 * EVERY) -> bool:
    """Whether the second start went on from the last evaluation that was reported, or the one before: a kill may come
    between an evaluation's report and its checkpoint."""
    return project.starts()[1] >= reported - EVERY


def test_kill_9_of_a_training_job(project: Project, whole: Project, note: Callable[..., None]) -> None:
    process = project.start()
    project.wait_for_step(2 * EVERY)
    for trainer in project.processes("equipose.training.train"):
        os.kill(trainer, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0 and not (project.run / "model.pt").exists()
    shown = status(project.folder / "results/faults", silent_minutes=30, now=time.time())
    assert "1 failed" in shown and "error: killed (signal 9): out of memory" in shown
    project.finish()
    assert_equal(project, whole)
    assert lost_one_evaluation_at_most(project)
    note("kill -9 of a training job, after step 40", "log and `equipose status` say so; same command", project.run)


@pytest.mark.parametrize("job", ["still trains", "has ended"])
def test_kill_9_of_snakemake(project: Project, whole: Project, job: str, note: Callable[..., None]) -> None:
    process = project.start()
    project.wait_for_step(2 * EVERY)
    process.kill()  # alone: its job goes on without it
    process.wait()
    assert project.processes("equipose.training.train")
    while job == "has ended" and project.processes("equipose.training.train"):
        time.sleep(0.1)
    project.finish()
    assert_equal(project, whole)
    assert set(project.starts()) <= {0, STEPS}
    happened = "same command waits for it" if job == "still trains" else "same command writes its outputs again"
    note("kill -9 of Snakemake, after step 40", f"its job trains on; {happened}", project.run)


def test_kill_9_of_everything(project: Project, whole: Project, note: Callable[..., None]) -> None:
    project.start()
    project.wait_for_step(2 * EVERY)
    project.signal_all(signal.SIGKILL)
    assert list((project.folder / ".snakemake/locks").iterdir())
    project.finish()
    assert_equal(project, whole)
    assert lost_one_evaluation_at_most(project)
    note("kill -9 of Snakemake and all of its jobs, after step 40", "same command, no `--unlock`", project.run)


def test_sigterm_with_30_seconds_grace(project: Project, whole: Project, note: Callable[..., None]) -> None:
    """As a batch system sends it: to Snakemake, to the job, and to the `tee` that the job writes to."""
    project.start()
    project.wait_for_step(2 * EVERY)
    took = project.signal_all(signal.SIGTERM)
    assert took < 30
    project.finish()
    assert_equal(project, whole)
    assert lost_one_evaluation_at_most(project)
    note("SIGTERM to everything, after step 40", f"checkpoint, ended in {took:.0f} s; same command", project.run)


def test_a_full_disk_during_a_checkpoint(project: Project, whole: Project, disk, note: Callable[..., None]) -> None:
    disk(project.folder / "results/faults/runs", "64m")
    process = project.start()
    project.wait_for_step(2 * EVERY)
    filler = project.folder / "results/faults/runs/filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
    shown, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "checkpoint.pt cannot be written (No space left on device): make room" in shown
    assert "Traceback" not in project.log.read_text()
    filler.unlink()
    project.finish()
    assert_equal(project, whole)
    assert lost_one_evaluation_at_most(project)
    note("full disk at a checkpoint, after step 40", "one line says so; room made, same command", project.run)


def test_a_full_disk_during_simulation(project: Project, whole: Project, disk, note: Callable[..., None]) -> None:
    folder = project.folder / "results/faults/datasets"
    sizes = {path.name: path.stat().st_size for path in (project.folder / DATASET).iterdir()}
    for name in ("particles.star", "particles.mrcs", "simulation.json"):
        (project.folder / DATASET / name).unlink()
    room = sum(sizes.values()) - sizes["particles.star"] // 2  # the images fit, their star file does not
    disk(folder, str(room // 4096 * 4096))
    process = project.start()
    shown, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "cannot be written (No space left on device): make room" in shown
    assert {path.name for path in (project.folder / DATASET).iterdir()} <= {"config.json", "volume.mrc"}
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    project.finish()
    assert_equal(project, whole)
    note("full disk during simulation", "one line says so; room made, same command", project.run)


@pytest.mark.parametrize("damage", ["truncated", "of another configuration"])
def test_a_useless_checkpoint(project: Project, whole: Project, damage: str, note: Callable[..., None]) -> None:
    first = CONFIG if damage == "truncated" else CONFIG | {"training": {"gradient_clip": 0.5}}
    (project.folder / "faults.yaml").write_text(yaml.safe_dump(first))
    project.start()
    project.wait_for_step(3 * EVERY)
    project.signal_all(signal.SIGKILL)
    (project.folder / "faults.yaml").write_text(yaml.safe_dump(CONFIG))
    checkpoint = project.run / "checkpoint.pt"
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    shown = project.finish()
    assert "set aside as checkpoint.set-aside.pt" in shown
    assert_equal(project, whole)
    if damage == "truncated":
        assert lost_one_evaluation_at_most(project)
        happened = "set aside; same command, from the checkpoint before"
    else:
        assert project.starts() == [0]
        happened = "set aside; same command, from the start: nothing of this configuration was trained"
    note(f"checkpoint {damage}", happened, project.run)


def test_two_snakemakes_at_once(project: Project, whole: Project, note: Callable[..., None]) -> None:
    first = project.start()
    project.wait_for_step(EVERY)
    second = project.start()
    shown, _ = second.communicate(timeout=60)
    assert second.returncode != 0 and "cannot be locked" in shown
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert_equal(project, whole)
    assert project.starts() == [0]
    note("two Snakemakes at once", "the second one says so and ends; the first one finishes", project.run)


def test_a_results_folder_that_becomes_read_only(
    project: Project, whole: Project, disk, note: Callable[..., None]
) -> None:
    folder = project.folder / "results/faults/runs"
    disk(folder, "64m")
    project.start()
    project.wait_for_step(2 * EVERY)
    project.signal_all(signal.SIGKILL)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    process = project.start()
    shown, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "cannot be written (Read-only file system): make the folder writable" in shown
    assert "Traceback" not in shown
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    project.finish()
    assert_equal(project, whole)
    assert lost_one_evaluation_at_most(project)
    note("results read-only after a crash at step 40", "one line says so; writable again, same command", project.run)


def test_a_dataset_from_the_future(project: Project, whole: Project, note: Callable[..., None]) -> None:
    """As if the clock had been a day ahead until now."""
    tomorrow = time.time() + 86400
    for path in (project.folder / DATASET).iterdir():
        os.utime(path, (tomorrow, tomorrow))
    project.finish()
    assert_equal(project, whole)
    assert "Nothing to be done" in project.finish()
    note("clock set back a day, after simulation", "trained once", project.run)


@pytest.mark.skipif(not FAKETIME, reason="needs libfaketime (Debian's package faketime)")
@pytest.mark.parametrize("jump", ["+1d", "-1d"])
def test_a_clock_that_jumps_while_training(
    project: Project, whole: Project, jump: str, note: Callable[..., None]
) -> None:
    now = project.folder / "clock"
    now.write_text("+0")
    clock = {"FAKETIME_TIMESTAMP_FILE": str(now), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    process = project.start(LD_PRELOAD=str(FAKETIME[0]), **clock)
    project.wait_for_step(2 * EVERY)
    now.write_text(jump)
    process.communicate(timeout=120)
    project.finish()
    assert_equal(project, whole)
    assert set(project.starts()) <= {0, STEPS}
    note(f"clock jumps by {jump} while training", "the clock of a run is monotonic", project.run)


def test_a_loss_that_is_not_finite(project: Project, whole: Project, note: Callable[..., None]) -> None:
    """A model that fails for good beside one that does not: that one is made, and the table says what happened."""
    broken = {"encoder": "d4", "loss": "l2", "optimizer": {"learning_rate": 1.0e30}}
    faults = CONFIG["experiments"]["faults"] | {"models": ["broken", "d4_l2"]}
    config = CONFIG | {"models": {"broken": broken}, "experiments": {"faults": faults}}
    (project.folder / "faults.yaml").write_text(yaml.safe_dump(config))
    process = project.start("tables")
    shown, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "the loss is not finite" in shown
    assert_equal(project, whole)
    tables = project.folder / "results/faults/tables"
    table = pd.read_csv(tables / "faults.csv").set_index("model")
    assert (table.loc["broken", ["finished", "failed"]] == [0, 1]).all() and pd.isna(table.loc["broken", "mse"])
    assert table.loc["d4_l2", "finished"] == 1 and table.loc["d4_l2", "mse"] > 0
    said = (tables / "faults.md").read_text()
    assert "| broken | failed |" in said and "seed 0 failed (" in said and "the loss is not finite at step" in said

    broken["optimizer"]["learning_rate"] = 1.0e-4
    (project.folder / "faults.yaml").write_text(yaml.safe_dump(config))
    project.finish("tables")
    assert "failed" not in (tables / "faults.md").read_text()
    note(
        "NaN loss of one run for good", "the other runs end; table: failed, and why; mended, same command", project.run
    )
