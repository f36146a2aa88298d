# Runs on the two halves of a user's particles → one set of poses, a map and half-maps, and a picture.


rule join_halves:
    input:
        models=lambda wildcards: half_runs(wildcards, "model.pt"),
        poses=lambda wildcards: half_runs(wildcards, "poses.star"),
        metrics=lambda wildcards: half_runs(wildcards, "metrics.json"),
        particles=lambda wildcards: half_datasets(wildcards, "particles.star"),
        stacks=lambda wildcards: half_datasets(wildcards, "particles.mrcs"),
        code=code("reconstruct"),
    output:
        "<results>/maps/{reconstruction}/poses.star",
        "<results>/maps/{reconstruction}/volume.mrc",
        "<results>/maps/{reconstruction}/half1.mrc",
        "<results>/maps/{reconstruction}/half2.mrc",
        "<results>/maps/{reconstruction}/mask.mrc",
        "<results>/maps/{reconstruction}/fsc.csv",
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
        runs=lambda wildcards: half_runs(wildcards, ""),
        datasets=lambda wildcards: half_datasets(wildcards, ""),
        folder=subpath(output[0], parent=True),
    shell:
        "python -u -m equipose.reconstruct --runs {params.runs} --datasets {params.datasets} --output {params.folder}"
        " 2>&1 | tee {log}"


rule reconstruction_figure:
    input:
        "<results>/maps/{reconstruction}/poses.star",
        "<results>/maps/{reconstruction}/fsc.csv",
        "<results>/maps/{reconstruction}/reconstruction.json",
        volume="<results>/maps/{reconstruction}/volume.mrc",
        code=code("figures.reconstruction"),
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
        "python -u -m equipose.figures.reconstruction --folder {params.folder} --output {output.png} 2>&1 | tee {log}"
