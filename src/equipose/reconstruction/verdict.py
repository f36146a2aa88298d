"""Has a reconstruction converged? A judgement in words, made without the truth.

Two runs, each on its own half-set and from a random start, have only the molecule in common. If both find the molecule,
a search against one run's map gives the other half-set's images the same poses that the other run found. If one run has
settled in something else (a volume split over both hands, say), the poses differ. Random poses agree within 15° for
0.1 % of the images. Where the runs disagree, each run's check of its own images (`confirmed_share` of metrics.json)
tells which of them failed: for molecules unlike each other, right half-sets had 0.98 or more, wrong ones 0.26 to 0.77.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import scipy.stats

from equipose.errors import ConfigError
from equipose.reconstruction.names import CONVERGED, FAR_AWAY, PARTLY, THRESHOLD

CONFIRMED = 0.9
"""Least share of its own poses that a run must confirm to count as right if the two runs do not agree."""

EVEN = 0.8
"""Sampling compensation factor below which views are called uneven; views from all around one axis have 0.81."""

SAME = 0.8
"""Likeness of two half-maps from which they count as the same, as for the starts of a search (`search_stages`)."""

FAR = 0.05
"""Share of images `far_away` from the middle, from which the verdict says so. Of shifts with the assumed standard
deviation 1 % are. Counted are images whose poses both runs find.
"""

SURE = 0.95
"""Level of the intervals (Wilson's)."""


@dataclass(frozen=True)
class Share:
    """The share `found` of the `images` that were checked, and its interval for all images."""

    what: str
    images: int
    found: float
    low: float
    high: float


State = Literal["converged", "partly converged", "not converged"]


@dataclass(frozen=True)
class Verdict:
    state: State
    says: str
    certainty: str
    shares: list[Share]


def check_has_map(folder: Path) -> None:
    """Raises ConfigError unless the folder is that of a reconstruction with one map."""
    if not (folder / "poses.star").is_file() or not (folder / "volume.mrc").is_file():
        raise ConfigError(
            f"{folder} has no poses.star and volume.mrc: name the folder of a reconstruction, or of one of its classes"
        )


def read_summary(folder: Path) -> dict[str, Any]:
    """reconstruction.json of a reconstruction's folder. Raises ConfigError if it is broken, or of something else."""
    path = folder / "reconstruction.json"
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): run the same `equipose reconstruct` again") from error
    if not isinstance(found, dict) or not {"agree_within_degrees", "halves_compared", "halves_agree"} <= found.keys():
        raise ConfigError(f"{path} is not that of a reconstruction: run the same `equipose reconstruct` again")
    return found


def verdict(summary: dict[str, Any]) -> Verdict:
    """The judgement on a reconstruction, from its reconstruction.json."""
    within = f"{summary['agree_within_degrees']:.2g}°"
    shares = [
        share(f"half {half}: the run that never saw these images finds the same pose within {within}", images, found)
        for half, images, found in zip((1, 2), summary["halves_compared"], summary["halves_agree"], strict=True)
    ]
    worst = min(shares, key=lambda each: each.low)
    crosses = crossings(summary)["corrected"] is not None
    resolved = crosses and summary.get("fsc_off_centre", 1.0) >= THRESHOLD  # folders of before lack it
    state: State
    percent = f"{100 * min(summary['halves_agree']):.0f} %"
    if worst.low >= CONVERGED and resolved and not summary.get("nearly_symmetric"):
        state = "converged"
        says = f"Two runs that share no image agree on {percent} of the poses, and their maps correlate."
    elif worst.low >= PARTLY and resolved and summary.get("nearly_symmetric"):
        state = "partly converged"
        says = (
            f"Two runs that share no image agree on {percent} of the poses modulo {summary['agree_modulo']}, which this"
            f" molecule has only nearly ({summary['symmetry_correlation'][summary['agree_modulo']]:.2f}; 1 is"
            " symmetric), and on fewer without it. The map's shape is right at this resolution. Of the nearly alike"
            " poses of an image, the right one may be missed: what breaks the symmetry is blurred. More particles or a"
            " finer box (--box) may tell."
        )
    elif (others := agree_without_junk(summary)) >= CONVERGED and resolved:
        state = "partly converged"
        says = (
            f"Two runs that share no image agree on {percent} of the poses, and on {100 * others:.0f} % of those of"
            " images that seem to show the molecule. Leave out the other images (equipose select) and reconstruct"
            " again, before you trust details."
        )
    elif worst.low >= PARTLY and resolved:
        state = "partly converged"
        says = (
            f"Most poses are confirmed, but not all: two runs that share no image agree on {percent} of them. Leave out"
            " the particles with the lowest scores, or search a finer box (--box), before you trust details."
        )
    else:
        state = "not converged"
        found = [f"agree on only {percent} of the poses"] * (worst.low < PARTLY)
        nothing = "have maps that correlate only in a peak at their centre" if crosses else ""
        found += [nothing or "have maps that correlate in no shell"] * (not resolved)
        says = (
            f"Two runs that share no image {' and '.join(found)}. Do not use this map."
            f"{_which_failed(summary)} {_remedies(summary)}"
        )
    if state != "not converged" and summary.get("sampling_compensation", 1.0) < EVEN:
        says += _uneven(summary)
    if state != "not converged" and summary.get("far_shifts", 0.0) > FAR:
        limit = far_away(summary["shift_std"], summary["voxel_size"])
        found = summary.get("shift_std_found", 2 * limit / FAR_AWAY)  # folders of before lack it
        says += (
            f" Of the images whose poses both runs find, {100 * summary['far_shifts']:.0f} % lie more than"
            f" {limit:.3g} Å from the middle, and others may lie beyond the search: reconstruct again with --shift-std"
            f" {found:.2g}."
        )
    below = "" if worst.low >= CONVERGED else f"; a converged one has at least {CONVERGED:.0%}"
    certainty = (
        f"The weaker of the two checks below lies between {worst.low:.1%} and {worst.high:.1%} ({SURE:.0%} interval,"
        f" {worst.images} images){below}. The interval is for the agreement of these"
        " particles. Whether agreement means a right map was tested on a handful of runs with simulated particles. No"
        " such check can see an error that misleads both half-sets alike (several structures in one set, missing views,"
        " a wrong CTF)."
    )
    return Verdict(state, says, certainty, shares)


def far_away(shift_std: float, voxel_size: float) -> float:
    """Å from the middle, beyond which a search with this standard deviation of shifts may lose an image.

    It is a voxel at least: a right pose is off by a part of one, also where `--shift-std 0` says that no image is.
    """
    return max(FAR_AWAY * shift_std, voxel_size)


def agree_without_junk(summary: dict[str, Any]) -> float:
    """The smaller share of agreeing poses among the images of each half-set that seem to show the molecule.

    It is 0 where all images do, where these cannot be told from others, and where they are fewer than half of all
    images: then the map may be wrong.
    """
    junk = summary.get("junk")  # folders of before lack it
    if junk is None or junk["threshold"] is None or not 0 < 2 * junk["below"] <= junk["of"]:
        return 0.0
    return float(min(junk["halves_agree_on_the_others"]))


def crossings(summary: dict[str, Any]) -> dict[str, float | None]:
    """Å at which each FSC curve falls below 0.143, whether or not that may be called a resolution."""
    return summary.get("fsc_crosses_at_angstrom", summary["resolution_angstrom"])  # older folders have the second alone


def with_verdict(measured: dict[str, Any]) -> dict[str, Any]:
    """The measures of a reconstruction, with its verdict and the resolution that it may claim.

    If the two runs disagree, it claims none. Curves may cross 0.143 all the same: an alignment of noise moves a bright
    spot of each image to one place, and both half-maps then have a peak there.
    """
    judged = verdict(measured)
    found = {"verdict": {"state": judged.state.replace(" ", "_"), "text": judged.says, "certainty": judged.certainty}}
    summary = found | measured | {"fsc_crosses_at_angstrom": measured["resolution_angstrom"]}
    if judged.state == "not converged":
        summary |= {"resolution_angstrom": dict.fromkeys(measured["resolution_angstrom"])}
        summary |= {"resolved_to_the_last_shell": False, "local_resolution_angstrom": None}
        if "directional_fsc" in summary:
            claimed = {"worst_angstrom": None, "best_angstrom": None}
            summary |= {"directional_fsc": measured["directional_fsc"] | claimed}
    return summary


def headline(summary: dict[str, Any]) -> str:
    """The verdict of a reconstruction.json in words, and the resolution where it claims one."""
    found, state = summary["resolution_angstrom"]["corrected"], summary["verdict"]["state"].replace("_", " ")
    resolution = (
        f" FSC = {THRESHOLD} at {found:.3g} Å (gold standard, masked)." if found else " No resolution is claimed."
    )
    return f"{state.capitalize()}. {summary['verdict']['text']}{resolution}"


def _uneven(summary: dict[str, Any]) -> str:
    """Sentences on uneven views: how uneven, what that does to the map, and what helps."""
    says = (
        f" The views are uneven: their sampling compensation factor is {summary['sampling_compensation']:.2f}, and even"
        " ones have 1."
    )
    known = summary.get("directional_fsc", {"worst_angstrom": None, "best_angstrom": None})
    worst, best = (known[f"{name}_angstrom"] for name in ("worst", "best"))
    if worst and best:
        says += f" Along the worst direction the half-maps agree to {worst:.3g} Å, along the best to {best:.3g} Å."
    return says + (
        " Along the directions from which most images look, the map is smeared: what looks long there may be short,"
        " and the resolution above does not hold. Images of a tilted stage add the views that are missing."
    )


def _which_failed(summary: dict[str, Any]) -> str:
    """A sentence on the share of its own poses that each run confirms, if that is known and tells something.

    It was counted modulo the told group. A symmetric molecule that was searched as C1 confirms few of its poses.
    """
    confirmed = summary.get("confirmed")
    if confirmed is None or summary.get("agree_modulo") != summary.get("symmetry"):
        return ""
    shares = " and ".join(f"{each:.0%}" for each in confirmed)
    wrong = [half for half, each in enumerate(confirmed, start=1) if each < CONFIRMED]
    if len(wrong) == 1:
        return f" The run of half {wrong[0]} has failed: the runs confirm {shares} of their own poses."
    if wrong:
        return f" Both runs have failed: they confirm {shares} of their own poses."
    alike = summary.get("half_maps_alike")
    if alike is not None and alike >= SAME:
        return (
            f" Each run confirms its own poses ({shares}), and their maps are alike ({alike:.2f}; 1 is the same): many"
            " images have several poses that explain them about as well."
        )
    return f" Each run confirms its own poses ({shares}), but they found different maps."


def _remedies(summary: dict[str, Any]) -> str:
    """What may help where the runs do not agree. Where two starts of each search agreed, more are not made."""
    told = summary.get("symmetry", "C1") != "C1"
    ways = ["search from more starts (--starts)"] * (not summary.get("starts_agree", False))
    ways += ["say which symmetry the particle has (--symmetry)"] * (not told)
    ways += ["allow for larger shifts (--shift-std)", "or give cleaner or more particles."]
    return f"{ways[0][0].upper()}{ways[0][1:]}, {', '.join(ways[1:])}"


def share(what: str, images: int, found: float) -> Share:
    interval = scipy.stats.binomtest(round(found * images), images).proportion_ci(SURE, "wilson")
    return Share(what, images, found, float(interval.low), float(interval.high))
