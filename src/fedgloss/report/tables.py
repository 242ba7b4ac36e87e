"""The paper's tables with our numbers, the paper's, and a verdict on each pair."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgloss.errors import InputError
from fedgloss.report import names, results
from fedgloss.report.definitions import (
    accuracy,
    accuracy_at_half,
    lambda1,
    snakemake,
    training_values,
)
from fedgloss.report.model import DECIMALS, LOWER_IS_BETTER, Column, Entry, Row, Table
from fedgloss.report.published import published
from fedgloss.report.results import NOT_REACHED, Results, Summary, summarize
from fedgloss.report.verdict import RULE, verdict
from fedgloss.study.layout import HERE

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study

VALUES = {
    "accuracy": results.accuracy,
    "accuracy_at_half": results.accuracy_at_half,
    "lambda1": results.lambda1,
}


def build(study: "Study", name: str, folder: Path) -> Table:
    """Build one table of a study from what the results folder has.

    Raises InputError for an unknown table, or one that counts against a FedAvg the grid lacks.
    """
    if name not in study.tables:
        raise InputError(
            f"{study.file}: tables: no table {name!r} (allowed: {', '.join(study.tables)})"
        )
    spec, found = study.tables[name], Results(study, Path(folder))
    if spec["kind"] == "communication":
        metrics = ["rounds", "cost"]
    else:
        metrics = spec.get("show", ["accuracy"])
    columns = _columns(study, name, spec, metrics)
    rows = tuple(_row(found, name, label, columns) for label in spec["rows"])
    rows = tuple(
        replace(
            row,
            entries=tuple(
                replace(entry, best=_best(rows, row, i, columns[i].metric))
                for i, entry in enumerate(row.entries)
            ),
        )
        for row in rows
    )
    # A line break in a title would end Markdown's bold face and LaTeX's caption.
    title = " ".join(spec.get("title", name).split())
    table = Table(name, title, columns, rows, ())
    table = replace(table, title=title + results.part(found, _cells_of_table(study, table)))
    return replace(table, notes=tuple(_notes(found, table, spec["kind"], metrics)))


def cells_of(study: "Study", label: str, condition: Mapping[str, str]) -> list["Cell"]:
    """The seeds of one algorithm in one column."""
    return study.select(algorithm=label, **condition)


def _columns(
    study: "Study", table: str, spec: Mapping[str, Any], metrics: list[str]
) -> tuple[Column, ...]:
    heads = names.columns(study, spec["columns"])
    return tuple(
        Column(
            condition,
            head,
            metric,
            any(published(study, condition, label, metric, table) for label in spec["rows"]),
        )
        for condition, head in zip(spec["columns"], heads, strict=True)
        for metric in metrics
    )


def _row(found: Results, table: str, label: str, columns: tuple[Column, ...]) -> Row:
    study = found.study
    everywhere = [
        cell
        for condition in {str(c.condition): c.condition for c in columns}.values()
        for cell in cells_of(study, label, condition)
    ]
    client = names.client(study, label)
    return Row(
        label,
        names.algorithm(study, label),
        study.definition(label).method,
        client,
        None if client == "none" else results.communication_cost(found, everywhere),
        tuple(_entry(found, table, label, column) for column in columns),
    )


def _entry(found: Results, table: str, label: str, column: Column) -> Entry:
    cells = cells_of(found.study, label, column.condition)
    if column.metric in VALUES:
        ours = summarize(found, cells, lambda cell: VALUES[column.metric](found, cell))
    else:
        ours = _communication(found, cells, column)
    paper = published(found.study, column.condition, label, column.metric, table)
    if paper is None or not cells or not column.judged:
        return Entry(ours, paper, None)
    rounds = {m["settings"]["training"]["rounds"] for m in map(found.manifest, cells) if m}
    ours_rounds = rounds.pop() if len(rounds) == 1 else None
    return Entry(ours, paper, verdict(ours, paper, column.metric, ours_rounds))


def _communication(found: Results, cells: list["Cell"], column: Column) -> Summary:
    """Rounds, or bytes in units of FedAvg's, until FedAvg's final accuracy is first reached."""
    baseline = fedavg(found, column.condition)
    target = summarize(found, baseline, lambda cell: results.accuracy(found, cell)).mean
    budget = summarize(found, baseline, lambda cell: _bytes(found, cell)).mean

    def reached(cell: "Cell") -> float | str | None:
        manifest, metrics = found.manifest(cell), found.metrics(cell)
        if not manifest or not metrics or target is None:
            return None
        total = manifest["settings"]["training"]["rounds"]
        first = total if cell in baseline else _first(metrics, target)
        if first is None:
            return NOT_REACHED
        if column.metric == "rounds":
            return first
        sent = _bytes(found, cell)
        return sent * first / total / budget if sent is not None and budget else None

    return summarize(found, cells, reached)


def fedavg(found: Results, condition: Mapping[str, str]) -> list["Cell"]:
    """FedAvg's cells of a column; InputError where the grid has none."""
    cells = found.study.baselines(condition)
    if cells:
        return cells
    raise InputError(
        f"{found.study.file}: tables: kind communication counts against fedavg, which the grid"
        f" lacks at {'/'.join(condition.values())}"
    )


def _first(metrics: results.Columns, target: float) -> float | None:
    rows = zip(metrics["round"], metrics["accuracy"], strict=True)
    return next((t for t, accuracy in rows if accuracy >= target), None)


def _bytes(found: Results, cell: "Cell") -> float | None:
    manifest = found.manifest(cell)
    return manifest["bytes_down"] + manifest["bytes_up"] if manifest else None


def _best(rows: tuple[Row, ...], row: Row, i: int, metric: str) -> bool:
    """Whether no method of the row's group has a better mean, as printed, in column i."""
    rivals = {r.label: r.entries[i].ours for r in rows if r.client == row.client}
    means = {
        label: round(ours.mean, DECIMALS[metric])
        for label, ours in rivals.items()
        if ours.mean is not None and not ours.diverged and not ours.unreached
    }
    best = (min if metric in LOWER_IS_BETTER else max)(means.values(), default=None)
    return len(means) > 1 and means.get(row.label) == best


def _notes(found: Results, table: Table, kind: str, metrics: list[str]) -> Iterator[str]:
    study, cells = found.study, _cells_of_table(found.study, table)
    manifests = [m for m in map(found.manifest, cells) if m]
    seeds = sorted({cell.seed for cell in cells})
    yield (
        f"Model: {names.listed(_models(study, table))}. Ours: mean ± sample standard deviation"
        f" (ddof = 1) over all seeds ({names.listed([str(seed) for seed in seeds])}) where nothing"
        " else is said; `n=2/3`: one of three is not run yet; `× 1/3`: one of three diverged and is"
        " not in the mean. Bold: best of its group."
    )
    if kind == "methods":
        yield (
            "Comm. cost: bytes that crossed the network, counted in the runs that went to the end,"
            " relative to FedAvg's two models per client and round."
        )
    if "accuracy" in metrics:
        yield f"Accuracy: {accuracy(manifests)}."
    if "accuracy_at_half" in metrics:
        yield f"Accuracy at T/2: {accuracy_at_half(manifests)}."
    if "lambda1" in metrics:
        yield f"λ₁: {lambda1(found, cells)}; lower is flatter."
    if kind == "communication":
        yield (
            "Rounds: for each seed the first evaluated round whose test accuracy is at least"
            f" FedAvg's final one in that column (the {accuracy(manifests)}, over its"
            " seeds); FedAvg itself takes all its rounds, by definition."
            f" Evaluated every {training_values(manifests, 'evaluate_every')} rounds."
            " Cost: the bytes exchanged until then, in units of B, what FedAvg exchanges in all its"
            " rounds. `–`: not reached;"
            " `2/3 reached`: by two seeds of three, the mean is over these."
        )
    if any(column.published for column in table.columns):
        prints = {e.paper.table for row in table.rows for e in row.entries if e.paper}
        where = [f"Tab. {t}" if t.isdigit() else f"section {t}" for t in sorted(prints)]
        yield f"Paper: as printed in {names.listed(where)}. {RULE}"
        yield from _footnotes(table)
    yield from results.left_out(found, cells)
    yield f"One cell again: `{snakemake(study, HERE.metrics(study.name, cells[0]))}`"


def _cells_of_table(study: "Study", table: Table) -> list["Cell"]:
    return list(
        dict.fromkeys(
            cell
            for row in table.rows
            for column in table.columns
            for cell in cells_of(study, row.label, column.condition)
        )
    )


def _models(study: "Study", table: Table) -> list[str]:
    conditions = [column.condition for column in table.columns]
    return [*dict.fromkeys(names.model(study, condition["model"]) for condition in conditions)]


def _footnotes(table: Table) -> Iterator[str]:
    for row in table.rows:
        for column, entry in zip(table.columns, row.entries, strict=True):
            if entry.paper and entry.paper.note:
                yield f"{row.name}, {column.head}: {entry.paper.note}."
