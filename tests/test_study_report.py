"""The report: one page that needs nothing else, and says what is missing."""

import base64
import html.parser
import shutil
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib import pyplot
from test_tables import write_run

from equipose.config.settings import merge
from equipose.figures.style import COLUMN, PAGE, save
from equipose.pages.page import mesh
from equipose.pages.study_report import build, differences, figures_of
from equipose.study.claims import claims_table

ROOT = Path(__file__).parents[1]
PAPER = yaml.safe_load((ROOT / "config.yaml").read_text())
SMOKE = merge(PAPER, yaml.safe_load((ROOT / "workflow/presets/smoke.yaml").read_text()))
CLAIMS = yaml.safe_load((ROOT / "workflow/report/claims.yaml").read_text())
COMMAND = "snakemake --configfile smoke.yaml"


@pytest.fixture
def results(tmp_path) -> Path:
    """A preset of which one run of five is evaluated, and nothing is drawn."""
    folder = tmp_path / "smoke"
    write_run(folder, "smoke_noiseless", "d4_l2", 0, 0.02, batch=16)
    run = folder / "runs/smoke_noiseless/d4_l2/seed0"
    truth = folder / "datasets/smoke_noiseless/volume.mrc"
    for path in (folder / "benchmarks/train", folder / "tables"):
        path.mkdir(parents=True)
    z, y, x = np.ogrid[-16:16, -16:16, -16:16]
    for path in (truth, run / "volume_aligned.mrc"):
        with mrcfile.new(path) as file:
            file.set_data(np.exp(-(x**2 + 2 * y**2 + 3 * z**2) / 40).astype(np.float32))
    (folder / "benchmarks/train/a.tsv").write_text("s\tmax_rss\n120\t2048\n")
    claims_table(CLAIMS, []).to_csv(folder / "claims.csv", index=False)
    return folder


def page(results: Path, experiments: tuple[str, ...] = ("smoke",)) -> str:
    template = ROOT / "workflow/report/report.html.jinja"
    notes = {"smoke": ["Structure x: a stand-in."]}
    return build(SMOKE, PAPER, list(experiments), results, template, COMMAND, ROOT / "workflow/resources/paper", notes)


def test_the_error_of_a_converged_run_is_the_one_that_was_asked_for(results, monkeypatch):
    monkeypatch.setitem(SMOKE["evaluation"], "converged_mse", 0.25)
    assert "<th>MSE &lt; 0.25 after (median)</th>" in page(results)


def test_a_bound_is_called_one(results):
    claims = pd.read_csv(results / "claims.csv").astype({"bound": object})
    numbers = {"runs": 3, "estimate": 0.5, "low": 0.0, "high": 0.75}
    for bound, wanted in (("at most", "<td>at most 0.5 (0 to 0.75)</td>"), (np.nan, "<td>0.5 (0 to 0.75)</td>")):
        claims.assign(**numbers, bound=bound).to_csv(results / "claims.csv", index=False)
        assert wanted in page(results)


def test_the_page_loads_nothing_from_elsewhere(results):
    class Addresses(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.extend(value for name, value in attributes if name in ("src", "href"))

    found: list[str] = []
    Addresses().feed(page(results))
    assert found and all(address.startswith(("data:", "#")) for address in found)


def test_what_is_missing_is_named_with_the_command_that_makes_it(results):
    text = page(results)
    assert "4 runs have no result yet" in text and "smoke_noiseless/c4_mir seed 0" in text
    assert "smoke_noiseless/d4_l2 seed 0" not in text
    assert text.count(COMMAND) == 2  # runs, figures


def test_a_run_that_failed_is_named_with_its_reason_and_counts(results):
    log = results / "logs/train/smoke_noiseless/c4_mir/seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: the loss is not finite at step 8.\n")
    text = page(results)
    assert "smoke_noiseless/c4_mir seed 0 counts as not converged: failed (the loss is not finite at step 8.)" in text
    assert "0 of 1, 1 failed" in text and "3 runs have no result yet" in text


def test_tables_are_of_the_runs_that_there_are_and_carry_their_notes(results):
    text = page(results)
    assert text.count("<caption>") == 2 and "<b>0.0200</b>" in text
    assert text.count("Structure x: a stand-in.") == 2
    assert "None of its runs has a result." in page(results, ("smoke_noise",))


def test_runs_are_summed_up(results):
    text = page(results)
    assert "1 of 1" in text and "100 s" in text and "2°" in text
    assert "<td>train</td><td>1</td><td>2.0</td><td>2.00</td>" in text


def test_text_from_results_is_escaped(results):
    log = results / "logs/train/smoke_noiseless/c4_mir/seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: <script>alert(1)</script>\n")
    text = page(results)
    assert "alert(1)" in text and "<script>alert" not in text


def test_differences_from_the_paper_are_those_of_datasets_and_models_of_the_same_name():
    config = merge(PAPER, {"simulation": {"box": 32}, "training": {"batch": 8}, "models": {"d4_l2": {"batch": 16}}})
    runs = [("80s_snr1", "d4_l2", 0), ("80s_snr1", "c4_l2", 0)]
    assert differences(config, PAPER, runs) == [
        {"setting": "box", "here": "32", "paper": "128", "of": "80s_snr1"},
        {"setting": "batch", "here": "16", "paper": "64", "of": "d4_l2"},
        {"setting": "batch", "here": "8", "paper": "64", "of": "c4_l2"},
    ]
    assert differences(PAPER, PAPER, runs) == []


def test_figures_are_as_wide_as_they_were_drawn_for(results):
    for name, inches in (("fsc_curves", COLUMN), ("convergence", PAGE)):
        save(pyplot.figure(figsize=(inches, 1)), results / "figures/smoke" / name)
    widths = {figure["name"]: figure["width"] for figure in figures_of(results, "smoke")}
    assert widths == {"convergence": 900, "fsc curves": 438}


def test_a_map_becomes_a_closed_surface():
    z, y, x = np.ogrid[-16:16, -16:16, -16:16]
    surface = mesh(np.exp(-(x**2 + y**2 + z**2) / 30.0), 0.05)
    triangles = np.frombuffer(base64.b64decode(surface["triangles"]), "<u4").reshape(-1, 3)
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
@pytest.mark.parametrize("width", [500, 1280])  # headless chromium's narrowest window
def test_a_browser_shows_the_page_without_errors(results, tmp_path, width):
    """Scripts run, nothing is wider than the window, and the page says so in its title."""
    probe = "<script>document.title = drawings.length + ' maps, ' + (document.body.scrollWidth <= innerWidth)</script>"
    (tmp_path / "page.html").write_text(page(results).replace("</body>", f"{probe}</body>"))
    command = ["chromium", "--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    command += [f"--window-size={width},900", "--virtual-time-budget=3000", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*command, f"file://{tmp_path}/page.html"], capture_output=True, text=True, timeout=120)
    assert "<title>2 maps, true</title>" in done.stdout
    assert "CONSOLE" not in done.stderr
