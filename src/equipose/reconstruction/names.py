"""Names and thresholds that the steps, the figures and the page of a reconstruction share."""

AGREES = 15.0
"""Two poses of an image within this many degrees count as the same. A right pose has a small error, a wrong pose any:
at SNR 0.06 of 64 px, the strongest noise tried, 97 % of the images of one half-set were within 15°, 96 % within 10°,
97 % within 30°. For a point group of a high order, fewer degrees do (`common_symmetry.agree_within`).
"""

THRESHOLD = 0.143
"""Threshold of the FSC of two half-maps (Rosenthal and Henderson 2003)."""

FAR_AWAY = 3.0
"""A search tries shifts within so many standard deviations (`shift_std`)."""

CONVERGED, PARTLY = 0.9, 0.7
"""The least share of images with the same pose for a reconstruction to count as converged, and as partly converged.

On simulated particles at SNR 0.06 of 64 px, right poses gave 0.97 and more in both half-sets. When the poses of one
half-set were put into either hand by chance, that half-set had 0.50, and the other half-set 0.47 and 0.80. When the
poses of both half-sets were, it was 0.01. Little was seen in between.
"""

NOT_CONVERGED = 3
"""Exit code of `equipose reconstruct` if it has finished, but its map must not be used."""
