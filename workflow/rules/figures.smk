# Runs → the paper's figures, made from what train and evaluate wrote.


rule figure:
    input:
        runs=lambda wildcards: [
            file
            for name in ("metrics.json", "history.csv", "fsc.csv", "config.json")
            for file in in_runs(name, [wildcards.experiment])
        ],
        code=lambda wildcards: code(f"figures.{wildcards.figure}"),
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
        figure="|".join(RUN_FIGURES),
    conda:
        "../../envs/gpu.yaml"
    params:
        runs=lambda wildcards: in_runs("", [wildcards.experiment]),
        notes=lambda wildcards: stand_ins(wildcards.experiment),
    shell:
        "python -u -m equipose.figures.{wildcards.figure} --runs {params.runs} --output {output.png} 2>&1 | tee {log}"


rule overview:
    input:
        particles="<results>/datasets/{dataset}/particles.star",
        stack="<results>/datasets/{dataset}/particles.mrcs",
        truth="<results>/datasets/{dataset}/volume.mrc",
        runs=lambda wildcards: [
            file
            for name in ("metrics.json", "history.csv", "fsc.csv", "config.json", "volume_aligned.mrc")
            for file in in_runs(name, [wildcards.experiment], wildcards.dataset)
        ],
        code=code("figures.overview"),
    output:
        png=report(
            "<results>/figures/{experiment}/overview_{dataset}.png",
            caption="../report/overview.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "overview of {dataset}"},
        ),
        pdf="<results>/figures/{experiment}/overview_{dataset}.pdf",
    log:
        "<results>/logs/overview/{experiment}/{dataset}.log",
    benchmark:
        "<results>/benchmarks/overview/{experiment}/{dataset}.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        dataset=subpath(input.truth, parent=True),
        runs=lambda wildcards: in_runs("", [wildcards.experiment], wildcards.dataset),
        notes=lambda wildcards: stand_ins(wildcards.experiment),
    shell:
        "python -u -m equipose.figures.overview --dataset {params.dataset} --runs {params.runs}"
        " --output {output.png} 2>&1 | tee {log}"
