"""Parts that both pages share: the template, and pictures and surfaces embedded in the page."""

import base64
from pathlib import Path

import jinja2
import numpy as np
from skimage.measure import marching_cubes

from equipose.core.resizing import resized
from equipose.core.surface import enclosing_level

MESH_BOX = 64
"""A map is brought to this many voxels a side before its surface is taken: smooth, and a few hundred kB a map."""


def read_template(path: Path) -> jinja2.Template:
    """A page's template. The template that it extends lies in the same folder."""
    loader = jinja2.FileSystemLoader(path.parent)
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        path.name
    )


def mesh(volume: np.ndarray, fraction: float) -> dict[str, str]:
    """The surface that encloses a `fraction` of the box: corners as int16 in ±32767, triangles as uint32, base64."""
    fine = resized(volume, max(MESH_BOX, len(volume)))
    corners, triangles, _, _ = marching_cubes(
        fine, enclosing_level(fine, fraction), step_size=max(1, len(fine) // MESH_BOX)
    )
    centred = corners[:, ::-1] / (len(fine) / 2) - 1  # (x, y, z) in ±1
    return {
        "corners": base64.b64encode((32767 * centred.clip(-1, 1)).astype("<i2").tobytes()).decode(),
        "triangles": base64.b64encode(triangles.astype("<u4").tobytes()).decode(),
    }


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
