"""All that leans on Snakemake's inside, in one place. Checked with Snakemake 9.27.1, the version in constraints.txt.

None of this is Snakemake's documented interface, so any release may change it. What each function leans on, and where
to look if it breaks:

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
- `drop_stale_locks`: the folder .snakemake/locks (persistence/file.py): one plain file a lock, which a Snakemake
  leaves behind when it is killed.
- `that_exist`: Snakemake takes a file by its path as text (io/__init__.py): the same file by another path is no
  output of any rule.

tests/workflow and tests/faults run real workflows: they show which of these has changed.
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
    """Whether this is the Snakemake that somebody called, and not one of its jobs, on a cluster or here."""
    return workflow.is_main_process


def decide_by_time_alone(workflow: Workflow) -> None:
    """Let files' times alone say what is made again, whatever profile and command line say."""
    type(workflow).rerun_triggers = frozenset({RerunTrigger.MTIME})  # in place of a property


def before_execution(workflow: Workflow, prepare: Callable[[], None]) -> None:
    """Have `prepare` called before jobs are really run: dry runs, `--lint` and `--summary` call it never."""
    execute = workflow.execute

    def prepared(executor_plugin: Any, **settings: Any) -> Any:
        if not executor_plugin.common_settings.dryrun_exec:
            prepare()
        return execute(executor_plugin=executor_plugin, **settings)

    workflow.execute = prepared


def is_output(workflow: Workflow) -> Callable[[Path], bool]:
    """A function that says whether a path is an output of one of the rules."""
    patterns = [re.compile(output.regex()) for rule in workflow.rules for output in rule.output]
    return lambda path: any(pattern.match(str(path)) for pattern in patterns)


def files_to_make(workflow: Workflow) -> list[str]:
    """The outputs of all jobs that will run, once Snakemake has planned them."""
    return [file for job in workflow.dag.needrun_jobs() for file in job.output]


def look_without_delay(workflow: Workflow) -> None:
    """Lift Snakemake's limit on jobs a second, 100 by default.

    The limit has the scheduler look again a second after each of its rounds, and each job that ends adds a round: after
    120 jobs those took half a core (Snakemake's pull request 3744).
    """
    workflow.scheduler.job_rate_limiter = None


def cores(workflow: Workflow) -> int | str:
    """The number of cores that Snakemake may use; nothing on a cluster, where `workflow.cores` insists on a number."""
    return workflow.resource_settings.cores or ""


def offer(workflow: Workflow, resource: str, amount: int) -> None:
    """Say how much of a resource this machine has, unless the command line or the profile does."""
    workflow.global_resources.setdefault(resource, amount)


def own_locks(workflow: Workflow) -> list[Path]:
    """The lock files that this Snakemake has written."""
    return [Path(path) for path in getattr(workflow.persistence, "_lockfile", {}).values()]


def drop_stale_locks(snakemake_folder: Path) -> io.TextIOBase:
    """Remove the locks that Snakemakes of ours wrote here, where none of them is alive; those of others stay.

    Snakemake's locks are plain files, so that one that was killed leaves them behind, and the next would refuse to
    start. Returns what marks the caller as alive: an open file, to be kept as long as that holds, in which
    `remember_locks` notes what the caller writes.
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
    lock(alive, fcntl.LOCK_SH, otherwise=False)  # at most a moment, while another one removes what was stale
    return alive


def remember_locks(alive: io.TextIOBase, paths: Iterable[Path]) -> None:
    """Note that these locks are ours, for the Snakemake that finds them once we are dead."""
    alive.writelines(f"{identity}\n" for path in paths if (identity := _identity(path)))
    alive.flush()


def that_exist(results: Path, *patterns: str) -> list[str]:
    """The files in the results folder that match `patterns` now, by paths that no job makes: a report trains nothing.

    The paths are absolute where that of the results folder is relative, and the other way round.
    """
    folder = Path(os.path.relpath(results)) if results.is_absolute() else results.absolute()
    return sorted(str(path) for pattern in patterns for path in folder.glob(pattern))


def _identity(path: Path) -> str:
    """Of a lock, nothing where it is gone: a Snakemake that ends removes every lock. A name may be another's later."""
    with suppress(FileNotFoundError):
        found = path.stat()
        return f"{path.name} {found.st_ino} {found.st_mtime_ns}"
    return ""
