"""The search: it finds poses from images alone, and its parts use the package's conventions."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from test_fourier_grid import BOX, filled, slices_of

from equipose.config.settings import Budget, EvaluationConfig, SearchConfig, usual_shift
from equipose.core import point_groups
from equipose.core.ctf import ctf
from equipose.core.fourier import half_disc, shift_phase, to_half_disc
from equipose.core.fourier_grid import FourierGrid, empty_grid, grid_slices, grid_volume, with_slopes
from equipose.core.pose_metrics import paper_scores, squared_distances
from equipose.io.particles import read_particles
from equipose.model.autoencoder import Autoencoder, load_model
from equipose.poses import search, search_stages
from equipose.poses.search_stages import fitting_rates, search_length, stage, start_search, tempering
from equipose.training import train
from equipose.training.checkpoint import IN_CHECKPOINT
from equipose.training.run_progress import Progress

ALONE = torch.eye(3)[None]
"""The group C1."""


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def grid(generator) -> FourierGrid:
    return filled(half_disc(BOX, 12), generator)


def images_of(grid: FourierGrid, count: int, radius: float, generator: torch.Generator):
    """Coefficients, CTFs, rotations and shifts (pixels) of noiseless images of the grid's volume."""
    disc = half_disc(BOX, radius)
    rotations = search.random_rotations(count, generator)
    shifts = torch.randn(count, 2, generator=generator)
    transfer = ctf(torch.tensor([[2e4, 2e4, 0, 300, 2.7, 0.1, 0]]).expand(count, -1), disc.k, BOX * 17.0)
    slices = grid_slices(grid_volume(grid), grid.radius, rotations, disc)
    return transfer * shift_phase(shifts, disc) * slices, transfer, rotations, shifts, disc


@pytest.mark.parametrize("draw", [search.random_rotations, functools.partial(search.spread_rotations, group=ALONE)])
def test_rotations_are_proper_and_uniform(generator, draw):
    rotations = draw(20_000, generator)
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3).expand(20_000, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(20_000), atol=1e-5)
    assert rotations.mean(0).abs().max() < 0.02  # every entry has mean 0 …
    assert torch.allclose(rotations.square().mean(0), torch.full((3, 3), 1 / 3), atol=0.01)  # … and variance 1/3


def test_spread_rotations_leave_narrower_holes_than_random_ones_and_differ_from_draw_to_draw(generator):
    asked = search.random_rotations(1000, generator)

    def widest(rotations: torch.Tensor) -> float:
        """The largest distance in degrees of an asked rotation from its nearest neighbour."""
        nearest = torch.einsum("aij,bij->ab", asked, rotations).amax(1).min()
        return float(torch.rad2deg(((nearest - 1) / 2).arccos()))

    first, second = (search.spread_rotations(4608, generator, ALONE) for _ in range(2))
    assert widest(first) < 0.8 * widest(search.random_rotations(4608, generator))
    assert not torch.allclose(first, second, atol=0.1)


def test_trial_shifts_reach_three_deviations_as_densely_as_the_last_shell_can_tell(small_run):
    run = small_run()
    dataset = dataclasses.replace(run.dataset, box=32, voxel_size=10.0, shift_std=12.0)
    shifts = search.trial_shifts(dataclasses.replace(run, dataset=dataset), 9.0, torch.device("cpu"))
    assert shifts.norm(dim=-1).max() <= 3.6
    assert {tuple(shift) for shift in shifts.tolist()} >= {(0.0, 0.0), (3.0, 0.0), (-2.0, 2.0)}
    assert torch.pdist(shifts).min() == 1  # a quarter of 32/9 pixels would be less
    fine = dataclasses.replace(dataset, box=128, voxel_size=2.5)
    shifts = search.trial_shifts(dataclasses.replace(run, dataset=fine), 8.0, torch.device("cpu"))
    assert torch.pdist(shifts).min() == 4  # a quarter of 128/8 pixels
    still = dataclasses.replace(dataset, shift_std=0.0)
    assert search.trial_shifts(dataclasses.replace(run, dataset=still), 9.0, torch.device("cpu")).tolist() == [[0, 0]]


@pytest.mark.parametrize("width", [140.0, 350.0, 700.0])
def test_a_search_tries_as_many_shifts_for_a_small_particle_as_for_a_large_one(small_run, width: float) -> None:
    run = small_run()
    dataset = dataclasses.replace(run.dataset, box=32, voxel_size=width / 32, shift_std=usual_shift(width))
    shifts = search.trial_shifts(dataclasses.replace(run, dataset=dataset), 13.0, torch.device("cpu"))
    assert len(shifts) == 25  # of a pixel's distance, within 3 × 3 % of 32 pixels


def test_the_match_s_error_is_the_squared_distance_to_the_best_slice(grid, generator):
    """The matrix product of the expanded square, against the definition."""
    target, transfer, _, _, disc = images_of(grid, 3, 6, generator)
    orientations, shifts = search.random_rotations(50, generator), torch.randn(20, 2, generator=generator)
    errors, best, shift = search.match(
        grid_volume(grid), grid.radius, target, transfer, disc, orientations, shifts, 0.7, 4, torch.float32
    )
    slices = grid_slices(grid_volume(grid), grid.radius, orientations, disc)
    predicted = transfer[:, None, None] * shift_phase(shifts, disc)[:, None] * slices  # (b, s, o, n)
    every = ((target[:, None, None] - predicted).abs().square() * disc.weights).sum(-1)
    every += 0.7 * shifts.square().sum(-1)[:, None]
    nearest = every.amin(1).sort(1).values[:, :4]
    assert torch.allclose(errors, nearest, rtol=1e-3, atol=1e-3 * float(every.max()))  # products may be in bfloat16
    rows = torch.arange(3)
    assert torch.equal(shift[:, 0], shifts[every[rows, :, best[:, 0]].argmin(1)])


def test_shells_that_were_never_compared_weigh_nothing(grid, generator):
    target, transfer, _, _, disc = images_of(grid, 30, 5, generator)
    _, spectrum = search.random_start(grid.radius, target, transfer, disc, generator)
    wide = half_disc(BOX, 8)
    weights = search.whitened(wide, spectrum).weights
    assert torch.equal(weights > 0, wide.k.norm(dim=-1).round() <= disc.k.norm(dim=-1).max().round())


def test_gauss_newton_finds_the_pose_from_ten_degrees_and_a_pixel_away(grid, generator):
    target, transfer, rotations, shifts, disc = images_of(grid, 20, 10, generator)
    turn = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator), dim=-1) * np.deg2rad(10)
    away = torch.matrix_exp(torch.einsum("bi,ijk->bjk", turn, search._generators(turn))) @ rotations
    moved = shifts + 0.7 * torch.randn(20, 2, generator=generator).sign()
    field = with_slopes(grid_volume(grid), grid.radius)
    found, found_shifts, errors = search.refine_poses(field, grid.radius, target, transfer, disc, away, moved, 6)
    before, after = (
        squared_distances(away.numpy(), rotations.numpy()),
        squared_distances(found.numpy(), rotations.numpy()),
    )
    assert np.median(after) < 1e-3 * np.median(before)
    assert (found_shifts - shifts).norm(dim=-1).median() < 0.01
    start = search.refine_poses(field, grid.radius, target, transfer, disc, away, moved, 0)[2]
    assert (errors <= start).all()


def test_of_several_candidates_the_one_that_ends_best_is_kept(grid, generator):
    target, transfer, rotations, shifts, disc = images_of(grid, 10, 8, generator)
    strangers = search.random_rotations(20, generator).view(10, 2, 3, 3)
    candidates = torch.cat([strangers, rotations[:, None]], 1)
    moved = shifts[:, None].expand(-1, 3, -1)
    field = with_slopes(grid_volume(grid), grid.radius)
    measured = [(target, transfer, disc)]
    found, found_shifts = search.best_refined(field, grid.radius, measured, candidates, moved, weight=0.0, iterations=1)
    assert torch.allclose(found, rotations, atol=1e-4) and torch.allclose(found_shifts, shifts, atol=1e-4)


def test_of_many_candidates_a_quarter_outlives_the_first_disc_and_the_last_one_chooses(grid, generator):
    """On the first disc a wrong pose is best, and the right one is among the best quarter."""
    target, transfer, rotations, shifts, disc = images_of(grid, 10, 8, generator)
    strangers, volume = search.random_rotations(10, generator), grid_volume(grid)
    field = with_slopes(volume, grid.radius)
    favoured = transfer * shift_phase(shifts, disc) * grid_slices(volume, grid.radius, strangers, disc)
    others = search.random_rotations(60, generator).view(10, 6, 3, 3)
    candidates = torch.cat([others, strangers[:, None], rotations[:, None]], 1)
    moved = shifts[:, None].expand(-1, 8, -1)
    measured = [(0.6 * favoured + 0.4 * target, transfer, disc), (target, transfer, disc)]
    found, _ = search.best_refined(field, grid.radius, measured, candidates, moved, weight=0.0, iterations=0)
    assert torch.equal(found, rotations)
    alone, _ = search.best_refined(field, grid.radius, measured[:1], candidates, moved, weight=0.0, iterations=0)
    assert torch.equal(alone, strangers)


def test_a_shift_must_explain_an_image_better_by_its_weight_than_none_does(grid, generator):
    target, transfer, rotations, shifts, disc = images_of(grid, 10, 8, generator)
    field = with_slopes(grid_volume(grid), grid.radius)
    candidates = rotations[:, None].expand(-1, 2, -1, -1)
    moved = torch.stack([shifts, torch.zeros_like(shifts)], 1)
    unmoved = search.refine_poses(field, grid.radius, target, transfer, disc, rotations, 0 * shifts, 0)[2]
    equal = (unmoved / shifts.square().sum(-1)).sort().values  # the weights at which both are as good
    weight = float(equal[4:6].mean())
    measured = [(target, transfer, disc)]
    _, found = search.best_refined(field, grid.radius, measured, candidates, moved, weight, iterations=0)
    stays = unmoved < weight * shifts.square().sum(-1)
    assert stays.sum() == 5 and torch.equal(found, torch.where(stays[:, None], 0, shifts))


def test_rendered_images_have_the_poses_they_are_said_to_have(grid, small_run, generator):
    """In the convention of the autoencoder: its shifts are about (L - 1)/2, half a pixel from those of the search."""
    model = Autoencoder(small_run(), image_scale=1.0)
    parameters = torch.tensor([[2e4, 2e4, 0, 300, 2.7, 0.1, 0]]).expand(4, -1)
    transfer = ctf(parameters, model.frequencies, model.box * model.voxel_size)
    volume = grid_volume(grid)
    images, rotations, shifts = search.render(
        volume, grid.radius, transfer, model.disc, torch.tensor(0.0), 1.0, generator
    )
    model.slices = lambda rotations, disc: grid_slices(volume, grid.radius, rotations, disc)
    decoded = model.decode(rotations, (shifts + 0.5) * model.voxel_size, parameters)
    assert torch.allclose(to_half_disc(images, model.disc), decoded, atol=1e-5)


@pytest.fixture
def quick(small_run, simulated_dataset):
    """A run of every stage: 2 starts of 2 steps, 2 passes of 2 steps, 4 of fitting, 4 of training."""
    config = small_run("d4_l2")
    changes = {"batch": 10, "orientations": (100, 100), "starts": 2, "steps": 2, "images": 20, "fit_ramp": 2}
    changes |= {"candidates": 2, "refine_orientations": 100}
    settings = dataclasses.replace(config.model.search, **changes, refine_radii=(6, 8), last_radius=6.0, fit_until=0.75)
    return dataclasses.replace(
        config,
        dataset=simulated_dataset.config,
        model=dataclasses.replace(config.model, init="search", search=settings, average=0.2),
        budget=Budget(seconds=None, steps=16),
        evaluation=EvaluationConfig(every=4, images=10, converged_mse=0.1, stop_after=0),
    )


def test_the_stage_follows_from_the_step_and_what_is_spent_of_the_budget(quick):
    names = [stage(step, step / 16, quick.model.search)[0] for step in range(14)]
    assert names == ["search"] * 4 + ["refine"] * 4 + ["fit"] * 4 + ["train"] * 2


def test_the_fit_counts_the_nearest_answer_of_each_image_and_the_noise_of_most_images(quick, monkeypatch):
    model, count = Autoencoder(quick, 1.0), 4
    state = start_search(model)
    state.volume = grid_volume(empty_grid(model.box // 2, torch.device("cpu")))
    state.errors = torch.tensor([4.0] * 15 + [100.0] * 5)  # five images are in a wrong pose
    away = torch.eye(3).repeat(2, count, 1, 1)  # of two hypotheses, (2, b, 3, 3)
    for hypothesis, image in ((0, 1), (1, 1), (1, 2)):
        away[hypothesis, image] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # a half turn: a squared distance of 8
    centred = torch.full((count, 2), 0.5 * model.voxel_size)
    moved = centred + torch.tensor([model.voxel_size, 0.0])  # one pixel
    noises = []

    def render(volume, radius, transfer, disc, noise, deviation, generator):
        noises.append(float(noise))
        return torch.zeros(count, model.box, model.box), torch.eye(3).repeat(count, 1, 1), torch.zeros(count, 2)

    def loss(answers, index: int) -> float:
        monkeypatch.setattr(model, "answers", lambda images: answers)
        return float(search_stages._fit(state, index, model, [], torch.zeros(count, 7), torch.Generator()))

    monkeypatch.setattr(search, "render", render)
    monkeypatch.setattr(model, "mean_error", lambda *_: torch.zeros(()))
    monkeypatch.setattr(search_stages, "descend", lambda *_: None)
    assert loss([(away[0], centred)], 0) == pytest.approx(8 / 4)
    assert loss([(away[1], centred)], 1) == pytest.approx(16 / 4)
    assert loss([(away[0], moved)], 2) == pytest.approx(8 / 4 + search_stages.SHIFT_WEIGHT)
    assert loss([(each, centred) for each in away], 3) == pytest.approx(8 / 4 + search_stages.LOSERS_WEIGHT * 24 / 8)
    assert noises == pytest.approx([0.0, 1.0, 2.0, 2.0])  # clean at first; `fit_ramp` is 2 steps


def test_contrasts_are_those_of_the_start_whose_volume_is_kept(quick, generator):
    state, disc, kept = start_search(Autoencoder(quick, 1.0)), half_disc(BOX, 12), []
    for error in (2.0, 1.0, 3.0):
        state.grid, state.spectrum = filled(disc, generator), torch.full((BOX // 2 + 1,), error)
        state.contrast = torch.full((5,), error)
        search_stages._end_start(state, disc, BOX // 2, generator)
        kept.append(float(state.contrast[0]))
    assert kept == [2.0, 1.0, 1.0]


def test_all_images_of_a_refining_pass_are_refined_though_batches_do_not_divide_them():
    config = SearchConfig(starts=2, steps=10, images=25, batch=10, refine_radii=(6, 8))
    assert search_length(config) == 2 * 10 + 2 * 3


def test_fitting_starts_at_its_own_learning_rates_and_falls_towards_those_of_training(quick):
    settings, final = quick.model.search, quick.model.optimizer
    rates = [fitting_rates(spent, settings, final) for spent in np.linspace(0, settings.fit_until, 5)]
    assert rates[0] == pytest.approx({"Adam": settings.fit_learning_rate, "Muon": settings.fit_matrix_learning_rate})
    assert rates[-1] == pytest.approx({"Adam": final.learning_rate, "Muon": final.matrix_learning_rate})
    for kind in ("Adam", "Muon"):
        assert np.allclose(np.diff([rate[kind] for rate in rates], 2), 0, atol=1e-9)


def test_a_run_with_a_search_continues_in_every_stage_to_the_same_result(
    quick, simulated_dataset, tmp_path, monkeypatch
):
    """One run is stopped in each of the stages."""
    particles = read_particles(simulated_dataset.folder / "particles.star")
    cpu, quiet, update, stops = torch.device("cpu"), lambda _: None, train.update, [2, 6, 10, 14]
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    train.train(quick, particles, tmp_path / "whole", cpu, quiet)

    def dying(model, optimizers, progress, *rest):
        if stops and progress.step == stops[0]:
            raise KeyboardInterrupt
        return update(model, optimizers, progress, *rest)

    monkeypatch.setattr(train, "update", dying)
    while stops:
        with pytest.raises(KeyboardInterrupt):
            train.train(quick, particles, tmp_path / "broken", cpu, quiet)
        del stops[0]
    train.train(quick, particles, tmp_path / "broken", cpu, quiet)
    whole, broken = (np.load(tmp_path / name / "trace.npz") for name in ("whole", "broken"))
    assert np.array_equal(whole["predicted"], broken["predicted"])


def test_stages_of_a_budget_in_seconds_follow_the_clock_between_evaluations(quick, simulated_dataset, tmp_path):
    """Evaluations may be far apart: the fit must not go on until the next."""
    seconds = dataclasses.replace(quick, budget=Budget(seconds=100.0, steps=None))
    progress, seen = Progress(step=8), []
    model = Autoencoder(seconds, image_scale=1.0)
    progress.search = start_search(model)
    progress.search.volume = grid_volume(empty_grid(model.box // 2, torch.device("cpu")))
    fetch = train.batch_source(read_particles(simulated_dataset.folder / "particles.star"), torch.device("cpu"))
    for elapsed in (10.0, 74.0, 76.0):
        train.update(model, train.make_optimizers(model, quick.model.optimizer), progress, fetch, elapsed)
        seen.append(progress.search is not None)
    assert seen == [True, True, False]


def test_a_start_compares_more_shells_and_more_orientations_and_keeps_fewer_hypotheses_step_by_step() -> None:
    config = SearchConfig(steps=5, first_radius=3.0, last_radius=9.0, orientations=(100, 1600), hypotheses=(81.0, 1.0))
    assert tempering(config, 0) == pytest.approx((9.0, 100, 81.0))  # makes the random volume, out to the last radius
    assert tempering(config, 1) == pytest.approx((4.5, 200, 27.0))
    assert tempering(config, 2) == pytest.approx((6.0, 400, 9.0))
    assert tempering(config, 4) == pytest.approx((9.0, 1600, 1.0))


@pytest.mark.parametrize("alike, starts", [(0.88, 2), (0.7, 3)])
def test_no_start_follows_two_that_agree_and_networks_are_trained_if_none_do(
    quick, simulated_dataset, tmp_path, monkeypatch, alike, starts
):
    settings = dataclasses.replace(quick.model.search, starts=3, fit="unless_agreed")
    run = dataclasses.replace(quick, model=dataclasses.replace(quick.model, search=settings))
    made, step = [], search.search_step
    monkeypatch.setattr(search, "search_step", lambda *args: made.append(args) or step(*args))
    shells = []
    monkeypatch.setattr(
        "equipose.poses.search_stages.likeness", lambda one, other, radius, _: shells.append(radius) or alike
    )
    particles = read_particles(simulated_dataset.folder / "particles.star")
    train.train(run, particles, tmp_path, torch.device("cpu"), lambda _: None)
    assert len(made) == starts * (settings.steps - 1)  # the first step of each makes the random volume
    assert set(shells) == {settings.last_radius}  # maps are compared as far as images were
    history = (tmp_path / "history.csv").read_text().splitlines()
    assert history[-1].split(",")[0] == ("10" if starts == 2 else "16")
    assert load_model(tmp_path / "model.pt").found is not None


def test_once_the_volume_is_found_the_search_s_grids_are_not_kept(quick, simulated_dataset, tmp_path):
    particles = read_particles(simulated_dataset.folder / "particles.star")
    asked = iter(range(1000))
    with pytest.raises(train.Interrupted):
        train.train(quick, particles, tmp_path, torch.device("cpu"), lambda _: None, lambda: next(asked) >= 8)
    with torch.serialization.safe_globals(IN_CHECKPOINT):
        content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]
    assert stage(content["step"], content["step"] / 16, quick.model.search)[0] == "fit"
    assert content["search"].best is None
    assert len(content["search"].grid.power) < 1000 < len(content["search"].volume)


def test_a_budget_that_ends_in_the_search_is_said_to_have_taught_nothing(quick, simulated_dataset, tmp_path):
    particles = read_particles(simulated_dataset.folder / "particles.star")
    said: list[str] = []
    short = dataclasses.replace(quick, budget=Budget(seconds=None, steps=6))
    train.train(short, particles, tmp_path, torch.device("cpu"), said.append)
    assert "the budget ended in the search" in said[-1]


def search_blobs(generator, steps: int, hypotheses):
    """A search on images of asymmetric blobs: its temperature and weights a step, and the scores of its poses."""
    disc, count = half_disc(BOX, 5), 150
    rotations = search.random_rotations(count, generator)
    target, transfer = slices_of(rotations, disc.k), torch.ones(count, len(disc.k))
    shifts, temperature = torch.zeros(1, 2), torch.ones(())
    grid, spectrum = search.random_start(BOX // 2, target, transfer, disc, generator)
    for step in range(steps):
        search.search_step(
            [grid],
            spectrum,
            temperature,
            target,
            transfer,
            disc,
            shifts,
            1.0,
            600,
            hypotheses(step / steps),
            0.3,
            generator,
        )
    orientations = search.random_rotations(2000, generator)
    _, best, _ = search.match(
        grid_volume(grid), grid.radius, target, transfer, disc, orientations, shifts, 0.0, 1, torch.float32
    )
    return temperature, paper_scores(orientations[best[:, 0]].double().numpy(), rotations.double().numpy())


def test_a_search_finds_the_poses_of_noiseless_blobs(generator):
    """From nothing: 30 steps at low radius put most images of an asymmetric object into one frame."""
    _, scores = search_blobs(generator, 30, lambda part: 100 * 0.02**part)
    assert scores.medse < 0.3


def test_a_search_is_hotter_the_more_poses_an_image_is_to_weigh():
    """Without noise, the likelihood has one pose. Only a high temperature gives others a weight."""
    hot, cold = (search_blobs(torch.Generator().manual_seed(0), 12, lambda _, many=many: many)[0] for many in (100, 3))
    assert hot > 2 * cold


def test_the_asymmetric_unit_holds_one_pose_of_each_image(generator):
    """A g-th of the orientations is left. With their mates, they cover SO(3) as closely as all orientations."""
    group = torch.from_numpy(point_groups.group("D3")).float()
    unit = search.spread_rotations(6000, generator, group)
    assert len(unit) == pytest.approx(1000, rel=0.15)
    asked, mates = search.random_rotations(500, generator), (unit[:, None] @ group).flatten(0, 1)
    nearest = torch.einsum("aij,bij->ab", asked, mates).amax(1).min()
    assert float(torch.rad2deg(((nearest - 1) / 2).arccos())) < 20  # 6,000 are some 14° apart
    traces = torch.einsum("aij,bij->ab", unit[:50], unit[:50]).fill_diagonal_(-1)
    assert traces.max() < 3 - 1e-4
