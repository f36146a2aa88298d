"""Image → pose → image: the paper's pipeline (Sec. 4.2) in Fourier space, from encoder to CTF."""

from pathlib import Path

import torch
from torch import Tensor, nn

from equipose.config import RunConfig
from equipose.decoders import FourierNet
from equipose.encoders import ENCODERS
from equipose.files import whole_file
from equipose.fourier import HalfDisc, half_disc, shift_phase, to_half_disc
from equipose.optics import ctf


class Autoencoder(nn.Module):
    """Encoder and decoder of one run. `image_scale` multiplies images before they meet either."""

    def __init__(self, config: RunConfig, image_scale: float) -> None:
        super().__init__()
        self.config = config
        self.image_scale = image_scale
        self.box = config.dataset.box
        self.voxel_size = config.dataset.voxel_size
        model = config.model
        self.encoder = ENCODERS[model.encoder](model, self.box)
        self.decoder = FourierNet(self.box, model.decoder_width, model.decoder_layers, model.decoder_omega)
        disc = half_disc(self.box)
        self.register_buffer("frequencies", disc.k, persistent=False)
        self.register_buffer("weights", disc.weights, persistent=False)

    @property
    def disc(self) -> HalfDisc:
        return HalfDisc(self.box, self.frequencies, self.weights)

    def slices(self, rotations: Tensor) -> Tensor:
        """Central slices V̂(Rᵀ(kx, ky, 0)), (b, n), for rotations (b, 3, 3) (Eq. 8)."""
        return self.decoder(self.frequencies @ rotations[:, :2])

    def decode(self, rotations: Tensor, shifts: Tensor, ctf_parameters: Tensor, motion: Tensor | None = None) -> Tensor:
        """Predicted coefficients (b, n) of images with these poses (Eq. 11).

        Shifts (b, 2) are in Å about the array's centre (L - 1)/2, half a pixel before the transform's origin L/2. The
        images may have been moved by `motion` (2, 2) or (b, 2, 2), and then their (astigmatic) CTF has moved with them.
        """
        k = self.frequencies if motion is None else self.frequencies @ motion  # CTF of L_g I at k: that of I at gᵀk
        transfer = ctf(ctf_parameters, k, self.box * self.voxel_size)
        phase = shift_phase(shifts / self.voxel_size - 0.5, self.disc)
        return transfer * phase * self.slices(rotations)

    def target(self, images: Tensor) -> Tensor:
        """Coefficients (b, n) of images (b, L, L), for the loss."""
        return to_half_disc(images, self.disc)

    def errors(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Squared error per pixel and image, (b,): by Parseval that of the images, their corners of noise left out."""
        difference = torch.view_as_real(predicted - target).square().sum(-1)
        return difference @ self.weights / self.box**2


def save_model(model: Autoencoder, path: Path) -> None:
    """Write weights, configuration and image scale; nothing half-written stays."""
    content = {"config": model.config.to_json(), "image_scale": model.image_scale, "weights": model.state_dict()}
    with whole_file(path) as partial:
        torch.save(content, partial)


def load_model(path: Path) -> Autoencoder:
    """The trained model of a run, on the CPU and in evaluation mode."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    model = Autoencoder(RunConfig.from_json(content["config"]), content["image_scale"])
    model.load_state_dict(content["weights"])
    return model.eval()
