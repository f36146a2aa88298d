# Whatever results there are → what came of each run, claims and the report: their inputs are the files that exist, so
# that partial results have a report too, in which what is missing is named. They are taken as they are, also where code
# has changed since.


LOGS = that_exist(RESULTS, "logs/train/*/*/*.log", "logs/evaluate/*/*/*.log")
PUBLISHED = Path(f"results/reference/{RESULTS.name}/runs.csv")


localrules:
    outcomes,
    claims,
    report,
    publish,
    compare_reference,


rule outcomes:
    input:
        runs=that_exist(RESULTS, "runs/*/*/seed*/metrics.json"),
        config="<results>/tables/config.json",
        changed=where(freshness.outcomes_changed),
    output:
        "<results>/runs.csv",
    log:
        "<results>/logs/outcomes.log",
    benchmark:
        "<results>/benchmarks/outcomes.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        results=RESULTS,
        experiments=config["run"],
    shell:
        "python -u -m equipose.study.run_table --results {params.results:q} --config {input.config:q}"
        " --experiments {params.experiments:q} --output {output:q} 2>&1 | tee {log:q}"


rule claims:
    input:
        runs="<results>/runs.csv",
        ends=LOGS,  # they tell which runs failed
        claims=here(CLAIMS),
        config="<results>/tables/config.json",
    output:
        csv="<results>/claims.csv",
        md="<results>/claims.md",
    log:
        "<results>/logs/claims.log",
    benchmark:
        "<results>/benchmarks/claims.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        results=RESULTS,
        experiments=config["run"],
    shell:
        "python -u -m equipose.study.claims --claims {input.claims:q} --runs {input.runs:q} --results {params.results:q}"
        " --config {input.config:q} --experiments {params.experiments:q} --output {output.csv:q} 2>&1 | tee {log:q}"


rule report:
    input:
        found=that_exist(RESULTS, "runs/*/*/seed*/metrics.json", "figures/*/*.png"),
        ends=LOGS,
        claims="<results>/claims.csv",
        config="<results>/tables/config.json",
        template=here(WORKFLOW / "workflow/report/report.html.jinja"),
        base=here(WORKFLOW / "workflow/report/base.html.jinja"),
    output:
        "<results>/report.html",
    log:
        "<results>/logs/report.log",
    benchmark:
        "<results>/benchmarks/report.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        results=RESULTS,
        experiments=config["run"],
        paper=here(WORKFLOW / "config.yaml"),
        paper_tables=here(PAPER),
        notes=json.dumps({experiment: stand_ins(experiment) for experiment in config["run"]}),
        command=rerun_command(),
    shell:
        "python -u -m equipose.pages.study_report --config {input.config:q} --paper {params.paper:q} --experiments {params.experiments:q}"
        " --results {params.results:q} --template {input.template:q} --command {params.command:q}"
        " --paper-tables {params.paper_tables:q} --notes {params.notes:q} --output {output:q} 2>&1 | tee {log:q}"


rule publish:
    input:
        report="<results>/report.html",
        runs="<results>/runs.csv",
        claims=here(CLAIMS),
        config="<results>/tables/config.json",
        changed=where(partial(freshness.unpublished, published=PUBLISHED)),
    output:
        update(str(PUBLISHED)),
    log:
        "<results>/logs/publish.log",
    benchmark:
        "<results>/benchmarks/publish.tsv"
    conda:
        "../../envs/gpu.yaml"
    params:
        results=RESULTS,
        folder=subpath(output[0], parent=True),
        command=rerun_command(),
        experiments=config["run"],
    shell:
        "python -u -m equipose.study.publish --results {params.results:q} --command {params.command:q} --config {input.config:q}"
        " --experiments {params.experiments:q} --claims {input.claims:q} --output {params.folder:q} 2>&1 | tee {log:q}"


rule compare_reference:
    input:
        runs="<results>/runs.csv",
        claims="<results>/claims.csv",
    log:
        "<results>/logs/compare_reference.log",
    conda:
        "../../envs/gpu.yaml"
    params:
        results=RESULTS,
        reference=f"results/reference/{RESULTS.name}",
    shell:
        "python -u -m equipose.study.compare --results {params.results:q} --reference {params.reference:q} 2>&1 | tee {log:q}"
