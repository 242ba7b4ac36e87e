"""The study behind this run of the workflow, checked before any job starts.

REQUIRES  a study file: --configfile, or config/quickstart.yaml
PROVIDES  STUDY, its SEEDS, the command lines' STUDY_ARGUMENT, wildcard constraints, and the
          functions behind the rules' inputs and parameters
"""

import functools
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

from fedgloss import estimate, fingerprint
from fedgloss.data import splits
from fedgloss.errors import InputError
from fedgloss.files import sha256
from fedgloss.study import check_study, check_writable, read_yaml

if not workflow.configfiles:

    configfile: str(Path(workflow.basedir) / "config" / "quickstart.yaml")


def load_checked_study():
    """The study, or one line on standard error and exit code 2."""
    file = str(workflow.configfiles[-1])
    label = Path(file).relative_to(Path.cwd()) if Path(file).is_relative_to(Path.cwd()) else file
    together = config.pop("together", "cells")  # how jobs are packed: the profile's, not a study's
    try:
        if together not in ("cells", "seeds"):
            raise InputError(f"--config: together: {together!r} is unknown; allowed: cells, seeds")
        study = check_study(config, str(label))
        check_writable("results")
        # Jobs read the study file, unless --config changed what it says.
        unchanged = read_yaml(file) == config
    except InputError as error:
        print(f"fedgloss: error: {error}", file=sys.stderr)
        sys.exit(2)
    return study, str(label) if unchanged else json.dumps(config), together


STUDY, STUDY_ARGUMENT, TOGETHER = load_checked_study()
SEEDS = STUDY.config["seeds"]


wildcard_constraints:
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


def datasets_by(same_everywhere):
    """A wildcard's pattern for the data sets that are, or are not, the same everywhere."""
    names = [
        name
        for name in sorted({cell.dataset for cell in STUDY.cells})
        if (STUDY.datasets[name]["source"] in SAME_EVERYWHERE) == same_everywhere
    ]
    return "|".join(map(re.escape, names)) or "none"


def prepare_arguments(wildcards):
    """The command line for a data set's definition."""
    definition = STUDY.datasets[wildcards.dataset]
    options = [definition["source"]]
    for key in ("root", "images", "size"):
        if key in definition:
            options.append(f"--{key}={definition[key]}")  # "=": a value may begin with a dash
    return options + (["--download"] if definition.get("download") else [])


def partition_arguments(wildcards):
    """The command line for a partition's definition."""
    definition = STUDY.partition(wildcards.dataset, wildcards.alpha)
    options = []
    for key in ("scheme", "clients", "alpha", "seed", "file"):
        if key in definition:
            options.append(f"--{key}={definition[key]}")
    return options


def split_files(wildcards):
    """The files of an imported split."""
    definition = STUDY.partition(wildcards.dataset, wildcards.alpha)
    if definition["scheme"] != "file" or "file" not in definition:
        return []
    return [str(file) for file in splits.files(Path(definition["file"]), wildcards.alpha)]


def split_content(wildcards):
    """What is in them: a change is noticed, a touch is not."""
    return [sha256(file) for file in split_files(wildcards) if Path(file).is_file()]


def partition_code(wildcards):
    """The fingerprint of the code that makes this partition."""
    return fingerprint.of_partitions(STUDY.partition(wildcards.dataset, wildcards.alpha)["scheme"])


def training_code(wildcards):
    """The fingerprint of the code that decides a cell's numbers."""
    method = STUDY.definition(wildcards.algorithm)["method"]
    model = STUDY.model(wildcards.model)["model"]
    return fingerprint.of_training(method, model, wildcards.model in STUDY.weights)


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
    return [json.dumps(STUDY.settings(cell)) for cell in trained_by(wildcards)]


@functools.cache
def need_of(kind, cell):
    """What a job needs by config/resources.yaml; kind: training, hessian, or landscape."""
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
    if entry["kind"] == "communication":  # measured against FedAvg, whether or not it is a row
        entry = {**entry, "rows": ["fedavg", *entry["rows"]]}
    sharp = "lambda1" in entry.get("show", [])
    for cell in STUDY.cells_of(entry):
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
