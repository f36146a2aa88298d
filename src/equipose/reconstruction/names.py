"""Names and thresholds that the steps, the figures and the page of a reconstruction share."""

AGREES = 15.0
"""Degrees within which two runs give an image the same pose. A right pose errs by little, and a wrong one by any angle:
at SNR 0.06 of 64 px, the strongest noise tried, 97 % of the images of one half were within 15°, 96 % within 10°, 97 %
within 30°.
"""

THRESHOLD = 0.143
"""Of the FSC of two half-maps (Rosenthal and Henderson 2003)."""
