"""Tables, figures and the report of a study.

REQUIRES  results/runs/{study}/..., results/analysis/{study}/..., src/fedgloss/study/constants/published.csv
PROVIDES  results/tables/{study}/{table}.{csv,md,tex}, results/figures/{study}/{figure}.{png,pdf},
          results/report/{study}.html
"""


rule table:
    """Build one table as CSV, Markdown and LaTeX."""
    input:
        table_inputs,
    output:
        multiext("results/tables/{study}/{table}", ".csv", ".md", ".tex"),
    log:
        "results/logs/table/{study}/{table}.log",
    benchmark:
        "results/benchmarks/table/{study}/{table}.jsonl"
    conda:
        "../../envs/fedgloss.yaml"
    params:
        study=study_argument,
        entry=lambda wildcards: json.dumps(STUDY.tables[wildcards.table]),
        # Its content, not its place and date: a moved or fresh checkout makes nothing again.
        published=sha256(workflow.source_path("../../src/fedgloss/study/constants/published.csv")),
        code=fingerprint.of_tables(),
    shell:
        "fedgloss table {params.study:q} {wildcards.table:q} 2> {log:q}"


rule figure:
    """Draw one figure as PNG and PDF."""
    input:
        figure_inputs,
    output:
        multiext("results/figures/{study}/{figure}", ".png", ".pdf"),
    log:
        "results/logs/figure/{study}/{figure}.log",
    benchmark:
        "results/benchmarks/figure/{study}/{figure}.jsonl"
    conda:
        "../../envs/fedgloss.yaml"
    params:
        study=study_argument,
        entry=lambda wildcards: json.dumps(STUDY.figures[wildcards.figure]),
        code=fingerprint.of_figures(),
    shell:
        "fedgloss figure {params.study:q} {wildcards.figure:q} 2> {log:q}"


rule report:
    """Put everything about a study on one self-contained page."""
    input:
        [table_files(name) for name in shown(STUDY.tables)],
        [figure_files(name) for name in shown(STUDY.figures)],
        [f"results/runs/{STUDY.name}/{cell}/manifest.json" for cell in PART],
    output:
        report="results/report/{study}.html",
    log:
        "results/logs/report/{study}.log",
    benchmark:
        "results/benchmarks/report/{study}.jsonl"
    conda:
        "../../envs/fedgloss.yaml"
    params:
        study=study_argument,
        entry=lambda wildcards: json.dumps(config),
        code=fingerprint.of_report(),
    shell:
        "fedgloss report {params.study:q} 2> {log:q}"
