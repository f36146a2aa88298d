# Runs → the paper's figures, made from what train and evaluate wrote.


rule examples:
    input:
        files=lambda wildcards: collect(
            "{dataset}/{name}",
            dataset=experiment_datasets(wildcards.experiment),
            name=["particles.star", "particles.mrcs", "volume.mrc"],
        ),
        config="<results>/tables/config.json",
    output:
        png=report(
            "<results>/figures/{experiment}/examples.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "examples"},
        ),
        pdf="<results>/figures/{experiment}/examples.pdf",
    log:
        "<results>/logs/examples/{experiment}.log",
    benchmark:
        "<results>/benchmarks/examples/{experiment}.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        datasets=lambda wildcards: experiment_datasets(wildcards.experiment),
        caption=caption("examples"),
        notes=lambda wildcards: stand_ins(wildcards.experiment),
    shell:
        "python -u -m equipose.figures.examples --datasets {params.datasets:q} --output {output.png:q} 2>&1 | tee {log:q}"


rule figure:
    input:
        runs=lambda wildcards: [
            file
            for name in ("metrics.json", "history.csv", "fsc.csv", "config.json")
            for file in in_runs(name, [wildcards.experiment])
        ],
        config="<results>/tables/config.json",
    output:
        png=report(
            "<results>/figures/{experiment}/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "{figure}"},
        ),
        pdf="<results>/figures/{experiment}/{figure}.pdf",
    log:
        "<results>/logs/figure/{experiment}/{figure}.log",
    benchmark:
        "<results>/benchmarks/figure/{experiment}/{figure}.tsv"
    wildcard_constraints:
        figure="|".join(OF_RUNS),
    conda:
        "../../envs/gpu.yaml"
    params:
        runs=lambda wildcards: in_runs("", [wildcards.experiment]),
        caption=lambda wildcards: caption(wildcards.figure),
        notes=lambda wildcards: stand_ins(wildcards.experiment),
    shell:
        "python -u -m equipose.figures.{wildcards.figure} --runs {params.runs:q} --output {output.png:q} 2>&1 | tee {log:q}"


rule dataset_figure:
    input:
        particles="<results>/datasets/{dataset}/particles.star",
        stack="<results>/datasets/{dataset}/particles.mrcs",
        truth="<results>/datasets/{dataset}/volume.mrc",
        runs=lambda wildcards: [
            file
            for name in ("metrics.json", "history.csv", "fsc.csv", "config.json", "volume_aligned.mrc", "trace.npz")
            for file in in_runs(name, [wildcards.experiment], wildcards.dataset)
        ],
        config="<results>/tables/config.json",
        models=lambda wildcards: in_runs("model.pt", [wildcards.experiment], wildcards.dataset),
    output:
        png=report(
            "<results>/figures/{experiment}/{figure}_{dataset}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "{figure}, {dataset}"},
        ),
        pdf="<results>/figures/{experiment}/{figure}_{dataset}.pdf",
    log:
        "<results>/logs/dataset_figure/{experiment}/{figure}_{dataset}.log",
    benchmark:
        "<results>/benchmarks/dataset_figure/{experiment}/{figure}_{dataset}.tsv"
    wildcard_constraints:
        figure="|".join(OF_DATASETS),
    conda:
        "../../envs/gpu.yaml"
    params:
        dataset=subpath(input.truth, parent=True),
        runs=lambda wildcards: in_runs("", [wildcards.experiment], wildcards.dataset),
        options=lambda wildcards: figure_options(wildcards.figure),
        caption=lambda wildcards: caption(wildcards.figure),
        notes=lambda wildcards: stand_ins(wildcards.experiment),
    shell:
        "python -u -m equipose.figures.{wildcards.figure} --dataset {params.dataset:q} --runs {params.runs:q}"
        " {params.options:q} --output {output.png:q} 2>&1 | tee {log:q}"


rule chimerax:
    input:
        truth="<results>/datasets/{dataset}/volume.mrc",
        runs=lambda wildcards: [
            file
            for name in ("metrics.json", "history.csv", "fsc.csv", "config.json", "volume_aligned.mrc")
            for file in in_runs(name, [wildcards.experiment], wildcards.dataset)
        ],
        config="<results>/tables/config.json",
    output:
        "<results>/figures/{experiment}/maps_{dataset}.cxc",
    log:
        "<results>/logs/chimerax/{experiment}/{dataset}.log",
    benchmark:
        "<results>/benchmarks/chimerax/{experiment}/{dataset}.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        dataset=subpath(input.truth, parent=True),
        runs=lambda wildcards: in_runs("", [wildcards.experiment], wildcards.dataset),
    shell:
        "python -u -m equipose.figures.chimerax --dataset {params.dataset:q} --runs {params.runs:q} --output {output:q}"
        " 2>&1 | tee {log:q}"
