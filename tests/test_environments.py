"""One set of pins: pyproject.toml's, in the conda environments and the constraints too."""

import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]}
ALL_PINS = PINS | {*PROJECT["optional-dependencies"]["slurm"]}


def lines(path: Path) -> set[str]:
    return {line for line in path.read_text().splitlines() if line and not line.startswith("#")}


def test_every_direct_dependency_is_pinned_to_one_version() -> None:
    assert all(len(pin.split("==")) == 2 for pin in ALL_PINS | lines(ROOT / "requirements-nodeps.txt"))


def test_the_constraints_hold_every_pin() -> None:
    assert {pin.lower() for pin in ALL_PINS} <= {line.lower() for line in lines(ROOT / "constraints.txt")}


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_conda_environments_have_the_same_pins(kind: str) -> None:
    dependencies = yaml.safe_load((ROOT / f"envs/{kind}.yaml").read_text())["dependencies"]
    (from_pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    assert {line for line in from_pip if not line.startswith("--")} == PINS


def test_conda_takes_a_python_that_the_package_allows() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.13"
    for kind in ("cpu", "gpu"):
        assert "python=3.11" in yaml.safe_load((ROOT / f"envs/{kind}.yaml").read_text())["dependencies"]


def test_the_containers_install_what_make_installs_from_the_same_files() -> None:
    docker = (ROOT / "envs/Dockerfile").read_text().splitlines()
    apptainer = (ROOT / "envs/apptainer.def").read_text().splitlines()
    installed = [line.removeprefix("RUN ") for line in docker if line.startswith("RUN ")]
    assert installed == [line.strip() for line in apptainer if line.startswith("    pip ")]
    recipes = (ROOT / "Makefile").read_text().split(".venv/installed: ")[1].split("\n\n")[0].splitlines()
    by_make = [line.strip() for line in recipes if "pip install" in line]
    as_make = [
        line.replace("pip install --no-cache-dir", "$(BIN)/pip install --quiet $(PIP_OPTIONS)") for line in installed
    ]
    assert as_make == by_make
    (base,) = [line.split()[1] for line in docker if line.startswith("FROM ")]
    assert f"From: {base}" in apptainer and base.startswith("python:3.11")


def test_the_containers_hold_every_file_that_the_workflow_needs() -> None:
    docker = (ROOT / "envs/Dockerfile").read_text().splitlines()
    copied = {name for line in docker if line.startswith("COPY ") for name in line.split()[1:-1]}
    section = (ROOT / "envs/apptainer.def").read_text().split("%files\n")[1].split("\n\n")[0]
    assert copied == {line.split()[0] for line in section.splitlines()}
    assert all((ROOT / name).exists() for name in copied)
    assert {"Snakefile", "config.yaml", "src", "workflow", "envs", "profiles", "constraints.txt"} <= copied
