"""`equipose run`, the workflow in the working folder, and `equipose where`, its files."""

import argparse
import os
import sys
from pathlib import Path

from equipose.config.folder import WORKFLOW, preset
from equipose.config.given import read_given
from equipose.errors import ConfigError


def run(arguments: argparse.Namespace) -> None:
    """Snakemake on the paper's workflow, with results in the working folder."""
    presets = [preset(name) for name in arguments.preset]
    for file in arguments.configfile:
        try:
            read_given(file)
        except ConfigError as error:
            raise ConfigError(f"--configfile: {error}") from error
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(WORKFLOW / "Snakefile"), *arguments.snakemake]
    if files := [*presets, *arguments.configfile]:
        command += ["--configfile", *map(str, files)]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # Snakemake in our place: its signals and its exit code are its own


def where(_: argparse.Namespace) -> None:
    """Print the folder of Snakefile, config.yaml, presets and profiles."""
    print(WORKFLOW)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.allow_abbrev = False  # Snakemake's `--config` is no short form of `--configfile`
    parser.add_argument(
        "--preset", action="append", default=[], metavar="NAME", help="laid over config.yaml; may be repeated"
    )
    parser.add_argument(
        "--configfile", type=Path, nargs="+", action="extend", default=[], help="your own, laid over the presets"
    )
    parser.usage = f"{parser.prog} [--preset NAME] [--configfile FILE ...] [Snakemake's targets and options]"
