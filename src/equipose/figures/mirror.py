"""Spurious planar symmetry: the map of mixed hands beside the truth, with its mirror plane (paper, Fig. 11).

`python -m equipose.figures.mirror --dataset DIR --runs DIR … --output PATH`

The plane that mirrors the mixed map best onto itself is seen edge-on in all maps, from the side where the truth looks
least symmetric. The number above a map is its correlation with its own best mirror image.
"""

from pathlib import Path

import numpy as np
from matplotlib import pyplot
from scipy.spatial.transform import Rotation

from equipose.core.mirror_plane import degrees_between, frame_with_first_axis, mirror_plane, projection
from equipose.figures.command_line import dataset_command_line
from equipose.figures.maps import PIXELS, draw_maps
from equipose.figures.style import PAGE, PALETTE, TRUTH, paper_style, save
from equipose.io.maps import read_map
from equipose.io.progress import run_main
from equipose.study.mixture import Mixture, read_mixture
from equipose.study.runs import load_runs


def edge_on_view(truth: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """A pose (3, 3) with `normal` along x, in which the truth's projection is least like its mirror image."""
    turns = Rotation.from_euler("x", np.arange(0, 360, 30)[:, None], degrees=True).as_matrix()
    views = turns @ frame_with_first_axis(normal)

    def likeness(view: np.ndarray) -> float:
        image = projection(truth, view)[1:, 1:]  # symmetric about voxel L/2
        return float(np.corrcoef(image.ravel(), image[:, ::-1].ravel())[0, 1])

    return min(views, key=likeness)


def plot_mirror(mixture: Mixture, truth: np.ndarray, end: np.ndarray, output: Path) -> None:
    """The truth, the map when hands were mixed most, and the map at the end (L, L, L), all in the truth's frame."""
    volumes = [truth, mixture.volume, end]
    scores = [mirror_plane(truth).correlation, mixture.plane.correlation, mirror_plane(end).correlation]
    titles = ["truth", f"after {mixture.when(mixture.index)}: {mixture.shares(mixture.index)} in a hand", "at the end"]
    labels = [f"{title}\ncorrelation with its mirror: {score:.2f}" for title, score in zip(titles, scores, strict=True)]
    with paper_style():
        figure, row = pyplot.subplots(1, 3, figsize=(PAGE, 2.9), layout="constrained")
        view = edge_on_view(truth, mixture.plane.normal)
        width = draw_maps(list(row), volumes, labels, [TRUTH, PALETTE[1], PALETTE[0]], view)
        title = mixture.title
        if mixture.mixed:
            middle = PIXELS / 2 + mixture.plane.offset * width / len(truth)
            row[1].axvline(middle, ls="--", color="0.1", lw=0.9)
            apart = degrees_between(mixture.normal, mixture.plane.normal)
            title += f". The map's plane lies {apart:.0f}° from the plane between the poses of both hands."
        figure.suptitle(title, fontsize=8.5)
        save(figure, output)


def main() -> None:
    arguments = dataset_command_line("mirror", __doc__.splitlines()[0]).parse_args()
    mixture = read_mixture(load_runs(arguments.runs, arguments.dataset))
    truth = read_map(arguments.dataset / "volume.mrc")[0]
    end = read_map(mixture.run.folder / "volume_aligned.mrc")[0]
    plot_mirror(mixture, truth, end, arguments.output)


if __name__ == "__main__":
    run_main(main)
