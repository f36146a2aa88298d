"""The live page of a reconstruction, of a workflow's runs, or of particles that are posed as they come.

The page reads the files that the commands write anyway, and writes none: logs, checkpoints, maps, reconstruction.json.
"""

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import pandas as pd

from equipose.config.folder import WORKFLOW
from equipose.config.settings import RunConfig
from equipose.errors import ConfigError
from equipose.io.files import CHECKPOINTS, read_json
from equipose.io.locks import is_held
from equipose.io.maps import read_map
from equipose.io.progress import duration
from equipose.pages import live_pictures
from equipose.pages.maps_so_far import MapSoFar, halves_alike, map_so_far, source_of
from equipose.pages.page import read_template
from equipose.reconstruction.verdict import headline
from equipose.study.course import Course, read_course, refinement_left
from equipose.study.status import (
    CLASS_STAGES,
    LOCK,
    STAGES,
    STATES,
    WORK,
    RunStatus,
    class_folders,
    classes_asked,
    former_classes,
    last_words,
    posed_folders,
    posed_summary,
    reconstruction_in,
    runs_in,
    stage,
    stages_ended,
)

TEMPLATES = WORKFLOW / "workflow/report"

SECONDS = 3
"""Between two looks of the page."""

SILENT_MINUTES = 30.0
"""Minutes without news after which a run counts as stuck, as for `equipose status`."""

QUIET_MINUTES = 2.0
"""Minutes without news after which nobody is at work any more, unless a process of this machine says so."""

SHOWN = 12
"""Runs that are shown one by one, and whose curves are drawn: those that were heard last. All are counted."""

AT_WORK = ("running", "trained", "stopped", "stuck", "failed", "unreadable")
"""States of the runs that are shown before those that are done."""

NAMES = {"training": "searching and training", "evaluating": "refining poses"}
"""What a reconstruction's stages do, where their names do not say it."""

RULES = ("prepare", "train", "evaluate", "join_halves")
"""Of each stage: the rule of the workflow, and the folder of its logs."""

ALIVE = Path(".snakemake/alive.lock")
"""The lock that a Snakemake of ours holds, in the folder where it works."""


@dataclass(frozen=True)
class Picture:
    caption: str
    alt: str
    uri: str


@dataclass(frozen=True)
class Card:
    """A run in short."""

    name: str
    state: str
    says: str
    part: float | None = None
    """0 to 1, of what it is at"""


@dataclass
class View:
    """What the page shows now."""

    state: str  # running, done, failed, at rest, gone
    says: str
    stages: list[tuple[str, str]] = field(default_factory=list)  # name; ended, now, failed, next
    facts: list[str] = field(default_factory=list)
    counts: str = ""
    cards: list[Card] = field(default_factory=list)
    curves: list[Picture] = field(default_factory=list)
    agreement: list[str] = field(default_factory=list)
    maps: list[tuple[str, list[Picture]]] = field(default_factory=list)
    failures: list[tuple[str, list[str]]] = field(default_factory=list)
    posed: list[dict[str, Any]] = field(default_factory=list)
    report: Path | None = None


@dataclass
class Watched:
    """A folder, and what was drawn of its files: a picture is drawn again when its file has changed."""

    folder: Path
    look: Callable[["Watched", float], View]
    lock: Lock = field(default_factory=Lock)
    drawn: dict[str, tuple[Any, Any]] = field(default_factory=dict)


def kept(ours: Watched, what: str, made_from: Any, make: Callable[[], Any]) -> Any:
    """What `make` returns, made again only when `made_from` is another than before."""
    if what not in ours.drawn or ours.drawn[what][0] != made_from:
        ours.drawn[what] = made_from, make()
    return ours.drawn[what][1]


def of_file(ours: Watched, what: str, path: Path, make: Callable[[], Any]) -> Any:
    """`kept`, made from a file as it is now."""
    return kept(ours, f"{what} {path}", path.stat().st_mtime_ns, make)


def watched(folder: Path) -> Watched:
    """The folder of a reconstruction, of a workflow's results, or of posed particles.

    Raises ConfigError if it is none of these.
    """
    if top := reconstruction_in(folder):
        return Watched(top, _classes if classes_asked(top) > 1 else _reconstruction)
    if next(folder.glob("runs/*/*/seed*/config.json"), None):
        return Watched(folder.resolve(), _results)
    if posed_folders(folder):
        return Watched(folder.resolve(), _posed)
    raise ConfigError(
        f"{folder} is no folder of ours: name a reconstruction's (equipose reconstruct), a workflow's results, such as"
        " results/paper, or posed particles' (equipose pose --out)"
    )


def page(ours: Watched, nonce: str) -> str:
    """The whole page; its script has the `nonce`."""
    live = read_template(TEMPLATES / "live.html.jinja")
    return live.render(title=ours.folder.name, state=state(ours), nonce=nonce, seconds=SECONDS)


def state(ours: Watched) -> str:
    """The part of the page that changes, as HTML."""
    now = time.time()
    with ours.lock:
        return read_template(TEMPLATES / "live_state.html.jinja").render(folder=ours.folder, view=_view(ours, now))


def report(ours: Watched) -> Path | None:
    """The finished report, if there is one."""
    top = ours.folder
    if ours.look is _classes:
        return top / "report.html" if stages_ended(top) == len(CLASS_STAGES) else None
    return next((path for path in [*_handed_out(top, "report.html"), *top.glob(f"{WORK}/maps/*/report.html")]), None)


def _handed_out(top: Path, name: str) -> list[Path]:
    """The file `name` in a reconstruction's folder, if there is one of a single map and not of several classes."""
    return [top / name] if (top / "volume.mrc").is_file() and (top / name).is_file() else []


def _view(ours: Watched, now: float) -> View:
    why: Exception | None = None
    for _ in range(3):  # a file may go away, or be half written, while it is read
        if not ours.folder.is_dir():
            return View("gone", f"{ours.folder} is no longer there: it was deleted or moved.")
        try:
            return ours.look(ours, now)
        except Exception as error:  # whatever a broken file makes its reader raise
            why = error
    return View("running", f"Some file cannot be read ({why}); the next look may succeed.")


def _reconstruction(ours: Watched, now: float) -> View:
    top, work = ours.folder, ours.folder / WORK
    runs, failures = runs_in(work, SILENT_MINUTES, now), last_words(work)
    ended = stages_ended(top)
    done = ended == len(STAGES) and not is_held(top / ALIVE)  # a figure may still be drawn
    view = View(*_state(top, work, done, bool(failures), now))
    at_rest = view.state != "running"
    view.failures = [(str(log.relative_to(work)), lines) for log, lines in failures.items()]
    failed_in = {log.relative_to(work / "logs").parts[0] for log in failures}
    for number, ((name, (pattern, files)), rule) in enumerate(zip(STAGES.items(), RULES, strict=True)):
        begun = number == ended or (work / "logs" / rule).is_dir()
        there = len(list(top.glob(pattern)))
        stage = (
            "ended" if there >= files else "failed" if rule in failed_in else "now" if begun and not at_rest else "next"
        )
        view.stages.append((f"{NAMES.get(name, name)}{f', {there} of {files}' if 0 < there < files else ''}", stage))
    courses = {run.name: _course(work, run) for run in runs}
    labels = [run.name.split("/")[0].replace("half", "half ") for run in runs]
    view.cards = [_card(run, courses[run.name], label) for run, label in zip(runs, labels, strict=True)]
    if view.state == "running" and (left := _left(runs, courses)):
        view.facts.append(left)
    view.curves = _curves(ours, dict(zip(labels, courses.values(), strict=True)))
    found = [*_handed_out(top, "reconstruction.json"), *work.glob("maps/*/reconstruction.json")]
    summary = _first_json(found) if done else None  # before, these may be of a former command
    if summary:
        view.says = headline(summary)
        view.agreement = [
            f"Half {half}: the run that never saw its images gives {share:.0%} of {images} the same pose within"
            f" {summary['agree_within_degrees']:.2g}°."
            for half, share, images in zip((1, 2), summary["halves_agree"], summary["halves_compared"], strict=True)
        ]
        folder = top if (top / "volume.mrc").is_file() else next(iter(work.glob("maps/*/volume.mrc"))).parent
        names = {"volume": "all particles", "half1": "half 1", "half2": "half 2"}
        view.maps = [_shown(ours, folder / f"{name}.mrc", label, "") for name, label in names.items()]
        if (folder / "fsc.csv").is_file():
            view.curves.insert(0, of_file(ours, "FSC", folder / "fsc.csv", lambda: _fsc(folder / "fsc.csv")))
    else:
        _maps_so_far(ours, view, [work / "runs" / run.name for run in runs])
    view.report = report(ours) if done else None
    return view


def _classes(ours: Watched, now: float) -> View:
    """Several classes: the stages of all, and the stage of each class, which has a page of its own."""
    top, work = ours.folder, ours.folder / WORK
    failures, begun = last_words(work), class_folders(top)
    failed = bool(failures) or any(last_words(each / WORK) for each in begun)
    ended = stages_ended(top)
    done = ended == len(CLASS_STAGES)
    view = View(*_state(top, work, done, failed, now))
    view.failures = [(str(log.relative_to(work)), lines) for log, lines in failures.items()]
    for number, name in enumerate(CLASS_STAGES):
        view.stages.append((name, "ended" if number < ended else "now" if number == ended else "next"))
    view.facts = [f"{each.name}: {stage(each)} (equipose watch {each})" for each in begun]
    view.facts += [f"{each.name}: of a former command" for each in former_classes(top, begun)]
    if done:
        view.says = read_json(top / "reconstruction.json")["text"]
    view.report = report(ours)
    return view


def _results(ours: Watched, now: float) -> View:
    results = ours.folder
    runs, failures = runs_in(results, SILENT_MINUTES, now), last_words(results)
    groups = {name: [run for run in runs if run.state == name] for name in STATES}
    done = len(groups["done"]) == len(runs)
    root = next((parent for parent in results.parents if (parent / ALIVE).is_file()), results)
    view = View(*_state(root, results, done, bool(failures), now))
    view.counts = f"{len(runs)} runs: " + ", ".join(f"{len(group)} {name}" for name, group in groups.items() if group)
    view.failures = [(str(log.relative_to(results)), lines) for log, lines in list(failures.items())[:SHOWN]]
    shown = [run for name in AT_WORK for run in sorted(groups[name], key=lambda run: run.silent)]
    shown = (shown or sorted(groups["done"], key=lambda run: run.silent))[:SHOWN]
    courses = {run.name: _course(results, run) for run in shown}
    view.cards = [_card(run, courses[run.name], run.name) for run in shown]
    if view.state == "running" and (left := _left(runs, {run.name: _course(results, run) for run in runs})):
        view.facts.append(left)
    view.curves = _curves(ours, courses)
    for run in shown[:4]:
        folder = results / "runs" / run.name
        if (path := source_of(folder)) and (found := of_file(ours, "map", path, functools.partial(map_so_far, folder))):
            view.maps.append(_shown(ours, path, run.name, found.of))
    return view


def _posed(ours: Watched, now: float) -> View:
    """Particles that are posed as their files come."""
    folders = posed_folders(ours.folder)
    summaries = {folder: posed_summary(folder) for folder in folders}
    posed = {folder: summary for folder, summary in summaries.items() if summary}
    count = sum(sum(summary["particles"]) for summary in posed.values())
    heard = max((path.stat().st_mtime for folder in folders for path in [folder, *folder.glob("*")]), default=now)
    quiet = (now - heard) / 60 > QUIET_MINUTES
    at_work = len(folders) - len(posed)
    view = View(
        "at rest" if quiet else "running" if at_work else "done",
        f"{count} particles of {len(posed)} files are posed{f'; {at_work} files are at work' if at_work else ''}.",
    )
    view.facts.append(f"Last news {_ago(now - heard)}.")
    view.posed = [
        {"name": folder.name, "particles": sum(summary["particles"]), "score": summary["median_score"]}
        | {"doubtful": summary["doubtful_share"]}
        for folder, summary in posed.items()
    ]
    if (ours.folder / "fsc.csv").is_file():
        path = ours.folder / "fsc.csv"
        view.curves.append(of_file(ours, "FSC", path, lambda: _fsc(path)))
        names = {"volume": "all particles", "half1": "half 1", "half2": "half 2"}
        view.maps = [_shown(ours, ours.folder / f"{name}.mrc", label, "") for name, label in names.items()]
    return view


def _state(root: Path, results: Path, done: bool, failed: bool, now: float) -> tuple[str, str]:
    """The state of a workflow that is started in the folder `root`, and what it means."""
    files = [
        *(results / "logs").rglob("*.log"),
        *results.glob(f"runs/*/*/seed*/{CHECKPOINTS[0]}"),
        *root.glob("*.yaml"),
    ]
    silent = now - max((path.stat().st_mtime for path in files), default=now)
    alive = is_held(root / ALIVE) or is_held(root / WORK / LOCK)
    if done:
        return "done", "All is done."
    if failed and not alive:
        return "failed", "A job has failed; its last words are below. The same command tries again."
    if alive or silent < 60 * QUIET_MINUTES:
        return "running", f"At work; last news {_ago(silent)}." + " A job has failed." * failed
    return "at rest", f"No process of this machine is at work; last news {_ago(silent)}. The same command continues."


def _ago(seconds: float) -> str:
    return f"{duration(max(seconds, 0))} ago".replace(" ", "\N{NO-BREAK SPACE}")


def _course(results: Path, run: RunStatus) -> Course:
    """The course of a run from both of its logs."""
    logs = [results / "logs" / rule / f"{run.name}.log" for rule in ("train", "evaluate")]
    return read_course(line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines())


def _card(run: RunStatus, course: Course, name: str) -> Card:
    says, part = STATES[run.state], None
    if run.state == "running" and course.passes:
        says = f"refinement, pass {len(course.changed) + 1} of {course.passes} at most"
        part = len(course.changed) / course.passes
    elif run.state in ("running", "stopped", "stuck"):
        step = f"step {course.step}{f' of {course.steps}' if course.steps else ''}"
        left = f", {duration(60 * run.minutes_left)} left" if run.minutes_left and run.state == "running" else ""
        says = f"{step}{f' ({course.stage})' if course.stage else ''}{left}"
        part = course.step / course.steps if course.steps else None
    if run.state in ("stopped", "stuck", "failed", "unreadable") and run.log:
        says = run.log[-1]
    return Card(name, run.state, says, part)


def _left(runs: list[RunStatus], courses: dict[str, Course]) -> str:
    """The time that is left, as far as it is known."""
    running = [run for run in runs if run.state == "running"]
    if refining := [left for run in running if (left := refinement_left(courses[run.name])) is not None]:
        return f"Refinement is over in {duration(max(refining))} at most, and ends as soon as the poses settle."
    rate = max((course.rate for course in courses.values() if course.rate), default=None)
    left = 0.0
    for run in runs:
        if run.minutes_left is not None:
            left += 60 * run.minutes_left
        elif rate and run.state in ("waiting", "running") and (steps := _steps(courses)):
            left += rate * steps
        elif run.state in ("waiting", "running"):
            return ""
    return f"About {duration(left / max(len(running), 1))} of training left, and the stages after it." if left else ""


def _steps(courses: dict[str, Course]) -> int | None:
    return max((course.steps for course in courses.values() if course.steps), default=None)


def _curves(ours: Watched, courses: dict[str, Course]) -> list[Picture]:
    losses = {name: list(course.losses.items()) for name, course in courses.items() if len(course.losses) > 1}
    errors = {name: list(course.errors.items()) for name, course in courses.items() if len(course.errors) > 1}
    changed = {
        name: [(number, float(count)) for number, count in enumerate(course.changed, 1)]
        for name, course in courses.items()
        if course.changed
    }
    asked: list[tuple[dict[str, list[tuple[int, float]]], str, str, bool, str]] = [
        (errors, "Step", "MSE of poses", True, "Error of the poses during training, where the truth is known."),
        (losses, "Step", "Loss", False, "Loss during search and training: the images' squared error; lower is better."),
        (changed, "Pass of refinement", "Poses changed", True, "Poses that each pass of refinement moved."),
    ]

    def draw(lines: dict[str, list[tuple[int, float]]], x: str, y: str, logarithmic: bool, caption: str) -> Picture:
        ends = "; ".join(f"{name}: {along[-1][1]:.4g} at {along[-1][0]}" for name, along in lines.items())
        return Picture(caption, f"{y} by {x.lower()}. {ends}", live_pictures.curves(lines, x, y, logarithmic))

    return [kept(ours, curve[2], curve[0], functools.partial(draw, *curve)) for curve in asked if curve[0]]


def _maps_so_far(ours: Watched, view: View, runs: list[Path]) -> None:
    """Add the maps that the half-sets' runs have so far, and how alike they are."""
    found: list[tuple[Path, MapSoFar]] = []
    for number, run in enumerate(runs, start=1):
        path = source_of(run)
        if path and (so_far := of_file(ours, "map", path, functools.partial(map_so_far, run))):
            found.append((path, so_far))
            view.maps.append(_shown(ours, path, f"half {number}", so_far.of, so_far))
            if so_far.starts_alike:
                view.agreement.append(f"Half {number}: two starts of its search are {so_far.starts_alike:.2f} alike.")
    if len(found) == 2:
        shells = RunConfig.load(runs[0] / "config.json").model.search.last_radius
        times = [path.stat().st_mtime_ns for path, _ in found]
        alike = kept(
            ours, "alike", times, functools.partial(halves_alike, found[0][1].volume, found[1][1].volume, shells)
        )
        view.agreement.insert(0, f"The two half-sets' maps are {alike:.2f} alike.")
    if view.agreement:
        view.agreement.append("Alike: 1 is the same map in any frame and hand, 0 is chance.")


def _shown(ours: Watched, path: Path, label: str, of: str, found: MapSoFar | None = None) -> tuple[str, list[Picture]]:
    """A map's pictures, with its label."""

    def draw() -> list[Picture]:
        volume = found.volume if found else read_map(path)[0]
        return [
            Picture("", f"surface of the map, {label}", live_pictures.surface(volume)),
            Picture("", f"sections through the middle of the map, {label}", live_pictures.sections(volume)),
        ]

    return f"{label}{f', {of}' if of else ''}", of_file(ours, "pictures", path, draw)


def _fsc(path: Path) -> Picture:
    table = pd.read_csv(path)
    inside = table["shell"] > 0
    frequency, curve = table["frequency_per_angstrom"][inside].tolist(), table["corrected"][inside].tolist()
    return Picture(
        "FSC of the two half-maps, masked and corrected; the line is at 0.143.",
        f"FSC of the half-maps; {curve[-1]:.2f} at the last shell",
        live_pictures.fsc(frequency, curve),
    )


def _first_json(paths: Any) -> Any:
    return next((json.loads(path.read_text()) for path in paths), None)
