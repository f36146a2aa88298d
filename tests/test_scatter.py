"""A pass of refinement in several jobs: its sums and poses are those of a single job."""

import dataclasses

import numpy as np
import pytest
import torch

from equipose.errors import ConfigError
from equipose.io.files import REFINEMENT
from equipose.io.particles import read_particles
from equipose.io.stacks import Images
from equipose.model.autoencoder import Autoencoder, save_model
from equipose.poses import refinement
from equipose.training import scatter


def test_the_sums_over_jobs_are_those_of_one_job(small_run, simulated_dataset, tmp_path, monkeypatch):
    """Passes in two jobs, gathered, give the poses and sums of `refine`; its evaluation then goes on from them."""
    folder, particles = simulated_dataset.folder, read_particles(simulated_dataset.folder / "particles.star")
    run = small_run("d4_l2", 32)
    model = Autoencoder(dataclasses.replace(run, model=dataclasses.replace(run.model, refine_passes=2)), 1.0)
    right = particles.rotations, particles.shifts
    monkeypatch.setattr(scatter, "_start", lambda model, some, trained: _rows(model, particles, some))
    save_model(model, tmp_path / "model.pt")
    for number in range(2):
        for job in range(2):
            scatter.part(tmp_path, folder, tmp_path / "passes", number, job, 2)
        scatter.gather(tmp_path, tmp_path / "passes", number, 2)

    alone = refinement.refine(model, particles, *right, lambda _: None, tmp_path / "alone.pt")
    one, many = (torch.load(tmp_path / name, weights_only=True) for name in ("alone.pt", REFINEMENT))
    assert many["passes"] == one["passes"] == 2 and many["alike"] == pytest.approx(one["alike"], abs=1e-4)
    for name in ("rotations", "shifts", "signal", "power"):
        torch.testing.assert_close(many[name], one[name], rtol=0, atol=1e-4 * float(one[name].abs().max()))
    again = refinement.refine(model, particles, *right, lambda _: None, tmp_path / REFINEMENT)
    np.testing.assert_allclose(again[0], alone[0], atol=1e-3)


def test_jobs_that_cannot_share_the_parts_are_refused():
    with pytest.raises(ConfigError, match="divisor of 20"):
        scatter.slices(1000, 3)
    assert scatter.slices(1010, 4) == [(0, 255), (255, 510), (510, 765), (765, 1010)]
    with pytest.raises(ConfigError, match="41 particles are too few for 20 jobs: ask for fewer"):
        scatter.slices(41, 20)


def _rows(model, particles, some):
    """The right poses of the rows that `some` has, found by their CTF parameters."""
    first = next(row for row in range(len(particles.ctf)) if np.array_equal(particles.ctf[row], some.ctf[0]))
    rows = slice(first, first + len(some.ctf))
    return refinement.on_device(model, particles.rotations[rows], particles.shifts[rows])


def test_a_job_does_not_hold_the_images_of_its_particles(simulated_dataset):
    own = scatter._some(read_particles(simulated_dataset.folder / "particles.star"), slice(3, 7))
    assert isinstance(own.images, Images) and len(own.images) == len(own.ctf) == 4
