"""The workflow as a module of another one, as config/README.md has it; its configuration has only what is changed."""

import re
from pathlib import Path

from test_workflow import ROOT, planned

(SHOWN,) = re.findall(r"```python\n(.*?)```", (ROOT / "config/README.md").read_text(), re.DOTALL)
CHANGES = """
run: [mine]
offline: true
datasets: { mine: { structure: spliceosome, voxel_size: 17.0 } }
experiments: { mine: { datasets: [mine], models: [d4_l2], seeds: [0], budget: { steps: 12 }, table: best } }
"""


def project(folder: Path, snakefile: str, more: str = "") -> Path:
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(CHANGES + more)
    (folder / "workflow").mkdir()
    (folder / "workflow/Snakefile").write_text(snakefile.replace("/path/to/equipose", str(ROOT)))
    return folder


def test_what_the_configuration_leaves_out_is_as_in_config_yaml_and_rules_may_be_renamed(tmp_path: Path) -> None:
    jobs = planned(project(tmp_path, SHOWN), targets=("results/paper/tables/mine.csv", "equipose_mine"))
    assert jobs["equipose_train"] == 1 and "train" not in jobs


def test_its_results_lie_where_the_configuration_says(tmp_path: Path) -> None:
    as_snakedeploy_writes_it = SHOWN.replace(" as equipose_*", "")
    mine = project(tmp_path, as_snakedeploy_writes_it, "pathvars: { results: results/mine }")
    assert planned(mine, targets=("results/mine/tables/mine.csv",))["train"] == 1
