"""Convolutions: PyTorch's own is the oracle of the one with fewer products."""

import pytest
import torch
from torch.nn import functional

from equipose import convolutions
from equipose.convolutions import LEAST_CHANNELS, Winograd, convolve


def images(b: int, c: int, h: int, w: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(b, c, h, w, dtype=dtype).contiguous(memory_format=torch.channels_last)


def results_and_gradients(convolution, x, kernel, bias, gradient):
    inputs = [tensor.detach().requires_grad_() for tensor in (x, kernel, bias)]
    y = convolution(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, gradient)]


def direct(x, kernel, bias):
    return functional.conv2d(x, kernel, bias, padding=1)


@pytest.mark.parametrize(("h", "w"), [(4, 4), (8, 4), (12, 16)])
def test_winograd_is_the_convolution(h, w):
    x, kernel, bias, gradient = images(3, 5, h, w), images(6, 5, 3, 3), torch.randn(6).double(), images(3, 6, h, w)
    ours = results_and_gradients(Winograd.apply, x, kernel, bias, gradient)
    for result, expected in zip(ours, results_and_gradients(direct, x, kernel, bias, gradient), strict=True):
        assert torch.allclose(result, expected, atol=1e-12)


def test_winograd_takes_some_images_at_a_time(monkeypatch):
    arguments = images(5, 3, 8, 8), images(2, 3, 3, 3), torch.randn(2).double(), images(5, 2, 8, 8)
    at_once = results_and_gradients(Winograd.apply, *arguments)
    monkeypatch.setattr(convolutions, "CHUNK", 36 * 3 * 4 * 2)  # two images, two, and one
    for result, expected in zip(results_and_gradients(Winograd.apply, *arguments), at_once, strict=True):
        assert torch.allclose(result, expected, atol=1e-12)


def test_of_a_large_layer_winograd_keeps_the_inputs_alone(monkeypatch):
    arguments = images(5, 3, 8, 8), images(2, 3, 3, 3), torch.randn(2).double(), images(5, 2, 8, 8)
    values, kernels = 36 * 3 * 4, 36 * 2 * 3
    monkeypatch.setattr(convolutions, "CHUNK", 2 * values)
    monkeypatch.setattr(convolutions, "KEPT", values)
    small, kept_of_small = results_and_kept(*arguments)
    monkeypatch.setattr(convolutions, "KEPT", values - 1)
    large, kept_of_large = results_and_kept(*arguments)
    assert kept_of_small == kernels + 5 * values
    assert kept_of_large == kernels + arguments[0].numel()
    assert all(torch.equal(result, expected) for result, expected in zip(large, small, strict=True))


def results_and_kept(x, kernel, bias, gradient):
    """What Winograd gives, and how many float64 values it keeps for the backward pass."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 8
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        results = results_and_gradients(Winograd.apply, x, kernel, bias, gradient)
    return results, sum(storages.values())


def test_wide_float32_layers_have_errors_of_some_millionths(monkeypatch):
    monkeypatch.setattr(convolutions, "winograd_pays", lambda: True)
    c = LEAST_CHANNELS
    arguments = images(2, c, 16, 16), images(2 * c, c, 3, 3), torch.randn(2 * c).double(), images(2, 2 * c, 16, 16)
    exact = results_and_gradients(direct, *arguments)
    ours = results_and_gradients(convolve, *(tensor.float() for tensor in arguments))
    for result, expected in zip(ours, exact, strict=True):
        error = float((result - expected).norm() / expected.norm())
        assert 0 < error < 1e-5
    theirs = direct(*(tensor.float() for tensor in arguments[:3]))
    assert not torch.equal(ours[0], theirs), "it was not PyTorch's"


@pytest.mark.parametrize(
    ("shape", "size", "dtype"),
    [
        ((64, 64, 16, 16), 1, torch.float32),
        ((64, 64, 2, 2), 2, torch.float32),
        ((64, 64, 6, 6), 3, torch.float32),
        ((5, 64, 16, 16), 3, torch.float32),
        ((64, 32, 16, 16), 3, torch.float32),
        ((64, 64, 16, 16), 3, torch.float64),
        ((64, 64, 16, 16), 3, torch.bfloat16),
    ],
)
def test_all_others_are_pytorch_s(shape, size, dtype, monkeypatch):
    monkeypatch.setattr(convolutions, "winograd_pays", lambda: True)
    channels, outputs, h, w = shape
    x, kernel, bias = (
        images(2, channels, h, w, dtype),
        images(outputs, channels, size, size, dtype),
        torch.randn(outputs),
    )
    expected = functional.conv2d(x, kernel, bias.to(dtype), padding=(size - 1) // 2)
    assert torch.equal(convolve(x, kernel, bias.to(dtype)), expected)


@pytest.mark.parametrize(("seconds", "pays"), [([1.0, 2.0], True), ([2.0, 1.0], False)])
def test_winograd_is_taken_where_it_was_measured_to_be_faster(seconds, pays, monkeypatch):
    c = LEAST_CHANNELS
    arguments = images(2, c, 8, 8, torch.float32), images(c, c, 3, 3, torch.float32), torch.randn(c)
    monkeypatch.setattr(convolutions, "least_seconds", lambda *ways: seconds)
    monkeypatch.setattr(convolutions, "winograd_pays", convolutions.winograd_pays.__wrapped__)
    assert torch.equal(convolve(*arguments), Winograd.apply(*arguments) if pays else direct(*arguments))
