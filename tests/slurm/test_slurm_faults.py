"""Real faults of a cluster. After each fault the same command ends with equal results.

One run of 300 steps, evaluated every 20, is sent to the cluster with its dataset made. Each test adds a line to the
table that is printed at the end.
"""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broken_runs import assert_equal_runs, starts
from cluster import NODES, Cluster
from sending import ROOT, RUNS, SITE, log_of, start, wait_for

EVERY, STEPS = 20, 300
MOST_SECONDS = 600
SINGLE, LONG = ((ROOT / "tests/slurm" / name,) for name in ("single.yaml", "long.yaml"))
RUN = Path("results/smoke/runs") / RUNS / "seed0"
JOB = "rule_run_evaluate_train"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset, and no run."""
    folder = tmp_path_factory.mktemp("prepared") / "work"
    wait_for(start(folder, dict(os.environ), "--cores", "1", "--until", "simulate", presets=SINGLE), folder)
    return folder


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("whole") / "work"))
    wait_for(start(folder, dict(os.environ), "--cores", "1", presets=SINGLE), folder)
    return folder / RUN


class Sent:
    """A run that trains on the cluster: its Snakemake, its folder, its job in the queue and the node that has it."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.run = cluster, folder, folder / RUN
        self.before = len(cluster.jobs())
        self.send()
        self.wait_for_step(2 * EVERY)
        ((self.job, self.node),) = [(job[0], job[3]) for job in self.jobs() if job[1] == JOB and job[2] == "RUNNING"]

    def send(self) -> None:
        self.snakemake = start(self.folder, self.cluster.environment, *SITE, presets=SINGLE)

    def wait_for_step(self, step: int) -> None:
        while f"step {step}/" not in log_of(self.folder, 0):
            assert self.snakemake.poll() is None, (self.folder / "snakemake.log").read_text()
            time.sleep(0.05)

    def jobs(self) -> list[list[str]]:
        """Those of this run, as the cluster lists them."""
        return self.cluster.jobs()[self.before :]

    def finish(self) -> None:
        """Wait for the end. Slurm lets a job that it starts again rest for two minutes, which the test does not."""
        end = time.monotonic() + MOST_SECONDS
        while self.snakemake.poll() is None:
            assert time.monotonic() < end, (self.folder / "snakemake.log").read_text()
            if any(job[:3:2] == [self.job, "PENDING"] for job in self.jobs()):
                self.cluster.ask("scontrol", "update", f"JobId={self.job}", "StartTime=now")
            time.sleep(1)
        wait_for(self.snakemake, self.folder)
        for job in self.jobs():
            print(" | ".join(job))


@pytest.fixture
def sent(cluster: Cluster, prepared: Path, tmp_path: Path) -> Iterator[Sent]:
    """A run that has just reported its second evaluation."""
    sent = Sent(cluster, Path(shutil.copytree(prepared, tmp_path / "work")))
    yield sent
    sent.snakemake.kill()
    sent.snakemake.wait()
    cluster.restore()


def processes_of(job: str) -> list[int]:
    """Ids of all processes of a job, and of the daemons that watch over them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            watches = f"slurmstepd: [{job}." in (process / "cmdline").read_text()
            if watches or f"SLURM_JOB_ID={job}\0" in (process / "environ").read_text():
                found.append(int(process.name))
    return found


def assert_little_was_lost(sent: Sent, whole: Path) -> None:
    """The run equals an undisturbed one, and went on from the last evaluation or the one before."""
    assert_equal_runs(sent.run, whole)
    assert starts(sent.run)[0] == 0 and all(step >= EVERY for step in starts(sent.run)[1:])


def test_kill_9_of_slurmd(sent: Sent, whole: Path, note: Callable[..., None]) -> None:
    sent.cluster.kill(sent.node)
    sent.wait_for_step(4 * EVERY)
    sent.cluster.start(sent.node)
    sent.finish()
    assert_equal_runs(sent.run, whole)
    assert starts(sent.run) == [0] and [job[2] for job in sent.jobs()] == ["COMPLETED"]
    note("Slurm: kill -9 of slurmd at step 40, and its restart", "the job trains on, Slurm finds it again", sent.run)


def test_scancel(sent: Sent, whole: Path, note: Callable[..., None]) -> None:
    sent.cluster.ask("scancel", sent.job)
    sent.finish()
    assert_little_was_lost(sent, whole)
    assert [job[2] for job in sent.jobs()] == ["CANCELLED", "COMPLETED"]
    note("Slurm: `scancel` of the job at step 40", "SIGTERM, checkpoint; Snakemake sends it again", sent.run)


def test_requeue(sent: Sent, whole: Path, note: Callable[..., None]) -> None:
    """As before a job of more weight: SIGTERM, 30 s (Slurm's KillWait), SIGKILL; then the job is in the queue again."""
    sent.cluster.ask("scontrol", "requeue", sent.job)
    sent.finish()
    assert_little_was_lost(sent, whole)
    assert [(job[0], job[2], job[7]) for job in sent.jobs()] == [(sent.job, "COMPLETED", "1")]
    note("Slurm: `scontrol requeue` at step 40", "SIGTERM, checkpoint; Slurm starts the same job again", sent.run)


def test_preemption(sent: Sent, whole: Path, note: Callable[..., None]) -> None:
    """A partition of higher priority wants both GPUs for some seconds."""
    for _ in NODES:
        sent.cluster.ask("sbatch", "--partition=urgent", "--gpus=1", "--comment=urgent", "--wrap=sleep 5")
    sent.finish()
    ours = [job for job in sent.jobs() if job[1] == JOB]
    assert len(sent.jobs()) == 1 + len(NODES) and [(job[2], job[7]) for job in ours] == [("COMPLETED", "1")]
    assert_little_was_lost(sent, whole)
    note("Slurm: preempted at step 40", "SIGTERM, checkpoint; Slurm starts the same job again", sent.run)


def test_kill_9_of_snakemake(sent: Sent, whole: Path, note: Callable[..., None]) -> None:
    """Its job trains on; the same command sends another, which waits for that one."""
    sent.snakemake.kill()
    sent.snakemake.wait()
    sent.send()
    sent.finish()
    assert_equal_runs(sent.run, whole)
    assert starts(sent.run)[0] == 0 and all(step == STEPS for step in starts(sent.run)[1:])  # nothing twice
    note("Slurm: kill -9 of Snakemake at step 40", "its job trains on; same command waits for it", sent.run)


@pytest.mark.parametrize("how", ["dies", "is cut off"])
def test_a_lost_node(sent: Sent, whole: Path, how: str, note: Callable[..., None]) -> None:
    """With all that ran on it, or alive behind a broken network: its job trains on while Slurm starts it elsewhere."""
    sent.cluster.kill(sent.node)
    if how == "dies":
        for process in processes_of(sent.job):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    sent.cluster.ask("scontrol", "update", f"NodeName={sent.node}", "State=DOWN", "Reason=lost")
    sent.finish()
    ((job, state, node, restarts),) = [(job[0], job[2], job[3], job[7]) for job in sent.jobs()]
    assert (job, state, restarts) == (sent.job, "COMPLETED", "1") and node != sent.node
    assert_equal_runs(sent.run, whole)
    if how == "dies":
        assert_little_was_lost(sent, whole)
        happened = "Slurm starts the job on another node"
    else:
        assert starts(sent.run) in ([0], [0, STEPS])
        happened = "the job on another node waits for the end of this one"
    note(f"Slurm: the node {how} at step 40", happened, sent.run)


def test_a_time_limit_shorter_than_the_budget(
    cluster: Cluster, prepared: Path, tmp_path: Path, note: Callable[..., None]
) -> None:
    """Jobs of a minute, each told so 10 to 40 s before its limit, make a run that takes longer."""
    undisturbed, chained = (Path(shutil.copytree(prepared, tmp_path / name)) for name in ("undisturbed", "chained"))
    wait_for(start(undisturbed, dict(os.environ), "--cores", "1", presets=LONG), undisturbed)
    before = len(cluster.jobs())
    limit = ["--set-resources", "train:runtime=1", "train:slurm_extra='--signal=TERM@10'", "evaluate:runtime=0"]
    wait_for(start(chained, cluster.environment, *SITE, *limit, presets=LONG), chained)
    jobs = cluster.jobs()[before:]
    for job in jobs:
        print(" | ".join(job))
    assert {job[5] for job in jobs} == {"1:00"} and jobs[-1][2] == "COMPLETED"
    assert_equal_runs(chained / RUN, undisturbed / RUN)
    steps = starts(chained / RUN)
    assert 1 < len(steps) <= len(jobs) and steps == sorted(set(steps))
    note("Slurm: time limit of 60 s, run of 1500 steps", f"{len(jobs)} jobs, one after the other", chained / RUN)
