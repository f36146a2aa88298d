"""The half disc: which frequencies it holds, its units, its centre, and the sign of a shift."""

import pytest
import torch

from equipose.core.fourier import from_half_disc, half_disc, on_disc, shift_phase, to_half_disc


def band_limited_image(box: int) -> torch.Tensor:
    """A random real image with no Fourier coefficients outside the disc."""
    generator = torch.Generator().manual_seed(0)
    disc = half_disc(box)
    return from_half_disc(to_half_disc(torch.randn(3, box, box, generator=generator), disc), disc)


@pytest.mark.parametrize("box", [8, 32])
def test_the_half_disc_holds_one_of_each_pair_of_frequencies_below_nyquist(box: int) -> None:
    half = {tuple(k) for k in half_disc(box).k.long().tolist()}
    mirrored = {(-x, -y) for x, y in half}
    reach = range(-box, box + 1)
    assert half & mirrored == {(0, 0)}
    assert half | mirrored == {(x, y) for x in reach for y in reach if x * x + y * y < (box / 2) ** 2}


def test_a_smaller_radius_keeps_the_frequencies_below_it() -> None:
    k = half_disc(32, radius=5).k
    assert k.norm(dim=-1).max() < 5
    assert 2 * len(k) - 1 == sum(x * x + y * y < 25 for x in range(-5, 6) for y in range(-5, 6))


def test_parseval_holds_over_the_half_disc() -> None:
    image, disc = band_limited_image(32), half_disc(32)
    power = (disc.weights * to_half_disc(image, disc).abs() ** 2).sum(-1)
    torch.testing.assert_close(power, (image**2).sum((-2, -1)))


def test_a_band_limited_image_survives_the_round_trip() -> None:
    image, disc = band_limited_image(32), half_disc(32)
    torch.testing.assert_close(from_half_disc(to_half_disc(image, disc), disc), image)


def test_any_coefficients_survive_the_round_trip() -> None:
    disc = half_disc(16)
    coefficients = torch.randn(2, len(disc.k), dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    coefficients[:, (disc.k == 0).all(-1)] = 1.0  # the mean of a real image is real
    torch.testing.assert_close(to_half_disc(from_half_disc(coefficients, disc), disc), coefficients)


def test_the_centre_is_pixel_half_the_box() -> None:
    image, disc = torch.zeros(16, 16), half_disc(16)
    image[8, 8] = 1.0
    torch.testing.assert_close(to_half_disc(image, disc), torch.full((len(disc.k),), 1 / 16, dtype=torch.complex64))


def test_the_first_coordinate_is_x_along_columns() -> None:
    box, disc = 16, half_disc(16)
    wave = torch.cos(2 * torch.pi * 3 * (torch.arange(box) - box // 2) / box).expand(box, box)  # varies along a row
    coefficients = to_half_disc(wave, disc)
    assert disc.k[coefficients.abs().argmax()].tolist() == [3.0, 0.0]


@pytest.mark.parametrize("x, y", [(3, 0), (0, -2), (5, 1)])
def test_a_shift_by_whole_pixels_rolls_the_image(x: int, y: int) -> None:
    image, disc = band_limited_image(32), half_disc(32)
    shifted = from_half_disc(to_half_disc(image, disc) * shift_phase(torch.tensor([float(x), float(y)]), disc), disc)
    torch.testing.assert_close(shifted, torch.roll(image, (y, x), dims=(-2, -1)), atol=1e-5, rtol=0)


def test_two_half_pixel_shifts_make_a_whole_one() -> None:
    image, disc = band_limited_image(16), half_disc(16)
    phase = shift_phase(torch.tensor([0.5, 0.5]), disc)
    shifted = from_half_disc(to_half_disc(image, disc) * phase * phase, disc)
    torch.testing.assert_close(shifted, torch.roll(image, (1, 1), dims=(-2, -1)), atol=1e-5, rtol=0)


def test_the_parts_of_a_disc_make_it_up_in_order() -> None:
    disc = half_disc(16)
    parts = disc.split(30)
    assert [len(part.k) for part in parts] == [30, 30, 30, len(disc.k) - 90]
    assert torch.equal(torch.cat([part.k for part in parts]), disc.k)
    assert torch.equal(torch.cat([part.weights for part in parts]), disc.weights)
    assert {part.box for part in parts} == {16}


def test_values_by_shell_go_to_the_frequencies_of_a_disc() -> None:
    disc = half_disc(8)
    found = dict(zip(map(tuple, disc.k.tolist()), on_disc([0.0, 10.0, 20.0, 30.0, 40.0], disc).tolist(), strict=True))
    assert (found[0, 0], found[1, 0], found[1, 1], found[2, 2], found[3, -2]) == (0, 10, 10, 30, 40)
