"""Models, runs and reconstructions of older versions stay readable, and so do files with keys of newer ones."""

import json
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from equipose import cli
from equipose.config.settings import EvaluationConfig, MarchingConfig, ModelConfig, RunConfig, SearchConfig, merge
from equipose.core.rotations import from_relion_angles, of_inverted
from equipose.errors import ConfigError
from equipose.io.maps import read_map
from equipose.io.particle_tables import ANGLES, read_tables
from equipose.model.autoencoder import load_model
from equipose.study import claims, run_table, tables
from equipose.study.runs import load_run

ROOT = Path(__file__).parents[1]
RUN = "results/runs/tiny/d4_search/seed0"
CLAIM = {
    "confidence": 0.95,
    "seeds": 1,
    "claims": {
        "diverges": {
            "where": "here",
            "says": "Twelve steps are too few.",
            "test": "rate",
            "number": "converged",
            "of": {"model": "d4_search"},
            "between": [0.0, 0.5],
        }
    },
}


@pytest.fixture(autouse=True)
def no_warnings() -> None:
    warnings.simplefilter("error")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with results of version 0.1.0."""
    with tarfile.open(ROOT / "tests/data/version-0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "version-0.1.0"


def changed(text: str, change: Callable[[dict[str, Any]], object]) -> str:
    """The text of a config.json, changed by `change`."""
    values = json.loads(text)
    change(values)
    return json.dumps(values, indent=2) + "\n"


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path.write_text(changed(path.read_text(), change))


def test_a_model_gives_the_same_poses(old: Path) -> None:
    model, recorded = load_model(old / RUN / "model.pt"), np.load(old / "recorded.npz")
    with torch.no_grad():
        rotations, shifts = model.encoder(torch.from_numpy(recorded["images"]) * model.image_scale)
    np.testing.assert_allclose(rotations, recorded["rotations"], atol=1e-4)
    np.testing.assert_allclose(shifts, recorded["shifts"], atol=1e-4)


def test_a_stored_configuration_is_read_whole_and_keys_of_later_versions_get_their_defaults(old: Path) -> None:
    before = json.loads((old / RUN / "config.json").read_text())
    after = json.loads(RunConfig.load(old / RUN / "config.json").to_json())
    added = {"dataset": {"symmetry": "C1"}, "model": {"optimizer": {"encoder_rate": 1.0}, "search": {"fit": "always"}}}
    added["evaluation"] = {"stop_after": 0}
    assert after == merge(before, added)


def test_status_tables_claims_and_figures_read_a_run(
    old: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.status(cli.parser().parse_args(["status", str(old / "results")]))
    assert "1 runs: 1 done" in capsys.readouterr().out
    metrics = json.loads((old / RUN / "metrics.json").read_text())
    arguments = ["--config", old / "results/tables/config.json", "--results", old / "results"]

    def call(main: Callable[[], None], *options: object) -> None:
        monkeypatch.setattr("sys.argv", ["", *map(str, options)])
        main()

    call(tables.main, *arguments, "--experiment", "tiny", "--paper", old, "--output-dir", old / "shown")
    mse = metrics["training"]["direct"]["paper"]["mse"]
    assert pd.read_csv(old / "shown/tiny.csv")["mse"].tolist() == [pytest.approx(mse)]
    call(run_table.main, *arguments, "--experiments", "tiny", "--output", old / "runs.csv")
    (old / "claims.yaml").write_text(yaml.safe_dump(CLAIM))
    options = "--claims", old / "claims.yaml", "--runs", old / "runs.csv", "--output", old / "verdicts"
    call(claims.main, *arguments, *options, "--experiments", "tiny")
    assert pd.read_csv(old / "verdicts.csv")["verdict"].tolist() == ["inconclusive"]
    run = load_run(old / RUN)
    assert (run.history["step"].tolist(), run.metrics) == ([0, 6, 12], metrics)


def test_flip_hand_works_on_a_reconstruction(old: Path) -> None:
    cli.flip_hand(cli.parser().parse_args(["flip-hand", str(old / "reconstruction")]))
    flipped = old / "reconstruction_flipped"
    before, after = read_map(old / "reconstruction/volume.mrc"), read_map(flipped / "volume.mrc")
    np.testing.assert_array_equal(after[0], cli.inverted(before[0]))
    poses = [read_tables(folder / "poses.star")[1][list(ANGLES)] for folder in (old / "reconstruction", flipped)]
    before, after = (from_relion_angles(table.to_numpy(float)) for table in poses)
    np.testing.assert_allclose(after, of_inverted(before), atol=1e-4)


def test_a_key_that_an_older_version_did_not_have_gets_its_default(old: Path) -> None:
    path = old / RUN / "config.json"
    assert RunConfig.load(path).model.turns == 8
    rewrite(
        path, lambda run: (run["model"].pop("turns"), run["model"]["search"].pop("rate"), run["evaluation"].clear())
    )
    run = RunConfig.load(path)
    model = run.model
    assert run.evaluation == EvaluationConfig(every=100, images=1000, converged_mse=0.1)
    assert (model.turns, model.search.rate) == (1, 0.3)
    assert (model.widths, model.search.images) == ((16, 16, 32), 40)


def test_every_setting_of_training_has_a_default_for_files_without_it() -> None:
    model = ModelConfig.from_json('{"name": "x", "encoder": "d4", "loss": "l2", "search": {}, "marching": {}}', "x")
    assert (model.search, model.marching) == (SearchConfig(), MarchingConfig())
    assert model == ModelConfig(name="x", encoder="d4", loss="l2")


def test_a_key_of_a_newer_version_is_left_out_with_a_warning(old: Path) -> None:
    path = old / RUN / "config.json"
    run = RunConfig.load(path)
    rewrite(path, lambda run: run["model"]["search"].update(tilt=3) or run.update(weather="fine"))
    with pytest.warns(UserWarning, match=r"config.json is of a newer equipose; left out: model.search.tilt, weather$"):
        assert RunConfig.load(path) == run


def test_a_model_with_keys_of_another_version_can_be_loaded(old: Path) -> None:
    content = torch.load(old / RUN / "model.pt", weights_only=True)
    content["config"] = changed(content["config"], lambda run: run["model"].pop("turns") and run.update(weather="fine"))
    torch.save(content, old / "other.pt")
    with pytest.warns(UserWarning, match=r"other.pt is of a newer equipose; left out: weather$"):
        assert load_model(old / "other.pt").config.model.turns == 1


def test_a_stored_value_that_is_wrong_is_refused_with_file_and_key(old: Path) -> None:
    path = old / RUN / "config.json"
    rewrite(path, lambda run: run["model"].update(init="luck", weather="fine"))
    with pytest.warns(UserWarning), pytest.raises(ConfigError) as error:
        RunConfig.load(path)
    assert str(error.value).startswith(f"{path}: `model.init` is 'luck'; wanted: where training starts")
    rewrite(path, lambda run: run["model"].pop("encoder"))
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match="`model.encoder` is missing: name of an encoder"):
        RunConfig.load(path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ConfigError, match=r"config.json is no JSON .*: it is damaged; make it again"):
        RunConfig.load(path)
