# Run → poses, map and metrics.


rule evaluate:
    input:
        "<results>/runs/{dataset}/{model}/seed{seed}/model.pt",
        "<results>/runs/{dataset}/{model}/seed{seed}/history.csv",
        "<results>/datasets/{dataset}/particles.mrcs",
        lambda wildcards: true_volume(wildcards.dataset),
        config=settings_of("metrics.json", freshness.scores_changed),
        star="<results>/datasets/{dataset}/particles.star",
        changed=where(freshness.scores_changed),
    output:
        "<results>/runs/{dataset}/{model}/seed{seed}/poses.star",
        "<results>/runs/{dataset}/{model}/seed{seed}/volume.mrc",
        "<results>/runs/{dataset}/{model}/seed{seed}/volume_aligned.mrc",
        "<results>/runs/{dataset}/{model}/seed{seed}/fsc.csv",
        "<results>/runs/{dataset}/{model}/seed{seed}/metrics.json",
    log:
        "<results>/logs/evaluate/{dataset}/{model}/seed{seed}.log",
    benchmark:
        "<results>/benchmarks/evaluate/{dataset}/{model}/seed{seed}.tsv"
    priority: 1  # results of a finished run come before the next run
    conda:
        "../../envs/gpu.yaml"
    threads: job("evaluate", "threads")
    resources:
        gpu=job("evaluate", "gpu"),
        jobs_per_gpu=config["resources"]["jobs_per_gpu"],
        mem_mb=job("evaluate", "memory_mb"),
        runtime=config["resources"]["runtime_slack_minutes"],
    params:
        dataset=subpath(input.star, parent=True),
        run=subpath(input.config, parent=True),
        killed=KILLED,
        label=lambda wildcards: model_label(config, wildcards.model),
    shell:
        "python -u -m equipose.training.evaluate --run {params.run:q} --dataset {params.dataset:q} --label {params.label:q}"
        " --threads {threads} --jobs-per-gpu {resources.jobs_per_gpu} 2>&1 | tee {log:q}"
        " || {{ code=$?; [ $code != 137 ] || echo {params.killed:q} | tee -a {log:q}; exit $code; }}"
