"""What a module loads: commands that need no networks do not load PyTorch."""

import resource
import subprocess
import sys

import pytest


def loaded(*modules: str) -> set[str]:
    """The top-level packages that importing these modules loads in a fresh interpreter."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(shown.stdout.split())


def test_settings_particles_tables_and_claims_load_no_torch() -> None:
    study, workflow = ("claims", "compare", "plan", "tables"), ("resolve", "validate", "targets", "freshness")
    modules = [
        "io.particles",
        "data.prepare",
        *(f"study.{name}" for name in study),
        *(f"workflow.{name}" for name in workflow),
    ]
    packages = loaded(*(f"equipose.{module}" for module in modules))
    assert "numpy" in packages
    assert not packages & {"torch", "escnn", "matplotlib", "skimage"}


@pytest.mark.parametrize("command", ["info", "validate"])
def test_a_look_at_particles_loads_no_torch(simulated_dataset, command: str) -> None:
    code = "import sys; from equipose import cli; cli.main(); print('torch' in sys.modules)"
    star = simulated_dataset.folder / "particles.star"
    shown = subprocess.run([sys.executable, "-c", code, command, star], capture_output=True, text=True, check=True)
    assert "particles" in shown.stdout and shown.stdout.splitlines()[-1] == "False"


def test_the_command_line_its_settings_and_the_status_load_nothing_numerical() -> None:
    packages = loaded("equipose.cli", "equipose.config.settings", "equipose.study.status")
    assert "equipose" in packages
    assert not packages & {"torch", "numpy", "pandas", "scipy", "starfile", "yaml", "snakemake"}


def test_help_takes_less_than_a_second_of_processor_time() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run([sys.executable, "-m", "equipose.cli", "--help"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0 and "equipose reconstruct particles.star --out DIR" in shown.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
