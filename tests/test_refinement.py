"""Refinement: the maps that images are compared with, and the number of passes. test_evaluate.py tests its accuracy."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_symmetry_axes import blobs

from equipose.core.fourier import from_half_disc, half_disc, shift_phase
from equipose.core.fourier_grid import (
    FourierGrid,
    from_real_map,
    grid_slices,
    grid_volume,
    real_map,
    sampled,
    with_slopes,
)
from equipose.core.mask import masked_volume, solvent_mask
from equipose.core.point_groups import group
from equipose.core.rotations import random_rotations
from equipose.io.particles import Particles, read_particles
from equipose.model.autoencoder import Autoencoder
from equipose.poses import refinement, search


@pytest.mark.parametrize(
    ("radii", "last", "all_of_them"),
    [([10, 13, 16], 16, [10, 13, 16]), ([12, 16], 32, [12, 16, 32]), ([9, 12], 40, [9, 12, 24, 40]), ([16], 8, [16])],
)
def test_radii_grow_to_the_last_shell_by_twice_at_most(radii, last, all_of_them):
    assert refinement.growing_radii(radii, last) == all_of_them


def test_images_are_compared_with_the_map_of_all_others(monkeypatch, small_run, simulated_dataset, tmp_path):
    """Otherwise an image would stay at its pose, because its own noise is in the map at this pose."""
    particles = read_particles(simulated_dataset.folder / "particles.star")
    run = small_run("d4_l2", 32)
    model = Autoencoder(dataclasses.replace(run, model=dataclasses.replace(run.model, refine_passes=2)), 1.0)
    seen = []

    def stay(model, field, resolution, batch, rotations, shifts, generator, mates=None):
        seen.append((len(rotations), field))
        return rotations, shifts

    monkeypatch.setattr(refinement, "_best_pose", stay)
    monkeypatch.setattr(refinement, "_contrasts", lambda before, *_: torch.linspace(0.5, 1.5, len(before)))
    rotations, shifts, volume = refinement.refine(
        model, particles, particles.rotations, particles.shifts, lambda _: None, tmp_path / "refinement.pt"
    )
    assert np.allclose(rotations, particles.rotations, atol=1e-6)

    turned, moved = refinement.on_device(model, particles.rotations, particles.shifts)
    every = torch.arange(len(turned))
    contrasts = torch.cat([torch.linspace(0.5, 1.5, len(part)) for part in every.chunk(refinement.PARTS)])
    known = turned, moved, contrasts
    whole = grid_volume(refinement._back_projected(model, particles, every, *known))
    assert torch.allclose(volume, whole, atol=1e-6 * float(whole.abs().max()))
    mask = solvent_mask(real_map(whole, 16))
    first_pass, second_pass = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert all(torch.equal(field, first_pass[0][1]) for _, field in first_pass)  # the model's own volume
    start = 0
    for count, field in second_pass:
        parts = [every[:start], every[start + count :]]
        grids = [refinement._back_projected(model, particles, rows, *known) for rows in parts if len(rows)]
        others = FourierGrid(16, sum(grid.signal for grid in grids), sum(grid.power for grid in grids))
        molecule = masked_volume(others, mask)
        assert torch.allclose(field[:, :2], molecule, atol=1e-3 * float(molecule.abs().max()))
        start += count
    assert start == len(every)


def test_passes_end_when_poses_have_settled(monkeypatch, small_run, simulated_dataset, tmp_path):
    particles = read_particles(simulated_dataset.folder / "particles.star")
    run = small_run("d4_l2", 32)
    model = Autoencoder(dataclasses.replace(run, model=dataclasses.replace(run.model, refine_passes=9)), 1.0)
    parts = len(torch.arange(len(particles.images)).chunk(refinement.PARTS))
    resolutions, half_turn = [], torch.diag(torch.tensor([1.0, -1.0, -1.0]))

    def move_in_five_passes(model, field, resolution, batch, rotations, shifts, generator, mates=None):
        resolutions.append(resolution)
        return (rotations @ half_turn if len(resolutions) <= 5 * parts else rotations), shifts

    monkeypatch.setattr(refinement, "_best_pose", move_in_five_passes)
    start = particles.rotations, particles.shifts
    refinement.refine(model, particles, *start, lambda _: None, tmp_path / "refinement.pt")
    assert resolutions[::parts] == pytest.approx([0.75, 0.75 + 0.25 / 3, 0.75 + 0.5 / 3, 1.0, 1.0, 1.0])


def test_passes_end_when_the_map_gets_no_more_like_the_one_before(monkeypatch, small_run, simulated_dataset, tmp_path):
    """As that of a symmetric molecule, whose poses go from mate to mate; a lower correlation is none to stop at."""
    particles = read_particles(simulated_dataset.folder / "particles.star")
    run, half_turn = small_run("d4_l2", 32), torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    model = Autoencoder(dataclasses.replace(run, model=dataclasses.replace(run.model, refine_passes=9)), 1.0)
    monkeypatch.setattr(refinement, "_best_pose", lambda *args: (args[4] @ half_turn, args[5]))

    def passes(name: str, correlations: list[float]) -> int:
        """Number of passes, if from the second one on the maps correlate like this."""
        left, said = iter(correlations), []
        monkeypatch.setattr(refinement, "_correlation", lambda *_: next(left))
        refinement.refine(model, particles, particles.rotations, particles.shifts, said.append, tmp_path / f"{name}.pt")
        return sum("poses changed" in line for line in said)

    assert passes("rising", [0.993, 0.992, 0.991, 0.992, 0.993, 0.993, 0.994, 0.995]) == 7
    assert passes("low", [0.95, 0.94, 0.93, 0.92, 0.91, 0.90, 0.89, 0.88]) == 9


def test_an_interrupted_refinement_continues_after_its_last_pass_to_the_same_result(
    small_run, simulated_dataset, tmp_path
):
    particles = read_particles(simulated_dataset.folder / "particles.star")
    run = small_run("d4_l2", 32)
    search = dataclasses.replace(run.model.search, refine_orientations=50, candidates=2)
    settings = dataclasses.replace(run.model, refine_passes=3, search=search)
    model = Autoencoder(dataclasses.replace(run, model=settings), 1.0)

    def refined(kept, say=lambda _: None, shifts=particles.shifts):
        return refinement.refine(model, particles, particles.rotations, shifts, say, tmp_path / kept)

    def stop_in_the_third_pass(line):
        if line.startswith("refinement 3/3"):
            raise KeyboardInterrupt

    whole = refined("whole.pt")
    assert np.allclose(whole[0] @ whole[0].swapaxes(1, 2), np.eye(3), atol=1e-12), "more than the float32 of its steps"
    with pytest.raises(KeyboardInterrupt):
        refined("broken.pt", stop_in_the_third_pass)
    said = []
    broken = refined("broken.pt", said.append)
    assert "continuing after pass 2" in said[0] and said[1].startswith("refinement 3/3")
    assert all(np.array_equal(a, b) for a, b in zip(whole, broken, strict=True))
    model.config = dataclasses.replace(model.config, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(whole, refined("broken.pt"), strict=True)), "nothing is left to do"

    (tmp_path / "broken.pt").write_bytes((tmp_path / "broken.pt").read_bytes()[:1000])
    said.clear()
    refined("broken.pt", said.append)
    assert said[0].startswith("refinement 1/3"), "a broken file counts as none"


@torch.no_grad()
def test_refinement_starts_from_the_map_that_explains_images_better(small_run, simulated_dataset):
    """The search's map if the decoder is untrained; the decoder's if the search's map is noise, or there is none."""
    particles = read_particles(simulated_dataset.folder / "particles.star")
    model = Autoencoder(small_run("d4_l2", 32), 1.0)
    turned, moved = refinement.on_device(model, particles.rotations, particles.shifts)
    every = torch.arange(len(turned))
    right = real_map(grid_volume(refinement._back_projected(model, particles, every, turned, moved)), 16)
    untrained = sampled(model.decoder, 16, torch.device("cpu"))
    noise = 100 * torch.randn(right.shape, generator=torch.Generator().manual_seed(0)) * right.std()
    for found, expected in ((right, from_real_map(right, 16)), (noise, untrained), (None, untrained)):
        model.found = found
        torch.testing.assert_close(refinement.first_volume(model, particles, turned, moved, True), expected)


def test_an_image_that_goes_to_a_mate_of_its_pose_has_settled(monkeypatch, small_run, simulated_dataset, tmp_path):
    particles = read_particles(simulated_dataset.folder / "particles.star")
    run = small_run("d4_l2", 32)
    half_turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))  # about z, of C2

    def passes(symmetry: str) -> int:
        dataset = dataclasses.replace(run.dataset, symmetry=symmetry)
        settings = dataclasses.replace(run.model, refine_passes=7)
        model, said = Autoencoder(dataclasses.replace(run, dataset=dataset, model=settings), 1.0), []
        monkeypatch.setattr(refinement, "_best_pose", lambda *rest: (rest[4] @ half_turn, rest[5]))
        monkeypatch.setattr(refinement, "STILL", 2.0)  # of the map nothing is asked
        start = particles.rotations, particles.shifts
        refinement.refine(model, particles, *start, said.append, tmp_path / f"{symmetry}.pt")
        return sum("poses changed" in line for line in said)

    assert passes("C2") == 2 and passes("C1") == 7


@torch.no_grad()
def test_half_of_the_shells_are_compared_at_an_eighth_of_the_orientations(monkeypatch, small_run, simulated_dataset):
    """A shell has as many orientations to tell apart as the third power of its radius."""
    particles, tried, compared = read_particles(simulated_dataset.folder / "particles.star"), [], []
    run = small_run("d4_l2", 32)
    settings = dataclasses.replace(run.model.search, refine_orientations=800, candidates=2, refine_iterations=1)
    model = Autoencoder(dataclasses.replace(run, model=dataclasses.replace(run.model, search=settings)), 1.0)
    spread, match = search.spread_rotations, search.match
    monkeypatch.setattr(search, "spread_rotations", lambda count, *rest: tried.append(count) or spread(count, *rest))
    monkeypatch.setattr(search, "match", lambda *given: compared.append(len(given[4].k)) or match(*given))
    turned, moved = refinement.on_device(model, particles.rotations, particles.shifts)
    every = torch.arange(len(turned))
    field = with_slopes(grid_volume(refinement._back_projected(model, particles, every, turned, moved)), 16)
    for resolution in (1.0, 0.5):
        batch = refinement._read(model, particles, every[:4])
        generator = torch.Generator().manual_seed(0)
        refinement._best_pose(model, field, resolution, batch, turned[:4], moved[:4], generator)
    assert tried == [800, 100]
    assert compared[1] == pytest.approx(compared[0] / 4, rel=0.15)  # frequencies in a disc of half the radius


def test_the_contrasts_of_images_are_found_at_their_poses(monkeypatch, small_run, simulated_dataset, tmp_path):
    particles = read_particles(simulated_dataset.folder / "particles.star")
    true = np.geomspace(0.5, 2.0, len(particles.images)).astype(np.float32)
    particles = dataclasses.replace(particles, images=particles.images[:] * true[:, None, None])
    run = small_run("d4_l2", 32)
    model = Autoencoder(dataclasses.replace(run, model=dataclasses.replace(run.model, refine_passes=4)), 1.0)
    monkeypatch.setattr(refinement, "_best_pose", lambda *args: args[4:6])
    monkeypatch.setattr(refinement, "PARTS", 2)  # contrasts are relative to those of their part
    monkeypatch.setattr(refinement, "NEARLY", 0.0)  # all four passes, though no pose changes
    start = particles.rotations, particles.shifts
    refinement.refine(model, particles, *start, lambda _: None, tmp_path / "refinement.pt")
    found = torch.load(tmp_path / "refinement.pt", weights_only=True)["contrasts"].numpy()
    for part in np.array_split(np.arange(len(true)), 2):
        np.testing.assert_allclose(found[part].mean(), 1, atol=1e-5)
        assert np.corrcoef(found[part], true[part])[0, 1] > 0.95


@pytest.mark.parametrize(("spread", "searches"), [(1.0, 1), (2.0, 2)])
def test_poses_are_sought_again_with_the_contrasts_where_these_vary(
    monkeypatch, small_run, simulated_dataset, spread, searches
):
    particles = read_particles(simulated_dataset.folder / "particles.star")
    true = np.geomspace(1 / spread, spread, len(particles.images)).astype(np.float32)
    particles = dataclasses.replace(particles, images=particles.images[:] * true[:, None, None])
    model, seen = Autoencoder(small_run("d4_l2", 32), 1.0), []

    def right(model, field, resolution, batch, rotations, shifts, generator, mates=None):
        seen.append(batch[1])
        return rotations, shifts

    monkeypatch.setattr(refinement, "_best_pose", right)
    turned, moved = refinement.on_device(model, particles.rotations, particles.shifts)
    every = torch.arange(len(turned))
    contrasts = torch.from_numpy(true)
    volume = grid_volume(refinement._back_projected(model, particles, every, turned, moved, contrasts))
    refinement.poses_against(model, volume, particles, particles.rotations, particles.shifts)
    assert len(seen) == searches
    if searches == 2:
        assert np.corrcoef(seen[1][:, 8], true)[0, 1] > 0.95


def test_mates_of_a_pose_show_the_same_of_a_symmetric_map_wherever_its_axis_lies():
    turn, centre = Rotation.random(random_state=3).as_matrix(), np.array([0.7, -0.4, 0.3])
    same = torch.from_numpy(turn @ group("C3") @ turn.T).float()
    rotations, shifts = torch.from_numpy(random_rotations(5, np.random.default_rng(0))).float(), torch.rand(5, 2)
    mates, moved = refinement.Mates(same, torch.from_numpy(centre).float()).of(rotations, shifts)
    field, disc = from_real_map(blobs("C3", turn, centre), 16), half_disc(32, 10)
    for mate in range(3):
        seen, plain = (
            shift_phase(at, disc) * grid_slices(field, 16, poses, disc)
            for at, poses in ((moved[:, mate], mates[:, mate]), (shifts, rotations))
        )
        assert (seen - plain).norm() < 0.03 * plain.norm()


@pytest.fixture(scope="module")
def nearly_symmetric(small_run) -> tuple[Autoencoder, Particles, torch.Tensor]:
    """Noisy images of a molecule that has C3 nearly, the model of a run on them, and their map (L, L, L)."""
    rng, disc, count = np.random.default_rng(0), half_disc(32), 400
    volume = blobs("C3", np.eye(3), np.zeros(3)) - 0.5 * blobs("C1", np.eye(3), np.zeros(3))
    true = random_rotations(count, rng)
    images = from_half_disc(grid_slices(from_real_map(volume, 16), 16, torch.from_numpy(true).float(), disc), disc)
    images = images.numpy() + 0.7 * float(images.std()) * rng.normal(size=images.shape)
    ctf = np.tile(np.array([0, 0, 0, 300, 0, 0, 90], np.float32), (count, 1))  # of the phase plate alone: 1
    run = small_run("d4_l2", 32)
    run = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, shift_std=0.0))
    few = dataclasses.replace(run.model.search, refine_orientations=300, candidates=2)
    model = Autoencoder(
        dataclasses.replace(run, model=dataclasses.replace(run.model, search=few, refine_passes=4)), 1.0
    )
    particles = Particles(
        images.astype(np.float32),
        ctf,
        run.dataset.voxel_size,
        true,
        np.zeros((count, 2)),
        pd.DataFrame(),
        pd.DataFrame(),
    )
    return model, particles, volume


def right(rotations: np.ndarray, particles: Particles) -> float:
    """The share of poses nearer to the true one than to any mate."""
    return float(np.mean(np.einsum("nij,nij->n", rotations, particles.rotations) > 2))


def test_further_passes_find_which_of_the_nearly_alike_poses_is_right(nearly_symmetric, tmp_path):
    model, particles, _ = nearly_symmetric
    mates = group("C3")[np.random.default_rng(1).choice(3, len(particles.rotations), p=[0.5, 0.25, 0.25])]
    start, shifts = particles.rotations @ mates, np.zeros((len(mates), 2))
    assert right(start, particles) < 0.55
    said: list[str] = []
    rotations, _ = refinement.refine_further(model, particles, start, shifts, said.append, tmp_path / "kept.pt")
    assert right(rotations, particles) > 0.9
    passes = [line for line in said if "poses changed" in line]
    assert 1 < len(passes) <= refinement.FURTHER

    def stop(line: str) -> None:
        if line.startswith("further refinement 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refinement.refine_further(model, particles, start, shifts, stop, tmp_path / "stopped.pt")
    again: list[str] = []
    continued, _ = refinement.refine_further(model, particles, start, shifts, again.append, tmp_path / "stopped.pt")
    np.testing.assert_array_equal(continued, rotations)
    assert [line for line in again if "poses changed" in line] == passes[1:]


def test_poses_against_a_nearly_symmetric_map_are_compared_with_their_mates(nearly_symmetric):
    """A search keeps few of its matches, by coarse shells, and may lose the right one among many nearly alike."""
    model, particles, volume = nearly_symmetric
    field = from_real_map(volume, 16)
    unknown = np.tile(np.eye(3), (len(particles.rotations), 1, 1)), np.zeros((len(particles.rotations), 2))
    mates = refinement.Mates(torch.from_numpy(group("C3")).float(), torch.zeros(3))
    with_mates, without = (
        right(refinement.poses_against(model, field, particles, *unknown, given)[0], particles)
        for given in (mates, None)
    )
    assert with_mates > 0.9 and with_mates > without


def test_a_pass_that_moves_few_poses_is_followed_by_one_with_all_shells():
    vague = refinement.first_pass(12)
    assert vague == refinement.Pass(0, 0.75) and refinement.first_pass(1) == refinement.Pass(0, 1.0)
    rising = refinement.next_pass(vague, 12, changed=0.2)
    assert rising.number == 1 and rising.shells == pytest.approx(5 / 6)
    assert refinement.next_pass(rising, 12, changed=0.005) == refinement.Pass(2, 1.0)
    assert refinement.next_pass(refinement.Pass(2, 1.0), 12, changed=0.2) == refinement.Pass(3, 1.0), "never fewer"
    assert refinement.next_pass(vague, 2, changed=0.2) == refinement.Pass(1, 1.0), "the last pass"


def test_an_interrupted_refinement_continues_with_as_many_shells(monkeypatch, small_run, simulated_dataset, tmp_path):
    particles = read_particles(simulated_dataset.folder / "particles.star")
    run = small_run("d4_l2", 32)
    model = Autoencoder(dataclasses.replace(run, model=dataclasses.replace(run.model, refine_passes=4)), 1.0)
    half_turn, compared = torch.diag(torch.tensor([-1.0, -1.0, 1.0])), []

    def another_pose(model, field, shells, batch, rotations, shifts, generator, mates=None):
        compared.append(round(shells, 2))
        return rotations @ half_turn, shifts

    def stop_in_the_second_pass(line):
        if line.startswith("refinement 2/4"):
            raise KeyboardInterrupt

    monkeypatch.setattr(refinement, "_best_pose", another_pose)
    start = model, particles, particles.rotations, particles.shifts
    with pytest.raises(KeyboardInterrupt):
        refinement.refine(*start, stop_in_the_second_pass, tmp_path / "refinement.pt")
    compared.clear()
    refinement.refine(*start, lambda _: None, tmp_path / "refinement.pt")
    assert sorted(set(compared)) == [0.83, 0.92, 1.0]
