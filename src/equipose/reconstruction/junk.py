"""Which images show the molecule, and which show noise, ice, a neighbour or another molecule: a probability for each.

The score of an image tells how well it shows the molecule's detail, from shell `DETAIL` on: what its projection has
beyond that of a featureless map, the map averaged over all rotations. A blob of ice fits such a map, or a map's
outline, as well. The score is the correlation of image and projection, both without their featureless parts, over
shells that are weighed by the noise. It is divided by what an image with this CTF would have if nothing but noise were
in it beside the molecule. So images of the molecule have about 1, whatever their defocus. The map is that of the other
half-set, which has not seen the image.

Chance alone gives a score above 0, because the pose was chosen to fit. To see how far above, some images are also posed
against a decoy: a map with the molecule's outline and spectrum, and random detail. Scores are then taken as a
mixture of two normal distributions: that of the molecule, and that of everything else, whose mean is at most the median
with the decoy. So where all images show the molecule, a tail of them is not called junk.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from equipose.core.evenly import evenly
from equipose.core.fourier import HalfDisc, half_disc, shift_phase
from equipose.core.fourier_grid import from_real_map, grid_frequencies, grid_slices
from equipose.core.fsc import radii
from equipose.core.symmetry_axes import centre_of, centred
from equipose.reconstruction.halves import Half, compared, posed_against, seen_by

DECOY = 5
"""First shell whose phases are random in the decoy: lower ones show the outline alone. With 3, nearly all clean images
of a spike or of β-galactosidase agreed better with the spliceosome's map; with 5, 18 % and 10 % did.
"""

DETAIL = 7
"""First shell that scores compare. Blobs of ice fit the lower ones of any map that they have entered: in a whole run
with 15 % of ice, 66 % of it scored below 95 % of the molecule's images by all shells, 91 % from the fifth, 99 % from
the seventh.
"""

FEWEST_SHELLS = 3
"""Shells from `DETAIL` on that must be resolved; with fewer, images get no probability."""

SAMPLE = 200
"""Images of each half-set that are posed against the decoy."""

PROBABLE = 0.5
"""Probability below which an image is proposed to be left out."""

MOST_LOST = 0.05
"""Largest part of the molecule's images that a proposed threshold may cost; above it the noise hides the difference."""

ITERATIONS = 300
"""Steps of the fit of two distributions."""


@dataclass(frozen=True)
class Mixture:
    """Two normal distributions of scores: of the molecule, and of everything else, `share` of all images."""

    share: float
    mean: float
    deviation: float
    mean_elsewhere: float
    deviation_elsewhere: float

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """That images with these scores (n,) show the molecule; never lower for a higher score."""
        between = np.clip(scores, self.mean_elsewhere, self.mean)
        molecule, elsewhere = (
            scipy.stats.norm.logpdf(between, mean, deviation) + math.log(max(part, 1e-9))
            for mean, deviation, part in (
                (self.mean, self.deviation, 1 - self.share),
                (self.mean_elsewhere, self.deviation_elsewhere, self.share),
            )
        )
        return scipy.special.expit(molecule - elsewhere)

    def threshold(self) -> float:
        """The score at which the molecule and everything else are as probable."""
        scores = np.linspace(self.mean_elsewhere, self.mean, 2000)
        return float(scores[np.searchsorted(self.probabilities(scores), PROBABLE).clip(max=len(scores) - 1)])


def decoy(volume: Tensor, mask: np.ndarray) -> Tensor:
    """The map (L, L, L) with the phases of its shells from `DECOY` on turned at random, always alike, in its mask."""
    noise = np.fft.rfftn(np.random.default_rng(0).standard_normal(volume.shape))
    phase = np.where(radii(len(volume)) < DECOY, 1, noise / np.abs(noise))
    turned = np.fft.irfftn(np.fft.rfftn(volume.numpy()) * phase, s=volume.shape, axes=(0, 1, 2)) * mask
    return torch.from_numpy(turned.astype(np.float32))


def detail_scores(
    halves: list[Half], runs: list[Path], maps: list[np.ndarray], mask: np.ndarray, shells: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """Scores (n,) of the images of each half-set, and scores (m,) of some images with the decoy.

    `maps` are the half-maps (L, L, L), compared below `shells` within the `mask` (L, L, L).
    """
    others = [torch.from_numpy(volume * mask) for volume in reversed(maps)]
    found, by_chance = [], []
    for half, run, other in zip(halves, runs, others, strict=True):
        products = _products(half, other, shells)
        noise = _noise(products, half.box, shells)
        scores, expected = _scores(products, noise), _expected(products, noise, half.box, shells)
        some = evenly(len(scores), SAMPLE)
        sample = posed_against(run, half.some(some), decoy(seen_by(run, half), mask))
        by_chance.append(_scores(_products(sample, decoy(other, mask), shells), noise) / expected[some])
        found.append(scores / expected)
    return found, np.concatenate(by_chance)


def fit_mixture(scores: np.ndarray, by_chance: np.ndarray) -> Mixture:
    """The mixture, by expectation maximisation, for scores (n,) of all images and (m,) of some with the decoy."""
    highest = float(np.median(by_chance))
    share, elsewhere, spread = 0.1, highest, float(np.std(by_chance))
    mean, deviation = float(np.quantile(scores, 0.7)), float(np.std(by_chance))
    for _ in range(ITERATIONS):
        molecule = (1 - share) * scipy.stats.norm.pdf(scores, mean, deviation)
        other = share * scipy.stats.norm.pdf(scores, elsewhere, spread)
        belief = other / np.maximum(molecule + other, 1e-300)
        weights = np.stack([1 - belief, belief]) + 1e-12
        mean, elsewhere = weights @ scores / weights.sum(1)
        elsewhere = min(elsewhere, highest)
        squares = np.stack([(scores - mean) ** 2, (scores - elsewhere) ** 2])
        deviation, spread = np.sqrt((weights * squares).sum(1) / weights.sum(1)).clip(0.01)
        share = belief.mean()
    return Mixture(float(share), float(mean), float(deviation), float(elsewhere), float(spread))


def summary_of(
    mixture: Mixture, probabilities: list[np.ndarray], degrees: list[np.ndarray], within: float
) -> dict[str, Any]:
    """What reconstruction.json says of the mixture; `threshold` is None where the noise hides the difference.

    Each half-set has `probabilities` (n,), and the two runs' poses of its `compared` images are `degrees` (m,) apart.
    They agree if they are less than `within` apart.
    """
    probable = [
        apart[each[compared(len(each))] >= PROBABLE] for each, apart in zip(probabilities, degrees, strict=True)
    ]
    threshold = mixture.threshold()
    lost = float(scipy.stats.norm.cdf(threshold, mixture.mean, mixture.deviation))
    kept = float(scipy.stats.norm.sf(threshold, mixture.mean_elsewhere, mixture.deviation_elsewhere))
    clear = lost <= MOST_LOST
    return asdict(mixture) | {
        "threshold": threshold if clear else None,
        "below": sum(int((each < PROBABLE).sum()) for each in probabilities),
        "of": sum(map(len, probabilities)),
        "halves_agree_on_the_others": [float(np.mean(apart < within)) if len(apart) else 0.0 for apart in probable],
        "molecule_lost": lost,
        "elsewhere_kept": kept,
    }


def in_words(junk: dict[str, Any] | None) -> str:
    """The summary for people."""
    if junk is None:
        return ""
    if junk["threshold"] is None:
        return "The noise is too strong to tell images of the molecule from others: no threshold is proposed."
    return (
        f"{junk['below']} of {junk['of']} images ({junk['below'] / junk['of']:.1%}) more likely show something else"
        " than the molecule at its pose: noise, ice, a neighbour, another molecule. None was left out."
    )


@torch.no_grad()
def _products(half: Half, volume: Tensor, shells: float) -> np.ndarray:
    """Products (n, 6, s) of images I, projections P and featureless ones Q, by shell: II, IP, IQ, PP, PQ, QQ."""
    disc, radius = half_disc(half.box, shells), half.box // 2
    weights = _by_shell(disc)
    centre, field = centre_of(volume), from_real_map(volume, radius)
    blank, middle = featureless(volume, centre), torch.from_numpy(centre).float()
    found = []
    for rotations, shifts, images, transfer in half.batches(disc):
        seen = transfer * shift_phase(shifts, disc) * grid_slices(field, radius, rotations, disc)
        moved = shifts + rotations[:, :2] @ middle
        round_one = transfer * shift_phase(moved, disc) * grid_slices(blank, radius, rotations, disc)
        three = (images, seen, round_one)
        pairs = [(three[i] * three[j].conj()).real @ weights for i in range(3) for j in range(i, 3)]
        found.append(torch.stack(pairs, 1))
    return torch.cat(found).double().numpy()


def featureless(volume: Tensor, centre: np.ndarray) -> Tensor:
    """The transform (m³, 2) of a map (L, L, L), moved to voxel L/2 from its `centre` (3,), averaged over rotations."""
    radius = len(volume) // 2
    field = from_real_map(centred(volume, centre), radius)
    ring = (2 * grid_frequencies(radius, volume.device).norm(dim=-1)).round().long()  # half a shell wide
    zeros = torch.zeros(int(ring.max()) + 1)
    mean = zeros.index_add(0, ring, field[:, 0]) / zeros.index_add(0, ring, torch.ones(len(ring))).clamp_min(1)
    return torch.stack([mean[ring], torch.zeros(len(ring))], -1)


def _by_shell(disc: HalfDisc) -> Tensor:
    """Weights (n, s) that sum the products of coefficients by shell; shells below `DETAIL` have none."""
    weights = torch.zeros(len(disc.k), int(disc.shells.max()) + 1)
    weights[torch.arange(len(disc.k)), disc.shells] = disc.weights
    weights[:, :DETAIL] = 0
    return weights


def _counts(box: int, shells: float) -> np.ndarray:
    """Number (s,) of coefficients of each shell that are compared."""
    return _by_shell(half_disc(box, shells)).sum(0).double().numpy()


def _noise(products: np.ndarray, box: int, shells: float) -> np.ndarray:
    """Mean square (s,) of a coefficient of what projections leave of the images of each shell: their median."""
    left = products[:, 0] - 2 * products[:, 1] + products[:, 3]
    return np.median(left, axis=0) / np.maximum(_counts(box, shells), 1)


def _detail(products: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Products (3, n) of what is left of images I and projections P without their featureless parts: II, IP, PP."""
    weights = np.where(noise > 0, 1 / np.maximum(noise, 1e-30), 0)
    ii, ip, iq, pp, pq, qq = np.moveaxis(products @ weights, -1, 0)
    qq = np.maximum(qq, 1e-12)
    return np.stack([ii - iq**2 / qq, ip - iq * pq / qq, pp - pq**2 / qq])


def _scores(products: np.ndarray, noise: np.ndarray) -> np.ndarray:
    ii, ip, pp = _detail(products, noise)
    return ip / np.sqrt(np.maximum(ii * pp, 1e-12))


def _expected(products: np.ndarray, noise: np.ndarray, box: int, shells: float) -> np.ndarray:
    """The correlation (n,) that each image would have if it were its projection and noise."""
    pp = _detail(products, noise)[2]
    return np.sqrt(pp / (pp + _counts(box, shells).sum()))
