"""Keep the small results of a preset in the repository.

`python -m equipose.study.publish --results DIR --output DIR …`

Tables and figures (as pictures) are copied, and each run has a line in runs.csv. Particles, models and maps stay where
they are. Earlier results of other runs stay published, so a long preset can be run in parts, on several machines.
Claims are then judged on all of the runs. If only the parts together have all runs of an experiment, its table is
joined from their tables.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from equipose.errors import ConfigError
from equipose.io.files import write_json, write_text
from equipose.io.progress import run_main
from equipose.io.provenance import hardware, package_versions
from equipose.study.claims import asked_or_found, write_claims
from equipose.study.command_line import preset_command_line
from equipose.study.job_times import job_times
from equipose.study.joined_tables import join_tables
from equipose.study.run_table import RUN, load_outcomes
from equipose.study.runs import load_settings

KEPT = ("tables/*.csv", "tables/*.md", "figures/*/*.png")


def publish(
    results: Path,
    output: Path,
    command: str,
    config: dict[str, Any],
    experiments: list[str],
    claims: dict[str, Any],
) -> None:
    """Add the tables, figures and runs in `results` to the published ones in `output`; `command` makes all of them.

    `config` is the preset's configuration, `experiments` are the preset's experiments, and `claims` is claims.yaml.
    Raises ConfigError if there is nothing to publish.
    """
    found = sorted(path for pattern in KEPT for path in results.glob(pattern))
    if not found:
        raise ConfigError(f"{results} has no table or figure to publish: run its preset first.")
    for path in found:
        target = output / path.relative_to(results)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for experiment in experiments:
        if not (results / f"tables/{experiment}.csv").exists():
            join_tables(config, experiment, output / "tables")

    runs = load_outcomes(results / "runs.csv")
    machine = {"datasets": sorted(set(runs["dataset"])), "machine": hardware(), "versions": package_versions()}
    if (output / "runs.csv").exists():
        runs = _together(runs, load_outcomes(output / "runs.csv"), RUN)
    write_text(output / "runs.csv", runs.to_csv(index=False))
    write_claims(claims, asked_or_found(config, experiments, results, runs), output / "claims.csv")

    times = job_times(results)
    if (output / "time.csv").exists():
        times = _together(times, pd.read_csv(output / "time.csv", float_precision="round_trip"), ["rule", "of"])
    write_text(output / "time.csv", times.to_csv(index=False))
    _add_lines(results / "sessions.csv", output / "sessions.csv")
    path = output / "provenance.json"
    machines = json.loads(path.read_text())["machines"] if path.exists() else []
    machines = [*(other for other in machines if not {*other["datasets"]} <= {*machine["datasets"]}), machine]
    provenance = {"results": results.name, "command": command, "machines": machines}
    write_json(path, provenance)


def _together(new: pd.DataFrame, former: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The lines of both tables; where both have a line, the new one."""
    return pd.concat([new, former]).drop_duplicates(keys).sort_values(keys)


def _add_lines(source: Path, target: Path) -> None:
    """Append the lines of `source` that `target` lacks."""
    former = target.read_text().splitlines() if target.exists() else []
    new = source.read_text().splitlines() if source.exists() else []
    write_text(target, "".join(f"{line}\n" for line in [*former, *(line for line in new if line not in former)]))


def main() -> None:
    parser = preset_command_line("equipose.study.publish", __doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the copies")
    parser.add_argument("--command", required=True, help="the command that makes all of the results")
    parser.add_argument("--claims", type=Path, required=True, help="claims.yaml")
    arguments = parser.parse_args()
    config = load_settings(arguments.config, arguments.results, arguments.experiments)
    claims = yaml.safe_load(arguments.claims.read_text())
    publish(arguments.results, arguments.output, arguments.command, config, arguments.experiments, claims)


if __name__ == "__main__":
    run_main(main)
