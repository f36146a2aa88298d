"""A user's particles → particles.star and particles.mrcs as training wants them, and preparation.json.

    python -m equipose.prepare --config config.json --output DIR

Images are Fourier-cropped to the box, made bright where the protein is (half of all programs store it dark), normalised
so that the background outside of the particle has mean 0 and standard deviation 1, and masked if asked. The star file
keeps every row and column of the particles chosen, in their order; poses stay only where they are to be the truth.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import scipy.fft
import torch

from equipose.cli import run_main
from equipose.config import PreparationConfig
from equipose.errors import ConfigError
from equipose.files import whole_file
from equipose.fourier import half_disc, to_half_disc
from equipose.optics import ctf
from equipose.particles import ANGLES, ORIGINS, Particles, half_of, read_particles, write_star

CHUNK = 256
"""Images that are prepared at once."""

SAMPLE = 5000
"""Images by which the contrast is judged."""

CONTRAST_SHELLS = 3.5
"""Shells by which the contrast is judged: at so low a resolution every particle is a bright or dark blob."""

CERTAIN = 5.0
"""Standard errors from zero that the contrast must be seen at."""

EDGE = 0.05
"""Width of the mask's soft edge, as a part of the box."""

SECONDS_BETWEEN_REPORTS = 5.0


def prepare(config: PreparationConfig, output: Path, say: Callable[[str], None]) -> None:
    """Prepare the particles that `config` names, in folder `output`.

    Raises ConfigError where they cannot be read, are smaller than the box, or do not tell their contrast.
    """
    star = Path(config.star)
    particles = read_particles(star, config.datadir and Path(config.datadir))
    size = particles.images.shape[-1]
    if size < config.box:
        raise ConfigError(
            f"{star}: images of {size} pixels are smaller than the box of {config.box}: choose a box ≤ {size}"
        )
    rows = np.arange(len(particles.images))
    if config.subset:
        rows = rows[half_of(particles.particle_table) == config.subset]
    voxel_size = particles.voxel_size * size / config.box
    radius = (config.mask_radius or size * particles.voxel_size / 2) / voxel_size  # pixels
    if radius > config.box / 2:
        raise ConfigError(
            f"{star}: a mask of radius {config.mask_radius} Å does not fit into images of"
            f" {size * particles.voxel_size:.0f} Å"
        )

    sign, certainty = contrast(particles, rows, config, voxel_size)
    say(
        f"{star}: {len(rows)} particles, {size} → {config.box} pixels of {voxel_size:.4g} Å, protein is"
        f" {'bright' if sign > 0 else 'dark: inverted'}" + (f" ({certainty:.0f} standard errors)" if certainty else "")
    )
    with whole_file(output / "particles.mrcs") as partial:
        _write_stack(partial, particles, rows, config, voxel_size, radius, sign, say)
    write_star(output / "particles.star", *_tables(particles, rows, config, voxel_size))
    summary = {
        "star": config.star,
        "particles": len(rows),
        "original_box": size,
        "original_voxel_size": particles.voxel_size,
        "box": config.box,
        "voxel_size": voxel_size,
        "protein": "bright" if sign > 0 else "dark",
        "contrast_standard_errors": certainty,
        "background_radius_angstrom": radius * voxel_size,
        "masked": config.mask_radius is not None,
    }
    with whole_file(output / "preparation.json") as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")


def fourier_crop(images: np.ndarray, box: int) -> np.ndarray:
    """Images (n, L, L) at the lower sampling of (n, box, box), centred on pixel box/2 where they were on L/2.

    Means are kept. The frequencies |kx| or |ky| = box/2, which have no partner, are left out.
    """
    size = images.shape[-1]
    spectrum = scipy.fft.fft2(scipy.fft.ifftshift(images, axes=(1, 2)))
    kept = np.fft.fftfreq(box, 1 / box).astype(int)
    spectrum = spectrum[:, kept[:, None], kept] * (box / size) ** 2
    if box < size:
        spectrum[:, box // 2, :] = spectrum[:, :, box // 2] = 0
    return scipy.fft.fftshift(scipy.fft.ifft2(spectrum).real, axes=(1, 2)).astype(np.float32)


def contrast(
    particles: Particles, rows: np.ndarray, config: PreparationConfig, voxel_size: float
) -> tuple[int, float | None]:
    """+1 where protein is bright, -1 where it is dark, and by how many standard errors that was seen (None: told).

    At the lowest shells every particle, from any side, is a blob at the centre, whose transform is positive: summed
    with the CTF (positive there) over the images, the sum has the sign of the contrast. Raises ConfigError if it is
    less than `CERTAIN` standard errors from zero.
    """
    if config.contrast != "detect":
        return (1 if config.contrast == "bright" else -1), None
    disc = half_disc(config.box, CONTRAST_SHELLS)
    disc.weights[disc.k.norm(dim=-1) < 0.5] = 0  # the mean is no contrast
    seen = []
    sample = rows[np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int)]
    for part in np.array_split(sample, max(1, len(sample) // CHUNK)):
        images = torch.from_numpy(fourier_crop(np.asarray(particles.images[part], np.float32), config.box))
        transfer = ctf(torch.from_numpy(particles.ctf[part]), disc.k, config.box * voxel_size)
        coefficients = to_half_disc(images / images.std(dim=(1, 2), keepdim=True).clamp_min(1e-12), disc)
        seen.append((coefficients.real * transfer) @ disc.weights)
    values = torch.cat(seen)
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("inf")
    certainty = abs(float(values.mean())) / max(error, 1e-12)
    if certainty < CERTAIN:
        raise ConfigError(
            f"{config.star}: whether protein is bright or dark cannot be seen ({certainty:.1f} standard errors from"
            " neither): say contrast: bright (RELION's and cryoSPARC's inverted particles) or dark"
        )
    return (1 if values.mean() > 0 else -1), certainty


def _write_stack(
    path: Path,
    particles: Particles,
    rows: np.ndarray,
    config: PreparationConfig,
    voxel_size: float,
    radius: float,
    sign: int,
    say: Callable[[str], None],
) -> None:
    axis = np.arange(config.box) - config.box // 2
    distance = np.hypot(axis[:, None], axis)
    background = distance > radius - 1
    inside = np.clip((radius - distance) / (EDGE * config.box), 0, 1)
    mask = 0.5 - 0.5 * np.cos(np.pi * inside)
    started = reported = time.perf_counter()
    shape = (len(rows), config.box, config.box)
    with mrcfile.new_mmap(path, shape, mrc_mode=2, overwrite=True) as mrc:
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            images = sign * fourier_crop(np.asarray(particles.images[part], np.float32), config.box)
            outside = images[:, background]
            deviation = outside.std(axis=1)
            if (deviation == 0).any():
                name = particles.particle_table["rlnImageName"].iloc[part[int(np.argmin(deviation))]]
                raise ConfigError(
                    f"{config.star}: image {name} is constant outside of the particle: it has a mask; give"
                    " images without one"
                )
            images = (images - outside.mean(axis=1)[:, None, None]) / deviation[:, None, None]
            mrc.data[start : start + len(part)] = images * mask if config.mask_radius else images
            if time.perf_counter() - reported > SECONDS_BETWEEN_REPORTS:
                reported, done = time.perf_counter(), start + len(part)
                say(f"prepared {done} of {len(rows)}, {(reported - started) * (len(rows) / done - 1):.0f} s left")
        mrc.set_image_stack()
        mrc.voxel_size = voxel_size
        mrc.update_header_stats()


def _tables(particles: Particles, rows: np.ndarray, config: PreparationConfig, voxel_size: float) -> tuple:
    table = particles.particle_table.iloc[rows].reset_index(drop=True)
    if not config.truth:
        table = table.drop(columns=[label for label in (*ANGLES, *ORIGINS) if label in table])
    elif particles.rotations is None:
        raise ConfigError(f"`truth: true` wants poses, and {config.star} has none: leave it out")
    table["rlnImageName"] = [f"{number:06d}@particles.mrcs" for number in range(1, len(table) + 1)]
    optics = particles.optics_table.assign(rlnImagePixelSize=voxel_size, rlnImageSize=config.box)
    return optics, table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m equipose.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="PreparationConfig as JSON")
    parser.add_argument("--output", type=Path, required=True, help="the dataset's folder")
    arguments = parser.parse_args()
    prepare(PreparationConfig.load(arguments.config), arguments.output, print)


if __name__ == "__main__":
    run_main(main)
