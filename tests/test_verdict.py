"""The judgement without a truth: what it needs to call a reconstruction converged, and how sure it says that it is."""

import pytest

from equipose.verdict import share, verdict


def summary(agree: float, confirmed: float, images: int = 1000, resolution: float | None = 20.0) -> dict:
    return {
        "halves_compared": [images] * 2,
        "halves_agree": [agree, agree],
        "agree_within_degrees": 30.0,
        "confirmed_images": [images] * 2,
        "confirmed_share": [confirmed, confirmed],
        "resolution_angstrom": {"corrected": resolution},
    }


@pytest.mark.parametrize(
    ("agree", "confirmed", "state"),
    [
        (0.987, 1.0, "converged"),  # 5NRL at SNR 1 by the command
        (1.0, 0.68, "not converged"),  # a run between both hands
        (0.008, 1.0, "not converged"),  # two runs with nothing in common
        (0.8, 0.9, "partly converged"),
    ],
)
def test_the_weakest_check_decides(agree: float, confirmed: float, state: str) -> None:
    assert verdict(summary(agree, confirmed)).state == state


def test_few_images_are_not_enough_to_be_sure() -> None:
    assert verdict(summary(0.95, 1.0, images=1000)).state == "converged"
    assert verdict(summary(0.95, 1.0, images=20)).state == "partly converged"


def test_maps_that_do_not_correlate_have_not_converged_whatever_the_poses_say() -> None:
    found = verdict(summary(1.0, 1.0, resolution=None))
    assert found.state == "not converged" and "no shell of their maps correlates" in found.says


def test_it_says_how_sure_it_is_and_of_what() -> None:
    found = verdict(summary(0.982, 1.0))
    assert "97.2% and 98.9%" in found.certainty and "simulated particles" in found.certainty
    assert [each.images for each in found.shares] == [1000] * 4


def test_an_interval_is_wilsons() -> None:
    found = share("", 100, 0.9)
    assert (found.low, found.high) == pytest.approx((0.8256, 0.9448), abs=1e-4)  # Newcombe 1998
