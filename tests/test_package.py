"""The wheel: it holds what the workflow reads, and the command finds it there, away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from equipose.config.folder import WORKFLOW
from equipose.io import provenance

ROOT = Path(__file__).parents[1]
BESIDE_THE_SOURCES = ("Snakefile", "config.yaml", "workflow", "profiles", "envs")
"""What a checkout has of the workflow beside src/."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel's content, as site-packages would. The wheel is made from the source archive."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    made = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert made.returncode == 0, made.stdout
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def equipose(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "equipose.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def committed(*paths: str) -> set[str]:
    shown = subprocess.run(["git", "ls-files", *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    return {path for path in shown.stdout.splitlines() if (ROOT / path).is_file()}


def test_a_checkout_is_its_own_workflow() -> None:
    assert WORKFLOW == ROOT


def test_the_wheel_holds_every_file_of_the_package_and_of_the_workflow(installed: Path) -> None:
    there = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    package = {path.removeprefix("src/") for path in committed("src")}
    workflow = {f"equipose/paper/{path}" for path in committed(*BESIDE_THE_SOURCES)}
    assert package | workflow <= there
    strangers = {path for path in there - package - workflow if ".dist-info/" not in path}
    assert not {path for path in strangers if not (ROOT / "src" / path).exists()}  # new files, not yet committed
    assert (installed / "equipose/paper/workflow/resources/structures/5nrl.npz").read_bytes() == (
        ROOT / "workflow/resources/structures/5nrl.npz"
    ).read_bytes()


def test_the_command_finds_the_workflow_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    assert equipose(installed, tmp_path, "where").stdout == f"{installed}/equipose/paper\n"
    asked = ("smoke", "--preset", "smoke", "--cores", "1", "-n", "--quiet", "rules")
    planned = equipose(installed, tmp_path, "run", *asked)
    assert planned.returncode == 0, planned.stderr
    assert "train " in planned.stdout + planned.stderr
    assert not list(tmp_path.glob("results"))


def test_a_package_in_another_project_s_checkout_names_no_commit(tmp_path: Path, monkeypatch) -> None:
    assert provenance.code_version()["commit"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in ("equipose/__init__.py", "other"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "add", "other"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "other"], check=True)
    monkeypatch.setattr(provenance, "SOURCES", tmp_path / "equipose")
    assert provenance.code_version()["commit"] is None and provenance.code_version()["edited"] is None


def test_a_preset_that_is_not_there_is_named_with_those_that_are(installed: Path, tmp_path: Path) -> None:
    said = equipose(installed, tmp_path, "run", "--preset", "smok", "--cores", "1")
    assert said.returncode == 2 and said.stderr.count("\n") == 1
    assert "there is no smok: choose one of ablation, " in said.stderr


def test_settings_that_are_no_file_are_refused_in_one_line(installed: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # such as bash makes of <(echo …)
    (tmp_path / "latin.yaml").write_bytes(b"pathvars:\n  results: caf\xe9\n")
    for given, why in (
        ("pipe", "can be read only once, and each job reads it: write it to a file"),
        (str(tmp_path), "is a folder"),
        ("absent.yaml", "does not exist"),
        ("latin.yaml: line 2", "is not UTF-8 text: save the file as UTF-8"),
    ):
        said = equipose(installed, tmp_path, "run", "--configfile", given.partition(":")[0], "-n")
        assert (said.returncode, said.stderr.count("\n")) == (2, 1), said.stderr
        assert f"error: --configfile: {given} {why}" in said.stderr


def test_an_unknown_option_of_another_command_is_an_error(installed: Path, tmp_path: Path) -> None:
    said = equipose(installed, tmp_path, "status", "results", "--cores", "1")
    assert said.returncode == 2 and "unrecognized arguments: --cores 1" in said.stderr
