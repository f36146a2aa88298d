"""The B factor that a map was blurred with is found again, and taken out."""

import numpy as np
import pytest

from equipose.core.sharpening import fsc_weights, guinier_b_factor, weighted_map

BOX, PIXEL = 64, 1.0


def blurred(b_factor: float) -> np.ndarray:
    """Atoms at random: white but for exp(-B/4 s²)."""
    volume = np.random.default_rng(0).normal(size=(BOX,) * 3)
    return weighted_map(volume, np.ones(BOX // 2), PIXEL, -b_factor)


def test_the_b_factor_is_found_and_taken_out() -> None:
    flat = np.ones(BOX // 2)
    assert guinier_b_factor(blurred(80.0), flat, PIXEL, 2.5) == pytest.approx(80, abs=3)
    sharp = weighted_map(blurred(80.0), flat, PIXEL, 80.0)
    assert guinier_b_factor(sharp, flat, PIXEL, 2.5) == pytest.approx(0, abs=3)


def test_a_coarse_map_has_no_b_factor() -> None:
    assert guinier_b_factor(blurred(80.0), np.ones(BOX // 2), PIXEL, 9.0) is None
    assert guinier_b_factor(blurred(80.0), np.ones(BOX // 2), 8.5, 17.0) is None


def test_weights_are_those_of_the_whole_map_and_end_where_its_halves_no_longer_correlate() -> None:
    weights = fsc_weights(np.array([0.9, 1.0, 0.5, 0.143, -0.01, 0.2]))
    np.testing.assert_allclose(weights, [1, 1, np.sqrt(2 / 3), np.sqrt(0.286 / 1.143), 0, 0])
    volume = np.random.default_rng(0).normal(size=(12,) * 3)
    kept = np.abs(np.fft.rfftn(weighted_map(volume, weights, PIXEL)) / np.fft.rfftn(volume))
    assert kept[0, 0, 2] == pytest.approx(weights[2], abs=1e-6) and kept[0, 0, 4] == pytest.approx(0, abs=1e-6)
