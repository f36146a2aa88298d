# Runs on the two halves of a user's particles → one set of poses, a map and half-maps, a picture and a page.


rule sort_classes:
    input:
        configs=of_halves("runs/{half}/{model}/seed{seed}/config.json"),
        particles=of_halves("datasets/{half}/particles.star"),
        stacks=of_halves("datasets/{half}/particles.mrcs"),
        changed=where(freshness.sorting_changed),
    output:
        "<results>/classes/{reconstruction}/classes.star",
        "<results>/classes/{reconstruction}/classes.json",
    log:
        "<results>/logs/sort_classes/{reconstruction}.log",
    benchmark:
        "<results>/benchmarks/sort_classes/{reconstruction}.tsv"
    conda:
        "../../envs/gpu.yaml"
    resources:
        mem_mb=job("evaluate", "memory_mb"),
        runtime=config["resources"]["runtime_slack_minutes"],
    params:
        datasets=of_halves("datasets/{half}"),
        classes=lambda wildcards: config["reconstructions"][wildcards.reconstruction].get("classes", 1),
        folder=subpath(output[0], parent=True),
    shell:
        "python -u -m equipose.reconstruction.classes --configs {input.configs:q} --datasets {params.datasets:q}"
        " --classes {params.classes} --output {params.folder:q} 2>&1 | tee {log:q}"


# It writes poses.cs, too, which is no output here: whether particles can have one is known only once they are read.
rule join_halves:
    input:
        models=of_halves("runs/{half}/{model}/seed{seed}/model.pt"),
        poses=of_halves("runs/{half}/{model}/seed{seed}/poses.star"),
        particles=of_halves("datasets/{half}/particles.star"),
        stacks=of_halves("datasets/{half}/particles.mrcs"),
        changed=where(freshness.reconstruction_changed),
    output:
        "<results>/maps/{reconstruction}/poses.star",
        "<results>/maps/{reconstruction}/volume.mrc",
        "<results>/maps/{reconstruction}/half1.mrc",
        "<results>/maps/{reconstruction}/half2.mrc",
        "<results>/maps/{reconstruction}/mask.mrc",
        "<results>/maps/{reconstruction}/local_resolution.mrc",
        "<results>/maps/{reconstruction}/fsc.csv",
        "<results>/maps/{reconstruction}/agreement.csv",
        "<results>/maps/{reconstruction}/detail_scores.csv",
        "<results>/maps/{reconstruction}/examples.npz",
        "<results>/maps/{reconstruction}/reconstruction.json",
    log:
        "<results>/logs/join_halves/{reconstruction}.log",
    benchmark:
        "<results>/benchmarks/join_halves/{reconstruction}.tsv"
    conda:
        "../../envs/gpu.yaml"
    resources:
        mem_mb=job("evaluate", "memory_mb"),
        runtime=config["resources"]["runtime_slack_minutes"],
    params:
        runs=of_halves("runs/{half}/{model}/seed{seed}"),
        datasets=of_halves("datasets/{half}"),
        folder=subpath(output[0], parent=True),
    shell:
        "python -u -m equipose.reconstruction.join --runs {params.runs:q} --datasets {params.datasets:q} --output {params.folder:q}"
        " 2>&1 | tee {log:q}"


rule reconstruction_figure:
    input:
        "<results>/maps/{reconstruction}/poses.star",
        "<results>/maps/{reconstruction}/fsc.csv",
        "<results>/maps/{reconstruction}/reconstruction.json",
        volume="<results>/maps/{reconstruction}/volume.mrc",
    output:
        png="<results>/maps/{reconstruction}/reconstruction.png",
        pdf="<results>/maps/{reconstruction}/reconstruction.pdf",
    log:
        "<results>/logs/reconstruction_figure/{reconstruction}.log",
    benchmark:
        "<results>/benchmarks/reconstruction_figure/{reconstruction}.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        folder=subpath(input.volume, parent=True),
    shell:
        "python -u -m equipose.figures.reconstruction --folder {params.folder:q} --output {output.png:q} 2>&1 | tee {log:q}"


rule reconstruction_report:
    input:
        rules.join_halves.output,
        volume="<results>/maps/{reconstruction}/volume.mrc",
        template=here(WORKFLOW / "workflow/report/reconstruction.html.jinja"),
        base=here(WORKFLOW / "workflow/report/base.html.jinja"),
    output:
        "<results>/maps/{reconstruction}/report.html",
    log:
        "<results>/logs/reconstruction_report/{reconstruction}.log",
    benchmark:
        "<results>/benchmarks/reconstruction_report/{reconstruction}.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        folder=subpath(input.volume, parent=True),
        results=RESULTS,
    shell:
        "python -u -m equipose.pages.reconstruction_report --folder {params.folder:q} --results {params.results:q}"
        " --template {input.template:q} --title {wildcards.reconstruction:q} --output {output:q} 2>&1 | tee {log:q}"
