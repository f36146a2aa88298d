"""What comes after a map: a filtered one to look at (filtered.mrc), and the commands of other programs (next.md)."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from equipose.config.settings import PreparationConfig
from equipose.core.sharpening import FEWEST, GUINIER, fsc_weights, guinier_b_factor, weighted_map
from equipose.core.surface import enclosing_level, molecule_fraction
from equipose.io.files import read_json, write_text
from equipose.io.maps import read_map, write_map
from equipose.io.particle_tables import (
    FLIPPED,
    MULTIPLIED,
    NAMED,
    PIXEL,
    SIZE,
    Tables,
    find_datadir,
    of_groups,
    read_tables,
)
from equipose.reconstruction.verdict import verdict

FILTERED, NEXT = "filtered.mrc", "next.md"

LOW_PASS = 1.5
"""Times the resolution, to which a refinement first filters its reference: its noise must not come back."""

WIDER = 1.2
"""Times the molecule's diameter: that of a refinement's mask on images."""


@dataclass(frozen=True)
class Step:
    """A program, why it is run, and its command lines."""

    program: str
    why: str
    lines: list[str]


@dataclass(frozen=True)
class Seen:
    """What of the particles' images decides options: protein is `dark`, phases were `flipped`, images `multiplied` by
    their CTF, or they have `no_ctf`.
    """

    dark: bool
    flipped: bool
    multiplied: bool
    no_ctf: bool

    @property
    def ctf_options(self) -> str:
        """Of relion_refine. It reads a multiplied CTF from data_optics, and flipped phases from an option alone."""
        return "" if self.no_ctf else " --ctf" + " --ctf_phase_flipped" * self.flipped


def write_next_steps(folder: Path, place: Path) -> None:
    """Write filtered.mrc and next.md in the folder of a reconstruction, for the `place` where it will lie.

    Nothing is written for one that has not converged, or that lacks half-maps, mask or FSC. Those of a former command
    in this folder are removed first.
    """
    for name in (FILTERED, NEXT):
        (folder / name).unlink(missing_ok=True)
    needed = ("volume.mrc", "mask.mrc", "fsc.csv", "poses.star", "reconstruction.json")
    if not all((folder / name).is_file() for name in needed):
        return
    summary = json.loads((folder / "reconstruction.json").read_text())
    resolution = summary["resolution_angstrom"]["corrected"]
    if verdict(summary).state == "not converged" or resolution is None:
        return
    (volume, voxel_size), (mask, _) = (read_map(folder / name) for name in ("volume.mrc", "mask.mrc"))
    weights = fsc_weights(pd.read_csv(folder / "fsc.csv")["corrected"].to_numpy())
    b_factor = guinier_b_factor(volume * mask, weights, voxel_size, resolution)
    write_map(folder / FILTERED, weighted_map(volume * mask, weights, voxel_size, b_factor or 0.0), voxel_size)
    said = (
        f"`{FILTERED}` is the map in its mask, its shells weighted by √(2 FSC / (1 + FSC))"
        + (f" and sharpened by a B factor of {b_factor:.0f} Å² (Guinier)." if b_factor is not None else ".")
        + f" No B factor can be read: fewer than {FEWEST} shells lie between {GUINIER:.0f} Å and the resolution of"
        f" {resolution:.3g} Å." * (b_factor is None)
    )
    blocks = [
        f"## {step.program}\n\n{step.why}\n\n```\n" + "\n".join(step.lines) + "\n```\n" for step in steps(folder, place)
    ]
    write_text(folder / NEXT, "\n".join(["# What comes next\n", said + "\n", *blocks]))


def steps(folder: Path, place: Path) -> list[Step]:
    """The command lines that come next, with the numbers of the reconstruction in `folder`, which lies at `place`."""
    summary = json.loads((folder / "reconstruction.json").read_text())
    (volume, voxel_size), (mask, _) = (read_map(folder / name) for name in ("volume.mrc", "mask.mrc"))
    optics, table = read_tables(folder / "poses.star")
    sizes = np.stack([of_groups(folder / "poses.star", label, optics, table) for label in (SIZE, PIXEL)], axis=1)
    box, pixel = int(sizes[0, 0]), float(sizes[0, 1])
    datasets = summary.get("datasets", [])
    configs = (Path(dataset) / "config.json" for dataset in datasets)
    told = [PreparationConfig.load(config) for config in configs if config.is_file()]
    images = _images(Path(summary["star"]), told, table)
    seen = _images_seen(folder / "poses.star", datasets, told, (optics, table))
    at = {name: shlex.quote(str(place / name)) for name in ("poses.star", "volume.mrc", "reference.mrc", FILTERED)}
    axis = np.arange(len(mask)) - len(mask) // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)[mask > 0.5].max() * voxel_size
    diameter = min(WIDER * 2 * radius, 0.95 * box * pixel)
    low_pass = LOW_PASS * (summary["resolution_angstrom"]["corrected"] or 2 * voxel_size)
    refine = (
        f"mpirun -n 3 relion_refine_mpi --i {at['poses.star']} --ref {at['reference.mrc']} --ini_high {low_pass:.0f}"
        f" --o Refine3D/abinitio/run --auto_refine --split_random_halves{seen.ctf_options} --firstiter_cc"
        f" --particle_diameter {diameter:.0f} --sym {summary['symmetry']} --flatten_solvent --zero_mask"
        " --healpix_order 3 --auto_local_healpix_order 3 --offset_range 5 --offset_step 2 --norm --scale --pad 2 --j 4"
    )
    level = enclosing_level(volume * mask, molecule_fraction(volume))
    cryodrgn = f"{at['poses.star']} -D {box} --Apix {pixel:g}"
    vae = f"cryodrgn train_vae {at['poses.star']} --datadir . --poses poses.pkl" + " --ctf ctf.pkl" * (not seen.no_ctf)
    show = f"open {at['volume.mrc']}; volume #1 level {level:.4g}; open {shlex.quote(str(place / FILTERED))}"
    made = [
        Step(
            "RELION",
            "Refinement in its own half-sets, which are ours, from our poses. Local angular searches start at once."
            + _several(sizes),
            [
                f"cd {shlex.quote(str(images))}",
                f"relion_image_handler --i {at['volume.mrc']} --o {at['reference.mrc']} --angpix {voxel_size:.6g}"
                f" --rescale_angpix {pixel:.6g} --new_box {box}" + " --multiply_constant -1" * seen.dark,
                "mkdir -p Refine3D/abinitio",
                refine,
            ],
        ),
        Step(
            "cryoDRGN",
            "Heterogeneity, with our poses held." + _several(sizes),
            [
                f"cd {shlex.quote(str(images))}",
                f"cryodrgn parse_pose_star {cryodrgn} -o poses.pkl",
                *([] if seen.no_ctf else [f"cryodrgn parse_ctf_star {cryodrgn} -o ctf.pkl"]),
                vae + " --uninvert-data" * (not seen.dark) + " --zdim 8 -n 20 -o cryodrgn",
            ],
        ),
        Step("ChimeraX", "The map, and the filtered one.", [f"chimerax --cmd {shlex.quote(show)}"]),
    ]
    without = ("cryoDRGN",) if seen.flipped or seen.multiplied else ()  # it takes all images for unchanged ones
    return [step for step in made if step.program not in without]


def _several(sizes: np.ndarray) -> str:
    """What to say of boxes and pixel sizes (n, 2) that differ between images; nothing if they are the same."""
    first, *others = (f"{box:.0f} pixels of {pixel:g} Å" for box, pixel in pd.DataFrame(sizes).drop_duplicates().values)
    if not others:
        return ""
    more = f"{', '.join(others[:NAMED])}{', …' if len(others) > NAMED else ''}"
    return f" Optics groups differ: box and pixel size below are those of the first image, {first}; others have {more}."


def _images_seen(star: Path, datasets: list[str], told: list[PreparationConfig], tables: Tables) -> Seen:
    """By the tables of poses.star, and by what the two datasets' preparation was told and found."""
    prepared = [read_json(Path(dataset) / "preparation.json") or {} for dataset in datasets]
    flipped, multiplied = (of_groups(star, label, *tables).any() for label in (FLIPPED, MULTIPLIED))
    return Seen(
        dark=any(known.get("protein") == "dark" for known in prepared),
        flipped=bool(flipped) or any(config.phase_flipped for config in told),
        multiplied=bool(multiplied),
        no_ctf=any(config.no_ctf for config in told),
    )


def _images(star: Path, told: list[PreparationConfig], table: pd.DataFrame) -> Path:
    """The folder that the image names of the user's file `star` are relative to."""
    datadir = next((config.datadir for config in told if config.datadir), None)
    return Path(datadir) if datadir else find_datadir(star, table) or star.parent
