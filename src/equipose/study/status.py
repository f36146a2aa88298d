"""The state of the runs in a results folder, read from its files alone: no Snakemake, no scheduler, no weights."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equipose.config.settings import RunConfig
from equipose.errors import ConfigError
from equipose.io.files import read_json
from equipose.io.locks import is_held
from equipose.io.progress import duration

STATES = {
    "done": "trained and evaluated",
    "trained": "waiting for their evaluation",
    "running": "",
    "stopped": "before their end, with a checkpoint; the same command continues",
    "stuck": "no news for a long time: killed with its whole job, or waiting for a GPU; the same command continues",
    "failed": "",
    "unreadable": "config.json is broken, or of another version of equipose",
    "waiting": "to begin",
}

WORK = "work"
"""Folder inside of a reconstruction's folder, where its workflow runs."""

SETTINGS = "particles.yaml"
"""File in a reconstruction's folder, with the settings of its command."""

LOCK = "reconstruct.lock"
"""File in the folder WORK, which a running `equipose reconstruct` holds."""

POSED, POSES, ASKED, PARTS = "pose.json", "poses.star", "settings.json", "partial/half*.npz"
"""Files of `equipose pose`: of particles that are posed, of any that were begun, and of the parts so far."""

Stages = dict[str, tuple[str, int]]
"""Of each stage: the pattern of its files, and their number."""

SORTING = f"{WORK}/classes/particles/classes.json"
"""File in a reconstruction's folder, which says how the particles were sorted into classes."""

STAGES: Stages = {
    "preparing the particles": (f"{WORK}/datasets/*/particles.star", 2),
    "training": (f"{WORK}/runs/*/*/seed*/model.pt", 2),
    "evaluating": (f"{WORK}/runs/*/*/seed*/metrics.json", 2),
    "joining the halves": (f"{WORK}/maps/*/report.html", 1),
}

CLASS_STAGES: Stages = {
    "preparing the particles": (f"{WORK}/datasets/*/particles.star", 2),
    "sorting into classes": (SORTING, 1),
    "reconstructing each class": ("report.html", 1),
}
"""Stages of a reconstruction, and of one of several classes.

A stage has ended once so many of its files are there.
"""

ERROR = re.compile(r"^(error: |Traceback \(most recent call last\))", re.MULTILINE)
STOPPED = "stopped; "
LEFT = re.compile(r"([\d.]+) min left")
NAME = re.compile(r"^\[.*?\] ")
ON_THE_WAY = re.compile(r"^step (\d+)(?:/\d+)?(?: \(.*?\))?|( · [\d.]+ min left)")
"""What a line of training says of its end: the steps so far of all steps, their stage, and the time that is left."""

LAST_LINES = 5


@dataclass(frozen=True)
class RunStatus:
    """One run: its `state` (a key of STATES), the lines of its log, and the minutes since its last news."""

    name: str
    state: str
    log: list[str]
    silent: float
    minutes_left: float | None  # of training; None if neither log nor budget gives it


def status(folder: Path, silent_minutes: float, now: float) -> str:
    """A reconstruction's stage, the number of runs in each state, their time left, and the last lines of their logs.

    `folder` is a preset's results folder, a reconstruction's folder, or the folder in which its workflow runs. Of
    several classes, each one that has begun follows. Of `equipose pose`, it is how far each file is.
    Folders of classes that an earlier command left are named.
    """
    top = reconstruction_in(folder)
    former = [f"{each}: a class of a former command" for each in former_classes(top, class_folders(top))] if top else []
    if top and (number := classes_asked(top)) > 1:
        lines = [f"{top}: {number} classes, {stage(top)}", *former, *_last_lines(top / WORK)]
        return "\n".join([*lines, *(f"\n{status(each, silent_minutes, now)}" for each in class_folders(top))])
    results = top / WORK if top else folder
    runs = runs_in(results, silent_minutes, now)
    if not runs and not top:
        if posed := posed_folders(folder):
            return "\n".join(_posed_line(each, now) for each in posed)
        raise ConfigError(
            f"{folder} has no runs: name a preset's results folder, such as results/paper, a reconstruction's, or posed"
            " particles' (equipose pose --out)"
        )
    groups = {state: [run for run in runs if run.state == state] for state in STATES}
    lines = [f"{top}: reconstruction, {stage(top)}", *former] if top else []
    if runs:
        counts = ", ".join(f"{len(group)} {state}" for state, group in groups.items() if group)
        lines += [f"{results}: {len(runs)} runs: {counts}", _time_left(runs, len(groups["running"]))]
    for state, group in groups.items():
        if group and state != "waiting":
            lines += ["", f"{state}: {STATES[state]}".rstrip(": ")]
            lines += [_line(run) for run in group]
    return "\n".join([*lines, *_last_lines(results)])


def runs_in(results: Path, silent_minutes: float, now: float) -> list[RunStatus]:
    """The state of every run in a results folder."""
    folders = sorted(path.parent for path in results.glob("runs/*/*/seed*/config.json"))
    return [run_status(results, folder, silent_minutes, now) for folder in folders]


def last_words(results: Path) -> dict[Path, list[str]]:
    """The logs of a results folder that tell of an error, with their last lines."""
    logs = [log for log in sorted((results / "logs").rglob("*.log")) if log.is_file()]
    texts = {log: log.read_text(errors="replace") for log in logs}
    return {log: text.splitlines()[-LAST_LINES:] for log, text in texts.items() if ERROR.search(text)}


def stage(top: Path) -> str:
    """The stage that the reconstruction in `top` has reached, by its files."""
    ended, stages = stages_ended(top), stages_of(top)
    return "done" if ended == len(stages) else f"stage {ended + 1} of {len(stages)}: {list(stages)[ended]}"


def stages_of(top: Path) -> Stages:
    return CLASS_STAGES if classes_asked(top) > 1 else STAGES


def stages_ended(top: Path) -> int:
    """The number of stages that have ended, one after the other.

    The last one has not while a command works in `top`, nor while its files are those of a former command.
    """
    stages = stages_of(top)
    left = (number for number, (glob, files) in enumerate(stages.values()) if len(list(top.glob(glob))) < files)
    ended = next(left, len(stages))
    unfinished = is_held(top / WORK / LOCK) or (stages is CLASS_STAGES and not _classes_are_joined(top))
    return min(ended, len(stages) - 1) if unfinished else ended


def _classes_are_joined(top: Path) -> bool:
    """Whether reconstruction.json has all classes of the present sorting, and each of them is done."""
    try:
        sorting, joined = read_json(top / SORTING), read_json(top / "reconstruction.json")
    except ValueError:  # broken by hand
        return False
    if sorting is None or joined is None or any(joined.get(key) != value for key, value in sorting.items()):
        return False
    return all(stage(top / each["folder"]) == "done" for each in joined["reconstructed"])


def classes_asked(top: Path) -> int:
    """The number of classes that the command of a reconstruction asked for; 1 where its settings do not say."""
    import yaml  # here: `equipose --help` does not need it

    try:
        return int(yaml.safe_load((top / SETTINGS).read_text())["reconstructions"]["particles"]["classes"])
    except (yaml.YAMLError, LookupError, TypeError, ValueError):
        return 1


def class_folders(top: Path) -> list[Path]:
    """The folders of the present classes whose reconstructions have begun, the largest class first.

    The settings of a former command's class are older than the present sorting.
    """
    if classes_asked(top) == 1 or (ended := stages_ended(top)) < len(CLASS_STAGES) - 1:
        return []
    if ended == len(CLASS_STAGES):  # times do not count: the folder may be a copy
        return [top / each["folder"] for each in read_json(top / "reconstruction.json")["reconstructed"]]
    begun = (top / f"class{number}" for number in range(1, classes_asked(top) + 1))
    sorted_at = (top / SORTING).stat().st_mtime
    return [each for each in begun if (each / SETTINGS).is_file() and (each / SETTINGS).stat().st_mtime >= sorted_at]


def former_classes(top: Path, present: Collection[Path]) -> list[Path]:
    """The folders of classes that a former command reconstructed in `top`: all but the `present` ones."""
    folders = [path.parent for path in top.glob(f"class*/{SETTINGS}")]
    return sorted(each for each in folders if re.fullmatch(r"class\d+", each.name) and each not in present)


def posed_folders(folder: Path) -> list[Path]:
    """The folders of posed files: `folder`, and those in it that `equipose pose --watch` made."""
    return sorted(path.parent for path in [folder / ASKED, *folder.glob(f"*/{ASKED}")] if path.is_file())


def run_status(results: Path, folder: Path, silent_minutes: float, now: float) -> RunStatus:
    name = folder.relative_to(results / "runs")
    try:
        config = RunConfig.load(folder / "config.json")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # the file may hold anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return RunStatus(str(name), "unreadable", [reason], 0.0, 0.0)
    trained, checkpoint = (folder / "model.pt").exists(), folder / "checkpoint.pt"
    training, evaluation = (results / "logs" / rule / f"{name}.log" for rule in ("train", "evaluate"))
    log = evaluation if trained and evaluation.exists() else training
    text = log.read_text(errors="replace") if log.exists() else ""
    heard = max([path.stat().st_mtime for path in (log, checkpoint) if path.exists()], default=now)
    silent = (now - heard) / 60
    if trained and (folder / "metrics.json").exists():  # without a model, scores are of one that is trained anew
        state = "done"
    elif ERROR.search(text):
        state = "failed"
    elif trained and log == training:
        state = "trained"
    elif STOPPED in text:
        state = "stopped"
    elif log.exists():
        state = "stuck" if silent > silent_minutes else "running"
    else:
        state = "stopped" if checkpoint.exists() else "waiting"
    said = LEFT.findall(text)
    budget = config.budget.seconds
    left = 0.0 if trained or state == "failed" else float(said[-1]) if said else budget and budget / 60
    shown = training.read_text(errors="replace") if state == "done" and training.exists() else text
    return RunStatus(str(name), state, shown.splitlines(), silent, left)


def reconstruction_in(folder: Path) -> Path | None:
    """The reconstruction's folder, if `folder` is one or is the workflow's folder in one."""
    folder = folder.resolve()
    tops = [folder, *([folder.parent] if folder.name == WORK else [])]
    return next((top for top in tops if (top / SETTINGS).is_file()), None)


def _last_lines(results: Path) -> list[str]:
    """`last_words` as lines for people."""
    return [
        line
        for log, last in last_words(results).items()
        for line in ("", f"{log} ends with", *(f"  {line}" for line in last))
    ]


def posed_summary(folder: Path) -> dict[str, Any] | None:
    """The pose.json of a folder of `equipose pose`, once all is written: poses.star is the last."""
    return read_json(folder / POSED) if (folder / POSES).is_file() else None


def _posed_line(folder: Path, now: float) -> str:
    if summary := posed_summary(folder):
        return f"{folder}: {sum(summary['particles'])} particles posed, {summary['doubtful_share']:.1%} doubtful"
    parts = list(folder.glob(PARTS))
    heard = max(path.stat().st_mtime for path in (folder / ASKED, *parts))
    return (
        f"{folder}: {len(parts)} parts posed, the last {duration(now - heard)} ago; if it has stopped, the same command"
        " continues"
    )


def _time_left(runs: list[RunStatus], at_once: int) -> str:
    known = 60 * sum(run.minutes_left or 0 for run in runs)
    unknown = sum(run.minutes_left is None for run in runs)
    text = f"{duration(known)} of training left"
    if at_once:
        text += f", {duration(known / at_once)} at {at_once} runs at once"
    return text + f"; {unknown} runs of unknown length not counted" * bool(unknown)


def _line(run: RunStatus) -> str:
    last = NAME.sub("", run.log[-1]) if run.log else "no log"
    if run.state == "done":  # a run may end before its budget does
        last = ON_THE_WAY.sub(lambda found: f"{found[1]} steps" if found[1] else "", last)
    return f"  {run.name}  {last}" + f"  ({run.silent:.0f} min ago)" * (run.state not in ("done", "unreadable"))
