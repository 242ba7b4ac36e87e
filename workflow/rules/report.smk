"""Tables, figures and the report of a study.

REQUIRES  runs and their analysis, src/fedgloss/study/constants/published.csv
PROVIDES  LAYOUT.table: csv, md, tex; LAYOUT.figure: png, pdf; LAYOUT.report: one HTML page
"""

import json

from fedgloss import fingerprint
from fedgloss.files import sha256


rule table:
    """Build one table as CSV, Markdown and LaTeX."""
    input:
        entry_files,
    output:
        report(
            LAYOUT.table("{study}", "{table}")["csv"],
            caption="../captions/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        LAYOUT.table("{study}", "{table}")["md"],
        LAYOUT.table("{study}", "{table}")["tex"],
    log:
        LAYOUT.log("table", "{study}/{table}"),
    benchmark:
        LAYOUT.benchmark("table", "{study}/{table}")
    conda:
        "../../envs/fedgloss.yaml"
    params:
        study=study_argument,
        given=given_arguments,
        entry=entry_text,
        cells=entry_cells,
        left_out=left_out,
        # Its content, not its place and date: a moved or fresh checkout makes nothing again.
        published=sha256(workflow.source_path("../../src/fedgloss/study/constants/published.csv")),
        claims=sha256(workflow.source_path("../../src/fedgloss/study/constants/claims.yaml")),
        code=fingerprint.of_tables(),
    shell:
        "fedgloss table {params.study:q} {wildcards.table:q} > /dev/null 2> {log:q}"


rule figure:
    """Draw one figure as PNG and PDF."""
    input:
        entry_files,
    output:
        report(
            LAYOUT.figure("{study}", "{figure}")["png"],
            caption="../captions/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        LAYOUT.figure("{study}", "{figure}")["pdf"],
    log:
        LAYOUT.log("figure", "{study}/{figure}"),
    benchmark:
        LAYOUT.benchmark("figure", "{study}/{figure}")
    conda:
        "../../envs/fedgloss.yaml"
    params:
        study=study_argument,
        given=given_arguments,
        entry=entry_text,
        cells=entry_cells,
        left_out=left_out,
        code=fingerprint.of_figures(),
    shell:
        "fedgloss figure {params.study:q} {wildcards.figure:q} > /dev/null 2> {log:q}"


rule report:
    """Put everything about a study on one self-contained page."""
    input:
        [table_files(name) for name in shown(STUDY.tables)],
        [figure_files(name) for name in shown(STUDY.figures)],
        run_files_of_part,
    output:
        report=report(
            LAYOUT.report("{study}"),
            caption="../captions/page.rst",
            category="The page",
            labels={"study": "{study}"},
        ),
    log:
        LAYOUT.log("report", "{study}"),
    benchmark:
        LAYOUT.benchmark("report", "{study}")
    conda:
        "../../envs/fedgloss.yaml"
    params:
        study=study_argument,
        given=given_arguments,
        entry=lambda wildcards: json.dumps(config),
        code=fingerprint.of_report(),
    shell:
        "fedgloss report {params.study:q} > /dev/null 2> {log:q}"
