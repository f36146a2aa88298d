"""The contents of a results folder are compared with the configuration, not the times of its files."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from equipose.config.settings import RunConfig, merge, simulation_config
from equipose.io.files import read_json
from equipose.io.fingerprint import dataset_code, fingerprint, training_code
from equipose.io.particles import _summarise
from equipose.model.autoencoder import Autoencoder, save_model
from equipose.workflow import freshness
from equipose.workflow.resolve import images_digest, run_config

ROOT = Path(__file__).parents[1]
DATASET, MODEL = "smoke_snr1", "d4_l2"
RUN = (DATASET, MODEL, 0)


@pytest.fixture
def config(paper_config: dict, tmp_path: Path) -> dict:
    """The smoke preset, its results in an empty folder."""
    smoke = yaml.safe_load((ROOT / "workflow/presets/smoke.yaml").read_text())
    return merge(merge(paper_config, smoke), {"pathvars": {"results": str(tmp_path)}})


def changed(config: dict, **overlay: dict) -> dict:
    return merge(config, overlay)


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def finished(config: dict, tmp_path: Path) -> dict:
    """A dataset and a run, as the rules leave them."""
    run = run_config(config, *RUN)
    folder, dataset = freshness._run(config, *RUN), tmp_path / "datasets" / DATASET
    write(dataset / "config.json", simulation_config(config, DATASET).to_json())
    write(dataset / "simulation.json", {"structure": {"embedded": "5nrl"}, "code": fingerprint("simulate")})
    write(dataset / "particles.star", "")
    write(folder / "config.json", run.to_json())
    write(folder / "provenance.json", [{"fingerprint": fingerprint("train")}])
    save_model(Autoencoder(run, 1.0), folder / "model.pt")
    code = dataset_code(dataset) | training_code(folder) | {"evaluate": fingerprint("evaluate")}
    label = config["models"][MODEL]["label"]
    write(folder / "metrics.json", {"config": json.loads(run.to_json()), "code": code, "label": label})
    return config


def verdicts(config: dict) -> dict[str, bool]:
    return {
        "dataset": freshness.dataset_settings_changed(config, DATASET) or freshness.dataset_changed(config, DATASET),
        "settings": freshness.run_settings_changed(config, *RUN),
        "model": freshness.model_changed(config, *RUN),
        "scores": freshness.scores_changed(config, *RUN),
    }


def test_nothing_has_changed(finished: dict) -> None:
    assert not any(verdicts(finished).values())
    assert freshness.made_by_other_code(Path(finished["pathvars"]["results"]), [RUN]) == {}


def test_an_empty_folder_has_nothing_that_is_out_of_date(config: dict) -> None:
    assert not any(verdicts(config | {"retrain": "code"}).values())


@pytest.mark.parametrize(
    ("overlay", "of"),
    [
        ({"training": {"optimizer": {"learning_rate": 0.0123}}}, {"settings", "model", "scores"}),
        ({"models": {MODEL: {"loss": "sym"}}}, {"settings", "model", "scores"}),
        ({"experiments": {"smoke_noise": {"budget": {"steps": 13}}}}, {"settings", "model", "scores"}),
        ({"datasets": {DATASET: {"snr": 0.9}}}, {"dataset", "settings", "model", "scores"}),
        ({"offline": False}, {"dataset"}),  # its runs follow, since its particles are newer then
        ({"models": {MODEL: {"label": "another"}}}, set()),
        ({"models": {"c4_l2": {"loss": "mir"}}}, set()),
        ({"datasets": {"smoke_noiseless": {"snr": 0.9}}}, set()),
        ({"retrain": "code"}, set()),
    ],
)
def test_a_setting_changes_what_depends_on_it(finished: dict, overlay: dict, of: set[str]) -> None:
    assert {name for name, verdict in verdicts(changed(finished, **overlay)).items() if verdict} == of


def test_what_the_model_was_trained_with_counts_once_config_json_has_been_written_anew(finished: dict) -> None:
    """A changed setting, and an interruption before training."""
    asked = changed(finished, training={"batch": 8})
    folder = freshness._run(finished, *RUN)
    write(folder / "config.json", run_config(asked, *RUN).to_json())
    assert verdicts(asked) == {"dataset": False, "settings": False, "model": True, "scores": True}
    metrics = read_json(folder / "metrics.json")
    assert freshness.outdated(asked, RUN, folder, metrics)
    assert freshness.outdated(asked, RUN, folder, {"label": "of an older version"})
    assert not freshness.outdated(finished, RUN, folder, metrics)


def test_scores_on_particles_of_another_structure_are_outdated(finished: dict, tmp_path: Path) -> None:
    """Where a structure's file is gone, with results that were moved, there is nothing to compare with."""
    folder = freshness._run(finished, *RUN)
    metrics = read_json(folder / "metrics.json")
    assert freshness.outdated(changed(finished, offline=False), RUN, folder, metrics)
    own = changed(finished, structures={"mine": {"path": str(tmp_path / "mine.pdb")}})
    own = changed(own, datasets={DATASET: {"structure": "mine"}})
    assert not freshness.source_changed(own, DATASET)
    (tmp_path / "mine.pdb").write_text("one")
    assert freshness.source_changed(own, DATASET)


def test_a_run_that_no_experiment_asks_for_any_more_is_outdated_by_other_settings_but_not_by_another_budget(
    finished: dict,
) -> None:
    folder = freshness._run(finished, *RUN)
    metrics = read_json(folder / "metrics.json")
    fewer = changed(finished, experiments={"smoke_noise": {"seeds": [1], "budget": {"steps": 99}}})
    assert not freshness.outdated(fewer, RUN, folder, metrics)
    for overlay in ({"training": {"batch": 8}}, {"datasets": {DATASET: {"snr": 0.9}}}):
        assert freshness.outdated(changed(fewer, **overlay), RUN, folder, metrics)
    gone = {key: value for key, value in fewer["models"].items() if key != MODEL}
    assert not freshness.outdated(fewer | {"models": gone}, RUN, folder, metrics)


def test_a_structure_that_changes_before_its_particles_are_simulated_is_noticed(config: dict, tmp_path: Path) -> None:
    (tmp_path / "mine.pdb").write_text("one")
    source = {"path": str(tmp_path / "mine.pdb")}
    mine = changed(config, structures={"mine": source}, datasets={DATASET: {"structure": "mine"}})
    origin = freshness.structure_digest(source)
    write(tmp_path / "datasets" / DATASET / "volume.made_from.json", origin)
    assert not freshness.dataset_changed(mine, DATASET)
    (tmp_path / "mine.pdb").write_text("two")
    assert freshness.dataset_changed(mine, DATASET)
    write(tmp_path / "datasets" / DATASET / "volume.made_from.json", freshness.structure_digest(source))
    assert not freshness.dataset_changed(mine, DATASET)


def test_atoms_are_made_again_once_where_the_entries_or_the_assembly_change(config: dict, tmp_path: Path) -> None:
    """Whether or not another dataset, which nobody asks for now, was made from the former ones."""
    atoms, former = tmp_path / "structures/pair.made_from.json", {"structure": {"pdb": ["1ABC"]}}
    old = {"structure": "pair", "voxel_size": 9.0}
    pair = changed(config, structures={"pair": {"pdb": ["1ABC"]}}, datasets={"old": old}, offline=False)
    write(tmp_path / "datasets/old/simulation.json", former)
    write(atoms, {"pdb": ["1ABC"]})
    assert not freshness.entries_changed(pair, "pair")
    for change in ({"pdb": ["1ABC", "2DEF"]}, {"assembly": "1"}):
        other = changed(pair, structures={"pair": change})
        assert freshness.entries_changed(other, "pair")
        write(atoms, {"pdb": ["1ABC"]} | change)
        assert not freshness.entries_changed(other, "pair") and freshness.source_changed(other, "old")
        write(atoms, {"pdb": ["1ABC"]})
    atoms.unlink()  # of a version that recorded nothing: the dataset tells
    assert freshness.entries_changed(changed(pair, structures={"pair": {"pdb": ["2DEF"]}}), "pair")


def test_runs_that_are_gone_leave_the_table_of_runs_and_new_ones_are_to_be_published(
    finished: dict, tmp_path: Path
) -> None:
    path, published = tmp_path / "runs.csv", tmp_path / "published.csv"
    head = "dataset,model,seed,seconds,steps,mse,made_by\n"
    line = f"{DATASET},{MODEL},0,1.5,10,0.25,\n"
    write(path, head + line)
    assert not freshness.outcomes_changed(finished)
    write(path, head + line + line.replace(",0,", ",7,"))
    assert freshness.outcomes_changed(finished)
    assert not freshness.unpublished(finished, published)  # the rule makes it
    write(published, head + line)
    assert freshness.unpublished(finished, published)
    write(published, path.read_text() + line.replace(",0,", ",8,"))
    assert not freshness.unpublished(finished, published)
    write(published, path.read_text().replace("0.25", "0.26"))
    assert freshness.unpublished(finished, published)


def test_code_ages_results_and_changes_them_only_where_that_is_asked_for(finished: dict, monkeypatch) -> None:
    results, asked = Path(finished["pathvars"]["results"]), finished | {"retrain": "code"}
    with monkeypatch.context() as patch:
        patch.setattr(freshness, "fingerprint", lambda stage: "new" if stage == "train" else fingerprint(stage))
        assert not any(verdicts(finished).values())
        assert {name for name, verdict in verdicts(asked).items() if verdict} == {"model", "scores"}
        assert freshness.made_by_other_code(results, [RUN]) == {RUN: freshness.OLDER}
    write(results / "datasets" / DATASET / "simulation.json", {})
    assert verdicts(asked)["dataset"] and not any(verdicts(finished).values())


def test_results_of_a_version_that_recorded_nothing_are_done_and_of_an_unknown_code(finished: dict) -> None:
    results, folder = Path(finished["pathvars"]["results"]), freshness._run(finished, *RUN)
    write(results / "datasets" / DATASET / "simulation.json", {"images": 200})
    write(folder / "provenance.json", [{"from_step": 0}])
    write(folder / "metrics.json", {"label": finished["models"][MODEL]["label"]})
    assert not any(verdicts(finished).values())
    assert freshness.made_by_other_code(results, [RUN]) == {RUN: freshness.UNKNOWN}


def test_another_number_of_classes_sorts_the_particles_again(config: dict, tmp_path: Path) -> None:
    asked = changed(config, reconstructions={"mixture": {"halves": ["a", "b"], "classes": 3}})
    assert not freshness.sorting_changed(asked, "mixture"), "they have not been sorted yet"
    write(tmp_path / "classes/mixture/classes.json", {"classes": 2})
    assert freshness.sorting_changed(asked, "mixture")
    write(tmp_path / "classes/mixture/classes.json", {"classes": 3})
    assert not freshness.sorting_changed(asked, "mixture")


def test_classes_that_were_joined_were_sorted_into_as_many_as_were_asked_for(config: dict, tmp_path: Path) -> None:
    asked = changed(config, reconstructions={"mixture": {"halves": ["a", "b"], "classes": 3}})
    write(tmp_path / "classes/mixture/classes.json", {"classes": 2, "copies": [2, 1]})
    assert not freshness.sorting_changed(asked, "mixture")
    write(tmp_path / "classes/mixture/classes.json", {"classes": 2, "copies": [1, 1]})
    assert freshness.sorting_changed(asked, "mixture")


def test_settings_of_a_version_with_other_keys_are_compared_by_the_keys_of_both(finished: dict) -> None:
    folder, path = freshness._run(finished, *RUN), Path(finished["pathvars"]["results"])
    dataset = path / "datasets" / DATASET / "config.json"
    simulated = json.loads(dataset.read_text())
    del simulated["defocus_log_std"]
    write(dataset, simulated)
    run = json.loads((folder / "config.json").read_text())
    del run["model"]["turns"]
    run["model"]["former"] = 1
    run["dataset"]["made_from"] = images_digest(dataset.read_text())  # as that version digested its own settings
    write(folder / "config.json", run)
    write(folder / "model.pt", "")
    write(folder / "metrics.json", {"label": finished["models"][MODEL]["label"], "config": run})
    assert not any(verdicts(finished).values())
    assert verdicts(changed(finished, training={"batch": 8}))["settings"]
    assert verdicts(changed(finished, datasets={DATASET: {"snr": 0.9}}))["dataset"]


@pytest.fixture
def particles(config: dict, halves: Path, tmp_path: Path) -> dict:
    """A user's dataset that has been prepared, and a run of it."""
    for name in ("particles.star", "particles.mrcs"):
        (tmp_path / name).write_bytes((halves / name).read_bytes())
    line = {"star": str(tmp_path / "particles.star"), "box": 32}
    experiment = {"datasets": ["mine"], "models": [MODEL], "seeds": [0], "budget": {"steps": 2}, "table": "best"}
    asked = changed(config, datasets={"mine": line}, experiments={"mine": experiment}) | {"run": ["mine"]}
    folder, found = tmp_path / "datasets/mine", freshness._summary(asked, "mine")
    write(folder / "config.json", freshness.asked_images(asked, "mine").to_json())
    write(folder / "preparation.json", {"source": {"star": found.digest, "stacks": found.stacks}})
    write(folder / "particles.mrcs", "")
    write(freshness._run(asked, "mine", MODEL, 0) / "config.json", run_config(asked, "mine", MODEL, 0).to_json())
    return asked


def touched(path: Path, change: Callable[[Path], None] | None = None) -> None:
    if change:
        change(path)
    _summarise.cache_clear()
    os.utime(path, (4e9, 4e9))


def flip_a_byte(path: Path) -> None:
    content = np.fromfile(path, np.uint8)
    content[len(content) // 2] ^= 1
    content.tofile(path)


@pytest.mark.parametrize("name", ["particles.star", "particles.mrcs"])
def test_a_star_file_or_stack_with_another_content_is_noticed_and_a_touched_one_is_none(
    particles: dict, tmp_path: Path, name: str
) -> None:
    touched(tmp_path / name)
    assert not freshness.source_changed(particles, "mine")
    assert not freshness.run_settings_changed(particles, "mine", MODEL, 0)
    change = flip_a_byte if name.endswith("mrcs") else lambda path: path.write_text(path.read_text() + "\n")
    touched(tmp_path / name, change)
    assert freshness.source_changed(particles, "mine")
    assert freshness.run_settings_changed(particles, "mine", MODEL, 0)


def test_particles_of_a_version_that_did_not_record_their_stacks_go_by_time(particles: dict, tmp_path: Path) -> None:
    write(tmp_path / "datasets/mine/preparation.json", {})
    found, path = freshness._summary(particles, "mine"), freshness._run(particles, "mine", MODEL, 0)
    run = json.loads((path / "config.json").read_text())
    run["dataset"]["made_from"] = images_digest((tmp_path / "datasets/mine/config.json").read_text(), found.digest)
    write(path / "config.json", run)
    assert not freshness.source_changed(particles, "mine")
    assert not freshness.run_settings_changed(particles, "mine", MODEL, 0)
    touched(tmp_path / "particles.mrcs")
    assert freshness.source_changed(particles, "mine")


def test_the_settings_of_a_model_are_read_without_torch(finished: dict) -> None:
    folder = freshness._run(finished, *RUN)
    assert RunConfig.from_dict(freshness.trained_with(folder)) == run_config(finished, *RUN)
    write(folder / "model.pt", "no archive")
    write(folder / "config.json", {"seed": 7})
    assert freshness.trained_with(folder) == {"seed": 7}
