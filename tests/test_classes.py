"""Particles of two molecules are sorted into their classes, each half-set on its own, and joined again."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_junk import VOXEL, images_at
from test_symmetry_axes import BOX, blobs

from equipose import cli
from equipose.config.settings import PreparationConfig, RunConfig
from equipose.core.rotations import random_rotations
from equipose.io.maps import write_map
from equipose.io.particle_tables import read_tables, write_star
from equipose.io.particles import Particles
from equipose.pages.classes_report import build
from equipose.poses.classes import Start, matched, misfits, search_classes
from equipose.reconstruction import classes
from equipose.reconstruction.names import NOT_CONVERGED

SHOWN = np.repeat([0, 1], [90, 60])
"""The molecule that each image shows."""


@pytest.fixture(scope="module")
def run(small_run: Callable[..., RunConfig]) -> RunConfig:
    run = small_run("d4_l2", BOX)
    few = {"steps": 14, "batch": 100, "orientations": (150, 400), "refine_orientations": 400, "last_radius": 6.0}
    search = dataclasses.replace(run.model.search, **few, starts=3)
    dataset = dataclasses.replace(run.dataset, voxel_size=VOXEL, shift_std=1.0, images=len(SHOWN))
    return dataclasses.replace(run, dataset=dataset, model=dataclasses.replace(run.model, search=search))


@pytest.fixture(scope="module")
def clean() -> Particles:
    """Images of two molecules in random order of poses, without noise."""
    rng = np.random.default_rng(0)
    parameters = np.tile(np.array([15_000, 15_000, 0, 300, 2.7, 0.1, 0], np.float32), (len(SHOWN), 1))
    rotations, shifts = random_rotations(len(SHOWN), rng), np.zeros((len(SHOWN), 2))
    images = torch.cat(
        [
            images_at(
                blobs(name, np.eye(3), np.zeros(3)), *(each[which == SHOWN] for each in (rotations, shifts, parameters))
            )
            for which, name in enumerate(("C1", "D2"))
        ]
    )
    for which in (0, 1):  # a class is not told by its contrast
        images[which == SHOWN] /= images[which == SHOWN].std()
    return Particles(images.numpy(), parameters, VOXEL, None, None, pd.DataFrame(), pd.DataFrame())


def noisy(particles: Particles) -> Particles:
    """The same images at SNR 2."""
    noise = torch.randn(particles.images.shape, generator=torch.Generator().manual_seed(1)).numpy()
    return dataclasses.replace(particles, images=particles.images + 0.5**0.5 * noise)


@pytest.fixture(scope="module")
def mixture(clean: Particles) -> Particles:
    return noisy(clean)


def test_a_search_with_two_volumes_finds_which_image_shows_which_molecule(run: RunConfig, mixture: Particles) -> None:
    start = search_classes(run, mixture, 2, seed=0)
    label, sure = classes.chosen(misfits(run, mixture, start))
    right = np.mean(label == SHOWN)
    assert max(right, 1 - right) > 0.9 and sure.mean() > 0.9


def test_images_of_varied_contrast_are_sorted_and_their_contrasts_found(run: RunConfig, clean: Particles) -> None:
    contrasts = np.exp(0.3 * np.random.default_rng(2).standard_normal(len(SHOWN))).astype(np.float32)
    varied = noisy(dataclasses.replace(clean, images=clean.images * contrasts[:, None, None]))
    start = search_classes(run, varied, 2, seed=0)
    label, _ = classes.chosen(misfits(run, varied, start))
    right = np.mean(label == SHOWN)
    assert max(right, 1 - right) > 0.9
    assert np.corrcoef(np.log(start.contrasts.numpy()), np.log(contrasts))[0, 1] > 0.8


def test_each_image_goes_to_the_class_that_leaves_least_with_a_probability() -> None:
    label, sure = classes.chosen(np.array([[100.0, 104.0], [50.0, 50.0], [90.0, 10.0]]))
    assert label.tolist() == [0, 0, 1]
    np.testing.assert_allclose(sure, [1 / (1 + np.exp(-2)), 0.5, 1.0])


def test_classes_are_matched_one_to_one_by_the_likeness_of_all() -> None:
    partner, alike = matched(np.array([[0.9, 0.8, 0.1], [0.85, 0.2, 0.1], [0.3, 0.2, 0.95]]))
    assert partner.tolist() == [1, 0, 2] and alike.tolist() == [0.8, 0.85, 0.95]


@pytest.mark.parametrize(
    ("by_pair", "tried", "least"), [([0.95], 1, 0.95), ([0.5, 0.6, 0.93, 0.7], 2, 0.93), ([0.5], 3, 0.5)]
)
def test_searches_follow_until_all_classes_of_two_are_alike(
    run, mixture, monkeypatch, tmp_path, by_pair, tried, least
) -> None:
    values = iter(by_pair * 9)
    made: list[int] = []
    start = Start([], torch.ones(1), torch.ones(1))
    monkeypatch.setattr(classes, "search_classes", lambda run, part, count, seed: made.append(seed) or start)
    monkeypatch.setattr(classes, "likenesses", lambda *_: np.diag([1.0, next(values)]))
    pair, count = classes.agreeing_starts([run, run], [mixture, mixture], 2, tmp_path, lambda _: None)
    assert count == tried and len(made) == 2 * tried and pair.alike.min() == pytest.approx(least)


def test_an_interrupted_sorting_continues_after_its_last_search(run, mixture, monkeypatch, tmp_path) -> None:
    """A search is not made again, unless it was for other settings or its file is broken."""
    made: list[int] = []

    def searched(run, part, count, seed) -> Start:
        made.append(seed)
        return Start([torch.full((2, 2), 1.0 * seed)], torch.ones(1), torch.ones(3))

    monkeypatch.setattr(classes, "search_classes", searched)
    first = classes.kept_search(tmp_path / "work/one.pt", run, mixture, 2, 5)
    again = classes.kept_search(tmp_path / "work/one.pt", run, mixture, 2, 5)
    assert (
        made == [5] and torch.equal(again.volumes[0], first.volumes[0]) and torch.equal(again.contrasts, torch.ones(3))
    )
    classes.kept_search(tmp_path / "work/one.pt", run, mixture, 3, 6)
    classes.kept_search(tmp_path / "work/one.pt", dataclasses.replace(run, seed=7), mixture, 3, 7)
    (tmp_path / "work/one.pt").write_bytes(b"half of a file")
    classes.kept_search(tmp_path / "work/one.pt", dataclasses.replace(run, seed=7), mixture, 3, 8)
    assert made == [5, 6, 7, 8]


def table_of(count: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [VOXEL], "rlnImageSize": [BOX], "rlnVoltage": [300.0]}
    optics |= {"rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1], "rlnImageDimensionality": [2]}
    rows = {"rlnImageName": [f"{row + 1}@a.mrcs" for row in range(count)], "rlnOpticsGroup": [1] * count}
    rows |= {"rlnDefocusU": [1e4] * count, "rlnDefocusV": [1e4] * count, "rlnDefocusAngle": [0.0] * count}
    return pd.DataFrame(optics), pd.DataFrame(rows | {"rlnRandomSubset": [1 + row % 2 for row in range(count)]})


def sort_six(run, mixture, monkeypatch, tmp_path: Path, errors: list, alike: list[np.ndarray]) -> tuple[dict, Path]:
    """Six particles sorted by patched searches with these `errors` in each half-set, and what likenesses are found."""
    write_star(tmp_path / "particles.star", *table_of(6))
    (tmp_path / "half1").mkdir()
    asked = PreparationConfig(name="x", star=str(tmp_path / "particles.star"), subset=1)
    (tmp_path / "half1/config.json").write_text(asked.to_json())
    found, likenesses = iter(np.array(errors)), iter(alike)
    monkeypatch.setattr(classes, "read_particles", lambda path: mixture)
    monkeypatch.setattr(classes, "search_classes", lambda *_: Start([], torch.ones(1), torch.ones(1)))
    monkeypatch.setattr(classes, "likenesses", lambda *_: next(likenesses))
    monkeypatch.setattr(classes, "misfits", lambda *_: next(found))
    monkeypatch.setattr("equipose.reconstruction.handback.sizes_of", lambda *_: np.full((6, 1), BOX))
    work = tmp_path / "out/work/classes/particles"
    halves = [tmp_path / "half1", tmp_path / "half2"]
    return classes.sort([run, run], halves, len(alike[0]), work, lambda _: None), work


@pytest.fixture
def sorted_ones(run, mixture, monkeypatch, tmp_path: Path) -> tuple[dict, Path]:
    """Sorted into two classes; the second half has them the other way round."""
    errors = [[[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]], [[0.0, 9.0], [0.0, 9.0], [9.0, 0.0]]]
    alike = [np.array([[0.1, 0.96], [0.97, 0.2]]), *[np.array([[1.0, 0.3], [0.3, 1.0]])] * 2]
    return sort_six(run, mixture, monkeypatch, tmp_path, errors, alike)


@pytest.mark.parametrize(
    ("counts", "alike", "joined"),
    [
        ([[700, 235, 815], [700, 1049, 1]], 0.83, [0, 1, 1]),  # measured: GroEL's images in two classes
        ([[700, 235, 815], [700, 1049, 1]], 0.3, [0, 1, 2]),  # not alike: a failed search, and no copies
        ([[700, 620, 430], [700, 590, 460]], 0.9, [0, 1, 2]),  # the same shares in both half-sets: two states
    ],
)
def test_classes_that_the_half_sets_divide_differently_are_copies_of_one_molecule(counts, alike, joined) -> None:
    likeness = np.array([[1, 0.1, 0.1], [0.1, 1, alike], [0.1, alike, 1]])
    assert classes.copies(np.array(counts), likeness).tolist() == joined


def test_the_user_s_rows_get_a_class_and_their_half_the_largest_class_first(sorted_ones) -> None:
    summary, work = sorted_ones
    assert not list(work.glob("*.pt")), "searches that are kept while particles are sorted"
    table = read_tables(work / classes.SORTED)[1]
    assert list(table["rlnImageName"]) == [f"{row + 1}@a.mrcs" for row in range(6)]
    # Half 1 has rows 1, 3, 5 in its classes 2, 2, 1; half 2 has rows 2, 4, 6 in its classes 1, 1, 2, matched crosswise.
    assert table[classes.CLASS].tolist() == [1, 1, 1, 1, 2, 2] and table["rlnRandomSubset"].tolist() == [1, 2] * 3
    assert summary["particles"] == [[2, 2], [1, 1]] and summary["halves_alike"] == [0.97, 0.96]
    assert "Both half-sets have found the same classes." in classes.in_words(summary)
    alone = summary | {"halves_alike": [0.97, 0.4], "classes_alike": [[1.0, 0.98], [0.98, 1.0]]}
    said = classes.in_words(alone)
    assert "do not agree on all classes" in said and "Classes 1 and 2 look the same (0.98)" in said


def test_copies_of_one_molecule_are_one_class(run, mixture, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(classes, "copies", lambda *_: np.array([0, 0, 2]))
    errors = [[9.0, 1.0, 5.0], [1.0, 9.0, 5.0], [9.0, 9.0, 0.0]]
    summary, work = sort_six(run, mixture, monkeypatch, tmp_path, [errors, errors], [np.eye(3)] * 3)
    assert read_tables(work / classes.SORTED)[1][classes.CLASS].tolist() == [1, 1, 1, 1, 2, 2]
    assert summary["classes"] == 2 and summary["particles"] == [[2, 2], [1, 1]]
    assert summary["copies"] == [2, 1]
    said = classes.in_words(summary | {"halves_alike": [0.89, 0.98]})
    assert "Class 1: 4 particles" in said and "It joins 2 classes that show one molecule" in said
    assert "Both half-sets have found the same classes." in said
    assert "do not agree on all classes" in classes.in_words(summary | {"halves_alike": [0.89, 0.5]})


def test_each_class_is_reconstructed_in_its_own_folder_and_all_are_joined(
    sorted_ones, monkeypatch, capsys, tmp_path: Path
) -> None:
    _, work = sorted_ones
    out, asked = tmp_path / "out", []
    (out / "work/datasets/half1").mkdir(parents=True)
    (out / "work/datasets/half1/preparation.json").write_text('{"protein": "dark"}')

    codes = iter([0, NOT_CONVERGED, 0, 1])

    def reconstruct(arguments) -> int:
        """Poses and a map as a reconstruction leaves them, for the rows of one class."""
        asked.append(arguments)
        optics, table = read_tables(arguments.star, as_written=True)
        own = table[table[classes.CLASS] == arguments.select[0][1]]
        write_star(arguments.out / "poses.star", optics, own.assign(rlnAngleRot=arguments.select[0][1]))
        write_map(arguments.out / "volume.mrc", blobs("C1", np.eye(3), np.zeros(3)).numpy(), VOXEL)
        summary = {
            "verdict": {"state": "partly_converged", "text": "It settled."},
            "resolution_angstrom": {"corrected": 20.0},
        }
        summary |= {"symmetry": "C1", "agree_modulo": "D2", "particles": [1, 2]}
        summary |= {"junk": {"threshold": 0.7, "below": 3, "of": 12} if not asked[1:] else None}
        (arguments.out / "reconstruction.json").write_text(json.dumps(summary))
        return next(codes)

    monkeypatch.setattr(cli, "_reconstruct", reconstruct)
    monkeypatch.setattr(cli, "FEWEST", 1)
    star = str(tmp_path / "particles.star")
    arguments = cli.parser().parse_args(["reconstruct", star, "--out", str(out), "--classes", "2"])
    of_one = [out / name for name in ("volume.mrc", "half1.mrc", "fsc.csv", "next.md", "poses.cs")]
    for path in of_one:
        path.touch()
    for name in ("class3", "class3_copy", "class"):  # one of a former command with --classes 3, two of the user's
        (out / name).mkdir()
        (out / name / "particles.yaml").touch()
    assert cli._reconstruct_each_class(arguments, Path(star), out) == ["partly_converged"] * 2
    assert [each.classes for each in asked] == [1, 1] and [each.contrast for each in asked] == ["dark"] * 2
    assert [each.out.name for each in asked] == ["class1", "class2"] and asked[0].datadir == tmp_path
    table = read_tables(out / "poses.star")[1]
    assert list(table["rlnImageName"]) == [f"{row + 1}@a.mrcs" for row in range(6)], "rows keep their order"
    assert (table["rlnAngleRot"] == table[classes.CLASS]).all()
    summary = json.loads((out / "reconstruction.json").read_text())
    assert [each["folder"] for each in summary["reconstructed"]] == ["class1", "class2"]
    assert not any(path.exists() for path in of_one), "a map of all particles does not fit to the classes' poses"
    assert (out / "class3").exists(), "hours may lie in it"
    said = capsys.readouterr().out
    assert said.count("a class of a former command") == 1 and f"warning: {out / 'class3'}: " in said
    assert "class 2: 2 particles" in said and f"class 1: {out / 'class1'}: partly converged" in said
    page = build(out, summary, cli.CLASSES_REPORT, "mixture")
    assert page.count("<canvas") == 2 and 'href="class2/report.html"' in page and "0.97" in page
    assert f"<code>{star}</code>" in page and "</b>. It settled." in page and "not reconstructed" not in page
    assert "<td>3 (25.0 %)</td>" in page and "<td>not known</td>" in page

    monkeypatch.setattr(cli, "FEWEST", 2)
    cli._reconstruct_each_class(arguments, Path(star), out)
    assert "class 2: a half of 1 particles is too few to search; 2 are needed" in capsys.readouterr().out
    assert len(read_tables(out / "poses.star")[1]) == 4
    page = (out / "report.html").read_text()
    assert page.count("<canvas") == 1 and "<td>1 and 1</td>" in page and "<b>not reconstructed</b>" in page
    monkeypatch.setattr(cli, "FEWEST", 3)
    with pytest.raises(cli.ConfigError, match="no class has 3 particles in both.*fewer.*classes.star has"):
        cli._reconstruct_each_class(arguments, Path(star), out)
    monkeypatch.setattr(cli, "FEWEST", 1)
    with pytest.raises(SystemExit, match="1"):  # the workflow of the first class has failed
        cli._reconstruct_each_class(arguments, Path(star), out)
    assert len(asked) == 4
