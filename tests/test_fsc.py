"""Fourier shell correlation: analytic curves, other programs, and the two ways to read a resolution."""

from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch_fourier_shell_correlation import fourier_shell_correlation as torch_fsc

from equipose.core.fsc import (
    corrected_fsc,
    exact_resolution,
    fourier_shell_correlation,
    nyquist_reached,
    off_centre,
    paper_resolution,
)

REPOSITORY = Path(__file__).parents[1]
BOX = 32


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, BOX, BOX, BOX))


def wave(shell: int) -> np.ndarray:
    """A cosine along x of `shell` cycles per box."""
    return np.broadcast_to(np.cos(2 * np.pi * shell * np.arange(BOX) / BOX), (BOX, BOX, BOX))


def test_a_volume_correlates_fully_with_itself_and_against_its_negative(noise):
    a = noise[0]
    assert np.allclose(fourier_shell_correlation(a, a), 1)
    assert np.allclose(fourier_shell_correlation(a, -2.5 * a), -1)


def test_there_are_shells_0_to_nyquist_minus_1(noise):
    assert fourier_shell_correlation(*noise).shape == (BOX // 2,)


def test_a_common_part_of_amplitude_c_gives_c_squared_over_1_plus_c_squared():
    common, a, b = np.random.default_rng(1).normal(size=(3, BOX, BOX, BOX))
    curve = fourier_shell_correlation(2 * common + a, 2 * common + b)
    assert np.allclose(curve[5:], 4 / 5, atol=0.05)


def test_only_the_shell_of_a_wave_tells_two_volumes_apart(noise):
    changed = noise[0] + 10 * wave(7)
    curve = fourier_shell_correlation(noise[0], changed)
    assert np.allclose(np.delete(curve, 7), 1)
    assert curve[7] < 0.9


def test_the_curve_is_the_definition_over_all_coefficients_of_the_whole_transform(noise):
    """Half of them are computed; each of the others counts as much."""
    a, b = noise[0], noise[0] + noise[1]
    k = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2))
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    for number, value in enumerate(fourier_shell_correlation(a, b)):
        x, y = fa[shell == number], fb[shell == number]
        assert value == pytest.approx(np.vdot(x, y).real / np.sqrt(np.vdot(x, x).real * np.vdot(y, y).real))


def test_a_frequency_between_shells_goes_to_the_nearest(noise):
    y, x = np.indices((BOX, BOX))
    diagonal = np.cos(2 * np.pi * 4 * (x + y) / BOX)  # |k| = 4 √2 = 5.66
    curve = fourier_shell_correlation(noise[0], noise[0] + 10 * diagonal)
    assert set(np.flatnonzero(curve < 0.999)) == {6}


def test_an_empty_volume_has_no_correlation(noise):
    assert np.array_equal(fourier_shell_correlation(np.zeros_like(noise[0]), noise[0]), np.zeros(BOX // 2))


def test_it_agrees_with_torch_fourier_shell_correlation_up_to_that_ones_interpolated_shells():
    common, a, b = np.random.default_rng(2).normal(size=(3, 64, 64, 64))
    a, b = common + a, common + b
    theirs = torch_fsc(torch.from_numpy(a), torch.from_numpy(b)).numpy()[:32]
    assert np.allclose(fourier_shell_correlation(a, b)[8:], theirs[8:], atol=0.03)


#                 shell  0  1  2    3    4    5    6    7
CURVE = np.array([1, 1, 0.9, 0.7, 0.4, 0.6, 0.2, 0.1])
ANGSTROM = 16 * 2.0  # box · voxel size


def test_the_papers_resolution_is_the_last_whole_shell_before_the_first_drop():
    assert paper_resolution(CURVE, 0.5, 2.0) == pytest.approx(ANGSTROM / 3)
    assert paper_resolution(CURVE, 0.143, 2.0) == pytest.approx(ANGSTROM / 6)
    assert paper_resolution(np.ones(8), 0.5, 2.0) == pytest.approx(ANGSTROM / 7)
    assert paper_resolution(np.array([1, 0.3, 0.9, 0.1]), 0.5, 2.0) is None


def test_exact_crossings_are_interpolated_between_shells():
    crossings = exact_resolution(CURVE, 0.5, 2.0)
    assert crossings.first == pytest.approx(ANGSTROM / (3 + 2 / 3))
    assert crossings.last == pytest.approx(ANGSTROM / 5.25)
    single = exact_resolution(CURVE, 0.143, 2.0)
    assert single.first == single.last == pytest.approx(ANGSTROM / 6.57)


def test_a_curve_that_never_falls_reaches_the_last_shell_and_one_that_never_rises_has_no_resolution():
    assert exact_resolution(np.ones(8), 0.5, 2.0).last == pytest.approx(ANGSTROM / 7)
    assert exact_resolution(np.r_[1, np.zeros(7)], 0.5, 2.0).first is None
    assert exact_resolution(np.r_[1, np.zeros(7)], 0.5, 2.0).last is None


def test_a_curve_that_starts_below_the_threshold_has_only_a_last_crossing():
    crossings = exact_resolution(np.array([1, 0.3, 0.9, 0.1]), 0.5, 2.0)
    assert crossings.first is None
    assert crossings.last == pytest.approx(8 * 2.0 / 2.5)


def test_a_curve_that_starts_at_the_threshold_crosses_it_there():
    assert exact_resolution(np.array([1, 0.5, 0.3, 0.1]), 0.5, 2.0).first == pytest.approx(8 * 2.0 / 1)


def test_nyquist_is_reached_only_if_every_shell_is_above_one_half():
    assert nyquist_reached(np.full(8, 0.5))
    assert not nyquist_reached(np.array([1, 1, 0.49, 1]))
    assert nyquist_reached(np.array([-1, 1, 1, 1])), "the mean density is no shell"


def test_every_resolution_of_the_papers_table_1_is_a_mean_of_three_whole_shells():
    table = pd.read_csv(REPOSITORY / "workflow/resources/paper/table1.csv")
    for row in table.itertuples():
        angstrom = 128 * (4.25 if row.dataset.startswith("spliceosome") else 3.77)
        triples = angstrom / np.array(list(combinations_with_replacement(range(30, 60), 3)))
        fits = (np.abs(triples.mean(1) - row.resolution_A) < 0.0051) & (
            np.abs(triples.std(1) - row.resolution_A_std) < 0.0051
        )
        assert fits.sum() == 1, f"{row.dataset} {row.encoder} {row.loss}"


def test_the_papers_table_2_has_whole_shells_but_for_two_halfway_between_shells():
    shells = 128 * 3.77 / pd.read_csv(REPOSITORY / "workflow/resources/paper/table2.csv")["resolution_A"]
    assert (np.abs(shells - shells.round()) < 0.03).sum() == 8
    assert (np.abs(2 * shells - (2 * shells).round()) < 0.06).all()


def test_a_tight_mask_alone_makes_masked_fsc_high_and_corrected_fsc_not() -> None:
    """Half-maps of pure noise: beyond the first shells, only the mask makes them correlate."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 48, 48, 48))
    z, y, x = np.indices((48, 48, 48)) - 24
    shared = np.exp(-(x**2 + y**2 + z**2) / 50) * 20
    mask = (np.sqrt(x**2 + y**2 + z**2) < 6).astype(float)
    curves = corrected_fsc(first + shared, second + shared, mask)
    assert abs(curves["corrected"][12:].mean()) < 0.2
    np.testing.assert_allclose(curves["unmasked"][12:].mean(), 0, atol=0.02)


def test_equal_half_maps_correlate_at_every_shell() -> None:
    volume = np.random.default_rng(0).standard_normal((32, 32, 32))
    for name, curve in corrected_fsc(volume, volume, np.ones_like(volume)).items():
        if name != "randomised":
            np.testing.assert_allclose(curve[1:], 1, atol=1e-6)


def test_the_mask_s_part_is_taken_off_from_two_shells_beyond_the_cut(noise) -> None:
    """The maps correlate in shells 1 to 5 alone, so that phases are random from shell 6 on."""
    z, y, x = np.indices((BOX,) * 3) - BOX // 2
    radius = np.sqrt(x**2 + y**2 + z**2)
    half_maps = [noise[seed] + 30 * wave_packet(5) for seed in (0, 1)]
    curves = corrected_fsc(*half_maps, (radius < 6).astype(float))
    assert (curves["unmasked"][1:6] > 0.9).all() and (curves["unmasked"][6:] < 0.3).all()
    assert np.array_equal(curves["corrected"][:8], curves["masked"][:8])
    masked, randomised, corrected = (curves[name][8:] for name in ("masked", "randomised", "corrected"))
    np.testing.assert_allclose(corrected, (masked - randomised) / (1 - randomised))
    assert np.abs(corrected - masked).min() > 1e-3


def wave_packet(last: int) -> np.ndarray:
    """White noise, the same at every call, in shells 0 to `last`."""
    frequency = np.fft.fftfreq(BOX, 1 / BOX)
    shell = np.rint(np.sqrt(sum(axis**2 for axis in np.meshgrid(*[frequency] * 3, indexing="ij"))))
    spectrum = np.fft.fftn(np.random.default_rng(2).normal(size=(BOX,) * 3))
    return np.fft.ifftn(np.where(shell <= last, spectrum, 0)).real


def test_a_peak_at_the_centre_of_noise_correlates_there_only_and_a_molecule_everywhere() -> None:
    rng, axis = np.random.default_rng(0), np.arange(32) - 16
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    mask = np.clip(9 - radius, 0, 1)
    noise = rng.standard_normal((2, 32, 32, 32))
    peak = 15 * np.exp(-(radius**2) / 4) + noise
    assert corrected_fsc(*peak, mask)["corrected"][2:7].mean() > 0.5
    assert off_centre(*peak, mask, 6) < 0.143
    molecule = 5 * rng.standard_normal((32, 32, 32)) + noise
    assert off_centre(*molecule, mask, 6) > 0.9
