"""The line before training: a run's expected time and memory. The forecast leaves the run unchanged."""

import copy
import dataclasses
import re

import pytest
import torch

from equipose.config.settings import Budget
from equipose.model.autoencoder import Autoencoder
from equipose.model.losses import LOSSES
from equipose.training.forecast import forecast, peak_bytes, saved_bytes


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(4, 32, 32), torch.tensor([2e4, 2e4, 0.0, 300.0, 2.7, 0.1, 0.0]).repeat(4, 1)


def model_of(small_run, **budget: float) -> Autoencoder:
    run = small_run("d4_l2")
    return Autoencoder(dataclasses.replace(run, budget=Budget(**({"seconds": None, "steps": None} | budget))), 1.0)


def line_of(model: Autoencoder, batch, steps: int = 0, seconds: float = 0.0, search: bool = False) -> str:
    return forecast(model, *batch, steps=steps, seconds=seconds, search=search)


def test_the_line_names_weights_memory_time_and_end(small_run, batch):
    line = line_of(model_of(small_run, steps=200), batch)
    assert re.search(
        r"plan: 0\.0 M weights, about \d\.\d GiB of memory, [\d.e-]+ s a step: 200 steps are \d+ s,"
        r" and \d+ s of evaluations; ends \w{3} \d\d:\d\d$",
        line,
    ), line


def test_only_what_is_left_after_an_interruption_is_counted(small_run, batch):
    assert "50 steps are" in line_of(model_of(small_run, steps=200), batch, steps=150)
    assert "10 s are" in line_of(model_of(small_run, seconds=60.0), batch, seconds=50.0)


def test_a_search_is_said_not_to_be_counted(small_run, batch):
    assert "the search's steps take their own time" in line_of(model_of(small_run, steps=200), batch, search=True)


def test_a_loss_of_one_s_own_has_one_path(small_run, batch, monkeypatch):
    model = model_of(small_run, steps=200)
    expected = peak_bytes(model, batch[0])
    monkeypatch.setitem(LOSSES, "mine", LOSSES["l2"])
    model.config = dataclasses.replace(model.config, model=dataclasses.replace(model.config.model, loss="mine"))
    assert peak_bytes(model, batch[0]) == pytest.approx(expected, rel=0.1)


def test_the_run_is_not_touched(small_run, batch):
    model = model_of(small_run, steps=200)
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    line_of(model, batch)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_saved_bytes_counts_every_storage_once_and_no_weights():
    layers = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.ReLU(), torch.nn.Linear(20, 30))
    x = torch.randn(5, 10)
    assert saved_bytes(layers, x) == 4 * (5 * 10 + 5 * 20), "the input of either layer; ReLU's output is the second's"


def test_memory_grows_evenly_with_the_batch(small_run, batch):
    model = model_of(small_run, steps=200)
    images = batch[0].repeat(256, 1, 1)
    small, middle, large = (peak_bytes(model, images[:count]) for count in (256, 512, 768))
    assert large - middle == pytest.approx(middle - small, rel=0.2)
    assert middle - small > 256 * 8 * 32**2 * 4, "more than the first activation"
