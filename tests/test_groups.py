"""In-plane motions of the pixel grid: arrays, matrices and regular fields move together."""

import sys

import numpy as np
import pytest
import torch

from equipose.core import groups
from equipose.core.groups import kernel_basis, motions, move_images, moved_kernels, turn_images
from equipose.errors import ConfigError

GROUPS = ["c4", "d4"]


def test_first_turn_of_c4_is_array_rot90_and_minus_90_degrees_in_column_row_axes():
    g = motions("c4")[1]
    assert g.tolist() == [[0.0, 1.0], [-1.0, 0.0]]
    image = torch.arange(16.0).view(4, 4)
    assert torch.equal(move_images(g, image), torch.from_numpy(np.rot90(image.numpy()).copy()))


@pytest.mark.parametrize("group", GROUPS)
def test_content_at_x_moves_to_g_x_about_the_array_centre(group):
    box, x = 6, torch.tensor([3, 1])  # column 3, row 1
    image = torch.zeros(box, box)
    image[x[1], x[0]] = 1
    centre = (box - 1) / 2
    for g in motions(group):
        column, row = (g @ (x - centre) + centre).round().int()
        assert move_images(g, image)[row, column] == 1


@pytest.mark.parametrize("group", GROUPS)
def test_moving_twice_is_moving_by_the_product(group):
    image = torch.randn(2, 6, 6)
    for g in motions(group):
        for h in motions(group):
            assert torch.equal(move_images(g, move_images(h, image)), move_images(g @ h, image))


@pytest.mark.parametrize("group", GROUPS)
def test_our_action_on_images_is_escnn_s(group):
    pytest.importorskip("escnn")
    from escnn import gspaces, nn

    space = {"c4": gspaces.rot2dOnR2, "d4": gspaces.flipRot2dOnR2}[group](4)
    kind = nn.FieldType(space, [space.trivial_repr])
    image = torch.randn(1, 1, 8, 8)
    for element, g in zip(space.fibergroup.elements, motions(group), strict=True):
        theirs = nn.GeometricTensor(image, kind).transform(element).tensor
        assert torch.allclose(move_images(g, image), theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("group", "source", "size", "dimension"),
    [
        ("c4", "regular", 3, 24),  # of the 36 of an exact group convolution
        ("d4", "regular", 3, 48),  # of 72
        ("c4", "regular", 2, 16),  # all of them
        ("d4", "regular", 2, 32),
        ("d4", "regular", 1, 8),
        ("d4", "scalar", 3, 6),
    ],
)
def test_kernel_basis_has_escnn_s_dimension(group, source, size, dimension):
    basis = kernel_basis(group, source, size)
    assert len(basis) == dimension == torch.linalg.matrix_rank(basis.flatten(1))


@pytest.mark.parametrize(("source", "size"), groups.STORED)
@pytest.mark.parametrize("group", GROUPS)
def test_the_stored_kernels_span_what_escnn_s_do(group, source, size):
    """Whichever basis of the same space escnn's linear algebra finds here."""
    pytest.importorskip("escnn")
    stored, theirs = (find(group, source, size).flatten(1).double() for find in (kernel_basis, groups._escnn_basis))
    both = torch.cat([stored, theirs])
    assert stored.shape == theirs.shape
    assert torch.linalg.matrix_rank(both, rtol=1e-5) == len(stored)
    assert torch.allclose(stored.square().sum(), theirs.square().sum())  # on which first weights depend


def test_kernels_that_are_not_stored_are_escnn_s():
    pytest.importorskip("escnn")
    basis = kernel_basis("c4", "scalar", 5)
    assert basis.shape[1:] == (4, 1, 5, 5)
    assert torch.equal(basis[:, 0].flatten(1)[:, moved_kernels("c4", "scalar", 5)], basis)


def test_without_escnn_the_stored_kernels_are_there_and_others_name_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "escnn", None)
    kernel_basis.cache_clear()
    assert len(kernel_basis("d4", "regular", 3)) == 48
    with pytest.raises(ConfigError, match=r"size 7 from scalar fields of d4 .* pip install 'equipose\[escnn\]'"):
        kernel_basis("d4", "scalar", 7)


@pytest.mark.parametrize(("group", "source", "size"), [("c4", "regular", 3), ("d4", "regular", 2), ("d4", "scalar", 3)])
def test_a_kernel_to_the_identity_s_channel_holds_those_to_all_others(group, source, size):
    basis = kernel_basis(group, source, size)
    places = moved_kernels(group, source, size)
    assert places.shape == basis.shape[1:]
    assert torch.allclose(basis[:, 0].flatten(1)[:, places], basis, atol=1e-6)


def test_a_quarter_turn_by_interpolation_is_the_array_s():
    images = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    for g in motions("c4"):
        assert torch.allclose(turn_images(g, images), move_images(g, images), atol=1e-5)


def test_turned_content_lies_where_the_matrix_takes_it():
    axis, centre, angle = torch.arange(32.0) - 15.5, torch.tensor([6.0, -2.0]), torch.tensor(0.5)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)

    def blob(place: torch.Tensor) -> torch.Tensor:
        return torch.exp(-((axis - place[0]) ** 2 + (axis[:, None] - place[1]) ** 2) / 18)[None]

    assert torch.allclose(turn_images(turn, blob(centre)), blob(turn @ centre), atol=0.02)
