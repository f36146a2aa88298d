"""The time and GPUs of the workflow's jobs, and the GPUs of this machine."""

import os
import shutil
import subprocess
from typing import Any

from equipose.config.settings import run_budgets


def train_minutes(config: dict[str, Any], dataset: str, model: str, seed: int) -> int:
    """Time limit of a training job in minutes: its budget, if that is given in seconds, and the slack.

    How long steps take, only the machine knows: a budget in steps has the slack alone.
    """
    budget = run_budgets(config)[dataset, model, seed]
    return round(budget.get("seconds", 0) / 60) + config["resources"]["runtime_slack_minutes"]


def gpus() -> int:
    """Number of GPUs of this machine that CUDA_VISIBLE_DEVICES does not hide.

    As for CUDA, the first entry that names no device ends the list: -1 alone hides all.
    """
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout.count("UUID: GPU-")
    visible = os.getenv("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return listed
    named = [name.strip().isdigit() or name.strip().startswith(("GPU-", "MIG-")) for name in visible.split(",")]
    return min(listed, [*named, False].index(False))
