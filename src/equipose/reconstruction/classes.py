"""The particles of a mixture sorted into classes, each half-set on its own: classes.star and classes.json.

    python -m equipose.reconstruction.classes --configs CONFIG1 CONFIG2 --datasets D1 D2 --classes K --output DIR

Each half-set is searched for K volumes from a random start. The two halves have only the molecules in common. So their
classes are matched by how alike their maps are, and where all classes of two starts are alike, no other start follows.
Each image then goes to the class that explains it best. `equipose reconstruct` makes an ordinary reconstruction of each
class, with searches of its own: of this sorting, only the choice of images enters it.
"""

import argparse
import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import torch

from equipose.config.settings import PreparationConfig, RunConfig
from equipose.io.files import whole_file, write_json
from equipose.io.half_sets import SUBSET
from equipose.io.particle_tables import chosen_rows, read_tables, write_star
from equipose.io.particles import Particles, read_particles
from equipose.io.progress import number, run_main
from equipose.poses.classes import Start, likenesses, matched, misfits, search_classes
from equipose.poses.refinement import read_kept
from equipose.reconstruction.handback import for_refinement

CLASS = "rlnClassNumber"

SORTED, SUMMARY = "classes.star", "classes.json"

KEPT = "half{}_search{}.pt"
"""Files of the searches, until the particles are sorted."""

SAME = 0.9
"""Likeness from which two classes show the same molecule: stricter than for starts of one search, since the classes of
an unsorted mixture are alike, too.
"""

COPIES = 0.7
"""Likeness of two classes of a half-set from which they may be copies of one molecule. Two copies of GroEL had 0.83,
two molecules 0.08 to 0.24.
"""

CHANCE = 1e-6
"""Probability by chance below which the half-sets' shares of two classes differ."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A search of each half-set; `partner` (c,) are the second's classes that match the first's, `alike` (c,)."""

    starts: tuple[Start, Start]
    partner: np.ndarray
    alike: np.ndarray


def sort(
    runs: list[RunConfig], datasets: list[Path], classes: int, output: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Write classes.star and classes.json to the folder `output`; returns what classes.json holds."""
    particles = [read_particles(dataset / "particles.star") for dataset in datasets]
    pair, tried = agreeing_starts(runs, particles, classes, output, say)
    orders = np.arange(classes), pair.partner
    errors = [
        misfits(run, part, start)[:, order]
        for run, part, start, order in zip(runs, particles, pair.starts, orders, strict=True)
    ]
    shells = runs[0].model.search.last_radius - 1
    within = [
        likenesses(start, start, shells)[np.ix_(order, order)] for start, order in zip(pair.starts, orders, strict=True)
    ]
    first = copies(_counts([chosen(each)[0] for each in errors], classes), np.mean(within, axis=0))
    molecules = [np.flatnonzero(first == each) for each in np.unique(first)]
    errors = [np.stack([each[:, members].min(1) for members in molecules], axis=1) for each in errors]
    labels, sure = zip(*map(chosen, errors), strict=True)
    counts = _counts(labels, len(molecules))
    largest_first = np.argsort(-counts.sum(0), kind="stable")
    rank = np.argsort(largest_first)
    config = PreparationConfig.load(datasets[0] / "config.json")
    write_classes(output, config, [1 + rank[label] for label in labels])
    same_half = np.array([[within[0][np.ix_(one, other)].max() for other in molecules] for one in molecules])
    halves_alike = np.array([pair.alike[members].max() for members in molecules])
    summary = {
        "classes": len(molecules),
        "copies": [len(molecules[each]) for each in largest_first],
        "particles": counts[:, largest_first].T.tolist(),
        "starts": tried,
        "halves_alike": halves_alike[largest_first].tolist(),
        "classes_alike": same_half[np.ix_(largest_first, largest_first)].tolist(),
        "mean_probability": [float(np.mean(each)) for each in sure],
    }
    write_json(output / SUMMARY, summary)
    for path in output.glob(KEPT.format("*", "*")):
        path.unlink()
    say(in_words(summary))
    return summary


def agreeing_starts(
    runs: list[RunConfig], particles: list[Particles], classes: int, output: Path, say: Callable[[str], None]
) -> tuple[Pair, int]:
    """The searches of the two half-sets whose classes are most alike, and how many of each half-set were made.

    The least alike class decides. Searches follow until all classes of two are alike, or none are left. They are kept
    in the folder `output`, so that an interrupted sorting continues after the last one.
    """
    made: tuple[list[Start], list[Start]] = ([], [])
    best: Pair | None = None
    shells = runs[0].model.search.last_radius - 1
    for tried in range(1, runs[0].model.search.starts + 1):
        for half, (run, part, starts) in enumerate(zip(runs, particles, made, strict=True), start=1):
            starts.append(kept_search(output / KEPT.format(half, tried), run, part, classes, tried - 1))
        newest = [(first, made[1][-1]) for first in made[0]] + [(made[0][-1], second) for second in made[1][:-1]]
        for first, second in newest:
            pair = Pair((first, second), *matched(likenesses(first, second, shells)))
            if best is None or pair.alike.min() > best.alike.min():
                best = pair
        assert best is not None  # there was at least one pair
        shown = ", ".join(f"{alike:.2f}" for alike in best.alike)
        say(f"classes: after {tried} searches of each half-set, the halves' classes are alike by {shown}")
        if best.alike.min() >= SAME:
            break
    assert best is not None  # starts are 1 or more
    return best, tried


def kept_search(kept: Path, run: RunConfig, particles: Particles, classes: int, seed: int) -> Start:
    """A search for classes: what an earlier call with the same settings has left in the file `kept`, or a new one."""
    of, known = f"{classes} {run.to_json()}", read_kept(kept, torch.device("cpu"))
    if known is not None and known.pop("of") == of:
        return Start(**known)
    start = search_classes(run, particles, classes, seed)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(kept) as partial:
        torch.save({"of": of} | vars(start), partial)
    return start


def copies(counts: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """For each class (c,), the first of those that show the same molecule as it does.

    Where fewer molecules are there than classes, two classes settle on one molecule. They look alike, and nothing in
    the images says where to divide them: the half-sets, drawn at random, divide them differently. Two molecules, or two
    states of one, have the same shares in both. `counts` (2, c) are the images of each half-set, and `alike` (c, c) is
    how alike two classes look.
    """
    first = np.arange(counts.shape[1])
    for one, other in itertools.combinations(first.tolist(), 2):
        by_chance = scipy.stats.fisher_exact(counts[:, [one, other]]).pvalue
        if alike[one, other] >= COPIES and by_chance < CHANCE:
            first[first == first[other]] = first[one]
    return first


def _counts(labels: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """Images (2, c) of each half-set in each class."""
    return np.stack([np.bincount(label, minlength=classes) for label in labels])


def chosen(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class (n,) with the least of the `errors` (n, c), and its probability (n,), all classes being as frequent."""
    likelihood = np.exp(-(errors - errors.min(1, keepdims=True)) / 2)
    return errors.argmin(1), likelihood.max(1) / likelihood.sum(1)


def write_classes(output: Path, config: PreparationConfig, labels: list[np.ndarray]) -> None:
    """Write the user's table with rlnClassNumber and rlnRandomSubset; `labels` has classes (n,) for each half-set."""
    star = Path(config.star)
    tables = read_tables(star, told=config.told)
    halves = [chosen_rows(star, tables, half, config.limits) for half in (1, 2)]
    order = np.argsort(np.concatenate(halves))
    subset = np.repeat([1, 2], [len(half) for half in halves])[order]
    datadir = Path(config.datadir) if config.datadir else None
    optics, table = for_refinement(star, datadir, config.told, np.concatenate(halves)[order])
    write_star(output / SORTED, optics, table.assign(**{CLASS: np.concatenate(labels)[order], SUBSET: subset}))


def join_classes(star: Path, out: Path, work: Path, made: list[int]) -> dict[str, Any]:
    """Write poses.star and reconstruction.json of all classes `made`, from those in the folders class1, class2, ….

    `star` is the user's file. Rows keep their order. Particles of a class that was not made are left out; classes.star
    in the folder `work` has them.
    """
    summary = json.loads((work / SUMMARY).read_text())
    own = read_tables(work / SORTED)[1][CLASS].to_numpy()
    tables = [read_tables(out / f"class{name}" / "poses.star", as_written=True) for name in made]
    rows = np.concatenate([np.flatnonzero(own == name) for name in made])
    together = pd.concat([table for _, table in tables], ignore_index=True, join="inner")
    write_star(out / "poses.star", tables[0][0], together.iloc[np.argsort(rows)])
    found = {name: json.loads((out / f"class{name}" / "reconstruction.json").read_text()) for name in made}
    kept = "verdict", "resolution_angstrom", "symmetry", "agree_modulo", "junk", "particles"
    each = [{"class": name, "folder": f"class{name}"} | {key: found[name][key] for key in kept} for name in made]
    whole = summary | {"star": str(star), "reconstructed": each, "text": in_words(summary)}
    write_json(out / "reconstruction.json", whole)
    return dict(whole)


def in_words(summary: dict[str, Any]) -> str:
    """A classes.json for people."""
    alike = summary["halves_alike"]
    copies = summary.get("copies", [1] * len(alike))  # folders of before lack it
    text = " ".join(
        f"Class {number}: {sum(counts)} particles; the two half-sets' maps of it are alike by {each:.2f}."
        + f" It joins {count} classes that show one molecule: the half-sets divide it differently." * (count > 1)
        for number, (counts, each, count) in enumerate(zip(summary["particles"], alike, copies, strict=True), 1)
    )
    looks = np.array(summary["classes_alike"])
    same = [(a + 1, b + 1) for a, b in zip(*np.nonzero(np.triu(looks >= SAME, 1)), strict=True)]
    if min((each for each, count in zip(alike, copies, strict=True) if count == 1), default=1) >= SAME:
        text += " Both half-sets have found the same classes."
    else:
        text += f" The half-sets do not agree on all classes ({SAME} and more is the same map): fewer may be there."
    for one, other in same:
        text += f" Classes {one} and {other} look the same ({looks[one - 1, other - 1]:.2f}): ask for fewer."
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m equipose.reconstruction.classes", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--configs", type=Path, nargs=2, required=True, help="config.json of the two halves' runs")
    parser.add_argument("--datasets", type=Path, nargs=2, required=True, help="their dataset folders")
    parser.add_argument("--classes", type=number(int, 2), required=True, help="number of classes")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [RunConfig.load(path) for path in arguments.configs]
    sort(runs, arguments.datasets, arguments.classes, arguments.output, print)


if __name__ == "__main__":
    run_main(main)
