"""The two half-sets of a star file's particles. They share no image.

Rows of one image, segments of one helical tube, and picks of one place share noise or signal. If they were in different
half-sets, even half-maps of pure noise would correlate. So they stay in one half-set.
"""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import scipy.spatial

from equipose.errors import FileWarning
from equipose.io.image_names import numbered_alike

SUBSET = "rlnRandomSubset"

IMAGE, MICROGRAPH, TUBE = "rlnImageName", "rlnMicrographName", "rlnHelicalTubeID"
COORDINATES = ("rlnCoordinateX", "rlnCoordinateY")
TOGETHER = (IMAGE, MICROGRAPH, TUBE, *COORDINATES)
"""Columns that tell which particles are kept together."""

SIZE, PIXEL, MICROGRAPH_PIXEL = "rlnImageSize", "rlnImagePixelSize", "rlnMicrographOriginalPixelSize"

NEAR = 0.05
"""Distance, as a part of the box, below which two picks are one particle. Two picking programs differ by less, and two
neighbours by more."""

NEIGHBOURS = 8
"""Number of nearest picks that each pick is compared with."""

CROWDED = 0.1
"""If a larger part of all rows would be one particle, coordinates are not used: they may all be 0, for example."""


def has_halves(particle_table: pd.DataFrame) -> bool:
    """Whether every particle is in half-set 1 or 2, and both half-sets have particles."""
    return SUBSET in particle_table and set(pd.to_numeric(particle_table[SUBSET], errors="coerce").unique()) == {1, 2}


def half_of(particle_table: pd.DataFrame, optics_table: pd.DataFrame, group: np.ndarray | None = None) -> np.ndarray:
    """The half, 1 or 2, that each particle belongs to, (n,).

    The file's rlnRandomSubset is taken if every particle has one and no group of `kept_together` is in both halves.
    Otherwise halves are drawn at random, the same at each call. Whole groups are drawn, the largest first, so the sizes
    of the halves differ by the largest group at most. `group` (n,) is the result of an earlier `kept_together`.
    """
    group = kept_together(particle_table, optics_table) if group is None else group
    if has_halves(particle_table) and not torn(particle_table, optics_table, group).any():
        return _own(particle_table)
    order = np.random.default_rng(0).permutation(int(group.max(initial=-1)) + 1)
    rank = np.empty_like(order)
    rank[np.lexsort([order, -np.bincount(group)])] = np.arange(len(order))
    return 1 + rank[group] % 2


def half_of_more(known: pd.DataFrame, particle_table: pd.DataFrame, optics_table: pd.DataFrame) -> np.ndarray:
    """The half, 1 or 2, of each further particle, (n,): that of a `known` one that it is kept together with, if any.

    Otherwise it is that of `half_of`. `known` has rlnRandomSubset in every row.
    """
    labels = [label for label in TOGETHER if label in known and label in particle_table]
    both = pd.concat([known[labels], particle_table[labels]], ignore_index=True)
    if TUBE in both:
        both[TUBE] = both[TUBE].astype(str)  # text in a star file, and a number in a .cs file
    group = kept_together(both, optics_table)
    half = np.zeros(group.max(initial=0) + 1, np.int64)
    half[group[: len(known)][::-1]] = _own(known)[::-1]
    theirs = half[group[len(known) :]]
    return np.where(theirs > 0, theirs, half_of(particle_table, optics_table))


def seen_before(known: pd.DataFrame, particle_table: pd.DataFrame) -> np.ndarray:
    """Whether each row shows an image that a `known` row shows, (n,) bool."""
    images = _images(pd.concat([known[IMAGE], particle_table[IMAGE]]))
    return np.isin(images[len(known) :], images[: len(known)])


def torn(particle_table: pd.DataFrame, optics_table: pd.DataFrame, group: np.ndarray | None = None) -> np.ndarray:
    """Whether the group of each row has rows in both halves of the file's rlnRandomSubset, (n,) bool.

    `group` (n,) is the result of an earlier `kept_together`: a million rows take a second.
    """
    group = kept_together(particle_table, optics_table) if group is None else group
    first, second = (np.bincount(group[_own(particle_table) == half], minlength=group.max() + 1) for half in (1, 2))
    return ((first > 0) & (second > 0))[group]


def repeats(particle_table: pd.DataFrame) -> int:
    """Number of rows whose image an earlier row has, too."""
    return len(particle_table) - len(pd.unique(_images(particle_table[IMAGE]))) if IMAGE in particle_table else 0


def warn_of_repeats(
    star: Path,
    optics_table: pd.DataFrame,
    particle_table: pd.DataFrame,
    half: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> int:
    """Warn of rows that repeat an image, and of a file's own half-sets that are not used.

    `half` (n,) are the half-sets of rows that were chosen from a file, and `group` (n,) is the result of an earlier
    `kept_together`. The number of rows that repeat an image.
    """
    if again := repeats(particle_table):
        text = f"{star}: {again} of {len(particle_table)} rows repeat an image of an earlier row"
        warnings.warn(f"{text}: all rows of an image are in one half-set", FileWarning, stacklevel=2)
    own = has_halves(particle_table) and (half is None or drawn_for_all(particle_table, half))
    shared = torn(particle_table, optics_table, group) if own else None
    if shared is not None and shared.any():
        text = f"{star}: {SUBSET} puts {shared.sum()} rows that share an image, a tube or a place into both half-sets"
        warnings.warn(f"{text}: half-sets are drawn anew", FileWarning, stacklevel=2)
    elif (lacking := _without_half(particle_table)).any():
        text = f"{star}: {SUBSET} of row {particle_table.index[int(np.argmax(lacking))] + 1} is neither 1 nor 2"
        text += f" ({lacking.sum()} of {len(lacking)} rows have no half-set)"
        text += ": half-sets are drawn anew; write a file without such rows to keep its own"
        warnings.warn(text, FileWarning, stacklevel=2)
    elif half is not None and drawn_for_all(particle_table, half):
        text = (
            f"{star}: half-sets are drawn anew, since {SUBSET} is not sound in all rows: with those that are left out"
        )
        text += ", rows share an image, a tube or a place across half-sets, or lack a half-set"
        warnings.warn(f"{text}: write a file of the chosen rows to keep theirs", FileWarning, stacklevel=2)
    return again


def _without_half(particle_table: pd.DataFrame) -> np.ndarray:
    """The rows (n,) bool in neither half-set, of a file whose other rows are in both. None of files without both."""
    if SUBSET not in particle_table:
        return np.zeros(len(particle_table), bool)
    subset = pd.to_numeric(particle_table[SUBSET], errors="coerce")
    return ~subset.isin([1, 2]).to_numpy() & ({1, 2} <= set(subset.unique()))


def drawn_for_all(particle_table: pd.DataFrame, half: np.ndarray) -> bool:
    """Whether rows that were chosen from a file have half-sets of their own, but those of `half` (n,) are others."""
    return has_halves(particle_table) and not np.array_equal(_own(particle_table), half)


def kept_together(particle_table: pd.DataFrame, optics_table: pd.DataFrame) -> np.ndarray:
    """The group of each row, (n,), numbered from 0 by its first row. The rows of a group belong into one half-set.

    A group has the rows of one image (symmetry-expanded copies, too), the segments of one helical tube, and the picks
    of one micrograph that are nearer to each other than `NEAR` of the box. Tubes are numbered anew in each micrograph.
    Without a column of micrographs, the stack stands for the micrograph: RELION extracts one stack from each.
    """
    count = len(particle_table)
    pairs = [np.empty((0, 2), np.int64)]
    source = None
    if IMAGE in particle_table:
        source, place = _stacks_and_places(particle_table[IMAGE])
        pairs.append(_pairs(_joint(source, place)))
    if MICROGRAPH in particle_table:
        source = pd.factorize(particle_table[MICROGRAPH])[0]
        if set(COORDINATES) <= set(particle_table):
            pairs.append(_overlapping(particle_table, source, NEAR * _box(optics_table)))
    if TUBE in particle_table and source is not None:
        pairs.append(_pairs(_joint(source, pd.factorize(particle_table[TUBE])[0])))
    return _components(np.concatenate(pairs), count)


def _own(particle_table: pd.DataFrame) -> np.ndarray:
    return pd.to_numeric(particle_table[SUBSET]).to_numpy(np.int64)


def _images(names: pd.Series) -> np.ndarray:
    """The number of each name's image, (n,): 1@stack.mrcs, 000001@stack.mrcs and 1@./stack.mrcs:mrcs are one image."""
    return _joint(*_stacks_and_places(names))


def _stacks_and_places(names: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """A number for the stack of each name, (n,), and a number for its place in a stack, (n,)."""
    if (found := numbered_alike(names.to_numpy(object))) is not None:
        place, stack, stacks = found.place + 1, found.number, found.stacks
    else:
        parts = [name.partition("@") if "@" in name else ("1", "@", name) for name in map(str, names)]
        place = pd.factorize(np.array([number.lstrip("0") for number, _, _ in parts], object))[0]
        stack, stacks = pd.factorize(np.array([name for _, _, name in parts], object))
    files = [os.path.normpath(name.removesuffix(":mrcs")) for name in stacks]
    return pd.factorize(np.array(files, object))[0][stack], place


def _joint(codes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """A code for each pair of codes, (n,); -1 where one of the two is below 0."""
    return np.where((codes < 0) | (others < 0), -1, codes * (others.max(initial=0) + 1) + others)


def _pairs(codes: np.ndarray) -> np.ndarray:
    """Pairs of rows (m, 2): a row and an earlier one, the first with the same code of (n,). Codes below 0 are none."""
    rows = np.flatnonzero(codes >= 0)
    _, first, inverse = np.unique(codes[rows], return_index=True, return_inverse=True)
    pairs = np.stack([rows, rows[first][inverse]], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _components(pairs: np.ndarray, count: int) -> np.ndarray:
    """The number (count,) of each row's group. Pairs of rows (m, 2) connect the rows of a group."""
    graph = scipy.sparse.coo_matrix((np.ones(len(pairs), bool), tuple(pairs.T)), (count, count))
    _, found = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return pd.factorize(found)[0].astype(np.int64)


def _box(optics_table: pd.DataFrame) -> float:
    """The largest box, in pixels of the micrographs; 0 if the optics table does not say it."""
    if SIZE not in optics_table or PIXEL not in optics_table:
        return 0.0
    size, pixel = (pd.to_numeric(optics_table[label], errors="coerce") for label in (SIZE, PIXEL))
    original = pd.to_numeric(optics_table.get(MICROGRAPH_PIXEL, optics_table[PIXEL]), errors="coerce")
    box = (size * pixel / original).replace([np.inf, -np.inf], np.nan).max()
    return float(box) if box > 0 else 0.0


def _overlapping(particle_table: pd.DataFrame, micrograph: np.ndarray, near: float) -> np.ndarray:
    """Pairs of rows (m, 2) that are picks of one place: in one micrograph (n,) and within `near` pixels of each other.

    There are none if more than `CROWDED` of the rows would be such picks.
    """
    place = np.stack([pd.to_numeric(particle_table[label], errors="coerce") for label in COORDINATES], axis=1)
    rows = np.flatnonzero(np.isfinite(place).all(1) & (micrograph >= 0))
    places = pd.DataFrame(place[rows]).assign(micrograph=micrograph[rows])
    same = places.groupby(list(places), sort=False).ngroup().to_numpy()
    pairs, (_, first) = _pairs(same), np.unique(same, return_index=True)
    if near > 0 and len(first) > 1:
        alone = place[rows[first]]
        apart = 2 * near * micrograph[rows[first]]  # in a third direction: no micrograph reaches another one's picks
        tree = scipy.spatial.cKDTree(np.column_stack([alone, apart]))
        distance, _ = tree.query(tree.data, k=2, distance_upper_bound=near)
        crowd = np.flatnonzero(np.isfinite(distance[:, 1]))  # few, as a rule: most picks have no neighbour
        few = min(NEIGHBOURS, len(first) - 1) + 1
        _, neighbour = tree.query(tree.data[crowd], k=few, distance_upper_bound=near)
        from_row, at = np.nonzero(neighbour < len(first))
        pairs = np.concatenate([pairs, np.stack([first[crowd[from_row]], first[neighbour[from_row, at]]], axis=1)])
    joined = np.bincount(_components(pairs, len(rows)), minlength=1)
    return rows[pairs] if joined.max() <= max(2, CROWDED * len(particle_table)) else np.empty((0, 2), np.int64)
