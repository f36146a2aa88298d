# What the rules share: the checked configuration, and the functions of equipose.workflow bound to it. Their logic has
# unit tests there; all that leans on Snakemake's inside is in equipose.workflow.snakemake_internals.
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from equipose.config.folder import WORKFLOW
from equipose.config.settings import (
    asked_runs,
    model_label,
    preparation_config,
    simulation_config,
    source_of,
    structure_source,
)
from equipose.data.uncropped import uncropped
from equipose.errors import ConfigError
from equipose.figures import OF_DATASETS, OF_RUNS, caption
from equipose.study.plan import plan
from equipose.workflow import freshness, resources, session, snakemake_internals, targets
from equipose.workflow.resolve import run_config
from equipose.workflow.snakemake_internals import that_exist

STARTED = time.time()
EMBEDDED = WORKFLOW / "workflow/resources/structures"
PAPER = WORKFLOW / "workflow/resources/paper"
CLAIMS = WORKFLOW / "workflow/report/claims.yaml"
MAIN = snakemake_internals.is_main_process(workflow)  # a job on a cluster trusts the process that sent it


if MAIN:
    from equipose.workflow.validate import check_config

    try:
        check_config(
            config,
            embedded=EMBEDDED,
            paper=PAPER,
            encoders=targets.registered_names("equipose.model.encoders", "ENCODERS"),
            losses=targets.registered_names("equipose.model.losses", "LOSSES"),
            rules=targets.rule_names([WORKFLOW / "Snakefile", *(WORKFLOW / "workflow/rules").glob("*.smk")]),
        )
    except ConfigError as error:
        sys.exit(f"error in the configuration: {error}")

RESULTS = targets.results_folder(config)

# What is out of date: a result that is older than what it is made from, and one that equipose.workflow.freshness says was made with
# other settings or from other data. Snakemake's own records decide nothing, so that results may be moved, and neither
# code nor a rule's text makes anything again.
snakemake_internals.decide_by_time_alone(workflow)
CHANGED = Path(".snakemake/changed")  # newer than every result, and never the same
ALIVE = []  # open as long as this process lives


def prepare_results() -> None:
    ALIVE.append(session.prepare(RESULTS, snakemake_internals.is_output(workflow)))


def remember_our_locks() -> None:
    """Note which of Snakemake's locks are ours, once it has written them."""
    for alive in ALIVE:
        snakemake_internals.remember_locks(alive, snakemake_internals.own_locks(workflow))


if MAIN:
    CHANGED.parent.mkdir(exist_ok=True)
    CHANGED.write_text(f"{time.time_ns()}\n")
    snakemake_internals.before_execution(workflow, prepare_results)

# For logs of jobs that kill -9 ended, or the kernel where memory was short: neither leaves a word.
KILLED = (
    "error: killed (signal 9): out of memory (`resources` in the configuration says how much is asked for), or by hand;"
    " the same command continues"
)

# Jobs run the Python that runs Snakemake, whether or not its environment has been activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.getenv("PATH", os.defpath)]))


wildcard_constraints:
    structure="|".join(map(re.escape, config["structures"])),
    dataset="|".join(map(re.escape, config["datasets"])),
    model="|".join(map(re.escape, config["models"])),
    experiment="|".join(map(re.escape, config["experiments"])),
    seed=r"\d+",


here = targets.seen_from_here
names_of = partial(targets.names_of, config)
in_runs = partial(targets.in_runs, config)
assembly_option = partial(targets.assembly_option, config)
experiment_datasets = partial(targets.experiment_datasets, config)
table_files = partial(targets.table_files, config)
table_command = partial(targets.table_command, config, paper=PAPER)
paper_table = partial(targets.paper_table, config, paper=PAPER)
has_tables = partial(targets.has_tables, config)
partly_run = partial(targets.partly_run, config)
stand_ins = partial(targets.stand_ins, config)
figure_files = partial(targets.figure_files, config, of_runs=OF_RUNS, of_datasets=OF_DATASETS)
figure_options = partial(targets.figure_options, config)
panel_tables = partial(targets.panel_tables, config)
reconstruction_files = partial(targets.reconstruction_files, config)
structure_file = partial(targets.structure_file, config, embedded=EMBEDDED)
true_volume = partial(targets.true_volume, config)


def origin(source: dict) -> str:
    """The identity of a structure's source as JSON, which is kept with what is made from it."""
    return json.dumps(freshness.structure_digest(source))


def say(text: str) -> None:
    print(f"\n{text}\n", file=sys.stderr, flush=True)


def note_session(ended: str) -> None:
    """A line in sessions.csv for this call of Snakemake."""
    minutes = (time.time() - STARTED) / 60
    session.note(RESULTS, ended, snakemake_internals.cores(workflow), minutes, sys.argv[1:])


def where(changed: Callable[..., bool]) -> Callable[..., list[str]]:
    """An input function: CHANGED, which makes a job run, where `changed` says that what stands is out of date.

    `changed` is a function of `equipose.workflow.freshness`; it gets the configuration and the job's wildcards.
    """

    def files(wildcards) -> list[str]:
        return [str(CHANGED)] if MAIN and changed(config, **dict(wildcards)) else []

    return files


def settings_of(result: str, changed: Callable[..., bool]) -> Callable[..., str]:
    """An input function: config.json of a run whose job writes `result`; `changed` is as for `where`."""

    def file(wildcards) -> str:
        run = dict(wildcards)
        return targets.settings_file(config, result, outdated=changed(config, **run), **run)

    return file


def of_halves(pattern: str) -> Callable[..., list[str]]:
    """An input function: `pattern` in the results folder, for each of the two halves of a reconstruction."""
    return lambda wildcards: targets.of_halves(config, wildcards.reconstruction, pattern)


def rerun_command() -> str:
    """The command that makes all that this configuration asks for."""
    default = WORKFLOW / "config.yaml"
    presets = [Path(path) for path in workflow.configfiles if not default.samefile(path)]
    return targets.rerun_command(presets, workflow=WORKFLOW)


def job(rule: str, key: str) -> int:
    return config["resources"][rule][key]


# So many jobs a GPU at a time, where there are any; without, jobs share the cores. A cluster's profile sets `gpu`.
if found := resources.gpus():
    snakemake_internals.offer(workflow, "gpu", found * config["resources"]["jobs_per_gpu"])
