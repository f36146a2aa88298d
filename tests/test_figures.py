"""Figures: the renderer shows objects in their place and shape, and every figure writes its two files."""

import dataclasses
import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from equipose.core import surface
from equipose.core.resizing import resized
from equipose.errors import ConfigError
from equipose.figures import maps, style
from equipose.figures.convergence import FLOOR, draw_errors, plot_convergence
from equipose.figures.fsc_curves import plot_fsc
from equipose.figures.overview import map_label, plot_overview
from equipose.io.maps import write_map
from equipose.io.particle_tables import write_star
from equipose.study import runs

ROOT = Path(__file__).parents[1]
BOX = 32


def ball(centre: tuple[float, float, float], radius: float, box: int = BOX) -> np.ndarray:
    """A soft ball at `centre` (x, y, z) in voxels from box/2: density 0.5 at its radius."""
    z, y, x = np.indices((box, box, box)) - box // 2
    distance = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
    return 1 / (1 + np.exp(distance - radius))


def write_run(results: Path, model: str, seed: int, mse: float, volume: np.ndarray) -> Path:
    """A run folder with what figures read; its pose error falls from 6 to `mse`."""
    folder = results / "runs/balls" / model / f"seed{seed}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"evaluation": {"converged_mse": 0.1}}))
    scores = {"paper": {"mse": mse}, "exact": {"median_degrees": 1.5}}
    crossing = {"0.5": {"first": 12.0, "last": 12.0}}
    metrics = {
        "dataset": "balls",
        "label": f"${model}$",
        "seed": seed,
        "training": {"direct": scores, "refined": None},
        "resolution": {"exact": crossing, "nyquist_reached": False},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    history = pd.DataFrame({"step": [0, 1, 2], "seconds": [0.0, 60.0, 120.0], "mse": [6.0, 2.7, mse]})
    history.assign(medse=history["mse"] / 2).to_csv(folder / "history.csv", index=False)
    shell = np.arange(BOX // 2)
    curve = {"shell": shell, "frequency_per_angstrom": shell / (BOX * 4.0), "fsc": np.exp(-shell / 10)}
    pd.DataFrame(curve).to_csv(folder / "fsc.csv", index=False)
    write_map(folder / "volume_aligned.mrc", volume, 4.0)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A dataset of nine images and three runs of two models."""
    results = tmp_path_factory.mktemp("results")
    dataset = results / "datasets/balls"
    write_map(dataset / "volume.mrc", ball((0, 0, 0), 8), 4.0)
    write_map(dataset / "particles.mrcs", np.random.default_rng(0).normal(size=(9, BOX, BOX)), 4.0)
    optics = {"rlnOpticsGroup": 1, "rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
    table = pd.DataFrame({"rlnImageName": [f"{i + 1}@particles.mrcs" for i in range(9)], "rlnOpticsGroup": 1})
    table[["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]] = 15000.0, 15000.0, 0.0
    write_star(dataset / "particles.star", pd.DataFrame([optics | {"rlnImagePixelSize": 4.0}]), table)
    for model, seed, mse in (("d4", 0, 0.5), ("d4", 1, 0.01), ("standard", 0, 2.6)):
        write_run(results, model, seed, mse, ball((1, 0, 0), 7))
    return results


@pytest.fixture(scope="module")
def loaded(results) -> list[runs.Run]:
    return [runs.load_run(folder) for folder in sorted((results / "runs/balls").glob("*/seed*"))]


def test_a_ball_is_drawn_as_a_disc_of_its_radius():
    image = maps.render(ball((0, 0, 0), 20, box=128), 0.5, "#808080", extent=0.5)
    assert (image[..., 3] > 0).sum() == pytest.approx(np.pi * (20 / 64 * maps.PIXELS) ** 2, rel=0.02)


def test_the_lamp_is_at_the_upper_left():
    image = maps.render(ball((0, 0, 0), 20, box=128), 0.5, "#808080", extent=0.5)[..., 0]
    middle, step = maps.PIXELS // 2, maps.PIXELS // 6
    assert image[middle - step, middle - step] > 1.3 * image[middle + step, middle + step]


def test_a_ball_appears_where_the_viewing_pose_puts_it():
    def seen_at(point: np.ndarray) -> np.ndarray:
        """(x, y) of the middle of a ball at `point`, in voxels from the middle of the picture."""
        image = maps.render(ball(tuple(point), 6, box=128), 0.5, "#808080", extent=1.0)
        rows, columns = np.nonzero(image[..., 3])
        return (np.array([columns.mean(), rows.mean()]) - maps.PIXELS / 2) * 128 / maps.PIXELS

    point = np.array([20.0, 5.0, -12.0])
    assert np.allclose(seen_at(point), (maps.VIEW @ point)[:2], atol=0.5)


def test_the_nearer_of_two_balls_hides_the_other():
    away = maps.VIEW[2]  # the viewer's z axis in the volume's frame
    near, far = (ball(tuple(25 * sign * away), radius, box=128) for sign, radius in ((-1, 6), (1, 10)))
    both, far_only = (maps.render(volume, 0.5, "#808080", extent=1.0)[..., 0] for volume in (near + far, far))
    # At the near ball's lower right rim its surface turns away from the lamp; the far ball's does not yet.
    rim = maps.PIXELS // 2 + round(5 / np.sqrt(2) * maps.PIXELS / 128)
    assert both[rim, rim] < 0.8 * far_only[rim, rim]


def test_levels_enclose_the_asked_fraction_of_the_box():
    volume = np.random.default_rng(1).normal(size=(20, 20, 20))
    assert (volume > surface.enclosing_level(volume, 0.1)).mean() == pytest.approx(0.1, abs=1e-3)


def test_a_band_limited_map_keeps_every_voxel_on_a_finer_grid_and_on_the_way_back():
    volume = ball((1, -2, 3), 6)
    spectrum = np.fft.fftn(volume)
    nyquist = np.fft.fftfreq(BOX) == -0.5
    spectrum[nyquist], spectrum[:, nyquist], spectrum[:, :, nyquist] = 0, 0, 0
    volume = np.fft.ifftn(spectrum).real
    fine = resized(volume, 2 * BOX)
    assert fine.shape == (2 * BOX,) * 3
    assert np.allclose(fine[::2, ::2, ::2], volume)
    assert np.allclose(resized(fine, BOX), volume)
    odd = resized(volume, 2 * BOX + 1)
    assert odd.shape == (2 * BOX + 1,) * 3
    assert np.allclose(resized(odd, BOX), volume)


def test_a_featureless_map_does_not_stop_a_figure():
    axes = [style.pyplot.figure().add_subplot() for _ in range(2)]
    maps.draw_maps(axes, [ball((0, 0, 0), 8), np.zeros((BOX,) * 3)], ["truth", "nothing"], ["#808080", "#0072B2"])
    style.pyplot.close("all")


def test_the_best_run_of_each_model_is_the_one_with_the_lowest_error(loaded):
    assert [(run.label, run.seed) for run in runs.best_runs(loaded)] == [("$d4$", 1), ("$standard$", 0)]


def test_refined_poses_are_a_diamond_at_the_end_of_the_run(loaded):
    refined = {"refined": {"paper": {"mse": 0.002}}}
    run = loaded[1]
    better = dataclasses.replace(run, metrics=run.metrics | {"training": run.metrics["training"] | refined})
    axes = style.pyplot.figure().add_subplot()
    draw_errors(axes, [loaded[0], better, better], "mse", {"$d4$": "#0072B2"})
    _, labels = axes.get_legend_handles_labels()
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert labels == ["$d4$", "$d4$, refined"] and len(diamonds) == 2
    assert (diamonds[0].get_xdata()[0], diamonds[0].get_ydata()[0]) == (2.0, 0.002)
    assert axes.get_ylim()[0] < 0.002
    style.pyplot.close("all")


def test_refined_poses_without_any_error_have_their_place_on_the_logarithmic_axis(loaded):
    run = loaded[0]
    refined = {"refined": {"paper": {"mse": 0.0}}}
    perfect = dataclasses.replace(run, metrics=run.metrics | {"training": run.metrics["training"] | refined})
    axes = style.pyplot.figure().add_subplot()
    draw_errors(axes, [perfect], "mse", {run.label: "k"})
    assert axes.lines[1].get_ydata() == [FLOOR] and axes.get_ylim()[0] == FLOOR
    style.pyplot.close("all")


def test_models_keep_their_colours_in_the_order_they_come():
    colours = style.model_colours(["a", "b", "a"])
    assert colours == {"a": style.PALETTE[0], "b": style.PALETTE[1]}


def test_twelve_models_have_colours_of_their_own():
    assert len(set(style.model_colours(list("abcdefghijkl")).values())) == 12


@pytest.mark.parametrize("plot", [plot_convergence, plot_fsc])
def test_figures_of_runs_are_written_as_pdf_and_png(loaded, tmp_path, plot):
    plot(loaded, tmp_path / "new/figure.png")
    assert (tmp_path / "new/figure.pdf").read_bytes().startswith(b"%PDF")
    assert matplotlib.image.imread(tmp_path / "new/figure.png").std() > 0.05
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"figure.pdf", "figure.png"}


def test_a_picture_is_small_and_looks_the_same(tmp_path):
    """Shaded maps in three hues: no colour is off by more than 2 of 255 steps, and white is white."""
    volumes = [ball((0, 0, 0), 8), ball((1, 0, 0), 7), ball((0, 2, 0), 9)]
    figure, row = style.pyplot.subplots(1, 3, figsize=(style.PAGE, 2.6))
    maps.draw_maps(list(row), volumes, ["truth", "a", "b"], [style.TRUTH, *style.PALETTE[:2]])
    figure.savefig(tmp_path / "all.png", dpi=200)
    exact = matplotlib.image.imread(tmp_path / "all.png")[..., :3]
    with style.paper_style():
        style.save(figure, tmp_path / "few.png")
    shown = matplotlib.image.imread(tmp_path / "few.png")
    assert np.abs(shown - exact).max() < 2.5 / 255 and (shown[exact == 1] == 1).all()
    assert (tmp_path / "few.png").stat().st_size < 0.65 * (tmp_path / "all.png").stat().st_size


def test_the_overview_shows_one_dataset(loaded, results, tmp_path):
    plot_overview(results / "datasets/balls", loaded, tmp_path / "overview.png")
    assert matplotlib.image.imread(tmp_path / "overview.png").std() > 0.1
    with pytest.raises(ConfigError, match="runs of balls; the dataset is other"):
        runs.load_runs([run.folder for run in loaded], results / "datasets/other")


def test_a_map_is_labelled_with_the_errors_of_its_own_poses_and_no_crossing_where_there_is_none(loaded):
    run = loaded[0]
    assert map_label(run) == "$d4$\nmedian error 1.5°\nFSC 0.5 at 12 Å"
    refined = {"refined": {"exact": {"median_degrees": 0.25}}}
    metrics = run.metrics | {"training": run.metrics["training"] | refined}
    metrics |= {"resolution": run.metrics["resolution"] | {"nyquist_reached": True}}
    better = runs.Run(**{**vars(run), "metrics": metrics})
    assert map_label(better) == "$d4$\nmedian error 1.5°\nrefined 0.25°\nFSC ≥ 0.5 to 12 Å"


def test_runs_without_a_truth_are_drawn_without_pose_errors(results, tmp_path):
    folder = write_run(tmp_path, "real", 0, 1.0, ball((0, 0, 0), 7))
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"training": None, "resolution": None}))
    pd.DataFrame({"step": [0], "seconds": [0.0], "loss": [1.0]}).to_csv(folder / "history.csv", index=False)
    pd.DataFrame({"shell": [], "frequency_per_angstrom": [], "fsc": []}).to_csv(folder / "fsc.csv", index=False)
    run = runs.load_run(folder)
    for plot in (plot_convergence, plot_fsc):
        plot([run], tmp_path / plot.__name__)
        assert (tmp_path / plot.__name__).with_suffix(".png").exists()


def test_a_folder_that_is_no_run_is_one_line_and_no_traceback(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = command("equipose.figures.convergence", "--runs", ".", "--output", "x.png")
    assert done.returncode == 2
    assert done.stderr.startswith("error: . has no config.json") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_has_the_label_that_the_tables_have_now(tmp_path):
    folder = write_run(tmp_path, "d4_l2", 0, 1.0, ball((0, 0, 0), 7))
    metrics = json.loads((folder / "metrics.json").read_text()) | {"model": "d4_l2"}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert runs.load_run(folder).label == "$d4_l2$"
    (tmp_path / "tables").mkdir()
    for models, label in (({"d4_l2": {"label": "another"}}, "another"), ({"c4_l2": {"label": "x"}}, "$d4_l2$")):
        (tmp_path / "tables/config.json").write_text(json.dumps({"models": models}))
        assert runs.load_run(folder).label == label
