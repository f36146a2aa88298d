"""Has a reconstruction converged? A judgement in words, from what can be known without the truth.

Two runs, each on its own half of the particles and each from a random start, have nothing in common but the molecule.
Where both find it, each gives the other's images the poses that they have; where one has settled in something else (a
volume split over both hands, say) it does not. Random poses agree within 30° for 0.8 % of the images.
"""

from dataclasses import dataclass
from typing import Any, Literal

import scipy.stats

CONVERGED, PARTLY = 0.9, 0.7
"""Shares of images with the same pose from which a reconstruction counts as converged, or as partly so. Converged runs
on simulated particles had 0.98 and more, runs stuck between both hands 0.49 and 0.68. In between the share
does not tell: at SNR 0.06 (64 px) a right map had 0.71, since the encoders erred by 18° there.
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
        share(f"half {half}: same pose within {within} by the run that never saw these images", images, found)
        for half, images, found in zip((1, 2), summary["halves_compared"], summary["halves_agree"], strict=True)
    ]
    shares += [
        share(f"half {half}: a search against the run's own map finds the same pose", images, found)
        for half, images, found in zip((1, 2), summary["confirmed_images"], summary["confirmed_share"], strict=True)
    ]
    worst = min(shares, key=lambda each: each.low)
    resolved = summary["resolution_angstrom"]["corrected"] is not None
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
        says = (
            f"Two runs that share no image agree on {percent} of the poses only"
            + ("" if resolved else ", and no shell of their maps correlates")
            + ". Do not use this map. Train longer (--minutes), or give cleaner or more particles."
        )
    below = "" if state == "converged" else f", of which {CONVERGED:.0%} would have to be at least"
    certainty = (
        f"The weakest of the four checks below lies between {worst.low:.1%} and {worst.high:.1%} ({SURE:.0%} interval,"
        f" {worst.images} images){below}. That is sure of these particles and this agreement; whether agreement means a"
        " right map has been tried on a handful of runs with simulated particles. What misleads both halves alike"
        " (several structures in one set, missing views, a wrong CTF) no such check can see."
    )
    return Verdict(state, says, certainty, shares)


def share(what: str, images: int, found: float) -> Share:
    interval = scipy.stats.binomtest(round(found * images), images).proportion_ci(SURE, "wilson")
    return Share(what, images, found, float(interval.low), float(interval.high))
