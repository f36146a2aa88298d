"""Training: one device a step, deterministic batches, and any interruption continues to the same result."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from equipose.config.settings import Budget, EvaluationConfig, ModelConfig
from equipose.core.rotations import random_rotations
from equipose.errors import ConfigError
from equipose.io.files import REFINEMENT
from equipose.io.particles import Particles, read_particles
from equipose.model import autoencoder
from equipose.model.autoencoder import Autoencoder, load_model
from equipose.model.encoders import ENCODERS, GaussianPyramid
from equipose.model.rotation_tensors import gram_schmidt
from equipose.poses.search_stages import search_length
from equipose.training import train
from equipose.training.checkpoint import recorded_precision
from equipose.training.run_progress import Progress, starts_agreed, stayed_converged

META = torch.library.Library("aten", "IMPL")
"""PyTorch lacks the meta kernel of one operator that a step uses."""
META.impl("batch_norm_update_stats", lambda x, *_: tuple(x.new_empty(2, x.shape[1])), "Meta")


class OneDevice(TorchDispatchMode):
    """Fails where an operation mixes devices (meta alone lets CPU tensors pass) or moves values from or to the host.

    Unseen: `torch.tensor` and `new_tensor` of numbers, which PyTorch copies by itself. tests/gpu sees them.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.operations = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        inputs = [x for x in tree_flatten((args, kwargs or {}))[0] if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in inputs}
        assert len(devices) <= 1, f"{operation} mixes {devices}"
        reads = ("_local_scalar_dense", "is_nonzero", "equal.default", "nonzero")
        output = operation(*args, **(kwargs or {}))
        made = {x.device.type for x in tree_flatten(output)[0] if isinstance(x, torch.Tensor)}
        assert not (devices and self.device not in devices and self.device in made), f"{operation} waits for the host"
        if self.device in devices:
            self.operations += 1
            name = str(operation)
            assert not any(read in name for read in reads), f"{operation} waits for the device"
            assert made <= {self.device}, f"{operation} leaves the device"
        return output


@pytest.mark.parametrize("name", ["standard_sym", "c4_l2", "c4_mir", "d4_l2"])
def test_a_whole_step_stays_on_one_device_and_never_waits_for_it(small_run, name):
    model = Autoencoder(small_run(name), image_scale=1.0).to("meta").train()
    optimizers = train.make_optimizers(model, model.config.model.optimizer)
    images = torch.empty(4, 32, 32, device="meta")
    parameters = torch.empty(4, 7, device="meta")
    with OneDevice("meta") as watch:
        loss = train.train_step(model, optimizers, images, parameters)
    assert loss.device.type == "meta"
    assert watch.operations > 100


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x if (x > 0).any() else -x,
        lambda x: x + torch.ones(3),
        lambda x: x + torch.eye(3).to(x),
        lambda x: x[x > 0],
    ],
    ids=["item", "cpu", "branch", "mixed devices", "copy", "mask"],
)
def test_the_watch_catches_what_it_should(mistake):
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), OneDevice("meta"):
        mistake(torch.empty(3, device="meta"))


def test_every_epoch_shows_every_image_once():
    epoch = np.concatenate([train.batch_indices(images=20, batch=5, seed=0, step=step) for step in range(4)])
    assert sorted(epoch) == list(range(20))


def test_batches_depend_on_seed_and_step_alone():
    assert np.array_equal(train.batch_indices(20, 5, seed=1, step=7), train.batch_indices(20, 5, seed=1, step=7))
    assert not np.array_equal(train.batch_indices(20, 5, seed=1, step=7), train.batch_indices(20, 5, seed=2, step=7))


@pytest.fixture
def particles() -> Particles:
    rng = np.random.default_rng(0)
    ctf = np.tile([20000.0, 20000.0, 0.0, 300.0, 2.7, 0.1, 0.0], (30, 1))
    return Particles(
        images=rng.normal(size=(30, 32, 32)).astype(np.float32),
        ctf=ctf,
        voxel_size=17.0,
        rotations=random_rotations(30, rng),
        shifts=rng.normal(size=(30, 2)),
        optics_table=pd.DataFrame(),
        particle_table=pd.DataFrame(),
    )


@pytest.fixture
def run(small_run):
    """Twelve steps of four images, evaluated every four."""
    config = small_run("d4_l2")
    return dataclasses.replace(
        config,
        dataset=dataclasses.replace(config.dataset, images=20, held_out=10),
        budget=Budget(seconds=None, steps=12),
        evaluation=EvaluationConfig(every=4, images=10, converged_mse=0.1, stop_after=0),
    )


def without_time(history: Path) -> pd.DataFrame:
    return pd.read_csv(history).drop(columns="seconds")


def train_quietly(run, particles, folder: Path, said: list[str] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    train.train(run, particles, folder, torch.device("cpu"), (said if said is not None else []).append)


def stop_after(step: int, monkeypatch) -> None:
    """Let the process die in the given step."""
    whole = train.train_step

    def dying(model, optimizer, images, parameters, count=iter(range(1, 1000))):
        if next(count) > step:
            raise KeyboardInterrupt
        return whole(model, optimizer, images, parameters)

    monkeypatch.setattr(train, "train_step", dying)


def test_the_plan_draws_no_random_number(run, particles, tmp_path, monkeypatch):
    """A network that draws some, as a method developer's may, would continue with others than without a break."""
    train_quietly(run, particles, tmp_path / "one")
    expected = torch.get_rng_state()
    monkeypatch.setattr(train, "forecast", lambda *_: f"plan: {torch.rand(3)}")
    train_quietly(run, particles, tmp_path / "other")
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_run_ends_early_once_it_has_stayed_converged(run, particles, tmp_path):
    """Every MSE is below 8.1. The evaluation before training counts, and one that is not converged starts anew."""
    always = dataclasses.replace(run.evaluation, converged_mse=8.1, stop_after=2)
    train_quietly(dataclasses.replace(run, evaluation=always), particles, tmp_path / "early")
    assert list(without_time(tmp_path / "early" / "history.csv").step) == [0, 4]
    history = [{"step": step, "mse": mse} for step, mse in ((0, 5.0), (4, 0.05), (8, 0.2), (12, 0.05), (16, 0.01))]
    judged = dataclasses.replace(run, evaluation=dataclasses.replace(run.evaluation, stop_after=2))
    ended = [stayed_converged(judged, Progress(history=history[:rows])) for rows in range(6)]
    assert ended == [False] * 5 + [True]
    never = dataclasses.replace(run.evaluation, stop_after=0)
    assert not stayed_converged(dataclasses.replace(run, evaluation=never), Progress(history=history))


def test_a_run_that_ended_with_its_search_says_that_two_starts_agreed(run, tmp_path):
    """But not where no step was left for the networks anyway, nor where they were trained."""
    search = dataclasses.replace(run.model.search, fit="unless_agreed")
    searched = dataclasses.replace(run, model=dataclasses.replace(run.model, init="search", search=search))
    last = search_length(search)
    for budget, steps, agreed in ((last + 9, last, True), (last + 9, last + 9, False), (last, last, False)):
        asked = dataclasses.replace(searched, budget=Budget(seconds=None, steps=budget))
        (tmp_path / "config.json").write_text(asked.to_json())
        (tmp_path / "history.csv").write_text(f"step,seconds\n{steps},1\n")
        assert starts_agreed(tmp_path) is agreed
    assert not starts_agreed(tmp_path / "nowhere")


def test_an_interrupted_run_ends_as_an_undisturbed_one(run, particles, tmp_path, monkeypatch):
    train_quietly(run, particles, tmp_path / "whole")
    stop_after(6, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_quietly(run, particles, tmp_path / "broken")
    assert (tmp_path / "broken/checkpoint.pt").exists()
    assert not (tmp_path / "broken" / "model.pt").exists()
    monkeypatch.undo()
    said: list[str] = []
    train_quietly(run, particles, tmp_path / "broken", said)

    assert "continuing from step 4" in said[0]
    assert without_time(tmp_path / "broken/history.csv").equals(without_time(tmp_path / "whole/history.csv"))
    for name, weights in load_model(tmp_path / "whole/model.pt").state_dict().items():
        assert torch.equal(load_model(tmp_path / "broken/model.pt").state_dict()[name], weights), name
    whole, broken = np.load(tmp_path / "whole/trace.npz"), np.load(tmp_path / "broken/trace.npz")
    assert set(whole) == set(broken)
    for name in set(whole) - {"seconds"}:
        assert np.array_equal(whole[name], broken[name]), name


def sigterm_at(step: int, run, particles, folder: Path) -> None:
    """Train until a signal stops the run at a step between two evaluations."""
    folder.mkdir()
    whole_step = train.train_step

    def warned(model, optimizer, images, parameters, count=iter(range(1, 1000))):
        if next(count) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole_step(model, optimizer, images, parameters)

    with pytest.MonkeyPatch.context() as patch, train.stop_on_signals() as stop_requested:
        patch.setattr(train, "train_step", warned)
        with pytest.raises(train.Interrupted):
            train.train(run, particles, folder, torch.device("cpu"), lambda _: None, stop_requested)


class OfEscnn(torch.nn.Module):
    """An encoder with a layer of escnn's, which has other names in evaluation mode."""

    def __init__(self, config: ModelConfig, box: int) -> None:
        super().__init__()
        from escnn import gspaces, nn

        space = gspaces.rot2dOnR2(4)
        self.kind = nn.FieldType(space, 5 * [space.trivial_repr])
        target = nn.FieldType(space, 2 * [space.regular_repr])
        self.pyramid = GaussianPyramid(config.precision)
        self.layers = nn.SequentialModule(nn.R2Conv(self.kind, target, 3), nn.InnerBatchNorm(target), nn.ReLU(target))
        self.head = torch.nn.Linear(8 * 16, 8)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from escnn.nn import GeometricTensor

        features = self.layers(GeometricTensor(self.pyramid(images), self.kind)).tensor
        pooled = torch.nn.functional.adaptive_avg_pool2d(features, 4).flatten(1)
        v1, v2, shifts = self.head(pooled).split([3, 3, 2], dim=1)
        return gram_schmidt(v1, v2), shifts


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_an_encoder_of_escnn_s_layers_is_averaged_stopped_continued_and_loaded(
    run, particles, tmp_path, monkeypatch, average
):
    pytest.importorskip("escnn")
    monkeypatch.setitem(ENCODERS, "of_escnn", OfEscnn)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, encoder="of_escnn", average=average))
    train_quietly(run, particles, tmp_path / "whole")
    sigterm_at(6, run, particles, tmp_path / "stopped")
    train_quietly(run, particles, tmp_path / "stopped", said := [])
    assert "continuing from step 6" in said[0]
    assert without_time(tmp_path / "stopped/history.csv").equals(without_time(tmp_path / "whole/history.csv"))
    model, images = load_model(tmp_path / "stopped/model.pt"), torch.from_numpy(particles.images[:10])
    with torch.no_grad():
        rotations, _ = model.encoder(images * model.image_scale)
    last = np.load(tmp_path / "whole/trace.npz")["predicted"][-1]
    # 1.3e-6 apart on a Xeon with AMX: batches of other sizes are rounded otherwise.
    assert np.allclose(rotations, last, atol=1e-5), "the weights that were judged, not others"


def test_sigterm_checkpoints_between_evaluations_and_loses_no_step(run, particles, tmp_path):
    train_quietly(run, particles, tmp_path / "whole")
    sigterm_at(6, run, particles, tmp_path / "warned")
    train_quietly(run, particles, tmp_path / "warned", said := [])
    assert "continuing from step 6" in said[0]
    pd.testing.assert_frame_equal(
        without_time(tmp_path / "warned/history.csv"), without_time(tmp_path / "whole/history.csv"), check_exact=True
    )


def test_the_trace_holds_poses_of_every_evaluation_and_some_volumes(run, particles, tmp_path):
    train_quietly(run, particles, tmp_path / "run")
    trace = np.load(tmp_path / "run/trace.npz")
    assert trace["steps"].tolist() == [0, 4, 8, 12]
    assert trace["predicted"].shape == (4, 10, 3, 3)
    assert np.allclose(trace["true"], particles.rotations[:10], atol=1e-6)
    assert len(trace["volumes"]) == len(trace["volume_names"]) == len(trace["volume_steps"]) >= 2
    assert trace["volumes"].shape[1:] == (32, 32, 32)


def test_a_checkpoint_of_other_images_or_networks_is_set_aside(run, particles, tmp_path, monkeypatch):
    """Such as after a change of a structure's file or of an encoder's code."""
    stop_after(6, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_quietly(run, particles, tmp_path / "images")
    monkeypatch.undo()
    shutil.copytree(tmp_path / "images", tmp_path / "networks")
    said: list[str] = []
    train_quietly(run, dataclasses.replace(particles, images=2 * particles.images), tmp_path / "images", said)
    assert "belongs to other images; set aside" in said[0]

    built = train.Autoencoder.__init__

    def changed(model, *arguments):
        built(model, *arguments)
        model.encoder.more = torch.nn.Linear(2, 2)

    monkeypatch.setattr(train.Autoencoder, "__init__", changed)
    train_quietly(run, particles, tmp_path / "networks", said := [])
    assert "belongs to other networks: the code has changed; set aside" in said[0]


@pytest.mark.parametrize("damage", ["truncated", "another configuration"])
def test_a_useless_checkpoint_is_set_aside_for_the_one_before_if_that_is_good(
    run, particles, tmp_path, monkeypatch, damage
):
    train_quietly(run, particles, tmp_path / "whole")
    stop_after(10, monkeypatch)
    first = run if damage == "truncated" else dataclasses.replace(run, seed=5)
    with pytest.raises(KeyboardInterrupt):
        train_quietly(first, particles, tmp_path / "damaged")
    monkeypatch.undo()
    path = tmp_path / "damaged/checkpoint.pt"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    said: list[str] = []
    train_quietly(run, particles, tmp_path / "damaged", said)
    assert "set aside" in said[0]
    assert ("continuing from step 4" in said[1]) == (damage == "truncated")
    assert without_time(tmp_path / "damaged/history.csv").equals(without_time(tmp_path / "whole/history.csv"))


def test_a_finished_run_that_is_asked_for_again_is_not_trained_again(run, particles, tmp_path, monkeypatch):
    """The job of a killed Snakemake may go on. The next Snakemake deletes its outputs and starts the job again."""
    train_quietly(run, particles, tmp_path / "run")
    history = without_time(tmp_path / "run/history.csv")
    for name in ("model.pt", "history.csv", "trace.npz"):
        (tmp_path / "run" / name).unlink()
    stop_after(0, monkeypatch)
    train_quietly(run, particles, tmp_path / "run")
    assert without_time(tmp_path / "run/history.csv").equals(history)


def test_a_model_that_is_trained_anew_is_not_refined_from_where_the_former_one_was_cut_off(
    run, simulated_dataset, tmp_path, monkeypatch
):
    """Where networks are not trained, all runs start refinement from the same poses: the file fits any of them."""
    (tmp_path / "config.json").write_text(run.to_json())
    (tmp_path / REFINEMENT).write_bytes(b"of a run with another --shift-std")
    seen = []
    monkeypatch.setattr(train, "train", lambda *_: seen.append((tmp_path / REFINEMENT).exists()))
    words = ["--config", tmp_path / "config.json", "--dataset", simulated_dataset.folder, "--output", tmp_path]
    monkeypatch.setattr(sys, "argv", ["train", *map(str, words), "--threads", "1", "--jobs-per-gpu", "1"])
    threads = torch.get_num_threads()
    train.main()
    torch.set_num_threads(threads)
    assert seen == [False]


def test_training_that_ends_again_keeps_the_passes_of_refinement_that_its_model_had(
    simulated_dataset, run, particles, tmp_path, monkeypatch
):
    """As where a cluster's job of training and evaluation is cut off in the latter, and Snakemake deletes model.pt."""
    (tmp_path / "config.json").write_text(run.to_json())
    train_quietly(run, particles, tmp_path)
    (tmp_path / "model.pt").unlink()
    (tmp_path / REFINEMENT).write_bytes(b"passes")
    words = ["--config", tmp_path / "config.json", "--dataset", simulated_dataset.folder, "--output", tmp_path]
    monkeypatch.setattr(sys, "argv", ["train", *map(str, words), "--threads", "1", "--jobs-per-gpu", "1"])
    threads = torch.get_num_threads()
    train.main()
    torch.set_num_threads(threads)
    assert (tmp_path / "model.pt").exists() and (tmp_path / REFINEMENT).read_bytes() == b"passes"


def test_a_run_says_with_what_it_was_made_from_each_start_on(run, particles, tmp_path, monkeypatch):
    stop_after(6, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_quietly(run, particles, tmp_path)
    monkeypatch.undo()
    train_quietly(run, particles, tmp_path)
    starts = json.loads((tmp_path / "provenance.json").read_text())
    assert [start["from_step"] for start in starts] == [0, 4]
    for start in starts:
        assert start["code"].keys() == {"commit", "edited", "modules"}
        assert start["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
        assert start["machine"]["processor"] and start["machine"]["node"]


def test_a_run_keeps_the_precision_that_it_began_with(run, particles, tmp_path, monkeypatch):
    """Even if the stopwatch finds another one when the run continues or is evaluated."""
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, precision="bfloat16"))
    monkeypatch.setattr(train, "usable_precision", lambda precision: "bfloat16")
    train_quietly(run, particles, tmp_path / "whole")
    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        stop_after(6, dying)
        train_quietly(run, particles, tmp_path / "broken")
    for module in (train, autoencoder):
        monkeypatch.setattr(module, "usable_precision", lambda precision: "float32")
    train_quietly(run, particles, tmp_path / "broken", said := [])
    assert "continuing from step 4" in said[0] and not any("training in" in line for line in said)
    starts = json.loads((tmp_path / "broken/provenance.json").read_text())
    assert [start["precision"] for start in starts] == ["bfloat16", "bfloat16"]
    assert without_time(tmp_path / "broken/history.csv").equals(without_time(tmp_path / "whole/history.csv"))
    assert load_model(tmp_path / "broken/model.pt").dtype == torch.bfloat16

    train_quietly(run, particles, tmp_path / "float32", said := [])
    assert said[0] == "this processor is no faster in bfloat16: training in float32"
    assert load_model(tmp_path / "float32/model.pt").dtype == torch.float32


def test_the_precision_of_a_checkpoint_of_another_configuration_is_not_taken(run, particles, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "usable_precision", lambda precision: precision)
    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        stop_after(6, dying)
        train_quietly(run, particles, tmp_path)
    assert recorded_precision(tmp_path, run) == "float32"
    assert recorded_precision(tmp_path, dataclasses.replace(run, seed=5)) is None


def test_the_same_seed_on_the_same_processor_gives_the_same_history(run, particles, tmp_path):
    for name, seed in (("first", 0), ("second", 0), ("other", 1)):
        train_quietly(dataclasses.replace(run, seed=seed), particles, tmp_path / name)
    first, second, other = (without_time(tmp_path / name / "history.csv") for name in ("first", "second", "other"))
    assert first.equals(second) and not first.equals(other)


def test_the_weights_that_are_judged_are_an_average_over_the_last_part_of_all_steps(run):
    """The average of a weight that grows by 1 a step lags by `average` of the steps, and by less at the start."""
    config = dataclasses.replace(run, model=dataclasses.replace(run.model, average=0.1))
    model, averaged = Autoencoder(config, 1.0), Autoencoder(config, 1.0)
    weight, mean = next(model.parameters()), next(averaged.parameters())
    distances = []
    for step in range(1, 1001):
        weight.data.fill_(step)
        train.follow(averaged, model, step)
        distances.append(step - mean.flatten()[0].item())
    assert distances[:10] == [0] * 10
    assert distances[-1] == pytest.approx(1000 * 0.1 / 1.1, rel=0.02)


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(run, particles, tmp_path, monkeypatch):
    whole = train.train_step

    def broken(model, optimizer, images, parameters, count=iter(range(1, 1000))):
        loss = whole(model, optimizer, images, parameters)
        return loss * float("nan") if next(count) == 6 else loss

    monkeypatch.setattr(train, "train_step", broken)
    with pytest.raises(ConfigError, match="not finite at step 8"):
        train_quietly(run, particles, tmp_path / "run")
    assert not (tmp_path / "run/model.pt").exists()
    said: list[str] = []
    monkeypatch.undo()
    train_quietly(run, particles, tmp_path / "run", said)
    assert "continuing from step 4" in said[0]


def test_a_budget_in_seconds_counts_training_alone(run, particles, tmp_path, monkeypatch):
    record_scores = train.record_scores

    def slow(*arguments):
        time.sleep(0.3)
        record_scores(*arguments)

    monkeypatch.setattr(train, "record_scores", slow)
    run = dataclasses.replace(run, budget=Budget(seconds=0.6, steps=None))
    started = time.perf_counter()
    train_quietly(run, particles, tmp_path / "run")
    elapsed = time.perf_counter() - started
    history = pd.read_csv(tmp_path / "run/history.csv")
    assert len(history) >= 2
    assert 0.6 <= history.seconds.iloc[-1] < elapsed - 0.3 * len(history)


def test_kill_9_at_any_moment_and_the_same_command_continues(simulated_dataset, run, tmp_path):
    """A process that is killed in the middle of training ends with the same history as an undisturbed run."""
    run = dataclasses.replace(
        run,
        dataset=simulated_dataset.config,
        budget=Budget(seconds=None, steps=30),
        evaluation=EvaluationConfig(every=5, images=10, converged_mse=0.1, stop_after=0),
    )

    def command(folder: Path) -> list[str]:
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(run.to_json())
        module = [sys.executable, "-m", "equipose.training.train", "--threads", "1", "--jobs-per-gpu", "1"]
        paths = ["--config", str(folder / "config.json"), "--dataset", str(simulated_dataset.folder)]
        return [*module, *paths, "--output", str(folder)]

    train_quietly(run, read_particles(simulated_dataset.folder / "particles.star"), tmp_path / "whole")
    killed = subprocess.Popen(command(tmp_path / "killed"), stderr=subprocess.PIPE, text=True)
    for line in killed.stderr:
        if "step 10/30" in line:
            killed.kill()
            break
    assert killed.wait() == -signal.SIGKILL
    ended = subprocess.run(command(tmp_path / "killed"), check=True, capture_output=True, text=True)
    assert "continuing from step" in ended.stderr
    assert without_time(tmp_path / "killed/history.csv").equals(without_time(tmp_path / "whole/history.csv"))
