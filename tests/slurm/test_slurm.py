"""A preset sent to a real Slurm cluster through the profile ends with the tables of a local run: `make test-slurm`."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from cluster import ask, jobs, slurm_cluster

ROOT = Path(__file__).parents[2]
RESULTS = Path("results/smoke")
RUN = "rule_run_evaluate_train"
CONFIG = ["--configfile", str(ROOT / "workflow/presets/smoke.yaml"), str(ROOT / "tests/slurm/small.yaml")]
SITE = ["--workflow-profile", str(ROOT / "workflow/profiles/slurm"), "--slurm-status-command", "squeue"]
SITE += ["--default-resources", "slurm_partition=cpu", "mem_mb=500", "runtime=10", "--latency-wait", "5"]
SITE += ["--slurm-init-seconds-before-status-checks", "2"]


def tables(folder: Path, environment: dict[str, str], *options: str) -> subprocess.Popen:
    """Snakemake at work on the preset's tables in `folder`, its output in snakemake.log there."""
    folder.mkdir()
    command = [sys.executable, "-m", "snakemake", "tables", "--snakefile", str(ROOT / "Snakefile"), *options, *CONFIG]
    environment = environment | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with open(folder / "snakemake.log", "w") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def wait_for(process: subprocess.Popen, folder: Path) -> None:
    assert process.wait(600) == 0, (folder / "snakemake.log").read_text()


def log_of(folder: Path, seed: int) -> str:
    log = folder / RESULTS / f"logs/train/smoke_snr1/d4_l2/seed{seed}.log"
    return log.read_text() if log.exists() else ""


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """The folder of two runs, one told to stop as Slurm does before a time limit, and the job list."""
    folder = tmp_path_factory.mktemp("slurm") / "work"
    with slurm_cluster(tmp_path_factory.mktemp("cluster")) as environment:
        snakemake = tables(folder, environment, *SITE)
        while not all("step 40/300" in log_of(folder, seed) for seed in (0, 1)):
            assert snakemake.poll() is None, (folder / "snakemake.log").read_text()
            time.sleep(0.2)
        running = [job[0] for job in jobs(environment) if job[1] == RUN and job[2] == "RUNNING"]
        assert len(running) == 2, "side by side"
        ask(environment, "scancel", "--signal=TERM", running[0])
        wait_for(snakemake, folder)
        listed = jobs(environment)
    for job in listed:
        print(" | ".join(job))
    return folder, listed


def test_tables_equal_those_of_a_local_run(sent: tuple[Path, list], tmp_path: Path) -> None:
    local = tmp_path / "local"
    wait_for(tables(local, dict(os.environ), "--cores", "1"), local)
    for name in ("pair.csv", "pair_exact.csv"):
        here, there = (pd.read_csv(folder / RESULTS / "tables" / name) for folder in (local, sent[0]))
        assert here["mse"].notna().all()
        pd.testing.assert_frame_equal(here, there)  # no run converged: there is no time in it


def test_a_run_told_to_stop_continued_from_its_checkpoint(sent: tuple[Path, list]) -> None:
    folder, listed = sent
    assert sorted(job[2] for job in listed if job[1] == RUN) == ["COMPLETED", "COMPLETED", "FAILED"]
    (log,) = [log for seed in (0, 1) if "continuing from step" in (log := log_of(folder, seed))]
    assert "step 40/300" not in log and "step 300/300" in log


def test_a_run_and_its_evaluation_are_one_job_with_one_gpu(sent: tuple[Path, list]) -> None:
    runs = [job for job in sent[1] if job[1] == RUN]
    assert {job[3] for job in runs} == {"node1", "node2"} and {job[4] for job in runs} == {"gres:gpu:1"}
    assert [(job[1], job[4]) for job in sent[1] if job not in runs] == [("rule_dataset_simulate_volume", "N/A")]
