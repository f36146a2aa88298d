"""config.yaml, presets and a user's overlays: their settings, and the messages about mistakes."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from equipose.config import schema
from equipose.config.settings import RunConfig, merge, model_config, run_budgets, simulation_config
from equipose.errors import ConfigError
from equipose.io.particle_tables import read_tables, write_star
from equipose.model.encoders import ENCODERS
from equipose.model.losses import LOSSES
from equipose.workflow.resolve import run_config
from equipose.workflow.validate import check_config

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
PRESETS = sorted((ROOT / "workflow/presets").glob("*.yaml"))


def check(config: dict[str, Any]) -> None:
    resources = ROOT / "workflow/resources"
    check_config(
        config,
        embedded=resources / "structures",
        paper=resources / "paper",
        encoders=ENCODERS,
        losses=LOSSES,
        rules=["publish"],
    )


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def experiment(**changes: Any) -> dict[str, Any]:
    """An overlay with an experiment `mine` of one run, changed as asked."""
    spec = {"datasets": ["80s_snr1"], "models": ["d4_l2"], "seeds": [0], "budget": {"steps": 10}, "table": "best"}
    return {"experiments": {"mine": spec | changes}}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_config_and_presets_are_sound(preset: Path, paper_config: dict) -> None:
    check(paper_config)
    stars = {line["star"] for line in load(preset).get("datasets", {}).values() if "star" in line}
    if stars:  # a user's own
        (star,) = stars
        with pytest.raises(ConfigError, match=f"{star} does not exist"):
            check(merge(paper_config, load(preset)))
    else:
        check(merge(paper_config, load(preset)))


def test_every_preset_has_its_own_results_folder(paper_config: dict) -> None:
    folders = [paper_config["pathvars"]["results"]] + [load(preset)["pathvars"]["results"] for preset in PRESETS]
    assert len(set(folders)) == len(folders)


MISTAKES = {
    "unknown key": ({"simulation": {"snrr": 1.0}}, "unknown key `simulation.snrr`; did you mean `snr`?"),
    "unknown top-level key": ({"experiment": {}}, "unknown key `experiment`; did you mean `experiments`?"),
    "unknown key of a dataset": ({"datasets": {"80s_snr1": {"noise": 1}}}, "unknown key `datasets.80s_snr1.noise`"),
    "unknown key of a model": ({"models": {"d4_l2": {"widhts": [8]}}}, "did you mean `widths`?"),
    "missing key": ({"datasets": {"mine": {"structure": "80s"}}}, "`datasets.mine.voxel_size` is missing"),
    "wrong type": ({"simulation": {"images": "many"}}, "`simulation.images` is 'many'; wanted: number of images"),
    "number as text": ({"training": {"gradient_clip": "1e-2"}}, "write 1.0e-2, with the exponent's sign"),
    "number without the exponent's sign": (
        {"simulation": {"defocus": yaml.safe_load("1.0e4")}},
        "(a number above 0). YAML reads it as a text: write 1.0e+4, with the exponent's sign and without quotes.",
    ),
    "number in quotes": ({"simulation": {"images": "5"}}, "YAML reads it as a text: write 5, without quotes."),
    "fraction in quotes": ({"simulation": {"snr": "1.5"}}, "YAML reads it as a text: write 1.5, without quotes."),
    "whole number without the exponent's sign": (
        experiment(budget={"steps": yaml.safe_load("1.0e4")}),
        "YAML reads it as a text: write 10000, without quotes.",
    ),
    "a whole number as a float": (
        {"simulation": {"images": yaml.safe_load("2.0e+2")}},
        "(a whole number of at least 1). A whole number has no decimal point: write 200.",
    ),
    "whole floats of a model": ({"models": {"d4_l2": {"refine_passes": 2.0}}}, "`models.d4_l2.refine_passes` is 2.0;"),
    "a seed as a float": (experiment(seeds=[0.0]), "`experiments.mine.seeds.0` is 0.0; wanted: seeds of"),
    "steps as a float": (experiment(budget={"steps": 5.0e2}), "`experiments.mine.budget.steps` is 500.0;"),
    "a fraction of an image": ({"simulation": {"images": 0.5}}, "`simulation.images` is 0.5; wanted: number of images"),
    "a boolean for a whole number": ({"simulation": {"images": True}}, "`simulation.images` is True; wanted"),
    "a boolean for a number": ({"training": {"gradient_clip": True}}, "`training.gradient_clip` is True; wanted"),
    "a boolean for an SNR": ({"simulation": {"snr": True}}, "`simulation.snr` is True; wanted"),
    "a boolean for a half": ({"preparation": {"subset": True}}, "`preparation.subset` is True; wanted"),
    "a boolean for threads": ({"resources": {"train": {"threads": True}}}, "`resources.train.threads` is True; wanted"),
    "a number for a boolean": ({"offline": 1}, "`offline` is 1; wanted: true takes a structure's embedded atoms"),
    "a whole number that is none": ({"simulation": {"images": math.nan}}, "`simulation.images` is nan; wanted"),
    "nothing": ({"training": {"batch": None}}, "`training.batch` is None; wanted: images a training step"),
    "a date": ({"simulation": {"images": yaml.safe_load("2026-11-29")}}, "`simulation.images` is '2026-11-29'; wanted"),
    "a name that is a number": ({"datasets": {80: {}}}, "`datasets` holds the name 80, which is no text for YAML"),
    "another name in a line": ({"models": {"d4_l2": {"name": "mine"}}}, "unknown key `models.d4_l2.name`"),
    "a label that is no text": ({"models": {"d4_l2": {"label": 4}}}, "`models.d4_l2.label` is 4; wanted: a text."),
    "a key of the other kind of dataset": (
        {"datasets": {"own": {"star": "a.star", "snr": 1.0}}},
        "unknown key `datasets.own.snr`; known: ",
    ),
    "odd box": ({"simulation": {"box": 33}}, "`simulation.box` is 33; wanted: side of the images"),
    "small box": ({"datasets": {"80s_snr1": {"box": 16}}}, "32, 64, 128 or 256"),
    "unsupported box": ({"simulation": {"box": 96}}, "32, 64, 128 or 256"),
    "SNR of 0": ({"datasets": {"80s_snr1": {"snr": 0}}}, "`datasets.80s_snr1.snr` is 0; wanted: signal-to-noise ratio"),
    "SNR of smaller images": (
        {"simulation": {"snr_box": 64}},
        "dataset spliceosome_snr1 has a snr_box of 64 and a box of 128: the SNR is of these images, or of larger ones",
    ),
    "negative SNR": ({"simulation": {"snr": -1.0}}, "a number above 0 or `noiseless`"),
    "no seeds": (experiment(seeds=[]), "`experiments.mine.seeds` is empty; wanted: seeds"),
    "no models": (experiment(models=[]), "`experiments.mine.models` is empty"),
    "a seed twice": (experiment(seeds=[0, 0]), "`experiments.mine.seeds` names something twice"),
    "unknown dataset": (experiment(datasets=["80s_snr2"]), "'80s_snr2', which is not in datasets; did you mean"),
    "unknown model": (experiment(models=["d5"]), "`experiments.mine.models` names 'd5', which is not in models"),
    "unknown experiment": ({"run": ["tabel1"]}, "`run` names 'tabel1', which is not in experiments; did you mean"),
    "unknown encoder": ({"models": {"x": {"encoder": "d5", "loss": "l2"}}}, "`models.x.encoder` names 'd5'"),
    "unknown loss": ({"models": {"x": {"encoder": "d4", "loss": "L2"}}}, "`models.x.loss` names 'L2'"),
    "unknown structure": ({"datasets": {"x": {"structure": "70s", "voxel_size": 3.0}}}, "did you mean `80s`?"),
    "unknown comparison": (experiment(compare="table9"), "`experiments.mine.compare` names 'table9'"),
    "missing structure file": ({"structures": {"x": {"path": "nowhere.cif"}}}, "there is no file nowhere.cif"),
    "unknown kind of structure file": (
        {"structures": {"x": {"path": "README.md"}}},
        "`structures.x.path` is 'README.md'",
    ),
    "panel of unknown particles": ({"panel": ["80s"]}, "`panel` names '80s', which is not in the simulated datasets"),
    "unknown embedded structure": ({"structures": {"x": {"embedded": "1abc"}}}, ", 4v6x, 5a1a, 5gjv, 5nrl, "),
    "structure with two sources": ({"structures": {"80s": {"path": "x.mrc"}}}, "has a `path` and other sources"),
    "assembly of embedded atoms": (
        {"structures": {"x": {"embedded": "5nrl", "assembly": 1}}},
        "`structures.x.assembly`: embedded atoms have no assemblies",
    ),
    "assembly of a map": (
        {"structures": {"x": {"path": "workflow/resources/structures/5nrl.npz", "assembly": 1}}},
        "`structures.x.assembly`: workflow/resources/structures/5nrl.npz describes none",
    ),
    "assembly of nothing": ({"structures": {"x": {"assembly": 1}}}, "`structures.x` has no source"),
    "assembly by no name": ({"structures": {"x": {"pdb": ["1ABC"], "assembly": "1; ls"}}}, "`structures.x.assembly`"),
    "PDB entries only, offline": ({"offline": True, "structures": {"x": {"pdb": ["1ABC"]}}}, "give it a `path`"),
    "a search of more images than there are": (
        experiment(models=["d4_search"]) | {"simulation": {"images": 2000}},
        "the search of model d4_search takes 3000 images (`training.search.images`)",
    ),
    "an experiment named as a rule": (
        {"experiments": {"publish": experiment()["experiments"]["mine"]}},
        "`experiments.publish`: an experiment is a target of its own name",
    ),
    "no budget": (experiment(budget={}), "either { seconds: S } or { steps: N }"),
    "two budgets": (experiment(budget={"steps": 5, "seconds": 5}), "either { seconds: S } or { steps: N }"),
    "conflicting budgets": (experiment() | {"run": ["table1", "mine"]}, "experiments.table1 asks for the same run"),
    "too few images to score": ({"datasets": {"80s_snr1": {"held_out": 10}}}, "`evaluation.images` is 1000, more than"),
    "too few images for a batch": ({"training": {"batch": 200000}}, "lower `training.batch`"),
    "widths of parts of fields": (
        {"models": {"x": {"encoder": "d4", "loss": "l2", "widths": [8, 12]}}},
        "`widths` of model x has 12, and the encoder d4 has 8 channels a field: give multiples of 8.",
    ),
    "heads of parts of fields": (
        {"models": {"x": {"encoder": "c4", "loss": "l2", "head_widths": [2]}}},
        "`head_widths` of model x has 2, and the encoder c4 has 4 channels a field",
    ),
    "two models of one label": (
        experiment(models=["d4_l2", "x"])
        | {"models": {"x": {"encoder": "d4", "loss": "l2", "label": "$D_4$ ($L_2$)"}}},
        "`models.d4_l2.label` and `models.x.label` are both",
    ),
    "a reconstruction that no experiment trains": (
        {"reconstructions": {"mine": {"halves": ["80s_snr1", "80s_noiseless"], "model": "d4_l2", "seed": 77}}},
        "`reconstructions.mine`: no experiment trains the model d4_l2 with seed 77 on 80s_snr1: add it to one.",
    ),
    "a name that is a number, at the top": ({80: {}}, "the configuration holds the name 80"),
    "a number that is none": (experiment(budget={"seconds": math.nan}), "`experiments.mine.budget.seconds` is nan;"),
    "a number without end": ({"simulation": {"snr": math.inf}}, "`simulation.snr` is inf; wanted: a finite number."),
    "a name that is no file name": ({"models": {"a/b": {"encoder": "d4", "loss": "l2"}}}, "holds the name 'a/b'"),
    "another symmetry": (
        {"datasets": {"own": {"star": "a.star", "symmetry": "D"}}},
        "`datasets.own.symmetry`: symmetry D is not known",
    ),
    "a limit that is missing": (
        {"datasets": {"own": {"star": "a.star", "select": {"rlnClassNumber": [1]}}}},
        "`datasets.own.select.rlnClassNumber` is [1]; wanted: rows to keep by a column",
    ),
    "a list instead of a map": ({"datasets": []}, "`datasets` is empty; wanted"),
}


@pytest.mark.parametrize("name", ["a/b", "/etc", "..", ".hidden", "a b", "$(touch x)", "a;b", "a'b", "a\n", ""])
@pytest.mark.parametrize("section", ["structures", "datasets", "models", "experiments", "reconstructions"])
def test_a_name_that_could_leave_the_results_folder_or_a_word_of_the_shell_is_refused(
    section: str, name: str, paper_config: dict
) -> None:
    line = {"halves": ["80s_snr1", "80s_snr1"], "model": "d4_l2", "seed": 0}
    line = next(iter(paper_config[section].values()), line)
    with pytest.raises(ConfigError, match=f"`{section}`"):
        check(merge(paper_config, {section: {name: line}}))


@pytest.mark.parametrize(("overlay", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_said_in_one_line_that_names_the_key(overlay: dict, message: str, paper_config: dict) -> None:
    with pytest.raises(ConfigError) as error:
        check(merge(paper_config, overlay))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            {"mask_radius": 272.1},
            "(`mask_radius`) does not fit into the images of {star}, 544 Å wide: give 272 or less.",
        ),
        ({"mask_radius": 272.0}, ""),
        ({"box": 64}, "`datasets.mine`: the box is 64, and the images of {star} have 32 pixels: lower `box`."),
        ({"truth": True}, ""),
        (
            {"truth": True, "star": "unposed.star"},
            "`truth: true` wants a pose (rlnAngleRot, rlnAngleTilt, ",
        ),
        ({"truth": True, "star": "nan.star"}, "of {star}, which lacks some or all: leave it out."),
        ({"star": "unposed.star"}, ""),
        ({"star": "gone.star"}, "row 8: image stack"),
    ],
)
def test_a_users_star_file_is_checked_against_its_settings_before_any_job(
    paper_config: dict, simulated_dataset, tmp_path: Path, line: dict, message: str
) -> None:
    optics, table = read_tables(simulated_dataset.folder / "particles.star")
    (tmp_path / "particles.mrcs").symlink_to(simulated_dataset.folder / "particles.mrcs")
    write_star(tmp_path / "particles.star", optics, table)
    write_star(tmp_path / "unposed.star", optics, table.drop(columns="rlnAngleTilt"))
    write_star(tmp_path / "nan.star", optics, table.assign(rlnAngleTilt=[float("nan")] + [10.0] * 49))
    names = table["rlnImageName"].tolist()
    names[7] = "000008@gone.mrcs"
    write_star(tmp_path / "gone.star", optics, table.assign(rlnImageName=names))
    star = tmp_path / line.get("star", "particles.star")
    overlay = {"datasets": {"mine": {"box": 32} | line | {"star": str(star)}}, "run": ["mine"]}
    overlay |= experiment(datasets=["mine"]) | {"evaluation": {"images": 10}}
    config = merge(paper_config, overlay | {"training": {"batch": 4}})
    if not message:
        check(config)
        return
    with pytest.raises(ConfigError) as error:
        check(config)
    assert message.format(star=star) in str(error.value) and "\n" not in str(error.value)


def test_the_schema_and_the_defaults_are_as_the_classes_have_them() -> None:
    """After a change in settings.py: `python -m equipose.config.schema`."""
    assert SCHEMA.read_text() == schema.schema_text()
    assert (ROOT / "config.yaml").read_text() == schema.config_text((ROOT / "config.yaml").read_text())


def test_a_changed_default_or_comment_is_put_right() -> None:
    text = (ROOT / "config.yaml").read_text()
    for drifted in (
        text.replace("box: 128 #", "box: 64 #", 1),
        text.replace("# number of images to train on", "# images", 1),
        text.replace("    rate: 0.3 ", "    rate: 0.7 ", 1),
    ):
        assert schema.config_text(drifted) == text


@pytest.mark.parametrize("section", schema.SECTIONS)
def test_config_yaml_has_every_default_and_nothing_else(section: str, paper_config: dict) -> None:
    default = schema.SECTIONS[section]()
    assert json.loads(default.to_json()) == paper_config[section]
    assert schema.SECTIONS[section].from_dict(paper_config[section]) == default


@pytest.mark.parametrize("preset", [None, *PRESETS], ids=lambda path: path.stem if path else "paper")
def test_the_schema_allows_what_there_is_and_refuses_an_unknown_key(preset: Path | None, paper_config: dict) -> None:
    validator = jsonschema.Draft202012Validator(load(SCHEMA))
    config = merge(paper_config, load(preset) if preset else {})
    validator.validate(config)
    for overlay in (
        {"simulation": {"snrr": 1}},
        {"datasets": {"80s_snr1": {"snrr": 1}}},
        {"models": {"d4_l2": {"search": {"stepz": 1}}}},
        {"models": {"d4_l2": {"name": "mine"}}},
        {"experiments": {"a b": config["experiments"]["table1"]}},
        {"training": {"batch": 1}},
    ):
        assert not validator.is_valid(merge(config, overlay)), overlay


def test_every_key_of_the_schema_is_described_and_every_map_is_strict() -> None:
    def maps(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            yield node
            for value in node.values():
                yield from maps(value)

    for node in maps(load(SCHEMA)):
        if node.get("type") == "object":
            assert "additionalProperties" in node
        for key, subschema in node.get("properties", {}).items():
            assert "$ref" in subschema or subschema["description"], key


def test_a_dataset_line_is_laid_over_simulation(paper_config: dict) -> None:
    dataset = simulation_config(paper_config, "80s_snr0.25")
    assert (dataset.snr, dataset.voxel_size) == (0.25, 3.77)
    assert dataset.images == paper_config["simulation"]["images"]


def test_a_box_may_be_written_as_a_float(paper_config: dict) -> None:
    config = merge(paper_config, {"simulation": {"box": 64.0}})
    check(config)
    assert simulation_config(config, "80s_snr1").to_json().count('"box": 64,\n') == 1


def test_a_number_is_stored_as_it_is_written(paper_config: dict) -> None:
    """Whole numbers that became floats would train all runs of a stored folder anew."""
    dataset = simulation_config(merge(paper_config, {"simulation": {"voltage": 300, "snr": 1}}), "80s_noiseless")
    assert '"voltage": 300,\n' in dataset.to_json() and '"snr": 1,\n' in dataset.to_json()
    assert '"seconds": 6000,\n' in run_config(paper_config, "80s_snr1", "d4_l2", 0).to_json()


def test_one_setting_of_a_nested_map_leaves_its_neighbours_as_they_are(paper_config: dict) -> None:
    overlay = {"models": {"d4_l2": {"optimizer": {"learning_rate": 1.0}, "decoder_omega": {"envelope": 7.0}}}}
    model = model_config(merge(paper_config, overlay), "d4_l2")
    assert model.optimizer.learning_rate == 1.0
    assert model.optimizer.amsgrad is paper_config["training"]["optimizer"]["amsgrad"]
    assert (model.decoder_omega.envelope, model.decoder_omega.modulant) == (7.0, 40.0)


def test_merging_leaves_the_base_as_it_was() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}}
    assert merge(base, {"a": {"c": [3]}}) == {"a": {"b": 1, "c": [3]}}
    assert base == {"a": {"b": 1, "c": [1, 2]}}


def test_a_run_is_the_same_after_a_round_trip_through_its_file(paper_config: dict, tmp_path: Path) -> None:
    run = run_config(paper_config, "80s_snr1", "c4_mir", 3)
    (tmp_path / "config.json").write_text(run.to_json())
    assert RunConfig.load(tmp_path / "config.json") == run


def test_an_snr_box_that_changes_no_image_changes_no_settings(paper_config: dict) -> None:
    """A digest of the settings says which images a run was trained on."""
    for change in ({"snr_box": 128}, {"snr_box": 256, "snr": "noiseless"}):
        asked = merge(paper_config, {"datasets": {"80s_noiseless": change, "80s_snr1": change}})
        text = simulation_config(asked, "80s_noiseless").to_json()
        assert text == simulation_config(paper_config, "80s_noiseless").to_json()
        assert "snr_box" not in text, "versions before 1 December wrote the same"
    asked = merge(paper_config, {"simulation": {"snr_box": 256}})
    assert simulation_config(asked, "80s_snr1") != simulation_config(paper_config, "80s_snr1")
    assert '"snr_box": 256' in simulation_config(asked, "80s_snr1").to_json()


def test_a_run_that_no_experiment_asks_for_has_no_budget(paper_config: dict) -> None:
    with pytest.raises(ConfigError, match=r"no experiment asks for the run \(80s_snr1, c4_mir, seed 99\): add it"):
        run_config(paper_config, "80s_snr1", "c4_mir", 99)


def test_a_run_of_two_experiments_with_one_budget_is_one_run(paper_config: dict) -> None:
    again = experiment(budget=paper_config["experiments"]["table1"]["budget"])
    assert run_budgets(merge(paper_config, again)) == run_budgets(paper_config)


def test_the_paper_is_128_runs_of_6000_seconds_and_50_of_6_hours(paper_config: dict) -> None:
    seconds = [budget["seconds"] for budget in run_budgets(paper_config).values()]
    assert (seconds.count(6000), seconds.count(6 * 3600), len(seconds)) == (128, 50, 178)
