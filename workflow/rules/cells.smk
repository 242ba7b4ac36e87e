"""The cells that a job is about: inputs, parameters and resources of its rule.

REQUIRES  STUDY, SEEDS, LAYOUT (study.smk), view_of (views.smk), SETTINGS (packing.smk), PACKS and
          trials_at (trials.smk), by the time a job is known
PROVIDES  cells_of, and functions of wildcards: what the cells' jobs read, what decides their
          numbers, and what they need
"""

import functools
import json
from dataclasses import replace

from fedgloss import fingerprint
from fedgloss.study import resources
from fedgloss.study.jobfile import job_of
from fedgloss.study.layout import CELL, SEED


def cells_of(wildcards):
    """The cells of a job: the one that its wildcards name, a method's of all seeds, all methods', or
    those of some trials of a sweep.

    A cell outside the grid is refused with near matches.
    """
    if "condition" in wildcards.keys():
        return [STUDY.cell(f"{wildcards.condition}/{SEED.format(seed=seed)}") for seed in SEEDS]
    if "setting" in wildcards.keys():
        return SETTINGS[wildcards.setting]
    for name, labels in PACKS.items():
        if name in wildcards.keys():
            return trials_at(wildcards[name], labels)
    return [STUDY.cell(CELL.format(**wildcards))]


def partition_of(wildcards):
    """A rule's input: the partition that its job's cells train on."""
    cell = cells_of(wildcards)[0]
    return LAYOUT.partition(STUDY.partition_folder(cell.dataset, cell.alpha), cell.alpha)


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
    """A rule's parameter: its cells' resolved settings."""
    return settings_text(cells_of(wildcards)[0])


def settings_text(cell):
    """A cell's resolved settings as JSON: a change in the configuration is a change here.

    The seed is in the output's path, and so is what a sweep tries: a cell's parameters are the same
    alone, among its seeds, and among other trials.
    """
    settings = STUDY.settings(cell).to_json()
    del settings["seed"]
    if trial := STUDY.trials.get(cell.algorithm):
        settings["algorithm"] = trial.base
        # A hyperparameter may have been given by its other name.
        own = {other: name for name, other in STUDY.algorithm(cell)[1].reciprocals.items()}
        for section, name in trial.point:
            for key in (name, own.get(name)):
                settings[section].pop(key, None)
    return json.dumps(settings)


def asked(kind, *entries):
    """A rule's parameter: these entries of a job's file, as JSON."""

    def values(wildcards):
        view = view_of(kind, wildcards)
        job = job_of(kind, STUDY, cells_of(wildcards)[0], LAYOUT, view)
        return json.dumps({name: getattr(job, name) for name in entries})

    return values


@functools.cache
def need_of(kind, cell):
    """What a job needs by src/fedgloss/study/constants/resources.yaml; kind: training, hessian, locals, landscape or line."""
    return getattr(resources, kind)(STUDY, cell)


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
