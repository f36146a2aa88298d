"""The files that the workflow's rules make and read, and their options.

These are functions of the configuration as Snakemake reads it, from config.yaml and a preset.
workflow/rules/common.smk gives them this configuration.
"""

import ast
import importlib.util
import os
import re
import shlex
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from snakemake.io import ancient

from equipose.config.settings import asked_runs, is_simulated, simulation_config, structure_source
from equipose.workflow.freshness import run_folder

OF_A_RECONSTRUCTION = ("poses.star", "volume.mrc", "half1.mrc", "half2.mrc", "reconstruction.png", "report.html")


def results_folder(config: dict[str, Any]) -> Path:
    return Path(config["pathvars"]["results"])


def seen_from_here(path: Path) -> str:
    """`path` relative to the working directory, so that the repository may move without a rerun."""
    return os.path.relpath(path)


def rule_names(files: Iterable[Path]) -> list[str]:
    """The names of the rules in `files`. No experiment may have such a name, since each experiment is a target."""
    return re.findall(
        r"^(?:use rule \w+ as|rule)\b *(\w+)", "\n".join(path.read_text() for path in files), re.MULTILINE
    )


def registered_names(module: str, registry: str) -> set[str]:
    """The names in a module's `registry`, such as ENCODERS, read from its source: to import it would load PyTorch.

    They are the keys of the dictionary, and those of lines such as `ENCODERS["tiny"] = Tiny`.
    """
    source, names = importlib.util.find_spec(module), set()
    assert source is not None and source.origin is not None
    for node in ast.parse(Path(source.origin).read_text()).body:
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            match target, getattr(node, "value", None):
                case ast.Name(id=name), ast.Dict(keys=keys) if name == registry:
                    names |= {str(key.value) for key in keys if isinstance(key, ast.Constant)}
                case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=key)), _ if name == registry:
                    names.add(str(key))
    return names


def names_of(config: dict[str, Any], simulated: bool) -> str:
    """A regular expression for the names of all simulated datasets, or of all others."""
    names = [name for name in config["datasets"] if is_simulated(config, name) == simulated]
    return "|".join(map(re.escape, names)) or "(?!)"


def in_runs(config: dict[str, Any], name: str, experiments: Collection[str], only: str | None = None) -> list[str]:
    """The file `name` of each run of `experiments`; with `only`, of the runs on this dataset."""
    runs = [run for run in asked_runs(config, experiments) if only in (None, run[0])]
    return [f"{run_folder(results_folder(config), *run)}/{name}" for run in runs]


def settings_file(config: dict[str, Any], result: str, outdated: bool, dataset: str, model: str, seed: str) -> str:
    """A run's config.json. Its time does not count if the file `result` of the run exists and is not `outdated`.

    So a setting that was changed and changed back makes nothing again, although this file was written anew. In all
    other cases the time must count, since Snakemake asks only for times below a job that will run.
    """
    folder = run_folder(results_folder(config), dataset, model, seed)
    file = str(folder / "config.json")
    return ancient(file) if (folder / result).exists() and not outdated else file


def structure_file(config: dict[str, Any], dataset: str, embedded: Path) -> str:
    """Atoms or map of a dataset's structure: the user's file, the embedded one, or the one to be downloaded.

    `embedded` is the folder of the embedded structures.
    """
    source, made = structure_source(config, dataset), config["datasets"][dataset]["structure"]
    if "path" in source and "assembly" in source:
        return f"{results_folder(config)}/structures/{made}.assembly.npz"
    if "path" in source:
        return ancient(source["path"])  # freshness compares its content
    if "embedded" in source:
        return ancient(seen_from_here(embedded / f"{source['embedded']}.npz"))
    return f"{results_folder(config)}/structures/{made}.npz"


def assembly_option(config: dict[str, Any], structure: str) -> list[str]:
    """The option for the biological assembly of a structure, if the configuration asks for one."""
    source = config["structures"][structure]
    return ["--assembly", str(source["assembly"])] if "assembly" in source else []


def true_volume(config: dict[str, Any], dataset: str) -> list[str]:
    """The true volume of a simulated dataset. A user's dataset has none."""
    return [f"{results_folder(config)}/datasets/{dataset}/volume.mrc"] if is_simulated(config, dataset) else []


def uncropped_volume(config: dict[str, Any], dataset: str) -> list[str]:
    """The true volume in a box of `snr_box`, for a simulated dataset whose noise is cropped."""
    cropped = simulation_config(config, dataset).snr_box
    return [f"{results_folder(config)}/datasets/{dataset}/uncropped.mrc"] if cropped else []


def experiment_datasets(config: dict[str, Any], experiment: str) -> list[str]:
    """Folders of an experiment's simulated datasets."""
    return [f"{results_folder(config)}/datasets/{dataset}" for dataset in _simulated(config, experiment)]


def table_files(config: dict[str, Any], experiments: Iterable[str]) -> list[str]:
    return [
        f"{results_folder(config)}/tables/{experiment}{mode}.{format}"
        for experiment in experiments
        for mode in ("", "_exact")
        for format in ("csv", "tex", "md", "html")
    ]


def table_command(config: dict[str, Any], experiment: str, paper: Path) -> str:
    """The command for an experiment's tables, quoted for a shell. `paper` is the folder of the paper's own tables."""
    results = results_folder(config)
    command = ["python", "-m", "equipose.study.tables", "--config", f"{results}/tables/config.json"]
    command += ["--experiment", experiment, "--results", str(results), "--paper", seen_from_here(paper)]
    return shlex.join([*command, "--notes", *stand_ins(config, experiment)])


def paper_table(config: dict[str, Any], experiment: str, paper: Path) -> list[str]:
    """The paper's table for an experiment, in the folder `paper`, if the experiment names one."""
    name = config["experiments"][experiment].get("compare")
    return [seen_from_here(paper / f"{name}.csv")] if name else []


def has_tables(config: dict[str, Any], experiment: str) -> bool:
    return all(map(os.path.exists, table_files(config, [experiment])))


def partly_run(config: dict[str, Any], experiment: str) -> bool:
    """Whether some runs of an experiment have scores and some do not."""
    metrics = list(map(os.path.exists, in_runs(config, "metrics.json", [experiment])))
    return any(metrics) and not all(metrics) and (results_folder(config) / "tables/config.json").exists()


def stand_ins(config: dict[str, Any], experiment: str) -> list[str]:
    """A note for each structure whose embedded atoms stand in for another PDB entry."""
    names = {config["datasets"][dataset]["structure"] for dataset in _simulated(config, experiment)}
    sources = {name: config["structures"][name] for name in sorted(names) if config["offline"]}
    return [
        f"Structure {name}: embedded {source['embedded'].upper()}, the offline stand-in for PDB"
        f" {' and '.join(source['pdb'])}."
        for name, source in sources.items()
        if "embedded" in source and "pdb" in source and [source["embedded"].upper()] != source["pdb"]
    ]


def figure_files(
    config: dict[str, Any], experiments: Iterable[str], of_runs: Collection[str], of_datasets: Collection[str]
) -> list[str]:
    """Every figure of the experiments, as PNG and PDF, and the ChimeraX commands for each dataset.

    `of_runs` and `of_datasets` are the names of the figures of an experiment and of one of its datasets.
    """
    pictures, commands = [], []
    for experiment in experiments:
        datasets = _simulated(config, experiment)  # the others have no true map
        names = [*(["examples"] if datasets else []), *of_runs]
        names += [f"{figure}_{dataset}" for figure in of_datasets for dataset in datasets]
        folder = f"{results_folder(config)}/figures/{experiment}"
        pictures += [f"{folder}/{name}" for name in names]
        commands += [f"{folder}/maps_{dataset}.cxc" for dataset in datasets]
    return [f"{picture}.{format}" for picture in pictures for format in ("png", "pdf")] + commands


def figure_options(config: dict[str, Any], figure: str) -> list[str]:
    """The options of a figure's command that the configuration sets."""
    return ["--within", *map(str, config["figures"]["subset_within"])] if figure == "subsets" else []


def panel_tables(config: dict[str, Any]) -> list[str]:
    """The tables of the reconstructions of simulated particles, if the configuration asks for any."""
    return [f"{results_folder(config)}/tables/panel.{format}" for format in ("csv", "md")] if config["panel"] else []


def reconstruction_files(config: dict[str, Any]) -> list[str]:
    folders = [f"{results_folder(config)}/maps/{name}" for name in config["reconstructions"]]
    return [f"{folder}/{file}" for folder in folders for file in OF_A_RECONSTRUCTION]


def of_halves(config: dict[str, Any], reconstruction: str, pattern: str) -> list[str]:
    """`pattern` in the results folder, for each of the two halves of a reconstruction."""
    spec = config["reconstructions"][reconstruction]
    return [f"{results_folder(config)}/{pattern.format(half=half, **spec)}" for half in spec["halves"]]


def pass_files(
    results: Path, wildcards: Any, *, before: int = 0, jobs: Iterable[int | str] | None = None
) -> list[Path]:
    """Files of a pass of refinement that several jobs share: of these `jobs`, or the one that adds their sums.

    The pass is so many `before` that of the wildcards; there is none before the first.
    """
    number = int(wildcards.number) - before
    run = run_folder(results, wildcards.dataset, wildcards.model, wildcards.seed)
    names = [f"pass{number}.pt"] if jobs is None else [f"pass{number}.job{job}.pt" for job in jobs]
    return [run / "refinement" / f"{wildcards.jobs}jobs" / name for name in names if number >= 0]


def rerun_command(presets: Iterable[Path], workflow: Path) -> str:
    """The command that makes everything that the configuration with these `presets` asks for.

    `workflow` is the folder of the Snakefile. Elsewhere Snakemake does not find it by itself, and `equipose run` does.
    """
    files = list(presets)
    if workflow.samefile(Path.cwd()):
        return shlex.join(["snakemake", "--cores", "all", *_option("--configfile", map(seen_from_here, files))])
    own = [file for file in files if file.parent != workflow / "workflow/presets"]
    named = [word for file in files if file not in own for word in ("--preset", file.stem)]
    return shlex.join(["equipose", "run", "--cores", "all", *named, *_option("--configfile", map(seen_from_here, own))])


def _option(name: str, values: Iterable[str]) -> list[str]:
    """A command's option with its values, or nothing where there are none."""
    given = list(values)
    return [name, *given] if given else []


def _simulated(config: dict[str, Any], experiment: str) -> list[str]:
    """The simulated datasets of an experiment."""
    return [name for name in config["experiments"][experiment]["datasets"] if is_simulated(config, name)]
