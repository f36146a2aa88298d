"""The files that the workflow's rules are asked for, and the sentences that go with them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.io import is_flagged

from equipose.model.encoders import ENCODERS
from equipose.model.losses import LOSSES
from equipose.workflow import targets

EMBEDDED = Path("embedded")


@pytest.fixture
def config() -> dict[str, Any]:
    return {
        "pathvars": {"results": "out"},
        "offline": True,
        "structures": {
            "80s": {"pdb": ["6qzp"], "embedded": "1d3d"},
            "own": {"path": "own.pdb"},
            "whole": {"path": "own.pdb", "assembly": 1},
            "far": {"pdb": ["4v6x"]},
        },
        "datasets": {
            **{name: {"structure": name, "snr": 1} for name in ("80s", "own", "whole", "far")},
            "mine": {"star": "mine.star"},
        },
        "models": {"a": {}, "b": {}},
        "experiments": {
            "first": {"datasets": ["80s", "mine"], "models": ["a", "b"], "seeds": [0, 1], "budget": {"steps": 1}},
            "second": {"datasets": ["80s"], "models": ["a"], "seeds": [1], "budget": {"steps": 1}, "compare": "table1"},
        },
        "figures": {"subset_within": [0.1, 0.2]},
        "reconstructions": {"pair": {"halves": ["one", "two"], "model": "a", "seed": 3}},
    }


def test_a_run_that_two_experiments_ask_for_is_named_once(config: dict[str, Any]) -> None:
    files = targets.in_runs(config, "model.pt", ["first", "second"], "80s")
    assert files == [f"out/runs/80s/{model}/seed{seed}/model.pt" for model in "ab" for seed in (0, 1)]
    assert len(targets.in_runs(config, "model.pt", ["first"])) == 8


def test_the_time_of_settings_counts_unless_their_result_stands_and_is_as_asked(
    config: dict[str, Any], tmp_path: Path
) -> None:
    config["pathvars"]["results"] = str(tmp_path)
    run = {"dataset": "80s", "model": "a", "seed": "0"}

    def counts(outdated: bool) -> bool:
        return not is_flagged(targets.settings_file(config, "model.pt", outdated, **run), "ancient")

    assert counts(outdated=False)
    (tmp_path / "runs/80s/a/seed0").mkdir(parents=True)
    (tmp_path / "runs/80s/a/seed0/model.pt").touch()
    assert counts(outdated=True) and not counts(outdated=False)


def test_a_structure_comes_from_a_file_from_the_package_or_from_a_rule(config: dict[str, Any]) -> None:
    files = {name: targets.structure_file(config, name, EMBEDDED) for name in ("80s", "own", "whole", "far")}
    assert files == {
        "80s": "embedded/1d3d.npz",
        "own": "own.pdb",
        "whole": "out/structures/whole.assembly.npz",
        "far": "out/structures/far.npz",
    }
    assert [name for name, file in files.items() if is_flagged(file, "ancient")] == ["80s", "own"]
    assert targets.assembly_option(config, "whole") == ["--assembly", "1"]
    assert targets.assembly_option(config, "own") == []


def test_a_stand_in_is_named_where_it_is_used(config: dict[str, Any]) -> None:
    assert targets.stand_ins(config, "first") == ["Structure 80s: embedded 1D3D, the offline stand-in for PDB 6qzp."]
    assert targets.stand_ins(config | {"offline": False}, "first") == []


def test_tables_and_figures_of_an_experiment(config: dict[str, Any]) -> None:
    tables = targets.table_files(config, ["first"])
    assert len(tables) == 8 and "out/tables/first_exact.html" in tables
    figures = targets.figure_files(config, ["first"], ["curves"], ["sphere"])
    assert set(figures) == {
        *(
            f"out/figures/first/{name}.{kind}"
            for name in ("examples", "curves", "sphere_80s")
            for kind in ("png", "pdf")
        ),
        "out/figures/first/maps_80s.cxc",
    }
    assert targets.figure_options(config, "subsets") == ["--within", "0.1", "0.2"]
    assert targets.figure_options(config, "sphere") == []
    assert targets.paper_table(config, "second", Path("paper")) == ["paper/table1.csv"]
    assert targets.paper_table(config, "first", Path("paper")) == []


def test_simulated_datasets_and_those_of_a_user(config: dict[str, Any]) -> None:
    assert targets.names_of(config, simulated=True) == "80s|own|whole|far"
    assert targets.names_of(config, simulated=False) == "mine"
    config["datasets"] = {"mine": {"star": "mine.star"}}
    assert targets.names_of(config, simulated=True) == "(?!)"
    assert targets.true_volume(config, "mine") == []


def test_an_experiment_is_partly_run_where_some_runs_have_scores(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = [Path(file) for file in targets.in_runs(config, "metrics.json", ["first"])]
    for path in (Path("out/tables/config.json"), metrics[0]):
        path.parent.mkdir(parents=True)
        path.touch()
    assert targets.partly_run(config, "first")
    assert not targets.partly_run(config, "second")  # none of its runs has
    for path in metrics[1:]:
        path.parent.mkdir(parents=True)
        path.touch()
    assert not targets.partly_run(config, "first")
    assert not targets.has_tables(config, "first")


def test_a_reconstruction_has_two_halves(config: dict[str, Any]) -> None:
    assert targets.of_halves(config, "pair", "runs/{half}/{model}/seed{seed}") == [
        "out/runs/one/a/seed3",
        "out/runs/two/a/seed3",
    ]
    assert "out/maps/pair/report.html" in targets.reconstruction_files(config)


def test_commands_are_quoted_for_a_shell(config: dict[str, Any]) -> None:
    here = Path.cwd()
    assert targets.rerun_command([], here) == "snakemake --cores all"
    assert targets.rerun_command([Path("my own.yaml")], here) == "snakemake --cores all --configfile 'my own.yaml'"
    assert targets.table_command(config, "first", Path("paper")).endswith("the offline stand-in for PDB 6qzp.'")


def test_away_from_the_snakefile_the_command_names_presets_and_own_files(tmp_path: Path, monkeypatch) -> None:
    workflow, mine = tmp_path / "paper", tmp_path / "mine"
    (workflow / "workflow/presets").mkdir(parents=True)
    mine.mkdir()
    monkeypatch.chdir(mine)
    files = [workflow / "workflow/presets/smoke.yaml", mine / "my own.yaml"]
    wanted = "equipose run --cores all --preset smoke --configfile 'my own.yaml'"
    assert targets.rerun_command(files, workflow) == wanted


def test_rules_are_found_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "a.smk").write_text(
        "rule one:\n    input: 'x'\n\n    rule: \nrule two :\n# rule three:\nuse rule one as four with:\n"
    )
    assert targets.rule_names([tmp_path / "a.smk"]) == ["one", "two", "four"]


def test_encoders_and_losses_are_named_as_their_modules_register_them(tmp_path: Path, monkeypatch) -> None:
    assert targets.registered_names("equipose.model.encoders", "ENCODERS") == set(ENCODERS)
    assert targets.registered_names("equipose.model.losses", "LOSSES") == set(LOSSES)
    (tmp_path / "theirs.py").write_text('OTHERS = {"x": 1}\nENCODERS = {"a": 1}\nENCODERS["b"] = 2\nOTHERS["y"] = 3\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert targets.registered_names("theirs", "ENCODERS") == {"a", "b"}


def test_a_shared_pass_needs_the_pass_before_it_but_for_the_first(tmp_path: Path) -> None:
    def wildcards(number: str) -> SimpleNamespace:
        return SimpleNamespace(dataset="half1", model="d4_search", seed="0", jobs="2", number=number)

    folder = tmp_path / "runs/half1/d4_search/seed0/refinement/2jobs"
    assert targets.pass_files(tmp_path, wildcards("3"), before=1) == [folder / "pass2.pt"]
    assert targets.pass_files(tmp_path, wildcards("3"), jobs=range(2)) == [
        folder / "pass3.job0.pt",
        folder / "pass3.job1.pt",
    ]
    assert targets.pass_files(tmp_path, wildcards("0"), before=1) == []
    assert targets.pass_files(tmp_path, wildcards("0"), before=1, jobs=["1"]) == []


def test_tables_of_the_panel_are_asked_for_only_with_datasets() -> None:
    config = {"pathvars": {"results": "results/x"}, "panel": []}
    assert targets.panel_tables(config) == []
    config["panel"] = ["groel"]
    assert targets.panel_tables(config) == ["results/x/tables/panel.csv", "results/x/tables/panel.md"]
