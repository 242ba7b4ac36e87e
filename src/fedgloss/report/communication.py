"""Tables of kind communication: how much is exchanged until an accuracy is reached."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fedgloss.errors import InputError
from fedgloss.report import names, recorded, values
from fedgloss.report.definitions import accuracy, training_values
from fedgloss.report.formats import count
from fedgloss.report.model import Column, Entry, Row
from fedgloss.report.reading import Columns
from fedgloss.report.results import NOT_REACHED, Results
from fedgloss.report.seeds import Summary, summarize
from fedgloss.study.schema.shown import AGAINST, CommunicationTable, Condition

if TYPE_CHECKING:
    from fedgloss.study.study import Cell


def measure(found: Results, cells: Sequence["Cell"], column: Column) -> Summary:
    """Rounds, or bytes in units of the baseline's, until its final accuracy is first reached."""
    return reached(found, cells, column.condition, column.metric)


def reached(found: Results, cells: Sequence["Cell"], condition: Condition, metric: str) -> Summary:
    """A metric of AGAINST. The baseline itself takes all its rounds: the paper's rule."""
    return _reached(found, cells, condition, metric, _baseline(found, condition, metric))


def rows(found: Results, asked: CommunicationTable, columns: Sequence[Column]) -> Iterator[Row]:
    """The baseline by the rule of all others: what they save is to be measured against this."""
    study = found.study
    behind = [_baseline(found, column.condition, column.metric) for column in columns]
    label = behind[0][0].algorithm
    yield Row(
        f"{label}-first-reached",
        f"{names.algorithm(study, label)}, first reached",
        study.definition(label).method,
        names.client(study, label),
        values.communication_cost(found, dict.fromkeys(cell for cells in behind for cell in cells)),
        tuple(
            Entry(
                _reached(found, cells, column.condition, column.metric, ()),
                None,
                None,
                runs={cell.seed: recorded.of_run(found, cell) for cell in cells},
            )
            for cells, column in zip(behind, columns, strict=True)
        ),
    )


def baseline(found: Results, column: Condition, method: str) -> list["Cell"]:
    """A method's cells in a column; InputError where the grid has none."""
    cells = found.study.baselines(column, method)
    if cells:
        return cells
    raise InputError(
        f"{found.study.file}: a table or figure counts against {method}, which the grid lacks at"
        f" {column}"
    )


def _baseline(found: Results, condition: Condition, metric: str) -> list["Cell"]:
    method = next(method for method, metrics in AGAINST.items() if metric in metrics)
    return baseline(found, condition, method)


def _reached(
    found: Results,
    cells: Sequence["Cell"],
    condition: Condition,
    metric: str,
    of_all_rounds: Sequence["Cell"],
) -> Summary:
    """of_all_rounds: cells that take all their rounds, whatever they reach before."""
    baseline = _baseline(found, condition, metric)
    target, budget = final(found, baseline).mean, exchanged(found, baseline)
    lacking = lacks(found, baseline)

    def first_reached(cell: "Cell") -> float | str | None:
        manifest, metrics = found.manifest(cell), found.metrics(cell)
        if not manifest or not metrics:
            return None
        if target is None:
            return lacking
        total = manifest["settings"]["training"]["rounds"]
        first = total if cell in of_all_rounds else _first(metrics, target)
        if first is None:
            return NOT_REACHED
        if metric.startswith("rounds"):
            return first
        sent = values.exchanged(found, cell)
        return sent * first / total / budget if sent is not None and budget else None

    ours = summarize(found, cells, first_reached)
    # Of the baseline itself its own count of seeds says it; without any of them, each seed of ours.
    said = target is None or {*cells} <= {*baseline}
    return replace(ours, against="" if said else lacking)


def notes(found: Results, asked: CommunicationTable, cells: Sequence["Cell"]) -> Iterator[str]:
    """What its numbers mean."""
    manifests = [m for m in map(found.manifest, cells) if m]
    behind = [baseline(found, column, asked.against) for column in asked.columns]
    partly = [lacks(found, one) for one in behind if final(found, one).n]
    lacking = next(filter(None, partly), "")
    name = names.METHODS[asked.against].display
    yield (
        "Rounds: for each seed the first evaluated round whose test accuracy is at least"
        f" {name}'s final one in that column (the {accuracy(manifests)}, over its"
        f" seeds); {name} itself takes all its rounds, by definition. `first reached`: {name} by"
        " the rule of the others, since it, too, may come to its final accuracy before the end;"
        " fair savings are those against this row."
        f" Evaluated every {training_values(manifests, 'evaluate_every')} rounds."
        f" Cost: the bytes exchanged until then, in units of B, what {name} exchanges in all its"
        " rounds. `–`: not reached;"
        " `2/3 reached`: by two seeds of three, the mean is over these."
        + (f" `{lacking}`: counted against these seeds alone." if lacking else "")
    )


def final(found: Results, cells: Sequence["Cell"]) -> Summary:
    """The accuracy that others are counted against, over these cells."""
    return summarize(found, cells, lambda cell: values.accuracy(found, cell))


def lacks(found: Results, baseline: Sequence["Cell"]) -> str:
    """What is missing of a method that others are counted against: "FedAvg n=2/3"; "" if nothing.

    baseline: its cells in a column.
    """
    accuracy = final(found, baseline)
    if accuracy.complete:
        return ""
    whys = {*accuracy.absent.values()}
    alike = len(whys) == 1 and not accuracy.n
    cross = "× " if accuracy.diverged and not accuracy.n else ""
    said = whys.pop() if alike else f"{cross}{count(accuracy)}"
    return f"{names.algorithm(found.study, baseline[0].algorithm)} {said}"


def exchanged(found: Results, baseline: Sequence["Cell"]) -> float | None:
    """B: the bytes of a run, the mean over these cells; None if none went to its end."""
    return summarize(found, baseline, lambda cell: values.exchanged(found, cell)).mean


def _first(metrics: Columns, target: float) -> float | None:
    rows = zip(metrics["round"], metrics["accuracy"], strict=True)
    return next((t for t, accuracy in rows if accuracy >= target), None)
