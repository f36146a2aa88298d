"""The functions that use Snakemake's inside, without a workflow; tests/workflow runs real ones."""

import re
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from snakemake.api import Workflow

from equipose.workflow import resources, session, snakemake_internals
from equipose.workflow.snakemake_internals import drop_stale_locks, remember_locks, that_exist

ROOT = Path(__file__).parents[1]


def test_the_version_that_was_checked_is_the_one_that_is_installed() -> None:
    assert f"Checked with Snakemake {version('snakemake')}" in snakemake_internals.__doc__


def test_what_is_replaced_is_there() -> None:
    assert isinstance(Workflow.rerun_triggers, property)
    assert callable(Workflow.execute)


def test_the_rules_lean_on_nothing_else() -> None:
    """`configfiles` is what Snakemake's own documentation uses."""
    files = [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]
    used = {name for path in files for name in re.findall(r"(?<![\w./])workflow\.(\w+)", path.read_text())}
    assert used == {"configfiles"}


def test_existing_files_are_named_as_no_rule_names_them(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out/runs/a").mkdir(parents=True)
    Path("out/runs/a/metrics.json").touch()
    assert that_exist(Path("out"), "runs/*/metrics.json", "none/*") == [str(tmp_path / "out/runs/a/metrics.json")]
    assert that_exist(tmp_path / "out", "runs/*/metrics.json") == ["out/runs/a/metrics.json"]


def test_only_jobs_that_are_really_run_are_prepared() -> None:
    called: list[str] = []
    workflow = SimpleNamespace(execute=lambda executor_plugin, **_: called.append("executed"))
    snakemake_internals.before_execution(workflow, lambda: called.append("prepared"))
    for dry in (True, False):
        plugin = SimpleNamespace(common_settings=SimpleNamespace(dryrun_exec=dry))
        workflow.execute(executor_plugin=plugin, targets=[])
    assert called == ["executed", "prepared", "executed"]


def test_a_call_of_snakemake_is_a_line_of_the_sessions(tmp_path: Path) -> None:
    session.note(tmp_path / "out", "finished", 2, 1.25, ["--configfile", 'a "b".yaml'])
    session.note(tmp_path / "out", "stopped", "", 0.0, [])
    assert (tmp_path / "out/sessions.csv").read_text().splitlines() == [
        "ended,cores,minutes,command",
        """finished,2,1.2,"snakemake --configfile 'a ""b"".yaml'\"""",
        'stopped,,0.0,"snakemake"',
    ]


def test_a_training_job_may_take_its_budget_and_the_slack() -> None:
    experiment = {"datasets": ["a"], "models": ["m"], "seeds": [0]}
    config = {
        "run": ["timed"],
        "resources": {"runtime_slack_minutes": 30},
        "datasets": {"a": {}},
        "models": {"m": {}},
        "experiments": {"timed": experiment | {"budget": {"seconds": 600}}},
    }
    assert resources.train_minutes(config, "a", "m", 0) == 40
    config["experiments"]["timed"]["budget"] = {"steps": 5}
    assert resources.train_minutes(config, "a", "m", 0) == 30


def test_gpus_are_those_that_are_listed_and_not_hidden(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert resources.gpus() == 0
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'GPU 0: X (UUID: GPU-1)'\necho 'GPU 1: X (UUID: GPU-2)'\n")
    command.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert resources.gpus() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert resources.gpus() == 1
    for hidden, seen in (("", 0), ("-1", 0), ("NoDevFiles", 0), ("1,-1,0", 1), ("GPU-2", 1), ("0, 1", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert resources.gpus() == seen


def lock(folder: Path, name: str) -> Path:
    path = folder / "locks" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("results/x")
    return path


def test_our_locks_are_dropped_where_no_snakemake_of_ours_is_alive_and_kept_where_one_is(tmp_path: Path) -> None:
    alive = drop_stale_locks(tmp_path)
    ours = lock(tmp_path, "0.output.lock")
    remember_locks(alive, [ours])
    with drop_stale_locks(tmp_path):  # a second Snakemake beside the first
        assert ours.exists()
    alive.close()
    drop_stale_locks(tmp_path).close()
    assert not ours.exists()


def test_locks_of_another_pipeline_in_the_same_folder_stay(tmp_path: Path) -> None:
    """Also a lock with the name of an earlier one of ours: Snakemake takes the first free number."""
    theirs = lock(tmp_path, "0.input.lock")
    with drop_stale_locks(tmp_path) as alive:
        ours = lock(tmp_path, "0.output.lock")
        remember_locks(alive, [ours])
    ours.unlink()
    again = lock(tmp_path, "0.output.lock")
    drop_stale_locks(tmp_path).close()
    assert theirs.exists() and again.exists()
