"""Move a reconstruction made as C1 to RELION's axes of a point group, and make it symmetric."""

import shutil
from pathlib import Path

import numpy as np
import torch

from equipose.core.fourier_grid import real_map
from equipose.core.point_groups import check_symmetry
from equipose.core.rotations import from_relion_angles, to_relion_angles
from equipose.core.symmetry_axes import SYMMETRIC, Frame, find_axes, symmetrised
from equipose.data.aberrations import read_aberrations
from equipose.errors import ConfigError
from equipose.io.files import whole_folder, write_json, write_text
from equipose.io.maps import read_cube, write_map
from equipose.io.particle_tables import ANGLES, ORIGINS, need, per_particle, read_tables, write_star
from equipose.reconstruction.half_maps import quality
from equipose.reconstruction.handback import write_beside
from equipose.reconstruction.next_steps import NEXT, write_next_steps
from equipose.reconstruction.verdict import check_has_map, read_summary, with_verdict

MAPS = ("volume", "half1", "half2", "mask", "local_resolution")


def symmetrise(folder: Path, symmetry: str, out: Path) -> Frame:
    """Write the poses and the maps of a reconstruction in `folder` on the axes of `symmetry`, in `out`.

    Each half-map is made symmetric separately, and what they say of the map is measured again. Returns the frame in
    which the map has the axes. Raises ConfigError if there is no reconstruction, or its map lacks this symmetry.
    """
    check_symmetry(symmetry)
    if symmetry == "C1":
        raise ConfigError("symmetry C1 is none, and there is nothing to make symmetric: name a group such as C4 or D7")
    check_has_map(folder)
    if out.exists():
        raise ConfigError(f"{out} exists already: remove it, or name another folder with --out")
    poses = folder / "poses.star"
    optics, table = read_tables(poses, as_written=True)
    need(poses, "particles", table, (*ANGLES, *ORIGINS))
    box = len(read_cube(folder / "volume.mrc")[0])
    maps = {name: read_cube(folder / f"{name}.mrc", box) for name in MAPS if (folder / f"{name}.mrc").is_file()}
    volume, voxel_size = maps["volume"]
    mask = maps["mask"][0] if "mask" in maps else 1.0
    halves = [torch.from_numpy(maps[name][0] * mask) for name in ("half1", "half2") if name in maps]
    first, other = halves if len(halves) == 2 else (torch.from_numpy(volume * mask), None)
    frame = find_axes(first, symmetry, 0.8 * len(volume) / 2, other)
    if frame.correlation < SYMMETRIC:
        raise ConfigError(
            f"{folder / 'volume.mrc'} does not have the symmetry {symmetry}: its best axes correlate by"
            f" {frame.correlation:.2f}, and {SYMMETRIC} is needed. Try a smaller group:"
            " `symmetry_correlation` of reconstruction.json has those that the map was compared with"
        )
    made = {
        name: real_map(symmetrised(torch.from_numpy(data), symmetry, frame), len(data) // 2).numpy()
        for name, (data, _) in maps.items()
    }
    angles = np.stack([per_particle(poses, label, optics, table) for label in ANGLES], axis=1)
    origins = np.stack([per_particle(poses, label, optics, table) for label in ORIGINS], axis=1)
    rotations = from_relion_angles(angles)
    moved, aberrations = voxel_size * rotations[:, :2] @ frame.centre, read_aberrations(poses, optics, table)
    if aberrations is not None:
        moved = aberrations.shifts_in_images(moved, np.arange(len(table)))
    table[list(ORIGINS)] = origins - moved
    turned = rotations @ frame.rotation
    table[list(ANGLES)] = to_relion_angles(turned)
    measured = None
    if "mask" in made:
        made["mask"] = np.clip(made["mask"], 0, 1)  # its Fourier transform, cut at Nyquist, overshoots
    if {"half1", "half2", "mask"} <= made.keys():
        measured = quality(made["half1"], made["half2"], made["mask"], voxel_size)
        made["local_resolution"] = measured.local
    with whole_folder(out) as partial:
        for name, data in made.items():
            write_map(partial / f"{name}.mrc", data, voxel_size)
        write_star(partial / "poses.star", optics, table)
        write_beside(poses, partial, table, turned)
        if (folder / "agreement.csv").is_file():
            shutil.copy2(folder / "agreement.csv", partial)
        if measured is not None:
            write_text(partial / "fsc.csv", measured.table.to_csv(index=False))
            if (folder / "reconstruction.json").is_file():
                former = read_summary(folder)
                kept = {key: former[key] for key in former if key not in ("verdict", "fsc_crosses_at_angstrom")}
                summary = with_verdict(kept | {"symmetry": symmetry} | measured.summary)
                write_json(partial / "reconstruction.json", summary)
        if (folder / NEXT).is_file():
            write_next_steps(partial, out)
    return frame
