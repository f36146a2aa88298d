"""All code that uses Snakemake's undocumented inside. Checked with Snakemake 9.27.1, the version in constraints.txt.

Any release of Snakemake may change it. This is what each function uses, and where to look if it breaks:

- `is_main_process`: `Workflow.is_main_process` (workflow.py); true unless Snakemake sent this process as a job.
- `decide_by_time_alone`: the property `Workflow.rerun_triggers` (workflow.py), read by `DAG.update_needrun` (dag.py).
- `before_execution`: `Workflow.execute(executor_plugin=…, …)` and `executor_plugin.common_settings.dryrun_exec`
  (workflow.py; the plugins' interface-executor package). `-n`, `--lint` and `--summary` execute nothing, or dryly.
- `is_output`: `Workflow.rules`, `Rule.output` and `_IOFile.regex()` (rules.py, io/__init__.py).
- `files_to_make`: `DAG.needrun_jobs()` and `Job.output` (dag.py, jobs.py).
- `look_without_delay`: `Scheduler.job_rate_limiter` (scheduling/job_scheduler.py).
- `cores`: `Workflow.resource_settings.cores` (workflow.py, settings/types.py).
- `offer`: the dictionary `Workflow.global_resources` (workflow.py), which holds what `--resources` says.
- `own_locks`: `_lockfile` of the persistence (persistence/file.py), lock files by their kind.
- `drop_stale_locks`: the folder .snakemake/locks (persistence/file.py). Each lock is a plain file. A killed Snakemake
  leaves its locks behind.
- `that_exist`: Snakemake compares paths as text (io/__init__.py). So the same file by another path is no output of any
  rule.

tests/workflow and tests/faults run real workflows, and show which of these has changed.
"""

import fcntl
import io
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from snakemake.api import Workflow  # its own module, imported first, imports itself in a circle
from snakemake.settings.enums import RerunTrigger

from equipose.io.locks import lock


def is_main_process(workflow: Workflow) -> bool:
    """Whether a user started this Snakemake. Otherwise it is one of the jobs, here or on a cluster."""
    return workflow.is_main_process


def decide_by_time_alone(workflow: Workflow) -> None:
    """Let only the times of files decide what is made again, whatever the profile and the command line say."""
    type(workflow).rerun_triggers = frozenset({RerunTrigger.MTIME})  # in place of a property


def before_execution(workflow: Workflow, prepare: Callable[[], None]) -> None:
    """Call `prepare` before jobs run. Dry runs, `--lint` and `--summary` do not call it."""
    execute = workflow.execute

    def prepared(executor_plugin: Any, **settings: Any) -> Any:
        if not executor_plugin.common_settings.dryrun_exec:
            prepare()
        return execute(executor_plugin=executor_plugin, **settings)

    workflow.execute = prepared


def is_output(workflow: Workflow) -> Callable[[Path], bool]:
    """A function that tells whether a path is an output of one of the rules."""
    patterns = [re.compile(output.regex()) for rule in workflow.rules for output in rule.output]
    return lambda path: any(pattern.match(str(path)) for pattern in patterns)


def files_to_make(workflow: Workflow) -> list[str]:
    """The outputs of all jobs that will run, once Snakemake has planned them."""
    return [file for job in workflow.dag.needrun_jobs() for file in job.output]


def look_without_delay(workflow: Workflow) -> None:
    """Lift Snakemake's limit on jobs a second, 100 by default.

    With the limit, the scheduler looks for jobs again one second after each look, and each job that ends adds such a
    loop. After 120 jobs these loops took half a core (Snakemake's pull request 3744).
    """
    workflow.scheduler.job_rate_limiter = None


def cores(workflow: Workflow) -> int | str:
    """The number of cores that Snakemake may use; empty on a cluster, where `workflow.cores` would raise an error."""
    return workflow.resource_settings.cores or ""


def offer(workflow: Workflow, resource: str, amount: int) -> None:
    """Set how much of a resource this machine has, unless the command line or the profile sets it."""
    workflow.global_resources.setdefault(resource, amount)


def own_locks(workflow: Workflow) -> list[Path]:
    """The lock files that this Snakemake has written."""
    return [Path(path) for path in getattr(workflow.persistence, "_lockfile", {}).values()]


def drop_stale_locks(snakemake_folder: Path) -> io.TextIOBase:
    """Remove the locks of earlier workflows of ours in this folder, if none of these is alive. Other locks stay.

    A killed Snakemake leaves its locks behind, and the next one would refuse to start. Returns an open file that marks
    the caller as alive until it is closed. `remember_locks` writes the caller's own locks into it.
    """
    snakemake_folder.mkdir(exist_ok=True)
    alive = open(snakemake_folder / "alive.lock", "a+")  # noqa: SIM115 (kept open by the caller)
    if lock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB, otherwise=False):
        alive.seek(0)
        ours = set(alive.read().splitlines())
        for path in (snakemake_folder / "locks").glob("*"):
            if _identity(path) in ours:
                path.unlink(missing_ok=True)
        alive.truncate(0)
    lock(alive, fcntl.LOCK_SH, otherwise=False)  # waits only while another workflow removes stale locks
    return alive


def remember_locks(alive: io.TextIOBase, paths: Iterable[Path]) -> None:
    """Write down that these locks are ours, so that a later workflow can remove them."""
    alive.writelines(f"{identity}\n" for path in paths if (identity := _identity(path)))
    alive.flush()


def that_exist(results: Path, *patterns: str) -> list[str]:
    """The files in the results folder that match `patterns` now, so that a report trains nothing.

    No job makes these paths. They are absolute if the results folder's path is relative, and relative otherwise.
    """
    folder = Path(os.path.relpath(results)) if results.is_absolute() else results.absolute()
    return sorted(str(path) for pattern in patterns for path in folder.glob(pattern))


def _identity(path: Path) -> str:
    """What tells a lock from a later one of the same name; empty if the lock is gone."""
    with suppress(FileNotFoundError):
        found = path.stat()
        return f"{path.name} {found.st_ino} {found.st_mtime_ns}"
    return ""
