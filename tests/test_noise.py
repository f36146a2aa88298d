"""Noise whitened by its own spectrum: white noise stays, coloured noise becomes white, and nothing turns or moves."""

import numpy as np
import pytest

from equipose.core.noise import filtered, noise_power, shells, whitening

BOX, COUNT = 32, 400


@pytest.fixture(scope="module")
def window() -> np.ndarray:
    """The window of the background, outside of a radius of 10 pixels."""
    axis = np.arange(BOX) - BOX // 2
    return np.clip((np.hypot(axis[:, None], axis) - 10) / 3, 0, 1)


@pytest.fixture(scope="module")
def white() -> np.ndarray:
    images = np.random.default_rng(0).standard_normal((COUNT, BOX, BOX)).astype(np.float32)
    nyquist = np.ones((BOX, BOX // 2 + 1))
    nyquist[BOX // 2], nyquist[:, BOX // 2] = 0, 0  # as cropping leaves images
    return filtered(images, nyquist)


COLOUR = 1 / (1 + shells(BOX) / 4)
"""Of noise that is strongest at the lowest shells, as that of ice is."""


def test_white_noise_is_left_as_it_is(white: np.ndarray, window: np.ndarray) -> None:
    factors = whitening(noise_power(white, window))
    np.testing.assert_allclose(factors[: BOX // 2], 1, atol=0.03)


def test_the_power_is_that_of_a_pixel(white: np.ndarray, window: np.ndarray) -> None:
    np.testing.assert_allclose(noise_power(3 * white, window)[2 : BOX // 2], 9, rtol=0.06)


def test_coloured_noise_becomes_white(white: np.ndarray, window: np.ndarray) -> None:
    coloured = filtered(white, COLOUR)
    before = noise_power(coloured, window)[: BOX // 2]
    assert before.max() / before.min() > 5
    after = noise_power(filtered(coloured, whitening(noise_power(coloured, window))[shells(BOX)]), np.ones((BOX, BOX)))
    np.testing.assert_allclose(after[2 : BOX // 2] / np.median(after), 1, atol=0.1)


def test_the_lowest_shells_are_taken_as_the_second_and_all_others_as_they_are(white: np.ndarray) -> None:
    coloured, whole = filtered(white, COLOUR), np.ones((BOX, BOX))
    power = np.abs(np.fft.fft2(coloured, norm="ortho")) ** 2
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.hypot(k, k[:, None]))
    found = noise_power(coloured, whole)
    for number in range(2, BOX // 2):
        assert found[number] == pytest.approx(power[:, shell == number].mean(), rel=0.05)  # one half of the plane
    assert found[0] == found[1] == found[2] > 1.1 * found[3]


def test_what_images_hold_in_the_nyquist_row_and_column_is_not_counted(white: np.ndarray) -> None:
    stripes = 5 * (-1.0) ** np.arange(BOX)
    whole = np.ones((BOX, BOX))
    for pattern in (stripes, stripes[:, None]):
        np.testing.assert_allclose(noise_power(white + pattern, whole), noise_power(white, whole), rtol=1e-4)


def test_the_filter_is_the_inverse_amplitude_and_ten_at_most() -> None:
    np.testing.assert_allclose(whitening(np.array([4.0, 1, 1, 0.25, 0.01, 0.001, 1])), [0.5, 1, 1, 2, 10, 10, 1])


def test_a_shell_without_noise_is_not_raised_beyond_measure(white: np.ndarray, window: np.ndarray) -> None:
    cut = filtered(white, (shells(BOX) < 10).astype(float))
    assert whitening(noise_power(cut, window)).max() < 11


def test_a_particle_inside_does_not_count_as_noise(white: np.ndarray, window: np.ndarray) -> None:
    axis = np.arange(BOX) - BOX // 2
    particle = 5 * np.exp(-(axis**2 + axis[:, None] ** 2) / 18)
    factors = whitening(noise_power(white + particle, window))
    np.testing.assert_allclose(factors[: BOX // 2], 1, atol=0.05)


@pytest.mark.parametrize("move", [np.rot90, np.flip], ids=["quarter turn", "half turn"])
def test_filtering_commutes_with_the_motions_that_the_encoders_know(white: np.ndarray, move) -> None:
    """These are motions of arrays, about (L - 1)/2, so the networks stay equivariant."""
    image, colour = white[0], np.sqrt(COLOUR)
    moved = filtered(move(image)[None], colour)[0]
    np.testing.assert_allclose(moved, move(filtered(image[None], colour)[0]), atol=1e-5)
