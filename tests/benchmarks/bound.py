"""How far a run's refined poses are from the best that its images hold: `bound.py RUN DATASET` (folders of a preset).

The bound is what one refinement pass makes of the true poses with the map of the true poses. Prints both median errors
in degrees, their ratio, and both mean squared errors of the training images.
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from equipose.autoencoder import load_model
from equipose.cli import run_main, say
from equipose.evaluate import Poses, score
from equipose.grid import grid_values, grid_volume
from equipose.halves import Half, back_project
from equipose.particles import read_particles
from equipose.refinement import refine


class TrueMap(nn.Module):
    """The map back-projected from the images' true poses, in place of a decoder."""

    def __init__(self, volume: Tensor, radius: int) -> None:
        super().__init__()
        self.volume, self.radius = volume, radius

    def forward(self, k: Tensor) -> Tensor:
        return grid_values(self.volume, self.radius, k)


@torch.no_grad()
def main() -> None:
    run, dataset = map(Path, sys.argv[1:3])
    model, particles = load_model(run / "model.pt"), read_particles(dataset / "particles.star")
    model.config = dataclasses.replace(model.config, model=dataclasses.replace(model.config.model, refine_passes=1))
    grid = back_project(Half(particles, particles.rotations, particles.shifts))
    model.decoder = TrueMap(model.image_scale * grid_volume(grid), grid.radius)
    rotations, shifts, _ = refine(model, particles, particles.rotations, particles.shifts, say)
    training = slice(0, model.config.dataset.images)
    bound, _ = score(Poses(rotations, shifts), particles, training)
    ours = json.loads((run / "metrics.json").read_text())["training"]["refined"]
    a, b = (scores["exact"]["median_degrees"] for scores in (ours, bound))
    print(f"median error {a:.4f}°, from the true poses {b:.4f}°: ratio {a / b:.3f}; ", end="")
    print(f"MSE {ours['paper']['mse']:.5f}, {bound['paper']['mse']:.5f}")


if __name__ == "__main__":
    run_main(main)
