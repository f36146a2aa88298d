"""Keep the small results of a preset in the repository: `python -m equipose.publish --results DIR --output DIR`.

Tables, claims and figures as pictures are copied, with what they were made on and how long that took; particles, models
and maps stay where they are.
"""

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd

from equipose.benchmarks import wall_times
from equipose.cli import run_main
from equipose.errors import ConfigError
from equipose.provenance import hardware, package_versions

KEPT = ("claims.csv", "claims.md", "tables/*.csv", "tables/*.md", "figures/*/*.png")


def publish(results: Path, output: Path) -> None:
    """Copy what `KEPT` names, and write provenance.json and time.csv. Raises ConfigError where there is nothing."""
    found = sorted(path for pattern in KEPT for path in results.glob(pattern))
    if not found:
        raise ConfigError(f"{results} has no table, claim or figure to publish: run its preset first.")
    for path in found:
        target = output / path.relative_to(results)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    pd.DataFrame(wall_times(results)).to_csv(output / "time.csv", index=False)
    provenance = {"results": results.name, "machine": hardware(), "versions": package_versions()}
    (output / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="a preset's results folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for the copies")
    arguments = parser.parse_args()
    publish(arguments.results, arguments.output)


if __name__ == "__main__":
    run_main(main)
