"""An environment that holds the wheel and what it needs, and a folder to work in that is no checkout."""

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands' folder of the environment."""
    folder = tmp_path_factory.mktemp("install")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    subprocess.run([folder / "venv/bin/pip", "install", "--quiet", f"{wheel}[slurm]"], check=True)
    return folder / "venv/bin"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture(scope="session")
def run(environment: Path, folder: Path) -> Callable[..., str]:
    """A function that runs a line of bash in the folder, with the environment's commands, and gives what it prints."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["PATH"] = f"{environment}:{os.environ['PATH']}"

    def run(line: str, code: int = 0, cwd: Path = folder) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=cwd, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == code, f"{line}\n{done.stdout}"
        return done.stdout

    return run
