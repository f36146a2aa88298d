"""Training in bfloat16: the same loss and gradients to its precision, and not a bit of difference to evaluation.

Only the poses at several turns of an image are computed in the precision of training.
"""

import pytest
import torch

from equipose.model.autoencoder import Autoencoder
from equipose.model.losses import LOSSES
from equipose.poses.pose_choice import turned_answers


def model_of(small_run, name: str, precision: str) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(small_run(name, precision=precision), image_scale=1.0)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 32, 32), torch.tensor([2e4, 2e4, 0.0, 300.0, 2.7, 0.1, 0.0]).repeat(8, 1)


def loss_and_decoder_gradient(model: Autoencoder, batch) -> tuple[torch.Tensor, torch.Tensor]:
    loss = LOSSES["l2"](model.train(), *batch)
    loss.backward()
    return loss.detach(), torch.cat([parameter.grad.flatten() for parameter in model.decoder.parameters()])


@pytest.mark.parametrize("name", ["standard_sym", "d4_l2"])
def test_bfloat16_training_has_float32_s_loss_and_gradients_to_its_precision(small_run, batch, name):
    loss, gradient = loss_and_decoder_gradient(model_of(small_run, name, "bfloat16"), batch)
    expected, expected_gradient = loss_and_decoder_gradient(model_of(small_run, name, "float32"), batch)
    assert loss != expected, "it is another precision"
    assert torch.allclose(loss, expected, rtol=0.01)
    assert torch.nn.functional.cosine_similarity(gradient, expected_gradient, dim=0) > 0.98


@pytest.mark.parametrize("name", ["standard_sym", "d4_l2"])
def test_evaluation_is_in_float32_whatever_the_training_is(small_run, batch, name):
    exact, reduced = (model_of(small_run, name, precision).eval() for precision in ("float32", "bfloat16"))
    with torch.no_grad():
        for ours, theirs in zip(reduced.encoder(batch[0]), exact.encoder(batch[0]), strict=True):
            assert torch.equal(ours, theirs)
        k = 10 * torch.randn(100, 3)
        assert torch.equal(reduced.decoder(k), exact.decoder(k))


def test_answers_from_several_turns_are_in_the_precision_of_training(small_run, batch):
    exact, reduced = (model_of(small_run, "d4_l2", precision).eval() for precision in ("float32", "bfloat16"))
    with torch.no_grad():
        (ours, _), (theirs, _) = (turned_answers(model, batch[0], 4) for model in (reduced, exact))
        assert not torch.equal(ours, theirs), "it is another precision"
        assert (ours - theirs).square().sum((2, 3)).median() < 1e-3
        assert torch.equal(reduced.encoder(batch[0])[0], exact.encoder(batch[0])[0]), "and only while it lasts"
