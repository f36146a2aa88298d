"""The provenance of a result: code, packages and machine."""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "scipy", "pandas", "escnn", "snakemake", "mrcfile", "matplotlib", "seaborn")
SOURCES = Path(__file__).parents[1]


def provenance(device: torch.device) -> dict[str, Any]:
    """All facts about a run that its configuration and seed lack."""
    machine = hardware() | {"node": platform.node(), "cores": len(os.sched_getaffinity(0))}
    if device.type == "cuda":
        machine["GPU"] = torch.cuda.get_device_name(device)
    return {"code": code_version(), "versions": package_versions(), "machine": machine}


def code_version() -> dict[str, Any]:
    """The git commit that the package lies in, whether files differ from it, and a fingerprint of its modules.

    Commit and `edited` are None where git does not track the package, as in an environment that lies in the checkout of
    another project. The fingerprint always tells two versions apart.
    """
    modules = sorted(SOURCES.rglob("*.py"))
    fingerprint = hashlib.sha256(b"\0".join(module.read_bytes() for module in modules)).hexdigest()[:16]
    commit, changes = None, None
    if _git("ls-files", "__init__.py"):
        commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no", "--", ".")
    return {"commit": commit, "edited": None if changes is None else bool(changes), "modules": fingerprint}


def package_versions() -> dict[str, str]:
    """Versions by package; escnn need not be installed."""
    installed = [name for name in ("equipose", *PACKAGES) if any(importlib.metadata.distributions(name=name))]
    return {name: importlib.metadata.version(name) for name in installed}


def hardware() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "processor": name[1] if name else platform.processor(),
        "system": platform.platform(),
        "Python": platform.python_version(),
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", SOURCES, *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.strip()
