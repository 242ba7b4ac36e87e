"""Which trials of a sweep a job serves, and who goes on: functions for the rules (sweep.smk).

REQUIRES  STUDY, SETTINGS, LAYOUT (study.smk, cells.smk); packing.smk; `checkpoints.promote` (sweep.smk)
PROVIDES  STANDINGS, FIRST, PACKS: the trials, by rung and by job
          going_on, promoted_files, chosen_files, deciding_files, rung_files: functions of inputs
"""

import json
import re
from itertools import chain

from fedgloss.study.standings import Standings
from fedgloss.study.sweep import packs

STANDINGS = Standings(STUDY, LAYOUT.results)
"""Asked for nothing but what the study says of its trials: files are Snakemake's business."""
FIRST = STANDINGS.rungs[0]
"""What all trials train for."""
PACKS = {f"trials{i}": labels for i, labels in enumerate(packs(STUDY.trials.values(), most=8))}
"""Trials that one job serves where cells are small, by the wildcard that names their setting."""


def trials_at(setting, labels):
    """The cells of these trials in a setting, with the seeds that all trials train with."""
    cells = SETTINGS[setting]
    return [cell for cell in cells if cell.algorithm in labels and cell.seed in FIRST.seeds]


def packed_trials(labels, done):
    """A pattern for the settings in which these trials are one job, or none at all.

    As for seeds (packing.smk), and only where the whole study is built.
    """
    settings = [setting for setting in SETTINGS if trials_at(setting, labels)]
    if workflow.is_main_process:  # a cluster's job has been told already which it is
        whole = {*chain(*asked_for())} <= {"all"} and len(PART) == len(STUDY.cells)
        settings = [
            setting
            for setting in settings
            if whole
            and TOGETHER != "cells"
            and all(map(is_small, trials_at(setting, labels)))
            and not any(done(cell) or is_unnoted(cell) for cell in trials_at(setting, labels))
        ]
    return "|".join(map(re.escape, settings)) or "none"


def left(base, rung):
    """The labels of the trials that reach a rung, when the runs that decide it are done."""
    if rung == 0:
        return [trial.label for trial in STUDY.trials.values() if trial.base == base]
    done = checkpoints.promote.get(study=STUDY.name, base=base, rung=rung)
    with open(done.output[0], encoding="utf-8") as file:
        return json.load(file)["trials"]


def rung_files(wildcards):
    """A rule's input: what decides who reaches a rung, the runs of the one before."""
    before = int(wildcards.rung) - 1
    rounds = STANDINGS.rungs[before].rounds
    for label in left(wildcards.base, before):
        for cell in STANDINGS.cells(STUDY.trials[label], before):
            paused = rounds and LAYOUT.paused(STUDY.name, cell, rounds)
            # One that never paused, as it was imported, says as much with its rows.
            if not paused or (not paused.is_file() and EXPECTED.is_there(cell)):
                yield LAYOUT.run(STUDY.name, cell) / "manifest.json"
            else:
                yield paused


def cells_before(wildcards):
    """A rule's parameter: the cells whose runs may decide who reaches a rung."""
    trials = [trial for trial in STUDY.trials.values() if trial.base == wildcards.base]
    before = int(wildcards.rung) - 1
    return [str(cell) for trial in trials for cell in STANDINGS.cells(trial, before)]


def going_on(cells):
    """Those of these cells that are trained to their end: all, but for the trials dropped."""
    last = len(STANDINGS.rungs) - 1
    if last == 0:
        return cells
    ends = {label for base in STANDINGS.bases for label in left(base, last)}
    return [cell for cell in cells if cell.algorithm not in STUDY.trials or cell.algorithm in ends]


def promoted_files():
    """What says which trials were dropped."""
    return [
        LAYOUT.promoted(STUDY.name, base, rung)
        for base in STANDINGS.bases
        for rung in range(1, len(STANDINGS.rungs))
    ]


def chosen_files(wildcards):
    """A rule's input: what a study's sweep has chosen, if it is one.

    What promotes trials is named beside it: asked for one by one, labels would wait for each other.
    """
    return [*promoted_files(), LAYOUT.chosen(STUDY.name)] if STUDY.trials else []


def deciding_files(wildcards):
    """A rule's input: what a choice is made from."""
    cells = going_on([cell for cell in STUDY.cells if cell.algorithm in STUDY.trials])
    manifests = [LAYOUT.run(STUDY.name, cell) / "manifest.json" for cell in cells]
    return [*manifests, *promoted_files()]


def sweep_text(wildcards):
    """A rule's parameter: what the study says of its sweep, as JSON."""
    return json.dumps(config.get("sweep"))


def is_paused(cell):
    """Whether a cell has come to a rung already, or to its end."""
    paused = [LAYOUT.paused(STUDY.name, cell, rung.rounds) for rung in STANDINGS.rungs]
    return any(file.is_file() for file in paused) or EXPECTED.is_there(cell)
