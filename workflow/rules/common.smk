"""The study behind this run of the workflow, checked before any job starts.

REQUIRES  a study file: --configfile, or config/quickstart.yaml
PROVIDES  STUDY, the command lines' STUDY_ARGUMENT, wildcard constraints, small helpers
"""

import json
import re
import sys
from pathlib import Path

from fedgloss import fingerprint
from fedgloss.errors import InputError
from fedgloss.study import check_study, check_writable, read_yaml

if not workflow.configfiles:

    configfile: str(Path(workflow.basedir) / "config" / "quickstart.yaml")


def load_checked_study():
    """The study, or one line on standard error and exit code 2."""
    file = str(workflow.configfiles[-1])
    label = Path(file).relative_to(Path.cwd()) if Path(file).is_relative_to(Path.cwd()) else file
    try:
        study = check_study(config, str(label))
        for folder in ("results", "logs"):
            check_writable(folder)
        # Jobs read the study file, unless --config changed what it says.
        unchanged = read_yaml(file) == config
    except InputError as error:
        print(f"fedgloss: error: {error}", file=sys.stderr)
        sys.exit(2)
    return study, str(label) if unchanged else json.dumps(config)


STUDY, STUDY_ARGUMENT = load_checked_study()


wildcard_constraints:
    dataset="|".join(map(re.escape, sorted({cell.dataset for cell in STUDY.cells}))),
    alpha="|".join(map(re.escape, sorted({cell.alpha for cell in STUDY.cells}))),
    model="|".join(map(re.escape, sorted({cell.model for cell in STUDY.cells}))),
    algorithm="|".join(map(re.escape, sorted({cell.algorithm for cell in STUDY.cells}))),
    seed=r"\d+",
    study=re.escape(STUDY.name),
    table="|".join(map(re.escape, STUDY.tables)) or "none",
    figure="|".join(map(re.escape, STUDY.figures)) or "none",


def cell_of(wildcards):
    """The cell that a job's wildcards name; a cell outside the grid is refused with near matches."""
    return STUDY.cell(
        f"{wildcards.dataset}/alpha-{wildcards.alpha}/{wildcards.model}"
        f"/{wildcards.algorithm}/seed-{wildcards.seed}"
    )


def table_files(name):
    """What building a table makes."""
    return [f"results/tables/{STUDY.name}/{name}.{kind}" for kind in ("csv", "md", "tex")]


def figure_files(name):
    """What drawing a figure makes."""
    return [f"results/figures/{STUDY.name}/{name}.{kind}" for kind in ("png", "pdf")]


def cells_of(entry):
    """The cells that a table's or figure's columns and rows name."""
    wanted = {(c["dataset"], c["alpha"], c["model"]) for c in entry["columns"]}
    return [
        cell
        for cell in STUDY.cells
        if (cell.dataset, cell.alpha, cell.model) in wanted
        and cell.algorithm in entry["rows"]
        and entry.get("seed", cell.seed) == cell.seed
    ]
