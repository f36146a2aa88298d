"""The test that matters: the whole pipeline commutes with in-plane motions, CTF and shifts included."""

import pytest
import torch

from equipose.core.fourier import from_half_disc
from equipose.core.groups import motions, move_images
from equipose.model.autoencoder import Autoencoder
from equipose.model.encoders import EquivariantEncoder, VectorHead
from equipose.model.rotation_tensors import pose_action

ASTIGMATIC = torch.tensor([[24000.0, 16000.0, 25.0, 300.0, 2.7, 0.1, 10.0]], dtype=torch.float64)


def pipeline(model: Autoencoder, images: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """Reconstructed images; their CTFs have been moved by `motion` with the images."""
    parameters = ASTIGMATIC.expand(len(images), -1)
    return from_half_disc(model.decode(*model.encoder(images), parameters, motion), model.disc)


def equivariance_error(model: Autoencoder, group: str) -> float:
    """Largest ‖pipeline(L_g I) - L_g pipeline(I)‖ / ‖pipeline(I)‖ over the group."""
    images = torch.randn(3, 32, 32, dtype=torch.float64)
    elements = motions(group).double()
    with torch.no_grad():
        still = pipeline(model, images, elements[0])
        return max(
            float((pipeline(model, move_images(g, images), g) - move_images(g, still)).norm() / still.norm())
            for g in elements
        )


@pytest.mark.parametrize("group", ["c4", "d4"])
@pytest.mark.parametrize("training", [True, False])
def test_the_pipeline_commutes_with_every_motion_of_the_group(small_run, group, training):
    torch.manual_seed(0)
    model = Autoencoder(small_run(f"{group}_l2"), image_scale=1.0).double().train(training)
    assert equivariance_error(model, group) < 1e-9


def test_the_standard_encoder_does_not_commute(small_run):
    torch.manual_seed(0)
    model = Autoencoder(small_run("standard_sym"), image_scale=1.0).double().eval()
    assert equivariance_error(model, "d4") > 0.1


def test_the_representation_printed_in_eq_4_breaks_it(small_run):
    """diag(-1, 1, -1) belongs to f = diag(-1, 1); with Eq. 3's f = diag(1, -1) the pipeline is not equivariant."""
    f, printed_f = torch.diag(torch.tensor([1.0, -1.0])), torch.diag(torch.tensor([-1.0, 1.0, -1.0]))

    def printed(g: torch.Tensor) -> torch.Tensor:
        """Eq. 4 of g = f^c r, literally."""
        return pose_action(g) if torch.linalg.det(g) > 0 else printed_f @ pose_action(f @ g)

    class Printed(EquivariantEncoder):
        @staticmethod
        def _head(group, fields, action, vectors):
            if vectors == 2:
                action = torch.stack([printed(g) for g in motions(group)])
            return EquivariantEncoder._head(group, fields, action, vectors)

    torch.manual_seed(0)
    config = small_run("d4_l2")
    model = Autoencoder(config, image_scale=1.0)
    model.encoder = Printed("d4", config.model, 32)
    assert isinstance(model.encoder.rotation_head[-1], VectorHead)
    assert equivariance_error(model.double().eval(), "d4") > 0.1


def test_only_the_half_pixel_makes_it_so(small_run):
    """Decoding about the transform's origin L/2 instead of the array's centre (L - 1)/2 breaks equivariance."""
    torch.manual_seed(0)
    model = Autoencoder(small_run("d4_l2"), image_scale=1.0).double().eval()
    half_pixel = 0.5 * model.voxel_size
    encode = model.encoder.forward
    model.encoder.forward = lambda images: (encode(images)[0], encode(images)[1] + half_pixel)
    assert equivariance_error(model, "d4") > 0.01
