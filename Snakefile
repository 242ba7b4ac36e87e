"""The paper as a build: `rule all` and one named target for each table and figure of the study.

    snakemake --cores all                                    the quickstart study
    snakemake --cores all --configfile config/paper.yaml     the paper
    snakemake --profile slurm                                the paper, on a SLURM cluster
    snakemake --cores all table_accuracy                     one table
    snakemake table3 --configfile=config/paper.yaml --config only=cifar10    the paper's Table 3, a part
    snakemake --cores 1 results/runs/quickstart/digits/alpha-0/smallcnn/fedgloss-printed/seed-42/metrics.csv

A cell's path says what it is: {study}/{dataset}/alpha-{alpha}/{model}/{algorithm}/seed-{seed}
"""

from functools import partial

from snakemake.utils import min_version

from fedgloss.errors import of_system

min_version("9.18")


# Used with --software-deployment-method apptainer only (docs/cluster.md).
container: "envs/fedgloss.sif"


# What `snakemake --report` says first.
report: "workflow/captions/workflow.rst"


include: "workflow/rules/study.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/cells.smk"
include: "workflow/rules/views.smk"
include: "workflow/rules/datasets.smk"
include: "workflow/rules/jobfiles.smk"
include: "workflow/rules/entries.smk"
include: "workflow/rules/notes.smk"
include: "workflow/rules/packing.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/trials.smk"
include: "workflow/rules/kept.smk"
include: "workflow/rules/sweep.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/messages.smk"


onstart:
    refuse_unwritable()
    refuse_job_arrays()
    refuse_unusable()
    refuse_missing_splits()
    refuse_unusable_inputs()
    refuse_training_again()
    try:
        note_owner(STUDY)
        tell_jobs()
    except OSError as error:  # a full disk
        invocation.refuse(of_system(error))


# On a cluster these run where Snakemake does: they need a network, or take seconds.
localrules:
    prepare,
    partition,
    table,
    figure,
    report,
    promote,
    choose,


rule all:
    default_target: True
    input:
        LAYOUT.report(STUDY.name),  # which asks for all the rest
        chosen_files,
        lost_files,


for table in STUDY.tables:

    rule:
        name:
            f"table_{table}"
        input:
            table_files(table),


for figure in STUDY.figures:

    rule:
        name:
            f"figure_{figure}"
        input:
            figure_files(figure),


for place in PLACES:

    rule:
        name:
            place
        input:
            partial(place_files, [place]),


if PLACES:

    rule paper:
        input:
            partial(place_files, PLACES),


for algorithm in dict.fromkeys(cell.algorithm for cell in STUDY.cells):

    rule:
        name:
            f"only_{algorithm}"
        input:
            [LAYOUT.metrics(STUDY.name, cell) for cell in wanted(STUDY.select(algorithm=algorithm))],


refuse_unknown_targets(
    [
        "all",
        *(f"table_{table}" for table in STUDY.tables),
        *(f"figure_{figure}" for figure in STUDY.figures),
        *PLACES,
        *["paper"] * bool(PLACES),
        *(f"only_{algorithm}" for algorithm in dict.fromkeys(c.algorithm for c in STUDY.cells)),
    ]
)
