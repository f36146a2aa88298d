"""The whole graph, on the smoke preset, in a copy of the repository."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from equipose import __version__
from equipose.reconstruction.names import NOT_CONVERGED
from equipose.study.status import status
from equipose.workflow.snakemake_internals import drop_stale_locks

ROOT = Path(__file__).parents[2]
SMOKE = "workflow/presets/smoke.yaml"
RESULTS = Path("results/smoke")
TARGETS = ("smoke", "tables")
"""What is made of the smoke preset: tables and figures of one experiment, the tables of the other."""


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


def planned(repository: Path, *arguments: str, targets: tuple[str, ...] = TARGETS) -> dict[str, int]:
    """Jobs of each rule that a dry run plans."""
    result = snakemake(repository, *targets, "-n", "--quiet", "rules", *arguments)
    assert result.returncode == 0, result.stdout
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", result.stdout, re.MULTILINE)}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which nothing has run."""
    return copy_repository(tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A copy in which the smoke preset has run, and what the terminal showed, with Snakemake's own messages."""
    repository = copy_repository(tmp_path_factory.mktemp("finished"))
    result = snakemake(repository, *TARGETS, "--cores", "2", "--verbose", "--configfile", SMOKE)
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
    jobs = planned(clean, targets=())
    assert (jobs["train"], jobs["simulate"], jobs["table"]) == (178, 9, 2)


def test_the_picture_in_the_docs_shows_the_rules_of_the_demo(clean: Path) -> None:
    demo = snakemake(clean, "demo", "report", "--rulegraph", "--configfile", "workflow/presets/demo.yaml").stdout
    shown = re.findall(r"<text [^>]*>(\w+)</text>", (ROOT / "docs/rules.svg").read_text())
    assert sorted(shown) == sorted(re.findall(r'label = "(\w+)"', demo))


def test_a_home_that_cannot_be_written_is_no_hindrance(clean: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert planned(clean, "--configfile", SMOKE)["train"] > 0


def test_a_mistake_is_one_line_and_nothing_starts(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("simulation: { snrr: 1.0 }")
    result = snakemake(clean, "--cores", "1", "--configfile", str(tmp_path / "mine.yaml"))
    assert result.returncode != 0
    assert "unknown key `simulation.snrr`; did you mean `snr`?" in result.stdout.splitlines()[-1]
    assert "Traceback" not in result.stdout
    assert not (clean / "results").exists()


def test_training_jobs_are_limited_by_the_gpus_that_can_be_seen(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "mine.yaml").write_text(f"pathvars: {{ results: {tmp_path}/results }}")
    target = f"{tmp_path}/results/datasets/smoke_noiseless/config.json"
    arguments = (target, "--cores", "2", "--configfile", SMOKE, str(tmp_path / "mine.yaml"))
    shown = snakemake(clean, *arguments, visible_gpus=None).stdout
    assert re.search(r'Provided resources:.*"gpu", 2', shown), shown


def test_the_scheduler_rests_while_jobs_run(finished: tuple[Path, str]) -> None:
    """It looks for work when it starts and when jobs end. To look every second would take time from the jobs."""
    jobs, rounds = finished[1].count("Finished jobid"), finished[1].count("Resources before job selection")
    assert jobs > 30
    assert 0 < rounds <= jobs + 1


def test_looking_changes_nothing_and_a_run_leaves_what_is_not_ours(tmp_path: Path) -> None:
    """Another pipeline runs in the folder, and the results hold a file of the user, both with times in the future."""
    repository, tomorrow = copy_repository(tmp_path), time.time() + 86400
    lock, theirs = repository / ".snakemake/locks/0.output.lock", repository / RESULTS / "datasets/notes.txt"
    ours = repository / RESULTS / "datasets/smoke_noiseless/config.json"
    for path in (lock, theirs, ours):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs/output.txt\n")
        os.utime(path, (tomorrow, tomorrow))

    def state() -> dict[Path, float]:
        return {path: path.stat().st_mtime for path in (lock, theirs, ours)}

    before = state()
    for looking in (["-n"], ["--lint"], ["--summary"]):
        shown = snakemake(repository, str(ours.relative_to(repository)), *looking, "--configfile", SMOKE).stdout
        assert state() == before and not (repository / ".snakemake/alive.lock").exists(), shown
    options = ("--cores", "1", "--touch", "--configfile", SMOKE)
    result = snakemake(repository, str(ours.relative_to(repository)), *options)
    assert theirs.stat().st_mtime == before[theirs] and ours.stat().st_mtime < tomorrow - 3600, result.stdout
    assert "cannot be locked" not in result.stdout


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
    dataset = {
        "config.json",
        "volume.mrc",
        "volume.made_from.json",
        "particles.star",
        "particles.mrcs",
        "simulation.json",
    }
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


def test_a_second_run_has_nothing_to_do_though_the_source_has_new_times(finished: tuple[Path, str]) -> None:
    for path in (finished[0] / "src").rglob("*.py"):
        path.touch()
    result = snakemake(finished[0], *TARGETS, "--cores", "2", "--configfile", SMOKE, "--quiet", "host", "rules")
    assert "Nothing to be done" in result.stdout


def agreed(repository: Path, *overlays: Path) -> tuple[dict[str, int], str]:
    """Jobs of each rule that a dry run plans, and the text of `make plan`, which must count the same ones."""
    files = ("workflow/presets/smoke.yaml", *map(str, overlays))
    jobs = planned(repository, "--configfile", *files)
    environment = os.environ | {"PYTHONPATH": str(repository / "src"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "equipose.study.plan", "config.yaml", *files]
    shown = subprocess.run(command, cwd=repository, env=environment, text=True, capture_output=True)
    assert shown.returncode == 0, shown.stderr
    training, datasets = (
        int(re.search(rf"^  {name} +(\d+)", shown.stdout, re.MULTILINE)[1]) for name in ("training", "datasets")
    )
    scoring = re.search(r"^  scoring +(\d+)", shown.stdout, re.MULTILINE)
    assert training == jobs.get("train", 0)
    assert datasets == jobs.get("simulate", 0)
    assert training + (int(scoring[1]) if scoring else 0) == jobs.get("evaluate", 0)
    return jobs, shown.stdout


@contextmanager
def replaced(path: Path, old: str, new: str) -> Iterator[None]:
    """`new` in place of `old` in a file, for as long as the block runs."""
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    yield
    path.write_text(before)


def test_a_comment_a_message_a_rules_text_and_a_version_change_nothing(finished: tuple[Path, str]) -> None:
    source, rules = finished[0] / "src/equipose", finished[0] / "workflow/rules"
    with (
        edited(source / "model/losses.py", "# edited\n"),
        replaced(source / "training/train.py", "the loss is not finite at step", "the loss was not finite at step"),
        replaced(source / "__init__.py", __version__, "9.9.9"),
        replaced(rules / "train.smk", "python -u -m equipose.training.train", "python -u -m  equipose.training.train"),
        replaced(rules / "common.smk", "error: killed", "error: ended"),
    ):
        jobs, plan = agreed(finished[0])
    assert jobs == {}
    assert "(7 more are done)" in plan and "kept" not in plan


def test_changed_code_keeps_what_is_finished_and_says_so_until_it_is_asked_for(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    (tmp_path / "again.yaml").write_text("retrain: code")
    losses = finished[0] / "src/equipose/model/losses.py"
    with edited(losses, "\nFACTOR = 2\n"):
        kept, plan = agreed(finished[0])
        again, other_plan = agreed(finished[0], tmp_path / "again.yaml")
        for_report = planned(finished[0], "--cores", "1", "--configfile", SMOKE, targets=("report",))
    assert set(kept) <= {"table", *TARGETS, "total"} and kept["table"] == 2  # to say so below the tables
    assert "smoke_snr1/d4_l2 seed 0, 1: made by another version of the code, and kept" in plan
    assert again["train"] == 7 and "simulate" not in again and "kept" not in other_plan
    assert "report" in for_report and not {"train", "evaluate", "table", "figure"} & for_report.keys()


def test_a_changed_setting_reruns_its_own_runs_only(finished: tuple[Path, str], tmp_path: Path) -> None:
    """The learning rate of one run, the noise of two runs, and the label of one, which tables and figures show."""
    models = {"d4_search": {"optimizer": {"learning_rate": 0.0123}}, "c4_mir": {"label": "another"}}
    overlay = {"models": models, "datasets": {"smoke_snr1": {"snr": 0.9}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(overlay))
    jobs, _ = agreed(finished[0], tmp_path / "mine.yaml")
    assert (jobs["simulate"], jobs["train"], jobs["evaluate"], jobs["tables_json"]) == (1, 3, 3, 1)


def test_a_report_of_nothing_names_what_is_missing_and_how_to_make_it(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"pathvars: {{ results: {tmp_path}/results }}")
    overlays = ("--configfile", SMOKE, str(tmp_path / "mine.yaml"))
    result = snakemake(clean, "report", "--cores", "1", *overlays)
    assert result.returncode == 0, result.stdout
    page = (tmp_path / "results/report.html").read_text()
    assert "7 runs have no result yet" in page
    assert "snakemake --cores all --configfile workflow/presets/smoke.yaml" in page


def test_the_report_holds_every_table_and_figure_and_publish_keeps_the_small_ones(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("run: [smoke]")
    overlays = ("--configfile", SMOKE, str(tmp_path / "mine.yaml"))
    result = snakemake(finished[0], "publish", "--cores", "1", *overlays)
    assert result.returncode == 0, result.stdout
    page = (finished[0] / RESULTS / "report.html").read_text()
    assert "no result yet" not in page and "Not made yet" not in page
    assert page.count("data:image/png") == len(list((finished[0] / RESULTS / "figures").rglob("*.png")))
    published = finished[0] / "results/reference/smoke"
    assert {"claims.csv", "provenance.json", "time.csv", "tables", "figures"} <= {p.name for p in published.iterdir()}
    again = snakemake(finished[0], "publish", "--cores", "1", *overlays, "--quiet", "host", "rules")
    assert "Nothing to be done" in again.stdout


def test_snakemake_s_own_report_holds_tables_and_figures_without_the_net(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    page = tmp_path / "snakemake.html"
    made = snakemake(finished[0], *TARGETS, "--report", str(page), "--configfile", SMOKE)
    assert made.returncode == 0, made.stdout
    for name in ("smoke.csv", "smoke_noise_exact.csv", "examples.png", "mirror_smoke_noiseless.png"):
        assert name in page.read_text()


def test_moved_results_become_tables_without_particles_and_without_training(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    """As on another machine: every file has a new time, and Snakemake's records and the particles are missing."""
    moved = copy_repository(tmp_path)
    shutil.copytree(finished[0] / RESULTS / "runs", moved / RESULTS / "runs", copy_function=shutil.copyfile)
    alone = ("--allowed-rules", "tables", "table", "tables_json")
    result = snakemake(moved, "tables", "--cores", "1", "--configfile", SMOKE, *alone)
    assert result.returncode == 0, result.stdout
    for table in sorted((finished[0] / RESULTS / "tables").glob("*.csv")):
        assert (moved / RESULTS / "tables" / table.name).read_text() == table.read_text()


NEW_KEYS = {
    "metrics.json": ("code", "config", "images"),
    "provenance.json": ("fingerprint",),
    "simulation.json": ("code", "structure"),
}
"""What earlier versions did not record."""


def forget(path: Path, keys: tuple[str, ...]) -> None:
    """Leave keys out of a JSON file, or of each record of its list."""
    if not keys:
        return
    content = json.loads(path.read_text())
    for record in content if isinstance(content, list) else [content]:
        for key in keys:
            del record[key]
    path.write_text(json.dumps(content))


def test_results_moved_as_a_whole_are_accepted_once_touched_and_know_their_settings(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    """Also those of versions that recorded less. A run that starts anew trains with the settings that are asked for."""
    moved, run = copy_repository(tmp_path), RESULTS / "runs/smoke_noiseless/d4_l2/seed0"
    shutil.copytree(finished[0] / RESULTS, moved / RESULTS, copy_function=shutil.copyfile)
    for path in (moved / RESULTS).rglob("*.json"):
        forget(path, NEW_KEYS.get(path.name, ()))
    for path in (moved / RESULTS / "tables").glob("*.csv"):
        pd.read_csv(path, dtype=str).drop(columns=["outdated", "other_code"]).to_csv(path, index=False)
    assert "train" in planned(moved, "--configfile", SMOKE)
    assert snakemake(moved, *TARGETS, "--touch", "--cores", "1", "--configfile", SMOKE).returncode == 0
    assert planned(moved, "--configfile", SMOKE) == {}
    overlay = {"training": {"optimizer": {"learning_rate": 0.0123}}, "datasets": {"smoke_snr1": {"snr": 0.9}}}
    (moved / "mine.yaml").write_text(yaml.safe_dump(overlay))
    jobs = planned(moved, "--configfile", SMOKE, "mine.yaml")
    assert (jobs["simulate"], jobs["train"], jobs["run_json"]) == (1, 7, 7)

    (moved / run / "model.pt").unlink()
    done = snakemake(moved, str(run / "model.pt"), "--cores", "1", "--configfile", SMOKE, "mine.yaml")
    assert done.returncode == 0, done.stdout
    model = torch.load(moved / run / "model.pt", weights_only=True)
    assert json.loads(model["config"])["model"]["optimizer"]["learning_rate"] == 0.0123

    done = snakemake(moved, "claims", "--cores", "1", "--configfile", SMOKE, "mine.yaml")  # one trained, none scored
    assert done.returncode == 0, done.stdout
    assert len(pd.read_csv(moved / RESULTS / "runs.csv")) == 0
    assert (
        "outdated (their results come from other settings): smoke_noiseless/"
        in (moved / RESULTS / "claims.md").read_text()
    )


def test_a_setting_that_is_changed_back_before_training_retrains_nothing(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    moved, config = copy_repository(tmp_path), RESULTS / "runs/smoke_noiseless/d4_l2/seed0/config.json"
    shutil.copytree(finished[0] / RESULTS, moved / RESULTS)
    (moved / "mine.yaml").write_text("training: { batch: 8 }")
    for overlays in ((SMOKE, "mine.yaml"), (SMOKE,)):
        done = snakemake(moved, str(config), "--cores", "1", "--configfile", *overlays)
        assert done.returncode == 0 and "1 of 1 steps" in done.stdout, done.stdout
    assert not {"train", "evaluate"} & planned(moved, "--configfile", SMOKE).keys()


def test_the_encoder_and_the_loss_of_the_docs_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    page = (ROOT / "docs/extend.md").read_text()
    (overlay,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    repository = copy_repository(tmp_path)
    for module, python in zip(("encoders", "losses"), re.findall(r"```python\n(.*?)```", page, re.DOTALL), strict=True):
        with (repository / f"src/equipose/model/{module}.py").open("a") as file:
            file.write("\n\n" + python)
    shutil.copytree(finished[0] / RESULTS / "datasets", repository / "results/mine/datasets")
    (repository / "mine.yaml").write_text(overlay)
    short = "{ mine: { datasets: [smoke_noiseless], models: [tiny, d4_root], seeds: [0], budget: { steps: 2 } } }"
    (repository / "short.yaml").write_text(f"experiments: {short}")
    overlays = ("--configfile", SMOKE, "mine.yaml", "short.yaml")
    result = snakemake(repository, "tables", "--cores", "2", *overlays)
    assert result.returncode == 0, result.stdout
    assert pd.read_csv(repository / "results/mine/tables/mine.csv")["model"].tolist() == ["tiny", "d4_root"]
    assert "rule simulate:" not in result.stdout


@pytest.fixture
def quick(halves: Path, tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """`equipose reconstruct` as a user calls it in a folder of their own, too short to learn anything."""
    (tmp_path / "check out").mkdir()
    repository = copy_repository(tmp_path / "check out")
    preset = repository / "workflow/presets/particles.yaml"
    smoke = yaml.safe_load((ROOT / SMOKE).read_text())
    training = smoke["training"] | {"widths": [32, 64, 128]}  # of few features all may be dead: no pose then
    short = yaml.safe_load(preset.read_text()) | {"training": training, "evaluation": smoke["evaluation"]}
    short["models"]["d4_search"]["refine_passes"] = 2
    preset.write_text(yaml.safe_dump(short))
    (tmp_path / "my project/Extract 1").mkdir(parents=True)
    for name in ("particles.star", "particles.mrcs"):
        shutil.copy2(halves / name, tmp_path / "my project/Extract 1")

    def start(steps: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "equipose.cli", "reconstruct", "Extract 1/particles.star"]
        command += ["--out", "ab initio", "--fit-steps", steps, "--cores", "2"]
        return subprocess.Popen(
            command,
            cwd=tmp_path / "my project",
            env=os.environ | {"PYTHONPATH": str(repository / "src"), "CUDA_VISIBLE_DEVICES": ""},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which nohup has us ignore
        )

    return start


def test_a_users_particles_become_poses_maps_and_a_page_from_any_folder_and_with_spaces_everywhere(
    quick: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    """Called twice."""
    process, out = quick("0"), tmp_path / "my project/ab initio"
    shown, _ = process.communicate()
    assert process.returncode in (0, NOT_CONVERGED), shown
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
    stack = tmp_path / "my project/Extract 1/particles.mrcs"
    stack.touch()
    assert "Nothing to be done" in quick("0").communicate()[0]

    content = bytearray(stack.read_bytes())
    content[-1] ^= 1
    stack.write_bytes(content)
    repository = tmp_path / "check out"
    preset = repository / "workflow/presets/particles.yaml"
    settings = ("--configfile", str(preset), str(out / "particles.yaml"), "--directory", str(out))
    jobs = planned(repository, "--cores", "1", *settings, targets=("reconstruct",))
    assert (jobs["prepare"], jobs["train"], jobs["join_halves"]) == (2, 2, 1)


def test_a_reconstruction_that_is_told_to_stop_ends_with_all_of_its_jobs_and_is_continued(
    quick: Callable[..., subprocess.Popen], tmp_path: Path
) -> None:
    """SIGTERM, and then SIGHUP, to the command alone, each while both halves are trained."""
    out = tmp_path / "my project/ab initio"
    logs = [out / f"work/logs/train/half{half}/d4_search/seed0.log" for half in (1, 2)]
    runs = [out / f"work/runs/half{half}/d4_search/seed0" for half in (1, 2)]
    for number, words in ((signal.SIGTERM, "plan: "), (signal.SIGHUP, "continuing from step ")):
        process = quick("100000")
        while not all(log.exists() and words in log.read_text() for log in logs) and process.poll() is None:
            time.sleep(0.2)
        time.sleep(2)
        assert processes_in(out)
        process.send_signal(number)
        shown, _ = process.communicate(timeout=120)
        assert process.returncode == 128 + number, shown
        assert shown.splitlines()[-1] == f"stopped by {number.name}; the same command continues"
        assert "Traceback" not in shown
        assert processes_in(out) == []
        assert all((run / "checkpoint.pt").exists() and not (run / "model.pt").exists() for run in runs)
        assert "stopped; the same command continues from the checkpoint" in logs[0].read_text()
        assert "stage 2 of 4: training" in status(out, 30.0, time.time())
        with drop_stale_locks(out / ".snakemake") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not list((out / ".snakemake").glob("locks/*"))


def processes_in(folder: Path) -> list[str]:
    """Commands of all processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(process / "cwd")) == folder:
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found
