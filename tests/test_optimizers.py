"""Optimisers: which one updates which weights, and what Muon does to a matrix."""

import dataclasses

import torch

from equipose.model.autoencoder import Autoencoder
from equipose.model.optimizers import Muon, descend, make_optimizers, orthogonal, set_rates, training_rates


def test_newton_schulz_brings_all_singular_values_near_one_and_keeps_the_directions():
    generator = torch.Generator().manual_seed(0)
    for shape in ((5, 40), (40, 5)):
        matrix = torch.randn(shape, generator=generator)
        result = orthogonal(matrix)
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.6 and values.max() < 1.3
        u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
        mixed = u.T @ result @ vt.T
        assert torch.allclose(mixed, torch.diag(mixed.diagonal()), atol=1e-4)
    square = torch.eye(5) + 0.1 * torch.randn(5, 5, generator=generator)
    assert torch.linalg.svdvals(orthogonal(square)).min() > 0.6


def test_an_update_follows_the_gradient_and_the_momentum_of_those_before():
    """Nesterov's momentum: the gradient, and 0.95 of the momentum that already holds it."""
    first, second = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    muon = Muon([weight], lr=0.1)
    weight.grad = first
    muon.step()
    before = weight.detach().clone()
    weight.grad = second
    muon.step()
    expected = orthogonal(second + 0.95 * (0.95 * first + second))
    assert torch.allclose(before - weight, 0.2 * 0.1 * 6**0.5 * expected, atol=1e-6)


def test_an_update_has_a_fifth_of_the_rate_as_its_mean_square_whatever_the_gradient():
    generator = torch.Generator().manual_seed(0)
    for shape in ((6, 4, 10), (64, 3)):
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = 1e-3 * torch.randn(shape, generator=generator)
        Muon([weight], lr=0.1).step()
        assert 0.7 < weight.square().mean().sqrt() / (0.2 * 0.1) < 1.2


def test_a_gradient_of_zeros_moves_nothing():
    weight = torch.nn.Parameter(torch.ones(3, 4))
    weight.grad = torch.zeros(3, 4)
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(3, 4))


def test_muon_moves_the_encoder_s_matrices_and_adam_all_other_weights(small_run):
    model = Autoencoder(small_run("d4_l2"), image_scale=1.0)
    config = dataclasses.replace(model.config.model.optimizer, name="muon")
    adam, muon = make_optimizers(model, config)
    moved = {id(weight) for group in muon.param_groups for weight in group["params"]}
    assert moved == {id(weight) for weight in model.encoder.parameters() if weight.ndim > 1}
    rest = {id(weight) for group in adam.param_groups for weight in group["params"]}
    assert moved | rest == {id(weight) for weight in model.parameters()} and not moved & rest
    assert len(make_optimizers(model, dataclasses.replace(config, name="adam"))) == 1


def test_descending_lowers_the_loss_and_clips_the_gradient(small_run):
    model = Autoencoder(small_run("d4_l2"), image_scale=1.0).train()
    optimizers = make_optimizers(model, dataclasses.replace(model.config.model.optimizer, name="muon"))
    images = torch.randn(4, model.box, model.box, generator=torch.Generator().manual_seed(0))

    def loss() -> torch.Tensor:
        return 1e4 * (model.encoder(images)[0] - torch.eye(3)).square().mean()

    first = loss().item()
    for _ in range(5):
        descend(model, optimizers, loss())
    norm = torch.stack([weight.grad.norm() for weight in model.parameters() if weight.grad is not None]).norm()
    assert norm <= 1.001 * model.config.model.gradient_clip
    assert loss().item() < first


def test_a_descent_follows_its_own_loss_alone(small_run):
    """No gradient of an earlier step is left."""
    model = Autoencoder(small_run("d4_l2"), image_scale=1.0)
    weight = next(model.decoder.parameters())
    descend(model, [], 1e-3 * weight.sum())
    descend(model, [], 2e-3 * weight[0].sum())
    expected = torch.zeros_like(weight)
    expected[0] = 2e-3
    assert torch.allclose(weight.grad, expected)


def test_rates_are_constant_and_then_fall_to_zero_over_the_rest_of_the_budget(small_run):
    config = dataclasses.replace(
        small_run().model.optimizer, learning_rate=1.0, matrix_learning_rate=10.0, decay_from=0.6
    )
    assert training_rates(config, 0.0) == training_rates(config, 0.6) == {"Adam": 1.0, "Muon": 10.0}
    assert training_rates(config, 0.8)["Muon"] == 10 * training_rates(config, 0.8)["Adam"]
    assert abs(training_rates(config, 0.8)["Adam"] - 0.5) < 1e-9 and training_rates(config, 1.0)["Adam"] == 0
    never = dataclasses.replace(config, decay_from=1.0)
    assert training_rates(never, 1.0) == {"Adam": 1.0, "Muon": 10.0}


def test_each_kind_of_optimiser_gets_its_own_rate(small_run):
    model = Autoencoder(small_run("d4_l2"), image_scale=1.0)
    optimizers = make_optimizers(model, dataclasses.replace(model.config.model.optimizer, name="muon"))
    set_rates(optimizers, {"Adam": 0.1, "Muon": 0.2})
    assert [group["lr"] for optimizer in optimizers for group in optimizer.param_groups] == [0.1, 0.1, 0.2]


def test_the_encoder_learns_at_its_own_multiple_of_the_rate(small_run):
    model = Autoencoder(small_run("d4_l2"), image_scale=1.0)
    config = dataclasses.replace(model.config.model.optimizer, learning_rate=0.01, encoder_rate=3.0)
    (adam,) = make_optimizers(model, config)
    before = {id(weight): weight.detach().clone() for weight in model.parameters()}
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    adam.step()  # Adam's first steps move each weight by the rate
    set_rates([adam], {"Adam": 0.02})
    adam.step()

    def moved(part: torch.nn.Module) -> set[float]:
        return {round((before[id(weight)] - weight).mean().item(), 4) for weight in part.parameters()}

    assert moved(model.decoder) == {0.03} and moved(model.encoder) == {0.09}
