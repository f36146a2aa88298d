"""Has a reconstruction converged? A judgement in words, from what can be known without the truth.

Two runs, each on its own half of the particles and each from a random start, have nothing in common but the molecule.
Where both find it, a search against either's map gives the other's images the poses that they have; where one has
settled in something else (a volume split over both hands, say) it does not. Random poses agree within 15° for 0.1 % of
the images. What a run says of its own images (`confirmed_share` of metrics.json) adds nothing to that.
"""

from dataclasses import dataclass
from typing import Any, Literal

import scipy.stats

from equipose.reconstruction.names import THRESHOLD

CONVERGED, PARTLY = 0.9, 0.7
"""Shares of images with the same pose from which a reconstruction counts as converged, or as partly so. On simulated
particles right poses had 0.97 and more in both halves, at SNR 0.06 of 64 px. Where the poses of one half were put into
either hand by chance it had 0.50, and the other half 0.47 and 0.80; where both were, 0.01. Little was seen in between.
"""

SURE = 0.95
"""Level of the intervals (Wilson's)."""


@dataclass(frozen=True)
class Share:
    """A part of `images` that were looked at, and the interval that it may have over all images."""

    what: str
    images: int
    found: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    state: Literal["converged", "partly converged", "not converged"]
    says: str
    certainty: str
    shares: list[Share]


def verdict(summary: dict[str, Any]) -> Verdict:
    """The judgement on a reconstruction whose reconstruction.json is given."""
    within = f"{summary['agree_within_degrees']:.0f}°"
    shares = [
        share(f"half {half}: the run that never saw these images finds the same pose within {within}", images, found)
        for half, images, found in zip((1, 2), summary["halves_compared"], summary["halves_agree"], strict=True)
    ]
    worst = min(shares, key=lambda each: each.low)
    resolved = crossings(summary)["corrected"] is not None
    percent = f"{100 * min(summary['halves_agree']):.0f} %"
    if worst.low >= CONVERGED and resolved:
        state = "converged"
        says = f"Two runs that share no image agree on {percent} of the poses, and their maps correlate."
    elif worst.low >= PARTLY and resolved:
        state = "partly converged"
        says = (
            f"Most poses are confirmed, but not all: two runs that share no image agree on {percent} of them. Train"
            " longer (--minutes), or leave out the particles with the lowest scores, before you trust details."
        )
    else:
        state = "not converged"
        found = [f"agree on {percent} of the poses only"] * (worst.low < PARTLY)
        found += ["have maps of which no shell correlates"] * (not resolved)
        says = (
            f"Two runs that share no image {' and '.join(found)}. Do not use this map. Train longer (--minutes), or"
            " give cleaner or more particles."
        )
    below = "" if worst.low >= CONVERGED else f", of which {CONVERGED:.0%} would have to be at least"
    certainty = (
        f"The weaker of the two checks below lies between {worst.low:.1%} and {worst.high:.1%} ({SURE:.0%} interval,"
        f" {worst.images} images){below}. That is sure of these particles and this agreement; whether agreement means a"
        " right map has been tried on a handful of runs with simulated particles. What misleads both halves alike"
        " (several structures in one set, missing views, a wrong CTF) no such check can see."
    )
    return Verdict(state, says, certainty, shares)


def crossings(summary: dict[str, Any]) -> dict[str, float | None]:
    """Å at which each FSC curve falls below 0.143, whether or not that may be called a resolution."""
    return summary.get("fsc_crosses_at_angstrom", summary["resolution_angstrom"])  # older folders have the second alone


def with_verdict(measured: dict[str, Any]) -> dict[str, Any]:
    """What is measured of a reconstruction, with the verdict on it and with the resolution that it may claim.

    Where the two runs disagree there is none. Curves may cross 0.143 all the same: an alignment of noise moves a bright
    spot of each image onto one place, and both half-maps then have a peak there.
    """
    judged = verdict(measured)
    found = {"verdict": {"state": judged.state.replace(" ", "_"), "text": judged.says, "certainty": judged.certainty}}
    summary = found | measured | {"fsc_crosses_at_angstrom": measured["resolution_angstrom"]}
    if judged.state == "not converged":
        summary |= {"resolution_angstrom": dict.fromkeys(measured["resolution_angstrom"])}
        summary |= {"resolved_to_the_last_shell": False, "local_resolution_angstrom": None}
    return summary


def headline(summary: dict[str, Any]) -> str:
    """The verdict of a reconstruction.json in words, and the resolution where it claims one."""
    found, state = summary["resolution_angstrom"]["corrected"], summary["verdict"]["state"].replace("_", " ")
    resolution = (
        f" FSC = {THRESHOLD} at {found:.3g} Å (gold standard, masked)." if found else " No resolution is claimed."
    )
    return f"{state.capitalize()}. {summary['verdict']['text']}{resolution}"


def share(what: str, images: int, found: float) -> Share:
    interval = scipy.stats.binomtest(round(found * images), images).proportion_ci(SURE, "wilson")
    return Share(what, images, found, float(interval.low), float(interval.high))
