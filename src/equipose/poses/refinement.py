"""Poses improved image by image once the networks have settled, and the map back-projected from them.

An encoder learns one function for all images and has a small error for each (semi-amortised inference corrects that).
In each pass, Gauss-Newton steps start from the pose of an image and from the best matches of a search. They lead to the
nearest optima, and the best optimum becomes the image's pose. All images then make the volume of the next pass,
CTF-weighted. If noise is strong, many images have a wrong pose in the first passes, and later passes correct them.

A map contains the noise of its own images, at the poses that they had. Compared with such a map, an image would keep a
wrong pose. So a part of the images at a time is compared with the map of all other images. The mask of the molecule
removes the noise of the solvent from this map (`mask.py`). At its new pose, each image's contrast is found anew
(`contrast.py`).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from equipose.core.ctf import ctf
from equipose.core.fourier import HalfDisc, half_disc, shift_phase, to_half_disc
from equipose.core.fourier_grid import (
    FourierGrid,
    at_mates,
    empty_grid,
    from_real_map,
    grid_map,
    grid_slices,
    grid_volume,
    insert_images,
    sampled,
    split_group,
    together,
    with_slopes,
    without,
)
from equipose.core.mask import masked_volume, solvent_mask
from equipose.core.point_groups import group
from equipose.core.pose_metrics import CONSISTENT, squared_distances
from equipose.io.files import whole_file
from equipose.io.particles import Particles
from equipose.model.autoencoder import Autoencoder
from equipose.poses import contrast, search

BATCH = 200
"""Images refined at once."""

FIRST_PASS, RISING = 0.75, 3
"""The first of several passes compares this part of all shells, since its volume and its poses are vague. After so many
passes, or in the last pass, all shells are compared.
"""

NEARLY = 0.01
"""If a pass moves a smaller share of the images than this to another pose, the next pass compares all shells."""

SETTLED = 0.001
"""If a pass with all shells moves a smaller share of the images than this to another pose, no other pass follows."""

STILL = 0.998
"""Correlation of a pass's map with the one before, within the mask, above which no other pass follows. Of a symmetric
molecule that is refined as C1, images go from mate to mate, and the map stays: GroEL's had 0.9939 in its second pass,
0.9976 in its fifth, when 99.9 % of its poses were right modulo D7, and 0.9983 in its sixth.
"""

ALIKE = 0.99
"""Correlation of a pass's map with the one before, from which passes end once the correlation no longer rises. With
1,500 images a half, GroEL's was 0.9962, 0.9963, 0.9964 and 0.9955 in passes 2 to 5, and no more than 0.9985 in pass 11;
half 1 went to the last pass in vain.
"""

FURTHER, FEW_CHANGED = 12, 0.08
"""The most further passes over a molecule that is nearly symmetric. They end once a smaller share of the poses changes.
"""

FAR = 4.0
"""Shifts within so many standard deviations are tried. An image with a larger shift is lost. Of 10,000 images, 1.1 %
lie outside of three deviations, half of all wrong poses that refinement left at SNR 0.1; 0.03 % lie outside of four.
"""

PARTS = 20
"""Number of parts of the images; each part is compared with the map of the other parts. At SNR 0.1, one pass with parts
and with the shifts' distribution took 1,000 images of the spliceosome from MSE 0.14 to 0.09; without both, to 0.13.
"""

VARIED = 0.25
"""Standard deviation of contrasts above which poses are sought again with the contrasts. Where it was 0.6, a search
without contrasts found 83 to 86 % of the right poses again. Noise alone, and contrasts that vary by 15 %, stay below.
"""

JUDGED = 1000
"""Number of images by which a run is judged without a truth; at most half of all images."""


@dataclass(frozen=True)
class Pass:
    """The `number` of a pass, from 0, and the part of all `shells` that it compares."""

    number: int
    shells: float


@dataclass(frozen=True)
class Mates:
    """Rotations (g, 3, 3) about a `centre` (3,), pixels from L/2, after which a map looks nearly the same."""

    rotations: Tensor
    centre: Tensor

    def of(self, rotations: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """The poses (b, g, 3, 3) and (b, g, 2) that show nearly what poses (b, 3, 3) and (b, 2), pixels, show."""
        mates = rotations[:, None] @ self.rotations
        return mates, shifts[:, None] + (rotations[:, None, :2] - mates[:, :, :2]) @ self.centre


@torch.no_grad()
def refine(
    model: Autoencoder,
    particles: Particles,
    rotations: np.ndarray,
    shifts: np.ndarray,
    say: Callable[[str], None],
    kept: Path,
    trained: bool = True,
) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Poses of all particles after at most `refine_passes`, and the volume at the points of a grid of radius L/2.

    The first pass starts from `rotations` (n, 3, 3) and `shifts` (n, 2), Å of the content from pixel L/2; the returned
    poses are of the same kind. The state after a pass is kept in a file, and the same call continues from it. Where
    the networks were not `trained`, the decoder's volume is not asked.
    """
    device, radius, passes = model.frequencies.device, model.box // 2, model.config.model.refine_passes
    turned, moved = on_device(model, rotations, shifts)
    volume: Tensor | None = None
    grid: FourierGrid | None = None
    this, settled, start, alike = first_pass(passes), False, turned.clone(), 0.0
    contrasts = torch.ones(len(turned), device=device)
    if known := _known(kept, start, radius):
        this, settled = pass_after(known), known["settled"]
        turned, moved, grid = known["rotations"], known["shifts"], known["grid"]
        alike, contrasts = known.get("alike", 0.0), known.get("contrasts", contrasts)
        say(f"refinement: continuing after pass {this.number} ({kept})")
    else:
        volume = first_volume(model, particles, turned, moved, trained)
    while this.number < passes and not settled:
        reference = volume if grid is None else (grid, solvent_mask(grid_map(grid)))
        assert reference is not None  # the first volume, or that of `grid`
        name = f"refinement {this.number + 1}/{passes}"
        elsewhere, following = _whole_pass(model, particles, turned, moved, contrasts, reference, this, name, say)
        changed = elsewhere / len(turned)
        alike, settled = judge_pass(this, changed, grid, following, alike)
        this = next_pass(this, passes, changed)
        say(f"{name}: {pass_news(elsewhere, alike)}")
        grid = following
        poses = {"start": start, "rotations": turned, "shifts": moved, "contrasts": contrasts}
        state = {"passes": this.number, "shells": this.shells, "settled": settled, "alike": alike}
        _keep(kept, grid, state | poses)
    assert grid is not None  # of the last pass
    return *_as_arrays(model, turned, moved), grid_volume(grid)


@torch.no_grad()
def refine_further(
    model: Autoencoder,
    particles: Particles,
    rotations: np.ndarray,
    shifts: np.ndarray,
    say: Callable[[str], None],
    kept: Path,
) -> tuple[np.ndarray, np.ndarray]:
    """Poses of all particles after further passes over those that `refine` left, until few of them change.

    Of a molecule that is nearly symmetric, `refine` leaves many images at a wrong one of the nearly alike poses: the
    map hardly changes any more, but what breaks its symmetry grows from pass to pass. Poses are as for `refine`. The
    state after a pass is kept in a file, and the same call continues from it.
    """
    turned, moved = on_device(model, rotations, shifts)
    start, contrasts = turned.clone(), torch.ones(len(turned), device=turned.device)
    first, done, settled = model.config.model.refine_passes, 0, False
    if known := _known(kept, start, model.box // 2):
        done, settled, turned, moved = known["passes"], known["settled"], known["rotations"], known["shifts"]
        grid, contrasts = known["grid"], known["contrasts"]
    else:
        grid = _back_projected(model, particles, torch.arange(len(turned), device=turned.device), turned, moved)
    for further in range(done, done if settled else FURTHER):
        reference = grid, solvent_mask(grid_map(grid))
        name = f"further refinement {further + 1}/{FURTHER}"
        this = Pass(first + further, 1.0)
        changed, grid = _whole_pass(model, particles, turned, moved, contrasts, reference, this, name, say)
        say(f"{name}: {changed} poses changed")
        settled = changed < FEW_CHANGED * len(turned)
        poses = {"start": start, "rotations": turned, "shifts": moved, "contrasts": contrasts}
        _keep(kept, grid, {"passes": further + 1, "settled": settled} | poses)
        if settled:
            break
    return _as_arrays(model, turned, moved)


def _whole_pass(
    model: Autoencoder,
    particles: Particles,
    turned: Tensor,
    moved: Tensor,
    contrasts: Tensor,
    reference: Tensor | tuple[FourierGrid, Tensor],
    this: Pass,
    name: str,
    say: Callable[[str], None],
) -> tuple[int, FourierGrid]:
    """A pass over all particles, part by part, as `refine_part` does each; `name` is what people are told of it."""
    started, following, elsewhere = time.perf_counter(), empty_grid(model.box // 2, turned.device), 0
    for some in torch.arange(len(turned), device=turned.device).chunk(PARTS):
        changed, sums = refine_part(model, particles, some, turned, moved, contrasts, reference, this)
        following, elsewhere, done = together(following, sums), elsewhere + changed, int(some[-1]) + 1
        left = (time.perf_counter() - started) * (len(turned) / done - 1)
        say(f"{name}: {done} images, {left:.0f} s left")
    return elsewhere, following


def refine_part(
    model: Autoencoder,
    particles: Particles,
    some: Tensor,
    turned: Tensor,
    moved: Tensor,
    contrasts: Tensor,
    reference: Tensor | tuple[FourierGrid, Tensor],
    this: Pass,
    offset: int = 0,
) -> tuple[int, FourierGrid]:
    """A pass over the rows `some` of the particles: the number of poses that changed, and the sums of these rows.

    Their poses in `turned` (n, 3, 3) and `moved` (n, 2), pixels, and their `contrasts` (n,) are replaced.
    `reference` is a volume (m³, 2), or the sums of the pass before over all images, these among them, and the mask
    (L, L, L) of their map. The first of the particles is row `offset` of all: the random turn of the orientations
    that are tried depends on an image's place alone, so that a part of a pass gives the same in a job of its own.
    """
    radius, device = model.box // 2, turned.device
    if isinstance(reference, Tensor):
        volume = reference
    else:
        grid, mask = reference
        volume = masked_volume(without(grid, _back_projected(model, particles, some, turned, moved, contrasts)), mask)
    field, sums, elsewhere = with_slopes(volume, radius), empty_grid(radius, device), 0
    few, onto_points = split_group(model.group)
    for rows in some.split(BATCH):
        seed = np.random.default_rng([model.config.seed, this.number, offset + int(rows[0])]).integers(2**62)
        generator = torch.Generator(device).manual_seed(int(seed))
        batch = _read(model, particles, rows, contrasts)
        poses = _best_pose(model, field, this.shells, batch, turned[rows], moved[rows], generator)
        mates = turned[rows, None] @ model.group
        elsewhere += int(((poses[0][:, None] - mates).square().sum((2, 3)).amin(1) > CONSISTENT).sum())
        turned[rows], moved[rows] = poses
        disc, target, transfer = _coefficients(batch, model.disc)
        before = contrasts[rows]
        contrasts[rows] = _contrasts(before, volume, radius, poses, disc, target, transfer)
        transfer = transfer * (contrasts[rows] / before)[:, None]
        insert_images(sums, *poses, disc, target, transfer, few)
    return elsewhere, at_mates(sums, onto_points)


def _contrasts(
    before: Tensor,
    volume: Tensor,
    radius: int,
    poses: tuple[Tensor, Tensor],
    disc: HalfDisc,
    target: Tensor,
    transfer: Tensor,
) -> Tensor:
    """The contrasts (b,) of images at their poses in a volume; `transfer` (b, n) is of the contrasts `before`."""
    rotations, shifts = poses
    seen = transfer * shift_phase(shifts, disc) * grid_slices(volume, radius, rotations, disc)
    noise = ((target - seen).abs().square() @ disc.weights / disc.weights.sum()).median()
    return contrast.likeliest(before, *contrast.evidence(target, seen, disc.weights / noise), rotations)


def first_pass(passes: int) -> Pass:
    """The first of so many passes."""
    return Pass(0, FIRST_PASS if passes > 1 else 1.0)


def pass_after(state: dict[str, Any]) -> Pass:
    """The pass after the one of which this state was kept. Older versions kept no number of shells."""
    return Pass(state["passes"], state.get("shells", 1.0))


def next_pass(done: Pass, passes: int, changed: float) -> Pass:
    """The pass after one that changed this share of the poses, of so many passes."""
    risen = min(1.0, (done.number + 1) / min(max(passes - 1, 1), RISING))
    rising = max(done.shells, FIRST_PASS + risen * (1 - FIRST_PASS))
    return Pass(done.number + 1, 1.0 if changed < NEARLY else rising)


def judge_pass(
    done: Pass, changed: float, before: FourierGrid | None, following: FourierGrid, was: float
) -> tuple[float, bool]:
    """The correlation of a pass's map with the one before, and whether no other pass is to follow.

    `changed` is the share of the poses that changed, and `was` the correlation after the pass before.
    """
    alike = 0.0
    if before is not None:
        volume = grid_map(before)
        alike = _correlation(volume, grid_map(following), solvent_mask(volume))
    still = alike > STILL or (done.number > RISING and was >= alike > ALIKE)
    return alike, done.shells == 1 and (changed < SETTLED or still)


def pass_news(changed: int, alike: float) -> str:
    """What a pass has done, in words. The first one has no map before it, and its `alike` is 0."""
    with_former = f", the map correlates by {alike:.4f} with the former one" if alike else ""
    return f"{changed} poses changed{with_former}"


@torch.no_grad()
def poses_against(
    model: Autoencoder,
    volume: Tensor,
    particles: Particles,
    rotations: np.ndarray,
    shifts: np.ndarray,
    mates: Mates | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Poses of the first n particles by `volume` (m³, 2), the points of a grid of radius L/2 in the model's scale.

    For each image, the start (`rotations` (n, 3, 3) and `shifts` (n, 2) as for `refine`) and the matches of a search
    are refined, and the best is returned. The map must not contain these images: their own noise would keep their
    poses. Where their contrasts vary, this is done twice, and the second time with the contrasts found.
    """
    generator = torch.Generator(volume.device).manual_seed(model.config.seed)
    field = with_slopes(volume, model.box // 2)
    turned, moved = on_device(model, rotations, shifts)
    for rows in torch.arange(len(turned), device=volume.device).split(BATCH):
        batch, average = _read(model, particles, rows), torch.ones(len(rows), device=volume.device)
        poses = _best_pose(model, field, 1.0, batch, turned[rows], moved[rows], generator, mates)
        contrasts = _contrasts(average, volume, model.box // 2, poses, *_coefficients(batch, model.disc))
        if len(rows) > 1 and contrasts.std() > VARIED:
            images, parameters, side = batch
            again = images, contrast.scaled(parameters, contrasts), side
            poses = _best_pose(model, field, 1.0, again, *poses, generator, mates)
        turned[rows], moved[rows] = poses
    return _as_arrays(model, turned, moved)


@torch.no_grad()
def confirmed_share(model: Autoencoder, particles: Particles, rotations: np.ndarray, shifts: np.ndarray) -> float:
    """Part of the first images, a thousand at most, for which a search finds the same pose again; needs no truth.

    Poses are as for `refine`. The search uses the model's own volume or, if the poses were refined, the map of all
    other images at their poses. A wrong volume does not confirm poses: if its images are split over both hands, two
    poses explain each image equally well; if it has no molecule yet, other poses fit as well.
    """
    judged = min(JUDGED, math.ceil(len(rotations) / 2))
    if model.config.model.refine_passes:
        turned, moved = on_device(model, rotations, shifts)
        others = torch.arange(judged, len(turned), device=turned.device)
        volume = masked_volume(_back_projected(model, particles, others, turned, moved))
    else:
        volume = sampled(model.decoder, model.box // 2, model.frequencies.device)
    found, _ = poses_against(model, volume, particles, rotations[:judged], shifts[:judged])
    apart = squared_distances(found, rotations[:judged], group(model.config.dataset.symmetry))
    return float((apart < CONSISTENT).mean())


def first_volume(model: Autoencoder, particles: Particles, rotations: Tensor, shifts: Tensor, trained: bool) -> Tensor:
    """The volume (m³, 2) for the first pass: the decoder's, or the search's if that explains images better.

    The search's is better if the encoder could not learn the poses or was not trained. The first images are compared
    with both volumes, at the better of their given poses and of the poses that a search finds.
    """
    radius, device = model.box // 2, rotations.device
    volumes = [sampled(model.decoder, radius, device)] if trained or model.found is None else []
    if model.found is not None:
        volumes.append(from_real_map(model.found.to(device), radius))
    rows, errors = torch.arange(min(BATCH, len(rotations)), device=device), []
    for volume in volumes if len(volumes) > 1 else []:
        field, batch = with_slopes(volume, radius), _read(model, particles, rows)
        generator = torch.Generator(device).manual_seed(model.config.seed)
        poses = _best_pose(model, field, FIRST_PASS, batch, rotations[rows], shifts[rows], generator)
        disc, target, transfer = _coefficients(batch, model.disc)
        errors.append(float(search.refine_poses(field, radius, target, transfer, disc, *poses, 0)[2].median()))
    return volumes[int(np.argmin(errors))] if errors else volumes[0]


def _correlation(one: Tensor, other: Tensor, mask: Tensor) -> float:
    """The correlation of two maps (L, L, L) within a mask."""
    return float(torch.corrcoef(torch.stack([one[mask > 0.5], other[mask > 0.5]]))[0, 1])


def _keep(kept: Path, grid: FourierGrid, state: dict[str, Any]) -> None:
    """Write the sums of a pass, and the state after it, for `_known`."""
    with whole_file(kept) as partial:
        torch.save(state | {"signal": grid.signal, "power": grid.power}, partial)


def read_kept(path: Path, device: torch.device) -> dict[str, Any] | None:
    """What an interrupted call has kept in a file; None if there is none, or a broken one."""
    try:
        known: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception:  # whatever a truncated file makes torch raise
        return None
    return known


def _known(kept: Path, start: Tensor, radius: int) -> dict[str, Any] | None:
    """The state of an earlier call after its last pass, with its sums as `grid`, if it started from these rotations."""
    known = read_kept(kept, start.device)
    if known is None:
        return None
    same = known["start"].shape == start.shape and torch.allclose(known["start"], start, atol=1e-3)
    return known | {"grid": FourierGrid(radius, known["signal"], known["power"])} if same else None


Batch = tuple[Tensor, Tensor, float]
"""Images (b, L, L) in the model's scale, CTF parameters (b, 7) or (b, 9), and the box's side in Å."""


def _read(model: Autoencoder, particles: Particles, rows: Tensor, contrasts: Tensor | None = None) -> Batch:
    part = slice(int(rows[0]), int(rows[-1]) + 1)
    images = torch.from_numpy(np.array(particles.images[part], np.float32)).to(rows.device) * model.image_scale
    parameters = torch.from_numpy(np.array(particles.ctf[part], np.float32)).to(rows.device)
    if contrasts is not None:
        parameters = contrast.scaled(parameters, contrasts[rows])
    return images, parameters, model.box * model.voxel_size


def growing_radii(radii: list[float], last: float) -> list[float]:
    """The radii, followed by larger ones up to `last`, each at most twice the one before.

    A pose found at half the radius is close enough to refine it from there.
    """
    while radii[-1] < last:
        radii = [*radii, min(2 * radii[-1], last)]
    return radii


def on_device(model: Autoencoder, rotations: np.ndarray, shifts: np.ndarray) -> tuple[Tensor, Tensor]:
    """Rotations (n, 3, 3), and shifts (n, 2) given in Å, in pixels."""
    device = model.frequencies.device
    turned = torch.tensor(rotations, dtype=torch.float32, device=device)
    return turned, torch.tensor(shifts / model.voxel_size, dtype=torch.float32, device=device)


def _as_arrays(model: Autoencoder, rotations: Tensor, shifts: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The way back, to rotations that are orthogonal to all digits: small turns in float32 add up to a millionth."""
    orthogonal = Rotation.from_matrix(rotations.double().cpu().numpy()).as_matrix()
    return orthogonal, shifts.double().cpu().numpy() * model.voxel_size


def _back_projected(
    model: Autoencoder,
    particles: Particles,
    rows: Tensor,
    rotations: Tensor,
    shifts: Tensor,
    contrasts: Tensor | None = None,
) -> FourierGrid:
    """The sums over these rows of the particles, at their poses, and with their contrasts, of all."""
    grid, (few, onto_points) = empty_grid(model.box // 2, rows.device), split_group(model.group)
    for part in rows.split(BATCH):
        images = _coefficients(_read(model, particles, part, contrasts), model.disc)
        insert_images(grid, rotations[part], shifts[part], *images, few)
    return at_mates(grid, onto_points)


def _coefficients(batch: Batch, disc: HalfDisc) -> tuple[HalfDisc, Tensor, Tensor]:
    """The disc, and coefficients and CTFs (b, n) at its frequencies."""
    images, parameters, side = batch
    return disc, to_half_disc(images, disc), ctf(parameters, disc.k, side)


def _best_pose(
    model: Autoencoder,
    field: Tensor,
    resolution: float,
    batch: Batch,
    rotations: Tensor,
    shifts: Tensor,
    generator: torch.Generator,
    mates: Mates | None = None,
) -> tuple[Tensor, Tensor]:
    """For each image, the best of its given pose and its best matches among some thousand spread poses, all refined.

    The `mates` of that pose, if there are any, are compared with it by all these shells, since only the finest may tell
    them apart. `field` (m³, 8) is the volume with its slopes. With a `resolution` below 1, only that part of the shells
    and fewer orientations are compared.
    """
    config, radius, device = model.config.model.search, model.box // 2, rotations.device
    radii = growing_radii([resolution * shells for shells in config.refine_radii], resolution * radius)
    discs = [half_disc(model.box, shells).to(device) for shells in radii]
    measured = [(target, transfer, disc) for disc, target, transfer in (_coefficients(batch, disc) for disc in discs)]
    _, _, errors = search.refine_poses(field, radius, *measured[0], rotations, shifts, 0)
    noise = float(errors.median() / discs[0].weights.sum())
    weight = search.shift_weight(search.shift_deviation(model.config.dataset), noise)
    orientations = search.spread_rotations(round(config.refine_orientations * resolution**3), generator, model.group)
    trial_shifts = search.trial_shifts(model.config, radii[0], device, FAR)
    volume = field[:, :2].contiguous()
    _, best, found = search.match(
        volume, radius, *measured[0], orientations, trial_shifts, weight, config.candidates, model.dtype
    )
    candidates = torch.cat([rotations[:, None], orientations[best]], 1), torch.cat([shifts[:, None], found], 1)
    poses = search.best_refined(field, radius, measured, *candidates, weight, config.refine_iterations)
    if mates is None:
        return poses
    return search.best_refined(field, radius, measured[-1:], *mates.of(*poses), weight, config.refine_iterations)
