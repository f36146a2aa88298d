"""The parts of rlnImageName, index@stack, of many particles at once."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype

WIDEST_NAME = 200
"""If an image's name has more letters, names are parsed one by one."""


class ImageNames(NamedTuple):
    """The parts of rlnImageName of n images."""

    place: np.ndarray
    """(n,) place in its stack, from 0"""
    number: np.ndarray
    """(n,) number of its stack in `stacks`"""
    stacks: list[str]
    """Names of stacks, in the order of their first images"""
    alone: list[int]
    """Numbers of stacks that are named without an index"""


def numbered_alike(names: np.ndarray) -> ImageNames | None:
    """The parts of names (n,) whose numbers have equally many digits, as arrays: eight times as fast as one by one.

    None for other names, for names too long for an array, and for no names.
    """
    if infer_dtype(names, skipna=False) != "string" or (widest := max(map(len, names))) > WIDEST_NAME:
        return None
    try:
        fixed = names.astype(f"S{widest}")
    except UnicodeEncodeError:
        return None
    letters = fixed.view(np.uint8).reshape(len(fixed), -1)
    digits = int(np.argmax(letters[0] == ord("@")))
    number_of = letters[:, :digits] - ord("0")
    if (
        not 0 < digits < min(10, letters.shape[1] - 1)
        or (letters[:, digits] != ord("@")).any()
        or (number_of > 9).any()
    ):
        return None
    index = number_of @ 10 ** np.arange(digits)[::-1] - 1
    stacks = np.ascontiguousarray(letters[:, digits + 1 :]).view(f"S{letters.shape[1] - digits - 1}").ravel()
    starts = np.flatnonzero(np.append(True, stacks[1:] != stacks[:-1]))  # runs of one stack's images
    codes, unique = pd.factorize(stacks[starts].astype(object))
    if b"" in unique:
        return None
    number = np.repeat(codes, np.diff(np.append(starts, len(stacks))))
    return ImageNames(index, number, [stack.decode() for stack in unique], [])
