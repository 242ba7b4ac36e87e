"""Tables of kind communication: how much is exchanged until FedAvg's accuracy is reached."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fedgloss.errors import InputError
from fedgloss.report import results
from fedgloss.report.definitions import accuracy, training_values
from fedgloss.report.model import Column
from fedgloss.report.results import NOT_REACHED, Results, Summary, summarize
from fedgloss.study.schema.shown import CommunicationTable, Condition

if TYPE_CHECKING:
    from fedgloss.study.study import Cell


def measure(found: Results, cells: Sequence["Cell"], column: Column) -> Summary:
    """Rounds, or bytes in units of FedAvg's, until FedAvg's final accuracy is first reached."""
    return reached(found, cells, column.condition, column.metric)


def reached(found: Results, cells: Sequence["Cell"], condition: Condition, metric: str) -> Summary:
    """`rounds`, or the `cost` in bytes by FedAvg's, until its final accuracy is first reached."""
    baseline = fedavg(found, condition)
    target = summarize(found, baseline, lambda cell: results.accuracy(found, cell)).mean
    budget = summarize(found, baseline, lambda cell: _bytes(found, cell)).mean

    def first_reached(cell: "Cell") -> float | str | None:
        manifest, metrics = found.manifest(cell), found.metrics(cell)
        if not manifest or not metrics or target is None:
            return None
        total = manifest["settings"]["training"]["rounds"]
        first = total if cell in baseline else _first(metrics, target)
        if first is None:
            return NOT_REACHED
        if metric == "rounds":
            return first
        sent = _bytes(found, cell)
        return sent * first / total / budget if sent is not None and budget else None

    return summarize(found, cells, first_reached)


def fedavg(found: Results, column: Condition) -> list["Cell"]:
    """FedAvg's cells of a column; InputError where the grid has none."""
    cells = found.study.baselines(column)
    if cells:
        return cells
    raise InputError(
        f"{found.study.file}: tables: kind communication counts against fedavg, which the grid"
        f" lacks at {column}"
    )


def notes(found: Results, asked: CommunicationTable, cells: Sequence["Cell"]) -> Iterator[str]:
    """What its numbers mean."""
    manifests = [m for m in map(found.manifest, cells) if m]
    yield (
        "Rounds: for each seed the first evaluated round whose test accuracy is at least"
        f" FedAvg's final one in that column (the {accuracy(manifests)}, over its"
        " seeds); FedAvg itself takes all its rounds, by definition."
        f" Evaluated every {training_values(manifests, 'evaluate_every')} rounds."
        " Cost: the bytes exchanged until then, in units of B, what FedAvg exchanges in all its"
        " rounds. `–`: not reached;"
        " `2/3 reached`: by two seeds of three, the mean is over these."
    )


def _first(metrics: results.Columns, target: float) -> float | None:
    rows = zip(metrics["round"], metrics["accuracy"], strict=True)
    return next((t for t, accuracy in rows if accuracy >= target), None)


def _bytes(found: Results, cell: "Cell") -> float | None:
    manifest = found.manifest(cell)
    return manifest["bytes_down"] + manifest["bytes_up"] if manifest else None
