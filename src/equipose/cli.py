"""The command `equipose`: poses and a map from your own particles, and the state of runs.

    equipose validate particles.star                   can every image be read, and is it sound?
    equipose info particles.star                       how many, how large, which optics, bright or dark
    equipose reconstruct particles.star --out DIR      poses.star, volume.mrc, half-maps, FSC, report.html
    equipose pose DIR more.star --out DIR2             poses for particles that the reconstruction has not seen
    equipose select DIR                                the particles that more likely than not show the molecule
    equipose flip-hand DIR                             poses and maps of a reconstruction in the other hand
    equipose symmetrise DIR C4                         poses and maps on RELION's axes of a point group
    equipose status results/paper                      which runs are done, running, stuck, failed; time left, metrics
    equipose status DIR                                the stage of a reconstruction, and its two runs; or of `pose`
    equipose watch DIR                                 the same as a live page in a browser, with maps and curves
    equipose run table1 --cores 8                      the paper, or a part of it, in this folder

RELION's star files name images from the project's folder: below it, equipose finds it; else give `--datadir`.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equipose import __version__
from equipose.config.folder import WORKFLOW, preset
from equipose.config.settings import (
    TRAINING_BOXES,
    PreparationConfig,
    Selection,
    Told,
    merge,
    model_config,
    preparation_config,
    usual_shift,
)
from equipose.errors import ConfigError, FileWarning
from equipose.io.files import (
    cache_folder,
    check_can_be_made,
    whole_file,
    whole_folder,
    write_text,
)
from equipose.io.locks import alone
from equipose.io.processes import exit_after, exit_on_signals, run_stoppable, stop_on_signals
from equipose.io.progress import number, run_main, say
from equipose.reconstruction.names import NOT_CONVERGED
from equipose.study.status import LOCK, SETTINGS, WORK, former_classes
from equipose.workflow.command import add_run_options, where
from equipose.workflow.command import run as run_workflow

if TYPE_CHECKING:
    import numpy as np
    from werkzeug.serving import BaseWSGIServer

    from equipose.io.particle_tables import Tables
    from equipose.io.particles import Particles

# NumPy, pandas and PyTorch take seconds to load: each command imports what it needs, and --help imports none of them.

LARGEST_BOX = 32
"""Default of `--box` in pixels: a first map in minutes."""

FEWEST, SEARCHED = 500, 3000
"""Particles of a half-set: the fewest that a search can start from, and the number whose poses it refines."""

LEAST_RADIUS = 2
"""Pixels of the cropped images that a circular mask's radius has at least."""

LISTED = 5
"""Values that `info` prints one by one; of more it prints the range."""

MAPS = ("volume.mrc", "half1.mrc", "half2.mrc", "mask.mrc", "local_resolution.mrc")
EITHER_HAND = ("fsc.csv", "agreement.csv", "detail_scores.csv", "examples.npz", "reconstruction.json")
"""Files of a reconstruction: those that depend on the hand, and those that are the same in both hands."""

OF_ALL = ("poses.cs", "filtered.mrc", "next.md", "reconstruction.png", "reconstruction.pdf")
"""Further files of a reconstruction that one of several classes has in its own folder alone."""

PORT = 8765
"""Of the live page."""

REPORT = WORKFLOW / "workflow/report/reconstruction.html.jinja"
CLASSES_REPORT = WORKFLOW / "workflow/report/classes.html.jinja"


def reconstruct(arguments: argparse.Namespace) -> None:
    """Poses, a map and half-maps; the same command continues after a stop."""
    code = _reconstruct(arguments)
    if code:
        sys.exit(code)


def _reconstruct(arguments: argparse.Namespace) -> int:
    """The exit code of a reconstruction: 0, NOT_CONVERGED, or the one of its failed workflow.

    Ends the process after a signal.
    """
    import numpy as np
    import yaml

    from equipose.data.prepare import check
    from equipose.io.half_sets import warn_of_repeats
    from equipose.io.particles import read_particles
    from equipose.poses.search_stages import search_length

    _check(check_can_be_made, arguments.out.absolute(), "--out")
    (star, tables, half_of_row, group), out = _star(arguments), arguments.out.resolve()
    if star.parent == out and star.stem == "poses":
        raise ConfigError(f"--out: {star} would be overwritten by the new poses: name another folder")
    if any((out / name).exists() for name in ("poses.star", *MAPS)) and not (out / SETTINGS).exists():
        raise ConfigError(f"--out: {out} has maps or poses of something else: name another folder")
    select = {column: list(limits) for column, *limits in _selection(arguments)}
    particles = read_particles(star, arguments.datadir, tables, poses=False)
    warn_of_repeats(star, *tables, half_of_row, group)
    size = particles.images.shape[-1]
    box = _training_box(star, arguments.box, size)
    width = size * particles.voxel_size
    if arguments.mask_radius and arguments.mask_radius > width / 2:
        raise ConfigError(
            f"--mask-radius {arguments.mask_radius:g} is more than half of the images' {width:.4g} Å:"
            f" give {width / 2:.4g} or less"
        )
    if arguments.mask_radius and arguments.mask_radius < LEAST_RADIUS * width / box:
        raise ConfigError(
            f"--mask-radius {arguments.mask_radius:g} is a radius in Å, and a pixel of the cropped images has"
            f" {width / box:.4g} Å: give {LEAST_RADIUS * width / box:.4g} or more"
        )
    if arguments.shift_std is not None and arguments.shift_std > width / 4:
        raise ConfigError(
            f"--shift-std {arguments.shift_std:g} Å puts many particles outside of their images of {width:.4g} Å: give"
            f" {width / 4:.4g} or less"
        )
    rows = [np.flatnonzero(half_of_row == number) for number in (1, 2)]
    half = min(map(len, rows))
    if half < FEWEST:
        chosen = " that --select leaves" if select else ""
        raise ConfigError(f"{star}: a half of {half} particles{chosen} is too few to search; {FEWEST} are needed")
    own = {
        "pathvars": {"results": WORK},  # relative, so that shell commands never see the spaces of a user's folder
        "preparation": {
            "datadir": str(arguments.datadir.resolve()) if arguments.datadir else None,
            "box": box,
            "contrast": arguments.contrast,
            "mask_radius": arguments.mask_radius,
            "whiten": arguments.whiten,
            "select": select,
            "shift_std": usual_shift(width) if arguments.shift_std is None else arguments.shift_std,
            "pixel_size": arguments.pixel_size,
            "phase_flipped": arguments.phase_flipped,
            "no_ctf": arguments.no_ctf,
            "passthrough": [str(path.resolve()) for path in arguments.passthrough],
            "symmetry": arguments.symmetry.upper(),
        },
        "training": {"search": {"images": min(SEARCHED, half), "starts": arguments.starts}},
        "datasets": {f"half{number}": {"star": str(star), "subset": number} for number in (1, 2)},
    }
    defaults = yaml.safe_load((WORKFLOW / "config.yaml").read_text())
    settings = merge(merge(defaults, yaml.safe_load(preset("particles").read_text())), own)
    for half_number, part in enumerate(rows, start=1):
        check(preparation_config(settings, f"half{half_number}"), particles, part)
    if half < FEWEST * arguments.classes:  # sorting takes minutes: said before it
        warnings.warn(
            f"{star}: a half of {half} particles has enough for {half // FEWEST} of {arguments.classes} classes at"
            f" most: a class with fewer than {FEWEST} in a half-set is sorted, but not reconstructed",
            FileWarning,
            stacklevel=2,
        )
    steps = search_length(model_config(settings, "d4_search").search) + arguments.fit_steps
    own["experiments"] = {"particles": {"budget": {"steps": steps}}}
    own["reconstructions"] = {"particles": {"classes": arguments.classes}}
    works_there = f"works in {out} already: wait for its end, or stop it; `equipose status {out}` shows how far it is"
    with ExitStack() as until_the_end:
        with alone(out / WORK / LOCK, works_there) as held:
            write_text(out / SETTINGS, yaml.safe_dump(own))
            until_the_end.enter_context(_live_page(out, arguments.serve))
            code, stopped_by = _run_workflow(arguments, star, out, held)
        if not stopped_by and arguments.serve is not None:
            say(f"exit code {code}; the page stays until Ctrl-C")
            with stop_on_signals() as signalled:
                while not signalled():
                    time.sleep(0.2)
    if stopped_by:
        exit_after(stopped_by, "; the same command continues")
    return code


def _run_workflow(arguments: argparse.Namespace, star: Path, out: Path, held: int) -> tuple[int, int]:
    """Run a reconstruction's workflow in its folder `out`, and hand out what it made.

    Snakemake inherits the lock `held`: no other command starts while it lives, even if we are killed. Returns the exit
    code, and the signal that told us to stop, or 0.
    """
    presets = [str(preset("particles")), str(out / SETTINGS)]
    target = "sort" if arguments.classes > 1 else "reconstruct"
    command = [sys.executable, "-m", "snakemake", target, "--snakefile", str(WORKFLOW / "Snakefile")]
    command += ["--directory", str(out), "--cores", str(arguments.cores or "all")]
    command += ["--quiet", "host", "rules", "--configfile", *presets]
    caches = cache_folder(out / WORK / ".cache")  # of Snakemake and Matplotlib
    code, stopped_by = run_stoppable(command, os.environ | {"XDG_CACHE_HOME": str(caches)}, [held])
    if not stopped_by and not code:
        states = _reconstruct_each_class(arguments, star, out) if arguments.classes > 1 else [_hand_out(out)]
        code = NOT_CONVERGED if set(states) == {"not_converged"} else 0
    return code, stopped_by


def _hand_out(out: Path) -> str:
    """Copy the results of a reconstruction's workflow to its folder `out`, write what comes next, say the verdict.

    Returns the verdict's state.
    """
    from equipose.reconstruction.next_steps import write_next_steps
    from equipose.reconstruction.verdict import headline, read_summary, with_verdict

    made = out / WORK / "maps/particles"
    for path in sorted(made.iterdir()):
        with whole_file(out / path.name) as partial:
            shutil.copy2(path, partial)
    if not (made / "poses.cs").exists():
        (out / "poses.cs").unlink(missing_ok=True)  # of a former command with other particles
    write_next_steps(out, out)
    summary = read_summary(out)
    if "verdict" not in summary:  # of an older version
        summary = with_verdict(summary)
    _name_former_classes(out, [])
    print(headline(summary))
    print(f"{out}: poses.star, volume.mrc, half1.mrc, half2.mrc; open {out / 'report.html'} in a browser")
    return str(summary["verdict"]["state"])


@contextmanager
def _live_page(folder: Path, port: int | None) -> Iterator[None]:
    """The live page of a folder, served while the block runs; none without a port."""
    if port is None:
        yield
        return
    server = _server(folder, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()


def _server(folder: Path, port: int) -> BaseWSGIServer:
    """A server of the live page of a folder, ready to serve; its address is said."""
    from equipose.pages import live
    from equipose.pages.server import application, listen

    ours = live.watched(folder)
    page, state = functools.partial(live.page, ours), functools.partial(live.state, ours)
    server = listen(application(page, state, functools.partial(live.report, ours)), port)
    say(f"{folder}: open http://{server.host}:{server.port} in a browser of this machine")
    return server


def _reconstruct_each_class(arguments: argparse.Namespace, star: Path, out: Path) -> list[str]:
    """A reconstruction of each class of particles in a folder of its own, and a table and a page of all.

    Returns the states of their verdicts.
    """
    import json

    from equipose.pages.classes_report import build
    from equipose.reconstruction.classes import CLASS, SORTED, SUMMARY, in_words, join_classes

    work, made = out / WORK / "classes/particles", []
    summary = json.loads((work / SUMMARY).read_text())
    prepared = json.loads((out / WORK / "datasets/half1/preparation.json").read_text())
    known = {"star": work / SORTED, "passthrough": [], "pixel_size": None, "classes": 1, "serve": None}
    known |= {"datadir": arguments.datadir or star.parent, "contrast": prepared["protein"]}
    for name, counts in enumerate(summary["particles"], start=1):
        if min(counts) < FEWEST:
            print(f"class {name}: a half of {min(counts)} particles is too few to search; {FEWEST} are needed")
            continue
        print(f"class {name}: {sum(counts)} particles")
        own = {"select": [[CLASS, str(name), str(name)]], "out": out / f"class{name}"}
        code = _reconstruct(argparse.Namespace(**vars(arguments) | known | own))
        if code not in (0, NOT_CONVERGED):
            sys.exit(code)
        made.append(name)
    if not made:
        raise ConfigError(
            f"{star}: no class has {FEWEST} particles in both half-sets: ask for fewer classes, or give more particles;"
            f" {work / SORTED} has the class of each"
        )
    whole = join_classes(star, out, work, made)
    for left in (*MAPS, *EITHER_HAND[:-1], *OF_ALL):
        (out / left).unlink(missing_ok=True)  # of a former command without classes
    _name_former_classes(out, [out / f"class{name}" for name in made])
    write_text(out / "report.html", build(out, whole, CLASSES_REPORT, out.name))
    print(in_words(summary))
    for each in whole["reconstructed"]:
        print(f"class {each['class']}: {out / each['folder']}: {each['verdict']['state'].replace('_', ' ')}")
    print(f"{out}: poses.star; open {out / 'report.html'} in a browser")
    return [each["verdict"]["state"] for each in whole["reconstructed"]]


def _name_former_classes(out: Path, present: list[Path]) -> None:
    """Say which folders in `out` are classes of a former command. They stay, for hours may lie in them."""
    for former in former_classes(out, present):
        print(f"warning: {former}: a class of a former command: {out / 'poses.star'} has none of its poses")


def validate(arguments: argparse.Namespace) -> None:
    """Read all particles once, and check each image and its row."""
    import numpy as np

    from equipose.data.prepare import check
    from equipose.io.half_sets import warn_of_repeats
    from equipose.io.particles import read_particles

    star, tables, half_of_row, group = _star(arguments)
    particles = read_particles(star, arguments.datadir, tables, poses=False)
    warn_of_repeats(star, *tables, half_of_row, group)
    box = _training_box(star, None, particles.images.shape[-1])
    check(_as_asked(star, box, "bright"), particles, np.arange(len(particles.images)))
    print(f"{star}: {len(particles.images)} particles of {particles.images.shape[-1]} pixels are sound")


def info(arguments: argparse.Namespace) -> None:
    """Print number, size, optics, poses and contrast of the particles."""
    import numpy as np

    from equipose.data.aberrations import aberrations_of
    from equipose.data.prepare import FLIPPED_WARNING, applied_ctf, looks_flipped
    from equipose.io.half_sets import warn_of_repeats
    from equipose.io.particle_tables import ANGLES, APPLIED
    from equipose.io.particles import checked_rows, read_particles

    star, tables, half_of_row, group = _star(arguments)
    particles = read_particles(star, arguments.datadir, tables, poses=False, quick=True)
    again = warn_of_repeats(star, *tables, half_of_row, group)
    applied, aberrations = applied_ctf(star, particles), aberrations_of(star, particles)
    size, (defocus_u, defocus_v) = particles.images.shape[-1], particles.ctf[:, :2].T
    box = max((box for box in TRAINING_BOXES if box <= size), default=None)
    voxel_size = particles.voxel_size * size / (box or size)
    units = " kV", " mm", ""
    optics = [_values(column, unit) for column, unit in zip(particles.ctf.T[3:6], units, strict=True)]
    first, second = np.bincount(half_of_row, minlength=3)[1:]
    groups = len(particles.optics_table)
    print(f"particles      {len(particles.images)}, in {groups} optics group{'s' * (groups != 1)}")
    print(f"box            {size} pixels of {particles.voxel_size:g} Å, {size * particles.voxel_size:.0f} Å")
    print(f"halves         {first} and {second}, {_source_of_halves(particles, half_of_row, group)}")
    if again:
        print(f"repeats        {again} rows show an image that an earlier row shows")
    print(f"optics         {optics[0]}, Cs {optics[1]}, amplitude contrast {optics[2]}")
    print(f"defocus        {particles.ctf[:, :2].min():.0f} to {particles.ctf[:, :2].max():.0f} Å")
    print(f"astigmatism    up to {np.abs(defocus_u - defocus_v).max():.0f} Å")
    if particles.ctf[:, 6].any():
        print(f"phase shift    {particles.ctf[:, 6].min():.0f} to {particles.ctf[:, 6].max():.0f}°")
    for what in APPLIED.values():
        if count := int((applied == what).sum()):
            print(f"CTF            {what} in {count} images; reconstruct undoes it")
    if aberrations is not None and aberrations.tilt.any():
        print(f"beam tilt      up to {np.abs(aberrations.tilt).max():g} mrad; reconstruct takes it out")
    posed = set(ANGLES) <= set(particles.particle_table)
    print(f"poses          {'in the file; reconstruct does not use them' if posed else 'none'}")
    print(f"protein        {_protein(particles, star, box, voxel_size)}")
    if (checked := len(checked_rows(particles.images))) < len(particles.images):
        print(f"checked        {checked} images, evenly spread; `equipose validate` checks all")
    every = np.arange(len(particles.images))
    if box and not (applied != "").any() and looks_flipped(particles, every, voxel_size, box):
        warnings.warn(f"{star}: {FLIPPED_WARNING}", FileWarning, stacklevel=2)


def pose(arguments: argparse.Namespace) -> None:
    """Poses for particles that a finished reconstruction has not seen; the same command continues after a stop."""
    from equipose.reconstruction import pose_more
    from equipose.reconstruction.finished import read_finished
    from equipose.reconstruction.growing import grow
    from equipose.reconstruction.watching import watch

    out, folder, (star, *passthrough) = arguments.out.absolute(), arguments.folder.resolve(), arguments.star
    if arguments.watch and (passthrough or not star.is_dir()):
        raise ConfigError(f"--watch: {star} is no folder: name the one that star files come into, and nothing else")
    _check(check_can_be_made, out, "--out")
    if (out / "reconstruction.json").exists():
        raise ConfigError(f"--out: {out} has a reconstruction, whose maps would be overwritten: name another folder")
    _check_datadir(arguments)
    finished = read_finished(folder, folder / WORK, arguments.anyway)

    def pose_one(star: Path, output: Path, passthrough: Sequence[Path] = ()) -> dict[str, Any]:
        told = Told(arguments.pixel_size, passthrough=tuple(str(path.resolve()) for path in passthrough))
        how = {"encoder_only": arguments.encoder_only, "anyway": arguments.anyway, "with_sums": arguments.watch}
        summary = pose_more.pose(finished, star.resolve(), arguments.datadir, told, output, say, **how)
        if arguments.watch:
            grow(finished, output)
        return summary

    if arguments.watch:
        watch(star, out, pose_one, say, time.sleep)
    print(f"{out}: poses.star; {pose_more.in_words(pose_one(star, out, passthrough))}")


def select(arguments: argparse.Namespace) -> None:
    """Write the particles of a reconstruction that more likely than not show the molecule, with their poses."""
    from equipose.io.particle_tables import numbers, read_tables, write_star
    from equipose.reconstruction.handback import PROBABILITY

    poses = arguments.folder.resolve() / "poses.star"
    if not poses.is_file():
        raise ConfigError(f"{arguments.folder} has no poses.star: name the folder of a reconstruction")
    optics, table = read_tables(poses, as_written=True)
    if PROBABILITY not in table:
        raise ConfigError(
            f"{poses} has no {PROBABILITY}: name the folder of a reconstruction, or of one of its classes; a map of low"
            " resolution gives none"
        )
    probable = numbers(poses, table[PROBABILITY]) >= arguments.least
    if not probable.any():
        raise ConfigError(f"{poses}: no particle has an {PROBABILITY} of {arguments.least:g}: give a lower --least")
    out = (arguments.out or poses.with_name("selected.star")).absolute()
    _check(check_can_be_made, out.parent, "--out")
    if out.is_dir() or out.resolve() == poses:
        raise ConfigError(f"--out: {out} is {'a folder' if out.is_dir() else 'the input'}: name another star file")
    if out.suffix != ".star":
        raise ConfigError(f"--out: {out} has no name of a star file: end it in .star")
    if arguments.out and out.exists():
        raise ConfigError(f"--out: {out} exists already: name another star file, or remove it")
    write_star(out, optics, table[probable])
    print(f"{out}: {probable.sum()} of {len(table)} particles")


def flip_hand(arguments: argparse.Namespace) -> None:
    """Invert the maps about their centre, and change the poses so that every projection stays the same."""
    from equipose.figures.reconstruction import plot_reconstruction
    from equipose.io.maps import read_cube, write_map
    from equipose.io.particle_tables import ANGLES, read_tables
    from equipose.pages.reconstruction_report import build
    from equipose.reconstruction.handback import in_other_hand
    from equipose.reconstruction.next_steps import NEXT, write_next_steps
    from equipose.reconstruction.verdict import check_has_map, read_summary

    folder = arguments.folder.resolve()
    check_has_map(folder)
    poses = folder / "poses.star"
    if not set(ANGLES) <= set(read_tables(poses)[1]):
        raise ConfigError(f"star file {poses} has no {', '.join(ANGLES)}: name the folder of a reconstruction")
    out = (arguments.out or folder.with_name(folder.name + "_flipped")).absolute()
    _check(check_can_be_made, out, "--out")
    if out.exists():
        raise ConfigError(f"{out} exists already: name another folder with --out")
    if (folder / "reconstruction.json").is_file():
        read_summary(folder)
    box = len(read_cube(folder / "volume.mrc")[0])
    with whole_folder(out) as partial:
        for name in MAPS:
            if (folder / name).is_file():
                volume, voxel_size = read_cube(folder / name, box)
                write_map(partial / name, inverted(volume), voxel_size)
        for name in EITHER_HAND:
            if (folder / name).is_file():
                shutil.copy2(folder / name, partial)
        in_other_hand(poses, partial)
        if (folder / NEXT).is_file():
            write_next_steps(partial, out)
        if (folder / "reconstruction.png").is_file():
            plot_reconstruction(partial, partial / "reconstruction.png")
        if (folder / "report.html").is_file():
            (partial / "report.html").write_text(build(partial, folder / WORK, REPORT, out.name, out))
    print(f"{out}: the other hand of {folder}")


def symmetrise(arguments: argparse.Namespace) -> None:
    """Maps and poses of a reconstruction brought onto RELION's axes of a point group, and made symmetric."""
    from equipose.core.point_groups import check_symmetry
    from equipose.reconstruction.symmetrise import symmetrise as make_symmetric

    folder, symmetry = arguments.folder.resolve(), arguments.symmetry.upper()
    check_symmetry(symmetry)
    out = (arguments.out or folder.with_name(f"{folder.name}_{symmetry}")).absolute()
    _check(check_can_be_made, out, "--out")
    frame = make_symmetric(folder, symmetry, out)
    print(f"{out}: {folder} with the symmetry {symmetry}, whose axes correlate by {frame.correlation:.2f}")


def status(arguments: argparse.Namespace) -> None:
    """Print the state of a results folder's runs, or of a reconstruction, from its files alone."""
    from equipose.study.status import status as status_of

    print(status_of(arguments.results, arguments.silent_minutes, time.time()))


def watch(arguments: argparse.Namespace) -> None:
    """Show a reconstruction, a workflow's runs or posed particles as a live page in a browser, until Ctrl-C."""
    if not arguments.folder.is_dir():
        raise ConfigError(f"{arguments.folder} is no folder: name a reconstruction's, or a workflow's results")
    _server(arguments.folder.resolve(), arguments.port).serve_forever()


def inverted(volume: np.ndarray) -> np.ndarray:
    """V(-x) of a volume (z, y, x) about voxel L/2; of an even box, planes without a partner stay."""
    import numpy as np

    turned = volume[::-1, ::-1, ::-1]
    return np.roll(turned, 1, axis=(0, 1, 2)) if len(volume) % 2 == 0 else turned


def _source_of_halves(particles: Particles, half_of_row: np.ndarray, group: np.ndarray | None) -> str:
    from equipose.io.half_sets import SUBSET, drawn_for_all, has_halves, torn

    particle_table = particles.particle_table
    if not has_halves(particle_table):
        return "drawn at random" + (f": {SUBSET} in the file is not 1 and 2" if SUBSET in particle_table else "")
    if not drawn_for_all(particle_table, half_of_row):
        return f"{SUBSET} in the file"
    if torn(particle_table, particles.optics_table, group).any():
        return f"drawn anew: those of {SUBSET} share particles"
    return f"drawn anew: those of {SUBSET} are not sound in all rows of the file"


def _protein(particles: Particles, star: Path, box: int | None, voxel_size: float) -> str:
    """Whether protein is bright or dark, seen in the images at a box in pixels; None if they are too small for any."""
    import numpy as np

    from equipose.data.prepare import contrast

    if box is None:
        return "images are too small to tell"
    asked = _as_asked(star, box, "detect")
    try:
        sign, certainty = contrast(particles, np.arange(len(particles.images)), asked, voxel_size)
    except ConfigError:
        return "too few or too noisy to tell bright from dark: reconstruct wants --contrast"
    return f"{'bright' if sign > 0 else 'dark'} ({certainty:.0f} standard errors)"


def _training_box(star: Path, asked: int | None, size: int) -> int:
    """The box in pixels to which images of `size` pixels are cropped: the one that is asked for, or the default."""
    box = asked or max((box for box in TRAINING_BOXES if box <= min(size, LARGEST_BOX)), default=min(TRAINING_BOXES))
    if box > size:
        smaller = max((known for known in TRAINING_BOXES if known <= size), default=None)
        remedy = f"give --box {smaller}" if smaller else "extract with a larger box"
        raise ConfigError(f"{star}: images of {size} pixels are too small; {box} are needed: {remedy}")
    return box


def _as_asked(star: Path, box: int, contrast: str) -> PreparationConfig:
    """The default settings of a preparation, for a star file, a box in pixels and a contrast."""
    import yaml

    settings = yaml.safe_load((WORKFLOW / "config.yaml").read_text())
    asked = {"datasets": {"asked": {"star": str(star), "box": box, "contrast": contrast}}}
    return preparation_config(merge(settings, asked), "asked")


def _values(column: np.ndarray, unit: str) -> str:
    import numpy as np

    values = np.unique(column)
    if len(values) > LISTED:
        return f"{values[0]:g} to {values[-1]:g}{unit} ({len(values)} values)"
    return ", ".join(f"{value:g}" for value in values) + unit


def _limits(column: str, low: str, high: str) -> list[float | None]:
    """Limits of --select as numbers, None for `-`. Raises ConfigError if one is no number, or low is above high."""
    least, most = limits = [_limit(low), _limit(high)]
    if least is not None and most is not None and least > most:
        raise ConfigError(f"--select {column} {low} {high}: give the lower value first")
    return limits


def _limit(text: str) -> float | None:
    try:
        value = None if text == "-" else float(text)
    except ValueError:
        value = math.nan
    if value is not None and math.isnan(value):
        raise ConfigError(f"--select: {text} is no number: give the lowest and highest value, or - for none")
    return value


def _check(check: Callable[[Path], None], path: Path, option: str) -> None:
    """Run `check` on a value, and put the option's name into its error."""
    try:
        check(path)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from error


def _star(arguments: argparse.Namespace) -> tuple[Path, Tables, np.ndarray, np.ndarray | None]:
    """The star file, absolute, its tables with the n rows that --select leaves, and the half (n,), 1 or 2, of each row.

    And the group (n,) of each row by `kept_together`, or None if --select leaves out rows: they may join others.
    Without --datadir, images are sought from the star file's folder, the working folder, and the folders above the star
    file.
    """
    from equipose.core.point_groups import check_symmetry
    from equipose.io.half_sets import half_of, kept_together
    from equipose.io.particle_tables import check_inside, chosen_rows, find_datadir, read_tables

    star = arguments.star.resolve()
    check_symmetry(arguments.symmetry)
    _check_datadir(arguments)
    optics, table = read_tables(star, told=_told(arguments))
    rows = chosen_rows(star, (optics, table), None, _selection(arguments))
    if not len(rows):
        raise ConfigError(f"{star}: --select leaves no particle: widen its limits")
    chosen = table.iloc[rows] if len(rows) < len(table) else table
    if arguments.datadir is None:
        arguments.datadir = find_datadir(star, chosen)
    check_inside(star, arguments.datadir, chosen)
    group = kept_together(table, optics)
    half = half_of(table, optics, group)
    return star, (optics, chosen), half[rows], group if chosen is table else None


def _check_datadir(arguments: argparse.Namespace) -> None:
    if arguments.datadir is not None and not arguments.datadir.is_dir():
        raise ConfigError(f"--datadir: {arguments.datadir} is no folder: name the one that image names start from")


def _selection(arguments: argparse.Namespace) -> Selection:
    columns = [column for column, *_ in arguments.select]
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise ConfigError(f"--select names {twice[0]} twice: give its lowest and highest value at once")
    return tuple((column, *_limits(column, low, high)) for column, low, high in arguments.select)


def _told(arguments: argparse.Namespace) -> Told:
    """Facts about the particles that the command line gives and their file lacks."""
    passthrough = tuple(str(path.resolve()) for path in arguments.passthrough)
    return Told(arguments.pixel_size, arguments.phase_flipped, arguments.no_ctf, passthrough)


def place(text: str) -> Path:
    """For argparse: a path for results. An empty one, of an unset shell variable, would be the working folder."""
    if text:
        return Path(text)
    raise argparse.ArgumentTypeError("it is empty: name a place for the results")


def port(text: str) -> int:
    """For argparse: a port that a user may serve at."""
    if text.isdecimal() and 1024 <= int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is no whole number from 1024 to 65535")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="equipose", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("--version", action="version", version=f"equipose {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable, *examples: str) -> argparse.ArgumentParser:
        name, text = run.__name__.replace("_", "-"), (run.__doc__ or "").splitlines()[0]
        shown = "examples:\n" + "".join(f"  equipose {name} {example}\n" for example in examples)
        style = argparse.RawDescriptionHelpFormatter
        made = commands.add_parser(name, help=text, description=text, epilog=shown, formatter_class=style)
        made.set_defaults(run=run, command=made)
        return made

    readers = {
        reconstruct: (
            "particles.star --out abinitio",
            "Extract/job007/particles.star --out abinitio --symmetry D7 --box 64 --cores 2",
            "particles.star --out abinitio --classes 2",
            "J12_particles.cs --datadir /data/cs --out abinitio --contrast dark",
        ),
        validate: ("particles.star", "Extract/job007/particles.star --datadir /data/project"),
        info: ("particles.star", "J12_particles.cs J12_passthrough_particles.cs --datadir /data/cs"),
    }
    for run, examples in readers.items():
        reader = command(run, *examples)
        reader.add_argument("star", type=Path, help="star file of RELION 3.0 to 5, or cryoSPARC .cs file")
        reader.add_argument("passthrough", type=Path, nargs="*", help="more .cs files of the same job")
        reader.add_argument("--datadir", type=Path, help="folder that image names are relative to")
        reader.add_argument(
            "--pixel-size",
            type=number(float, 0, above=True),
            help="pixel size in Å, if the file's is missing or wrong",
        )
        reader.add_argument(
            "--phase-flipped",
            action="store_true",
            help="phases of the images were flipped, and the file does not say so",
        )
        reader.add_argument(
            "--select",
            nargs=3,
            action="append",
            default=[],
            metavar=("COLUMN", "LOW", "HIGH"),
            help="keep particles whose value lies from LOW to HIGH (-: no limit), such as"
            " rlnMaxValueProbDistribution 0.1 -",
        )
        reader.add_argument("--no-ctf", action="store_true", help="images have no CTF, such as clean projections")
        reader.add_argument(
            "--symmetry", default="C1", help="point group, such as C4, D7, T, O or I; default: %(default)s"
        )
        if run is reconstruct:
            reader.add_argument("--out", type=place, required=True, help="folder of all results")
            reader.add_argument(
                "--starts",
                type=number(int, 1),
                default=6,
                help="most random maps from which each half-set is searched; the search ends once two found maps agree;"
                " default: %(default)d",
            )
            reader.add_argument(
                "--fit-steps",
                type=number(int, 0),
                default=600,
                help="steps that train the networks, if no two starts of the search agree; default: %(default)d",
            )
            reader.add_argument(
                "--classes",
                type=number(int, 1),
                default=1,
                help="number of molecules; each gets its own particles and maps; default: %(default)d",
            )
            reader.add_argument(
                "--box",
                type=int,
                choices=TRAINING_BOXES,
                help="side in pixels to which images are cropped in Fourier space; default: 32",
            )
            reader.add_argument(
                "--contrast",
                default="detect",
                choices=["detect", "bright", "dark"],
                help="protein in the images; default: %(default)s",
            )
            reader.add_argument(
                "--mask-radius",
                type=number(float, 0, above=True),
                help="radius in Å of a circular mask; default: no mask",
            )
            reader.add_argument("--whiten", action="store_true", help="filter the images so that their noise is white")
            reader.add_argument(
                "--shift-std",
                type=number(float, 0),
                help="standard deviation of the particles' shifts in Å; default: 3%% of the box, 4 Å at least",
            )
            reader.add_argument("--cores", type=number(int, 1), help="CPU cores; default: all")
            reader.add_argument(
                "--serve",
                type=port,
                nargs="?",
                const=PORT,
                metavar="PORT",
                help=f"show a live page in a browser, also after the end, until Ctrl-C; default port: {PORT}",
            )
    posed = command(pose, "abinitio more.star --out more", "abinitio --watch Extract/live --out more")
    posed.add_argument("folder", type=Path, help="folder of a reconstruction, also a flipped or symmetrised one")
    posed.add_argument("star", type=Path, nargs="+", help="star file, or .cs files of one job; with --watch, a folder")
    posed.add_argument("--watch", action="store_true", help="pose all files that come into a folder, until Ctrl-C")
    posed.add_argument("--out", type=place, required=True, help="folder of all results")
    posed.add_argument("--datadir", type=Path, help="folder that image names are relative to")
    posed.add_argument(
        "--pixel-size", type=number(float, 0, above=True), help="pixel size in Å, if the file's is missing or wrong"
    )
    posed.add_argument("--encoder-only", action="store_true", help="take the networks' poses without refinement")
    posed.add_argument(
        "--anyway",
        action="store_true",
        help="pose the particles even if the reconstruction has not converged or they seem to show another molecule",
    )
    selected = command(select, "abinitio", "abinitio --least 0.9 --out sure.star")
    selected.add_argument("folder", type=Path, help="folder of a reconstruction")
    selected.add_argument("--least", type=number(float, 0), default=0.5, help="least probability; default: %(default)s")
    selected.add_argument("--out", type=place, help="star file; default: FOLDER/selected.star")
    flip = command(flip_hand, "abinitio", "abinitio --out other_hand")
    flip.add_argument("folder", type=Path, help="folder with poses.star, volume.mrc and half-maps")
    flip.add_argument("--out", type=place, help="folder of the flipped ones; default: FOLDER_flipped")
    turned = command(symmetrise, "abinitio C4", "abinitio D7 --out symmetric")
    turned.add_argument("folder", type=Path, help="folder with poses.star, volume.mrc and half-maps")
    turned.add_argument("symmetry", help="point group: C4, D7, T, O, I")
    turned.add_argument("--out", type=place, help="folder of the symmetric ones; default: FOLDER_SYMMETRY")
    shown = command(status, "results/paper", "abinitio")
    shown.add_argument("results", type=Path, help="a preset's results folder, or a reconstruction's")
    shown.add_argument(
        "--silent-minutes",
        type=number(float, 0),
        default=30.0,
        help="minutes without news after which a run counts as stuck; default: %(default)g",
    )
    seen = command(watch, "abinitio", "results/paper --port 9000")
    seen.add_argument(
        "folder", type=Path, help="folder of a reconstruction, of a workflow's results, or of posed particles"
    )
    seen.add_argument(
        "--port", type=port, default=PORT, help="port of the page, or the next free one; default: %(default)d"
    )
    add_run_options(command(run_workflow, "table1 --cores 8", "smoke --preset smoke --cores 2 -n"))
    command(where, "")
    return top


def main() -> None:
    def run() -> None:
        top = parser()
        arguments, more = top.parse_known_args()
        if more and arguments.run is not run_workflow:
            arguments.command.error(f"unrecognized arguments: {' '.join(more)}")
        arguments.snakemake = more
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        arguments.run(arguments)

    with exit_on_signals():
        run_main(run)


if __name__ == "__main__":
    main()
