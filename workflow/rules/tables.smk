# Metrics → the paper's tables, made from metrics.json and config.yaml alone.


localrules:
    tables_json,
    table,


rule tables_json:
    input:
        where(freshness.table_settings_changed),
    output:
        "<results>/tables/config.json",
    log:
        "<results>/logs/tables_json.log",
    benchmark:
        "<results>/benchmarks/tables_json.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        json=lambda wildcards: json.dumps(freshness.table_settings(config), indent=2),
    shell:
        "printf %s {params.json:q} > {output:q} 2> {log:q}"


rule table:
    input:
        metrics=lambda wildcards: in_runs("metrics.json", [wildcards.experiment]),
        config="<results>/tables/config.json",
        paper=lambda wildcards: ancient(paper_table(wildcards.experiment)),
        changed=where(freshness.table_changed),
    output:
        csv=report(
            "<results>/tables/{experiment}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "definition": "paper"},
        ),
        exact=report(
            "<results>/tables/{experiment}_exact.csv",
            caption="../report/table_exact.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "definition": "exact"},
        ),
        other=expand(
            "<results>/tables/{{experiment}}{mode}.{format}", mode=["", "_exact"], format=["tex", "md", "html"]
        ),
    log:
        "<results>/logs/table/{experiment}.log",
    benchmark:
        "<results>/benchmarks/table/{experiment}.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        folder=subpath(output.csv, parent=True),
        results=RESULTS,
        paper=here(PAPER),
        notes=lambda wildcards: stand_ins(wildcards.experiment),
    shell:
        "python -u -m equipose.study.tables --config {input.config:q} --experiment {wildcards.experiment}"
        " --results {params.results:q} --paper {params.paper:q} --output-dir {params.folder:q}"
        " --notes {params.notes:q} 2>&1 | tee {log:q}"
