"""Tables from metrics.json: the paper's definitions, dashes, failures, and the three formats."""

import copy
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from equipose.config.settings import merge
from equipose.core.rotations import random_rotations, to_relion_angles
from equipose.io.fingerprint import fingerprint
from equipose.io.particle_tables import ANGLES, write_star
from equipose.study import tables
from equipose.study.runs import dataset_title, read_runs

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "workflow/resources/paper"


@pytest.fixture
def config(paper_config: dict) -> dict[str, Any]:
    """Two experiments of config.yaml cut to one dataset and two models, four seeds."""
    config = copy.deepcopy(paper_config)
    small = {"models": ["standard_sym", "d4_l2"], "seeds": [0, 1, 2, 3], "budget": {"steps": 500}}
    config["experiments"] = {
        "table1": {"datasets": ["80s_snr1"], "table": "best_three", "compare": "table1"} | small,
        "table2": {"datasets": ["80s_snr0.5"], "table": "best", "compare": "table2"} | small,
    }
    return config


def write_poses(run: Path, rotations: np.ndarray) -> None:
    table = pd.DataFrame(to_relion_angles(rotations), columns=list(ANGLES)).assign(rlnOpticsGroup=1)
    write_star(run / "poses.star", pd.DataFrame({"rlnOpticsGroup": [1]}), table)


def write_run(results: Path, dataset: str, model: str, seed: int, mse: float, shell: int = 40, batch: int = 64) -> None:
    """The small files of a run that converged at 100 (seed + 1) s if its MSE is below 0.1, hands unmixed all along.

    Converged ones all have the same poses, the others random ones.
    """
    converged = mse < 0.1
    scores = {
        "paper": {"mse": mse, "medse": mse / 2, "hand": "same"},
        "exact": {"mse": 0.9 * mse, "medse": 0.4 * mse, "median_degrees": 2.0, "shift_rmse_angstrom": 1.5},
    }
    resolution = 400 / shell
    metrics = {
        "dataset": dataset,
        "model": model,
        "label": model,
        "encoder": model.split("_")[0],
        "loss": model.split("_")[-1],
        "seed": seed,
        "converged": converged,
        "seconds": 600.0,
        "steps": 60,
        "convergence_seconds": 100.0 * (seed + 1) if converged else None,
        "convergence_steps": 10 * (seed + 1) if converged else None,
        "training": {"direct": scores, "best_path": None, "refined": None},
        "held_out": {"direct": scores, "best_path": None, "refined": None},
        "confirmed_share": 0.97,
        "resolution": {
            "paper": {"0.5": resolution, "0.143": resolution},
            "exact": {
                "0.5": {"first": resolution, "last": resolution},
                "0.143": {"first": resolution, "last": resolution},
            },
            "nyquist_reached": False,
        },
        "code": {"evaluate": fingerprint("evaluate")},
    }
    folder = results / "runs" / dataset / model / f"seed{seed}"
    folder.mkdir(parents=True)
    config = {"model": {"batch": batch}, "evaluation": {"converged_mse": 0.1}}
    files = {
        "metrics": metrics,
        "config": config,
        "provenance": [{"code": {"commit": "abc"}, "machine": {"processor": "Z80"}}],
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "history.csv").write_text("step,mse,medse,share_same,share_mirror\n0,5.9,5.9,0.03,0.03\n")
    (folder / "fsc.csv").write_text("shell,fsc\n0,1.0\n1,0.9\n")
    write_poses(folder, random_rotations(50, np.random.default_rng(1 if converged else 100 + seed)))
    simulated = results / "datasets" / dataset / "config.json"
    simulated.parent.mkdir(parents=True, exist_ok=True)
    simulated.write_text(json.dumps({"snr": "noiseless", "box": 32}))


def table_of(config: dict, experiment: str, results: Path, mode: str = "paper") -> pd.DataFrame:
    table = tables.summarise(config, experiment, read_runs(config, experiment, results), mode)
    return table.set_index("model")


def test_the_mean_is_over_the_three_best_seeds_by_mse_with_the_population_standard_deviation(config, tmp_path):
    for seed, mse in enumerate([0.01, 2.5, 0.03, 0.02]):
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, mse)
    row = table_of(config, "table1", tmp_path).loc["d4_l2"]
    assert row["mse"] == pytest.approx(0.02)
    assert row["mse_std"] == pytest.approx(np.std([0.01, 0.02, 0.03], ddof=0))
    assert row["conv_time_s"] == pytest.approx((100 + 300 + 400) / 3)
    assert row["counted"] == "0,3,2"


def refine(results: Path, dataset: str, model: str, seed: int, mse: float) -> None:
    """Give a written run refined poses of this error."""
    path = results / "runs" / dataset / model / f"seed{seed}/metrics.json"
    metrics = json.loads(path.read_text())
    for images in ("training", "held_out"):
        scores = metrics[images]["direct"]
        metrics[images]["refined"] = {key: value | {"mse": mse} for key, value in scores.items()}
    path.write_text(json.dumps(metrics))


def test_seeds_with_refined_poses_are_ranked_by_these(config, tmp_path):
    """The map comes from them: at SNR 0.05 the seed with the best encoder had the worst map of three."""
    for seed, (mse, refined) in enumerate([(2.1, 5.0), (2.3, 0.01), (2.2, 0.02), (2.4, 0.03)]):
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, mse)
        refine(tmp_path, "80s_snr1", "d4_l2", seed, refined)
    row = table_of(config, "table1", tmp_path).loc["d4_l2"]
    assert (row["counted"], row["refined_mse"]) == ("1,2,3", pytest.approx(0.02))
    remarks = tables.notes(config, "table1", read_runs(config, "table1", tmp_path), "paper", [])
    assert "3 best of 4 seeds by final MSE (of refined poses, if there are any);" in remarks[0]


def test_a_seed_without_a_truth_comes_after_those_with_one(config, tmp_path):
    for seed in range(4):
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, 0.01)
    path = tmp_path / "runs/80s_snr1/d4_l2/seed0/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"training": None, "held_out": None}))
    assert table_of(config, "table1", tmp_path).loc["d4_l2", "counted"] == "1,2,3"


def change_metrics(results: Path, seed: int, **changes: object) -> None:
    path = results / f"runs/80s_snr1/d4_l2/seed{seed}/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_scores_of_other_settings_are_outdated_and_no_number_counts_them(config, tmp_path):
    """The settings come from metrics.json or, in results of older versions, from config.json."""
    for seed in range(4):
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, 0.01 * (seed + 1), batch=32 if seed == 1 else 64)
    change_metrics(tmp_path, 0, config={"model": {"batch": 32}})
    runs = read_runs(config, "table1", tmp_path)
    row = tables.summarise(config, "table1", runs, "paper").set_index("model").loc["d4_l2"]
    assert (row["finished"], row["missing"], row["outdated"], row["converged_percent"]) == (2, "0,1", "0,1", 100)
    assert row["mse"] == pytest.approx(0.035)
    remarks = tables.notes(config, "table1", runs, "paper", [])
    wanted = "80S SNR 1, $D_4$ ($L_2$): 2 of 4 runs not there, and left out: seed 0 outdated, seed 1 outdated."
    assert wanted in remarks
    config["training"]["batch"] = 32
    row = table_of(config, "table1", tmp_path).loc["d4_l2"]
    assert (row["finished"], row["outdated"]) == (2, "2,3")


def test_a_row_whose_runs_are_all_outdated_says_so(config, tmp_path):
    for seed in range(4):
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, 0.01, batch=32)
    table, text, _, _ = tables.build_table(config, "table1", read_runs(config, "table1", tmp_path), "paper", PAPER, [])
    ours = (table["source"] == "here").to_numpy()
    assert set(text["MSE"][ours & (table["model"] == "d4_l2")]) == {"outdated"}
    assert set(text["MSE"][ours & (table["model"] == "standard_sym")]) == {"not run"}


def test_runs_of_another_code_count_and_are_named(config, tmp_path):
    for seed in range(3):
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, 0.01)
    change_metrics(tmp_path, 1, code={"train": "of another", "evaluate": fingerprint("evaluate")})
    change_metrics(tmp_path, 2, code={"train": None, "evaluate": fingerprint("evaluate")})
    runs = read_runs(config, "table1", tmp_path)
    row = tables.summarise(config, "table1", runs, "paper").set_index("model").loc["d4_l2"]
    assert (row["finished"], row["other_code"]) == (3, "1,2")
    remarks = tables.notes(config, "table1", runs, "exact", [])
    said = "made by another version of the code, and kept; `--config retrain=code` makes them again."
    assert f"80s_snr1/d4_l2 seed 1: {said}" in remarks
    assert any(remark.startswith("80s_snr1/d4_l2 seed 2: made by a code that was not recorded") for remark in remarks)
    assert not any("seed 0:" in remark for remark in remarks)


def write_log(results: Path, model: str, seed: int, text: str) -> None:
    path = results / f"logs/train/80s_snr1/{model}/seed{seed}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_percentage_that_converged_is_over_all_seeds(config, tmp_path):
    for seed, mse in enumerate([0.01, 2.5, 2.6, 2.7]):
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, mse)
    assert table_of(config, "table1", tmp_path).loc["d4_l2", "converged_percent"] == 25


def test_seeds_that_were_never_run_or_are_running_are_left_out_of_the_percentage_and_named_in_every_format(
    command, config, tmp_path
):
    """Seed 0 converged, 1 failed, 2 is still training, 3 never began: 1 of 2 converged."""
    write_run(tmp_path, "80s_snr1", "d4_l2", 0, 0.01)
    write_log(tmp_path, "d4_l2", 1, "step 8/12\nerror: the loss is not finite at step 8.\n")
    write_log(tmp_path, "d4_l2", 2, "step 8/12\n")
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_tables(command, tmp_path)
    row = pd.read_csv(tmp_path / "tables/table1.csv").set_index(["model", "source"]).loc[("d4_l2", "here")]
    assert (row["converged_percent"], row["seeds"], row["finished"], row["failed"]) == (50, 4, 1, 1)
    assert row["missing"] == "2,3"
    for stem in ("table1", "table1_exact"):
        for end, percent in (("md", "50 (2 of 4 run)"), ("html", "50 (2 of 4 run)"), ("tex", "50 (2 of 4 run)")):
            text = (tmp_path / f"tables/{stem}.{end}").read_text()
            assert percent in text
            assert "1 of 4 runs without a result, counted as not converged: seed 1 failed (the loss is not" in text
            assert "2 of 4 runs not there, and left out: seed 2 not ended, seed 3 not run." in text


def test_a_seed_that_failed_is_no_reason_to_doubt_the_number_of_seeds(config, tmp_path):
    for seed in range(3):
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, 0.01)
    write_log(tmp_path, "d4_l2", 3, "Traceback (most recent call last):\nRuntimeError: CUDA error\n")
    table = tables.summarise(config, "table1", read_runs(config, "table1", tmp_path), "paper")
    text, _ = tables.format_cells(table, tables.PAPER_COLUMNS, "best_three")
    assert text.loc[1, "Conv. runs %"] == "75"


def test_a_run_that_did_not_converge_counts_with_all_its_training_and_makes_the_time_a_lower_bound(config, tmp_path):
    for seed, mse in enumerate([0.01, 0.02, 2.5, 2.6]):
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, mse)
    table = tables.summarise(config, "table1", read_runs(config, "table1", tmp_path), "paper")
    text, _ = tables.format_cells(table, tables.PAPER_COLUMNS, "best_three")
    assert text.loc[1, "Conv. time (s)"] == "> 300", "(100 + 200 + 600) / 3"
    assert text.loc[1, "Steps until conv."] == "> 30"
    assert np.isnan(table.loc[1, "conv_time_s"]), "a bound is no time"
    assert text.loc[1, "MSE"] == "0.8433 ± 1.1714"
    assert text.loc[1, "Conv. runs %"] == "50"


def test_table_2_shows_the_best_seed_alone(config, tmp_path):
    for seed, mse in enumerate([0.02, 0.01, 0.5, 0.3]):
        write_run(tmp_path, "80s_snr0.5", "d4_l2", seed, mse, shell=40 + seed)
    row = table_of(config, "table2", tmp_path).loc["d4_l2"]
    assert row["mse"] == 0.01
    assert row["resolution_A"] == pytest.approx(400 / 41)
    assert row["counted"] == "1"


def test_a_run_without_metrics_failed_as_its_log_says_or_was_not_run(config, tmp_path):
    write_run(tmp_path, "80s_snr1", "d4_l2", 0, 0.01)
    log = "step 8/12\nerror: runs/x: the loss is not finite at step 8. The last good state is in checkpoint.pt\n"
    write_log(tmp_path, "standard_sym", 3, log)
    write_log(tmp_path, "d4_l2", 2, log)
    runs = read_runs(config, "table1", tmp_path)
    table = tables.summarise(config, "table1", runs, "paper")
    assert table["failed"].tolist() == [1, 1] and table["finished"].tolist() == [0, 1]
    text, bold = tables.format_cells(table, tables.PAPER_COLUMNS, "best_three")
    assert (text.loc[0] == "failed").all() and not bold.loc[0].any()
    assert text.loc[1, "MSE"] == "0.0100", "one run has no spread"
    assert text.loc[1, "Conv. runs %"] == "50 (2 of 4 run)"
    notes = tables.notes(config, "table1", runs, "paper", [])
    failed = "counted as not converged: seed 2 failed (runs/x: the loss is not finite at step 8)."
    assert f"80S SNR 1, $D_4$ ($L_2$): 1 of 4 runs without a result, {failed}" in notes
    assert "80S SNR 1, $D_4$ ($L_2$): 2 of 4 runs not there, and left out: seed 1 not run, seed 3 not run." in notes


def test_a_model_of_which_nothing_was_run_says_so(config, tmp_path):
    table = tables.summarise(config, "table1", read_runs(config, "table1", tmp_path), "paper")
    text, _ = tables.format_cells(table, tables.PAPER_COLUMNS, "best_three")
    assert (text == "not run").all(axis=None)


def test_particles_without_a_truth_give_dashes(config, tmp_path):
    write_run(tmp_path, "80s_snr1", "d4_l2", 0, 0.01)
    path = tmp_path / "runs/80s_snr1/d4_l2/seed0/metrics.json"
    nulls = {"training": None, "held_out": None, "resolution": None, "converged": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | nulls | {"convergence_seconds": None}))
    runs = read_runs(config, "table1", tmp_path)
    for mode in tables.MODES:
        table = tables.summarise(config, "table1", runs, mode)
        text, _ = tables.format_cells(table, tables.MODES[mode], "best_three")
        assert text.loc[1, "MSE"] == "-"
        assert (text.filter(regex="onv. time|Conv. runs").loc[1].str[0] == "-").all(), "nobody knows if it converged"
        assert tables.notes(config, "table1", runs, mode, [])


def test_the_best_value_of_a_dataset_is_bold_ours_and_the_papers_apart(config, tmp_path):
    for seed in range(3):
        write_run(tmp_path, "80s_snr1", "standard_sym", seed, 0.01)
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, 0.02)
    table = tables.summarise(config, "table1", read_runs(config, "table1", tmp_path), "paper")
    table = tables.with_paper(config, table, pd.read_csv(PAPER / "table1.csv"))
    assert list(table["source"]) == ["here", "paper", "here", "paper"]
    _, bold = tables.format_cells(table, tables.PAPER_COLUMNS, "best_three")
    assert list(bold["MSE"]) == [True, False, False, True]
    assert list(bold["Conv. runs %"]) == [True, False, True, True]


def test_a_model_that_starts_from_a_search_is_not_compared_with_the_papers(config, tmp_path):
    config["experiments"]["table1"]["models"] = ["d4_l2", "d4_search"]
    table = tables.summarise(config, "table1", read_runs(config, "table1", tmp_path), "paper")
    both = tables.with_paper(config, table, pd.read_csv(PAPER / "table1.csv"))
    assert list(zip(both["model"], both["source"], strict=True)) == [
        ("d4_l2", "here"),
        ("d4_l2", "paper"),
        ("d4_search", "here"),
    ]


def test_the_papers_rows_are_matched_on_dataset_encoder_and_loss(config, tmp_path):
    """Another molecule at an SNR of Table 2 has no row there."""
    other = {"datasets": {"spliceosome_snr0.5": config["datasets"]["80s_snr0.5"]}}
    config = merge(config, other | {"experiments": {"table2": {"datasets": ["spliceosome_snr0.5", "80s_snr0.5"]}}})
    paper = {}
    for name in ("table1", "table2"):
        table = tables.summarise(config, name, read_runs(config, name, tmp_path), "paper")
        both = tables.with_paper(config, table, pd.read_csv(PAPER / f"{name}.csv"))
        paper[name] = both[both["source"] == "paper"].set_index("model")
    assert paper["table1"].loc["d4_l2", "conv_steps"] == 2433
    assert paper["table2"].loc["standard_sym", "resolution_A"] == 10.72
    assert set(paper["table2"]["dataset"]) == {"80s_snr0.5"}


def test_a_table_says_that_runs_end_early_where_they_do(config, tmp_path):
    def remark(stop_after: int) -> str:
        asked = merge(config, {"evaluation": {"stop_after": stop_after}})
        return tables.notes(asked, "table1", read_runs(asked, "table1", tmp_path), "paper", [])[0]

    assert remark(5).endswith("; 500 steps (less if 5 evaluations in a row were converged) of training each.")
    assert "evaluations" not in remark(0)


def test_a_table_beside_the_papers_says_which_snrs_are_those_of_smaller_images(config, tmp_path):
    def remarks() -> str:
        return " ".join(tables.notes(config, "table1", read_runs(config, "table1", tmp_path), "paper", []))

    assert "is that of images of" not in remarks()
    config["datasets"]["80s_snr1"] |= {"box": 32, "voxel_size": 15.08}
    assert "The SNR of 80S SNR 1 is that of images of 32 pixels. The paper's is that of 128" in remarks()
    config["datasets"]["80s_snr1"]["snr_box"] = 128
    assert "is that of images of" not in remarks()


def test_the_exact_table_is_on_held_out_images_and_of_the_same_runs(config, tmp_path):
    for seed, mse in enumerate([0.01, 0.02, 0.5, 0.3]):
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, mse)
    exact = table_of(config, "table1", tmp_path, "exact").loc["d4_l2"]
    assert exact["counted"] == table_of(config, "table1", tmp_path).loc["d4_l2", "counted"]
    assert exact["mse"] == pytest.approx(0.9 * np.mean([0.01, 0.02, 0.3]))


def write_tables(command, folder: Path) -> None:
    options = ["--config", folder / "config.json", "--experiment", "table1", "--results", folder, "--paper", PAPER]
    options += ["--notes", "80S: 4V6X stands in & says so.", "--output-dir", folder / "tables"]
    assert command("equipose.study.tables", *options).returncode == 0


def test_the_command_writes_csv_latex_and_markdown_with_the_notes(command, config, tmp_path):
    for seed in range(4):
        write_run(tmp_path, "80s_snr1", "d4_l2", seed, 0.01 * (seed + 1))
        write_run(tmp_path, "80s_snr1", "standard_sym", seed, 0.5)
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_tables(command, tmp_path)
    written = {path.name for path in (tmp_path / "tables").iterdir()}
    assert written == {f"{stem}.{end}" for stem in ("table1", "table1_exact") for end in ("csv", "tex", "md", "html")}
    markdown = (tmp_path / "tables/table1.md").read_text()
    assert "**0.0200 ± 0.0082**" in markdown and "- 80S: 4V6X stands in & says so." in markdown
    latex = (tmp_path / "tables/table1.tex").read_text()
    assert r"\textbf{0.0200 $\pm$ 0.0082}" in latex and r"stands in \& says so" in latex
    assert latex.count(r"\toprule") == 1 and r"Resolution (\AA{})" in latex
    assert pd.read_csv(tmp_path / "tables/table1.csv").loc[2, "mse"] == pytest.approx(0.02)


def test_an_unknown_experiment_is_one_line_and_no_traceback(command, config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = ["--config", tmp_path / "config.json", "--experiment", "table9", "--results", tmp_path, "--paper", PAPER]
    done = command("equipose.study.tables", *options, "--summary")
    assert done.returncode == 2
    assert done.stderr == "error: experiments has no 'table9'; known: table1, table2\n"


@pytest.mark.parametrize(
    ("name", "title"),
    [("80s_snr0.5", "80S SNR 0.5"), ("spliceosome_noiseless", "Spliceosome noiseless"), ("mine", "Mine")],
)
def test_dataset_names_are_written_for_people(name, title):
    assert dataset_title(name) == title


@pytest.mark.parametrize("label", ["D4 [search]", "[/b]", "a|b", "<i>x</i> & y", 'it\'s "new"', "5 $ a*b_c"])
def test_a_label_is_the_same_in_the_terminal_markdown_and_html(config, tmp_path, label):
    config = merge(config, {"models": {"d4_l2": {"label": label}}})
    write_run(tmp_path, "80s_snr1", "d4_l2", 0, 0.01)
    table, text, bold, remarks = tables.build_table(
        config, "table1", read_runs(config, "table1", tmp_path), "paper", PAPER, []
    )
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(tables.to_terminal(table, text, bold, "table1"))
    assert f"│ {label} " in console.export_text()
    pages = MarkdownIt("commonmark").enable("table").render(tables.to_markdown(table, text, bold, "t", remarks))
    for page in (pages, tables.to_html(table, text, bold, "t", remarks)):
        rows = [re.findall(r"<td.*?>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", page, re.DOTALL)]
        models = [html.unescape(row[1]) for row in rows if row]
        assert label in models
        assert len({len(row) for row in rows if row}) == 1
        assert f"80S SNR 1, {label}: 3 of 4 runs not there" in html.unescape(page)
