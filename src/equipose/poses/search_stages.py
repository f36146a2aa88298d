"""The steps before training for `init: search`: find a volume (`search`), then fit both networks to it.

The step and the spent part of the budget decide the stage, so a run can continue at any step. The stages are `search`
(stochastic EM, from several random starts until two of them find the same map), `refine` (the poses of some thousand
images; each pass builds the next volume) and `fit` (encoder and decoder learn from rendered images, whose poses are
known exactly). A `SearchState` is the state between steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from equipose.config.settings import OptimizerConfig, RunConfig, SearchConfig
from equipose.core.ctf import ctf
from equipose.core.fourier import HalfDisc, half_disc, to_half_disc
from equipose.core.fourier_grid import (
    FourierGrid,
    empty_grid,
    enlarged,
    grid_slices,
    insert_images,
    real_map,
    with_slopes,
)
from equipose.core.likeness import likeness
from equipose.core.mask import masked_volume
from equipose.core.symmetry_axes import find_axes, symmetrised
from equipose.model.autoencoder import Autoencoder
from equipose.model.optimizers import descend, set_rates
from equipose.poses import contrast, search

Fetch = Callable[[np.ndarray], tuple[Tensor, Tensor]]

SHIFT_WEIGHT = 0.2
"""Weight of a squared pixel of shift error in the fit; a squared Frobenius distance of rotations has weight 1."""


COARSE = 16
"""Least number of shells of the search's grid: its map then has 32 voxels a side, enough for a mask."""

SAME = 0.8
"""Likeness of two starts' maps, by all shells that were compared, from which they count as the same. Two right maps of
the nucleosome or of GroEL had 0.98 and 0.99, of a hollow shell 0.93, of Hsp90 with uneven views 0.89; a right and a
wrong one 0.37 to 0.42, two alike wrong ones 0.67.
"""

FITS = 8000
"""Rotations in which two maps are laid over each other."""

LOSERS_WEIGHT = 0.05
"""Weight, in the fit, of the mean error of all hypotheses beside the best one's error, so that all of them learn."""


@dataclass
class SearchState:
    """The sums of the next volume, the last finished volume, and the poses and errors of the refined images."""

    grid: FourierGrid  # of the search, in which it moves, or of a refining pass
    spectrum: Tensor  # (shells,) mean squared error a coefficient, of the best matches
    temperature: Tensor  # () of the beliefs
    best: tuple[FourierGrid, Tensor] | None  # sums and spectrum of the best start so far
    rotations: Tensor  # (images, 3, 3)
    shifts: Tensor  # (images, 2) pixels about L/2
    errors: Tensor  # (images,) squared, per coefficient
    volume: Tensor | None = None  # (m³, 2) at the points of a grid of radius L/2: of the search, or of the last pass
    others: list[Tensor] = field(default_factory=list)  # maps of all starts but the best one
    contrast: Tensor | None = None  # (n,) of all images in this start; None: not known, as in an older checkpoint
    best_contrast: Tensor | None = None  # (n,) in the best start so far
    alike: float = 0.0  # how alike the best start's map and the nearest of the others are


def stage(step: int, spent: float, config: SearchConfig) -> tuple[str, int]:
    """Stage of a step after a part `spent` of the budget, and the step's index in it: `train` counts on from `fit`."""
    first = config.starts * config.steps
    if step < first:
        return "search", step
    if step < search_length(config):
        return "refine", step - first
    step -= search_length(config)
    return "fit" if spent < config.fit_until else "train", step


def search_length(config: SearchConfig) -> int:
    """Number of steps of `search` and `refine`; after them there is a map."""
    return config.starts * config.steps + len(config.refine_radii) * _chunks(config)


def agreed(state: SearchState) -> bool:
    """Whether two starts have found the same map; the starts that are left are not made."""
    return state.alike >= SAME


def found_map(state: SearchState, model: Autoencoder) -> Tensor | None:
    """The map (L, L, L) that the search has found so far, on the CPU; None in its first start."""
    return None if state.volume is None else real_map(state.volume, model.box // 2).cpu()


def fitting_rates(spent: float, config: SearchConfig, final: OptimizerConfig) -> dict[str, float]:
    """Learning rates of the fit by kind of optimiser, falling linearly to those the networks then train with."""
    left = 1 - spent / config.fit_until
    return {
        "Adam": final.learning_rate + left * (config.fit_learning_rate - final.learning_rate),
        "Muon": final.matrix_learning_rate + left * (config.fit_matrix_learning_rate - final.matrix_learning_rate),
    }


def start_search(model: Autoencoder) -> SearchState:
    """A state without images; the first step adds some."""
    config, device = model.config.model.search, model.frequencies.device
    return SearchState(
        empty_grid(0, device),
        torch.ones(model.box // 2 + 1, device=device),
        torch.ones((), device=device),
        None,
        torch.zeros(config.images, 3, 3, device=device),
        torch.zeros(config.images, 2, device=device),
        torch.zeros(config.images, device=device),
    )


def initial_step(
    state: SearchState, step: int, spent: float, model: Autoencoder, optimizers: list[Optimizer], fetch: Fetch
) -> Tensor:
    """One step of the present stage; returns its loss: a squared error per coefficient, or the fit's."""
    config, run = model.config.model.search, model.config
    rng = np.random.default_rng([run.seed, step])
    generator = torch.Generator(model.frequencies.device).manual_seed(int(rng.integers(2**62)))
    name, index = stage(step, spent, config)
    if name == "search":
        if agreed(state):
            return torch.zeros((), device=model.frequencies.device)  # no other start is needed
        rows = rng.choice(run.dataset.images, config.batch, replace=False)
        return _search(state, index, model, rows, *fetch(rows), generator)
    if name == "refine":
        cycle, chunk = divmod(index, _chunks(config))
        chosen = np.random.default_rng(run.seed).permutation(run.dataset.images)[: config.images]
        part = slice(chunk * config.batch, (chunk + 1) * config.batch)
        images, parameters = fetch(chosen[part])
        if state.contrast is not None:
            parameters = contrast.scaled(parameters, state.contrast[torch.from_numpy(chosen[part]).to(images.device)])
        return _refine(state, cycle, part, model, images, parameters, generator)
    rows = rng.choice(run.dataset.images, run.model.batch, replace=False)
    set_rates(optimizers, fitting_rates(spent, config, run.model.optimizer))
    return _fit(state, index, model, optimizers, fetch(rows)[1], generator)


def _search(
    state: SearchState,
    index: int,
    model: Autoencoder,
    rows: np.ndarray,
    images: Tensor,
    parameters: Tensor,
    generator: torch.Generator,
) -> Tensor:
    config, chosen = model.config.model.search, torch.from_numpy(rows).to(images.device)
    index %= config.steps  # within this start
    if index == 0 or state.contrast is None:
        state.contrast = torch.ones(model.config.dataset.images, device=images.device)
    before = state.contrast[chosen]
    parameters = contrast.scaled(parameters, before)
    radius, orientations, hypotheses = tempering(config, index)
    disc = half_disc(model.box, radius).to(images.device)
    target, transfer = _measured(model, images, parameters, disc)
    if index == 0:
        state.grid, state.spectrum = search.random_start(coarse_radius(model.config), target, transfer, disc, generator)
        state.temperature = torch.ones((), device=images.device)
        return target.abs().square().mean()
    error, told = search.search_step(
        [state.grid],
        state.spectrum,
        state.temperature,
        target,
        transfer,
        disc,
        search.trial_shifts(model.config, radius, model.frequencies.device),
        _deviation(model),
        orientations,
        hypotheses,
        config.rate,
        generator,
    )
    state.contrast[chosen] = contrast.likeliest(before, *told)
    if index == config.steps - 1:
        _end_start(state, disc, model.box // 2, generator)
    return error


def tempering(config: SearchConfig, step: int) -> tuple[float, int, float]:
    """Radius in shells, number of orientations, and hypotheses of an image, at a step of a start."""
    part = step / (config.steps - 1)
    growth = part if step else 1.0  # the first volume is filled to the last radius
    radius = config.first_radius + growth * (config.last_radius - config.first_radius)
    return radius, round(_between(*config.orientations, part)), _between(*config.hypotheses, part)


def _between(first: float, last: float, part: float) -> float:
    """A value between `first` and `last` after this part of the way, in even ratios."""
    return first * (last / first) ** part


def coarse_radius(run: RunConfig) -> int:
    """Shells of the search's grid: all that the search compares, and enough to separate molecule and solvent."""
    config = run.model.search
    return min(run.dataset.box // 2, max(COARSE, math.ceil(config.last_radius), config.refine_radii[0]))


def _end_start(state: SearchState, disc: HalfDisc, radius: int, generator: torch.Generator) -> None:
    """At the end of a start, keep its volume, or the best one so far if that explains the images better.

    The error of a step's images is measured before they move the volume.
    """
    shells = int(disc.k.norm(dim=-1).max().round()) + 1
    ended = state.grid, state.spectrum.clone()
    if state.best is None:
        state.best = ended
    else:
        better, worse = sorted((state.best, ended), key=lambda start: float(start[1][:shells].log().mean()))
        state.best = better
        state.others.append(real_map(masked_volume(worse[0]), worse[0].radius))
        best = real_map(masked_volume(better[0]), better[0].radius)
        rotations = search.spread_rotations(FITS, generator, torch.eye(3, device=best.device)[None])
        state.alike = max(likeness(best, other, shells - 1, rotations) for other in state.others)
    if state.best is ended:
        state.best_contrast = state.contrast
    (grid, state.spectrum), state.contrast = state.best, state.best_contrast
    state.volume = enlarged(masked_volume(grid), grid.radius, radius)
    state.grid = empty_grid(radius, disc.k.device)


def _refine(
    state: SearchState,
    cycle: int,
    part: slice,
    model: Autoencoder,
    images: Tensor,
    parameters: Tensor,
    generator: torch.Generator,
) -> Tensor:
    config = model.config.model.search
    disc = half_disc(model.box, config.refine_radii[cycle]).to(images.device)
    target, transfer = _measured(model, images, parameters, disc)
    assert state.volume is not None
    radius = state.grid.radius
    field = with_slopes(state.volume, radius)
    if cycle == 0:
        state.rotations[part], state.shifts[part] = _matched(state, field, model, images, parameters, generator)
    rotations, shifts, errors = search.refine_poses(
        field, radius, target, transfer, disc, state.rotations[part], state.shifts[part], config.refine_iterations
    )
    state.rotations[part], state.shifts[part] = rotations, shifts
    state.errors[part] = errors / disc.weights.sum()

    full_target, full_transfer = _measured(model, images, parameters, model.disc)
    alone = torch.eye(3, device=images.device)[None]
    insert_images(state.grid, rotations, shifts, model.disc, full_target, full_transfer, alone)
    if part.stop >= config.images:  # the pass is complete
        state.volume, state.grid = masked_volume(state.grid), empty_grid(radius, images.device)
        if cycle == len(config.refine_radii) - 1:
            state.volume = _on_axes(state.volume, model)
    return state.errors[part].mean()


def _on_axes(volume: Tensor, model: Autoencoder) -> Tensor:
    """The volume (m³, 2) with its axes where the dataset's point group has them, made symmetric.

    Only here: from a random start that is made symmetric at once, three of four searches for GroEL's D7 ended in
    another map.
    """
    symmetry = model.config.dataset.symmetry
    if symmetry == "C1":
        return volume
    found = real_map(volume, model.box // 2)
    return symmetrised(found, symmetry, find_axes(found, symmetry, model.config.model.search.last_radius))


def _matched(
    state: SearchState,
    field: Tensor,
    model: Autoencoder,
    images: Tensor,
    parameters: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Poses of images without a pose: the best few of many random poses are refined, and the best one is returned."""
    config, radius = model.config.model.search, state.grid.radius
    disc = half_disc(model.box, config.last_radius).to(images.device)
    target, transfer = _measured(model, images, parameters, disc)
    white = search.whitened(disc, state.spectrum)
    orientations = search.spread_rotations(
        config.refine_orientations, generator, torch.eye(3, device=images.device)[None]
    )
    weight = search.shift_weight(_deviation(model))
    _, best, shifts = search.match(
        field[:, :2].contiguous(),
        radius,
        target,
        transfer,
        white,
        orientations,
        search.trial_shifts(model.config, config.last_radius, model.frequencies.device),
        weight,
        config.candidates,
        model.dtype,
    )
    measured = [(target, transfer, white)]
    return search.best_refined(field, radius, measured, orientations[best], shifts, weight, config.refine_iterations)


def _fit(
    state: SearchState,
    index: int,
    model: Autoencoder,
    optimizers: list[Optimizer],
    parameters: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The encoder learns the poses of rendered images, first clean and then noisy; the decoder learns the volume."""
    config = model.config.model.search
    radius = model.box // 2
    assert state.volume is not None
    if state.best is not None:  # sums are large, and not needed again
        state.best, state.grid = None, empty_grid(0, model.frequencies.device)
    volume = state.volume
    transfer = ctf(parameters, model.frequencies, model.box * model.voxel_size)
    noise = state.errors.median().sqrt()  # the median: images in a wrong pose do not count as noise
    noise = noise * min(1.0, index / max(1, config.fit_ramp))
    images, rotations, shifts = search.render(volume, radius, transfer, model.disc, noise, _deviation(model), generator)
    answers = model.answers(images)
    mates = rotations[:, None] @ model.group  # that show the same image: the nearest one counts
    misses = torch.stack([(each[:, None] - mates).square().sum((2, 3)).amin(1) for each, _ in answers])  # (h, b)
    rotation_error = misses.amin(0).mean() + LOSERS_WEIGHT * (misses.mean() if len(answers) > 1 else 0.0)
    predicted_shifts = answers[0][1]
    shift_error = (predicted_shifts / model.voxel_size - 0.5 - shifts).square().sum(-1).mean()

    few = slice(config.fit_slices)
    wanted = transfer[few] * grid_slices(volume, radius, rotations[few], model.disc)
    unmoved = torch.full_like(predicted_shifts[few], 0.5 * model.voxel_size)
    reconstruction_error = model.mean_error(rotations[few], unmoved, parameters[few], wanted)
    loss = rotation_error + SHIFT_WEIGHT * shift_error + reconstruction_error
    descend(model, optimizers, loss)
    return loss.detach()


def _measured(model: Autoencoder, images: Tensor, parameters: Tensor, disc: HalfDisc) -> tuple[Tensor, Tensor]:
    """Coefficients and CTFs (b, n) of images (b, L, L), in the model's scale, at the disc's frequencies."""
    transfer = ctf(parameters, disc.k, model.box * model.voxel_size)
    return to_half_disc(images * model.image_scale, disc), transfer


def _chunks(config: SearchConfig) -> int:
    return math.ceil(config.images / config.batch)


def _deviation(model: Autoencoder) -> float:
    """Standard deviation of the dataset's shifts, in pixels."""
    return search.shift_deviation(model.config.dataset)
