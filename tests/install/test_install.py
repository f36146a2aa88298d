"""`pip install` of the wheel into an empty environment, and each command there, in a folder that is no checkout.

`make test-install` runs this with any Python that the package allows, and with the newest releases of all packages.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTICLES = "results/smoke/datasets/smoke_noiseless/particles.star"
MORE = "simulation: { images: 1000 }\n"  # a search needs 500 in each half


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands' folder of an environment that holds the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("install")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    subprocess.run([folder / "venv/bin/pip", "install", "--quiet", f"{wheel}[slurm]"], check=True)
    return folder / "venv/bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


def equipose(environment: Path, folder: Path, *arguments: str) -> str:
    """What a command prints; it is not activated, as in a job or a desktop's menu."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [environment / "equipose", *arguments],
        cwd=folder,
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_whole_smoke_preset_runs(environment: Path, folder: Path) -> None:
    equipose(environment, folder, "run", "smoke", "report", "--preset", "smoke", "--cores", "2")
    assert (folder / "results/smoke/tables/smoke.csv").is_file()
    assert "equipose run --cores all --preset smoke" in (folder / "results/smoke/report.html").read_text()
    assert "done" in equipose(environment, folder, "status", "results/smoke")


def test_particles_are_read_checked_and_reconstructed(environment: Path, folder: Path) -> None:
    (folder / "more.yaml").write_text(MORE)
    equipose(environment, folder, "run", PARTICLES, "--preset", "smoke", "--configfile", "more.yaml", "--cores", "1")
    assert "32 pixels of 17 Å" in equipose(environment, folder, "info", PARTICLES)
    assert "are sound" in equipose(environment, folder, "validate", PARTICLES)
    options = ("--out", "abinitio", "--starts", "1", "--fit-steps", "0", "--cores", "2")
    equipose(environment, folder, "reconstruct", PARTICLES, *options)
    for name in ("poses.star", "volume.mrc", "half1.mrc", "half2.mrc", "report.html"):
        assert (folder / "abinitio" / name).is_file()
    equipose(environment, folder, "flip-hand", "abinitio")


def test_the_environment_is_without_escnn_and_says_so_where_it_is_asked_for(environment: Path, folder: Path) -> None:
    asked = "from equipose.core.groups import kernel_basis; kernel_basis('d4', 'scalar', 7)"
    said = subprocess.run([environment / "python", "-c", asked], cwd=folder, capture_output=True, text=True)
    assert "pip install 'equipose[escnn]'" in said.stderr
