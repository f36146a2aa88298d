"""The whole graph, on the smoke preset, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SMOKE = "workflow/presets/smoke.yaml"
RESULTS = Path("results/smoke")


def copy_repository(target: Path) -> Path:
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(ROOT / name, target)
    for name in ("src", "workflow", "envs", "profiles"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return target


def snakemake(repository: Path, *arguments: str, visible_gpus: str | None = "") -> subprocess.CompletedProcess:
    """Snakemake in `repository`, with the equipose of that copy; output and errors together in `stdout`."""
    command = [sys.executable, "-m", "snakemake", *arguments]
    environment = os.environ | {"PYTHONPATH": str(repository / "src")}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    if visible_gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible_gpus
    return subprocess.run(
        command, cwd=repository, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def planned(repository: Path, *arguments: str) -> dict[str, int]:
    """Jobs of each rule that a dry run plans."""
    result = snakemake(repository, "-n", "--quiet", "rules", *arguments)
    assert result.returncode == 0, result.stdout
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", result.stdout, re.MULTILINE)}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which nothing has run."""
    return copy_repository(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy in which the smoke preset has run, and what the terminal showed."""
    repository = copy_repository(tmp_path_factory.mktemp("finished"))
    result = snakemake(repository, "--cores", "2", "--configfile", SMOKE)
    assert result.returncode == 0, result.stdout
    return repository, result.stdout


@contextmanager
def edited(path: Path, text: str) -> Iterator[None]:
    """`text` appended to a file for as long as the block runs."""
    before = path.read_text()
    path.write_text(before + text)
    yield
    path.write_text(before)


def test_the_default_target_is_the_paper(clean: Path) -> None:
    jobs = planned(clean)
    assert (jobs["train"], jobs["simulate"], jobs["table"]) == (178, 9, 2)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"simulation": {"snrr": 1.0}}, "unknown key `simulation.snrr`; did you mean `snr`?"),
        ({"models": {"d4_l2": {"encoder": "d5"}}}, "`models.d4_l2.encoder` names 'd5'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_starts(clean: Path, tmp_path: Path, overlay: dict, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(overlay))
    result = snakemake(clean, "--cores", "1", "--configfile", str(tmp_path / "mine.yaml"))
    assert result.returncode != 0
    assert message in result.stdout.splitlines()[-1]
    assert "Traceback" not in result.stdout
    assert not (clean / "results").exists()


@pytest.mark.parametrize(("visible", "limit"), [(None, 2), ("1", 1), ("", None)])
def test_training_jobs_are_limited_by_the_gpus_that_can_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, limit: int | None
) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    repository = tmp_path / "repository"
    repository.mkdir()
    target = str(RESULTS / "datasets/smoke_noiseless/config.json")
    arguments = (target, "--cores", "2", "--configfile", SMOKE)
    shown = snakemake(copy_repository(repository), *arguments, visible_gpus=visible).stdout
    provided = re.search(r'Provided resources:.*"gpu", (\d+)', shown)
    assert (int(provided[1]) if provided else None) == limit


def test_the_scheduler_rests_while_jobs_run(tmp_path: Path) -> None:
    """It may look for work when it starts and when jobs end, but not every second: that takes time from the jobs."""
    shown = snakemake(
        copy_repository(tmp_path), "simulate_all", "--cores", "1", "--verbose", "--configfile", SMOKE
    ).stdout
    jobs, rounds = shown.count("Finished jobid"), shown.count("Resources before job selection")
    assert jobs > 4
    assert rounds <= jobs + 1


def test_tables_hold_a_row_for_each_model_with_numbers_in_range(finished: tuple[Path, str]) -> None:
    tables = finished[0] / RESULTS / "tables"
    for name in ("smoke", "smoke_exact"):
        table = pd.read_csv(tables / f"{name}.csv").query("source != 'paper'")
        assert set(table["model"]) == {"standard_sym", "c4_l2", "c4_mir", "d4_l2", "d4_search"}
        assert table["mse"].between(0, 8).all()  # squared Frobenius distance of two rotations
        assert table["medse"].between(0, 8).all()
        assert (tables / f"{name}.tex").read_text().count(r"\begin{tabular}") == 1
        assert (tables / f"{name}.md").read_text().count("|") > 20


def test_every_output_that_the_contract_names_is_there(finished: tuple[Path, str]) -> None:
    results = finished[0] / RESULTS
    dataset = {"config.json", "volume.mrc", "particles.star", "particles.mrcs", "simulation.json"}
    run = {"config.json", "model.pt", "history.csv", "trace.npz", "poses.star", "volume.mrc", "volume_aligned.mrc"}
    run |= {"fsc.csv", "metrics.json", "provenance.json"}
    assert {path.name for path in (results / "datasets/smoke_noiseless").iterdir()} == dataset
    assert {path.name for path in (results / "runs/smoke_noiseless/d4_l2/seed0").iterdir()} == run
    assert (results / "figures/smoke/overview_smoke_noiseless.png").stat().st_size > 1000


def test_the_terminal_and_the_log_show_plan_progress_and_table(finished: tuple[Path, str]) -> None:
    repository, shown = finished
    assert re.search("training +7 jobs, 84 steps in all", shown)
    progress = r"\[smoke_noiseless d4_l2 seed 0\] step 12/12, .*MSE"
    assert re.search(progress, shown)
    assert re.search(progress, (repository / RESULTS / "logs/train/smoke_noiseless/d4_l2/seed0.log").read_text())
    assert "Converged: MSE < 0.1" in shown


def test_a_second_run_has_nothing_to_do(finished: tuple[Path, str]) -> None:
    result = snakemake(finished[0], "--cores", "2", "--configfile", SMOKE, "--quiet", "host", "rules")
    assert "Nothing to be done" in result.stdout


def test_touching_the_source_reruns_nothing(finished: tuple[Path, str]) -> None:
    for path in (finished[0] / "src").rglob("*.py"):
        path.touch()
    assert planned(finished[0], "--configfile", SMOKE) == {}


def test_editing_a_module_reruns_what_depends_on_it(finished: tuple[Path, str]) -> None:
    with edited(finished[0] / "src/equipose/encoders.py", "# edited\n"):
        jobs = planned(finished[0], "--configfile", SMOKE)
    assert jobs["train"] == jobs["evaluate"] == 7
    assert not {"simulate", "volume"} & jobs.keys()


def test_a_report_takes_results_as_they_are_where_code_has_changed_since(finished: tuple[Path, str]) -> None:
    with edited(finished[0] / "src/equipose/encoders.py", "# edited\n"):
        jobs = planned(finished[0], "--cores", "1", "report", "--configfile", SMOKE)
    assert "report" in jobs and not {"train", "evaluate", "table", "figure"} & jobs.keys()


def test_changing_a_dataset_reruns_its_own_runs_only(finished: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("datasets: { smoke_snr1: { snr: 0.9 } }")
    jobs = planned(finished[0], "--configfile", SMOKE, str(tmp_path / "mine.yaml"))
    assert (jobs["simulate"], jobs["train"], jobs["evaluate"]) == (1, 2, 2)


def test_a_report_of_nothing_names_what_is_missing_and_how_to_make_it(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"pathvars: {{ results: {tmp_path}/results }}")
    overlays = ("--configfile", SMOKE, str(tmp_path / "mine.yaml"))
    result = snakemake(clean, "report", "--cores", "1", *overlays)
    assert result.returncode == 0, result.stdout
    page = (tmp_path / "results/report.html").read_text()
    assert "7 runs have no result yet" in page
    assert "snakemake --cores all --configfile workflow/presets/smoke.yaml" in page


def test_the_report_holds_every_table_and_figure_and_publish_keeps_the_small_ones(
    finished: tuple[Path, str],
) -> None:
    result = snakemake(finished[0], "publish", "--cores", "1", "--configfile", SMOKE)
    assert result.returncode == 0, result.stdout
    page = (finished[0] / RESULTS / "report.html").read_text()
    assert "no result yet" not in page and "Not made yet" not in page
    assert page.count("data:image/png") == len(list((finished[0] / RESULTS / "figures").rglob("*.png")))
    published = finished[0] / "results/reference/smoke"
    assert {"claims.csv", "provenance.json", "time.csv", "tables", "figures"} <= {p.name for p in published.iterdir()}
    again = snakemake(finished[0], "publish", "--cores", "1", "--configfile", SMOKE, "--quiet", "host", "rules")
    assert "Nothing to be done" in again.stdout


def test_moved_results_become_tables_without_particles_and_without_training(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    """As on another machine: every file has a new time, Snakemake's own records and the particles stayed behind."""
    moved = copy_repository(tmp_path)
    shutil.copytree(finished[0] / RESULTS / "runs", moved / RESULTS / "runs", copy_function=shutil.copyfile)
    alone = ("--allowed-rules", "tables", "table", "tables_json")
    result = snakemake(moved, "tables", "--cores", "1", "--configfile", SMOKE, *alone)
    assert result.returncode == 0, result.stdout
    for table in sorted((finished[0] / RESULTS / "tables").glob("*.csv")):
        assert (moved / RESULTS / "tables" / table.name).read_text() == table.read_text()


def test_results_moved_as_a_whole_are_accepted_once_touched(finished: tuple[Path, str], tmp_path: Path) -> None:
    moved = copy_repository(tmp_path)
    shutil.copytree(finished[0] / RESULTS, moved / RESULTS, copy_function=shutil.copyfile)
    assert "train" in planned(moved, "--configfile", SMOKE)
    assert snakemake(moved, "--touch", "--cores", "1", "--configfile", SMOKE).returncode == 0
    assert planned(moved, "--configfile", SMOKE) == {}


def test_the_encoder_of_the_docs_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs/extend.md").read_text()
    (python,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (overlay,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    repository = copy_repository(tmp_path)
    with (repository / "src/equipose/encoders.py").open("a") as file:
        file.write("\n\n" + python)
    (repository / "mine.yaml").write_text(overlay)
    (repository / "short.yaml").write_text(
        "experiments: { mine: { datasets: [smoke_noiseless], models: [tiny], seeds: [0], budget: { steps: 2 } } }"
    )
    overlays = ("--configfile", SMOKE, "mine.yaml", "short.yaml")
    result = snakemake(repository, "tables", "--cores", "2", *overlays)
    assert result.returncode == 0, result.stdout
    assert pd.read_csv(repository / "results/mine/tables/mine.csv")["model"].tolist() == ["tiny"]


def test_a_users_particles_become_poses_maps_and_a_page_from_any_folder_and_with_spaces_everywhere(
    halves: Path, tmp_path: Path
) -> None:
    """`equipose reconstruct`, too short to learn anything, as a user in a folder of their own calls it, twice."""
    (tmp_path / "check out").mkdir()
    repository = copy_repository(tmp_path / "check out")
    preset = repository / "workflow/presets/particles.yaml"
    smoke = yaml.safe_load((ROOT / SMOKE).read_text())
    training = smoke["training"] | {"widths": [32, 64, 128]}  # of few features all may be dead: no pose then
    quick = yaml.safe_load(preset.read_text()) | {"training": training, "evaluation": smoke["evaluation"]}
    preset.write_text(yaml.safe_dump(quick))
    (tmp_path / "my project/Extract 1").mkdir(parents=True)
    for name in ("particles.star", "particles.mrcs"):
        shutil.copy2(halves / name, tmp_path / "my project/Extract 1")
    command = [sys.executable, "-m", "equipose.commands", "reconstruct", "Extract 1/particles.star"]
    command += ["--out", "ab initio", "--minutes", "0.05", "--cores", "2"]
    environment = os.environ | {"PYTHONPATH": str(repository / "src"), "CUDA_VISIBLE_DEVICES": ""}

    def call() -> str:
        done = subprocess.run(command, cwd=tmp_path / "my project", env=environment, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    shown, out = call(), tmp_path / "my project/ab initio"
    assert f"open {out}/report.html in a browser" in shown
    for name in (
        "poses.star",
        "volume.mrc",
        "half1.mrc",
        "half2.mrc",
        "local_resolution.mrc",
        "fsc.csv",
        "reconstruction.png",
        "report.html",
    ):
        assert (out / name).stat().st_size > 0, name
    assert "Has it converged?" in (out / "report.html").read_text()
    assert "Nothing to be done" in call()
