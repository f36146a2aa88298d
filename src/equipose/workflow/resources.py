"""The time and GPUs of the workflow's jobs, and the GPUs of this machine."""

import os
import shutil
import subprocess
from typing import Any

from equipose.config.settings import run_budgets


def train_minutes(config: dict[str, Any], dataset: str, model: str, seed: int) -> int:
    """Time limit of a training job in minutes: its budget, if that is given in seconds, and the slack."""
    budget = run_budgets(config)[dataset, model, seed]
    return round(budget.get("seconds", 0) / 60) + config["resources"]["runtime_slack_minutes"]


def gpus() -> int:
    """Number of GPUs of this machine that CUDA_VISIBLE_DEVICES does not hide."""
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout.count("UUID: GPU-")
    visible = os.getenv("CUDA_VISIBLE_DEVICES")
    return listed if visible is None else min(listed, sum(map(bool, visible.split(","))))
