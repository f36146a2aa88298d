"""Snakemake at work on a small preset, on a Slurm cluster or here, as the tests start it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNS = Path("smoke_snr1/d4_l2")
SITE = ["--workflow-profile", str(ROOT / "workflow/profiles/slurm"), "--slurm-status-command", "squeue"]
SITE += ["--default-resources", "slurm_partition=cpu", "mem_mb=500", "runtime=10", "--latency-wait", "5"]
SITE += ["--slurm-init-seconds-before-status-checks", "2"]


def start(folder: Path, environment: dict[str, str], *options: str, presets: tuple[Path, ...] = ()) -> subprocess.Popen:
    """Snakemake at work in `folder` on the tables of small.yaml, with `presets` laid over it; its log is there too."""
    folder.mkdir(exist_ok=True)
    configs = [ROOT / "workflow/presets/smoke.yaml", ROOT / "tests/slurm/small.yaml", *presets]
    command = [sys.executable, "-m", "snakemake", "tables", "--snakefile", str(ROOT / "Snakefile"), *options]
    command += ["--configfile", *map(str, configs)]
    environment = environment | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with open(folder / "snakemake.log", "w") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def wait_for(process: subprocess.Popen, folder: Path) -> None:
    assert process.wait(600) == 0, (folder / "snakemake.log").read_text()


def log_of(folder: Path, seed: int) -> str:
    log = folder / f"results/smoke/logs/train/{RUNS}/seed{seed}.log"
    return log.read_text() if log.exists() else ""
