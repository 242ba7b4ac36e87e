"""The study behind this run of the workflow, checked before any job starts.

REQUIRES  a study file: --configfile, or config/quickstart.yaml
PROVIDES  STUDY and its SEEDS; LAYOUT, which knows every path; TOGETHER, how jobs are to be packed;
          wildcard constraints; and the functions behind the rules' inputs and parameters
"""

import contextlib
import functools
import io
import json
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from fedgloss import fingerprint
from fedgloss.data.partition import splits
from fedgloss.errors import InputError
from fedgloss.files import check_writable, sha256, write_text
from fedgloss.study import estimate, inputs, invocation
from fedgloss.study.claims import check_claim, claim
from fedgloss.study.jobfile import file_for, job_of, to_json
from fedgloss.study.layout import CELL, HERE as LAYOUT, MANIFEST, RUN_FILES, SEED
from fedgloss.study.outdated import Expectations
from fedgloss.study.own import check_own
from fedgloss.study.study import check_study, read_yaml

if not workflow.configfiles:

    configfile: str(Path(workflow.basedir) / "config" / "quickstart.yaml")


def load_checked_study():
    """The study, its part that is wanted, how jobs are told of it and packed; or exit code 2."""
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
        together = values.pop("together", None)
        if together not in (None, "cells", "seeds"):
            raise InputError(f"--config: together: {together!r} is unknown; allowed: cells, seeds")
        # Which part of the study is to be built is this run's alone, too: only=cifar10/alpha-0.
        only = values.pop("only", "")
        for name in ("together", "only"):
            config.pop(name, None)
        asked = invocation.merge(config, values)
        unchanged = len(files) == 1 and read_yaml(files[0]) == asked
        said = [entry for entry in said if not entry.startswith(("together=", "only="))]
        given = (
            f"--configfile={shlex.quote(here[0])}"
            if len(here) == 1
            else shlex.join(["--configfile", *here])
        )
        given += f" --config {shlex.join(said)}" if said else ""
        study = check_study(asked, here[-1], given)
        check_writable(LAYOUT.results)
        check_claim(study)
        part = invocation.cells_below(study, str(only))
    except InputError as error:
        invocation.refuse(error)
    if workflow.is_main_process:
        for line in study.warnings():
            print(f"fedgloss: warning: {line}", file=sys.stderr)
    # Jobs read the study file, unless the command line changed what it says.
    whole = {"file": here[-1], "given": given, "config": asked}
    return study, part, None if unchanged else json.dumps(whole, indent=1), together


STUDY, PART, CHANGED_STUDY, TOGETHER = load_checked_study()
SEEDS = STUDY.asked.seeds
# The folders of data sets and partitions that this study uses, and what lies in them.
DATA = {STUDY.data_folder(cell.dataset): cell.dataset for cell in STUDY.cells}
CUTS = {
    (STUDY.partition_folder(cell.dataset, cell.alpha), cell.alpha): cell.dataset
    for cell in STUDY.cells
}


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


@functools.cache
def asked_for():
    """What the command line names: targets, then those of --until, --omit-from and --forcerun."""
    if not workflow.is_main_process or Path(sys.argv[0]).name != "snakemake":
        return (), ()
    from snakemake.cli import parse_args

    with contextlib.redirect_stderr(io.StringIO()):  # what it says of profiles has been said
        _, asked = parse_args(sys.argv[1:])
    return (*asked.targets,), (*asked.until, *asked.omit_from, *asked.forcerun)


def cell_named(word):
    """The path of the cell whose file a word of the command line is, or None."""
    return LAYOUT.cell_of(STUDY.name, Path(os.path.relpath(word)))


def refuse_unknown_targets(names):
    """Refuse, in one line, what no rule makes; `names` are the targets that have one."""
    targets, others = asked_for()
    rules = [rule.name for rule in workflow.rules]
    try:
        for target in targets:
            cell = cell_named(target)
            if cell and target not in rules:
                STUDY.cell(cell)
            file = os.path.relpath(target) if os.sep in target else target
            makes = target in rules or any(rule.is_producer(file) for rule in workflow.rules)
            invocation.check_target(target, makes, names)
        for word in dict.fromkeys(others):
            invocation.check_target(word, word in rules or os.sep in word, [*names, *rules])
    except InputError as error:
        invocation.refuse(error)


def cells_of(wildcards):
    """The cells of a job: the one that its wildcards name, or a method's of all seeds.

    A cell outside the grid is refused with near matches.
    """
    if "condition" in wildcards.keys():
        return [STUDY.cell(f"{wildcards.condition}/{SEED.format(seed=seed)}") for seed in SEEDS]
    return [STUDY.cell(CELL.format(**wildcards))]


# What jobs are told, by file: see study/jobfile.py.
TOLD = {}


def tell(folder, content):
    """The file that tells a job this. It is there when the job starts; a dry run writes nothing."""
    file = file_for(folder, content)
    TOLD[file] = content
    if not workflow.is_main_process:  # a job of a cluster reads the workflow again, for itself
        write_told()
    return str(file)


def write_told():
    """Write what jobs are told, where it is not there, and whole, from an earlier run."""
    for file, content in TOLD.items():
        if not file.is_file() or file.read_bytes() != content.encode():
            write_text(file, content)


def tell_jobs():
    """Write the files of all jobs that are about to be started."""
    for job in workflow.dag.needrun_jobs():
        job.params  # names the job's files
    write_told()


def job_files(kind):
    """A rule's parameter: the job file of each of its cells.

    It asks for the outputs, although it needs none: Snakemake then leaves it out when it looks for
    changed parameters. What decides the numbers is in parameters of its own.
    """

    def files(wildcards, output):
        return [
            tell(LAYOUT.jobs(kind, STUDY.name, cell), to_json(job_of(kind, STUDY, cell, LAYOUT)))
            for cell in cells_of(wildcards)
        ]

    return files


def study_argument(wildcards):
    """How a command names the study: its file, or one that says what --config has changed."""
    return tell(LAYOUT.told(STUDY.name), CHANGED_STUDY) if CHANGED_STUDY else STUDY.file


def table_files(name):
    """What building a table makes."""
    return [*LAYOUT.table(STUDY.name, name).values()]


def figure_files(name):
    """What drawing a figure makes."""
    return [*LAYOUT.figure(STUDY.name, name).values()]


def lost_files(wildcards):
    """What was deleted since the report was made, which Snakemake by itself would not miss."""
    if not LAYOUT.report(STUDY.name).is_file():
        return []
    files = [file for name in shown(STUDY.tables) for file in table_files(name)]
    files += [file for name in shown(STUDY.figures) for file in figure_files(name)]
    for name in shown(STUDY.tables):
        files += files_behind(STUDY.tables[name])
    for name in shown(STUDY.figures):
        files += files_behind(STUDY.figures[name])
    for cell in PART:
        run = LAYOUT.run(STUDY.name, cell)
        files += [run / name for name in (MANIFEST, *RUN_FILES)]
    return [file for file in dict.fromkeys(files) if not file.is_file()]


def dataset_of(wildcards):
    """The name of the data set that a job's partition, or cell, is about."""
    if "cut" in wildcards.keys():
        return CUTS[wildcards.cut, wildcards.alpha]
    return cells_of(wildcards)[0].dataset


def prepared(name):
    """A rule's input: a file of the data set that its job is about."""

    def file(wildcards):
        return LAYOUT.data(STUDY.data_folder(dataset_of(wildcards))) / name

    return file


def partition_of(wildcards):
    """A rule's input: the partition that its job's cells train on."""
    cell = cells_of(wildcards)[0]
    return LAYOUT.partition(STUDY.partition_folder(cell.dataset, cell.alpha), cell.alpha)


def prepare_options(wildcards):
    """The command line for a data set's definition."""
    return inputs.prepare_options(STUDY.datasets[DATA[wildcards.data]])


def data_code(wildcards):
    """The fingerprint of the code that prepares this data set."""
    return fingerprint.of_data(STUDY.datasets[DATA[wildcards.data]].source)


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
    cell = cells_of(wildcards)[0]
    return STUDY.code(cell.algorithm, cell.model)


def initial_weights(wildcards):
    """The file that a model starts from, if its study names one."""
    weights = STUDY.model(cells_of(wildcards)[0].model).weights
    return [weights] if weights else []


def run_files(name):
    """A rule's input: a file of the run of each of its cells."""

    def files(wildcards):
        return [LAYOUT.run(STUDY.name, cell) / name for cell in cells_of(wildcards)]

    return files


def analysis_code(kind):
    """The fingerprint of the code behind an analysis of a model, by wildcards."""

    def code(wildcards):
        return fingerprint.of_analysis(kind, STUDY.model(cells_of(wildcards)[0].model).model)

    return code


def settings_but_seed(wildcards):
    """Cells' resolved settings as JSON: a change in the configuration is a change here.

    The seed is in the output's path: a cell's parameters are the same alone and among its seeds.
    """
    settings = STUDY.settings(cells_of(wildcards)[0]).to_json()
    del settings["seed"]
    return json.dumps(settings)


def asked(kind, *entries):
    """A rule's parameter: these entries of a job's file, as JSON."""

    def values(wildcards):
        job = job_of(kind, STUDY, cells_of(wildcards)[0], LAYOUT)
        return json.dumps({name: getattr(job, name) for name in entries})

    return values


@functools.cache
def need_of(kind, cell):
    """What a job needs by src/fedgloss/study/constants/resources.yaml; kind: training, hessian, locals or landscape."""
    return getattr(estimate, kind)(STUDY, cell)


def needs(kind, what):
    """How a job asks for a resource; what: minutes or memory, growing with attempts, or gpu."""

    def resource(wildcards, attempt):
        cells = cells_of(wildcards)
        need = need_of(kind, cells[0])
        if kind == "training" and len(cells) > 1:
            need = need.together(len(cells))
        elif kind == "hessian":  # estimated for all seeds
            need = replace(need, seconds=need.seconds * len(cells) / len(SEEDS))
        value = getattr(need, what)
        return value(attempt) if callable(value) else value

    return resource


def wanted(cells):
    """Those of these cells that this run is to build: all, or with `--config only=...` a part."""
    part = {*PART}
    return [cell for cell in dict.fromkeys(cells) if cell in part]


def shown(entries):
    """The names of these tables or figures that show a cell of the wanted part."""
    return [name for name, entry in entries.items() if wanted(STUDY.cells_of(entry))]


def entry_of(wildcards):
    """What the study says about a table or figure, the whole of it."""
    if "table" in wildcards.keys():
        return STUDY.tables[wildcards.table]
    return STUDY.figures[wildcards.figure]


def files_behind(entry):
    """What a table or figure is made from, of its wanted cells."""
    for cell in wanted(STUDY.cells_behind(entry)):
        yield LAYOUT.run(STUDY.name, cell) / MANIFEST
        for kind in entry.sources:
            yield getattr(LAYOUT, kind)(STUDY.name, cell)


def entry_files(wildcards):
    """A rule's input: what its table or figure is made from."""
    return [*files_behind(entry_of(wildcards))]


def entry_cells(wildcards):
    """A rule's parameter: the wanted cells that its table or figure is made from."""
    return [*map(str, wanted(STUDY.cells_behind(entry_of(wildcards))))]


def entry_text(wildcards):
    """A rule's parameter: what the study says about its table or figure, as JSON."""
    return json.dumps(entry_of(wildcards).given())
