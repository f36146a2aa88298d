"""A run's line in runs.csv, read from its folder."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_tables import write_poses, write_run

from equipose.core.rotations import other_hand, random_rotations
from equipose.errors import ConfigError
from equipose.study.run_table import COLUMNS, load_outcomes, read_outcomes


@pytest.fixture
def results(tmp_path) -> Path:
    """A run that went from a random start to the plateau: half of the images in either hand."""
    rng = np.random.default_rng(0)
    write_run(tmp_path, "one", "d4_l2", 0, mse=8 / 3)
    true = random_rotations(200, rng)
    mixed = np.where(np.arange(200)[:, None, None] < 100, true, other_hand(true))
    history = {"step": [0, 100], "mse": [5.9, 8 / 3], "medse": [5.9, 0.0], "share_same": [0.03, 0.5]}
    pd.DataFrame(history | {"share_mirror": [0.03, 0.5]}).to_csv(folder(tmp_path) / "history.csv", index=False)
    volumes = {"volumes": rng.random((1, 8, 8, 8)), "volume_names": np.array(["mixture_peak"])}
    predicted = np.stack([random_rotations(200, rng), mixed])
    np.savez(folder(tmp_path) / "trace.npz", steps=np.array([0, 100]), predicted=predicted, true=true, **volumes)
    return tmp_path


def folder(results: Path) -> Path:
    return results / "runs/one/d4_l2/seed0"


def rewrite(results: Path, **changes) -> pd.Series:
    """The run's line, once its metrics.json has been changed."""
    path = folder(results) / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return read_outcomes(results).iloc[0]


def test_the_plateau_is_read_from_history_and_trace(results):
    """MSE 8/3, shares of a half, and |S_i| = N / 2."""
    (line,) = read_outcomes(results).to_dict("records")
    assert line["plateau_mse"] == pytest.approx(8 / 3) and line["plateau_smaller_hand"] == 0.5
    assert line["plateau_subset_share"] == pytest.approx(0.5, abs=0.05)
    assert 0 <= line["mixture_plane_angle"] <= 90


def test_a_run_whose_hands_were_never_mixed_has_no_plane(results):
    pd.read_csv(folder(results) / "history.csv").assign(share_mirror=0.03).to_csv(folder(results) / "history.csv")
    assert np.isnan(read_outcomes(results)["mixture_plane_angle"]).all()


def test_a_line_says_what_was_trained_and_for_how_long(results):
    line = read_outcomes(results).iloc[0]
    assert (line["snr"], line["commit"], line["processor"]) == ("noiseless", "abc", "Z80")
    assert line["snr_px"] == 32
    assert (line["images_seen"], line["seconds_per_step"]) == (60 * 64, 10.0)
    assert not line["has_converged"] and not line["right_poses"]


@pytest.mark.parametrize(
    ("mse", "stays"), [([5.9, 0.09, 0.02, 0.05], 1.0), ([5.9, 0.05, 0.2, 0.05], 0.0), ([5.9, 3.0, 2.0, 1.0], np.nan)]
)
def test_a_run_stays_converged_if_no_later_evaluation_says_otherwise(results, mse, stays):
    history = pd.read_csv(folder(results) / "history.csv")
    longer = pd.concat([history, history.iloc[[1, 1]]]).assign(mse=mse, medse=5.9, step=[0, 100, 200, 300])
    longer.to_csv(folder(results) / "history.csv", index=False)
    assert read_outcomes(results).loc[0, "stays_converged"] == pytest.approx(stays, nan_ok=True)


def test_a_user_s_particles_with_a_truth_have_a_line_without_an_snr(results, tmp_path):
    """`truth: true`: the dataset was prepared, not simulated."""
    (results / "datasets/one/config.json").write_text(json.dumps({"star": "particles.star", "box": 32}))
    lines = read_outcomes(results)
    assert lines.loc[0, "snr"] is None and lines.loc[0, "mse"] == pytest.approx(8 / 3)
    lines.to_csv(tmp_path / "runs.csv", index=False)
    assert np.isnan(load_outcomes(tmp_path / "runs.csv").loc[0, "snr"])


@pytest.mark.parametrize(
    ("confirmed", "refined", "rightly"), [(0.97, 0.02, True), (0.97, 0.3, False), (0.4, 3.0, True)]
)
def test_a_run_is_judged_rightly_if_the_verdict_without_the_truth_is_that_of_the_truth(
    results, confirmed, refined, rightly
):
    """Refined poses count, if there are any."""
    scores = {"paper": {"mse": refined}, "exact": {"median_degrees": 1.0}}
    training = {"direct": {"paper": {"mse": 0.5}}, "refined": scores}
    line = rewrite(results, confirmed_share=confirmed, converged=False, training=training)
    assert line["judged_rightly"] == rightly and line["right_poses"] == (refined < 0.1)


def test_a_run_without_refined_poses_is_judged_by_the_encoder_s(results):
    """By those that it ended with: it may have converged once, and left again."""
    assert not rewrite(results, confirmed_share=0.97, converged=True)["judged_rightly"]
    scores = {"direct": {"paper": {"mse": 0.02}}, "refined": None}
    assert rewrite(results, confirmed_share=0.97, converged=True, training=scores)["judged_rightly"]
    assert not rewrite(results, confirmed_share=0.4, converged=True, training=scores)["judged_rightly"]


def test_seeds_judge_rightly_where_those_agree_that_are_right(results):
    """Two of three seeds have the same poses. Each seed has its own frame and hand."""
    for seed, mse in enumerate([0.01, 0.02, 2.5]):
        write_run(results, "one", "standard_sym", seed, mse)
    path = results / "runs/one/standard_sym/seed1"
    turn = random_rotations(1, np.random.default_rng(5))
    write_poses(path, other_hand(random_rotations(50, np.random.default_rng(1)) @ turn))
    lines = read_outcomes(results).set_index(["model", "seed"])
    assert lines.loc["standard_sym", "seed_agrees"].round(2).tolist()[:2] == [1, 1]
    assert lines.loc[("standard_sym", 2), "seed_agrees"] < 0.4  # of 50 random poses some agree under the best alignment
    assert lines.loc["standard_sym", "seeds_judge_rightly"].tolist() == [True, True, True]
    assert np.isnan(lines.loc[("d4_l2", 0), "seed_agrees"]) and np.isnan(lines.loc[("d4_l2", 0), "seeds_judge_rightly"])


def test_wrong_poses_that_another_seed_has_too_are_judged_wrongly(results):
    for seed in range(2):
        write_run(results, "one", "standard_sym", seed, 2.5)
        write_poses(results / f"runs/one/standard_sym/seed{seed}", random_rotations(50, np.random.default_rng(1)))
    lines = read_outcomes(results).set_index("model")
    assert lines.loc["standard_sym", "seeds_judge_rightly"].tolist() == [False, False]


def test_images_without_true_poses_have_no_line(results):
    path = folder(results) / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"training": None}))
    assert len(read_outcomes(results)) == 0


def test_what_is_written_is_read_again(results, tmp_path):
    lines = read_outcomes(results)
    lines.to_csv(tmp_path / "runs.csv", index=False)
    again = load_outcomes(tmp_path / "runs.csv")
    assert list(again) == COLUMNS
    assert again.to_csv() == lines.to_csv()
    read_outcomes(tmp_path / "nothing").to_csv(tmp_path / "none.csv", index=False)
    assert len(load_outcomes(tmp_path / "none.csv")) == 0


def test_facts_that_two_versions_wrote_are_read_as_facts(results, tmp_path):
    """The published runs of laptop.yaml have True, 1.0 and 0.0 in one column."""
    lines = pd.concat([read_outcomes(results)] * 4).astype({"seeds_judge_rightly": object})
    lines.assign(seeds_judge_rightly=["True", "1.0", "0.0", None]).to_csv(tmp_path / "runs.csv", index=False)
    assert list(load_outcomes(tmp_path / "runs.csv")["seeds_judge_rightly"])[:3] == [True, True, False]


def test_no_table_of_runs_is_a_message(tmp_path):
    with pytest.raises(ConfigError, match="there is no .*runs.csv, with a line for each run"):
        load_outcomes(tmp_path / "runs.csv")


def test_a_run_whose_settings_are_gone_is_a_message(results):
    """metrics.json of an older version does not hold them, and model.pt cannot be read."""
    path = folder(results) / "metrics.json"
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in ("config", "images")})
    )
    (folder(results) / "config.json").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=r"seed0: its config\.json, .* is gone: evaluate the run again"):
        read_outcomes(results)
