"""A pass of refinement in several jobs, whose back-projections are summed: for more particles than a machine refines.

    python -m equipose.training.scatter part --run RUN --dataset DIR --folder DIR --refine-pass P --job J --jobs N
    python -m equipose.training.scatter gather --run RUN --folder DIR --refine-pass P --jobs N

A job has a fixed slice of the particles, and keeps their poses in a file of its own: passP.jobJ.pt, with its sums.
`gather` adds the sums of all jobs to passP.pt. A part of a pass reads that file of the pass before, and its own poses.
After the last pass, `gather` writes refinement.pt beside the run's model, from which its evaluation goes on; so it
does after a pass that settles the poses, and later passes are then empty. The sums of all jobs are those of one job,
but for rounding, if the slices end where one job's parts end: N must divide `refinement.PARTS`.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equipose.core.fourier_grid import FourierGrid, empty_grid, grid_map, together
from equipose.core.mask import solvent_mask
from equipose.errors import ConfigError
from equipose.io.files import REFINEMENT, whole_file
from equipose.io.particles import Particles, read_particles
from equipose.io.progress import number, reporter, run_main, say
from equipose.io.stacks import Images
from equipose.model.autoencoder import Autoencoder, load_model
from equipose.poses.refinement import (
    BATCH,
    PARTS,
    first_pass,
    first_volume,
    judge_pass,
    next_pass,
    on_device,
    pass_after,
    pass_news,
    refine_part,
)
from equipose.training.evaluate import predict, unknown_poses
from equipose.training.run_progress import networks_trained


def slices(count: int, jobs: int) -> list[tuple[int, int]]:
    """First row and end of each job's particles. Raises ConfigError if the jobs cannot share them."""
    if PARTS % jobs:
        raise ConfigError(f"{jobs} jobs cannot share the {PARTS} parts of a pass: give a divisor of {PARTS}")
    ends = np.cumsum([len(part) for part in torch.arange(count).chunk(PARTS)])
    last = [int(ends[min((job + 1) * PARTS // jobs, len(ends)) - 1]) for job in range(jobs)]
    found = list(zip([0, *last[:-1]], last, strict=True))
    if any(first == end for first, end in found):
        raise ConfigError(f"{count} particles are too few for {jobs} jobs: ask for fewer")
    return found


@torch.no_grad()
def part(run: Path, dataset: Path, folder: Path, refine_pass: int, job: int, jobs: int) -> None:
    """Refine one job's particles in one pass, and write their poses and sums."""
    model, particles = load_model(run / "model.pt"), read_particles(dataset / "particles.star")
    first, end = slices(len(particles.images), jobs)[job]
    own = _some(particles, slice(first, end))
    reference: Tensor | tuple[FourierGrid, Tensor]
    if refine_pass == 0:
        this, trained = first_pass(model.config.model.refine_passes), networks_trained(run, model.config)
        few = _some(particles, slice(0, BATCH))
        reference = first_volume(model, few, *_start(model, few, trained), trained)
        turned, moved = _start(model, own, trained)
        begun, contrasts = turned.clone(), torch.ones(len(turned), device=turned.device)
    else:
        state, before = _load(_gathered(folder, refine_pass - 1)), _load(_of_job(folder, refine_pass - 1, job))
        turned, moved, begun, contrasts = (before[key] for key in ("turned", "moved", "begun", "contrasts"))
        grid = FourierGrid(model.box // 2, state["signal"], state["power"])
        if state["settled"]:
            _save(before, _of_job(folder, refine_pass, job))
            return
        this, reference = pass_after(state), (grid, solvent_mask(grid_map(grid)))
    sums, elsewhere = empty_grid(model.box // 2, turned.device), 0
    size = len(torch.arange(len(particles.images)).chunk(PARTS)[0])
    for some in torch.arange(end - first).split(size):
        changed, more = refine_part(model, own, some, turned, moved, contrasts, reference, this, first)
        sums, elsewhere = together(sums, more), elsewhere + changed
        say(f"pass {refine_pass + 1}, job {job}: {int(some[-1]) + 1} of {end - first} images")
    kept = {"turned": turned, "moved": moved, "begun": begun, "contrasts": contrasts, "elsewhere": elsewhere}
    _save(kept | {"signal": sums.signal, "power": sums.power}, _of_job(folder, refine_pass, job))


@torch.no_grad()
def gather(run: Path, folder: Path, refine_pass: int, jobs: int) -> None:
    """Add the sums of all jobs of a pass; after the last one, write the run's refinement.pt."""
    model = load_model(run / "model.pt")
    passes, before = model.config.model.refine_passes, None
    state = _load(_gathered(folder, refine_pass - 1)) if refine_pass else None
    if state is None or not state["settled"]:
        sums, elsewhere, count = empty_grid(model.box // 2, torch.device("cpu")), 0, 0
        for job in range(jobs):
            found = _load(_of_job(folder, refine_pass, job))
            sums = together(sums, FourierGrid(sums.radius, found["signal"], found["power"]))
            elsewhere, count = elsewhere + found["elsewhere"], count + len(found["turned"])
        if state is not None:
            before = FourierGrid(sums.radius, state["signal"], state["power"])
        was = 0.0 if state is None else state["alike"]
        done = first_pass(passes) if state is None else pass_after(state)
        alike, settled = judge_pass(done, elsewhere / count, before, sums, was)
        following = next_pass(done, passes, elsewhere / count)
        state = {"passes": following.number, "shells": following.shells, "settled": settled, "alike": alike}
        state |= {"signal": sums.signal, "power": sums.power}
        say(f"pass {refine_pass + 1}, of {count} images: {pass_news(elsewhere, alike)}")
        if settled or refine_pass + 1 == passes:
            every = [_load(_of_job(folder, refine_pass, job)) for job in range(jobs)]
            names = {"rotations": "turned", "shifts": "moved", "start": "begun", "contrasts": "contrasts"}
            joined = {name: torch.cat([each[key] for each in every]) for name, key in names.items()}
            _save(state | joined, run / REFINEMENT)
    _save(state, _gathered(folder, refine_pass))


def _start(model: Autoencoder, particles: Particles, trained: bool) -> tuple[Tensor, Tensor]:
    """The poses from which the first pass starts, as for `refine_part`."""
    direct, best_path = predict(model, particles, reporter(say)) if trained else (unknown_poses(particles), None)
    known = best_path or direct
    return on_device(model, known.rotations, known.shifts)


def _some(particles: Particles, rows: slice) -> Particles:
    """Some of the particles. Images of files are not read yet: those of one job may be more than memory holds."""
    images = particles.images
    some = images.of(rows) if isinstance(images, Images) else images[rows]
    return dataclasses.replace(particles, images=some, ctf=particles.ctf[rows])


def _of_job(folder: Path, refine_pass: int, job: int) -> Path:
    return folder / f"pass{refine_pass}.job{job}.pt"


def _gathered(folder: Path, refine_pass: int) -> Path:
    return folder / f"pass{refine_pass}.pt"


def _load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def _save(state: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        torch.save(state, partial)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m equipose.training.scatter", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["part", "gather"])
    parser.add_argument("--run", type=Path, required=True, help="run folder, with model.pt and history.csv")
    parser.add_argument("--dataset", type=Path, help="of a part: dataset folder, with particles.star")
    parser.add_argument("--folder", type=Path, required=True, help="of the passes' files")
    parser.add_argument("--refine-pass", type=number(int, 0), required=True, help="from 0")
    parser.add_argument("--job", type=number(int, 0), default=0, help="from 0")
    parser.add_argument("--jobs", type=number(int, 1), required=True, help="of a pass")
    parser.add_argument("--threads", type=number(int, 1), default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.what == "gather":
        gather(arguments.run, arguments.folder, arguments.refine_pass, arguments.jobs)
    else:
        where = arguments.run, arguments.dataset, arguments.folder
        part(*where, arguments.refine_pass, arguments.job, arguments.jobs)


if __name__ == "__main__":
    run_main(main)
