"""Values of the configuration that look like shell commands are not executed."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_workflow import ROOT, SMOKE, copy_repository, snakemake

NASTY = """it's "quoted" $(touch pwned); `touch pwned` & touch pwned #"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in a folder of such a name, with a structure, a label and a results folder of such names."""
    repository = tmp_path_factory.mktemp("quoting") / NASTY
    repository.mkdir()
    copy_repository(repository)
    structure = repository / f"{NASTY}.npz"
    shutil.copy(ROOT / "workflow/resources/structures/5nrl.npz", structure)
    config = {
        "pathvars": {"results": f"results/{NASTY}"},
        "run": ["mine"],
        "structures": {"mine": {"path": structure.name}},
        "datasets": {"mine": {"structure": "mine", "voxel_size": 17.0}},
        "models": {"d4_l2": {"label": NASTY}},
        "experiments": {
            "mine": {
                "datasets": ["mine"],
                "models": ["d4_l2"],
                "seeds": [0],
                "budget": {"steps": 12},
                "table": "best",
            }
        },
    }
    (repository / "mine.yaml").write_text(yaml.safe_dump(config))
    return repository


def test_the_whole_workflow_takes_them_as_words(project: Path) -> None:
    names = ("examples.png", "convergence.png", "subsets_mine.png", "maps_mine.cxc")  # of each rule for figures
    figures = [f"results/{NASTY}/figures/mine/{name}" for name in names]
    result = snakemake(project, "tables", *figures, "report", "--cores", "1", "--configfile", SMOKE, "mine.yaml")
    assert result.returncode == 0, result.stdout
    results = project / "results" / NASTY
    assert pd.read_csv(results / "tables/mine.csv")["label"].tolist() == [NASTY]
    assert all((project / figure).exists() for figure in figures) and (results / "report.html").exists()
    assert not list(project.parent.rglob("pwned"))


def test_a_users_star_file_of_that_kind_is_prepared(project: Path) -> None:
    particles = project / "results" / NASTY / "datasets/mine"
    folder = project / f"data {NASTY}"
    folder.mkdir()
    for name in ("particles.star", "particles.mrcs"):
        shutil.copy(particles / name, folder)
    own = {"run": ["mine"], "datasets": {"own": {"star": f"{folder.name}/particles.star", "box": 32}}}
    own["experiments"] = {"mine": {"datasets": ["own"]}}
    (project / "own.yaml").write_text(yaml.safe_dump(own))
    target = f"results/{NASTY}/datasets/own/particles.star"
    result = snakemake(project, target, "--cores", "1", "--configfile", SMOKE, "mine.yaml", "own.yaml")
    assert result.returncode == 0, result.stdout
    assert (project / target).exists()
    assert not list(project.parent.rglob("pwned"))
