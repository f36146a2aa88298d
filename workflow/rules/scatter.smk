# A pass of refinement in several jobs, whose back-projections are summed (docs/cluster.md). Nothing asks for these files
# but a user: `snakemake RUN/refinement/20jobs/pass11.pt`, and the evaluation then goes on from the run's refinement.pt.

SHARES = "1|2|4|5|10|20"  # numbers of jobs that can share the twenty parts of a pass


rule refine_part:
    input:
        "<results>/runs/{dataset}/{model}/seed{seed}/model.pt",
        "<results>/runs/{dataset}/{model}/seed{seed}/history.csv",
        "<results>/datasets/{dataset}/particles.mrcs",
        lambda wildcards: targets.pass_files(RESULTS, wildcards, before=1),
        lambda wildcards: targets.pass_files(RESULTS, wildcards, before=1, jobs=[wildcards.job]),
        star="<results>/datasets/{dataset}/particles.star",
    output:
        temp("<results>/runs/{dataset}/{model}/seed{seed}/refinement/{jobs}jobs/pass{number}.job{job}.pt"),
    log:
        "<results>/logs/refine_part/{dataset}/{model}/seed{seed}/{jobs}jobs/pass{number}.job{job}.log",
    benchmark:
        "<results>/benchmarks/refine_part/{dataset}/{model}/seed{seed}/{jobs}jobs/pass{number}.job{job}.tsv"
    wildcard_constraints:
        jobs=SHARES,
        number=r"\d+",
        job=r"\d+",
    conda:
        "../../envs/gpu.yaml"
    threads: job("evaluate", "threads")
    resources:
        mem_mb=job("evaluate", "memory_mb"),
        runtime=config["resources"]["runtime_slack_minutes"],
    params:
        dataset=subpath(input.star, parent=True),
        run=subpath(input[0], parent=True),
        folder=subpath(output[0], parent=True),
    shell:
        "python -u -m equipose.training.scatter part --run {params.run:q} --dataset {params.dataset:q}"
        " --folder {params.folder:q} --refine-pass {wildcards.number} --job {wildcards.job} --jobs {wildcards.jobs}"
        " --threads {threads} 2>&1 | tee {log:q}"


rule gather_parts:
    input:
        "<results>/runs/{dataset}/{model}/seed{seed}/model.pt",
        lambda wildcards: targets.pass_files(RESULTS, wildcards, before=1),
        lambda wildcards: targets.pass_files(RESULTS, wildcards, jobs=range(int(wildcards.jobs))),
        star="<results>/datasets/{dataset}/particles.star",
    output:
        "<results>/runs/{dataset}/{model}/seed{seed}/refinement/{jobs}jobs/pass{number}.pt",
    log:
        "<results>/logs/gather_parts/{dataset}/{model}/seed{seed}/{jobs}jobs/pass{number}.log",
    benchmark:
        "<results>/benchmarks/gather_parts/{dataset}/{model}/seed{seed}/{jobs}jobs/pass{number}.tsv"
    wildcard_constraints:
        jobs=SHARES,
        number=r"\d+",
    conda:
        "../../envs/gpu.yaml"
    resources:
        mem_mb=job("evaluate", "memory_mb"),
        runtime=config["resources"]["runtime_slack_minutes"],
    params:
        run=subpath(input[0], parent=True),
        folder=subpath(output[0], parent=True),
    shell:
        "python -u -m equipose.training.scatter gather --run {params.run:q} --folder {params.folder:q}"
        " --refine-pass {wildcards.number} --jobs {wildcards.jobs} 2>&1 | tee {log:q}"
