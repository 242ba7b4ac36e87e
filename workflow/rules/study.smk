"""The study behind this run of the workflow, checked before any job starts.

REQUIRES  a study file: --configfile, or config/quickstart.yaml
PROVIDES  STUDY and its SEEDS; PART, its cells that are to be built; LAYOUT, which knows every path;
          DATA and CUTS, the folders of its data; STUDY_TEXT, TOGETHER; wildcard constraints
"""

import json
import re
import shlex
import sys
from pathlib import Path

from fedgloss.errors import InputError
from fedgloss.files import check_folder, check_writable
from fedgloss.report.names import check_distinct
from fedgloss.study import invocation
from fedgloss.study.configuration import read_yaml
from fedgloss.study.ownership import check_owner, note_owner
from fedgloss.study.layout import HERE as LAYOUT
from fedgloss.study.outdated import Expectations
from fedgloss.study.own import check_own
from fedgloss.study.schema.study import Study as Asked
from fedgloss.study.study import check_study


def default_study():
    """The file of the study that is built where none is named, if it can be read."""
    file = Path(workflow.basedir) / "config" / "quickstart.yaml"
    try:
        read_yaml(file)
    except InputError as error:
        invocation.refuse(error)
    return str(file)


if not workflow.configfiles:

    configfile: default_study()


def load_checked_study():
    """The study, its part that is wanted, how jobs are told of it and packed; or exit code 2."""
    files = [str(file) for file in workflow.configfiles]
    here = [
        f"{Path(f).relative_to(Path.cwd())}" if Path(f).is_relative_to(Path.cwd()) else f
        for f in files
    ]
    try:
        for file in files if workflow.is_main_process else ():  # a profile, too, may name one
            read_yaml(file)  # which Snakemake reads less strictly
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
        invocation.check_keys(values, [*Asked.model_fields, "only", "together"])
        said = [entry for entry in said if not entry.startswith(("together=", "only="))]
        given = (
            f"--configfile={shlex.quote(here[0])}"
            if len(here) == 1
            else shlex.join(["--configfile", *here])
        )
        given += f" --config {shlex.join(said)}" if said else ""
        try:
            study = check_study(asked, here[-1], given)
        except InputError as error:
            raise invocation.of_values(error, here[0]) if values and len(here) == 1 else error
        check_distinct(study)
        check_folder(LAYOUT.results)
        check_owner(study)
        Expectations(study, LAYOUT.results).check_data()
        part = invocation.part_of(study, only)
    except InputError as error:
        invocation.refuse(error)
    if workflow.is_main_process:
        for line in study.warnings():
            print(f"fedgloss: warning: {line}", file=sys.stderr)
    # Jobs are told what the study says now: the file may be edited while they wait.
    whole = {"file": here[-1], "given": given, "config": asked}
    return study, part, json.dumps(whole, indent=1), together


STUDY, PART, STUDY_TEXT, TOGETHER = load_checked_study()
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


def refuse_unwritable():
    """Refuse results that cannot be written, once there are jobs: a dry run may look at them."""
    try:
        check_writable(LAYOUT.results)
    except InputError as error:
        invocation.refuse(error)


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
