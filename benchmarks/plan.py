"""Which cells of which studies are trained on a GPU that is lent for minutes, and in which order.

A group is [DATASET/]LABEL,LABEL,...[:SEED,SEED,...]: cells that are trained side by side. A label
that a sweep searches stands for all of its trials; without seeds, all of the study are meant.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from fedgloss.algorithms import build_algorithm
from fedgloss.errors import InputError, did_you_mean
from fedgloss.jobs.cells import CellFiles, check_same_shape
from fedgloss.study.jobfile import job_of, to_json
from fedgloss.study.layout import HERE, IMAGES_FILE
from fedgloss.study.outdated import Expectations
from fedgloss.study.study import Cell, Study, load_study
from fedgloss.study.sweep import base_of

ENDS = (".yaml", ".yml", ".json")
"""Of a study's file."""


def plan_of(
    words: Sequence[str], *, unit: float, bring: Sequence[str], locals_of: Sequence[str],
    divergence: str, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """The plan for `STUDY GROUP ... [STUDY GROUP ...]`; cells that are trained here are left out.

    unit: seconds for a cell with one gradient a step. bring, locals_of: labels whose models are
    brought home, whose local models are measured. divergence: a group of the first study to look
    into, in so many seconds. What it needs and is not here, Snakemake makes. Raises InputError.
    """
    asked = [*studies_and_groups(words)]
    for option, labels in (("--bring", bring), ("--locals", locals_of)):
        check_labels(option, labels, [cell for study, _ in asked for cell in study.cells])
    groups = []
    for study, texts in asked:
        expected = Expectations(study, HERE.results)
        for text in texts:
            absent = [cell for cell in group_of(study, text) if not expected.is_there(cell)]
            groups.append([planned(study, cell, bring, locals_of) for cell in absent])
    plan: dict[str, Any] = {"seconds_a_unit": unit, "groups": [group for group in groups if group]}
    if divergence:
        study = asked[0][0]
        cells = [planned(study, cell, (), ()) for cell in group_of(study, divergence)]
        plan["divergence"] = {"seconds": seconds, "cells": cells}
    if not jobs_of(plan):
        raise InputError("all of these cells have been trained here")
    for study, _ in asked:
        make_inputs(study, {job["partition"] for job in jobs_of(plan)})
    return plan


def jobs_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The training jobs of a plan."""
    cells = [cell for group in plan["groups"] for cell in group]
    return [cell["train"] for cell in [*cells, *plan.get("divergence", {}).get("cells", ())]]


def studies_and_groups(words: Sequence[str]) -> Iterator[tuple[Study, Sequence[str]]]:
    """Each study with its groups; InputError for a group without a study, or the reverse."""
    starts = [i for i, word in enumerate(words) if word.endswith(ENDS)]
    if not starts or starts[0]:
        raise InputError(f"{words[0]!r} is no study file; allowed: STUDY GROUP ... [STUDY ...]")
    for start, end in zip(starts, [*starts[1:], len(words)], strict=True):
        if end == start + 1:
            raise InputError(f"{words[start]}: is followed by no group of cells")
        yield load_study(words[start]), words[start + 1 : end]


def group_of(study: Study, text: str) -> list[Cell]:
    """The cells of a group, seed after seed; InputError for a label or a seed that has none.

    Cells that cannot be trained side by side are refused here, before a GPU waits for them.
    """
    dataset, _, rest = text.rpartition("/")
    asked, _, seeds = rest.partition(":")
    labels = asked.split(",")
    there = [cell for cell in study.cells if not dataset or cell.dataset == dataset]
    check_labels(f"{text}: {study.file}", labels, there)
    wanted = seeds.split(",") if seeds else [*dict.fromkeys(str(cell.seed) for cell in there)]
    found = [
        cell
        for seed in wanted
        for label in labels
        for cell in there
        if str(cell.seed) == seed and label in names_of(cell)
    ]
    for seed in wanted:
        if seed not in {str(cell.seed) for cell in found}:
            raise InputError(f"{text}: {study.file} has no cells of the seed {seed!r} there")
    jobs = [job_of("train", study, cell, HERE) for cell in found]
    try:
        check_same_shape([CellFiles(j.settings, j.partition, j.run, j.code) for j in jobs])
    except InputError as error:
        raise InputError(f"{text}: {error}") from None
    return found


def names_of(cell: Cell) -> tuple[str, str]:
    """What a cell may be called: its label, or that of which it is a trial."""
    return base_of(cell.algorithm), cell.algorithm


def check_labels(where: str, labels: Sequence[str], cells: Sequence[Cell]) -> None:
    """Refuse a label that none of these cells has."""
    known = [*dict.fromkeys(name for cell in cells for name in names_of(cell))]
    for label in labels:
        if label not in known:
            raise InputError(
                f"{where}: there are no cells of {label!r}{did_you_mean(label, known)}"
            )


def planned(
    study: Study, cell: Cell, bring: Sequence[str], locals_of: Sequence[str]
) -> dict[str, Any]:
    """A cell as a plan has it: its jobs, and how many gradients a step it takes."""

    def job(kind: str) -> Any:
        return json.loads(to_json(job_of(kind, study, cell, HERE)))

    train = job("train")
    if train["weights"]:
        raise InputError(f"{cell}: starts from {train['weights']}; weights are not brought there")
    settings = train["settings"]
    return {
        "name": f"{study.name}/{cell}",
        "units": build_algorithm(settings["method"], settings["variants"]).gradients,
        "bring": not set(names_of(cell)).isdisjoint(bring),
        "train": train,
        "hessian": None if study.trials else job("hessian"),  # a sweep shows no lambda_1
        "locals": None if set(names_of(cell)).isdisjoint(locals_of) else job("locals"),
    }


def make_inputs(study: Study, partitions: set[str]) -> None:
    """Have Snakemake make those of these partitions of a study that are missing, and their data."""
    files = {}
    for cell in study.cells:
        cut = HERE.partition(study.partition_folder(cell.dataset, cell.alpha), cell.alpha)
        if str(cut) in partitions:
            files[cut] = None
            files[HERE.data(study.data_folder(cell.dataset)) / IMAGES_FILE] = None
    absent = [str(file) for file in files if not file.is_file()]
    command = ["snakemake", "--cores=1", f"--configfile={study.file}", *absent]
    if absent and subprocess.run(command).returncode:
        raise InputError(f"{absent[0]}: cannot be made, as said above")
