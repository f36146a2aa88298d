"""`pip install` of the wheel into an empty environment, and the workflow there, in a folder that is no checkout.

`make test-install` runs this with any Python that the package allows, and with the newest releases of all packages.
"""

from collections.abc import Callable
from pathlib import Path


def test_the_whole_smoke_preset_runs(run: Callable[..., str], folder: Path) -> None:
    run("equipose run smoke report --preset smoke --cores 2")
    assert (folder / "results/smoke/tables/smoke.csv").is_file()
    assert "equipose run --cores all --preset smoke" in (folder / "results/smoke/report.html").read_text()
    assert "done" in run("equipose status results/smoke")


def test_a_command_runs_though_its_environment_is_not_activated(
    environment: Path, folder: Path, run: Callable[..., str]
) -> None:
    (folder / "other.yaml").write_text("pathvars: {results: results/other}")
    asked = f"{environment}/equipose run results/other/datasets/smoke_snr1/config.json --preset smoke --cores 1"
    run(f"PATH=/usr/bin:/bin {asked} --configfile other.yaml")
    assert (folder / "results/other/datasets/smoke_snr1/config.json").is_file()


def test_the_environment_is_without_escnn_and_says_so_where_it_is_asked_for(run: Callable[..., str]) -> None:
    asked = "from equipose.core.groups import kernel_basis; kernel_basis('d4', 'scalar', 7)"
    assert "pip install 'equipose[escnn]'" in run(f'python -c "{asked}"', code=1)
