# What the rules share: the checked configuration, the files a rule depends on, and what this machine and Python offer.
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

from snakemake.settings.enums import RerunTrigger

from equipose.workflow import freshness
from equipose.config.settings import (
    asked_runs,
    is_simulated,
    model_label,
    preparation_config,
    run_budgets,
    simulation_config,
    structure_source,
)
from equipose.errors import ConfigError
from equipose.figures import OF_DATASETS, OF_RUNS, caption
from equipose.io.files import check_writable, leave_the_future
from equipose.io.locks import drop_stale_locks, remember_locks
from equipose.study.plan import plan
from equipose.workflow.resolve import run_config

STARTED = time.time()
HERE = Path(workflow.basedir)
EMBEDDED = HERE / "workflow/resources/structures"
PAPER = HERE / "workflow/resources/paper"
CLAIMS = HERE / "workflow/report/claims.yaml"


def rule_names() -> list[str]:
    """The rules as they are written: an experiment is a target of its own name, beside these."""
    files = [HERE / "Snakefile", *(HERE / "workflow/rules").glob("*.smk")]
    return re.findall(r"^rule\b *(\w+)", "\n".join(path.read_text() for path in files), re.MULTILINE)


if workflow.is_main_process:  # a job on a cluster trusts the process that sent it
    from equipose.workflow.validate import check_config
    from equipose.model.encoders import ENCODERS
    from equipose.model.losses import LOSSES

    try:
        check_config(
            config,
            embedded=EMBEDDED,
            paper=PAPER,
            encoders=ENCODERS,
            losses=LOSSES,
            rules=rule_names(),
        )
    except ConfigError as error:
        sys.exit(f"error in the configuration: {error}")

RESULTS = Path(config["pathvars"]["results"])

# What is out of date: a result that is older than what it is made from, and one that equipose.workflow.freshness says was made with
# other settings or from other data. Snakemake's own records decide nothing, so that results may be moved, and neither
# code nor a rule's text makes anything again.
type(workflow).rerun_triggers = frozenset({RerunTrigger.MTIME})  # in place of a property, whatever the profile says
CHANGED = Path(".snakemake/changed")  # newer than every result, and never the same


def before_execution(execute):
    """Snakemake's `workflow.execute`, for jobs that are really run: `-n`, `--lint` and `--summary` change nothing.

    After a crash the same command continues: our locks are dropped if nobody holds them, and jobs that were left
    unfinished run again (`rerun-incomplete` of the profiles), training from its checkpoint.
    """

    def prepared(executor_plugin, **settings):
        if not executor_plugin.common_settings.dryrun_exec:
            try:
                check_writable(RESULTS)
            except ConfigError as error:
                sys.exit(f"error: {error}")
            ALIVE.append(drop_stale_locks(Path(".snakemake")))
            patterns = [re.compile(output.regex()) for rule in workflow.rules for output in rule.output]
            leave_the_future(RESULTS, lambda path: any(pattern.match(str(path)) for pattern in patterns))
        return execute(executor_plugin=executor_plugin, **settings)

    return prepared


def remember_our_locks() -> None:
    """Note which of Snakemake's locks are ours, once it has written them."""
    for alive in ALIVE:
        remember_locks(alive, map(Path, getattr(workflow.persistence, "_lockfile", {}).values()))


ALIVE = []  # open as long as this process lives
if workflow.is_main_process:
    CHANGED.parent.mkdir(exist_ok=True)
    CHANGED.write_text(f"{time.time_ns()}\n")
    workflow.execute = before_execution(workflow.execute)

FIGURE_OPTIONS = {"subsets": ["--within", *map(str, config["figures"]["subset_within"])]}

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


def say(text: str) -> None:
    print(f"\n{text}\n", file=sys.stderr, flush=True)


def note_session(ended: str) -> None:
    """A line in sessions.csv for this call of Snakemake: its command, and how long it took; on a cluster, no cores."""
    path = RESULTS / "sessions.csv"
    head = "" if path.exists() else "ended,cores,minutes,command\n"
    command = shlex.join(["snakemake", *sys.argv[1:]]).replace('"', '""')
    cores = workflow.resource_settings.cores or ""  # workflow.cores insists on a number
    RESULTS.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f'{head}{ended},{cores},{(time.time() - STARTED) / 60:.1f},"{command}"\n')


def here(path: Path) -> str:
    """`path` in this repository, as seen from the working directory: the folder may move without a rerun."""
    return os.path.relpath(path)


def where(changed: Callable[..., bool]) -> Callable[..., list[str]]:
    """An input function: CHANGED, which makes a job run, where `changed` says that what stands is out of date.

    `changed` is a function of `equipose.workflow.freshness`; it gets the configuration and the job's wildcards.
    """

    def files(wildcards) -> list[str]:
        asks = workflow.is_main_process and changed(config, **dict(wildcards))
        return [str(CHANGED)] if asks else []

    return files


def settings_of(result: str, changed: Callable[..., bool]) -> Callable[..., str]:
    """An input function: config.json of a run, whose time does not count where `result` is there and not out of date.

    So a setting that was changed and changed back, which wrote this file anew, makes nothing again. Elsewhere the time must
    count: below a job that is to run, Snakemake looks for no other reason.
    """

    def file(wildcards):
        folder = RESULTS / "runs" / freshness.run_path(**dict(wildcards))
        stands = (folder / result).exists() and not changed(config, **dict(wildcards))
        return ancient(str(folder / "config.json")) if stands else str(folder / "config.json")

    return file


def runs(experiments: list[str]) -> list[tuple[str, str, int]]:
    """Every (dataset, model, seed) that `experiments` ask for, once."""
    return list(asked_runs(config, experiments))


def in_runs(pattern: str, experiments: list[str], only: str | None = None) -> list[str]:
    """`pattern` in the folder of each run of `experiments`, on the dataset `only` if one is named."""
    return [
        f"{RESULTS}/runs/{dataset}/{model}/seed{seed}/{pattern}"
        for dataset, model, seed in runs(experiments)
        if only in (None, dataset)
    ]


def that_exist(*patterns: str) -> list[str]:
    """What there is of `patterns` in the results folder now, by names that no job makes: a report trains nothing."""
    folder = Path(os.path.relpath(RESULTS)) if RESULTS.is_absolute() else RESULTS.absolute()
    return sorted(str(path) for pattern in patterns for path in folder.glob(pattern))


def rerun_command() -> str:
    """What makes all that this configuration asks for."""
    presets = [here(path) for path in workflow.configfiles if not (HERE / "config.yaml").samefile(path)]
    return shlex.join(["snakemake", "--cores", "all", *(["--configfile", *presets] if presets else [])])


def structure_file(wildcards) -> str:
    """Atoms or map of a dataset's structure: the user's file, the embedded one, or the one to be downloaded."""
    source = structure_source(config, wildcards.dataset)
    if "path" in source:
        if "assembly" in source:
            return f"{RESULTS}/structures/{config['datasets'][wildcards.dataset]['structure']}.assembly.npz"
        return ancient(source["path"])  # freshness compares its content
    if "embedded" in source:
        return ancient(here(EMBEDDED / f"{source['embedded']}.npz"))
    return f"{RESULTS}/structures/{config['datasets'][wildcards.dataset]['structure']}.npz"


def assembly_option(structure: str) -> list[str]:
    """What asks for the biological assembly of a structure, if its line in the configuration does."""
    source = config["structures"][structure]
    return ["--assembly", str(source["assembly"])] if "assembly" in source else []


def paper_table(experiment: str) -> list[str]:
    """The paper's own numbers for an experiment, if it names any."""
    name = config["experiments"][experiment].get("compare")
    return [here(PAPER / f"{name}.csv")] if name else []


def stand_ins(experiment: str) -> list[str]:
    """A note for each structure whose embedded atoms are of another entry than the one that is asked for."""
    simulated = [name for name in config["experiments"][experiment]["datasets"] if is_simulated(config, name)]
    names = {config["datasets"][dataset]["structure"] for dataset in simulated}
    sources = {name: config["structures"][name] for name in sorted(names) if config["offline"]}
    return [
        f"Structure {name}: embedded {source['embedded'].upper()}, the offline stand-in for PDB {' and '.join(source['pdb'])}."
        for name, source in sources.items()
        if "embedded" in source and "pdb" in source and [source["embedded"].upper()] != source["pdb"]
    ]


def table_files(experiments: list[str]) -> list[str]:
    return [
        f"{RESULTS}/tables/{experiment}{mode}.{format}"
        for experiment in experiments
        for mode in ("", "_exact")
        for format in ("csv", "tex", "md", "html")
    ]


def figure_files(experiments: list[str]) -> list[str]:
    """Every figure of the experiments, as picture and as PDF, and each dataset's maps for ChimeraX."""
    pictures, commands = [], []
    for experiment in experiments:
        datasets = config["experiments"][experiment]["datasets"]
        datasets = [dataset for dataset in datasets if is_simulated(config, dataset)]  # the others have no true map
        names = [*(["examples"] if datasets else []), *OF_RUNS]
        names += [f"{figure}_{dataset}" for figure in OF_DATASETS for dataset in datasets]
        pictures += [f"{RESULTS}/figures/{experiment}/{name}" for name in names]
        commands += [f"{RESULTS}/figures/{experiment}/maps_{dataset}.cxc" for dataset in datasets]
    return [f"{picture}.{format}" for picture in pictures for format in ("png", "pdf")] + commands


def experiment_datasets(experiment: str) -> list[str]:
    """Folders of an experiment's simulated datasets."""
    datasets = config["experiments"][experiment]["datasets"]
    return [f"{RESULTS}/datasets/{dataset}" for dataset in datasets if is_simulated(config, dataset)]


def has_tables(experiment: str) -> bool:
    return all(map(os.path.exists, table_files([experiment])))


def table_command(experiment: str) -> str:
    """What sums up the results of an experiment that there are, quoted for a shell."""
    command = ["python", "-m", "equipose.study.tables", "--config", f"{RESULTS}/tables/config.json"]
    command += ["--experiment", experiment, "--results", str(RESULTS), "--paper", here(PAPER)]
    return shlex.join([*command, "--notes", *stand_ins(experiment)])


def partly_run(experiment: str) -> bool:
    """Whether some runs of an experiment have results and some, one of which may have failed, do not."""
    metrics = list(map(os.path.exists, in_runs("metrics.json", [experiment])))
    return any(metrics) and not all(metrics) and (RESULTS / "tables/config.json").exists()


def true_volume(wildcards) -> list[str]:
    """The volume of a simulated dataset; nobody knows the one of a user's."""
    return [f"{RESULTS}/datasets/{wildcards.dataset}/volume.mrc"] if is_simulated(config, wildcards.dataset) else []


def names_of(simulated: bool) -> str:
    """A pattern for the datasets that are simulated, or for those that are not."""
    return "|".join(re.escape(name) for name in config["datasets"] if is_simulated(config, name) == simulated) or "(?!)"


def reconstruction_files() -> list[str]:
    names = ("poses.star", "volume.mrc", "half1.mrc", "half2.mrc", "reconstruction.png", "report.html")
    return [f"{RESULTS}/maps/{name}/{file}" for name in config["reconstructions"] for file in names]


def of_halves(pattern: str):
    """An input function: `pattern` in the results folder, for each of the two halves of a reconstruction."""

    def files(wildcards) -> list[str]:
        spec = config["reconstructions"][wildcards.reconstruction]
        return [f"{RESULTS}/{pattern.format(half=half, **spec)}" for half in spec["halves"]]

    return files


def train_minutes(wildcards) -> int:
    """Limit of a training job: its budget in seconds, if that is how it is given, and the slack."""
    budget = run_budgets(config)[wildcards.dataset, wildcards.model, int(wildcards.seed)]
    return round(budget.get("seconds", 0) / 60) + config["resources"]["runtime_slack_minutes"]


def job(rule: str, key: str) -> int:
    return config["resources"][rule][key]


def gpus() -> int:
    """GPUs of this machine that CUDA_VISIBLE_DEVICES does not hide."""
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout.count("UUID: GPU-")
    visible = os.getenv("CUDA_VISIBLE_DEVICES")
    return listed if visible is None else min(listed, sum(map(bool, visible.split(","))))


# So many jobs a GPU at a time, where there are any; without, jobs share the cores. A cluster's profile sets `gpu`.
if gpus():
    workflow.global_resources.setdefault("gpu", gpus() * config["resources"]["jobs_per_gpu"])
