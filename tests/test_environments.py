"""One set of pins: those of constraints.txt, in the conda environments too, and within pyproject.toml's ranges."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from equipose import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]


def pins(lines: list[str]) -> dict[str, str]:
    """Versions by canonical name, of lines such as `numpy==1.26.4`."""
    found = [line.split("==") for line in lines if line and not line.startswith(("#", "--"))]
    return {canonicalize_name(name): version for name, version in found}


LOCK = pins((ROOT / "constraints.txt").read_text().splitlines())


def test_the_lock_pins_every_direct_dependency_within_its_range() -> None:
    every = map(Requirement, DIRECT + [one for extra in PROJECT["optional-dependencies"].values() for one in extra])
    apart = pins((ROOT / "requirements-nodeps.txt").read_text().splitlines())
    for needed in every:
        assert (LOCK | apart)[canonicalize_name(needed.name)] in needed.specifier, needed


def test_the_citation_has_the_package_s_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__ and citation["cff-version"] == "1.2.0"


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_conda_environments_have_the_same_pins(kind: str) -> None:
    dependencies = yaml.safe_load((ROOT / f"envs/{kind}.yaml").read_text())["dependencies"]
    (from_pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    assert pins(from_pip) == {name: LOCK[name] for name in (canonicalize_name(Requirement(one).name) for one in DIRECT)}


def test_conda_takes_a_python_that_numpy_1_and_the_package_allow() -> None:
    assert PROJECT["requires-python"] == ">=3.11" and LOCK["numpy"].startswith("1.")
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
