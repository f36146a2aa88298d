"""The course of a run, read from the lines of its logs: losses and errors by step, and the passes of refinement."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

STEP = re.compile(r"step (?P<step>\d+)(?:/(?P<all>\d+))?(?: \((?P<stage>\w+)\))?, \d+ s(?P<more>.*)")
VALUE = {
    "rate": re.compile(r"(\d+) ms a step"),
    "loss": re.compile(r"loss ([\d.]+)"),
    "mse": re.compile(r"MSE ([\d.]+)"),
}
PASS = re.compile(r"refinement (\d+)/(\d+): (?:(\d+) images, (\d+) s left|(\d+) poses changed)")


@dataclass
class Course:
    """What a run's logs have said so far."""

    step: int = 0
    steps: int | None = None  # of the whole budget
    stage: str | None = None  # of the steps before training, at the last line
    rate: float | None = None  # s a step
    losses: dict[int, float] = field(default_factory=dict)  # by step
    errors: dict[int, float] = field(default_factory=dict)  # MSE of poses by step, where the truth is known
    changed: list[int] = field(default_factory=list)  # poses that each pass of refinement moved
    passes: int = 0  # of refinement at most
    pass_left: float | None = None  # s of the pass that is at work
    pass_takes: float = 0.0  # s, the longest


def read_course(lines: Iterable[str]) -> Course:
    """The course that the lines of a run's logs tell, training first."""
    course = Course()
    for line in lines:
        if found := STEP.search(line):
            course.step, course.stage = int(found["step"]), found["stage"]
            course.steps = int(found["all"]) if found["all"] else None
            told = {name: each[1] for name, value in VALUE.items() if (each := re.search(value, found["more"]))}
            course.rate = float(told["rate"]) / 1000 if "rate" in told else course.rate
            if "loss" in told:
                course.losses[course.step] = float(told["loss"])
            if "mse" in told:
                course.errors[course.step] = float(told["mse"])
        elif found := PASS.search(line):
            course.passes = int(found[2])
            if found[5]:
                course.changed = [*course.changed[: int(found[1]) - 1], int(found[5])]
            course.pass_left = None if found[5] else float(found[4])
            course.pass_takes = max(course.pass_takes, course.pass_left or 0.0)
    return course


def refinement_left(course: Course) -> float | None:
    """Seconds, at most, of the refinement that is at work; None before its first line."""
    if not course.passes:
        return None
    whole = course.passes - len(course.changed) - (course.pass_left is not None)
    return whole * course.pass_takes + (course.pass_left or 0.0)
