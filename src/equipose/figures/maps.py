"""Density maps as shaded surfaces, without ChimeraX, a display or a mesh.

`python -m equipose.figures.maps --maps A.mrc B.mrc … --labels A B … --output PATH`

All maps of a row are drawn from the same direction, at levels that enclose the same volume. Rays run parallel to z;
each stops where it first meets the level, and the density's gradient there is the surface's normal.
"""

import argparse
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from matplotlib import colors, pyplot
from matplotlib.axes import Axes
from scipy import ndimage
from scipy.spatial.transform import Rotation

from equipose.core.resizing import resized
from equipose.core.surface import enclosing_level, molecule_fraction
from equipose.errors import ConfigError
from equipose.figures.style import PAGE, SHADES, TRUTH, paper_style, save
from equipose.io.maps import read_map
from equipose.io.progress import run_main

PIXELS = 320
"""Side of a rendered map."""

FINE_BOX = 128
"""A map is brought to this many voxels a side before it is drawn, so that a 32³ map has a smooth surface, too."""

VIEW = Rotation.from_euler("zx", [30, -60], degrees=True).as_matrix()
LIGHT = np.array([-0.45, -0.55, -0.7])
"""From the surface to the lamp: left, up (rows run down), and towards the viewer at z = -∞."""


def molecule_extent(volume: np.ndarray, level: float) -> float:
    """The part of the box's width, at most 1, that shows all density above `level` from any side, with a margin."""
    box = len(volume)
    radius = np.linalg.norm(np.argwhere(volume >= level) - box / 2, axis=1).max()
    return min(1.0, 2.1 * radius / box)


def render(volume: np.ndarray, level: float, colour: str, extent: float, view: np.ndarray = VIEW) -> np.ndarray:
    """An image (PIXELS, PIXELS, 4), RGBA in [0, 1], of the surface where `volume` (z, y, x) equals `level`.

    `extent` is the visible part of the box's width. x runs right, y down and z away from the viewer. The viewer sees
    V(viewᵀ (x, y, z)): `view` (3, 3) is an ordinary pose, and the hand is true.
    """
    seen = _turned(volume.astype(np.float32), extent, view)
    depth = _first_crossing(seen, level)
    hit = np.isfinite(depth)
    rows, columns = np.nonzero(hit)
    normals = _normals(seen, np.stack([depth[hit], rows, columns]))
    light = LIGHT / np.linalg.norm(LIGHT)
    diffuse = np.clip(normals @ light, 0, 1)
    halfway = light + np.array([0, 0, -1])
    gloss = np.clip(normals @ (halfway / np.linalg.norm(halfway)), 0, 1) ** 30
    shade = np.zeros(depth.shape)
    shade[hit] = 0.38 + 0.62 * diffuse + 0.12 * np.clip(-normals[:, 2], 0, 1)
    shade[hit] *= _cavities(depth, hit)[hit]
    image = np.zeros((*depth.shape, 4))
    image[..., :3] = np.clip(shade[..., None] * np.array(colors.to_rgb(colour)) * 1.12, 0, 1)
    image[hit, :3] = np.clip(image[hit, :3] + 0.18 * gloss[:, None], 0, 1)
    image[..., 3] = hit
    return image


def draw_maps(
    row: list[Axes], volumes: list[np.ndarray], labels: list[str], colours: list[str], view: np.ndarray = VIEW
) -> float:
    """Draw maps side by side; the level of each map encloses the volume of the first map's molecule.

    Returns the width of the box in the axes' units; its centre is at (PIXELS / 2, PIXELS / 2).
    """
    fine = [resized(volume, max(FINE_BOX, len(volume))) for volume in volumes]
    fraction = molecule_fraction(fine[0])
    levels = [enclosing_level(volume, fraction) for volume in fine]
    extent = min(1.0, 1.25 * molecule_extent(fine[0], levels[0]))  # room for maps that are worse than the truth
    images = [render(*each, extent, view) for each in zip(fine, levels, colours, strict=True)]
    covered = np.argwhere(np.any([image[..., 3] > 0 for image in images], axis=0))
    middle = (covered.min(0) + covered.max(0)) / 2
    reach = 1.08 * np.abs(covered - middle).max()
    for axes, image, label in zip(row, images, labels, strict=True):
        axes.imshow(_smooth_edges(image))
        axes.set_xlim(middle[1] - reach, middle[1] + reach)
        axes.set_ylim(middle[0] + reach, middle[0] - reach)
        axes.set_axis_off()
        axes.set_title(label, pad=3)
    return PIXELS / extent


def plot_maps(volumes: list[np.ndarray], labels: list[str], output: Path) -> None:
    """A row of maps, the truth (the first) in grey."""
    with paper_style():
        figure, row = pyplot.subplots(
            1, len(volumes), figsize=(PAGE, PAGE / len(volumes) + 0.25), squeeze=False, layout="constrained"
        )
        colours = [TRUTH, *islice(cycle(SHADES), len(volumes) - 1)]
        draw_maps(list(row[0]), volumes, labels, colours)
        save(figure, output)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m equipose.figures.maps", description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=Path, nargs="+", required=True, help="MRC files, the truth first")
    parser.add_argument("--labels", nargs="+", required=True, help="a title for each")
    parser.add_argument("--output", type=Path, required=True, help="picture; written as .pdf and .png")
    arguments = parser.parse_args()
    if len(arguments.maps) != len(arguments.labels):
        raise ConfigError(
            f"--labels: {len(arguments.labels)} titles for {len(arguments.maps)} maps; give one for each."
        )
    plot_maps([read_map(path)[0] for path in arguments.maps], arguments.labels, arguments.output)


def _turned(volume: np.ndarray, extent: float, view: np.ndarray) -> np.ndarray:
    """V(viewᵀ (x, y, z)) in layers of 2 pixels, (PIXELS/2, PIXELS, PIXELS), about the centre of the box."""
    box = len(volume)
    shape = (PIXELS // 2, PIXELS, PIXELS)
    matrix = view.T[::-1, ::-1] @ np.diag([2, 1, 1]) * (extent * box / PIXELS)  # (z, y, x) seen to (z, y, x)
    offset = np.full(3, box / 2) - matrix @ (np.array(shape) / 2)
    return ndimage.affine_transform(volume, matrix, offset, shape, order=1, mode="constant")


def _first_crossing(seen: np.ndarray, level: float) -> np.ndarray:
    """Depth (rows, columns), in layers and fractions, where rays from layer 0 first reach `level`; NaN where none."""
    inside = seen >= level
    first = inside.argmax(0)
    depth = np.where(inside.any(0), first, np.nan).astype(float)
    rows, columns = np.nonzero(first > 0)
    layer = first[rows, columns]
    before, after = seen[layer - 1, rows, columns], seen[layer, rows, columns]
    depth[rows, columns] = layer - 1 + (level - before) / (after - before)
    return depth


def _normals(seen: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Unit normals (n, 3), (x, y, z) and outward, at points (3, n) in (layer, row, column)."""
    smooth = ndimage.gaussian_filter(seen, (1.2, 2.4, 2.4))
    layer, row, column = (ndimage.map_coordinates(np.gradient(smooth, axis=axis), points, order=1) for axis in range(3))
    outward = -np.stack([column, row, layer / 2], axis=-1)
    return outward / np.maximum(np.linalg.norm(outward, axis=-1, keepdims=True), 1e-12)


def _cavities(depth: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Factors (rows, columns) that darken points deeper than their surroundings and, a little, points far back."""
    near, far = np.nanmin(depth), np.nanmax(depth)
    filled = np.where(hit, depth, far)
    surroundings = ndimage.gaussian_filter(filled, 10)
    sunk = np.clip((filled - surroundings) / 16, -0.1, 0.45)
    return (1 - sunk) * (1 - 0.18 * (filled - near) / max(far - near, 1))


def _smooth_edges(image: np.ndarray) -> np.ndarray:
    """Soften the silhouette by a pixel; colour is carried with its coverage."""
    weighted = np.concatenate([image[..., :3] * image[..., 3:], image[..., 3:]], axis=-1)
    soft = ndimage.gaussian_filter(weighted, (0.8, 0.8, 0))
    soft[..., :3] /= np.maximum(soft[..., 3:], 1e-6)
    return np.clip(soft, 0, 1)


if __name__ == "__main__":
    run_main(main)
