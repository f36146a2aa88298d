"""A volume → particles.star and particles.mrcs, with the truth in the star file's columns, and simulation.json.

    python -m equipose.data.simulate --config config.json --volume volume.mrc --output DIR --threads N

Poses are uniform on SO(3), shifts Gaussian, defocus log-normal without astigmatism (paper, Apx. C; cryoAI's simulator).
An image is

    Î(k) = scale · CTF(k) · exp(-2πi k·t) · V̂(Rᵀ (kx, ky, 0)),   |k| < L/2,

about pixel L/2, plus white noise. One scale gives the clean images (mean-subtracted, whole box and dataset) a standard
deviation of 1. The noise, one σ a dataset, is then 1/√snr (`variance`) or 1/snr (`amplitude`). With `snr_box`, the SNR
is that of larger images of the same molecule, and σ what a Fourier crop to L pixels leaves of their noise.

The same configuration gives the same bytes, whatever the number of threads: work is cut into fixed chunks, each with
its own random stream. Poses, shifts and defocus have streams of their own, so datasets that differ in noise share them.
The stack is written twice in place, clean first, since the scale is known only after all images are made.
"""

import argparse
import io
import json
import math
import os
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import scipy.fft
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from equipose.config.settings import SimulationConfig
from equipose.core.ctf import CTF_COLUMNS, ctf
from equipose.core.fourier import HalfDisc, from_half_disc, half_disc, shift_phase
from equipose.core.rotations import random_rotations, to_relion_angles
from equipose.data.structures import particle_radius
from equipose.data.uncropped import uncropped
from equipose.errors import ConfigError
from equipose.io.files import whole_file, write_json
from equipose.io.fingerprint import fingerprint
from equipose.io.locks import one_at_a_time
from equipose.io.maps import read_map
from equipose.io.particle_tables import ANGLES, CTF_LABELS, OPTICS, ORIGINS, write_star
from equipose.io.progress import Report, number, reporter, run_main, say
from equipose.io.stacks import moments_of, sum_of_squares, write_statistics

NOISE_CHUNK = 64
"""Images a random stream; part of what a seed means."""

PROJECTED = 8
"""Images projected at once: with more, the intermediate arrays do not fit into the cache."""

PADDING = 2
"""Oversampling of the volume's transform, as RELION's."""

MRC_HEADER_BYTES = 1024

STREAMS = ("rotations", "shifts", "defocus", "noise")

COMPARED = 1000
"""Images, at most, by which clean images are compared with uncropped ones."""

MASK = "the disc about the shifted particle, of the radius that holds 99 % of the volume's squared density"


def simulate(
    config: SimulationConfig,
    volume_path: Path,
    output: Path,
    threads: int,
    progress: Report,
    structure: dict[str, Any] | None = None,
    uncropped_path: Path | None = None,
) -> None:
    """Make the dataset in `output`: the `images` training images first, then the `held_out` ones.

    `structure` identifies the structure of the volume; it is kept in simulation.json. With `snr_box`, the volume at
    `uncropped_path` has that box.

    Raises ConfigError if a volume is not the dataset's or is missing, or the disk has no room.
    """
    started = time.perf_counter()
    box, count = config.box, config.images + config.held_out
    volume = _read_volume(config, volume_path)
    _check_room(output, count * box**2 * 4)

    rotations = random_rotations(count, _stream(config.seed, "rotations"))
    shifts = _stream(config.seed, "shifts").normal(0, config.shift_std, (count, 2))
    ctf_parameters = draw_ctf(config, count, _stream(config.seed, "defocus"))

    sigma = noise_sigma(config)
    if config.snr_box:
        if uncropped_path is None:
            raise ConfigError(f"dataset {config.name} has a snr_box: give the volume of that box, too")
        finer = _read_volume(uncropped(config), uncropped_path)
        sigma *= noise_left(volume, finer, config.voxel_size, rotations[:COMPARED], ctf_parameters[:COMPARED])
    disc, transform = half_disc(box), padded_transform(volume)
    mask_radius = particle_radius(volume, np.full(3, box // 2))
    parts, chunks = (
        [slice(start, min(start + size, count)) for start in range(0, count, size)] for size in (PROJECTED, NOISE_CHUNK)
    )

    with whole_file(output / "particles.mrcs") as partial:
        _make_stack(partial, (count, box, box), config.voxel_size)
        with open(partial, "r+b", buffering=0) as file, _pool(threads) as pool:

            def write_clean(rows: slice) -> list[float]:
                pixels = shifts[rows] / config.voxel_size
                seen = projections(transform, rotations[rows], ctf_parameters[rows], disc, box * config.voxel_size)
                moved = shift_phase(torch.from_numpy(pixels).float(), disc)
                images = from_half_disc(seen * moved, disc).numpy()
                _write_images(file, rows, images)
                return _power(images, pixels, mask_radius)

            def write_final(rows: slice, chunk: int) -> list[float]:
                images = _read_images(file, rows, box) * scale
                noise = _stream(config.seed, "noise", chunk).standard_normal(images.shape, np.float32)
                noise *= np.float32(sigma)
                images += noise
                _write_images(file, rows, images)
                return [*moments_of(images), sum_of_squares(noise)]

            power = _run(pool.map(write_clean, parts), parts, progress, "projected")
            box_power, mask_power, mask_pixels = power.sum(axis=0)
            clean_variance = box_power / (count * box**2)
            scale = np.float32(1 / math.sqrt(clean_variance))
            moments = _run(pool.map(write_final, chunks, range(len(chunks))), chunks, progress, "finished")
        write_statistics(partial, moments, count * box**2)
    write_star(output / "particles.star", *star_tables(config, rotations, shifts, ctf_parameters))

    noise_variance = moments[:, 4].sum() / (count * box**2)
    seconds = time.perf_counter() - started
    summary = {
        "images": config.images,
        "held_out": config.held_out,
        "box": box,
        "voxel_size": config.voxel_size,
        "clean_std": 1.0,
        "image_scale": float(scale),
        "sigma": sigma,
        "measured_sigma": math.sqrt(noise_variance),
        "full_box_db": _decibel(1.0, noise_variance),
        "in_mask_db": _decibel(mask_power / mask_pixels / clean_variance, noise_variance),
        "mask": MASK,
        "mask_radius_angstrom": mask_radius * config.voxel_size,
        "seconds": seconds,
        "threads": threads,
        "images_per_second": count / seconds,
        "structure": structure,
        "code": fingerprint("simulate"),
    }
    write_json(output / "simulation.json", summary)


def noise_sigma(config: SimulationConfig) -> float:
    """Standard deviation of the noise, if the clean images have 1."""
    if config.snr == "noiseless":
        return 0.0
    return 1 / math.sqrt(config.snr) if config.snr_definition == "variance" else 1 / config.snr


def noise_left(
    volume: np.ndarray, larger: np.ndarray, voxel_size: float, rotations: np.ndarray, ctf_parameters: np.ndarray
) -> float:
    """Ratio of σ after and before a Fourier crop of images, in each case in standard deviations of the clean images.

    The images, with poses (n, 3, 3) and CTFs (n, 7), are projections of the map `larger`, and after the crop those of
    `volume`, whose voxels have `voxel_size` Å. A pixel is then the mean of several, which takes noise.
    """
    width = len(volume) * voxel_size
    with _pool(1) as pool:
        after, before = pool.map(lambda map_: _variance(map_, width, rotations, ctf_parameters), (volume, larger))
    crop = len(volume) / len(larger)
    return crop * math.sqrt(before * crop**2 / after)  # a projection sums voxels, and has fewer of the larger ones


def draw_ctf(config: SimulationConfig, count: int, rng: np.random.Generator) -> np.ndarray:
    """CTF parameters (count, 7) in the order of CTF_COLUMNS: log-normal defocus, no astigmatism, no phase plate."""
    defocus = config.defocus * np.exp(config.defocus_log_std * rng.standard_normal(count))
    columns = {
        "defocus_u": defocus,
        "defocus_v": defocus,
        "defocus_angle": 0.0,
        "voltage": config.voltage,
        "spherical_aberration": config.spherical_aberration,
        "amplitude_contrast": config.amplitude_contrast,
        "phase_shift": 0.0,
    }
    return np.stack([np.broadcast_to(columns[name], count) for name in CTF_COLUMNS], axis=1)


def padded_transform(volume: np.ndarray) -> Tensor:
    """Fourier transform of a volume (L, L, L) about voxel L/2, oversampled: (P + 1, P + 1, P/2 + 1, 4), P = 2L.

    At (kz, ky, kx), kz and ky from -P/2 to P/2 and kx from 0, in units of 1/P cycles a voxel: re and im there and at
    the next kx, since interpolation reads both. Divided by L, so that a slice is the unitary transform of a projection
    (see equipose.core.fourier). The volume is divided by the window sinc² that interpolation multiplies it with.
    """
    box = len(volume)
    padded = PADDING * box
    window = np.sinc((np.arange(box) - box // 2) / padded) ** 2
    corrected = volume / (window[:, None, None] * window[:, None] * window)
    wide = np.zeros((padded,) * 3, np.float32)
    inner = slice(padded // 2 - box // 2, padded // 2 + box // 2)
    wide[inner, inner, inner] = corrected / box
    spectrum = scipy.fft.fftshift(scipy.fft.rfftn(scipy.fft.ifftshift(wide)), axes=(0, 1))
    pairs = np.zeros((padded + 1, padded + 1, padded // 2 + 1, 2), np.complex64)
    pairs[..., 0] = np.pad(spectrum, ((0, 1), (0, 1), (0, 0)), mode="wrap")
    pairs[:, :, :-1, 1] = pairs[:, :, 1:, 0]
    return torch.from_numpy(pairs.view(np.float32))


def slices(transform: Tensor, rotations: np.ndarray, disc: HalfDisc) -> Tensor:
    """Coefficients (n, points), complex, of the projections along poses (n, 3, 3): V̂(Rᵀ (kx, ky, 0)), trilinear."""
    side, _, row, _ = transform.shape
    k = (PADDING * torch.from_numpy(rotations[:, :2]).float().mT) @ disc.k.T.contiguous()  # (n, 3, points)
    sign = torch.ones_like(k[:, :1]).copysign(k[:, :1])  # V̂(-k) = V̂(k)*, and only kx ≥ 0 is stored
    k *= sign
    low = k.floor()
    x, y, z = (k - low).unbind(1)
    column, line, layer = low.int().unbind(1)
    first = ((layer + side // 2) * side + line + side // 2) * row + column
    corners = first[..., None] + torch.tensor([0, row, side * row, (side + 1) * row], dtype=torch.int32)
    weights = torch.stack([(1 - z) * (1 - y), (1 - z) * y, z * (1 - y), z * y], -1)
    pairs = embedding_bag(
        corners.view(-1, 4), transform.view(-1, 4), per_sample_weights=weights.view(-1, 4), mode="sum"
    )
    here, beyond = pairs.view(*x.shape, 2, 2).unbind(-2)
    values = torch.lerp(here, beyond, x[..., None])
    values[..., 1] *= sign[:, 0]
    return torch.view_as_complex(values)


def projections(
    transform: Tensor, rotations: np.ndarray, ctf_parameters: np.ndarray, disc: HalfDisc, width: float
) -> Tensor:
    """Coefficients (n, points) of the clean, centred images of poses (n, 3, 3) and CTFs (n, 7), `width` Å wide."""
    return slices(transform, rotations, disc) * ctf(torch.from_numpy(ctf_parameters).float(), disc.k, width)


def star_tables(
    config: SimulationConfig, rotations: np.ndarray, shifts: np.ndarray, ctf_parameters: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """RELION 3.1 tables data_optics and data_particles of simulated images: poses (n, 3, 3), shifts (n, 2) in Å."""
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["simulated"],
            "rlnVoltage": [config.voltage],
            "rlnSphericalAberration": [config.spherical_aberration],
            "rlnAmplitudeContrast": [config.amplitude_contrast],
            "rlnImagePixelSize": [config.voxel_size],
            "rlnMicrographOriginalPixelSize": [config.voxel_size],
            "rlnImageSize": [config.box],
            "rlnImageDimensionality": [2],
        }
    )
    per_particle = dict(zip(ANGLES, to_relion_angles(rotations).T, strict=True))
    per_particle |= dict(zip(ORIGINS, -shifts.T, strict=True))
    per_particle |= dict(zip(CTF_LABELS, ctf_parameters.T, strict=True))
    particles = pd.DataFrame(per_particle).drop(columns=[label for label in CTF_LABELS if label in OPTICS])
    particles["rlnOpticsGroup"] = 1
    particles["rlnImageName"] = [f"{index + 1:06d}@particles.mrcs" for index in range(len(shifts))]
    return optics, particles


def main() -> None:
    parser = argparse.ArgumentParser(prog="equipose.data.simulate", description="Simulate particles of a volume.")
    parser.add_argument("--config", type=Path, required=True, help="SimulationConfig as JSON")
    parser.add_argument("--volume", type=Path, required=True, help=".mrc of the dataset's box and voxel size")
    parser.add_argument(
        "--uncropped", type=Path, nargs="?", help=".mrc of the molecule in a box of snr_box, if there is one"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--threads", type=number(int, 1), required=True)
    parser.add_argument("--structure", type=json.loads, default=None, help="JSON that identifies the structure")
    arguments = parser.parse_args()
    config = SimulationConfig.load(arguments.config)
    with one_at_a_time(arguments.config, say) as waited:  # a killed Snakemake leaves its jobs behind
        if not (waited and (arguments.output / "simulation.json").exists()):
            settings = (config, arguments.volume, arguments.output, arguments.threads)
            simulate(*settings, reporter(), arguments.structure, arguments.uncropped)


def _stream(seed: int, name: str, chunk: int = 0) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAMS.index(name), chunk)))


def _read_volume(config: SimulationConfig, path: Path) -> np.ndarray:
    volume, voxel_size = read_map(path)
    if volume.shape != (config.box,) * 3 or abs(voxel_size - config.voxel_size) > 1e-3 * config.voxel_size:
        raise ConfigError(
            f"volume {path} is {volume.shape} at {voxel_size:.4g} Å, but dataset {config.name} has box {config.box} at"
            f" {config.voxel_size} Å: make it with `python -m equipose.data.structures density`"
        )
    if not volume.any():
        raise ConfigError(f"volume {path} is zero everywhere: check the structure it was made from")
    return volume


def _check_room(output: Path, size: int) -> None:
    output.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output).free
    if free < size:
        raise ConfigError(
            f"{output} needs {size / 1e9:.1f} GB for particles.mrcs, and its disk has {free / 1e9:.1f} GB free: make"
            " room, lower simulation.images, or move `pathvars.results` to another disk"
        )


def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that each compute on one core, so that sums are the same for any number of threads."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


def _run(results: Iterable[list[float]], chunks: list[slice], progress: Report, what: str) -> np.ndarray:
    """The chunks' results, in their order, (chunks, values)."""
    rows = []
    for chunk, result in zip(chunks, results, strict=True):
        rows.append(result)
        progress(what, chunk.stop, chunks[-1].stop)
    return np.array(rows, np.float64)


def _power(images: np.ndarray, shifts: np.ndarray, radius: float) -> list[float]:
    """Sum of squares, about each image's mean, over the box and over the mask, and the mask's pixels."""
    inside = images - images.mean(axis=(1, 2), keepdims=True)
    whole = sum_of_squares(inside)
    position = np.arange(images.shape[-1]) - images.shape[-1] // 2
    x, y = ((position - shifts[:, axis, None]) ** 2 for axis in (0, 1))
    mask = y[:, :, None] + x[:, None, :] <= radius**2
    inside *= mask
    return [whole, sum_of_squares(inside), float(mask.sum())]


def _variance(volume: np.ndarray, width: float, rotations: np.ndarray, ctf_parameters: np.ndarray) -> float:
    """Mean variance of a volume's clean images, each about its own mean."""
    disc, transform, found = half_disc(len(volume)), padded_transform(volume), 0.0
    for start in range(0, len(rotations), PROJECTED):
        some = slice(start, start + PROJECTED)
        images = from_half_disc(projections(transform, rotations[some], ctf_parameters[some], disc, width), disc)
        found += float(images.var((1, 2), correction=0).sum())
    return found / len(rotations)


def _decibel(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if noise > 0 else None


def _make_stack(path: Path, shape: tuple[int, int, int], voxel_size: float) -> None:
    """An .mrcs whose images are still to be written: the file has its full size, and takes room as it fills."""
    with mrcfile.new_mmap(path, shape, mrc_mode=2, overwrite=True) as mrc:
        mrc.set_image_stack()
        mrc.voxel_size = voxel_size
        mrc.header.label[0] = "Simulated by equipose"  # in place of mrcfile's, which holds the time of day


# Plain reads and writes at a position, which threads can share: the pages of a memory map would count as memory used.
def _write_images(file: io.FileIO, rows: slice, images: np.ndarray) -> None:
    data = np.ascontiguousarray(images, np.float32).data.cast("B")
    try:
        written = os.pwrite(file.fileno(), data, _offset(rows, images.shape[-1]))
    except OSError as error:
        raise ConfigError(f"{file.name} cannot be written ({error.strerror}): make room and start again") from error
    if written != len(data):
        raise ConfigError(f"{file.name} cannot be written (the disk is full): make room and start again")


def _read_images(file: io.FileIO, rows: slice, box: int) -> np.ndarray:
    size = (rows.stop - rows.start) * box**2 * 4
    data = os.pread(file.fileno(), size, _offset(rows, box))
    return np.frombuffer(data, np.float32).reshape(-1, box, box)


def _offset(rows: slice, box: int) -> int:
    return MRC_HEADER_BYTES + rows.start * box**2 * 4


if __name__ == "__main__":
    run_main(main)
