"""Names and thresholds that the steps, the figures and the page of a reconstruction share."""

AGREES = 15.0
"""Two poses of an image within this many degrees count as the same. A right pose has a small error, a wrong pose any:
at SNR 0.06 of 64 px, the strongest noise tried, 97 % of the images of one half-set were within 15°, 96 % within 10°,
97 % within 30°.
"""

THRESHOLD = 0.143
"""Threshold of the FSC of two half-maps (Rosenthal and Henderson 2003)."""
