"""Encoders: escnn's own layers are the oracle of ours, and the whole encoder is equivariant."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from equipose.core.groups import kernel_basis, motions, move_images
from equipose.model import encoders, rotation_tensors
from equipose.model.autoencoder import Autoencoder, load_model, save_model
from equipose.model.encoders import ENCODERS, GaussianPyramid, GroupConv, InnerBatchNorm, block_widths

ROOT = Path(__file__).parents[1]


def escnn_types(group, *fields):
    pytest.importorskip("escnn")
    from escnn import gspaces, nn

    space = {"c4": gspaces.rot2dOnR2, "d4": gspaces.flipRot2dOnR2}[group](4)
    return [nn.FieldType(space, n * [space.regular_repr] if n else 5 * [space.trivial_repr]) for n in fields]


def element_first(tensor: torch.Tensor, fields: int) -> torch.Tensor:
    """escnn's channels, field · |G| + element, in our order, element · fields + field."""
    return tensor.unflatten(1, (fields, -1)).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize("group", ["c4", "d4"])
@pytest.mark.parametrize(("source", "size"), [("scalar", 3), ("regular", 3), ("regular", 2), ("regular", 1)])
def test_group_conv_gives_escnn_s_output_with_escnn_s_weights(group, source, size):
    pytest.importorskip("escnn")
    from escnn import nn

    fields_in, fields_out = (5 if source == "scalar" else 3), 2
    kind_in, kind_out = escnn_types(group, 0 if source == "scalar" else fields_in, fields_out)
    even = {"rings": [0.5], "sigma": [0.6], "frequencies_cutoff": 4.0} if size == 2 else {}
    theirs = nn.R2Conv(kind_in, kind_out, size, padding=(size - 1) // 2, **even)
    theirs.bias.data.normal_()
    ours = GroupConv(group, source, fields_in, fields_out, size)

    order, channels = ours.block_shape[:2]
    kernel, bias = theirs.expand_parameters()
    kernel = kernel.view(fields_out, order, fields_in, channels, size, size).transpose(1, 2)
    blocks = kernel.reshape(fields_out * fields_in, -1)
    basis = kernel_basis(group, source, size).flatten(1)
    weights = torch.linalg.lstsq(basis.T, blocks.T).solution.T
    assert torch.allclose(weights @ basis, blocks, atol=1e-5), "escnn's kernels lie in our basis, block by block"
    ours.weight.data = weights.view_as(ours.weight)
    ours.bias.data = bias.view(fields_out, order)[:, 0]

    x = torch.randn(2, kind_in.size, 8, 8)
    expected = element_first(theirs(nn.GeometricTensor(x, kind_in)).tensor, fields_out)
    assert torch.allclose(ours(element_first(x, fields_in)), expected, atol=1e-4)


def test_a_kernel_is_its_weights_times_escnn_s_basis():
    conv = GroupConv("d4", "regular", 3, 2, 3)
    blocks = torch.einsum("oin,nghyx->goihyx", conv.weight, kernel_basis("d4", "regular", 3))
    assert torch.allclose(conv.kernel(), blocks.transpose(2, 3).reshape(8 * 2, 8 * 3, 3, 3), atol=1e-6)


@pytest.mark.parametrize("group", ["c4", "d4"])
def test_inner_batch_norm_is_escnn_s(group):
    """Output and gradients in training, running statistics, and evaluation with them."""
    pytest.importorskip("escnn")
    from escnn import nn

    (kind,) = escnn_types(group, 3)
    theirs, ours = nn.InnerBatchNorm(kind), InnerBatchNorm(3)
    (norm,) = theirs.children()
    for own, their in zip(ours.norm.parameters(), norm.parameters(), strict=True):
        own.data.normal_(mean=1.0)
        their.data.copy_(own)
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        x = (3 + torch.randn(4, kind.size, 6, 6)).requires_grad_()
        expected = element_first(theirs(nn.GeometricTensor(x, kind)).tensor, 3)
        output = ours(element_first(x, 3))
        assert torch.allclose(output, expected, atol=1e-5)
        seen = torch.randn_like(output)
        gradients = torch.autograd.grad((output * seen).sum(), [x, *ours.norm.parameters()])
        expected_gradients = torch.autograd.grad((expected * seen).sum(), [x, *norm.parameters()])
        for gradient, their in zip(gradients, expected_gradients, strict=True):
            assert torch.allclose(gradient, their, atol=1e-4)
    for name, buffer in ours.norm.named_buffers():
        assert torch.allclose(buffer, getattr(norm, name), atol=1e-5), name


def test_pyramid_channels_have_the_published_mean_and_deviation():
    channels = GaussianPyramid("float32")(7 + 3 * torch.randn(2, 32, 32))
    assert channels.shape == (2, 5, 32, 32)
    assert torch.allclose(channels.mean((2, 3)), torch.tensor(0.45), atol=1e-5)
    assert torch.allclose(channels.std((2, 3)), torch.tensor(0.226), atol=1e-4)


def test_pyramid_profiles_are_gaussians_of_the_published_variances():
    profile = GaussianPyramid("float32").profile
    offset = torch.arange(-5.0, 6.0)
    assert torch.allclose(profile.sum(1), torch.ones(5))
    # A variance well inside the window survives sampling: 1 px² is the third filter.
    assert (profile[2] * offset**2).sum() == pytest.approx(1.0, abs=1e-3)


def test_the_pyramid_is_an_11_by_11_convolution_with_mirrored_borders():
    pyramid, images = GaussianPyramid("float32").double(), torch.randn(3, 32, 32, dtype=torch.float64)
    filters = (pyramid.profile[:, :, None] * pyramid.profile[:, None])[:, None]
    mirrored = torch.nn.functional.pad(images[:, None], (5, 5, 5, 5), mode="reflect")
    filtered = torch.nn.functional.conv2d(mirrored, filters)
    deviation, mean = torch.std_mean(filtered, dim=(2, 3), keepdim=True)
    expected = 0.45 + 0.226 * (filtered - mean) / (deviation + 1e-6)
    assert torch.allclose(pyramid(images), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("box", "blocks"), [(32, 3), (64, 4), (128, 5), (256, 6)])
def test_an_encoder_has_log2_box_minus_two_blocks(box, blocks):
    assert block_widths((64, 128, 256), box) == ([64, 128] + [256] * 4)[:blocks]


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("box", [32, 64, 128, 256])
def test_encoders_give_proper_rotations_and_planar_shifts_at_every_box(small_run, name, box):
    torch.manual_seed(0)
    encoder = ENCODERS[name](small_run(box=box, widths=(16, 32, 32), head_widths=(64, 32)).model, box)
    predicted, shifts = encoder(torch.randn(4, box, box))
    identity = torch.eye(3).expand(4, 3, 3)
    assert torch.allclose(predicted @ predicted.mT, identity, atol=1e-4)
    assert torch.allclose(torch.linalg.det(predicted), torch.ones(4), atol=1e-4)
    assert shifts.shape == (4, 2)


def test_the_paper_s_standard_encoder_has_cryoai_s_layers(paper_config):
    """3444 million multiplications at 128 px (6.9 GFLOP, design notes) and 1024 features into each head."""
    from equipose.config.settings import model_config

    encoder = ENCODERS["standard"](model_config(paper_config, "standard_sym"), 128).to("meta")
    macs = 0

    def count(module, inputs, output):
        nonlocal macs
        macs += module.weight.numel() * output.shape[2] * output.shape[3]

    for layer in encoder.features:
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    encoder.eval()(torch.empty(2, 128, 128, device="meta"))
    assert macs == pytest.approx(3444e6, rel=0.01)
    assert encoder.rotation_head[0].in_features == 1024


@pytest.mark.parametrize("group", ["c4", "d4"])
@pytest.mark.parametrize("training", [True, False])
def test_a_moved_image_has_a_moved_pose(small_run, group, training):
    """E(L_g I) = (φ_r(g) R, g t) with φ_r(g) = g ⊕ det g, in training and evaluation mode alike."""
    torch.manual_seed(0)
    # Of one or two fields all may be dead for an image, which then has no pose that could move.
    encoder = ENCODERS[group](small_run(widths=(32, 64, 64), head_widths=(64, 64)).model, 32).train(training).double()
    images = torch.randn(4, 32, 32, dtype=torch.float64)
    predicted, shifts = encoder(images)
    for g in motions(group):
        moved_rotations, moved_shifts = encoder(move_images(g, images))
        assert torch.allclose(moved_rotations, rotation_tensors.pose_action(g.double()) @ predicted, atol=1e-10)
        assert torch.allclose(moved_shifts, shifts @ g.double().T, atol=1e-8)


def test_equal_total_channels_for_every_group(paper_config):
    """The three encoders cost the same: equal channels in every block, whatever the group's order."""
    from equipose.config.settings import model_config

    config = dataclasses.replace(model_config(paper_config, "d4_l2"), widths=(16, 32, 64), head_widths=(32, 16))
    outputs = {}
    for name in ENCODERS:
        convolutions = [m for m in ENCODERS[name](config, 32).features if isinstance(m, torch.nn.Conv2d | GroupConv)]
        outputs[name] = [
            c.out_channels if isinstance(c, torch.nn.Conv2d) else c.weight.shape[0] * c.block_shape[0]
            for c in convolutions
        ][:4]
    assert outputs["standard"] == outputs["c4"] == outputs["d4"] == [16, 16, 32, 32]


def test_a_saved_encoder_says_the_same_where_escnn_finds_another_basis(small_run, tmp_path, monkeypatch):
    """escnn's basis comes from singular vectors, which another LAPACK may turn or order otherwise."""
    model, images = Autoencoder(small_run("d4_l2"), image_scale=1.0).eval(), torch.randn(2, 32, 32)
    save_model(model, tmp_path / "model.pt")
    monkeypatch.setattr(encoders, "kernel_basis", lambda *which: kernel_basis(*which).flip(0))
    with torch.no_grad():
        for said, wanted in zip(load_model(tmp_path / "model.pt").encoder(images), model.encoder(images), strict=True):
            assert torch.equal(said, wanted)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_encoder_of_the_docs_learns_in_either_precision(small_run, monkeypatch, precision):
    python, _ = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extend.md").read_text(), re.DOTALL)
    monkeypatch.setattr(encoders, "ENCODERS", dict(encoders.ENCODERS))
    names = dict(vars(encoders))
    exec(compile(python, "docs/extend.md", "exec"), names)
    encoder = names["ENCODERS"]["tiny"](small_run("d4_l2", 32, precision=precision).model, 32).train()
    found, shifts = encoder(torch.randn(4, 32, 32))
    assert (found.shape, shifts.shape) == ((4, 3, 3), (4, 2)) and found.dtype == shifts.dtype == torch.float32
    (found.sum() + shifts.sum()).backward()
    assert all(weight.grad.isfinite().all() for weight in encoder.parameters())
