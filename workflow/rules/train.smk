# Particles → run. checkpoint.pt stands undeclared beside the outputs until the run is evaluated: Snakemake deletes the
# declared outputs of a job that failed or was cut off, and the same command then continues from the checkpoint.
# A signal to stop (Ctrl-C, a cluster's time limit or preemption) reaches every process of a job: shell and tee wait for
# training to write its checkpoint and to say so.


localrules:
    run_json,


rule run_json:
    input:
        where(freshness.run_settings_changed),
    output:
        "<results>/runs/{dataset}/{model}/seed{seed}/config.json",
    log:
        "<results>/logs/run_json/{dataset}/{model}/seed{seed}.log",
    benchmark:
        "<results>/benchmarks/run_json/{dataset}/{model}/seed{seed}.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        json=lambda wildcards: run_config(config, wildcards.dataset, wildcards.model, int(wildcards.seed)).to_json(),
    shell:
        "printf %s {params.json:q} > {output:q} 2> {log:q}"


rule train:
    input:
        config=settings_of("model.pt", freshness.model_changed),
        star="<results>/datasets/{dataset}/particles.star",
        stack="<results>/datasets/{dataset}/particles.mrcs",
        changed=where(freshness.model_changed),
    output:
        "<results>/runs/{dataset}/{model}/seed{seed}/model.pt",
        "<results>/runs/{dataset}/{model}/seed{seed}/history.csv",
        "<results>/runs/{dataset}/{model}/seed{seed}/trace.npz",
    log:
        "<results>/logs/train/{dataset}/{model}/seed{seed}.log",
    benchmark:
        "<results>/benchmarks/train/{dataset}/{model}/seed{seed}.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: job("train", "threads")
    resources:
        gpu=job("train", "gpu"),
        jobs_per_gpu=config["resources"]["jobs_per_gpu"],
        mem_mb=job("train", "memory_mb"),
        runtime=lambda wildcards: resources.train_minutes(
            config, wildcards.dataset, wildcards.model, int(wildcards.seed)
        ),
    params:
        dataset=subpath(input.star, parent=True),
        run=subpath(input.config, parent=True),
        killed=KILLED,
    shell:
        "trap : INT TERM; python -u -m equipose.training.train --config {input.config:q} --dataset {params.dataset:q}"
        " --output {params.run:q} --threads {threads} --jobs-per-gpu {resources.jobs_per_gpu} 2>&1"
        " | (trap '' INT TERM; exec tee {log:q})"
        " || {{ code=$?; [ $code != 137 ] || echo {params.killed:q} | tee -a {log:q}; exit $code; }}"
