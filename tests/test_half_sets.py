"""Half-sets share nothing: rows of one image, of one tube and of one place stay together."""

import re
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from equipose.errors import FileWarning
from equipose.io.half_sets import (
    SUBSET,
    half_of,
    half_of_more,
    has_halves,
    kept_together,
    repeats,
    seen_before,
    warn_of_repeats,
)

OPTICS = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImageSize": [100], "rlnImagePixelSize": [2.0]})
OPTICS["rlnMicrographOriginalPixelSize"] = 1.0
"""Boxes of 200 pixels of the micrograph, of which 10 are near."""


def rows(count: int, **columns: object) -> pd.DataFrame:
    names = [f"{image:06d}@s.mrcs" for image in range(1, count + 1)]
    return pd.DataFrame({"rlnImageName": names, "rlnMicrographName": ["m"] * count} | columns)


def picks(*places: tuple[str, float, float]) -> pd.DataFrame:
    """Picks (micrograph, x, y), and many that are far from any other, since few would be a crowd."""
    alone = [("far", 1000.0 * number, 0.0) for number in range(100)]
    names, x, y = zip(*places, *alone, strict=True)
    return rows(len(x), rlnMicrographName=list(names), rlnCoordinateX=list(x), rlnCoordinateY=list(y))


def test_particles_that_share_nothing_get_equal_halves_at_random_that_are_always_the_same() -> None:
    table = rows(1001)
    halves = half_of(table, OPTICS)
    assert abs(int((halves == 1).sum()) - int((halves == 2).sum())) == 1
    assert 0.4 < (halves[1:] == halves[:-1]).mean() < 0.6
    np.testing.assert_array_equal(halves, 1 + np.random.default_rng(0).permutation(1001) % 2)  # as they ever were
    assert list(half_of(table[:3].assign(rlnRandomSubset=[2, 1, 2]), OPTICS)) == [2, 1, 2]
    assert list(half_of(table[:3].assign(rlnRandomSubset=["2", "1", "2"]), OPTICS)) == [2, 1, 2]
    assert not has_halves(table.assign(rlnRandomSubset=1))


def test_all_rows_of_an_image_are_in_one_half_however_its_number_is_written() -> None:
    once = rows(600)
    again = once.assign(rlnImageName=once["rlnImageName"].str.lstrip("0"))
    halves = half_of(pd.concat([once, again], ignore_index=True), OPTICS)
    np.testing.assert_array_equal(halves[:600], halves[600:])
    assert list(np.bincount(halves)[1:]) == [600, 600]
    assert repeats(pd.concat([once, again])) == 600 and repeats(once) == 0
    assert repeats(pd.DataFrame({"rlnImageName": ["10@s.mrcs", "100@s.mrcs", "10@t.mrcs"]})) == 0
    alike = ["7@a/s.mrcs", "007@./a/s.mrcs", "7@a//s.mrcs:mrcs", "000007@a/b/../s.mrcs", "s.mrcs", "1@./s.mrcs"]
    assert repeats(pd.DataFrame({"rlnImageName": alike})) == 4


def test_symmetry_expanded_copies_stay_together() -> None:
    expanded = rows(50).loc[np.repeat(np.arange(50), 12)].reset_index(drop=True).assign(rlnAngleRot=range(600))
    halves = half_of(expanded, OPTICS).reshape(50, 12)
    assert (halves == halves[:, :1]).all() and (halves[:, 0] == 1).sum() == 25


def test_a_tube_of_a_micrograph_stays_together_and_tubes_of_other_micrographs_do_not_join_it() -> None:
    table = rows(400, rlnHelicalTubeID=np.arange(400) // 10 % 4, rlnMicrographName=[f"m{i // 40}" for i in range(400)])
    group = kept_together(table, OPTICS)
    np.testing.assert_array_equal(group, np.arange(400) // 10)
    halves = half_of(table, OPTICS).reshape(40, 10)
    assert (halves == halves[:, :1]).all() and (halves[:, 0] == 1).sum() == 20


def test_a_tube_stays_together_without_a_column_of_micrographs_and_its_stack_tells_it_from_others() -> None:
    """RELION numbers the tubes of each micrograph from 1, and extracts a stack from each micrograph."""
    table = rows(400, rlnHelicalTubeID=np.arange(400) // 10 % 4).drop(columns="rlnMicrographName")
    table["rlnImageName"] = [f"{row % 40 + 1:06d}@mic{row // 40}.mrcs" for row in range(400)]
    np.testing.assert_array_equal(kept_together(table, OPTICS), np.arange(400) // 10)
    halves = half_of(table, OPTICS).reshape(40, 10)
    assert (halves == halves[:, :1]).all() and (halves[:, 0] == 1).sum() == 20
    one_stack = table.assign(rlnImageName=rows(400)["rlnImageName"])
    np.testing.assert_array_equal(kept_together(one_stack, OPTICS), np.arange(400) // 10 % 4)


def test_picks_of_one_place_stay_together_and_neighbours_do_not() -> None:
    table = picks(("a", 50.0, 50.0), ("a", 56.0, 57.0), ("a", 62.0, 50.0), ("b", 50.0, 50.0), ("a", 50.0, 39.0))
    group = kept_together(table, OPTICS)[:5]
    assert list(group) == [0, 0, 0, 1, 2], "9.2 pixels join, in a chain; 11 do not; another micrograph does not"
    assert list(kept_together(table, OPTICS.drop(columns="rlnImageSize"))[:5]) == [0, 1, 2, 3, 4], "no box, no nearness"
    same = picks(("a", 50.0, 50.0), ("a", 50.0, 50.0))
    assert list(kept_together(same, OPTICS.drop(columns="rlnImageSize"))[:2]) == [0, 0]


@pytest.mark.parametrize("place", [0.0, np.linspace(0, 1, 600)])
def test_coordinates_that_are_all_alike_tell_nothing(place: float | np.ndarray) -> None:
    table = rows(600, rlnCoordinateX=place, rlnCoordinateY=0.0)
    assert len(set(kept_together(table, OPTICS))) == 600


def test_the_files_own_halves_are_drawn_anew_where_they_share_an_image_and_a_warning_says_so() -> None:
    table = pd.concat([rows(300)] * 2, ignore_index=True)
    sound = table.assign(rlnRandomSubset=np.tile(1 + np.arange(300) % 2, 2))
    np.testing.assert_array_equal(half_of(sound, OPTICS), sound[SUBSET])
    shared = sound.copy()
    shared.loc[7, SUBSET] = 1
    shared.loc[307, SUBSET] = 2
    halves = half_of(shared, OPTICS)
    np.testing.assert_array_equal(halves[:300], halves[300:])
    with pytest.warns(FileWarning) as said:
        warn_of_repeats(Path("a.star"), OPTICS, shared)
    assert "a.star: 300 of 600 rows repeat an image" in str(said[0].message)
    assert "puts 2 rows" in str(said[1].message) and "drawn anew" in str(said[1].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_repeats(Path("a.star"), OPTICS, rows(300, rlnRandomSubset=1 + np.arange(300) % 2))


def test_halves_of_groups_of_many_sizes_differ_by_the_largest_at_most() -> None:
    sizes = np.random.default_rng(1).integers(1, 60, 80)
    table = rows(int(sizes.sum()), rlnHelicalTubeID=np.repeat(np.arange(80), sizes))
    first, second = np.bincount(half_of(table, OPTICS))[1:]
    assert abs(int(first) - int(second)) <= sizes.max()


def test_a_hundred_thousand_rows_take_a_moment() -> None:
    rng, count = np.random.default_rng(0), 100_000
    x, y = rng.uniform(0, 4000, (2, count))
    micrographs = [f"m{number}" for number in rng.integers(0, 500, count)]
    table = rows(count, rlnMicrographName=micrographs, rlnCoordinateX=x, rlnCoordinateY=y)
    started = time.process_time()
    half_of(table, OPTICS)
    assert time.process_time() - started < 10  # a second


def test_more_particles_join_the_half_of_what_they_share_something_with() -> None:
    """Of an image that was seen, or of a pick of the same place; all others have the halves of their own file."""
    known = picks(("m", 50.0, 50.0), ("m", 900.0, 50.0)).iloc[:4]
    known[SUBSET] = [2, 1, 1, 2]
    new = picks(("m", 53.0, 48.0), ("m", 901.0, 50.0), ("other", 50.0, 50.0))
    new["rlnImageName"] = [f"{row + 1}@new.mrcs" for row in range(len(new))]
    new[SUBSET] = [1, 2] * (len(new) // 2) + [1] * (len(new) % 2)
    new.loc[len(new) - 1, "rlnImageName"] = "1@s.mrcs"
    half = half_of_more(known, new, OPTICS)
    assert list(half[:2]) == [2, 1] and half[-1] == 2
    np.testing.assert_array_equal(half[5:-1], new[SUBSET].to_numpy()[5:-1])
    assert half[2] == new[SUBSET].iloc[2] and list(np.flatnonzero(seen_before(known, new))) == [len(new) - 1]
    alone = half_of_more(known, new[["rlnImageName"]], OPTICS)
    np.testing.assert_array_equal(alone[:-1], half_of(new[["rlnImageName"]], OPTICS)[:-1])


def test_further_segments_of_a_tube_join_its_half_also_where_its_number_was_text() -> None:
    """poses.star is read as text, and a .cs file has numbers."""
    known = pd.DataFrame({"rlnImageName": ["1@a.mrcs", "2@a.mrcs"], "rlnMicrographName": "m", SUBSET: [2, 2]})
    new = pd.DataFrame({"rlnImageName": [f"{n}@b.mrcs" for n in range(1, 9)], "rlnMicrographName": "m"})
    half = half_of_more(known.assign(rlnHelicalTubeID="7"), new.assign(rlnHelicalTubeID=7), OPTICS)
    assert list(half) == [2] * 8


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (
            [1, 2, 0, 1, 2, 0],
            r"rlnRandomSubset of row 3 is neither 1 nor 2 \(2 of 6 rows have no half-set\): half-sets",
        ),
        ([1, 2, "None", 1, 2, 1], r"rlnRandomSubset of row 3 is neither 1 nor 2 \(1 of 6"),
        ([1] * 6, None),
        ([0] * 6, None),
    ],
)
def test_rows_without_a_half_set_among_others_that_have_one_are_named(subset: list, message: str | None) -> None:
    table = pd.DataFrame({"rlnImageName": [f"{number + 1}@a.mrcs" for number in range(6)], "rlnRandomSubset": subset})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of_repeats(Path("a.star"), pd.DataFrame(), table)
    assert len(said) == bool(message) and re.search(message or "", " ".join(str(each.message) for each in said))
