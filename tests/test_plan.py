"""The plan before a run: the jobs that are left, and their time by earlier runs or by assumption."""

from pathlib import Path

import pytest

from equipose.config.folder import WORKFLOW
from equipose.config.settings import asked_runs, merge
from equipose.io.progress import run_main
from equipose.study.plan import (
    EVALUATE_MINUTES,
    RECONSTRUCT_MINUTES,
    SIMULATE_MINUTES,
    TRAIN_FACTOR,
    main,
    makespan,
    plan,
)


@pytest.fixture
def config(paper_config: dict, tmp_path: Path) -> dict:
    """The paper, its results in an empty folder."""
    return merge(paper_config, {"pathvars": {"results": str(tmp_path)}})


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def to_make(config: dict) -> list[str]:
    """What Snakemake would make of a results folder: each model, metrics.json and dataset that is not there."""
    results, runs = Path(config["pathvars"]["results"]), asked_runs(config, config["run"])
    files = {results / f"datasets/{dataset}/particles.mrcs" for dataset, _, _ in runs}
    for name in ("model.pt", "metrics.json"):
        files |= {results / f"runs/{dataset}/{model}/seed{seed}" / name for dataset, model, seed in runs}
    return [str(path) for path in files if not path.exists()]


def measure(results: Path, model: str, job_seconds: float, training_seconds: float, steps: int) -> None:
    """A finished run of `model`, as training and Snakemake leave it."""
    write(results / f"benchmarks/train/80s_snr1/{model}/seed0.tsv", f"s\tmax_rss\n{job_seconds}\t3072\n")
    write(results / f"runs/80s_snr1/{model}/seed0/history.csv", f"step,seconds\n0,0\n{steps},{training_seconds}\n")
    write(results / f"runs/80s_snr1/{model}/seed0/model.pt")


def test_jobs_hours_and_bytes_are_counted(config: dict, tmp_path: Path) -> None:
    hours = (128 * 6000 + 50 * 6 * 3600) / 3600
    gigabytes = 9 * 101_000 * 128**2 * 4 / 1e9
    text = plan(config, to_make(config))
    assert f"178 jobs, {hours:.0f} hours" in text
    assert f"9, {gigabytes:.2f} GB" in text
    assert "24 GB a training job" in text


def test_reconstructions_of_the_panel_are_counted_with_their_datasets(config: dict, tmp_path: Path) -> None:
    config |= {"run": [], "panel": ["80s_snr1", "80s_noiseless"]}
    write(tmp_path / "reconstructed/80s_snr1/score.json")
    files = [
        str(tmp_path / path)
        for path in ("datasets/80s_noiseless/particles.mrcs", "reconstructed/80s_noiseless/score.json")
    ]
    text = plan(config, files)
    assert "Plan of panel" in text and "datasets   1," in text
    assert f"panel      1 reconstructions, {RECONSTRUCT_MINUTES} minutes each (assumed)" in text


def test_what_is_done_is_not_planned_again(config: dict, tmp_path: Path) -> None:
    write(tmp_path / "runs/80s_snr1/d4_l2/seed0/model.pt")
    write(tmp_path / "datasets/80s_snr1/particles.mrcs")
    text = plan(config, to_make(config))
    assert "177 jobs" in text and "(1 more are done)" in text
    assert "datasets   8" in text


def test_a_model_that_is_there_is_planned_where_snakemake_makes_it_again(config: dict, tmp_path: Path) -> None:
    write(tmp_path / "runs/80s_snr1/d4_l2/seed0/model.pt")
    text = plan(config, [*to_make(config), f"{tmp_path}/runs/80s_snr1/d4_l2/seed0/model.pt"])
    assert "178 jobs" in text and "more are done" not in text


def test_scoring_alone_and_the_code_of_what_is_kept_are_said(config: dict, tmp_path: Path) -> None:
    write(tmp_path / "runs/80s_snr1/d4_l2/seed0/model.pt")
    write(tmp_path / "runs/80s_snr1/d4_l2/seed1/model.pt")
    write(tmp_path / "runs/80s_snr1/d4_l2/seed1/provenance.json", '[{"fingerprint": "of another"}]')
    text = plan(config, to_make(config))
    assert "scoring    2 jobs, of models that stay as they are" in text
    assert "kept       80s_snr1/d4_l2 seed 1: made by another version of the code, and kept" in text
    assert "kept       80s_snr1/d4_l2 seed 0: made by a code that was not recorded, and kept" in text
    hours = (TRAIN_FACTOR * (126 * 6000 + 50 * 21600) + 178 * 60 * EVALUATE_MINUTES) / 3600
    assert f"GPU-hours  {hours:.1f}\n" in text


def test_without_earlier_runs_rates_are_assumed_and_said_to_be(config: dict) -> None:
    hours = (TRAIN_FACTOR * (128 * 6000 + 50 * 21600) + 178 * 60 * EVALUATE_MINUTES) / 3600
    text = plan(config, to_make(config), [1])
    assert f"GPU-hours  {hours:.1f}\n" in text
    assert f"wall time  {hours + SIMULATE_MINUTES / 60:.0f} hours on 1 GPUs" in text
    assert text.count("assumed") == 4 and "measured" not in text


def test_rates_of_earlier_runs_are_taken(config: dict, tmp_path: Path) -> None:
    measure(tmp_path, "d4_l2", job_seconds=7500, training_seconds=6000, steps=10_000)
    write(tmp_path / "benchmarks/evaluate/80s_snr1/d4_l2/seed0.tsv", "s\tmax_rss\n120\t1024\n")
    text = plan(config, to_make(config))
    hours = (1.25 * (127 * 6000 + 50 * 21600) + 178 * 120) / 3600
    assert f"GPU-hours  {hours:.1f}\n" in text
    assert "training 1.25 times its budget (measured on 1 here), evaluation 2.0 minutes (measured on 1 here)" in text
    assert "3.0 GiB were measured" in text


def test_a_job_that_only_ended_an_interrupted_run_is_no_measure(config: dict, tmp_path: Path) -> None:
    measure(tmp_path, "d4_l2", job_seconds=100, training_seconds=6000, steps=10_000)
    assert f"training {TRAIN_FACTOR:.2f} times its budget (assumed)" in plan(config, to_make(config))


def test_steps_take_their_models_time_where_it_is_known(config: dict, tmp_path: Path) -> None:
    measure(tmp_path, "d4_l2", job_seconds=6000, training_seconds=6000, steps=10_000)
    experiment = {"datasets": ["80s_snr1"], "models": ["d4_l2", "c4_l2"], "seeds": [1], "budget": {"steps": 60_000}}
    mine = config | {"run": ["mine"], "experiments": {"mine": experiment | {"table": "best"}}}
    text = plan(mine, to_make(mine))
    assert f"GPU-hours  {(36_000 + 60 * EVALUATE_MINUTES) / 3600:.1f}, without 1 runs of unknown speed" in text


def test_the_longest_jobs_go_first() -> None:
    assert makespan([1, 1, 1, 3], 2) == 3
    assert makespan([], 8) == 0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"run: [caf\xe9]\n", ": line 1 is not UTF-8 text: save the file as UTF-8"),
        (b"run: [smoke\n", " is no YAML: "),
        (b"", " has no settings"),
        (None, " does not exist"),
    ],
)
def test_a_preset_that_cannot_be_read_is_one_line(
    content: bytes | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    mine = tmp_path / "mine.yaml"
    if content is not None:
        mine.write_bytes(content)
    monkeypatch.setattr("sys.argv", ["plan", str(WORKFLOW / "config.yaml"), str(mine)])
    with pytest.raises(SystemExit) as ended:
        run_main(main)
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: {mine}{why}")
