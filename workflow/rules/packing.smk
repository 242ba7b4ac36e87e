"""Which jobs serve all seeds of a method, or all methods: one process instead of many.

The files are the same either way, and so are a job's inputs but for other seeds' runs, its
parameters and its command: finished cells stay finished when the packing changes.

REQUIRES  STUDY, SEEDS, PART, TOGETHER (study.smk), asked_for (targets.smk), need_of (cells.smk),
          is_unnoted (notes.smk)
PROVIDES  packed: the methods whose seeds a job may serve together, as a wildcard's pattern;
          measured_together, the same of settings and all their methods; SETTINGS, METHODS
"""

import re
from itertools import chain

from fedgloss.study.outdated import Expectations


def one_by_one(rule):
    """Whether the command line names a rule, or a file of a cell: its jobs then are of one cell."""
    targets, others = asked_for()
    return rule in (*targets, *others) or any(map(cell_named, (*targets, *others)))


def is_small(cell):
    """Whether a cell trains on the processor, by src/fedgloss/study/constants/resources.yaml."""
    return need_of("training", cell).gpu == 0


def packed(rule, done, may=lambda cell: True):
    """A pattern for the conditions whose seeds are one job, or none at all.

    They are packed where all are wanted and none is done yet. A seed that is added to a study later, or lost, is a job
    of its own, since a job makes all its files again; and so is one that is done, since what was
    made one by one is not of one date: a seed's files would be older than another's inputs. And one
    of which Snakemake knows nothing would make it blind to changes of the others.

    done(cell): whether its files are there; may(cell): whether the seeds of its method are packed
    where nothing is said.
    """
    conditions = {cell.condition: [] for cell in STUDY.cells}
    for cell in STUDY.cells:
        conditions[cell.condition].append(cell)
    if workflow.is_main_process:  # a cluster's job has been told already which it is
        # Of seeds that come rung by rung, no job makes all.
        halving = STUDY.asked.sweep and STUDY.asked.sweep.halving
        off = (
            len(SEEDS) == 1
            or (halving and halving.seeds)
            or TOGETHER == "cells"
            or one_by_one(rule)
        )
        conditions = [
            condition
            for condition, cells in conditions.items()
            if not off
            and (TOGETHER == "seeds" or may(cells[0]))
            and PART_CELLS.issuperset(cells)
            and not any(done(cell) or is_unnoted(cell) for cell in cells)
        ]
    return "|".join(map(re.escape, conditions)) or "none"


EXPECTED = Expectations(STUDY, LAYOUT.results)
PART_CELLS = {*PART}


SETTINGS = {}
"""The cells of each setting: of a data set, an alpha and a model."""
for cell in STUDY.cells:
    SETTINGS.setdefault(cell.setting, []).append(cell)
METHODS_OF = [[*dict.fromkeys(cell.algorithm for cell in cells)] for cells in SETTINGS.values()]
METHODS = METHODS_OF[0]
"""Those of each setting, if all settings have the same."""


def measured_together():
    """A pattern for the settings all of whose eigenvalues are one job, or none at all.

    Starting a process takes longer than the eigenvalues of a small model. Settings are packed where
    that leaves nothing idle: there are as many of them as cores, or, on a cluster, as jobs at a
    time. And only where the whole study is built, a setting's eigenvalues are all shown, and none
    is done, as above.
    """
    settings = SETTINGS
    if workflow.is_main_process:  # a cluster's job has been told already which it is
        given = workflow.resource_settings
        places = given.nodes or given.cores or 0
        whole = {*chain(*asked_for())} <= {"all"} and len(PART) == len(STUDY.cells)
        equal = all(methods == METHODS for methods in METHODS_OF)
        if TOGETHER == "cells" or not whole or not equal or not 0 < places <= len(settings):
            return "none"
        shown = {
            cell
            for entry in (*STUDY.tables.values(), *STUDY.figures.values())
            for cell in STUDY.cells_behind(entry)
            if "hessian" in STUDY.sources(entry, cell)
        }
        settings = [
            setting
            for setting, cells in settings.items()
            if shown.issuperset(cells)
            and all(map(is_small, cells))
            and not any(map(is_measured, cells))
        ]
    return "|".join(map(re.escape, settings)) or "none"


def is_measured(cell):
    """Whether a cell's eigenvalues are there, and of the run that the study asks for."""
    return EXPECTED.is_there(cell) and LAYOUT.hessian(STUDY.name, cell).is_file()
