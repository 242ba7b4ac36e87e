"""What the jobs left behind for each cell, read only; what is missing is None, never an error."""

import csv
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgloss.errors import InputError
from fedgloss.files import read_json

if TYPE_CHECKING:
    from fedgloss.study import Cell, Study

Columns = dict[str, list[float]]
"""A CSV of numbers by column."""


@dataclass(frozen=True)
class Results:
    """The results folder of a study."""

    study: "Study"
    folder: Path

    def metrics(self, cell: "Cell") -> Columns | None:
        """The evaluated rounds: round, accuracy, loss and what else was recorded."""
        return self._csv(self.path("runs", cell, "metrics.csv"))

    def manifest(self, cell: "Cell") -> dict[str, Any] | None:
        """How the run went, with its settings and where it ran."""
        return self._json(self.path("runs", cell, "manifest.json"))

    def hessian(self, cell: "Cell") -> dict[str, Any] | None:
        """The Hessian's largest eigenvalues, and of which model on which data."""
        return self._json(self.path("analysis", cell, "hessian.json"))

    def landscape(self, cell: "Cell") -> Columns | None:
        """The loss surface: x, y, loss, accuracy; x slowest."""
        return self._csv(self.path("analysis", cell, "landscape.csv"))

    def status(self, cell: "Cell") -> str:
        """`completed`, `diverged` or `missing`."""
        manifest = self.manifest(cell)
        return manifest["status"] if manifest else "missing"

    def path(self, kind: str, cell: "Cell", name: str) -> Path:
        """A file of a cell; kind is runs or analysis."""
        return Path(self.folder) / kind / self.study.name / str(cell) / name

    def _json(self, path: Path) -> dict[str, Any] | None:
        return read_json(path) if path.exists() else None

    def _csv(self, path: Path) -> Columns | None:
        if not path.exists():
            return None
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            columns: Columns = {name: [] for name in rows.fieldnames or ()}
            for row in rows:
                for name in columns:
                    try:
                        columns[name].append(float(row[name]))
                    except (TypeError, ValueError):
                        raise InputError(
                            f"{path}: line {rows.line_num}: {name} is not a number"
                        ) from None
        return columns


@dataclass(frozen=True)
class Summary:
    """One quantity over the seeds of one condition; nothing that is missing is hidden in a mean."""

    values: Mapping[int, float]
    """By seed: the seeds that have a value."""
    planned: int
    """Seeds in the grid."""
    diverged: int = 0
    unreached: int = 0
    """Seeds that ran to the end without reaching what was to be reached."""

    @property
    def n(self) -> int:
        """Seeds that have a value."""
        return len(self.values)

    @property
    def missing(self) -> int:
        """Seeds not run yet."""
        return self.planned - self.n - self.diverged - self.unreached

    @property
    def mean(self) -> float | None:
        """The mean over the seeds that have a value."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation (ddof = 1); None for fewer than two values."""
        return statistics.stdev(self.values.values()) if self.n > 1 else None


NOT_REACHED = "not reached"
FLOAT32_BYTES = 4


def summarize(
    results: Results, cells: Iterable["Cell"], value: Callable[["Cell"], float | str | None]
) -> Summary:
    """Gather `value` over cells: a number, NOT_REACHED, or None where it does not exist (yet)."""
    cells = list(cells)
    values, diverged, unreached = {}, 0, 0
    for cell in cells:
        if results.status(cell) == "diverged":
            diverged += 1
            continue
        found = value(cell)
        if found == NOT_REACHED:
            unreached += 1
        elif found is not None:
            values[cell.seed] = found
    return Summary(values, len(cells), diverged, unreached)


def accuracy(results: Results, cell: "Cell") -> float | None:
    """The mean test accuracy (percent) of the evaluated rounds among the last `last` ones."""
    manifest = results.manifest(cell)
    return manifest["accuracy"] if manifest else None


def accuracy_at_half(results: Results, cell: "Cell") -> float | None:
    """The mean test accuracy (percent) of the evaluations in the last `last` rounds before T/2."""
    manifest = results.manifest(cell)
    return manifest["accuracy_at_half"] if manifest else None


def lambda1(results: Results, cell: "Cell") -> float | None:
    """The Hessian's largest eigenvalue."""
    hessian = results.hessian(cell)
    return hessian["lambda1"] if hessian else None


def communication_cost(results: Results, cells: Iterable["Cell"]) -> float | None:
    """Bytes that crossed the network relative to FedAvg's two models per client and round.

    Counted in the runs that went to the end; None if there is none, or nothing is communicated.
    """
    costs = []
    for cell in cells:
        manifest = results.manifest(cell)
        if manifest and manifest["status"] == "completed":
            training = manifest["settings"]["training"]
            models = 2 * training["rounds"] * training["clients_per_round"]
            sent = manifest["bytes_down"] + manifest["bytes_up"]
            costs.append(sent / (models * manifest["parameters"] * FLOAT32_BYTES))
    return statistics.fmean(costs) if costs else None
