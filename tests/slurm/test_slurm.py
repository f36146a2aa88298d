"""A preset sent to a real Slurm cluster through the profile ends with the tables of a local run: `make test-slurm`."""

import os
import time
from pathlib import Path

import pandas as pd
import pytest
from cluster import Cluster
from sending import SITE, log_of, start, wait_for

RESULTS = Path("results/smoke")
RUN = "rule_run_evaluate_train"


@pytest.fixture(scope="module")
def sent(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """The folder of two runs, one told to stop as Slurm does before a time limit, and the job list."""
    folder = tmp_path_factory.mktemp("slurm") / "work"
    before = len(cluster.jobs())
    snakemake = start(folder, cluster.environment, *SITE)
    while not all("step 40/300" in log_of(folder, seed) for seed in (0, 1)):
        assert snakemake.poll() is None, (folder / "snakemake.log").read_text()
        time.sleep(0.2)
    running = [job[0] for job in cluster.jobs() if job[1] == RUN and job[2] == "RUNNING"]
    assert len(running) == 2, "side by side"
    cluster.ask("scancel", "--signal=TERM", running[0])
    wait_for(snakemake, folder)
    listed = cluster.jobs()[before:]
    for job in listed:
        print(" | ".join(job))
    return folder, listed


def test_tables_equal_those_of_a_local_run(sent: tuple[Path, list], tmp_path: Path) -> None:
    local = tmp_path / "local"
    wait_for(start(local, dict(os.environ), "--cores", "1"), local)
    for name in ("pair.csv", "pair_exact.csv"):
        here, there = (pd.read_csv(folder / RESULTS / "tables" / name) for folder in (local, sent[0]))
        assert here["mse"].notna().all()
        times = [column for column in here if "time_s" in column]
        pd.testing.assert_frame_equal(here.drop(columns=times), there.drop(columns=times))


def test_a_run_told_to_stop_continued_from_its_checkpoint(sent: tuple[Path, list]) -> None:
    folder, listed = sent
    assert sorted(job[2] for job in listed if job[1] == RUN) == ["COMPLETED", "COMPLETED", "FAILED"]
    (log,) = [log for seed in (0, 1) if "continuing from step" in (log := log_of(folder, seed))]
    assert "step 40/300" not in log and "step 300/300" in log


def test_a_run_and_its_evaluation_are_one_job_with_one_gpu(sent: tuple[Path, list]) -> None:
    runs = [job for job in sent[1] if job[1] == RUN]
    assert {job[3] for job in runs} == {"node1", "node2"} and {job[4] for job in runs} == {"gres:gpu:1"}
    assert [(job[1], job[4]) for job in sent[1] if job not in runs] == [("rule_dataset_simulate_volume", "N/A")]
