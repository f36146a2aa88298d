# Simulated particles → a reconstruction of each dataset by `equipose reconstruct`, its score, and a table of all.


localrules:
    panel,
    panel_table,
    publish_panel,


rule panel:
    input:
        panel_tables(),


# The reconstruction is no output: Snakemake would delete what an interrupted one has done.
rule reconstruct_simulated:
    input:
        "<results>/datasets/{dataset}/particles.star",
        "<results>/datasets/{dataset}/particles.mrcs",
        volume="<results>/datasets/{dataset}/volume.mrc",
    output:
        "<results>/reconstructed/{dataset}/score.json",
    log:
        "<results>/logs/reconstruct_simulated/{dataset}.log",
    benchmark:
        "<results>/benchmarks/reconstruct_simulated/{dataset}.tsv"
    wildcard_constraints:
        dataset=names_of(simulated=True),
    conda:
        "../../envs/gpu.yaml"
    resources:
        mem_mb=job("train", "memory_mb"),
        runtime=config["resources"]["runtime_slack_minutes"],
    params:
        folder=subpath(input.volume, parent=True),
    shell:
        "python -u -m equipose.study.panel run --dataset {params.folder:q} --output {output:q} --cores {threads}"
        " 2>&1 | tee {log:q}"


rule panel_table:
    input:
        expand("<results>/reconstructed/{dataset}/score.json", dataset=config["panel"]),
    output:
        csv="<results>/tables/panel.csv",
        md="<results>/tables/panel.md",
    log:
        "<results>/logs/panel_table.log",
    benchmark:
        "<results>/benchmarks/panel_table.tsv"
    conda:
        "../../envs/gpu.yaml"
    shell:
        "python -u -m equipose.study.panel table --scores {input:q} --output {output.csv:q} 2>&1 | tee {log:q}"


# The files are the outputs, not their folder: Snakemake would delete what other experiments have published there.
rule publish_panel:
    input:
        csv="<results>/tables/panel.csv",
        md="<results>/tables/panel.md",
    output:
        csv=f"results/reference/{RESULTS.name}/tables/panel.csv",
        md=f"results/reference/{RESULTS.name}/tables/panel.md",
    log:
        "<results>/logs/publish_panel.log",
    conda:
        "../../envs/gpu.yaml"
    shell:
        "cp {input.csv:q} {output.csv:q} 2> {log:q} && cp {input.md:q} {output.md:q} 2>> {log:q}"
