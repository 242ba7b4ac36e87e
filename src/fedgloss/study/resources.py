"""What jobs need, from constants/resources.yaml: seconds, GPUs and memory.

The table gives seconds for a participant's epoch by data source, model and the clients' optimiser,
on the device that a job is meant for and on one core of a processor; a cell's settings say how many
of those it takes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from fedgloss.sharpness.auto import AUTO
from fedgloss.study.configuration import CONSTANTS, read_yaml, validate
from fedgloss.study.schema.resources import Resources
from fedgloss.study.settings import Settings
from fedgloss.study.study import Cell, Study

RESOURCES_FILE = CONSTANTS / "resources.yaml"
PRODUCTS = 20
"""Of the Hessian with a vector, which the table's seconds for a model's eigenvalues stand for."""


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


def training(
    study: Study,
    cell: Cell,
    rounds_done: int = 0,
    on_cpu: bool = False,
    until: int | None = None,
) -> Need:
    """What training a cell needs, or what is left of it after a checkpoint or up to a rung."""
    settings = study.settings(cell)
    given = settings.training
    _, algorithm = study.algorithm(cell)
    optimiser = "sam" if algorithm.gradients > 1 else "sgd"
    row, other = (row[optimiser] for row in _rows("training", study, settings))
    row = _on_cpu(row, other) if on_cpu else row
    participants = given["clients"] if algorithm.pooled else given["clients_per_round"]
    # A probe trains every cohort a second time, the measurement of delta_epsilon does so in the
    # rounds that are evaluated.
    passes = 1.0
    if algorithm.probe:
        passes = 2.0
    elif "delta_epsilon" in given["record"]:
        every, last = given["evaluate_every"], given["last"]
        passes += ((given["rounds"] - last) // every + last) / given["rounds"]
    rounds = (until or given["rounds"]) - rounds_done
    epochs = rounds * participants * given["epochs"] * passes
    if row["gpu"] and settings.precision in ("float16", "bfloat16"):
        epochs *= row.get("half", 1)
    return Need(row["seconds"] * epochs, row["gpu"], row["mem_mb"], row["basis"], row["cell_mb"])


def hessian(study: Study, cell: Cell, on_cpu: bool = False) -> Need:
    """What the spectra of a cell and its sisters of all other seeds need: one job."""
    asked = study.hessian
    products = _products(asked.count) + _products(1) * (len(asked.models) - 1)
    products += asked.trace.products if asked.trace else 0
    products += asked.density.starts * asked.density.steps if asked.density else 0
    seeds = len(study.asked.seeds)
    return _of_images(study, cell, "hessian", products / PRODUCTS * seeds, on_cpu)


def locals(study: Study, cell: Cell, on_cpu: bool = False) -> Need:
    """What the spectra of a cell's local models need; their own few images cost next to nothing."""
    participants = study.settings(cell).training["clients_per_round"]
    return _of_images(study, cell, "hessian", participants * _products(1) / PRODUCTS, on_cpu)


def _products(count: int) -> int:
    """How many a model's largest eigenvalues take, as they were seen to."""
    return 10 + 2 * count


def landscape(study: Study, cell: Cell, on_cpu: bool = False) -> Need:
    """What the loss surface around a model of a cell needs, on the data of all clients."""
    return _of_images(study, cell, "landscape", study.landscape.points**2, on_cpu)


def line(study: Study, cell: Cell, on_cpu: bool = False) -> Need:
    """What the line from a cell's model to another needs."""
    return _of_images(study, cell, "landscape", 1.5 * study.landscape.points, on_cpu)


def _of_images(study: Study, cell: Cell, kind: str, times: float, on_cpu: bool) -> Need:
    """What so many spectra of a model, or points, need, over as many images as the study asks."""
    need = _analysis(study, cell, kind, times, on_cpu)
    row, _ = _rows("analysis", study, study.settings(cell))
    images = study.hessian.images if kind == "hessian" else study.landscape.images
    if images == "auto":
        images = "all" if need.gpu else AUTO
    share = min(images / row["images"], 1.0) if isinstance(images, int) else 1.0
    return replace(need, seconds=need.seconds * share)


def _analysis(study: Study, cell: Cell, kind: str, times: float, on_cpu: bool) -> Need:
    row, other = _rows("analysis", study, study.settings(cell))
    row = _on_cpu(row, other) if on_cpu else row
    return Need(row[kind] * times, row["gpu"], row["mem_mb"], row["basis"])


def _rows(section: str, study: Study, settings: Settings) -> tuple[Any, Any]:
    """The row of a cell's data source and model, and the one that serves what has none."""
    rows = table()[section]
    source = study.datasets[settings.dataset].source
    return rows.get(f"{source}/{settings.model}", rows["default"]), rows["default"]


def _on_cpu(row: Mapping[str, Any], default: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row as it is on one core of a processor."""
    return {**row, **row.get("cpu", default["cpu"]), "gpu": 0} if row["gpu"] else row
