"""Poses and a map from images alone, from which the networks start with `init: search`.

The paper's models start with random poses. They spend most of their training in a state with half of the images in each
hand. Here a stochastic EM at low radius finds the volume first (cf. Punjani et al. 2017):

1. `search_step`: a batch of images is compared with slices of the current volume at spread orientations and a grid of
   shifts, by one real matrix product. All poses are weighed by their likelihood and back-projected. The radius grows
   from a few shells, where the landscape is smooth. Likelihoods are tempered: an image weighs some dozen poses at first
   and two at last, or more if noise leaves more in doubt. Without tempering, many runs end with images in both hands.
2. `refine_poses`: poses of some thousand images are improved by Gauss-Newton steps in the tangent space of SO(3) × R²,
   and back-projected at full radius into the next volume.
3. `render`: the volume gives any number of images with known poses, and encoder and decoder are fitted to them.

Shifts are in pixels about the transform's origin L/2.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from equipose.config.settings import DatasetConfig, RunConfig
from equipose.core.fourier import HalfDisc, from_half_disc, shift_phase
from equipose.core.fourier_grid import FourierGrid, blend, empty_grid, grid_slices, insert_slices
from equipose.core.mask import masked_volume
from equipose.poses import contrast

SPIRAL = (2**0.5, 1.533751168755204288)
"""Turns a point of the spiral's two circles: √2, and the root of x⁴ = x + 4."""


NO_BELIEF = 1e-12
"""Weights of poses below this become 0: multiplying denormal numbers takes ten times as long."""

AT_ONCE = 2**20
"""Number of poses, over all images, that are compared at once: a larger number does not fit into the cache."""


@contextmanager
def quick_products() -> Iterator[None]:
    """Within, a processor's products of matrices are oneDNN's, in bfloat16 where the processor has it for this.

    Sums are in float32. For AMD processors PyTorch's own choice, MKL, has code of half the speed: 97 for 226 GFLOP/s on
    an EPYC with AVX-512, with the same errors of 6e-6.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def random_rotations(count: int, generator: torch.Generator) -> Tensor:
    """Uniform rotations (count, 3, 3), on the generator's device."""
    return _matrices(torch.randn(count, 4, generator=generator, device=generator.device))


def spread_rotations(count: int, generator: torch.Generator, group: Tensor) -> Tensor:
    """Evenly spread rotations (n, 3, 3), turned as a whole at random, on the generator's device.

    `count` rotations are spread over SO(3). Those in the asymmetric unit of the point `group` (g, 3, 3) are returned,
    about a g-th of them: the poses that are nearer to the identity than their mates. The spiral of Alexa (2022,
    super-Fibonacci sampling) leaves holes a third narrower than the same number of random rotations.
    """
    index = torch.arange(count, dtype=torch.float64, device=generator.device) + 0.5
    inner, outer = (index / count).sqrt(), (1 - index / count).sqrt()
    first, second = (2 * torch.pi * index / ratio for ratio in SPIRAL)
    spiral = torch.stack([inner * first.sin(), inner * first.cos(), outer * second.sin(), outer * second.cos()], 1)
    left, right = random_rotations(2, generator)
    rotations = left @ _matrices(spiral).float() @ right
    traces = rotations.flatten(1) @ group.mT.flatten(1).T  # (count, g): tr(R S)
    return rotations[traces[:, 0] >= traces.amax(1)]


def shift_deviation(dataset: DatasetConfig) -> float:
    """Standard deviation of the dataset's shifts, in pixels."""
    return dataset.shift_std / dataset.voxel_size


def shift_weight(deviation: float, noise: float = 1.0) -> float:
    """The term of an image's squared error for each squared pixel of shift; the error is its negative log posterior
    times 2 `noise`.

    `noise` is the mean squared error a coefficient, 1 for whitened coefficients. Shifts have a normal distribution with
    this standard `deviation`, in pixels.
    """
    return noise / max(deviation, 0.1) ** 2


def trial_shifts(run: RunConfig, radius: float, device: torch.device, deviations: float = 3.0) -> Tensor:
    """Shifts (s, 2) in pixels within so many standard deviations, as far apart as shells up to `radius` can resolve.

    The distance is a quarter of the last shell's wavelength, and at least a pixel.
    """
    reach = deviations * shift_deviation(run.dataset)
    spacing = max(1.0, run.dataset.box / (4 * radius))
    count = math.ceil(reach / spacing)
    axis = spacing * torch.arange(-count, count + 1, device=device, dtype=torch.float32)
    shifts = torch.cartesian_prod(axis, axis)
    return shifts[shifts.norm(dim=-1) <= max(reach, 0.5 * spacing)]


def random_start(
    radius: int, target: Tensor, transfer: Tensor, disc: HalfDisc, generator: torch.Generator
) -> tuple[FourierGrid, Tensor]:
    """A first volume, images (b, n) back-projected in random orientations, and their power spectrum (shells,)."""
    grid = empty_grid(radius, target.device)
    alone = torch.eye(3, device=target.device)[None]
    insert_slices(grid, random_rotations(len(target), generator), disc, transfer * target, transfer**2, alone)
    found = shell_means(target.abs().square().mean(0), disc, disc.box // 2 + 1)
    return grid, torch.where(found > 0, found, torch.inf)  # shells beyond the disc get no weight


def search_step(
    grids: list[FourierGrid],
    spectrum: Tensor,
    temperature: Tensor,
    target: Tensor,
    transfer: Tensor,
    disc: HalfDisc,
    shifts: Tensor,
    deviation: float,
    orientations: int,
    hypotheses: float,
    rate: float,
    generator: torch.Generator,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """One stochastic EM step on images `target` (b, n) with CTFs `transfer` (b, n), within the disc's radius.

    `spectrum` (shells,) is the mean squared error a coefficient of each shell: noise, and what the volume does
    not explain yet. Errors are divided by it, or the strong lowest shells would drown those that tell the hands apart.
    `temperature` () divides the log likelihoods, so that an image weighs about `hypotheses` poses, or more where noise
    leaves more in doubt; it follows from step to step. So many `orientations` are tried, each at all trial `shifts`
    (s, 2), which have a normal distribution with standard deviation `deviation`, in pixels. With several `grids`, one
    for each class, a pose is one in any of them. Grids (at this `rate`), spectrum and temperature are moved in place;
    returns the mean squared error per coefficient of the best matches, and their `contrast.evidence` and rotations.
    """
    alone = torch.eye(3, device=target.device)[None]
    rotations = spread_rotations(orientations, generator, alone)
    slices = torch.cat([grid_slices(masked_volume(grid), grid.radius, rotations, disc) for grid in grids])
    white = whitened(disc, spectrum)
    prior = shift_weight(deviation) * shifts.square().sum(-1) / 2
    tempered = _flat(slices * white.weights) / temperature
    squares = slices.abs().square() / (2 * temperature)
    phases = shift_phase(-shifts, disc)
    signal = torch.zeros_like(tempered)
    power = torch.zeros_like(squares)
    missed, weighed = torch.zeros_like(power[0]), torch.zeros_like(temperature)
    images, told = max(1, AT_ONCE // (len(shifts) * len(slices))), []
    for target_part, transfer_part in zip(target.split(images), transfer.split(images), strict=True):
        centred = _flat((target_part * transfer_part)[:, None] * phases)  # (b, s, 2n)
        of_powers = transfer_part**2
        with quick_products():
            likelihood = centred @ tempered.T  # (b, s, o), logarithms
            likelihood -= ((of_powers * white.weights) @ squares.T)[:, None]
        likelihood -= (prior / temperature)[:, None]
        best = _largest(likelihood)
        belief = torch.softmax(likelihood.flatten(1), dim=1)
        torch.threshold_(belief, NO_BELIEF, 0.0)
        weighed -= 2 * belief.norm(dim=1).log().sum()

        which = best % len(slices)
        chosen = transfer_part * phases[best // len(slices)].conj() * slices[which]
        missed += (target_part - chosen).abs().square().sum(0)
        turned = rotations[which % len(rotations)]
        told.append((*contrast.evidence(target_part, chosen, white.weights / temperature), turned))

        belief = belief.view_as(likelihood)
        with quick_products():
            signal += belief.flatten(0, 1).T @ centred.flatten(0, 1)  # (o, 2n)
            power += belief.sum(1).T @ of_powers

    temperature.mul_((hypotheses / (weighed / len(target)).exp()).sqrt().clamp(0.5, 2)).clamp_(min=1)
    residual = missed / len(target)
    found = shell_means(residual, disc, len(spectrum))
    spectrum[:] = torch.where(found > 0, (1 - rate) * spectrum + rate * found, spectrum)
    values = torch.view_as_complex(signal.unflatten(1, (-1, 2)))
    parts = values.split(len(rotations)), power.split(len(rotations))
    for grid, own_values, own_power in zip(grids, *parts, strict=True):
        new = empty_grid(grid.radius, target.device)
        insert_slices(new, rotations, disc, own_values, own_power, alone)
        blend(grid, new, rate, within=disc.k.norm(dim=-1).max())
    product, power, turned = (torch.cat(parts) for parts in zip(*told, strict=True))
    return residual.mean(), (product, power, turned)


def _largest(values: Tensor) -> Tensor:
    """The place (b,) of the largest of each (s, o) of `values` (b, s, o). At once, argmax takes five times as long."""
    best = values.amax(2).argmax(1)
    row = values[torch.arange(len(values), device=values.device), best]
    return best * values.shape[2] + row.argmax(1)


def whitened(disc: HalfDisc, spectrum: Tensor) -> HalfDisc:
    """The same frequencies, weighed by the inverse of their shell's mean squared error."""
    return HalfDisc(disc.box, disc.k, disc.weights / spectrum[disc.shells])


def shell_means(values: Tensor, disc: HalfDisc, shells: int) -> Tensor:
    """Means of `values` (n,) over the frequencies of each shell, (shells,); 0 where there are none."""
    shell = disc.shells
    zeros = torch.zeros(shells, device=values.device)
    return zeros.index_add(0, shell, values) / zeros.index_add(0, shell, torch.ones_like(values)).clamp_min(1)


def match(
    volume: Tensor,
    radius: int,
    target: Tensor,
    transfer: Tensor,
    disc: HalfDisc,
    orientations: Tensor,
    shifts: Tensor,
    weight: float,
    kept: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Each image against every orientation and shift: squared errors, indices, shifts of the `kept` best orientations.

    ‖Î - CTF T P‖² = ‖Î‖² + ‖CTF P‖² - 2 Re⟨CTF T* Î, P⟩, plus the term of `shift_weight`. bfloat16 is faster, and its
    errors are good to a percent of ‖CTF P‖²: enough to choose poses for refinement.
    """
    beyond = (weight * shifts.square().sum(-1, keepdim=True) / 2).to(dtype)
    slices, found = grid_slices(volume, radius, orientations, disc), []  # (o, n)
    flat, squares = _flat(slices).to(dtype), slices.abs().square()
    images = max(1, AT_ONCE // (len(shifts) * len(slices)))
    for target_part, transfer_part in zip(target.split(images), transfer.split(images), strict=True):
        overlap = overlaps(flat, target_part, transfer_part, disc, shifts) - beyond
        with quick_products():
            power = (transfer_part**2 * disc.weights) @ squares.T
        nearest = overlap.amax(dim=1).float()  # (b, o): at each orientation's best shift
        total = (target_part.abs() ** 2 * disc.weights).sum(-1, keepdim=True)
        error, best = (total + power - 2 * nearest).topk(kept, dim=1, largest=False)
        which = overlap.gather(2, best[:, None].expand(-1, len(shifts), -1)).argmax(dim=1)  # (b, kept)
        found.append((error, best, shifts[which]))
    error, best, moved = (torch.cat(parts) for parts in zip(*found, strict=True))
    return error, best, moved


def overlaps(flat: Tensor, target: Tensor, transfer: Tensor, disc: HalfDisc, shifts: Tensor) -> Tensor:
    """Re⟨CTF T* Î, P⟩ (b, s, o), one real matrix product for all shifts and slices P, `flat` (o, 2n), in their type."""
    moved = (target * transfer * disc.weights)[:, None] * shift_phase(-shifts, disc)  # (b, s, n)
    with quick_products():
        return _flat(moved).to(flat) @ flat.T


def refine_poses(
    field: Tensor,
    radius: int,
    target: Tensor,
    transfer: Tensor,
    disc: HalfDisc,
    rotations: Tensor,
    shifts: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Newton in the tangent space: rotations exp(ω) R and shifts t + τ that fit `target` (b, n) better.

    `field` (m³, 8) is the volume `with_slopes`, made once for all images. A step that does not lower an image's error
    is not taken. Returns rotations, shifts and squared errors (b,).
    """
    root, (kx, ky) = disc.weights.sqrt(), disc.k.T
    identity = torch.eye(5, dtype=target.real.dtype, device=target.device)

    def predict(rotations: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """Images (b, n), and their derivatives (b, 5, n) by ω, which moves slice and slopes, and by τ."""
        seen = grid_slices(field, radius, rotations, disc)  # (b, n, 4)
        seen = seen * (root * transfer * shift_phase(shifts, disc))[..., None]
        image, slope = seen[..., 0], torch.einsum("bij,bnj->ibn", rotations.to(seen), seen[..., 1:])
        turned = [-ky * slope[2], kx * slope[2], ky * slope[0] - kx * slope[1]]
        moved = [-2j * torch.pi / disc.box * k * image for k in (kx, ky)]
        return image, torch.stack(turned + moved, 1)

    wanted = root * target
    predicted, derivatives = predict(rotations, shifts)
    error = (wanted - predicted).abs().square().sum(-1)
    for _ in range(iterations):
        jacobian = torch.view_as_real(derivatives).flatten(2)  # (b, 5, 2n)
        residual = torch.view_as_real(wanted - predicted).flatten(1)
        normal = jacobian @ jacobian.mT
        normal = normal + 1e-2 * torch.diag_embed(normal.diagonal(dim1=1, dim2=2)) + 1e-8 * identity
        update = torch.linalg.solve(normal, jacobian @ residual[..., None])[..., 0]
        turn = torch.matrix_exp(torch.einsum("bi,ijk->bjk", update[:, :3].clamp(-0.2, 0.2), _generators(update)))
        new_rotations, new_shifts = turn @ rotations, shifts + update[:, 3:].clamp(-1, 1)
        new_predicted, new_derivatives = predict(new_rotations, new_shifts)
        new_error = (wanted - new_predicted).abs().square().sum(-1)
        better = new_error < error
        rotations = torch.where(better[:, None, None], new_rotations, rotations)
        shifts = torch.where(better[:, None], new_shifts, shifts)
        predicted = torch.where(better[:, None], new_predicted, predicted)
        derivatives = torch.where(better[:, None, None], new_derivatives, derivatives)
        error = torch.where(better, new_error, error)
    return rotations, shifts, error


def best_refined(
    field: Tensor,
    radius: int,
    measured: list[tuple[Tensor, Tensor, HalfDisc]],
    rotations: Tensor,
    shifts: Tensor,
    weight: float,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Refine several poses an image, rotations (b, c, 3, 3) and shifts (b, c, 2); return the best of each image.

    `measured` lists coefficients, CTFs (b, n) and their disc, for discs of growing radius. At low radius, steps reach
    the right pose from far away; at high radius, the error separates the right pose from others. After each disc but
    the last, the better quarter of an image's poses is kept. Shifts add their `shift_weight` to the errors.
    """
    for number, (target, transfer, disc) in enumerate(measured, start=1):
        count = rotations.shape[1]
        repeated = target.repeat_interleave(count, 0), transfer.repeat_interleave(count, 0)
        flat = rotations.flatten(0, 1), shifts.flatten(0, 1)
        refined = refine_poses(field, radius, *repeated, disc, *flat, iterations)
        rotations, shifts, errors = (part.unflatten(0, (-1, count)) for part in refined)
        errors = errors + weight * shifts.square().sum(-1)
        kept = math.ceil(count / 4) if number < len(measured) else 1
        best = errors.topk(kept, dim=1, largest=False).indices
        rows = torch.arange(len(target), device=target.device)[:, None]
        rotations, shifts = rotations[rows, best], shifts[rows, best]
    return rotations[:, 0], shifts[:, 0]


def render(
    volume: Tensor,
    radius: int,
    transfer: Tensor,
    disc: HalfDisc,
    noise: Tensor,
    deviation: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Images (b, L, L) of the volume with random poses: also their rotations (b, 3, 3) and shifts (b, 2) in pixels.

    `noise` is the standard deviation of white noise a pixel, `deviation` that of the shifts in pixels.
    """
    count, device = len(transfer), transfer.device
    rotations = random_rotations(count, generator)
    shifts = deviation * torch.randn(count, 2, generator=generator, device=device)
    coefficients = transfer * shift_phase(shifts, disc) * grid_slices(volume, radius, rotations, disc)
    images = from_half_disc(coefficients, disc)
    return images + noise * torch.randn(images.shape, generator=generator, device=device), rotations, shifts


def _flat(values: Tensor) -> Tensor:
    """Complex values (..., n) as real ones (..., 2n)."""
    return torch.view_as_real(values).flatten(-2)


def _matrices(quaternions: Tensor) -> Tensor:
    """Rotations (n, 3, 3) of quaternions (n, 4) of any length."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, -1).view(-1, 3, 3)


def _generators(like: Tensor) -> Tensor:
    """The three antisymmetric matrices with [ω]× = Σ ω_i G_i, in the type of `like` and on its device."""
    return torch.tensor(
        [[[0, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, 0, 1], [0, 0, 0], [-1, 0, 0]], [[0, -1, 0], [1, 0, 0], [0, 0, 0]]]
    ).to(like)
