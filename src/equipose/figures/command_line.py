"""Arguments that figures of runs take."""

import argparse
from pathlib import Path


def command_line(module: str, description: str) -> argparse.ArgumentParser:
    """Arguments that every figure of runs takes."""
    parser = argparse.ArgumentParser(prog=f"python -m equipose.figures.{module}", description=description)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="run folders")
    parser.add_argument("--output", type=Path, required=True, help="picture; written as .pdf and .png")
    return parser


def dataset_command_line(module: str, description: str) -> argparse.ArgumentParser:
    """Arguments that every figure of the runs of one dataset takes."""
    parser = command_line(module, description)
    parser.add_argument("--dataset", type=Path, required=True, help="dataset folder, with particles.star, volume.mrc")
    return parser
