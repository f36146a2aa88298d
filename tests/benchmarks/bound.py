"""How far a run's refined poses are from the best that its images hold: `bound.py RUN DATASET` (folders of a preset).

The bound is what one refinement pass makes of the true poses with the map of the true poses, of which each image is
compared with that of all others, as in any pass: its own noise would hold it at the truth. It is a bound from below:
where noise makes another pose the likelier one, one sparse search may miss it, and the image keeps the truth. Prints
both median errors in degrees, their ratio, and both mean squared errors of the training images.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from equipose.core.fourier_grid import grid_map, without
from equipose.core.mask import masked_volume, solvent_mask
from equipose.io.particles import read_particles
from equipose.io.progress import run_main, say
from equipose.model.autoencoder import load_model
from equipose.poses.refinement import PARTS, poses_against
from equipose.reconstruction.halves import Half, back_project
from equipose.training.evaluate import RelionPoses, score


@torch.no_grad()
def main() -> None:
    run, dataset = map(Path, sys.argv[1:3])
    model, particles = load_model(run / "model.pt"), read_particles(dataset / "particles.star")
    whole, found = Half(particles, particles.rotations, particles.shifts, "C1"), []
    grid = back_project(whole)
    mask = solvent_mask(grid_map(grid))
    for number, rows in enumerate(np.array_split(np.arange(len(particles.images)), PARTS), start=1):
        part = whole.some(rows)
        others = model.image_scale * masked_volume(without(grid, back_project(part)), mask)
        found.append(poses_against(model, others, part.particles, part.rotations, part.shifts))
        say(f"{number}/{PARTS} of the images")
    rotations, shifts = map(np.concatenate, zip(*found, strict=True))
    training = slice(0, model.config.dataset.images)
    bound, _ = score(RelionPoses(rotations, shifts), particles, training)
    ours = json.loads((run / "metrics.json").read_text())["training"]["refined"]
    a, b = (scores["exact"]["median_degrees"] for scores in (ours, bound))
    print(f"median error {a:.4f}°, from the true poses {b:.4f}°: ratio {a / b:.3f}; ", end="")
    print(f"MSE {ours['paper']['mse']:.5f}, {bound['paper']['mse']:.5f}")


if __name__ == "__main__":
    run_main(main)
