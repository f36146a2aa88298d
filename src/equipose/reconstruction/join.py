"""Two runs on the two halves of a user's particles → one set of poses, one map, two half-maps and their FSC.

    python -m equipose.reconstruction.join --runs RUN1 RUN2 --datasets DATASET1 DATASET2 --output DIR

Each half-set had its own search and training, so their agreement is gold-standard. Poses bring the second run into the
first run's frame: the second run finds poses for the first half-set's images, and their alignment to the first run's
poses gives the rotation, hand and translation between the maps. Each half-map is then back-projected, CTF-weighted,
from its own images at its own poses, with shifts that do not depend on the noise which they average
(independent_shifts.py). `volume.mrc` has all images at the shifts that were found. No image tells which of the two
hands is the true one (`equipose flip-hand`).
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from equipose.config.settings import PreparationConfig
from equipose.core.fourier_grid import grid_map
from equipose.core.fourier_grid import together as added
from equipose.core.mask import masked_volume, solvent_mask
from equipose.core.view_sampling import compensation_factor
from equipose.errors import ConfigError
from equipose.io.files import whole_file, write_json, write_text
from equipose.io.fingerprint import fingerprint
from equipose.io.maps import write_map
from equipose.io.progress import run_main
from equipose.reconstruction import junk
from equipose.reconstruction.common_symmetry import compare, mates
from equipose.reconstruction.half_maps import quality, quartiles
from equipose.reconstruction.halves import (
    FURTHER,
    Half,
    ask_each_other,
    back_project,
    compared,
    read_half,
    refined_further,
)
from equipose.reconstruction.handback import write_poses
from equipose.reconstruction.independent_shifts import independent_sums
from equipose.reconstruction.names import FAR_AWAY
from equipose.reconstruction.particle_scores import correlations, examples
from equipose.reconstruction.verdict import far_away, headline, with_verdict
from equipose.training.run_progress import starts_agreed


def reconstruct(runs: list[Path], datasets: list[Path], output: Path, say: Callable[[str], None]) -> None:
    """Write poses.star, five maps and measures of their quality to the folder `output`.

    The measures are fsc.csv, agreement.csv, detail_scores.csv, examples.npz and reconstruction.json.
    """
    configs = [PreparationConfig.load(dataset / "config.json") for dataset in datasets]
    if [config.subset for config in configs] != [1, 2] or len({(config.star, config.limits) for config in configs}) > 1:
        raise ConfigError(
            "a reconstruction needs two datasets of the same star file and `select`, with subset: 1 and 2"
        )
    star = Path(configs[0].star)
    own = [read_half(run, dataset) for run, dataset in zip(runs, datasets, strict=True)]
    together = compare(own, ask_each_other(own, runs))
    kept = [output / f"further{half}.pt" for half in (1, 2)]
    for run in runs:
        (run / FURTHER).unlink(missing_ok=True)  # of a former command
    if together.nearly:
        say(f"nearly {together.symmetry}: further passes tell which of the nearly alike poses is right")
        own = [refined_further(run, half, say, path) for run, half, path in zip(runs, own, kept, strict=True)]
        together = compare(own, ask_each_other(own, runs, [mates(half, together.symmetry) for half in own]))
    halves, degrees, within = together.halves, together.degrees, together.within
    numbers = "".join(f", {name} {each:.2f}" for name, each in (together.correlations or {}).items())
    say(f"point group {'nearly ' * together.nearly}{together.symmetry}{numbers}")
    for number, apart in enumerate(degrees, start=1):
        say(
            f"half {number}: both runs give {100 * np.mean(apart < within):.0f} % of {len(apart)} images the same pose"
            f" within {within:.2g}°, median {np.median(apart):.2g}°"
        )
    found = [back_project(half) for half in halves]
    sums = independent_sums(halves, found, configs[0].shift_std)
    box, voxel_size = halves[0].box, halves[0].particles.voxel_size
    volume, first, second = (grid_map(grid).numpy() for grid in (added(*found), *sums))
    molecule = solvent_mask(torch.from_numpy(volume))
    mask = molecule.numpy()
    measured = quality(first, second, mask, voxel_size)

    # Each half-set is compared with the other half-map, which has not seen its images, over the resolved shells. The
    # mask removes the noise around the molecule.
    shells = box * voxel_size / measured.resolved + 1
    grids = [masked_volume(grid, molecule) for grid in reversed(sums)]
    scores = [correlations(half, grid, shells) for half, grid in zip(halves, grids, strict=True)]

    maps = {"volume": volume, "half1": first, "half2": second, "mask": mask, "local_resolution": measured.local}
    for name, data in maps.items():
        write_map(output / f"{name}.mrc", data, voxel_size)
    write_text(output / "fsc.csv", measured.table.to_csv(index=False))
    agreement = [pd.DataFrame({"half": half, "degrees": apart}) for half, apart in enumerate(degrees, start=1)]
    write_text(output / "agreement.csv", pd.concat(agreement).to_csv(index=False))
    with whole_file(output / "examples.npz") as path, open(path, "wb") as file:
        np.savez(file, **examples(halves[0], grids[0], shells, scores[0]))
    detail, by_chance, probabilities, found_junk = [np.empty(0)] * 2, np.empty(0), None, None
    if shells >= junk.DETAIL + junk.FEWEST_SHELLS:
        detail, by_chance = junk.detail_scores(halves, runs, [first, second], mask, shells)
        mixture = junk.fit_mixture(np.concatenate(detail), by_chance)
        probabilities = [mixture.probabilities(each) for each in detail]
        found_junk = junk.summary_of(mixture, probabilities, degrees, within)
    kinds = {"half 1": detail[0], "half 2": detail[1], "decoy": by_chance}
    table = pd.concat([pd.DataFrame({"of": kind, "score": each}) for kind, each in kinds.items()])
    write_text(output / "detail_scores.csv", table.to_csv(index=False))
    rotations, shifts = ([getattr(half, name) for half in halves] for name in ("rotations", "shifts"))
    agreed = agreed_shifts(halves, degrees, within)
    summary: dict[str, Any] = {
        "star": str(star),
        "particles": [len(half.rotations) for half in halves],
        "select": configs[0].select,
        "box": box,
        "voxel_size": voxel_size,
        **measured.summary,
        "fsc": "gold standard: two runs, searches included, on two halves; masked, corrected by random phases",
        "halves_compared": [len(apart) for apart in degrees],
        "halves_agree": together.agree,
        "halves_median_degrees": [float(np.median(apart)) for apart in degrees],
        "agree_within_degrees": within,
        "confirmed": _confirmed(runs),
        "starts_agree": all(map(starts_agreed, runs)),
        "second_half_was_in_hand": together.alignment.hand,
        "hand": "undetermined",
        "symmetry": own[0].symmetry,
        "agree_modulo": together.symmetry,
        "nearly_symmetric": together.nearly,
        "symmetry_correlation": together.correlations or {},
        "half_maps_alike": together.alike,
        "shift_std": configs[0].shift_std,
        "shift_std_found": found_shift_std(agreed),
        "far_shifts": far_shifts(agreed, configs[0].shift_std, voxel_size),
        "sampling_compensation": compensation_factor(np.concatenate(rotations), together.same),
        "correlation": quartiles(np.concatenate(scores)),
        "junk": found_junk,
        "runs": [str(run.resolve()) for run in runs],
        "datasets": [str(dataset.resolve()) for dataset in datasets],
        "code": {"reconstruct": fingerprint("reconstruct")},
    }
    summary = with_verdict(summary)
    summary |= write_poses(output, configs[0], rotations, shifts, scores, probabilities)
    write_json(output / "reconstruction.json", summary)
    for path in kept:
        path.unlink(missing_ok=True)
    say(f"{headline(summary)} {junk.in_words(found_junk)}".strip())


def agreed_shifts(halves: list[Half], degrees: list[np.ndarray], within: float) -> np.ndarray:
    """The shifts (n, 2) in Å of the images of both half-sets whose poses both runs find: less than `within` apart.

    Those of other images tell nothing: an image that the search has lost, and junk, may lie anywhere within its reach.
    """
    found = [
        half.shifts[compared(len(half.shifts))][apart < within] for half, apart in zip(halves, degrees, strict=True)
    ]
    return np.concatenate(found)


def far_shifts(shifts: np.ndarray, shift_std: float, voxel_size: float) -> float:
    """The share of `agreed_shifts` that are `far_away` from the middle; all lengths in Å."""
    return float(np.mean(np.hypot(*shifts.T) > far_away(shift_std, voxel_size))) if len(shifts) else 0.0


def found_shift_std(shifts: np.ndarray) -> float | None:
    """The standard deviation of shifts with which a search finds all `agreed_shifts` (n, 2) but 1 %; None if n is 0.

    That is their own, unless more of them lie far away than of a normal distribution.
    """
    if not len(shifts):
        return None
    distances = np.hypot(*shifts.T)
    return float(max(np.sqrt(np.mean(distances**2) / 2), np.quantile(distances, 0.99) / FAR_AWAY))


def _confirmed(runs: list[Path]) -> list[float] | None:
    """The share of its own poses that each run confirms; None if a run has no such score."""
    metrics = [run / "metrics.json" for run in runs]
    if not all(path.is_file() for path in metrics):
        return None
    return [json.loads(path.read_text())["confirmed_share"] for path in metrics]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m equipose.reconstruction.join", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs=2, required=True, help="run folders of the two halves")
    parser.add_argument("--datasets", type=Path, nargs=2, required=True, help="their dataset folders")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reconstruct(arguments.runs, arguments.datasets, arguments.output, print)


if __name__ == "__main__":
    run_main(main)
