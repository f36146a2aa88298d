"""What a repository keeps of a preset's results, whole or in parts from several machines."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from test_tables import PAPER, write_run

from equipose.errors import ConfigError
from equipose.study import tables
from equipose.study.joined_tables import join_tables
from equipose.study.publish import publish
from equipose.study.run_table import read_outcomes
from equipose.study.runs import read_runs

CLAIMS = yaml.safe_load((Path(__file__).parents[1] / "workflow/report/claims.yaml").read_text())
CONVERGES = {"confidence": 0.95, "seeds": 3, "claims": {"d4": CLAIMS["claims"]["d4_converges_noiseless"]}}
DATASETS = ["spliceosome_noiseless", "80s_noiseless"]
COMMAND = "snakemake --configfile mine.yaml"


@pytest.fixture
def config(paper_config: dict) -> dict[str, Any]:
    """Two datasets, each with an experiment of its own, and one of both."""
    part = {"models": ["standard_sym", "d4_l2"], "seeds": [0, 1, 2, 3], "budget": {"seconds": 600}}
    part |= {"table": "best_three", "compare": "table1"}
    experiments = {name: {"datasets": [name]} | part for name in DATASETS} | {"both": {"datasets": DATASETS} | part}
    return paper_config | {"experiments": experiments}


def run_part(config: dict[str, Any], results: Path, dataset: str, mse: float) -> Path:
    """The results folder of a machine that has run one dataset's part, as its rules leave it."""
    for model in ("standard_sym", "d4_l2"):
        for seed in range(4):
            write_run(results, dataset, model, seed, mse)
    write_tables(config, dataset, results)
    figure = results / f"figures/{dataset}/convergence.png"
    figure.parent.mkdir(parents=True)
    figure.write_text(f"MSE {mse}")
    jobs = results / f"benchmarks/train/{dataset}/d4_l2/seed0.tsv"
    jobs.parent.mkdir(parents=True)
    jobs.write_text("s\tmax_rss\n120\t2048\n")
    (results / "sessions.csv").write_text(f"ended,cores,minutes,command\nfinished,2,75.3,snakemake {dataset}\n")
    read_outcomes(results).to_csv(results / "runs.csv", index=False)
    return results


def write_tables(config: dict[str, Any], experiment: str, results: Path) -> None:
    (results / "tables").mkdir()
    runs = read_runs(config, experiment, results)
    for mode, suffix in tables.SUFFIXES.items():
        stem = f"{experiment}{suffix}"
        table, text, bold, notes = tables.build_table(config, experiment, runs, mode, PAPER, ["Structure: a stand-in."])
        table.to_csv(results / f"tables/{stem}.csv", index=False)
        (results / f"tables/{stem}.md").write_text(tables.to_markdown(table, text, bold, stem, notes))


@pytest.fixture
def kept(config, tmp_path) -> Path:
    """What two machines have published, a dataset each, one after the other."""
    for dataset, mse in zip(DATASETS, (0.02, 0.04), strict=True):
        results = run_part(config, tmp_path / dataset, dataset, mse)
        publish(results, tmp_path / "kept", COMMAND, config, ["both"], CONVERGES)
    return tmp_path / "kept"


def test_small_files_are_kept_with_where_they_come_from(config, tmp_path):
    results = run_part(config, tmp_path / "results", "80s_noiseless", 0.02)
    publish(results, tmp_path / "kept", COMMAND, config, ["80s_noiseless"], CONVERGES)
    files = {"claims.csv", "claims.md", "provenance.json", "runs.csv", "sessions.csv", "time.csv", "tables", "figures"}
    assert {path.name for path in (tmp_path / "kept").iterdir()} == files
    provenance = json.loads((tmp_path / "kept/provenance.json").read_text())
    assert provenance["command"] == COMMAND and "torch" in provenance["machines"][0]["versions"]
    assert pd.read_csv(tmp_path / "kept/runs.csv")["mse"].tolist() == [0.02] * 8


def test_a_part_from_another_machine_joins_those_that_were_there(kept):
    assert pd.read_csv(kept / "runs.csv")["dataset"].value_counts().to_dict() == dict.fromkeys(DATASETS, 8)
    assert {path.name for path in (kept / "figures").iterdir()} == set(DATASETS)
    assert len((kept / "sessions.csv").read_text().splitlines()) == 3
    assert pd.read_csv(kept / "time.csv")["of"].tolist() == sorted(DATASETS)
    assert [entry["datasets"] for entry in json.loads((kept / "provenance.json").read_text())["machines"]] == [
        [dataset] for dataset in DATASETS
    ]


def test_claims_are_judged_on_the_runs_of_all_parts(kept):
    claim = pd.read_csv(kept / "claims.csv").iloc[0]
    assert (claim["runs"], claim["estimate"], claim["verdict"]) == (8, 1.0, "reproduced")
    assert "not there" not in (kept / "claims.md").read_text()


def test_publishing_again_replaces_a_run_and_adds_nothing(config, kept, tmp_path):
    results = run_part(config, tmp_path / "again", "80s_noiseless", 0.06)
    for _ in range(2):
        publish(results, kept, COMMAND, config, ["both"], CONVERGES)
    runs = pd.read_csv(kept / "runs.csv").groupby("dataset")["mse"].agg(["count", "max"])
    assert runs.loc["80s_noiseless"].tolist() == [8, 0.06] and runs.loc["spliceosome_noiseless"].tolist() == [8, 0.02]
    assert (kept / "figures/80s_noiseless/convergence.png").read_text() == "MSE 0.06"
    assert len((kept / "sessions.csv").read_text().splitlines()) == 3
    assert len(json.loads((kept / "provenance.json").read_text())["machines"]) == 2


def test_an_experiment_that_only_the_parts_have_run_gets_their_rows_and_notes(config, kept, tmp_path):
    """The table is the one that a machine makes which has run all of it."""
    for dataset, mse in zip(DATASETS, (0.02, 0.04), strict=True):
        for model in ("standard_sym", "d4_l2"):
            for seed in range(4):
                write_run(tmp_path / "whole", dataset, model, seed, mse)
    write_tables(config, "both", tmp_path / "whole")
    for name in ("both.csv", "both.md", "both_exact.csv", "both_exact.md"):
        assert (kept / "tables" / name).read_text() == (tmp_path / "whole/tables" / name).read_text()


def test_a_part_is_not_taken_from_the_whole(config, kept):
    (kept / "tables/80s_noiseless.csv").unlink()
    assert not join_tables(config, "80s_noiseless", kept / "tables")


def test_no_table_is_joined_while_a_part_is_lacking_or_of_parts_of_another_kind(config, kept):
    for changes in ({"datasets": [*DATASETS, "80s_snr1"]}, {"seeds": [0, 1]}, {"models": ["c4_l2"]}):
        experiments = config["experiments"] | {"more": config["experiments"]["both"] | changes}
        assert not join_tables(config | {"experiments": experiments}, "more", kept / "tables")
    assert not (kept / "tables/more.csv").exists()


def test_nothing_to_publish_is_a_message(config, tmp_path):
    with pytest.raises(ConfigError, match="no table or figure to publish: run its preset first"):
        publish(tmp_path, tmp_path / "kept", COMMAND, config, [], CONVERGES)
