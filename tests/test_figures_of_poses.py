"""Figures that show what poses do: each shows what it says, on runs whose poses are known."""

import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from test_mirror_plane import NORMAL, blobs, symmetric

from equipose.core.mirror_plane import degrees_between, projection, twin
from equipose.core.point_groups import group
from equipose.core.pose_metrics import hand_shares
from equipose.core.rotations import random_rotations, viewing_directions
from equipose.errors import ConfigError
from equipose.figures import EVERY, OF_DATASETS, caption, chimerax, style
from equipose.figures.convergence import plot_convergence
from equipose.figures.directions import direction_colours, folded, plot_directions
from equipose.figures.encoders import layers_of, plot_encoders
from equipose.figures.examples import plot_examples
from equipose.figures.mirror import edge_on_view, plot_mirror
from equipose.figures.orbit import orbit, orbit_poses, plot_orbit
from equipose.figures.sphere import draw_density, draw_sphere, equal_area, plot_sphere
from equipose.figures.style import degrees_text
from equipose.figures.subsets import plot_subsets
from equipose.figures.twins import plot_twins
from equipose.io.maps import write_map
from equipose.model.autoencoder import Autoencoder, save_model
from equipose.study import runs
from equipose.study.mixture import Mixture, most_mixed, read_mixture

ROOT = Path(__file__).parents[1]
POINTS = np.random.default_rng(3).uniform(-6, 6, (7, 3))
IMAGES = 400


def drawn(path: Path) -> bool:
    return matplotlib.image.imread(path.with_suffix(".png")).std() > 0.05 and path.with_suffix(".pdf").exists()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "datasets/blobs"
    write_map(folder / "volume.mrc", blobs(POINTS).astype(np.float32), 4.0)
    return folder


def write_run(dataset: Path, model: str, seed: int, mixed: float) -> Path:
    """A run that starts at random, then has a part `mixed` of its images as twins, and ends right."""
    rng = np.random.default_rng(seed)
    true, gauge = random_rotations(IMAGES, rng), random_rotations(1, rng)[0]
    twins = np.stack([twin(rotation, NORMAL) for rotation in true])
    middle = np.where(np.arange(IMAGES)[:, None, None] < mixed * IMAGES, twins, true)
    predicted = np.stack([random_rotations(IMAGES, rng), middle @ gauge, true @ gauge]).astype(np.float32)
    folder = dataset.parents[1] / "runs" / dataset.name / model / f"seed{seed}"
    folder.mkdir(parents=True)
    shares = pd.DataFrame([hand_shares(poses, true) for poses in predicted]).add_prefix("share_")
    history = pd.DataFrame({"step": [0, 100, 200], "seconds": [0.0, 60.0, 240.0], "mse": [6.0, 8 * mixed, 0.001]})
    history.assign(medse=[6.0, 0.001, 0.001]).join(shares).to_csv(folder / "history.csv", index=False)
    # The map in the run's own frame: V_own(x) = V(gaugeᵀ… x), such that the predicted poses show the images.
    volume = symmetric(POINTS @ gauge, 0.0, normal=gauge.T @ NORMAL)
    np.savez(
        folder / "trace.npz",
        steps=np.array([0, 100, 200]),
        seconds=np.array([0.0, 60.0, 240.0]),
        predicted=predicted,
        true=true.astype(np.float32),
        volumes=volume[None].astype(np.float16),
        volume_names=np.array(["mixture_peak"]),
        volume_steps=np.array([100]),
    )
    (folder / "config.json").write_text(json.dumps({"evaluation": {"converged_mse": 0.1}}))
    metrics = {"dataset": dataset.name, "label": f"${model}$", "seed": seed, "resolution": None}
    metrics["training"] = {"direct": {"paper": {"mse": 0.001 + 0.01 * seed}}, "refined": None}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    pd.DataFrame({"shell": [], "frequency_per_angstrom": [], "fsc": []}).to_csv(folder / "fsc.csv", index=False)
    write_map(folder / "volume_aligned.mrc", blobs(POINTS).astype(np.float32), 4.0)
    return folder


@pytest.fixture(scope="module")
def loaded(dataset) -> list[runs.Run]:
    """Two runs of one model, the second one mixed more, and one of another."""
    folders = [
        write_run(dataset, model, seed, mixed) for model, seed, mixed in (("a", 0, 0.2), ("a", 1, 0.45), ("b", 2, 0.1))
    ]
    return [runs.load_run(folder) for folder in folders]


@pytest.fixture(scope="module")
def mixture(loaded) -> Mixture:
    return read_mixture(loaded)


def test_every_figure_has_a_caption_and_can_be_made_by_the_command_line():
    for figure in EVERY:
        assert caption(figure).endswith(".") and "python" not in caption(figure)
        assert f"python -m equipose.figures.{figure} " in (ROOT / f"src/equipose/figures/{figure}.py").read_text()


def test_the_most_mixed_moment_is_found_and_is_never_the_random_start(loaded):
    run, index = most_mixed(loaded)
    assert (run.seed, index) == (1, 1)


def test_poses_and_map_of_mixed_hands_have_the_same_plane_in_the_truths_frame(mixture):
    assert degrees_between(mixture.normal, NORMAL) < 1 and mixture.twist < 1
    assert degrees_between(mixture.plane.normal, NORMAL) < 3
    assert np.allclose(mixture.predicted[IMAGES // 2 :], mixture.true[IMAGES // 2 :], atol=1e-3)
    assert np.allclose(mixture.end, mixture.true, atol=1e-3)
    assert mixture.shares(1).startswith("5") and mixture.when(1) == "60 s" and mixture.when(2) == "4.0 min"


def test_figures_say_so_where_hands_were_hardly_mixed_and_draw_no_plane(loaded, mixture, tmp_path, monkeypatch):
    pure = read_mixture([run for run in loaded if run.seed == 2])
    assert mixture.mixed and "hardly" not in mixture.title
    assert not pure.mixed and re.search(
        r"\nHands were hardly mixed: never more than 1\d % of the images in the rarer hand$", pure.title
    )
    lines: list[int] = []
    for shown in (mixture, pure):
        monkeypatch.setattr(style.pyplot, "close", lambda figure: lines.append(sum(len(a.lines) for a in figure.axes)))
        plot_mirror(shown, blobs(POINTS), blobs(POINTS), tmp_path / "mirror.png")
    monkeypatch.undo()
    style.pyplot.close("all")
    assert lines == [1, 0]


def test_a_dataset_without_a_truth_has_no_hands(loaded):
    blind = [runs.Run(**{**vars(run), "history": run.history[["step", "seconds"]]}) for run in loaded]
    with pytest.raises(ConfigError, match="true poses"):
        most_mixed(blind)


def test_opposite_directions_fold_onto_one_point_and_one_colour():
    directions = viewing_directions(random_rotations(50, np.random.default_rng(0)))
    assert np.allclose(folded(directions), folded(-directions))
    rim = np.stack([np.cos([0.3, 1.9]), np.sin([0.3, 1.9])], axis=1)
    assert np.allclose(direction_colours(rim), direction_colours(-rim))
    assert not np.allclose(direction_colours(rim)[0], direction_colours(rim)[1])


def test_directions_far_apart_have_colours_that_all_eyes_tell_apart():
    """Directions 45° or more apart, on the rim. To a deuteranope the nearest two colours differ by 0.35.

    On a wheel of hues they would differ by 0.01.
    """
    eyes = {
        "deuteranopia": [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]],
        "protanopia": [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]],
        "tritanopia": [[1.01277, 0.13548, -0.14826], [-0.01243, 0.86812, 0.14431], [0.07589, 0.805, 0.11911]],
    }  # linear RGB, Viénot, Brettel and Mollon 1999
    angles = np.radians(np.arange(0, 180, 5))
    linear = direction_colours(np.stack([np.cos(angles), np.sin(angles)], axis=1)) ** 2.2
    apart = np.abs(np.sin(angles[:, None] - angles)) >= np.sin(np.radians(45)) - 1e-9
    for matrix in eyes.values():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        assert np.linalg.norm(seen[:, None] - seen, axis=-1)[apart].min() > 0.3


def test_an_even_spread_is_even_up_to_the_rim_of_the_disc_and_a_direction_is_counted_where_it_is():
    directions = viewing_directions(random_rotations(20_000, np.random.default_rng(0)))
    figure, (even, one) = pyplot.subplots(1, 2)
    density = draw_density(even, directions).get_array()
    assert density.mean() == pytest.approx(1) and density.std() < 0.15  # 82 a cell: 0.11 by chance
    assert density[-51:].mean() == pytest.approx(1, abs=0.05)  # the outermost ring
    for direction in directions[:5]:
        cells = draw_density(one, np.repeat(direction[None], 1000, axis=0))
        path = cells.get_paths()[int(np.argmax(cells.get_array()))]
        assert path.contains_point(equal_area(direction[None])[0])
    pyplot.close(figure)


def test_the_disc_of_errors_is_as_dense_as_the_sphere():
    points = equal_area(viewing_directions(random_rotations(20_000, np.random.default_rng(0))))
    radius = np.linalg.norm(points, axis=1)
    assert radius.max() <= 1
    assert np.mean(radius < 0.5) == pytest.approx(0.25, abs=0.01)


def test_poses_of_a_symmetric_molecule_are_drawn_modulo_its_group(loaded, tmp_path):
    run, same, rng = loaded[0], group("C4"), np.random.default_rng(0)
    folder = shutil.copytree(run.folder, tmp_path / "run")
    trace = dict(np.load(folder / "trace.npz"))
    mates = trace["true"] @ same[rng.integers(4, size=IMAGES)]
    np.savez(folder / "trace.npz", **trace | {"predicted": np.stack([trace["predicted"][0], mates, mates])})
    symmetric_run = dataclasses.replace(run, folder=folder, metrics=run.metrics | {"symmetry": "C4"})
    axes = pyplot.figure().add_subplot()
    draw_sphere(axes, symmetric_run)
    assert float(axes.get_title().rsplit(" ", 1)[1].rstrip("°").replace("0.001", "0")) < 0.1
    found = read_mixture([symmetric_run])
    assert np.allclose(found.true, found.predicted, atol=1e-3)
    pyplot.close("all")


def test_the_plane_is_seen_edge_on_and_from_where_the_truth_is_lopsided():
    truth = blobs(POINTS)
    view = edge_on_view(truth, NORMAL)
    assert np.allclose(view[0], NORMAL) and np.linalg.det(view) == pytest.approx(1)
    image = projection(truth, view)[1:, 1:]
    assert np.corrcoef(image.ravel(), image[:, ::-1].ravel())[0, 1] < 0.9


@pytest.mark.parametrize("encoder", ["d4_l2", "standard_sym"])
def test_poses_of_an_orbit_follow_the_image_for_an_equivariant_encoder_alone(small_run, tmp_path, loaded, encoder):
    torch.manual_seed(0)
    save_model(Autoencoder(small_run(encoder), image_scale=1.0).eval(), tmp_path / "model.pt")
    run = runs.Run(**{**vars(loaded[0]), "folder": tmp_path})
    image = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    elements, images = orbit(image)
    rotations, shifts = orbit_poses(run, images)
    moved = shifts[0] @ elements.double().numpy().swapaxes(1, 2)
    follows = np.abs(moved - shifts).max() < 1e-3
    assert follows == (encoder == "d4_l2")
    plot_orbit(image, [run], tmp_path / "orbit.png")
    assert drawn(tmp_path / "orbit")


def test_the_end_of_a_run_is_drawn_where_hands_were_mixed_most_before_it(mixture, tmp_path, monkeypatch):
    last = dataclasses.replace(mixture, index=len(mixture.run.history) - 1)
    panels: list[int] = []
    for shown in (mixture, last):
        monkeypatch.setattr(style.pyplot, "close", lambda figure: panels.append(len(figure.axes)))
        plot_directions(shown, tmp_path / "directions.png")
    monkeypatch.undo()
    style.pyplot.close("all")
    assert panels == [4, 3]


def test_layers_of_an_encoder_are_those_that_run(small_run):
    layers = layers_of(Autoencoder(small_run("d4_l2"), image_scale=1.0).encoder, 32)
    assert [layer.lane for layer in layers if layer.kind == "linear"] == ["rotation_head", "shift_head"]
    convolutions = [(layer.channels, layer.pixels) for layer in layers if layer.kind == "convolution"]
    assert convolutions[:7] == [(8, 32), (8, 32), (16, 16), (16, 16), (16, 8), (16, 8), (64, 1)]
    assert "regular\n8 fields" in layers[[layer.pixels for layer in layers].index(1)].text()


def test_encoders_are_drawn_once_each(small_run, tmp_path):
    for number, model in enumerate(("standard_sym", "c4_l2", "c4_mir", "d4_l2")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "config.json").write_text(small_run(model).to_json())
    plot_encoders([tmp_path / str(number) for number in range(4)], tmp_path / "all.png")
    plot_encoders([tmp_path / "1", tmp_path / "2"], tmp_path / "c4.png")
    heights = [matplotlib.image.imread(tmp_path / name).shape[0] for name in ("all.png", "c4.png")]
    assert heights[0] > 2.2 * heights[1]


def test_all_other_figures_are_drawn(loaded, mixture, dataset, simulated_dataset, tmp_path):
    truth, end = blobs(POINTS), blobs(POINTS)
    plot_directions(mixture, tmp_path / "directions.png")
    plot_mirror(mixture, truth, end, tmp_path / "mirror.png")
    plot_twins(mixture, truth, tmp_path / "twins.png")
    plot_subsets(loaded, [0.1, 0.5], tmp_path / "subsets.png")
    plot_sphere(loaded, tmp_path / "sphere.png")
    plot_convergence(loaded, tmp_path / "convergence.png")
    plot_examples([simulated_dataset.folder], tmp_path / "examples.png")
    assert all(drawn(path) for path in tmp_path.glob("*.png")) and len(list(tmp_path.iterdir())) == 14
    assert {"directions", "mirror", "twins", "subsets", "sphere"} < set(OF_DATASETS)


DOCUMENTED = {
    "set": r"set bgColor white",
    "lighting": r"lighting (default|simple|full|soft|gentle|flat)",
    "graphics": r"graphics silhouettes (true|false)",
    "close": r"close",
    "open": r'open "[^"]+\.mrc" name "[^"]+"',
    "volume": r"volume #\d+ style (surface|mesh|image) level -?\d[\d.e+-]* step \d+ color #[0-9a-fA-F]{6}",
    "tile": r"tile #1-\d+ columns \d+",
}
"""What ChimeraX's user guide (docs/user/commands of RBVI/ChimeraX) has for each command that we write."""


def test_chimerax_opens_every_models_map_from_where_the_commands_lie(loaded, dataset, monkeypatch, tmp_path):
    """ChimeraX runs a script in the script's folder, so the results may move."""
    file = dataset.parents[1] / "figures/one/maps_blobs.cxc"
    arguments = ["--dataset", dataset, "--runs", *(run.folder for run in loaded), "--output", file]
    monkeypatch.setattr(sys, "argv", ["chimerax", *map(str, arguments)])
    chimerax.main()
    moved = tmp_path / "moved"
    shutil.copytree(dataset.parents[1], moved)
    monkeypatch.chdir(moved / "figures/one")
    opened = [line.split('"')[1] for line in Path("maps_blobs.cxc").read_text().splitlines() if line.startswith("open")]
    assert [Path(path).resolve() for path in opened] == [
        moved / "datasets/blobs/volume.mrc",
        moved / "runs/blobs/a/seed0/volume_aligned.mrc",
        moved / "runs/blobs/b/seed2/volume_aligned.mrc",
    ]
    assert all(Path(path).exists() for path in opened)


def test_every_command_for_chimerax_is_one_that_its_guide_has(loaded, dataset):
    lines = chimerax.commands(dataset, loaded, dataset)
    assert all(re.fullmatch(DOCUMENTED[line.split()[0]], line) for line in lines)
    opened = [line for line in lines if line.startswith(("close", "open", "volume"))]
    assert [line.split(" style")[0].split(' "')[0] for line in opened] == [
        "close",
        *(part for number in (1, 2, 3) for part in ("open", f"volume #{number}")),
    ], "models are numbered as they are opened"
    assert lines[-1] == "tile #1-3 columns 3", "truth and two models, in a row"


@pytest.mark.parametrize(("angle", "text"), [(123.4, "123°"), (9.87, "9.9°"), (0.0034, "0.0034°"), (1e-5, "< 0.001°")])
def test_angles_are_short(angle, text):
    assert degrees_text(angle) == text
