"""In-plane motions of the pixel grid: arrays, matrices and regular fields move together."""

import numpy as np
import pytest
import torch

from equipose.core.groups import kernel_basis, motions, move_images

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
