# Structure → volume → particles, or a user's particles → particles as training wants them.


localrules:
    assemble_structure,
    dataset_json,
    fetch_structure,


rule dataset_json:
    input:
        where(freshness.dataset_settings_changed),
    output:
        "<results>/datasets/{dataset}/config.json",
    log:
        "<results>/logs/dataset_json/{dataset}.log",
    benchmark:
        "<results>/benchmarks/dataset_json/{dataset}.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        json=lambda wildcards: freshness.asked_images(config, wildcards.dataset).to_json(),
    shell:
        "printf %s {params.json:q} > {output:q} 2> {log:q}"


# Beside the atoms of entries stands a .json file that says what was downloaded. It is no output: Snakemake would delete
# it before another download, which is compared with it.
rule fetch_structure:
    input:
        where(freshness.entries_changed),
    output:
        "<results>/structures/{structure}.npz",
    log:
        "<results>/logs/fetch_structure/{structure}.log",
    benchmark:
        "<results>/benchmarks/fetch_structure/{structure}.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        pdb=lambda wildcards: (
            config["structures"][wildcards.structure].get("pdb", []) + assembly_option(wildcards.structure)
        ),
        origin=lambda wildcards: origin(source_of(config, wildcards.structure)),
    shell:
        "python -u -m equipose.data.structures fetch --pdb {params.pdb:q} --structure {params.origin:q} --output {output:q}"
        " 2>&1 | tee {log:q}"


rule assemble_structure:
    input:
        where(freshness.entries_changed),
        structure=lambda wildcards: ancient(config["structures"][wildcards.structure]["path"]),
    output:
        "<results>/structures/{structure}.assembly.npz",
    log:
        "<results>/logs/assemble_structure/{structure}.log",
    benchmark:
        "<results>/benchmarks/assemble_structure/{structure}.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        assembly=lambda wildcards: assembly_option(wildcards.structure),
        origin=lambda wildcards: origin(source_of(config, wildcards.structure)),
    shell:
        "python -u -m equipose.data.structures assemble --source {input.structure:q} {params.assembly:q}"
        " --structure {params.origin:q} --output {output:q} 2>&1 | tee {log:q}"


rule volume:
    input:
        config="<results>/datasets/{dataset}/config.json",
        structure=lambda wildcards: structure_file(wildcards.dataset),
        changed=where(freshness.dataset_changed),
    output:
        "<results>/datasets/{dataset}/volume.mrc",
    log:
        "<results>/logs/volume/{dataset}.log",
    benchmark:
        "<results>/benchmarks/volume/{dataset}.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: job("volume", "threads")
    resources:
        mem_mb=job("volume", "memory_mb"),
        runtime=config["resources"]["runtime_slack_minutes"],
    params:
        dataset=lambda wildcards: simulation_config(config, wildcards.dataset),
        origin=lambda wildcards: origin(structure_source(config, wildcards.dataset)),
    shell:
        "python -u -m equipose.data.structures density --source {input.structure:q} --structure {params.origin:q}"
        " --box {params.dataset.box} --voxel-size {params.dataset.voxel_size}"
        " --resolution {params.dataset.resolution} --output {output:q} 2>&1 | tee {log:q}"


use rule volume as uncropped_volume with:
    output:
        temp("<results>/datasets/{dataset}/uncropped.mrc"),
    log:
        "<results>/logs/uncropped_volume/{dataset}.log",
    benchmark:
        "<results>/benchmarks/uncropped_volume/{dataset}.tsv"
    params:
        dataset=lambda wildcards: uncropped(simulation_config(config, wildcards.dataset)),
        origin=lambda wildcards: origin(structure_source(config, wildcards.dataset)),


rule simulate:
    input:
        config="<results>/datasets/{dataset}/config.json",
        volume="<results>/datasets/{dataset}/volume.mrc",
        uncropped=lambda wildcards: targets.uncropped_volume(config, wildcards.dataset),
    output:
        "<results>/datasets/{dataset}/particles.star",
        "<results>/datasets/{dataset}/particles.mrcs",
        "<results>/datasets/{dataset}/simulation.json",
    log:
        "<results>/logs/simulate/{dataset}.log",
    benchmark:
        "<results>/benchmarks/simulate/{dataset}.tsv"
    wildcard_constraints:
        dataset=names_of(simulated=True),
    conda:
        "../../envs/gpu.yaml"
    threads: job("simulate", "threads")
    resources:
        mem_mb=job("simulate", "memory_mb"),
        runtime=config["resources"]["runtime_slack_minutes"],
    params:
        folder=subpath(output[0], parent=True),
        origin=lambda wildcards: origin(structure_source(config, wildcards.dataset)),
    shell:
        "python -u -m equipose.data.simulate --config {input.config:q} --volume {input.volume:q}"
        " --uncropped {input.uncropped:q} --structure {params.origin:q} --output {params.folder:q} --threads {threads}"
        " 2>&1 | tee {log:q}"


rule prepare:
    input:
        config="<results>/datasets/{dataset}/config.json",
        star=lambda wildcards: [
            ancient(config["datasets"][wildcards.dataset]["star"]),  # freshness compares it and its stacks
            *map(ancient, preparation_config(config, wildcards.dataset).passthrough),
        ],
        changed=where(freshness.dataset_changed),
    output:
        "<results>/datasets/{dataset}/particles.star",
        "<results>/datasets/{dataset}/particles.mrcs",
        "<results>/datasets/{dataset}/preparation.json",
    log:
        "<results>/logs/prepare/{dataset}.log",
    benchmark:
        "<results>/benchmarks/prepare/{dataset}.tsv"
    wildcard_constraints:
        dataset=names_of(simulated=False),
    conda:
        "../../envs/gpu.yaml"
    resources:
        mem_mb=job("simulate", "memory_mb"),
        runtime=config["resources"]["runtime_slack_minutes"],
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "python -u -m equipose.data.prepare --config {input.config:q} --output {params.folder:q} 2>&1 | tee {log:q}"
