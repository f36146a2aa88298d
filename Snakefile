# From a structure to the paper's tables: structure → volume → particles → run → metrics → tables and figures.
# config.yaml says what is made; a preset (workflow/presets) is laid over it with --configfile.
import yaml
from snakemake.utils import min_version

from equipose.config.folder import WORKFLOW
from equipose.config.settings import merge

min_version("9.0")


configfile: WORKFLOW / "config.yaml"


# Where this file is a `module` with a configuration of its own, Snakemake reads neither config.yaml nor its pathvars.
config.update(merge(yaml.safe_load((WORKFLOW / "config.yaml").read_text()), config))


pathvars:
    results=config["pathvars"]["results"],


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/reconstruct.smk"
include: "workflow/rules/scatter.smk"
include: "workflow/rules/panel.smk"


localrules:
    all,
    simulate_all,
    train_all,
    tables,
    figures,
    reconstruct,
    sort,


onstart:
    snakemake_internals.look_without_delay(workflow)
    remember_our_locks()
    say(plan(config, snakemake_internals.files_to_make(workflow)))


onsuccess:
    note_session("finished")
    for experiment in filter(has_tables, config["run"]):
        shell(f"{table_command(experiment)} --summary >&2")


onerror:
    note_session("stopped")
    for experiment in filter(partly_run, config["run"]):
        shell(f"{table_command(experiment)} --output-dir {shlex.quote(f'{RESULTS}/tables')} >&2")
        say(f"{RESULTS}/tables/{experiment}.md sums up the runs that ended well, and says which failed, and how.")


rule all:
    default_target: True
    input:
        table_files(config["run"]),
        figure_files(config["run"]),
        panel_tables(),


for experiment in config["run"]:

    rule:
        name:
            experiment
        input:
            table_files([experiment]),
            figure_files([experiment]),
        localrule: True


rule simulate_all:
    input:
        collect(
            "<results>/datasets/{dataset}/particles.star",
            dataset=sorted({dataset for dataset, _, _ in asked_runs(config, config["run"])}),
        ),


rule train_all:
    input:
        in_runs("model.pt", config["run"]),


rule tables:
    input:
        table_files(config["run"]),


rule figures:
    input:
        figure_files(config["run"]),


rule sort:
    input:
        [f"{RESULTS}/classes/{name}/classes.star" for name in config["reconstructions"]],


rule reconstruct:
    input:
        reconstruction_files(),
