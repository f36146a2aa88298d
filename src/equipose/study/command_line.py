"""Arguments that the modules about a preset's runs take."""

import argparse
from pathlib import Path


def preset_command_line(module: str, description: str) -> argparse.ArgumentParser:
    """Arguments of every module that reads the runs of a preset."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--results", type=Path, required=True, help="a preset's results folder")
    parser.add_argument("--config", type=Path, required=True, help="tables/config.json of the preset")
    parser.add_argument("--experiments", nargs="*", required=True, help="what the preset asks for")
    return parser
