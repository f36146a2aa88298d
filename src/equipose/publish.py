"""Keep the small results of a preset in the repository: `python -m equipose.publish --results DIR --output DIR`.

Tables, claims and figures as pictures are copied, and each run has a line in runs.csv; with what they were made on
and how long that took; particles, models and maps stay where they are.
"""

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd

from equipose.benchmarks import wall_times
from equipose.cli import run_main
from equipose.compare import runs_table
from equipose.errors import ConfigError
from equipose.provenance import hardware, package_versions

KEPT = ("sessions.csv", "claims.csv", "claims.md", "tables/*.csv", "tables/*.md", "figures/*/*.png")


def publish(results: Path, output: Path, command: str) -> None:
    """Copy what `KEPT` names; write runs.csv, time.csv and provenance.json. ConfigError if there is nothing."""
    found = sorted(path for pattern in KEPT for path in results.glob(pattern))
    if not found:
        raise ConfigError(f"{results} has no table, claim or figure to publish: run its preset first.")
    for path in found:
        target = output / path.relative_to(results)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    pd.DataFrame(wall_times(results)).to_csv(output / "time.csv", index=False)
    runs_table(results).to_csv(output / "runs.csv", index=False)
    provenance = {"results": results.name, "command": command, "machine": hardware(), "versions": package_versions()}
    (output / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="a preset's results folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for the copies")
    parser.add_argument("--command", required=True, help="what makes all of the results")
    arguments = parser.parse_args()
    publish(arguments.results, arguments.output, arguments.command)


if __name__ == "__main__":
    run_main(main)
