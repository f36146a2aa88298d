"""A volume on an oversampled Fourier grid, to read slices from and to back-project images into.

Back-projection keeps two sums for each grid point, Σ w CTF Î and Σ w CTF²; their ratio, with a little weight towards
zero where few images contribute, is the least-squares volume (a Wiener filter). Units and frequencies are those of
`fourier`: slices are the unitary transforms of projections, k is in cycles per box.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, grid_sample

from equipose.core.fourier import HalfDisc, shift_phase

OVERSAMPLING = 2
AT_ONCE = 2**17
"""Points of slices that are back-projected at once: each takes some 200 bytes meanwhile."""

MARGIN = 2
"""Points beyond the last shell, for values that spread over its rim."""

PRIOR = 0.01
"""Weight of zero at a grid point, as a part of the average weight of its shell's points. With 0.1, slices through
points that few images reach are so dim that fewer images fit them in each pass: those of GroEL, refined as C1, crowded
into some of its 14 mates.
"""


@dataclass
class FourierGrid:
    """Sums over images at grid points within `radius` shells: `signal` (m³, 2), re and im, and `power` (m³,).

    A slice is added at its half disc only; the other half is the conjugate.
    """

    radius: int
    signal: Tensor
    power: Tensor


def empty_grid(radius: int, device: torch.device) -> FourierGrid:
    points = _side(radius) ** 3
    return FourierGrid(radius, torch.zeros(points, 2, device=device), torch.zeros(points, device=device))


def grid_volume(grid: FourierGrid) -> Tensor:
    """The least-squares volume at the grid points, (m³, 2), of a real map: the value at -k is the conjugate of k's."""
    power = grid.power + grid.power.flip(0)
    signal = grid.signal + grid.signal.flip(0) * torch.tensor([1.0, -1.0], device=power.device)
    shell = _shells(grid.radius, power.device)
    shells = torch.zeros(_side(grid.radius), device=power.device)  # more than there are
    mean = shells.index_add(0, shell, power) / shells.index_add(0, shell, torch.ones_like(power))
    return signal / (power + PRIOR * mean[shell]).clamp_min(1e-12)[:, None]


def real_map(volume: Tensor, radius: int) -> Tensor:
    """The map (L, L, L), (z, y, x), L = 2 radius, origin at voxel radius, of the values (m³, 2) at the grid points.

    The grid's fine spacing holds a box of twice the size. The map is cut out of this box, and the noise around it is
    dropped; reading every other point would fold that noise into the map. Interpolation has dimmed the map towards its
    rim by a window; the map is divided by it.
    """
    values = torch.view_as_complex(torch.where(_within(radius, volume.device)[:, None], volume, 0.0).contiguous())
    cube = values.view(*[_side(radius)] * 3)[(slice(MARGIN, -MARGIN - 1),) * 3]  # from -L, where points repeat
    wide = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(cube))).real
    return 2 * radius * wide[(_inner(radius),) * 3] / _window(radius, volume.device)


def grid_map(grid: FourierGrid) -> Tensor:
    """The map (L, L, L) of the least-squares volume of a grid of radius L/2."""
    return real_map(grid_volume(grid), grid.radius)


def from_real_map(volume: Tensor, radius: int) -> Tensor:
    """Values (m³, 2) at the grid points, radius L/2, from which slices of a map (L, L, L), (z, y, x), can be read.

    Reading between the points dims the map by a window; the map is divided by it first.
    """
    wide = volume.new_zeros([2 * OVERSAMPLING * radius] * 3)
    wide[(_inner(radius),) * 3] = volume / (2 * radius * _window(radius, volume.device))
    cube = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(wide)))
    repeated = torch.arange(-MARGIN, len(wide) + MARGIN + 1, device=volume.device) % len(wide)
    return torch.view_as_real(cube[repeated][:, repeated][:, :, repeated].flatten())


def enlarged(volume: Tensor, radius: int, to: int) -> Tensor:
    """Values (m³, 2) at the points of a grid of `radius` shells, moved to a grid of `to` shells; 0 beyond."""
    more = (_side(to) - _side(radius)) // 2
    cube = volume.view(*[_side(radius)] * 3, 2)
    return torch.nn.functional.pad(cube, [0, 0] + 6 * [more]).flatten(0, 2)


def with_slopes(volume: Tensor, radius: int) -> Tensor:
    """The volume and its slopes along kx, ky and kz at the grid points, (m³, 8): re and im of the four, in turn."""
    cube = volume.view(*[_side(radius)] * 3, 2)
    return torch.cat([cube, *torch.gradient(cube, spacing=1 / OVERSAMPLING, dim=(2, 1, 0))], -1).flatten(0, 2)


def sampled(transform: Callable[[Tensor], Tensor], radius: int, device: torch.device) -> Tensor:
    """Values (m³, 2) of a volume's transform, (n, 3) → (n,) complex, at the grid points; 0 beyond the radius."""
    k = grid_frequencies(radius, device)
    inside = _within(radius, device)
    values = torch.cat([torch.view_as_real(transform(part)) for part in k[inside].split(100_000)])
    volume = values.new_zeros(len(k), 2)
    volume[inside] = values
    return volume


def grid_slices(volume: Tensor, radius: int, rotations: Tensor, disc: HalfDisc) -> Tensor:
    """Central slices (..., n), complex, for rotations (..., 3, 3), by trilinear interpolation."""
    return grid_values(volume, radius, disc.k @ rotations[..., :2, :])


def grid_values(volume: Tensor, radius: int, k: Tensor) -> Tensor:
    """Values (...), complex, at frequencies `k` (..., 3), by trilinear interpolation.

    For several volumes, (m³, 2c), the values are (..., c).
    """
    if volume.shape[1] == 2:  # read in place, in half the time; of four volumes, it would take longer
        side = _side(radius)
        cube = volume.view(1, side, side, side, 2).movedim(-1, 1)
        places = k.reshape(1, 1, 1, -1, 3) * (OVERSAMPLING / (side // 2))  # -1 and 1 are the cube's outer points
        real, imaginary = grid_sample(cube, places, align_corners=True).view(2, *k.shape[:-1])
        return torch.complex(real, imaginary)
    points, weights = _corners(k, radius)
    values = embedding_bag(points.view(-1, 8), volume, per_sample_weights=weights.view(-1, 8), mode="sum")
    return torch.view_as_complex(values.view(*points.shape[:-1], -1, 2))


def insert_slices(
    grid: FourierGrid, rotations: Tensor, disc: HalfDisc, signal: Tensor, power: Tensor, group: Tensor
) -> None:
    """Add slices with values `signal` (b, n), complex, and weights `power` (b, n), at k; `grid_volume` adds -k.

    Each slice is added at all poses R S of the `group` (g, 3, 3), so that the volume has this symmetry.
    """
    sums = torch.view_as_complex(grid.signal)  # complex numbers are added in half the time that pairs take
    some = max(1, AT_ONCE // len(disc.k))
    parts = list(zip(rotations.split(some), signal[..., None].split(some), power[..., None].split(some), strict=True))
    for mate in group:
        for turned, values, squares in parts:
            points, weights = _corners(disc.k @ (turned @ mate)[:, :2], grid.radius)
            points = points.flatten().long()
            sums.index_add_(0, points, (values * weights).flatten())
            grid.power.index_add_(0, points, (squares * weights).flatten())


def insert_images(
    grid: FourierGrid,
    rotations: Tensor,
    shifts: Tensor,
    disc: HalfDisc,
    target: Tensor,
    transfer: Tensor,
    group: Tensor,
) -> None:
    """Back-project images at their poses and at the symmetry mates by `group` (g, 3, 3).

    An image is its coefficients `target` and CTFs `transfer`, (b, n) each; shifts (b, 2) are in pixels.
    """
    centred = target * shift_phase(-shifts, disc)
    insert_slices(grid, rotations, disc, transfer * centred, transfer**2, group)


def split_group(group: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations (r, 3, 3) and (h, 3, 3) whose products R H are a point `group` (g, 3, 3), each rotation once.

    The second ones are those of the group that move grid points to grid points: turns about the grid's axes that
    exchange them. Images that are inserted at the mates by the first ones need only `at_mates` by the second ones.
    """
    onto_points = group[((group.abs() > 0.999).sum((1, 2)) == 3)]
    chosen: list[Tensor] = []
    for rotation in group:
        products = torch.stack(chosen)[:, None] @ onto_points if chosen else group.new_zeros(0, 1, 3, 3)
        if not ((products - rotation).abs().amax((2, 3)) < 1e-3).any():
            chosen.append(rotation)
    return torch.stack(chosen), onto_points


def at_mates(grid: FourierGrid, onto_points: Tensor) -> FourierGrid:
    """The sums with each slice at R H, too, for all H that `split_group` has found; it is at R in `grid`."""
    if len(onto_points) == 1:
        return grid
    side, signal, power = _side(grid.radius), torch.zeros_like(grid.signal), torch.zeros_like(grid.power)
    for turn in onto_points.round():
        from_axis = [int(turn[:, axis].abs().argmax()) for axis in range(3)]  # row vectors: k H
        places = [2 - from_axis[2 - place] for place in range(3)]  # the cube's axes are (z, y, x)
        back = [place for place in range(3) if turn[2 - places[place], 2 - place] < 0]
        for sums, total in ((grid.signal, signal), (grid.power, power)):
            cube = sums.view(side, side, side, -1)
            total += cube.permute(*places, 3).flip(back).reshape(total.shape)
    return FourierGrid(grid.radius, signal, power)


def together(one: FourierGrid, other: FourierGrid) -> FourierGrid:
    """The sums over the images of both."""
    return FourierGrid(one.radius, one.signal + other.signal, one.power + other.power)


def without(grid: FourierGrid, part: FourierGrid) -> FourierGrid:
    """The sums over all images but those of `part`."""
    return FourierGrid(grid.radius, grid.signal - part.signal, grid.power - part.power)


def blend(grid: FourierGrid, new: FourierGrid, rate: float, within: Tensor) -> None:
    """Move the sums towards `new` by `rate`, at the shells up to `within`; a running mean over mini-batches."""
    inside = _shells(grid.radius, grid.power.device) <= within
    grid.power = torch.where(inside, (1 - rate) * grid.power + rate * new.power, grid.power)
    grid.signal = torch.where(inside[:, None], (1 - rate) * grid.signal + rate * new.signal, grid.signal)


def _inner(radius: int) -> slice:
    """The slice, along each side, of the images' box in the grid's box, which is twice as large."""
    return slice(OVERSAMPLING * radius - radius, OVERSAMPLING * radius + radius)


def _window(radius: int, device: torch.device) -> Tensor:
    """The window by which trilinear interpolation between grid points multiplies a map (L, L, L): sinc² a side."""
    axis = torch.sinc((torch.arange(2 * radius, device=device) - radius) / (2 * OVERSAMPLING * radius)) ** 2
    return axis[:, None, None] * axis[:, None] * axis


def _side(radius: int) -> int:
    return 2 * (OVERSAMPLING * radius + MARGIN) + 1


def grid_frequencies(radius: int, device: torch.device) -> Tensor:
    """Frequencies (m³, 3) of the grid points, (kx, ky, kz) in cycles per box."""
    axis = (torch.arange(_side(radius), device=device) - _side(radius) // 2) / OVERSAMPLING
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], -1).flatten(0, 2)


@functools.lru_cache(maxsize=1)  # a search asks twice a step
def _shells(radius: int, device: torch.device) -> Tensor:
    """Shell of every grid point, (m³,), in cycles per box."""
    return grid_frequencies(radius, device).norm(dim=-1).round().long()


def _within(radius: int, device: torch.device) -> Tensor:
    """The grid points, (m³,) bool, of the frequencies that images have."""
    return grid_frequencies(radius, device).norm(dim=-1) < radius


def _corners(k: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """The eight grid points around frequencies `k` (..., 3), int32, and their trilinear weights, (..., 8) each.

    Four pairs of neighbours along x come first: made this way, they take a third of the time of a product of weights.
    """
    side = _side(radius)
    position = (OVERSAMPLING * k).movedim(-1, 0)
    low = position.floor()
    x, y, z = (position - low).unbind(0)
    column, row, layer = low.int().unbind(0)
    first = ((layer + side // 2) * side + row + side // 2) * side + column + side // 2
    lines = torch.tensor([0, side, side * side, (side + 1) * side], dtype=torch.int32, device=k.device)
    points = first[..., None] + lines
    weights = torch.stack([(1 - z) * (1 - y), (1 - z) * y, z * (1 - y), z * y], -1)
    beyond = weights * x[..., None]
    return torch.cat([points, points + 1], -1), torch.cat([weights - beyond, beyond], -1)
