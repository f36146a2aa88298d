"""The progress of a training run: its growing state, and the spent part of its budget."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from equipose.config.settings import RunConfig
from equipose.poses.search_stages import SearchState, agreed, search_length


@dataclasses.dataclass
class Progress:
    """The state of a run in training, without weights and optimiser."""

    step: int = 0
    seconds: float = 0.0  # of training, evaluations not counted, over all interruptions
    loss_sum: float = 0.0  # since the last evaluation
    loss_count: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    poses: list[np.ndarray] = dataclasses.field(default_factory=list)  # (n, 3, 3) of the fixed images
    volumes: dict[str, tuple[int, np.ndarray]] = dataclasses.field(default_factory=dict)  # name: step, map
    search: SearchState | None = None  # with `init: search`
    found: Tensor | None = None  # the map (L, L, L) that the search ended with
    made_with: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # at each start, from its step on


def budget_spent(config: RunConfig, progress: Progress, more_seconds: float = 0.0) -> bool:
    if stayed_converged(config, progress) or needs_no_networks(config, progress):
        return True
    if config.budget.steps is not None:
        return progress.step >= config.budget.steps
    return progress.seconds + more_seconds >= config.budget.time


def needs_no_networks(config: RunConfig, progress: Progress) -> bool:
    """Whether the search has ended with a map that two of its starts agree on, and that is enough for this run."""
    search = config.model.search
    if search.fit != "unless_agreed" or progress.search is None or progress.step < search_length(search):
        return False
    return agreed(progress.search)


def networks_trained(run: Path, config: RunConfig) -> bool:
    """Whether the run in this folder went on after its search."""
    if config.model.init != "search" or not (run / "history.csv").is_file():
        return True
    return int(pd.read_csv(run / "history.csv")["step"].iloc[-1]) > search_length(config.model.search)


def starts_agreed(run: Path) -> bool:
    """Whether the run in this folder ended with its search, since two of its starts had found the same map."""
    if not (run / "history.csv").is_file():  # not known
        return False
    config = RunConfig.load(run / "config.json")
    search = config.model.search
    had_more = config.budget.steps is None or config.budget.steps > search_length(search)
    return search.fit == "unless_agreed" and had_more and not networks_trained(run, config)


def stayed_converged(config: RunConfig, progress: Progress) -> bool:
    """Whether the run was converged at each of the last `stop_after` evaluations; then it ends early."""
    enough, latest = config.evaluation.stop_after, progress.history[-config.evaluation.stop_after :]
    return 0 < enough <= len(latest) and all(
        row.get("mse", math.inf) < config.evaluation.converged_mse for row in latest
    )


def spent_part(config: RunConfig, progress: Progress, more_seconds: float = 0.0) -> float:
    """Part of the budget that is spent, 0 to 1."""
    if config.budget.steps is not None:
        return progress.step / config.budget.steps
    return min((progress.seconds + more_seconds) / config.budget.time, 1.0)
