"""The workflow as a module of another one, as snakedeploy writes it; its configuration has only what is changed."""

from pathlib import Path

from test_workflow import ROOT, planned

SNAKEFILE = """
configfile: "config/config.yaml"

module paper:
    snakefile: "{snakefile}"
    config: config

use rule * from paper{renamed}
"""
CHANGES = """
run: [mine]
offline: true
datasets: { mine: { structure: spliceosome, voxel_size: 17.0 } }
experiments: { mine: { datasets: [mine], models: [d4_l2], seeds: [0], budget: { steps: 12 }, table: best } }
"""


def project(folder: Path, renamed: str = "", more: str = "") -> Path:
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(CHANGES + more)
    (folder / "workflow").mkdir()
    snakefile = SNAKEFILE.format(snakefile=ROOT / "workflow/Snakefile", renamed=renamed)
    (folder / "workflow/Snakefile").write_text(snakefile)
    return folder


def test_what_the_configuration_leaves_out_is_as_in_config_yaml_and_rules_may_be_renamed(tmp_path: Path) -> None:
    jobs = planned(project(tmp_path, renamed=" as paper_*"), targets=("results/paper/tables/mine.csv", "paper_mine"))
    assert jobs["paper_train"] == 1 and "train" not in jobs


def test_its_results_lie_where_the_configuration_says(tmp_path: Path) -> None:
    mine = project(tmp_path, more="pathvars: { results: results/mine }")
    assert planned(mine, targets=("results/mine/tables/mine.csv",))["train"] == 1
