"""What jobs need, from constants/resources.yaml: limits for a cluster, and the cost of a study.

The table gives seconds for a participant's epoch by data source, model and the clients' optimiser;
a cell's settings say how many of those it takes.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fedgloss.errors import InputError, did_you_mean
from fedgloss.files import read_json
from fedgloss.study.configuration import CONSTANTS, read_yaml, validate
from fedgloss.study.outdated import is_hessian_of
from fedgloss.study.schema.resources import Resources
from fedgloss.study.settings import Settings
from fedgloss.study.status import States
from fedgloss.study.study import Cell, Study

RESOURCES_FILE = CONSTANTS / "resources.yaml"


@dataclass(frozen=True)
class Need:
    """What one job needs: estimated seconds, GPUs, MiB of host memory, and how that is known."""

    seconds: float
    gpu: int
    mem_mb: int
    basis: str
    cell_mb: int = 0
    """MiB that each further cell trained by the same job adds."""

    def minutes(self, attempt: int) -> int:
        """The time limit of an attempt (1, 2, ...): a margin over the estimate, growing."""
        limits = table()["limits"]
        seconds = limits["margin"][self.basis] * self.seconds + limits["start_seconds"]
        minutes = math.ceil(seconds * limits["growth"] ** (attempt - 1) / 60)
        return min(minutes, limits["longest_minutes"])

    def memory(self, attempt: int) -> int:
        """The memory limit of an attempt in MiB, growing likewise."""
        return math.ceil(self.mem_mb * table()["limits"]["growth"] ** (attempt - 1))

    def together(self, cells: int) -> "Need":
        """What a job needs that trains so many cells of this kind together."""
        mem_mb = self.mem_mb + (cells - 1) * self.cell_mb
        return replace(self, seconds=self.seconds * cells, mem_mb=mem_mb)


@cache
def table() -> Mapping[str, Any]:
    """The table, checked; InputError for the first mistake in it."""
    content = read_yaml(RESOURCES_FILE)
    validate(content, Resources, "constants/resources.yaml")
    return content


def training(study: Study, cell: Cell, rounds_done: int = 0) -> Need:
    """What training a cell needs, or the rest of it after a checkpoint."""
    settings = study.settings(cell)
    given = settings.training
    _, algorithm = study.algorithm(cell)
    row = _row("training", study, settings)["sam" if algorithm.gradients > 1 else "sgd"]
    participants = given["clients"] if algorithm.pooled else given["clients_per_round"]
    # A probe, and the measurement of delta_epsilon, train every cohort a second time.
    passes = 2 if algorithm.probe or "delta_epsilon" in given["record"] else 1
    epochs = (given["rounds"] - rounds_done) * participants * given["epochs"] * passes
    return Need(row["seconds"] * epochs, row["gpu"], row["mem_mb"], row["basis"], row["cell_mb"])


def hessian(study: Study, cell: Cell) -> Need:
    """What the eigenvalues of a cell and its sisters of all other seeds need: one job."""
    return _analysis(study, cell, "hessian", len(study.hessian.models) * len(study.asked.seeds))


def landscape(study: Study, cell: Cell) -> Need:
    """What the loss surface of a cell needs."""
    return _analysis(study, cell, "landscape", study.landscape.points**2)


def _analysis(study: Study, cell: Cell, kind: str, times: int) -> Need:
    row = _row("analysis", study, study.settings(cell))
    return Need(row[kind] * times, row["gpu"], row["mem_mb"], row["basis"])


def _row(section: str, study: Study, settings: Settings) -> Mapping[str, Any]:
    rows = table()[section]
    source = study.datasets[settings.dataset]["source"]
    return rows.get(f"{source}/{settings.model}", rows["default"])


@dataclass(frozen=True)
class Job:
    """A job still to be run: train, hessian or landscape, for a condition."""

    kind: str
    condition: str
    need: Need


def estimate(study: Study, results: Path, target: str = "") -> str:
    """The hours still to be spent: a line for each condition and kind of job, then the total.

    target: a table, a figure, or how cells' paths begin; InputError if the study has none such.
    """
    jobs = list(remaining(study, results, target))
    groups: dict[tuple[str, str], list[Need]] = {}
    for job in jobs:
        groups.setdefault((job.condition, job.kind), []).append(job.need)
    width = max((len(condition) for condition, _ in groups), default=0)
    lines = []
    for (condition, kind), needs in groups.items():
        first = needs[0]
        lines.append(
            f"{condition:<{width}}  {kind:<9}  {len(needs):>3} x {_duration(first.seconds):>9}"
            f"  = {_hours(needs):>9.2f} {'GPU' if first.gpu else 'CPU'} h"
            f"  limit {_duration(60 * first.minutes(1)):>9}  {first.basis}"
        )
    on_gpu = [job.need for job in jobs if job.need.gpu]
    on_cpu = [job.need for job in jobs if not job.need.gpu]
    total = f"{study.name}: {len(jobs)} jobs to run: {_hours(on_gpu):.1f} GPU hours"
    total += f" and {_hours(on_cpu):.2f} CPU hours"
    guesses = _hours([job.need for job in jobs if job.need.basis == "guessed"])
    if guesses:
        total += f"; {guesses / _hours([job.need for job in jobs]):.0%} of that is guessed, not"
        total += " measured (constants/resources.yaml says why)"
    return "\n".join([*lines, *([""] if lines else []), total])


def remaining(study: Study, results: Path, target: str = "") -> Iterator[Job]:
    """The jobs on a GPU's or a cluster's bill whose results are not there yet."""
    entries = {**study.tables, **study.figures}
    name = re.sub("^(table|figure)_", "", target)
    if name in entries:
        entries = {name: entries[name]}
        cells = study.cells_of(entries[name])
    else:
        cells = [cell for cell in study.cells if str(cell).startswith(target.strip("/"))]
    if not cells:
        known = [*entries, *dict.fromkeys(cell.condition for cell in study.cells)]
        raise InputError(
            f"{study.file}: {target!r} is no table, figure or beginning of a cell's path"
            f"{did_you_mean(target, known).split('; allowed')[0]}"
        )
    states = States(study, results)
    left = {cell for cell in cells if states.of(cell) not in ("done", "diverged")}
    for cell in cells:
        if cell in left:
            rounds = min(states.rounds(cell), study.settings(cell).training["rounds"])
            yield Job("train", cell.condition, training(study, cell, rounds))
    sharp, surfaces = set(), set()
    for entry in entries.values():
        if "lambda1" in entry.get("show", []) or entry["kind"] == "eigenvalues":
            sharp.update(cell.condition for cell in study.cells_of(entry))
        elif entry["kind"] == "landscape":
            surfaces.update(study.cells_of(entry))
    analysed = results / "analysis" / study.name
    again = {cell.condition for cell in left}  # of an outdated run nothing stays
    for condition, cell in {cell.condition: cell for cell in cells}.items():
        there = condition not in again and _is_measured(study, analysed / str(cell))
        if condition in sharp and not there:
            yield Job("hessian", condition, hessian(study, cell))
    for cell in cells:
        there = (analysed / str(cell) / "landscape.csv").is_file() and cell not in left
        if cell in surfaces and not there:
            yield Job("landscape", cell.condition, landscape(study, cell))


def _is_measured(study: Study, folder: Path) -> bool:
    """Whether a cell's eigenvalues are there, all that the study's `hessian` section asks for."""
    file = folder / "hessian.json"
    if not file.is_file():
        return False
    found, asked = read_json(file), study.hessian
    if not isinstance(found, dict) or not is_hessian_of(found, asked):
        return False
    if found.get("status") == "diverged":
        return True
    values = found.get("eigenvalues")
    others = {f"lambda1_{name}_model" for name in asked.models[1:]}
    return (
        isinstance(values, list)
        and len(values) == asked.count
        and others == {key for key in found if key.startswith("lambda1_")}
    )


def _hours(needs: list[Need]) -> float:
    return sum(need.seconds for need in needs) / 3600


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
