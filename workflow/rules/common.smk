"""The study behind this run of the workflow, checked before any job starts.

REQUIRES  a study file: --configfile, or config/quickstart.yaml
PROVIDES  STUDY, its SEEDS, the command lines' STUDY_ARGUMENT, wildcard constraints, and the
          functions behind the rules' inputs and parameters
"""

import contextlib
import functools
import io
import json
import os
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

from fedgloss.study import estimate, inputs, invocation
from fedgloss import fingerprint
from fedgloss.study.claims import check_claim, claim
from fedgloss.data.partition import splits
from fedgloss.errors import InputError
from fedgloss.files import check_writable, sha256
from fedgloss.study.own import check_own
from fedgloss.study.study import check_study, read_yaml

if not workflow.configfiles:

    configfile: str(Path(workflow.basedir) / "config" / "quickstart.yaml")


def load_checked_study():
    """The study, how jobs are told of it, and how they are packed; or one line and exit code 2."""
    files = [str(file) for file in workflow.configfiles]
    here = [
        f"{Path(f).relative_to(Path.cwd())}" if Path(f).is_relative_to(Path.cwd()) else f
        for f in files
    ]
    try:
        # What --config says is read again, as YAML: Snakemake takes the 0 of seeds=[0] for text.
        said = workflow.config_settings.config_args or []
        values = invocation.config_values(said)
        # How jobs are packed is the profile's or the command line's, not a study's.
        together = values.pop("together", "cells")
        if together not in ("cells", "seeds"):
            raise InputError(f"--config: together: {together!r} is unknown; allowed: cells, seeds")
        config.pop("together", None)
        asked = invocation.merge(config, values)
        unchanged = len(files) == 1 and read_yaml(files[0]) == asked
        said = [entry for entry in said if not entry.startswith("together=")]
        given = (
            f"--configfile={shlex.quote(here[0])}"
            if len(here) == 1
            else shlex.join(["--configfile", *here])
        )
        given += f" --config {shlex.join(said)}" if said else ""
        study = check_study(asked, here[-1], given)
        check_writable("results")
        check_claim(study)
    except InputError as error:
        invocation.refuse(error)
    if workflow.is_main_process:
        for line in study.warnings():
            print(f"fedgloss: warning: {line}", file=sys.stderr)
    # Jobs read the study file, unless the command line changed what it says.
    whole = {"file": here[-1], "given": given, "config": asked}
    return study, here[-1] if unchanged else json.dumps(whole), together


STUDY, STUDY_ARGUMENT, TOGETHER = load_checked_study()
SEEDS = STUDY.config["seeds"]
# The folders of data sets and partitions that this study uses, and what lies in them.
DATA = {STUDY.data_folder(cell.dataset): cell.dataset for cell in STUDY.cells}
CUTS = {
    (STUDY.partition_folder(cell.dataset, cell.alpha), cell.alpha): cell.dataset
    for cell in STUDY.cells
}

CUT_DATA = {cut: dataset for (cut, _), dataset in CUTS.items()}

# The cell that a file below these folders belongs to.
CELL = re.compile(rf"results/(?:runs|analysis)/{re.escape(STUDY.name)}/(.+)/[^/]+$")


wildcard_constraints:
    data="|".join(map(re.escape, sorted(DATA))),
    cut="|".join(map(re.escape, sorted({cut for cut, _ in CUTS}))),
    dataset="|".join(map(re.escape, sorted({cell.dataset for cell in STUDY.cells}))),
    alpha="|".join(map(re.escape, sorted({cell.alpha for cell in STUDY.cells}))),
    model="|".join(map(re.escape, sorted({cell.model for cell in STUDY.cells}))),
    algorithm="|".join(map(re.escape, sorted({cell.algorithm for cell in STUDY.cells}))),
    seed=r"\d+",
    study=re.escape(STUDY.name),
    table="|".join(map(re.escape, STUDY.tables)) or "none",
    figure="|".join(map(re.escape, STUDY.figures)) or "none",


def refuse_job_arrays():
    """Refuse what would repeat and lose work: the executor plugin's job arrays (docs/cluster.md)."""
    if getattr(workflow.executor_settings, "array_jobs", None):
        print(
            "fedgloss: error: --slurm-array-jobs: the executor plugin loses jobs of an array and takes"
            " finished ones for failed; use --config together=seeds for fewer jobs",
            file=sys.stderr,
        )
        sys.exit(2)


def refuse_unusable():
    """Refuse a model or images of the study's own that no job could use, before outputs are lost."""
    if workflow.deployment_settings.deployment_method:
        return  # jobs have an environment of their own: what is there cannot be told from here
    try:
        check_own(STUDY)
    except InputError as error:
        invocation.refuse(error)


def refuse_unknown_targets(names):
    """Refuse, in one line, what no rule makes; `names` are the targets that have one."""
    if not workflow.is_main_process or Path(sys.argv[0]).name != "snakemake":
        return
    from snakemake.cli import parse_args

    with contextlib.redirect_stderr(io.StringIO()):  # what it says of profiles has been said
        _, asked = parse_args(sys.argv[1:])
    rules = [rule.name for rule in workflow.rules]
    try:
        for target in asked.targets:
            cell = CELL.match(os.path.relpath(target))
            if cell and target not in rules:
                STUDY.cell(cell[1])
            file = os.path.relpath(target) if os.sep in target else target
            makes = target in rules or any(rule.is_producer(file) for rule in workflow.rules)
            invocation.check_target(target, makes, names)
        for word in {*asked.until, *asked.omit_from, *asked.forcerun}:
            invocation.check_target(word, word in rules or os.sep in word, [*names, *rules])
    except InputError as error:
        invocation.refuse(error)


def cell_of(wildcards):
    """The cell that a job's wildcards name; a cell outside the grid is refused with near matches."""
    return STUDY.cell(
        "{0.dataset}/alpha-{0.alpha}/{0.model}/{0.algorithm}/seed-{0.seed}".format(wildcards)
    )


def trained_by(wildcards):
    """The cells of a training job: one, or those of all seeds."""
    seeds = [wildcards.seed] if "seed" in wildcards.keys() else SEEDS
    given = {name: wildcards[name] for name in ("dataset", "alpha", "model", "algorithm")}
    return [cell_of(SimpleNamespace(**given, seed=seed)) for seed in seeds]


def study_argument(wildcards):
    """How a command names the study; from a function, since Snakemake expands {} in plain text."""
    return STUDY_ARGUMENT


def table_files(name):
    """What building a table makes."""
    return [f"results/tables/{STUDY.name}/{name}.{kind}" for kind in ("csv", "md", "tex")]


def figure_files(name):
    """What drawing a figure makes."""
    return [f"results/figures/{STUDY.name}/{name}.{kind}" for kind in ("png", "pdf")]


# What these sources give follows from their definition alone: scikit-learn brings the digits, and
# every file of CIFAR is checked by its hash. Images of one's own may differ in the next checkout.
SAME_EVERYWHERE = ("digits", "cifar10", "cifar100")
# Without a place for it, `cache` would only make Snakemake say so in every run.
CACHE = "omit-software" if os.environ.get("SNAKEMAKE_OUTPUT_CACHE") else False


def kept_by(names, same_everywhere):
    """A wildcard's pattern for the folders whose data are, or are not, the same everywhere."""
    folders = {
        folder
        for folder, name in names.items()
        if (STUDY.datasets[name]["source"] in SAME_EVERYWHERE) == same_everywhere
    }
    return "|".join(map(re.escape, sorted(folders))) or "none"


def prepared(name):
    """A rule's input: a file of the data set that its job's cell, or partition, is about."""

    def file(wildcards):
        dataset = (
            CUTS[wildcards.cut, wildcards.alpha] if "cut" in wildcards.keys() else wildcards.dataset
        )
        return f"results/data/{STUDY.data_folder(dataset)}/{name}"

    return file


def partition_of(wildcards):
    """A rule's input: the partition that its job's cell trains on."""
    folder = STUDY.partition_folder(wildcards.dataset, wildcards.alpha)
    return f"results/partitions/{folder}/alpha-{wildcards.alpha}/partition.json"


def prepare_options(wildcards):
    """The command line for a data set's definition."""
    return inputs.prepare_options(STUDY.datasets[DATA[wildcards.data]])


def data_code(wildcards):
    """The fingerprint of the code that prepares this data set."""
    return fingerprint.of_data(STUDY.datasets[DATA[wildcards.data]]["source"])


def partition_arguments(wildcards):
    """What a partition's definition says."""
    return STUDY.partition(CUTS[wildcards.cut, wildcards.alpha], wildcards.alpha)


def partition_options(wildcards):
    """The command line for it."""
    return inputs.partition_options(partition_arguments(wildcards))


def split_files(wildcards):
    """The files of an imported split."""
    arguments = partition_arguments(wildcards)
    if arguments["scheme"] != "file":
        return []
    return [str(file) for file in splits.files(Path(arguments["file"]), wildcards.alpha)]


def split_content(wildcards):
    """What is in them: a change is noticed, a touch is not."""
    return [sha256(file) for file in split_files(wildcards) if Path(file).is_file()]


def partition_code(wildcards):
    """The fingerprint of the code that makes this partition."""
    return fingerprint.of_partitions(partition_arguments(wildcards)["scheme"])


def training_code(wildcards):
    """The fingerprint of the code that decides a cell's numbers."""
    return STUDY.code(wildcards.algorithm, wildcards.model)


def initial_weights(wildcards):
    """The file that a model starts from, if its study names one."""
    return [STUDY.model(wildcards.model)["weights"]] if wildcards.model in STUDY.weights else []


def weights_arguments(wildcards):
    """The command line for it."""
    return [f"--weights={file}" for file in initial_weights(wildcards)]


def analysis_code(kind):
    """The fingerprint of the code behind an analysis of a model, by wildcards."""
    return lambda wildcards: fingerprint.of_analysis(kind, STUDY.model(wildcards.model)["model"])


def resolved_settings(wildcards):
    """Cells' resolved settings as JSON: a change in the configuration is a change here."""
    return [json.dumps(STUDY.settings(cell).to_json()) for cell in trained_by(wildcards)]


@functools.cache
def need_of(kind, cell):
    """What a job needs by src/fedgloss/study/constants/resources.yaml; kind: training, hessian, or landscape."""
    return getattr(estimate, kind)(STUDY, cell)


def needs(kind, what):
    """How a job asks for a resource; what: minutes or memory, growing with attempts, or gpu."""

    def resource(wildcards, attempt):
        if "seed" in wildcards.keys():
            need = need_of(kind, cell_of(wildcards))
        else:  # a job for all seeds, which cost the same
            need = need_of(kind, cell_of(SimpleNamespace(**wildcards, seed=SEEDS[0])))
            if kind == "training":
                need = need.together(len(SEEDS))
        value = getattr(need, what)
        return value(attempt) if callable(value) else value

    return resource


def table_inputs(wildcards):
    """The runs of a table's cells, and their eigenvalues if it shows them."""
    entry = STUDY.tables[wildcards.table]
    cells = STUDY.cells_of(entry)
    if entry["kind"] == "communication":  # measured against FedAvg, whether or not it is a row
        cells += [cell for column in entry["columns"] for cell in STUDY.baselines(column)]
    sharp = entry["kind"] == "methods" and "lambda1" in entry.get("show", [])
    for cell in dict.fromkeys(cells):
        yield f"results/runs/{STUDY.name}/{cell}/metrics.csv"
        yield f"results/runs/{STUDY.name}/{cell}/manifest.json"
        if sharp:
            yield f"results/analysis/{STUDY.name}/{cell}/hessian.json"


def figure_inputs(wildcards):
    """What a figure is drawn from."""
    entry = STUDY.figures[wildcards.figure]
    for cell in STUDY.cells_of(entry):
        yield f"results/runs/{STUDY.name}/{cell}/manifest.json"
        if entry["kind"] == "eigenvalues":
            yield f"results/analysis/{STUDY.name}/{cell}/hessian.json"
        elif entry["kind"] == "landscape":
            yield f"results/analysis/{STUDY.name}/{cell}/landscape.csv"
        else:
            yield f"results/runs/{STUDY.name}/{cell}/metrics.csv"
