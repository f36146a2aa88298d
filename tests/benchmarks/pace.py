"""How fast each half of a model learns with the truth in place of the other: `pace.py CONFIG DATASET HALF STEPS`.

CONFIG is a run's config.json, DATASET a simulated dataset's folder. HALF is `encoder`, which learns the true poses as
labels, or `decoder`, which learns the images from the true poses. Joint training can hardly be faster than either. It
prints the mean loss of every 100 steps, and the encoder's MSE and MedSE (paper, Apx. F).
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from equipose.config.settings import RunConfig
from equipose.core.pose_metrics import paper_scores
from equipose.io.particles import read_particles
from equipose.io.progress import run_main, say
from equipose.model.autoencoder import Autoencoder
from equipose.model.devices import keep_freed_memory
from equipose.model.optimizers import descend, make_optimizers
from equipose.training.monitor import predict_poses
from equipose.training.train import batch_indices, batch_source, image_scale


def main() -> None:
    config, half, steps = RunConfig.load(sys.argv[1]), sys.argv[3], int(sys.argv[4])
    particles = read_particles(Path(sys.argv[2]) / "particles.star")
    keep_freed_memory()
    torch.manual_seed(config.seed)
    model = Autoencoder(config, image_scale(particles.images)).train()
    optimizers, fetch = make_optimizers(model, config.model.optimizer), batch_source(particles, torch.device("cpu"))
    fixed = np.arange(config.evaluation.images)
    losses, started = [], time.process_time()
    for step in range(1, steps + 1):
        rows = batch_indices(config.dataset.images, config.model.batch, config.seed, step - 1)
        images, ctf_parameters = fetch(rows)
        images = images * model.image_scale
        rotations = torch.from_numpy(particles.rotations[rows]).float()
        # The star file's shifts are about pixel L/2, the model's about (L - 1)/2.
        shifts = torch.from_numpy(particles.shifts[rows]).float() + 0.5 * model.voxel_size
        if half == "decoder":
            loss = model.mean_error(rotations, shifts, ctf_parameters, model.target(images))
        else:
            answers, moved = model.encoder(images)
            of_shifts = (moved - shifts).square().sum(1) / config.dataset.shift_std**2
            loss = ((answers - rotations).square().sum((1, 2)) + of_shifts).mean()
        descend(model, optimizers, loss)
        losses.append(loss.item())
        if step % 100 == 0:
            seconds = time.process_time() - started
            said = f"step {step}, {seconds:.0f} s of processor time, loss {np.mean(losses[-100:]):.4f}"
            if half == "encoder":
                scores = paper_scores(predict_poses(model, fetch, fixed)[0], particles.rotations[fixed])
                said += f", MSE {scores.mse:.3f}, MedSE {scores.medse:.3f}"
                model.train()
            say(said)


if __name__ == "__main__":
    run_main(main)
