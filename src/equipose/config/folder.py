"""Where the workflow lies: Snakefile, config.yaml, and workflow/ with presets, profiles, templates and structures."""

from pathlib import Path

from equipose.errors import ConfigError

CHECKOUT, INSTALLED = Path(__file__).parents[3], Path(__file__).parents[1] / "paper"

WORKFLOW = INSTALLED if INSTALLED.is_dir() else CHECKOUT
"""The package's own folder where a wheel has put it there, otherwise the checkout that src/ is in."""

PRESETS = WORKFLOW / "workflow/presets"


def preset(name: str) -> Path:
    """The file of a preset, named without .yaml. Raises ConfigError if there is none of that name."""
    path = PRESETS / f"{name}.yaml"
    if path not in PRESETS.glob("*.yaml"):
        there = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
        raise ConfigError(f"--preset: there is no {name}: choose one of {there}, or give a file with --configfile")
    return path
