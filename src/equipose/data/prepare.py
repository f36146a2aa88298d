"""A user's particles → particles.star and particles.mrcs, ready for training, and preparation.json.

    python -m equipose.data.prepare --config config.json --output DIR

Images are Fourier-cropped to the box, and inverted if protein is dark (as half of all programs store it). They are
normalised: the background outside of the particle gets mean 0 and standard deviation 1. They are whitened and masked if
asked. Flipped phases or a multiplied CTF are undone, since training's decoder applies the CTF. The star file keeps
every row and column of the chosen particles, in their order; poses stay only if they are the truth. An interrupted call
continues (resumable_stack.py).
"""

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.optimize
import scipy.special

from equipose.config.settings import PreparationConfig
from equipose.core.ctf import ctf
from equipose.core.evenly import evenly
from equipose.core.noise import filtered, noise_power, shells, whitening
from equipose.data.aberrations import Aberrations, aberrations_of
from equipose.errors import ConfigError
from equipose.io.cryosparc import SIGN_LABEL
from equipose.io.files import write_json
from equipose.io.fingerprint import fingerprint
from equipose.io.locks import one_at_a_time
from equipose.io.particle_tables import (
    APPLIED,
    MAGNIFICATION,
    ORIGINS,
    PIXEL,
    SIZE,
    TILT,
    Tables,
    check_inside,
    chosen_rows,
    of_groups,
    read_tables,
    without_poses,
    write_star,
)
from equipose.io.particles import ALIKE, Particles, read_particles, summary_of
from equipose.io.progress import run_main, say
from equipose.io.resumable_stack import sha256, write_stack
from equipose.io.stacks import resampled

CHUNK, PIXELS = 256, 2**23
"""Number of images, and of their pixels, that are read at once. Of 1,024 pixels a side, 256 images took 5 GB."""

SAMPLE = 5000
"""Number of images from which the contrast is found."""

CONTRAST_SHELLS = 3.5
"""Shells from which the contrast is found: at so low a resolution the mean over views is strong."""

CERTAIN = 5.0
"""Least certainty of the contrast, in standard errors. The highest of 20,000 stacks of noise alone had 4.3."""

EDGE = 0.05
"""Width of the mask's soft edge, as a part of the box."""

CONSTANT = 1e-4
"""A background whose standard deviation is less than this part of the image's is constant, but for rounding."""

SOFT = 1.5
"""Pixels over which the window on the background is softened, so that a shell's power does not leak into others."""

FLIP_SHELLS = (4.0, 12.0)
"""Shells in which flipped phases are sought: not the first ones, whose CTF has one sign in nearly all images."""

FLIPPED_WARNING = (
    "phases seem to be flipped already (the contrast has one sign at all shells, whatever the CTF's): if they were"
    " (RELION's extraction with --phase_flip, for one), say --phase-flipped"
)

NEAR_ZERO = 1e-3
"""A multiplication by a CTF with a smaller square than this is not undone."""


@dataclass(frozen=True)
class Preparation:
    """The settings by which each image is prepared."""

    sign: int
    """-1 where protein is dark"""
    voxel_size: float
    """Å, of the prepared images"""
    background: np.ndarray
    """(L, L) bool, where there is no particle"""
    mask: np.ndarray | None
    """(L, L), 0 to 1"""
    applied: np.ndarray
    """(n,) what was done to each image with its CTF: one of `APPLIED`"""
    whitening: np.ndarray | None
    """Factors by shell"""
    aberrations: Aberrations | None


def prepare(config: PreparationConfig, output: Path, say: Callable[[str], None]) -> None:
    """Prepare the particles that `config` names, in folder `output`.

    Raises ConfigError if they cannot be read, are smaller than the box, or have no clear contrast.
    """
    star = Path(config.star)
    datadir = Path(config.datadir) if config.datadir else None
    tables = read_tables(star, told=config.told)
    # Before the images are read: a stack that changes meanwhile is noticed.
    source = summary_of(star, datadir, tables, config.limits, config.told)
    chosen = chosen_rows(star, tables, config.subset, config.limits)
    if not len(chosen):
        raise ConfigError(f"{star}: no particle is within the limits of `select`: widen them")
    check_inside(star, datadir, tables[1].iloc[chosen])
    common = source.box, source.voxel_size  # of both halves
    particles = read_particles(star, datadir, tables, chosen, poses=config.truth, size=common)
    size, rows = particles.images.shape[-1], np.arange(len(chosen))
    how, certainty = preparation_of(config, particles, rows)
    voxel_size = how.voxel_size
    say(
        f"{star}: {len(rows)} of {len(tables[1])} particles, {size} → {config.box} pixels of {voxel_size:.4g} Å,"
        f" protein is {'bright' if how.sign > 0 else 'dark: inverted'}"
        + (f" ({certainty:.0f} standard errors)" if certainty else "")
        + "".join(f", CTF {what}: undone" for what in APPLIED.values() if (how.applied[rows] == what).any())
    )
    if not (how.applied != "").any() and looks_flipped(particles, rows, voxel_size, config.box):
        say(f"warning: {star}: {FLIPPED_WARNING}")
    prepared_tables = _tables(particles, config, voxel_size, how.aberrations)
    _write_stack(output / "particles.mrcs", particles, rows, how, config, say)
    write_star(output / "particles.star", *prepared_tables)
    summary = {
        "star": config.star,
        "particles": len(rows),
        "particles_in_star": len(tables[1]),
        "original_box": size,
        "original_voxel_size": particles.voxel_size,
        "box": config.box,
        "voxel_size": voxel_size,
        "protein": "bright" if how.sign > 0 else "dark",
        "contrast_standard_errors": certainty,
        "background_radius_angstrom": config.mask_radius or size * particles.voxel_size / 2,
        "masked": config.mask_radius is not None,
        "whitening": None if how.whitening is None else how.whitening.tolist(),
        "source": {"star": source.digest, "stacks": source.stacks},
        "code": fingerprint("prepare"),
    }
    write_json(output / "preparation.json", summary)


def check(config: PreparationConfig, particles: Particles, rows: np.ndarray) -> None:
    """Raise ConfigError where `prepare` would, for some rows of particles that are read, as far as a sample tells."""
    how, _ = preparation_of(config, particles, rows)
    for part in _blocks(particles, rows, CHUNK):
        images = prepared(_images(particles, part, how), particles.ctf[part], how.applied[part], how)
        _refuse_masked(config, particles, part, images)


def preparation_of(
    config: PreparationConfig, particles: Particles, rows: np.ndarray
) -> tuple[Preparation, float | None]:
    """The settings for some rows of particles, and how certain their contrast is, in standard errors.

    Raises ConfigError if images are smaller than the box or the mask, or have no clear contrast.
    """
    star, size = Path(config.star), particles.images.shape[-1]
    if size < config.box:
        raise ConfigError(
            f"{star}: images of {size} pixels are smaller than the box of {config.box}: choose a box ≤ {size}"
        )
    voxel_size = particles.voxel_size * size / config.box
    width = size * particles.voxel_size
    if config.mask_radius and config.mask_radius > width / 2:
        raise ConfigError(
            f"{star}: a mask of radius {config.mask_radius:g} Å does not fit into images of {width:.4g} Å: give"
            f" {width / 2:.4g} or less"
        )
    sign, certainty = contrast(particles, rows, config, voxel_size)
    radius = (config.mask_radius or width / 2) / voxel_size  # pixels
    applied, aberrations = applied_ctf(star, particles), aberrations_of(star, particles)
    how = Preparation(sign, voxel_size, *_background_and_mask(config, radius), applied, None, aberrations)
    if config.whiten:
        how = dataclasses.replace(how, whitening=_whitening(particles, rows, how))
    return how, certainty


def _background_and_mask(config: PreparationConfig, radius: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Where there is no particle, (L, L) bool, and the mask (L, L) if one is asked for; `radius` in pixels."""
    axis = np.arange(config.box) - config.box // 2
    distance = np.hypot(axis[:, None], axis)
    inside = np.clip((radius - distance) / (EDGE * config.box), 0, 1)
    return distance > radius - 1, 0.5 - 0.5 * np.cos(np.pi * inside) if config.mask_radius else None


def preparation_like(particles: Particles, config: PreparationConfig, known: dict[str, Any]) -> Preparation:
    """The settings for further particles, from `config.star`, as those were prepared whose preparation.json is `known`.

    `config` is that of the known particles but for the files.
    """
    star, sign = Path(config.star), 1 if known["protein"] == "bright" else -1
    discs = _background_and_mask(config, known["background_radius_angstrom"] / known["voxel_size"])
    applied, aberrations = applied_ctf(star, particles), aberrations_of(star, particles)
    factors = None if known["whitening"] is None else np.array(known["whitening"])
    return Preparation(sign, known["voxel_size"], *discs, applied, factors, aberrations)


def prepared_like(
    config: PreparationConfig, particles: Particles, rows: np.ndarray, how: Preparation, known: dict[str, Any]
) -> np.ndarray:
    """The prepared images (m, L, L) of `rows`, with what `preparation_like` gave.

    Images of another width than the known ones are first brought to the known box and voxel size. Raises ConfigError if
    an image is constant outside of the particle.
    """
    images, width = _images(particles, rows, how), particles.voxel_size * particles.images.shape[-1]
    if abs(width - known["box"] * known["voxel_size"]) > ALIKE * width:
        images = resampled(images, known["box"], particles.voxel_size / known["voxel_size"])
    images = prepared(images, particles.ctf[rows], how.applied[rows], how)
    _refuse_masked(config, particles, rows, images)
    return images


def fourier_crop(images: np.ndarray, box: int) -> np.ndarray:
    """Images (n, L, L) at the lower sampling of (n, box, box), centred on pixel box/2 where they were on L/2.

    Means are kept. The frequencies |kx| or |ky| = box/2, which have no partner, are left out. Images of the box's size
    stay as they are.
    """
    size = images.shape[-1]
    if box == size:
        return images.astype(np.float32)
    spectrum = scipy.fft.rfft2(scipy.fft.ifftshift(images, axes=(1, 2)))
    rows = np.fft.fftfreq(box, 1 / box).astype(int)
    spectrum = spectrum[:, rows, : box // 2 + 1] * (box / size) ** 2
    spectrum[:, box // 2, :] = spectrum[:, :, box // 2] = 0
    return scipy.fft.fftshift(scipy.fft.irfft2(spectrum, s=(box, box)), axes=(1, 2)).astype(np.float32)


def contrast(
    particles: Particles, rows: np.ndarray, config: PreparationConfig, voxel_size: float
) -> tuple[int, float | None]:
    """+1 if protein is bright, -1 if it is dark, and its certainty in standard errors (None if the user gave the sign).

    Protein is denser than solvent everywhere. So the mean image, over all views and turned by all angles, is a sum of
    bright rings, or of dark ones. Both are fitted to its lowest shells, and the better one counts. The sign of these
    shells alone tells no more than that of a blob: a hollow particle's transform changes its sign there. Raises
    ConfigError if the fits' errors differ by less than `CERTAIN` squared.
    """
    if config.contrast != "detect":
        return (1 if config.contrast == "bright" else -1), None
    k = _half_plane(CONTRAST_SHELLS)
    squared, turned = np.unique((k**2).sum(axis=1), return_inverse=True)
    at_length = np.eye(len(squared), dtype=np.float32)[turned]
    seen, power = [], np.zeros(len(squared))
    for coefficients, transfer in _transforms(particles, rows, k, config.box, voxel_size):
        seen.append((coefficients * transfer) @ at_length)
        power += (transfer**2 @ at_length).sum(axis=0)
    bright, dark = _ring_errors(np.concatenate(seen).astype(float), power, np.sqrt(squared), config.box)
    certainty = abs(bright - dark) ** 0.5
    if not certainty >= CERTAIN:
        raise ConfigError(
            f"{config.star}: whether protein is bright or dark cannot be seen ({certainty:.1f} standard errors from"
            " neither): say contrast (--contrast): bright, as RELION's and cryoSPARC's inverted particles are, or dark"
        )
    return (1 if bright < dark else -1), certainty


def _ring_errors(seen: np.ndarray, power: np.ndarray, lengths: np.ndarray, box: int) -> tuple[float, float]:
    """Squared errors, in standard errors, of the best bright and dark rings about the centre of images of this box.

    Of the n images, `seen` (n, k) are transforms times CTF, summed over the frequencies of a length, and `power` (k,)
    are the sums over images and frequencies of CTF². The k `lengths` are in cycles per box.
    """
    if len(seen) < 2:
        return 0.0, 0.0
    errors = np.maximum(seen.std(axis=0, ddof=1), 1e-12) * len(seen) ** 0.5
    rings = scipy.special.j0(2 * np.pi / box * np.outer(lengths, np.arange(0.5, box / 2)))
    expected = power[:, None] * rings / errors[:, None]
    wanted = seen.sum(axis=0) / errors
    bright, dark = (scipy.optimize.nnls(expected, sign * wanted)[1] ** 2 for sign in (1, -1))
    return float(bright), float(dark)


def _half_plane(radius: float) -> np.ndarray:
    """One of each pair ±k of the whole frequencies (n, 2), (kx, ky) in cycles per box, with 0 < |k| < `radius`."""
    kx, ky = (axis.ravel() for axis in np.meshgrid(np.arange(radius), np.arange(1 - np.ceil(radius), radius)))
    kept = (kx**2 + ky**2 < radius**2) & ((kx > 0) | (ky > 0))
    return np.stack([kx, ky], axis=1)[kept].astype(np.float32)


def _transforms(
    particles: Particles, rows: np.ndarray, k: np.ndarray, box: int, voxel_size: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Real parts of transforms at frequencies `k` (n, 2), and CTFs, (m, n) each, of blocks of a sample of the images.

    Images are cropped to the box, whose pixels are `voxel_size` Å, and have a standard deviation of 1.
    """
    column, row = k.astype(int).T
    for part in _blocks(particles, rows, SAMPLE):
        images = fourier_crop(np.asarray(particles.images[part], np.float32), box)
        images /= np.maximum(images.std(axis=(1, 2), keepdims=True), 1e-12)
        spectrum = scipy.fft.rfft2(scipy.fft.ifftshift(images, axes=(1, 2)), norm="ortho")
        yield spectrum[:, row, column].real, ctf(particles.ctf[part], k, box * voxel_size)


def _blocks(particles: Particles, rows: np.ndarray, most: int) -> list[np.ndarray]:
    """At most so many of the `rows`, evenly chosen, in blocks that are read at once."""
    chosen = rows[evenly(len(rows), most)]
    return np.array_split(chosen, math.ceil(len(chosen) / _at_once(particles)))


def _at_once(particles: Particles) -> int:
    return max(1, min(CHUNK, PIXELS // particles.images.shape[-1] ** 2))


def looks_flipped(particles: Particles, rows: np.ndarray, voxel_size: float, box: int) -> bool:
    """Whether phases seem to be flipped: then the images in a shell do not change their sign with the CTF.

    Over all views and turns, the transforms of a shell have a mean; an unflipped image shows it times the CTF's sign.
    The mean is estimated with that sign and without it, in standard errors of all shells together.
    """
    k = _half_plane(FLIP_SHELLS[1])
    shell = np.rint(np.hypot(*k.T)).astype(int)
    by_shell = np.eye(shell.max() + 1, dtype=np.float32)[shell]
    with_sign, without = [], []
    for coefficients, transfer in _transforms(particles, rows, k, box, voxel_size):
        with_sign.append((coefficients * transfer) @ by_shell)
        without.append((coefficients * np.abs(transfer)) @ by_shell)
    first = int(FLIP_SHELLS[0])
    seen = [_certainty(np.concatenate(values)[:, first:].astype(float)) for values in (with_sign, without)]
    return seen[1] > seen[0] + CERTAIN**2


def _certainty(values: np.ndarray) -> float:
    """Sum over columns of the squared mean of values (n, columns), in standard errors; 0 of a single row."""
    if len(values) < 2:
        return 0.0
    error = np.maximum(values.std(axis=0, ddof=1), 1e-12) / len(values) ** 0.5
    return float(((values.mean(axis=0) / error) ** 2).sum())


def prepared(images: np.ndarray, ctf_parameters: np.ndarray, applied: np.ndarray, how: Preparation) -> np.ndarray:
    """Images (n, size, size) ready for training, (n, L, L); NaN if the background is constant."""
    box = len(how.background)
    images = how.sign * fourier_crop(images, box)
    constant = images[:, how.background].std(axis=1) < CONSTANT * images.std(axis=(1, 2))
    if (applied != "").any():
        images = filtered(images, _undoing(ctf_parameters, applied, box, how.voxel_size))
    if how.whitening is not None:
        images = filtered(images, how.whitening[shells(box)])
    outside = images[:, how.background]
    deviation = np.where(constant, np.nan, outside.std(axis=1))
    images = (images - outside.mean(axis=1)[:, None, None]) / deviation[:, None, None]
    return images if how.mask is None else images * how.mask


def _undoing(ctf_parameters: np.ndarray, applied: np.ndarray, box: int, voxel_size: float) -> np.ndarray:
    """Factors (n, L, L/2 + 1) that undo flipped phases or a multiplied CTF.

    A flip undoes itself. Division by a CTF near zero would only raise noise: there the image stays weak.
    """
    row, column = np.meshgrid(np.fft.fftfreq(box, 1 / box), np.arange(box // 2 + 1), indexing="ij")
    k = np.stack([column, row], -1).reshape(-1, 2).astype(np.float32)
    transfer = ctf(ctf_parameters, k, box * voxel_size).reshape(len(applied), *row.shape)
    how = applied[:, None, None]
    flipped, multiplied = np.where(transfer < 0, -1, 1), transfer / (transfer**2 + NEAR_ZERO)
    return np.where(how == "flipped", flipped, np.where(how == "multiplied", multiplied, 1))


def applied_ctf(star: Path, particles: Particles) -> np.ndarray:
    """How the CTF was applied to each image, (n,), by the star file: not at all (""), or one of `APPLIED`."""
    applied = np.full(len(particles.ctf), "", "U10")
    for label, what in APPLIED.items():
        done = of_groups(star, label, particles.optics_table, particles.particle_table)
        if not np.isin(done, (0, 1)).all():
            raise ConfigError(f"{star}: {label} is {done[~np.isin(done, (0, 1))][0]:g}; it is 0 or 1")
        applied[done == 1] = what
    return applied


def _whitening(particles: Particles, rows: np.ndarray, how: Preparation) -> np.ndarray:
    """The filter by shell that makes the background of a sample of the images white."""
    window = scipy.ndimage.gaussian_filter(how.background.astype(float), SOFT, mode="wrap") * how.background
    unmasked, spectra = dataclasses.replace(how, mask=None), []
    for part in _blocks(particles, rows, SAMPLE):
        images = prepared(_images(particles, part, how), particles.ctf[part], how.applied[part], unmasked)
        spectra.append(
            noise_power(images[np.isfinite(images).all(axis=(1, 2))], window)
        )  # other images are refused later
    return whitening(np.nanmean(spectra, axis=0))


def _images(particles: Particles, rows: np.ndarray, how: Preparation) -> np.ndarray:
    images = np.asarray(particles.images[rows], np.float32)
    if how.aberrations is None:
        return images
    return how.aberrations.taken_out(images, particles.ctf, particles.voxel_size, rows)


def _write_stack(
    path: Path,
    particles: Particles,
    rows: np.ndarray,
    how: Preparation,
    config: PreparationConfig,
    say: Callable[[str], None],
) -> None:
    """Write the prepared images of `rows`, in order."""

    def source(place: slice) -> np.ndarray:
        return _images(particles, rows[place], how)

    def result(images: np.ndarray, place: slice) -> np.ndarray:
        part = rows[place]
        images = prepared(images, particles.ctf[part], how.applied[part], how)
        _refuse_masked(config, particles, part, images)
        return images

    settings = sha256(
        repr((config, how.sign, how.voxel_size)).encode(),
        how.applied[rows],
        None if how.aberrations is None else how.aberrations.tilt,
        None if how.aberrations is None else how.aberrations.magnification,
        how.whitening,
        particles.ctf[rows],
    )
    shape = len(rows), config.box, config.box
    write_stack(path, shape, how.voxel_size, settings, _at_once(particles), source, result, say)


def _refuse_masked(config: PreparationConfig, particles: Particles, rows: np.ndarray, images: np.ndarray) -> None:
    """Raise ConfigError if one of the prepared images of `rows` is not finite: its background was constant."""
    finite = np.isfinite(images).all(axis=(1, 2))
    if not finite.all():
        name = particles.particle_table["rlnImageName"].iloc[rows[int(np.argmin(finite))]]
        raise ConfigError(
            f"{config.star}: image {name} is constant outside of the particle: it has a mask; give images without"
        )


def _tables(
    particles: Particles, config: PreparationConfig, voxel_size: float, aberrations: Aberrations | None
) -> Tables:
    table = particles.particle_table.reset_index(drop=True)
    if not config.truth:
        table = without_poses(table)
    elif particles.rotations is None:
        raise ConfigError(f"`truth: true` wants poses, and {config.star} has none: leave it out")
    elif aberrations is not None and particles.shifts is not None:
        table[list(ORIGINS)] = -aberrations.shifts_taken_out(particles.shifts)
    table["rlnImageName"] = [f"{number:06d}@particles.mrcs" for number in range(1, len(table) + 1)]
    optics = particles.optics_table.assign(rlnImagePixelSize=voxel_size, rlnImageSize=config.box)
    optics = optics.drop(columns=[label for label in (*TILT, *MAGNIFICATION) if label in optics])
    gone = (*TILT, *MAGNIFICATION, PIXEL, SIZE, SIGN_LABEL)
    table = table.drop(columns=[label for label in gone if label in table])
    for part in (optics, table):
        part[[label for label in APPLIED if label in part]] = 0
    return optics, table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m equipose.data.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="PreparationConfig as JSON")
    parser.add_argument("--output", type=Path, required=True, help="the dataset's folder")
    arguments = parser.parse_args()
    with one_at_a_time(arguments.config, say):
        prepare(PreparationConfig.load(arguments.config), arguments.output, say)


if __name__ == "__main__":
    run_main(main)
