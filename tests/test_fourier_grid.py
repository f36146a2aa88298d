"""Back-projection: slices that are inserted into the Fourier grid are read from it again."""

import pytest
import torch

from equipose.core import point_groups
from equipose.core.fourier import half_disc
from equipose.core.fourier_grid import (
    at_mates,
    blend,
    empty_grid,
    enlarged,
    from_real_map,
    grid_map,
    grid_slices,
    grid_volume,
    insert_slices,
    split_group,
    with_slopes,
)
from equipose.poses.search import random_rotations

BOX, CPU = 32, torch.device("cpu")


def blob(k: torch.Tensor) -> torch.Tensor:
    """Transform of four unequal Gaussians without symmetry, compact enough for trilinear interpolation."""
    centres = torch.tensor([[4.0, -1.0, 1.5], [-3.5, 3.0, 0.5], [0.0, -4.0, -3.0], [-1.0, 1.0, 5.0]])
    decay = torch.exp(-2 * (torch.pi * 1.2 / BOX) ** 2 * k.square().sum(-1))
    phase = -2 * torch.pi / BOX * (k @ centres.T)
    masses = torch.tensor([1.0, 0.8, 0.7, 0.5]).to(torch.complex64)
    return decay * (torch.polar(torch.ones_like(phase), phase) @ masses)


def slices_of(rotations: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return blob(k @ rotations[:, :2])


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def filled(disc, generator, images=400, transfer=1.0):
    grid = empty_grid(BOX // 2, CPU)
    rotations = random_rotations(images, generator)
    values = slices_of(rotations, disc.k)
    insert_slices(
        grid, rotations, disc, transfer**2 * values, torch.full(values.shape, transfer**2), torch.eye(3)[None]
    )
    return grid


def test_slices_of_the_volume_are_those_that_were_inserted(generator):
    disc = half_disc(BOX, 12)
    volume = grid_volume(filled(disc, generator))
    rotations = random_rotations(20, generator)
    found = grid_slices(volume, BOX // 2, rotations, half_disc(BOX, 10))
    wanted = slices_of(rotations, half_disc(BOX, 10).k)
    scale = (found * wanted.conj()).real.sum() / wanted.abs().square().sum()
    assert 0.8 < scale < 1, "a Wiener filter shrinks a little"
    assert (found / scale - wanted).norm() / wanted.norm() < 0.08


def test_the_volume_does_not_depend_on_the_contrast_of_its_images(generator):
    weak = grid_volume(filled(half_disc(BOX, 8), torch.Generator().manual_seed(1), transfer=0.3))
    strong = grid_volume(filled(half_disc(BOX, 8), torch.Generator().manual_seed(1), transfer=1.0))
    assert torch.allclose(weak, strong, atol=2e-3 * float(strong.abs().max()))


def test_the_volume_is_hermitian(generator):
    """Values at k and -k are conjugate: the map is real."""
    volume = grid_volume(filled(half_disc(BOX, 8), generator))
    assert torch.allclose(volume, volume.flip(0) * torch.tensor([1.0, -1.0]), atol=1e-5 * float(volume.abs().max()))


@pytest.mark.parametrize(("symmetry", "turns", "onto_points"), [
    ("C1", 1, 1), ("C3", 3, 1), ("C4", 1, 4), ("D2", 1, 4), ("D7", 7, 2), ("T", 12, 1), ("O", 1, 24), ("I", 5, 12),
])  # fmt: skip
def test_turns_that_move_grid_points_to_grid_points_need_no_insertion(generator, symmetry, turns, onto_points):
    group = torch.from_numpy(point_groups.group(symmetry)).float()
    few, moves = split_group(group)
    assert (len(few), len(moves)) == (turns, onto_points)
    disc, rotations, grids = half_disc(BOX, 12), random_rotations(10, generator), []
    values = slices_of(rotations, disc.k)
    for some in (group, few):
        grids.append(empty_grid(BOX // 2, CPU))
        insert_slices(grids[-1], rotations, disc, values, values.abs(), some)
    found = at_mates(grids[1], moves)
    assert torch.allclose(found.signal, grids[0].signal, atol=1e-4 * float(grids[0].signal.abs().max()))
    assert torch.allclose(found.power, grids[0].power, atol=1e-4 * float(grids[0].power.abs().max()))


def test_blending_moves_the_inner_shells_only(generator):
    grid, new = empty_grid(8, CPU), empty_grid(8, CPU)
    new.power += 1
    blend(grid, new, rate=0.25, within=4)
    inside = grid.power > 0
    assert torch.allclose(grid.power[inside], torch.tensor(0.25))
    share = inside.float().mean()
    assert 0.5 * (4.5 * 2) ** 3 * 4.19 < share * len(inside) < 1.2 * (4.5 * 2) ** 3 * 4.19


def gaussian_map(generator, x):
    """The map of 2,000 slices of a Gaussian of height 1 at (x, 0, 2) voxels from the origin."""
    disc, grid, centre = half_disc(BOX), empty_grid(BOX // 2, CPU), torch.tensor([x, 0.0, 2.0])
    mass = (2 * torch.pi * 1.5**2) ** 1.5 / BOX
    for rotations in random_rotations(2000, generator).split(500):
        k = disc.k @ rotations[:, :2]
        decay = mass * torch.exp(-2 * (torch.pi * 1.5 / BOX) ** 2 * k.square().sum(-1))
        values = torch.polar(decay, -2 * torch.pi / BOX * (k @ centre))
        insert_slices(grid, rotations, disc, values, torch.ones_like(decay), torch.eye(3)[None])
    return grid_map(grid)


def test_a_map_is_as_high_at_its_rim_as_at_its_centre_where_it_should_be(generator):
    """Interpolation dims the rim by a tenth. The prior lowers all parts by the same factor."""
    centre, rim = (gaussian_map(generator, float(x))[BOX // 2 + 2, BOX // 2, BOX // 2 + x] for x in (0, 12))
    assert 0.85 < centre < 1
    assert abs(rim / centre - 1) < 0.03


def test_what_lies_outside_of_the_box_is_not_folded_into_it(generator):
    assert abs(gaussian_map(generator, 20.0)).max() < 0.05


def test_what_is_read_from_a_map_s_grid_between_its_points_is_the_map_s_transform(generator):
    """A Gaussian far from the centre, where reading dims most."""
    axis = torch.arange(BOX) - BOX / 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    centre = torch.tensor([8.0, -3.0, 6.0])
    voxels = torch.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) / (2 * 2.0**2))
    rotations, disc = random_rotations(50, generator), half_disc(BOX, 12)
    k = disc.k @ rotations[:, :2]
    mass = (2 * torch.pi * 2.0**2) ** 1.5 / BOX
    decay = mass * torch.exp(-2 * (torch.pi * 2.0 / BOX) ** 2 * k.square().sum(-1))
    wanted = torch.polar(decay, -2 * torch.pi / BOX * (k @ centre))
    found = grid_slices(from_real_map(voxels, BOX // 2), BOX // 2, rotations, disc)
    assert (found - wanted).norm() / wanted.norm() < 0.1
    scale = (found * wanted.conj()).real.sum() / wanted.abs().square().sum()
    assert scale == pytest.approx(1, abs=0.01)


def test_an_enlarged_grid_has_the_same_values_at_the_same_points(generator):
    rotations = random_rotations(20, generator).double()
    disc = half_disc(BOX, 7).to(rotations)
    small = from_real_map(torch.randn(16, 16, 16, generator=generator, dtype=torch.float64), 8)
    found = grid_slices(enlarged(small, 8, 16), 16, rotations, disc)
    assert torch.allclose(found, grid_slices(small, 8, rotations, disc), atol=1e-12)


def test_slices_of_one_volume_are_those_of_it_among_several(generator):
    rotations, disc = random_rotations(20, generator), half_disc(BOX, 16)
    volume = from_real_map(torch.randn(BOX, BOX, BOX, generator=generator), BOX // 2)
    found = grid_slices(with_slopes(volume, BOX // 2), BOX // 2, rotations, disc)
    alone = grid_slices(volume, BOX // 2, rotations, disc)
    assert (found[..., 0] - alone).abs().max() < 1e-4 * alone.abs().max()


def test_slices_are_inserted_at_all_mates_of_their_poses():
    """A volume from one view alone looks the same after every rotation of the group."""
    disc, group = half_disc(BOX, 10), torch.from_numpy(point_groups.group("C3")).float()
    generator = torch.Generator().manual_seed(0)
    rotations = random_rotations(40, generator)
    grid = empty_grid(BOX // 2, torch.device("cpu"))
    values = slices_of(rotations, disc.k)
    insert_slices(grid, rotations, disc, values, torch.ones(values.shape), group)
    looks = random_rotations(5, generator)
    plain, turned = (grid_slices(grid_volume(grid), grid.radius, poses, disc) for poses in (looks, looks @ group[1]))
    assert (turned - plain).abs().square().mean() < 0.02 * plain.abs().square().mean()
