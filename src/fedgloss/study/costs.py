"""What a study will cost, in words: hours by table, model and device, and how much is a guess."""

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fedgloss.study.remaining import Job, entries_of, named_by, remaining
from fedgloss.study.resources import Need
from fedgloss.study.study import Study

WORDS = {
    "train": ("cell to train", "cells to train"),
    "hessian": ("Hessian", "Hessians"),
    "locals": ("set of local models", "sets of local models"),
    "landscape": ("loss surface", "loss surfaces"),
    "line": ("line between models", "lines between models"),
}
"""What is counted of each kind of job: cells, however many of them a job serves."""
START, LIGHT, WORKFLOW = 1.4, 1.3, 2.5
"""Seconds of one core until a job has torch; for a job on data, a table, a figure or the report;
and of all cores until Snakemake starts the first job. Of a study of small cells the larger part."""
ERROR = "give or take 30 %"
"""How far off the time here is, on cores that nobody else uses, if nothing in it is guessed."""


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU; asking torch would take a second."""
    return os.path.exists("/dev/nvidiactl")


def estimate(study: Study, results: Path, target: str = "", details: bool = False) -> str:
    """The hours still to be spent, by table or figure, model and device, then the total.

    target: a table, a figure, a part of the paper, or the beginning of cells' paths; InputError
    if the study has none such. details: a line for each condition and kind of job instead.
    """
    jobs = [*remaining(study, results, target)]
    if details:
        return "\n".join([*_details(jobs), *[""] * bool(jobs), *total(study, jobs)])
    lines = by_group(jobs, lambda job: (job.part or "in no table", job.cell.model))
    notes = _elsewhere(study, target, jobs)
    return "\n".join([*lines, *[""] * bool(jobs), *total(study, jobs), *notes])


def _elsewhere(study: Study, target: str, jobs: Sequence[Job]) -> Iterator[str]:
    """A line about a table or figure whose jobs are listed under others, if there is one."""
    entries = named_by(study, target) if target else entries_of(study)
    if len({job.part for job in jobs}) == 1:
        return
    for (_, name), entry in entries.items():
        behind = {*study.cells_behind(entry)}
        if any(job.part != name and job.cell in behind for job in jobs):
            yield (
                "(a job is listed once, under the first table or figure that needs it; all that"
                f" {name} needs: fedgloss estimate {shlex.quote(study.file)} {name})"
            )
            return


def by_group(jobs: Sequence[Job], key: Callable[[Job], tuple[str, ...]]) -> list[str]:
    """A line for each group of jobs and device: how many of each kind, and their hours."""
    groups: dict[tuple[str, ...], list[Job]] = {}
    for one in jobs:
        device = "GPU" if one.need.gpu else "CPU"
        groups.setdefault((*key(one), device), []).append(one)
    rows = []
    for (*names, device), members in groups.items():
        hours = [f"{max(_hours([member.need for member in members]), 0.01):.2f} {device} h"]
        if device == "GPU" and not has_gpu():
            hours.append(f"or {_hours([member.on_cpu for member in members]):,.0f} CPU h")
        rows.append([*names, counted(members), *hours])
    return _aligned(rows)


def counted(jobs: Sequence[Job]) -> str:
    """How many cells are to be trained, and how many measured in which way."""
    cells: dict[str, int] = {}
    for one in jobs:
        cells[one.kind] = cells.get(one.kind, 0) + one.cells
    known = [(cells[kind], words) for kind, words in WORDS.items() if kind in cells]
    return ", ".join(f"{n} {words[n != 1]}" for n, words in known)


def total(study: Study, jobs: Sequence[Job], cores: int | None = None) -> list[str]:
    """The sum of all jobs, and how long they take here if here is no GPU or none is wanted.

    cores: at most so many of this machine's, all by default.
    """
    needs = [job.need for job in jobs]
    devices = {"GPU": [n for n in needs if n.gpu], "CPU": [n for n in needs if not n.gpu]}
    hours = [f"{_amount(_hours(some), device)}" for device, some in devices.items() if some]
    left = f"{counted(jobs)}: {' and '.join(hours)}" if jobs else "nothing left to run"
    lines = [f"{study.name}: {left}{_guessed(needs)}"]
    if jobs and not (devices["GPU"] and has_gpu()):
        all_cores = len(os.sched_getaffinity(0))
        cores = min(cores or all_cores, all_cores)
        where = f"{'without a GPU, as ' if devices['GPU'] else ''}here, on {cores} core"
        where += "s" * (cores > 1)
        doubt = _guessed([job.on_cpu for job in jobs]) or f", {ERROR}"
        lines.append(f"{where}: about {spoken(here(study, jobs, cores))}{doubt}")
    if any("guessed" in line for line in lines):
        lines.append("(guessed: not measured yet; constants/resources.yaml says from what)")
    return lines


def here(study: Study, jobs: Sequence[Job], cores: int) -> float:
    """Seconds until all is built on so many cores of this machine.

    Seeds of small cells are trained by one job, as the workflow packs them.
    """
    alone: dict[tuple[object, ...], float] = {}
    for number, job in enumerate(jobs):
        packed = job.kind == "train" and not job.need.gpu
        key = ("train", job.condition) if packed else (number,)
        alone[key] = alone.get(key, START) + job.on_cpu.seconds
    cells = {job.cell for job in jobs}
    entries = [*study.tables.values(), *study.figures.values()]
    shown = sum(not cells.isdisjoint(study.cells_behind(entry)) for entry in entries)
    trains = any(job.kind == "train" for job in jobs)
    before, after = LIGHT * 2 * trains, LIGHT  # data and their cut; the report: nothing beside them
    work = sum(alone.values()) + LIGHT * shown
    return WORKFLOW + before + max(work / cores, max(alone.values())) + after


def _guessed(needs: Sequence[Need]) -> str:
    """How much of these hours is guessed, as the end of a line."""
    share = _hours([need for need in needs if need.basis == "guessed"])
    return f", {share / _hours(needs):.0%} of it guessed" if share else ""


def _details(jobs: Sequence[Job]) -> list[str]:
    groups: dict[tuple[str, str], list[Need]] = {}
    for one in jobs:
        groups.setdefault((one.condition, one.kind), []).append(one.need)
    return _aligned(
        [
            [
                condition,
                kind,
                f"{len(needs)} x {_duration(needs[0].seconds)}",
                f"= {_hours(needs):.2f} {'GPU' if needs[0].gpu else 'CPU'} h",
                f"limit {_duration(60 * needs[0].minutes(1))}",
                needs[0].basis,
            ]
            for (condition, kind), needs in groups.items()
        ]
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, each column as wide as its widest entry; numbers to the right."""
    widths = [
        max(len(row[i]) for row in rows if i < len(row))
        for i in range(max(map(len, rows), default=0))
    ]
    return [
        "  ".join(
            f"{text:>{width}}" if text.endswith(" h") else f"{text:<{width}}"
            for text, width in zip(row, widths, strict=False)
        ).rstrip()
        for row in rows
    ]


def spoken(seconds: float) -> str:
    """A time as one says it: 40 s, 2.5 min, 12 min, 5.1 h, 3 days, 2.4 years."""
    limits = ((90, 1, 0), (570, 60, 1), (5400, 60, 0), (172_800, 3600, 1), (6.3e7, 86_400, 0))
    for limit, unit, digits in limits:
        if seconds < limit:
            name = {1: "s", 60: "min", 3600: "h", 86_400: "days"}[unit]
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 31_557_600:.1f} years"


def _hours(needs: Sequence[Need]) -> float:
    return sum(need.seconds for need in needs) / 3600


def _amount(hours: float, device: str) -> str:
    """Hours of a device, of which there may be a minute or a thousand."""
    if hours < 0.1:
        return f"{max(60 * hours, 0.1):.1f} {device} minutes"
    return f"{hours:,.{1 if hours < 100 else 0}f} {device} hours"


def _duration(seconds: float) -> str:
    """A time as 1:02:03, or a short one as 4.5 s."""
    if seconds < 60:
        return f"{max(seconds, 0.1):.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
