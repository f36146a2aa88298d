"""Poses for particles that a finished reconstruction has not seen.

Images are prepared as the reconstruction prepared its own. Each new particle goes to a half-set; the network of that
half-set's run gives its pose, and a search and Gauss-Newton steps against that half-set's map refine it. Its score is
its correlation with its projection of the other half-set's map, as for the reconstruction's own particles.

How well would an image agree that shows something else? Some images are also posed against a decoy: the same maps,
their phases random from shell `DECOY` of junk.py on. It has the molecule's size, outline and spectrum, but none of its
detail. An image is doubtful if it agrees no better with the map than with the decoy. Where few images agree better with
the map than nearly all do with the decoy, the particles are of another molecule.

Poses are found in parts of `PART` particles, each of which is kept in a file: the same command continues.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from equipose.config.settings import PreparationConfig, Told
from equipose.core.evenly import evenly
from equipose.core.fourier_grid import from_real_map
from equipose.data.prepare import (
    FLIPPED_WARNING,
    Preparation,
    contrast,
    looks_flipped,
    preparation_like,
    prepared_like,
)
from equipose.errors import ConfigError, OtherParticles
from equipose.io.files import read_json, sampled_digest, whole_file, write_json
from equipose.io.half_sets import SUBSET, TOGETHER, half_of_more, seen_before, warn_of_repeats
from equipose.io.locks import one_at_a_time
from equipose.io.particle_tables import Tables, check_inside, find_datadir, image_names, read_tables
from equipose.io.particles import ALIKE, Particles, read_particles, summarise
from equipose.io.progress import reporter
from equipose.io.stacks import stack_path
from equipose.poses.refinement import poses_against
from equipose.reconstruction.finished import Finished, FinishedHalf
from equipose.reconstruction.growing import SETTINGS, SUMS, summed_before, sums_of, write_sums
from equipose.reconstruction.halves import Half
from equipose.reconstruction.handback import write_posed
from equipose.reconstruction.junk import decoy
from equipose.reconstruction.particle_scores import correlations
from equipose.reconstruction.verdict import share
from equipose.training.evaluate import predict

PART = 400
"""Particles that are posed at once."""

SAMPLE = 100
"""Particles of each half-set that are posed against the decoy, too."""

BY_CHANCE = 0.05
"""Part of the scores with the decoy that is left out of the comparison: the best ones."""

ANOTHER = 0.25
"""Least share of images that agree better. Of 40 to 100 images against the spliceosome's map at 36 Å, 100 % did of its
own at SNR 1, 24 % at SNR 0.1 and 7 % at 0.03; of others 18 % (spike), 10 % (β-galactosidase), 0 % (GroEL, ribosome).
"""

PARTIAL, HALVES, SUMMARY = "partial", "halves.npz", "pose.json"
"""Folder of the parts until all are done, its file with the rows of each half-set, and the results' summary."""

Say = Callable[[str], None]

Posed = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rotations (n, 3, 3), shifts (n, 2) in Å and scores (n,)"""


@dataclass(frozen=True)
class More:
    """Particles to be posed, and how each half-set prepares its own."""

    config: PreparationConfig
    tables: Tables
    particles: Particles
    rows: tuple[np.ndarray, np.ndarray]
    """Rows of half 1 and of half 2"""
    how: tuple[Preparation, Preparation]
    summed: np.ndarray
    """Whether the growing map has each row's image already, from a file before, (n,) bool"""


def pose(
    finished: Finished,
    star: Path,
    datadir: Path | None,
    told: Told,
    output: Path,
    say: Say,
    encoder_only: bool = False,
    anyway: bool = False,
    with_sums: bool = False,
) -> dict[str, Any]:
    """Write poses.star, poses.cs and pose.json to the folder `output`; returns what pose.json holds.

    `with_sums` also writes the sums of their map (growing.py), without images of the files that the map has.

    Of `told`, flipped phases and the lack of a CTF are as the reconstruction was told. A call that was interrupted
    continues, and one that was finished does nothing. Raises ConfigError if the particles are not like those of the
    reconstruction (of another molecule, unless `anyway`), or if `output` holds something else; nothing is written then.
    """
    if encoder_only and not all(half.trained for half in finished.halves):
        raise ConfigError(
            f"the networks of {finished.folder} were not trained, since two starts of its search found the same map:"
            " leave out --encoder-only"
        )
    known = dataclasses.replace(finished.config, pixel_size=told.pixel_size, passthrough=told.passthrough)
    datadir = datadir or find_datadir(star, read_tables(star, told=known.told)[1])
    config = dataclasses.replace(
        known, star=str(star), datadir=str(datadir) if datadir else None, subset=None, select={}
    )
    source = summarise(star, datadir, (), config.told)
    settings = {
        "reconstruction": str(finished.folder),
        "its_files": sampled_digest(finished.files),
        "particles": [source.digest, source.stacks],
        "told": dataclasses.asdict(config),
        "encoder_only": encoder_only,
    }
    settings = json.loads(json.dumps(settings))
    if _is_done(output, settings):
        shutil.rmtree(output / PARTIAL, ignore_errors=True)  # of a call that was stopped at its very end
        return read_json(output / SUMMARY)
    more = _read_more(finished, config, _tables_of(summed_before(output) if with_sums else []), output / PARTIAL, say)
    judged = read_json(output / PARTIAL / "decoy.json") or _compare_with_decoy(finished, more, encoder_only)
    above = share("above the decoy", judged["images"], judged["share_above_decoy"])
    if above.high < ANOTHER and not anyway:
        raise ConfigError(
            f"{star}: its particles do not show the molecule of {finished.folder}, or noise hides it: {above.found:.0%}"
            f" of {above.images} agree better with its map than with one of random detail. By chance, {BY_CHANCE:.0%}"
            f" would; {ANOTHER:.0%} are needed. Give particles of the same molecule, or reconstruct these anew;"
            " --anyway poses them all the same"
        )
    with one_at_a_time(output / PARTIAL / "lock", say):
        if _is_done(output, settings):  # by the process that we waited for
            return read_json(output / SUMMARY)
        write_json(output / SETTINGS, settings)
        write_json(output / PARTIAL / "decoy.json", judged)
        with whole_file(output / PARTIAL / HALVES) as partial, open(partial, "wb") as file:
            np.savez(file, *more.rows)
        rotations, shifts, scores = zip(*_all_posed(finished, more, encoder_only, output, say), strict=True)
        summary = _summary(finished, more, np.concatenate(scores), judged, encoder_only)
        if with_sums:
            sums = [sums_of(finished, n, _not_summed(finished, more, n, rotations[n], shifts[n])) for n in range(2)]
            write_sums(output / SUMS, sums, [output.name])
        write_json(output / SUMMARY, summary)
        write_posed(output, config, more.tables, more.rows, rotations, shifts, scores)
        shutil.rmtree(output / PARTIAL, ignore_errors=True)
    return summary


def _is_done(output: Path, settings: dict[str, Any]) -> bool:
    """Whether `output` has all poses. Raises ConfigError if it has others than `settings` ask for.

    The error is OtherParticles where the file alone has changed.
    """
    known, done = read_json(output / SETTINGS), (output / "poses.star").is_file()
    if known is None and done:
        raise ConfigError(f"{output} has a poses.star of another command: name another folder with --out")
    if known is not None and known != settings:
        changed = [key for key in settings if settings[key] != known.get(key)]
        kind = OtherParticles if changed == ["particles"] else ConfigError
        raise kind(
            f"{output} has poses with another `{', '.join(changed)}` ({SETTINGS}): name another folder with --out"
        )
    return done


def _tables_of(posed: list[Path]) -> list[pd.DataFrame]:
    """What half-sets need of the poses.star of folders that `pose` wrote, with whole paths of the images."""
    return [_half_sets_of(folder) for folder in posed if _is_whole(folder)]


@functools.cache
def _half_sets_of(posed: Path) -> pd.DataFrame:
    """The same of one folder, which stays as it is; `pose --watch` asks for it before each new file."""
    told = PreparationConfig.from_json(json.dumps(read_json(posed / SETTINGS)["told"]), posed / SETTINGS)
    table = _with_paths(told, read_tables(posed / "poses.star", as_written=True)[1])
    return table[[label for label in (*TOGETHER, SUBSET) if label in table]]


def _is_whole(posed: Path) -> bool:
    return (posed / SETTINGS).is_file() and (posed / "poses.star").is_file()


def _read_more(
    finished: Finished, config: PreparationConfig, before: list[pd.DataFrame], partial: Path, say: Say
) -> More:
    """The particles of `config.star`; `before` are tables of files in the growing map.

    An image that one of them shows is in the same half-set here. Halves that lie in the folder `partial`, of a call
    that was interrupted, stay. Raises ConfigError if the reconstruction's networks cannot pose them.
    """
    star, datadir = Path(config.star), Path(config.datadir) if config.datadir else None
    tables = read_tables(star, told=config.told)
    check_inside(star, datadir, tables[1])
    warn_of_repeats(star, *tables)
    particles = read_particles(star, datadir, tables, poses=False)
    _check_optics(finished, star, particles)
    known = finished.halves[0].prepared
    _check_size(finished, star, particles, known)
    _check_contrast(finished, config, particles, known)
    how = tuple(preparation_like(particles, config, half.prepared) for half in finished.halves)
    undone, every = (how[0].applied != "").any(), np.arange(len(particles.ctf))
    large_enough = particles.images.shape[-1] >= config.box
    if large_enough and not undone and looks_flipped(particles, every, _width(particles) / config.box, config.box):
        say(f"warning: {star}: {FLIPPED_WARNING}")
    theirs = _with_paths(finished.config, read_tables(finished.folder / "poses.star", as_written=True)[1])
    written = _with_paths(config, read_tables(star, as_written=True, told=config.told)[1])
    if again := seen_before(theirs, written).sum():
        say(f"warning: {star}: {again} of {len(written)} rows show images that {finished.folder} was made from")
    summed = seen_before(pd.concat(before), written) if before else np.zeros(len(written), bool)
    if summed.any():
        say(f"{star}: {summed.sum()} of {len(written)} rows show images that the map has already; it has them once")
    if (partial / HALVES).is_file():
        with np.load(partial / HALVES) as arrays:
            first, second = arrays["arr_0"], arrays["arr_1"]
    else:
        half = half_of_more(pd.concat([theirs, *before]), written, tables[0])
        first, second = (np.flatnonzero(half == number) for number in (1, 2))
    rescaled = abs(particles.voxel_size / known["original_voxel_size"] - 1) > ALIKE
    say(
        f"{star}: {len(written)} particles, {particles.images.shape[-1]} pixels of {particles.voxel_size:.4g} Å →"
        f" {config.box} of {known['voxel_size']:.4g} Å"
        + f", rescaled: the reconstruction's were of {known['original_voxel_size']:.4g} Å" * rescaled
        + f"; {len(first)} in half 1, {len(second)} in half 2"
    )
    return More(config, tables, particles, (first, second), (how[0], how[1]), summed)


def _with_paths(config: PreparationConfig, table: pd.DataFrame) -> pd.DataFrame:
    """The table with whole paths in rlnImageName: two files may call different stacks by one name."""
    star, folder = Path(config.star), Path(config.datadir) if config.datadir else Path(config.star).parent
    index, number, names, _ = image_names(star, table["rlnImageName"])
    paths = [stack_path(folder, name).resolve() for name in names]
    whole = [f"{image + 1}@{paths[code]}" for image, code in zip(index.tolist(), number.tolist(), strict=True)]
    return table.assign(rlnImageName=whole)


def _check_optics(finished: Finished, star: Path, particles: Particles) -> None:
    for optics in np.unique(particles.ctf[:, 3:6], axis=0):
        if not np.isclose(finished.optics, optics, rtol=1e-3).all(axis=1).any():
            own, theirs = (
                ", or ".join(f"{row[0]:g} kV, Cs {row[1]:g} mm, amplitude contrast {row[2]:g}" for row in rows)
                for rows in (finished.optics, optics[None])
            )
            raise ConfigError(
                f"{star} has particles of other optics, {theirs}, than {finished.folder}, {own}: its networks have not"
                " seen such images; reconstruct these anew"
            )


def _check_size(finished: Finished, star: Path, particles: Particles, known: dict[str, Any]) -> None:
    if particles.voxel_size > known["voxel_size"] * (1 + ALIKE):
        raise ConfigError(
            f"{star}: pixels of {particles.voxel_size:.4g} Å are larger than the {known['voxel_size']:.4g} Å of"
            f" {finished.folder}: extract the particles with smaller pixels"
        )
    width = known["box"] * known["voxel_size"]
    if _width(particles) < width - known["voxel_size"]:
        raise ConfigError(
            f"{star}: images of {_width(particles):.4g} Å are smaller than the {width:.4g} Å of {finished.folder}:"
            " extract the particles in a larger box"
        )


def _check_contrast(finished: Finished, config: PreparationConfig, particles: Particles, known: dict[str, Any]) -> None:
    """Raises ConfigError if protein is clearly bright where it was dark, or the other way round."""
    if particles.images.shape[-1] < config.box:
        return
    asked, rows = dataclasses.replace(config, contrast="detect"), np.arange(len(particles.ctf))
    try:
        sign, _ = contrast(particles, rows, asked, _width(particles) / config.box)
    except ConfigError:  # it cannot be seen
        return
    if sign != (1 if known["protein"] == "bright" else -1):
        raise ConfigError(
            f"{config.star}: protein is {'bright' if sign > 0 else 'dark'} in its images, and was {known['protein']} in"
            f" those of {finished.folder}: invert the images (relion_image_handler --multiply_constant -1)"
        )


def _width(particles: Particles) -> float:
    """Å, of an image's side"""
    return particles.voxel_size * particles.images.shape[-1]


def _compare_with_decoy(finished: Finished, more: More, encoder_only: bool) -> dict[str, Any]:
    """How some images agree with the map and with a decoy.

    `share_above_decoy` is the share whose refined pose scores better than nearly all scores with the decoy,
    `doubtful_share` that of images whose asked pose scores no better than their own with the decoy.
    """
    refined, asked, by_chance = [], [], []
    for number, (half, rows) in enumerate(zip(finished.halves, more.rows, strict=True)):
        if not len(rows):
            continue
        some = rows[evenly(len(rows), SAMPLE)]
        answers = _asked(half, more, number, some)
        decoys = decoy(half.own, finished.mask), decoy(half.other, finished.mask)
        refined.append(_fitted(half, *answers, half.own, half.other, finished.shells)[2])
        by_chance.append(_fitted(half, *answers, *decoys, finished.shells)[2])
        given = _fitted(half, *answers, half.own, half.other, finished.shells, True)[2] if encoder_only else refined[-1]
        asked.append(given)
    scores, posed, chance = (np.concatenate(part) for part in (refined, asked, by_chance))
    above = scores > np.quantile(chance, 1 - BY_CHANCE)
    doubtful = posed <= chance
    return {
        "images": len(scores),
        "share_above_decoy": float(above.mean()),
        "doubtful_share": float(doubtful.mean()),
    }


def _all_posed(finished: Finished, more: More, encoder_only: bool, output: Path, say: Say) -> list[Posed]:
    """Rotations, shifts and scores of each half-set's rows, part after part; parts that are kept are read."""
    found, report = [], reporter(say)
    done, count = 0, sum(map(len, more.rows))
    for number, (half, rows) in enumerate(zip(finished.halves, more.rows, strict=True)):
        parts = [(np.empty((0, 3, 3)), np.empty((0, 2)), np.empty(0))]
        for start in range(0, len(rows), PART):
            some = rows[start : start + PART]
            kept = output / PARTIAL / f"half{number + 1}_{start}.npz"
            if not kept.is_file():
                asked = _asked(half, more, number, some)
                posed = _fitted(half, *asked, half.own, half.other, finished.shells, encoder_only)
                with whole_file(kept) as partial, open(partial, "wb") as file:
                    np.savez(file, *posed)
            with np.load(kept) as arrays:
                parts.append((arrays["arr_0"], arrays["arr_1"], arrays["arr_2"]))
            done += len(some)
            report("posed", done, count)
        rotations, shifts, scores = (np.concatenate(values) for values in zip(*parts, strict=True))
        found.append((rotations, shifts, scores))
    return found


def _not_summed(
    finished: Finished, more: More, number: int, rotations: np.ndarray, shifts: np.ndarray
) -> Iterator[Half]:
    """The prepared particles of a half-set that the map lacks, with their poses (n, 3, 3) and (n, 2), in parts."""
    factors, rows = finished.halves[number].prepared["whitening"], more.rows[number]
    new = np.flatnonzero(~more.summed[rows])
    for start in range(0, len(new), PART):
        part = new[start : start + PART]
        particles = _prepared(finished.halves[number], more, number, rows[part])
        yield Half(particles, rotations[part], shifts[part], "C1", factors and tuple(factors))


def _prepared(half: FinishedHalf, more: More, number: int, rows: np.ndarray) -> Particles:
    """Some of the particles, as the half-set's own were prepared."""
    images = prepared_like(more.config, more.particles, rows, more.how[number], half.prepared)
    voxel_size, ctf = half.prepared["voxel_size"], more.particles.ctf[rows]
    return dataclasses.replace(more.particles, images=images, ctf=ctf, voxel_size=voxel_size)


@torch.no_grad()
def _asked(half: FinishedHalf, more: More, number: int, rows: np.ndarray) -> tuple[Particles, np.ndarray, np.ndarray]:
    """Prepared particles, and the encoder's poses of them: rotations (n, 3, 3) and shifts (n, 2) in Å, in the frame.

    An encoder that was not trained is not asked: all particles have one pose, and the search finds theirs.
    """
    part = _prepared(half, more, number, rows)
    if not half.trained:
        return part, np.tile(np.eye(3), (len(rows), 1, 1)), np.zeros((len(rows), 2))
    answers, _ = predict(half.model, part, lambda *_: None)
    frame = half.frame
    return part, frame.rotations(answers.rotations), frame.shifts(answers.rotations, answers.shifts)


def _fitted(
    half: FinishedHalf,
    particles: Particles,
    rotations: np.ndarray,
    shifts: np.ndarray,
    own: Tensor,
    other: Tensor,
    shells: float,
    encoder_only: bool = False,
) -> Posed:
    """The poses refined against the map `own` (L, L, L), and their scores by `other`, both masked."""
    radius = len(own) // 2
    if not encoder_only:
        rotations, shifts = poses_against(half.model, from_real_map(own, radius), particles, rotations, shifts)
    factors = half.prepared["whitening"]
    posed = Half(particles, rotations, shifts, "C1", factors and tuple(factors))
    return rotations, shifts, correlations(posed, from_real_map(other, radius), shells)


def _summary(
    finished: Finished, more: More, scores: np.ndarray, judged: dict[str, Any], encoder_only: bool
) -> dict[str, Any]:
    return {
        "star": more.config.star,
        "reconstruction": str(finished.folder),
        "reconstruction_is": finished.state,
        "particles": [len(rows) for rows in more.rows],
        "encoder_only": encoder_only,
        "pixel_size": more.particles.voxel_size,
        "voxel_size": finished.halves[0].prepared["voxel_size"],
        "median_score": float(np.median(scores)),
        "median_score_of_the_reconstruction": float(np.median(finished.scores)),
        **judged,
    }


def in_words(summary: dict[str, Any]) -> str:
    """A pose.json for people."""
    partly = summary["reconstruction_is"] != "converged"
    return (
        f"{sum(summary['particles'])} particles with a median score of {summary['median_score']:.2f} (the"
        f" reconstruction's own: {summary['median_score_of_the_reconstruction']:.2f}). {summary['doubtful_share']:.1%}"
        f" of {summary['images']} looked at are doubtful: they agree no better with the map than with random detail"
        + f". The reconstruction is {summary['reconstruction_is']}"
        * partly
    )
