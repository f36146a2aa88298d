"""The verdict without a truth: when a reconstruction counts as converged, and how sure the verdict is."""

import pytest

from equipose.reconstruction.verdict import headline, share, verdict, with_verdict


def summary(first: float, second: float, images: int = 1000, resolution: float | None = 20.0) -> dict:
    return {
        "halves_compared": [images] * 2,
        "halves_agree": [first, second],
        "agree_within_degrees": 15.0,
        "resolution_angstrom": {"corrected": resolution},
    }


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        (0.969, 0.977, "converged"),  # 5NRL at SNR 0.06 of 64 px by the command
        (0.80, 0.50, "not converged"),  # the second run's poses split over both hands
        (0.001, 0.001, "not converged"),  # two runs with nothing in common
        (0.9, 0.8, "partly converged"),
        (0.9, 0.74, "partly converged"),  # the interval of 1000 images reaches down to 0.71
        (0.9, 0.72, "not converged"),  # to 0.69
    ],
)
def test_the_weaker_half_decides(first: float, second: float, state: str) -> None:
    assert verdict(summary(first, second)).state == state


@pytest.mark.parametrize(
    ("junk", "state"),
    [
        ({}, "partly converged"),  # a third of the images is noise, and the runs agree on all others
        ({"halves_agree_on_the_others": [0.97, 0.85]}, "not converged"),
        ({"threshold": None}, "not converged"),
        ({"below": 1100}, "not converged"),  # the molecule would be the smaller part
        ({"below": 0}, "not converged"),
    ],
)
def test_images_of_something_else_do_not_condemn_a_map_but_it_has_not_quite_converged(junk: dict, state: str) -> None:
    clean = {"threshold": 0.7, "below": 600, "of": 2000, "halves_agree_on_the_others": [0.97, 0.98]}
    found = verdict(summary(0.68, 0.69) | {"junk": clean | junk})
    assert found.state == state and ("equipose select" in found.says) == (state == "partly converged")


def test_few_images_are_not_enough_to_be_sure() -> None:
    assert verdict(summary(0.95, 1.0, images=1000)).state == "converged"
    assert verdict(summary(0.95, 1.0, images=20)).state == "partly converged"


def test_maps_that_do_not_correlate_have_not_converged_whatever_the_poses_say() -> None:
    found = verdict(summary(1.0, 1.0, resolution=None))
    assert found.state == "not converged" and "have maps that correlate in no shell" in found.says
    assert "agree on only" not in found.says and "a converged one" not in found.certainty


def test_it_says_that_views_are_uneven_where_there_is_a_map() -> None:
    uneven = {"sampling_compensation": 0.31}
    assert "uneven: their sampling compensation factor is 0.31" in verdict(summary(1.0, 1.0) | uneven).says
    along = {"directional_fsc": {"worst_angstrom": 31.2, "best_angstrom": 14.0}}
    assert "Along the worst direction the half-maps agree to 31.2 Å, along the best to 14 Å." in (
        verdict(summary(1.0, 1.0) | uneven | along).says
    )
    assert "uneven" not in verdict(summary(1.0, 1.0) | {"sampling_compensation": 0.95}).says
    assert "uneven" not in verdict(summary(0.1, 0.1) | uneven).says, "of wrong poses, views say nothing"


def test_a_molecule_that_is_only_nearly_symmetric_is_never_more_than_partly_converged() -> None:
    nearly = {"nearly_symmetric": True, "agree_modulo": "C2", "symmetry_correlation": {"C2": 0.91}}
    found = verdict(summary(0.99, 0.99) | nearly)
    assert found.state == "partly converged" and "modulo C2, which this molecule has only nearly (0.91" in found.says
    assert verdict(summary(0.3, 0.3) | nearly).state == "not converged"
    assert verdict(summary(0.99, 0.99) | nearly | {"nearly_symmetric": False}).state == "converged"


def test_it_says_how_sure_it_is_and_of_what() -> None:
    found = verdict(summary(0.982, 1.0))
    assert "97.2% and 98.9%" in found.certainty and "simulated particles" in found.certainty
    assert [each.images for each in found.shares] == [1000] * 2
    assert [each.what[:7] for each in found.shares] == ["half 1:", "half 2:"]


def measured(first: float, second: float, resolution: float | None = 11.2) -> dict:
    """What join.py measures: white noise gave 11.2 Å and 0.2 and 0.7 % of the poses."""
    local = {"quartile1": 10.0, "median": 11.0, "quartile3": 12.0}
    more = {"local_resolution_angstrom": local, "resolved_to_the_last_shell": False}
    more |= {"directional_fsc": {"worst_angstrom": 14.0, "best_angstrom": 10.0}}
    found = summary(first, second, resolution=resolution)
    found["resolution_angstrom"]["unmasked"] = 12.0
    return found | more


def test_two_runs_that_disagree_claim_no_resolution_and_the_curves_crossings_stay_known() -> None:
    found = with_verdict(measured(0.002, 0.007))
    assert found["verdict"]["state"] == "not_converged" and next(iter(found)) == "verdict"
    assert found["resolution_angstrom"] == {"corrected": None, "unmasked": None}
    assert found["local_resolution_angstrom"] is None and found["directional_fsc"]["worst_angstrom"] is None
    assert found["fsc_crosses_at_angstrom"] == {"corrected": 11.2, "unmasked": 12.0}
    said = headline(found)
    assert said.startswith("Not converged. Two runs that share no image agree on only 0 % of the poses. Do not use")
    assert said.endswith("No resolution is claimed.") and "Å" not in said
    assert verdict(found) == verdict(measured(0.002, 0.007)), "the page says the same"


def test_half_maps_that_share_only_a_peak_at_their_centre_have_no_resolution_whatever_the_poses_say() -> None:
    found = with_verdict(measured(0.99, 0.99) | {"fsc_off_centre": 0.02})
    assert found["verdict"]["state"] == "not_converged" and "only in a peak at their centre" in headline(found)
    assert found["resolution_angstrom"]["corrected"] is None
    assert with_verdict(measured(0.99, 0.99) | {"fsc_off_centre": 0.6})["verdict"]["state"] == "converged"


@pytest.mark.parametrize(("share", "state"), [(0.99, "converged"), (0.8, "partly_converged")])
def test_a_resolution_comes_with_its_verdict(share: float, state: str) -> None:
    found = with_verdict(measured(share, share))
    assert found["verdict"]["state"] == state and found["resolution_angstrom"]["corrected"] == 11.2
    said = headline(found)
    assert said.startswith(state.replace("_", " ").capitalize() + ". ") and found["verdict"]["text"] in said
    assert said.endswith("FSC = 0.143 at 11.2 Å (gold standard, masked).")


def test_an_interval_is_wilsons() -> None:
    found = share("", 100, 0.9)
    assert (found.low, found.high) == pytest.approx((0.8256, 0.9448), abs=1e-4)  # Newcombe 1998


@pytest.mark.parametrize(
    ("confirmed", "words"),
    [
        ([1.0, 0.67], "The run of half 2 has failed: the runs confirm 100% and 67%"),
        ([0.3, 0.5], "Both runs have failed"),
        ([0.98, 0.99], "they found different maps"),
    ],
)
def test_where_the_halves_do_not_agree_it_says_which_failed_and_what_to_try(confirmed: list, words: str) -> None:
    found = verdict(summary(0.02, 0.03) | {"confirmed": confirmed})
    assert (
        words in found.says and "Search from more starts (--starts), say" in found.says and "--symmetry" in found.says
    )
    assert "confirm 1" not in verdict(summary(0.99, 0.99) | {"confirmed": confirmed}).says


def test_runs_that_do_not_agree_are_told_nothing_false() -> None:
    """Two starts that agreed are not made again; alike maps are not different; C1 confirms few poses of a D7."""
    own = summary(0.62, 0.64) | {"confirmed": [0.97, 0.96], "symmetry": "C1", "agree_modulo": "C1"}
    assert "found different maps" in verdict(own | {"half_maps_alike": 0.5}).says
    alike = verdict(own | {"half_maps_alike": 0.98, "starts_agree": True}).says
    assert "their maps are alike (0.98; 1 is the same)" in alike and "different maps" not in alike
    assert "--starts" not in alike and "Say which symmetry the particle has (--symmetry), allow" in alike
    mates = verdict(own | {"confirmed": [0.08, 0.07], "agree_modulo": "D7"}).says
    assert "confirm" not in mates and "Search from more starts" in mates
    told = verdict(own | {"symmetry": "D7", "agree_modulo": "D7", "starts_agree": True}).says
    assert "--symmetry" not in told and "Allow for larger shifts (--shift-std), or give" in told


def test_shifts_wider_than_assumed_are_said_with_the_option_that_helps() -> None:
    measured = summary(0.98, 0.97) | {"shift_std": 4.5, "far_shifts": 0.19, "voxel_size": 4.0}
    assert "whose poses both runs find, 19 % lie more than 13.5 Å from the middle" in verdict(measured).says
    assert "--shift-std 9." in verdict(measured).says, "twice what was assumed, in a folder that does not say more"
    assert "--shift-std 5.6." in verdict(measured | {"shift_std_found": 5.63}).says
    assert "from the middle" not in verdict(measured | {"far_shifts": 0.02}).says
    centred = verdict(measured | {"shift_std": 0.0, "far_shifts": 0.08}).says
    assert "8 % lie more than 4 Å from the middle" in centred and "--shift-std 2.7." in centred
    assert "from the middle" not in verdict(measured | {"halves_agree": [0.1, 0.1]}).says
