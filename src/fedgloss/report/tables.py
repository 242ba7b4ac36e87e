"""The paper's tables with our numbers, the paper's, and a verdict on each pair."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedgloss.errors import InputError
from fedgloss.report import (
    claims,
    communication,
    costs,
    local_models,
    methods,
    names,
    recorded,
    results,
    sweep_table,
    values,
)
from fedgloss.report.definitions import snakemake
from fedgloss.report.model import (
    LOWER_IS_BETTER,
    UNRANKED,
    Column,
    Entry,
    Grid,
    Row,
    Table,
    decimals,
)
from fedgloss.report.published import published
from fedgloss.report.results import Results
from fedgloss.report.seeds import Summary
from fedgloss.report.verdict import RULE, verdict
from fedgloss.study.layout import HERE
from fedgloss.study.schema.shown import ClaimsTable, LocalsTable, SweepTable
from fedgloss.study.schema.shown import TableOfMethods as Asked

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study


class Kind(NamedTuple):
    """How tables of a kind are made, given what they are in study/schema/shown.py."""

    measure: Callable[[Results, Sequence["Cell"], Column], Summary]
    """One metric of a row in a column, over its seeds."""
    notes: Callable[[Results, Any, Sequence["Cell"]], Iterator[str]]
    """What the numbers mean."""
    more: Callable[[Results, Any, Sequence[Column]], Iterable[Row]] = lambda *asked: ()
    """Rows that no label of the study stands for."""


KINDS = {
    "methods": Kind(methods.measure, methods.notes),
    "communication": Kind(communication.measure, communication.notes, communication.rows),
    "costs": Kind(costs.measure, costs.notes),
}


def build(study: "Study", name: str, folder: Path) -> Table | Grid:
    """Build one table of a study from what the results folder has.

    Raises InputError for an unknown table, or one that counts against a FedAvg the grid lacks.
    """
    if name not in study.tables:
        raise InputError(
            f"{study.file}: tables: no table {name!r} (allowed: {', '.join(study.tables)})"
        )
    asked, found = study.tables[name], Results(study, Path(folder))
    if isinstance(asked, ClaimsTable):
        return claims.build(found, name, asked)
    if isinstance(asked, LocalsTable):
        return local_models.build(found, name, asked)
    if isinstance(asked, SweepTable):
        return sweep_table.build(found, name, asked)
    columns = _columns(study, asked)
    rows = tuple(_row(found, asked, label, columns) for label in asked.rows)
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
    rows += tuple(KINDS[asked.kind].more(found, asked, columns))
    # A line break in a title would end Markdown's bold face and LaTeX's caption.
    title = " ".join(asked.title.split()) + results.part(found, study.cells_behind(asked))
    table = Table(study.name, name, title, columns, rows, ())
    return replace(table, notes=tuple(_notes(found, asked, table)))


def _columns(study: "Study", asked: Asked) -> tuple[Column, ...]:
    heads = names.columns(study, asked.columns)
    return tuple(
        Column(
            condition,
            head,
            metric,
            any(published(study, condition, label, metric, asked.paper) for label in asked.rows),
        )
        for condition, head in zip(asked.columns, heads, strict=True)
        for metric in asked.metrics
    )


def _row(found: Results, asked: Asked, label: str, columns: tuple[Column, ...]) -> Row:
    study = found.study
    everywhere = [c for column in asked.columns for c in study.select(column, algorithm=label)]
    client = names.client(study, label)
    return Row(
        label,
        names.algorithm(study, label),
        study.definition(label).method,
        client,
        None if client == "none" else values.communication_cost(found, everywhere),
        tuple(_entry(found, asked, label, column) for column in columns),
    )


def _entry(found: Results, asked: Asked, label: str, column: Column) -> Entry:
    cells = found.study.select(column.condition, algorithm=label)
    ours = KINDS[asked.kind].measure(found, cells, column)
    paper = published(found.study, column.condition, label, column.metric, asked.paper)
    runs = {cell.seed: recorded.of_run(found, cell) for cell in cells if cell.seed in ours.values}
    if paper is None or not cells or not column.judged:
        return Entry(ours, paper, None, runs=runs)
    rounds = {m["settings"]["training"]["rounds"] for m in map(found.manifest, cells) if m}
    ours_rounds = rounds.pop() if len(rounds) == 1 else None
    return Entry(ours, paper, verdict(ours, paper, column.metric, ours_rounds), runs=runs)


def _best(rows: tuple[Row, ...], row: Row, i: int, metric: str) -> bool:
    """Whether no method of the row's group has a better mean, as printed, in column i.

    Of methods with all seeds: a mean over some of them is none to be ranked. Nor is any the best
    where all are alike, as models at chance are.
    """
    if metric in UNRANKED:
        return False
    rivals = {r.label: r.entries[i].ours for r in rows if r.client == row.client}
    means = {
        label: round(ours.mean, decimals(metric, ours.mean))
        for label, ours in rivals.items()
        if ours.mean is not None and ours.complete
    }
    best = (min if metric in LOWER_IS_BETTER else max)(means.values(), default=None)
    return len({*means.values()}) > 1 and means.get(row.label) == best


def _notes(found: Results, asked: Asked, table: Table) -> Iterator[str]:
    study, cells = found.study, found.study.cells_of(asked)
    models = dict.fromkeys(names.model(study, column.model) for column in asked.columns)
    seeds = sorted({cell.seed for cell in cells})
    yield (
        f"Model: {names.listed([*models])}. Ours: mean ± sample standard deviation"
        f" (ddof = 1) over all seeds ({names.listed([str(seed) for seed in seeds])}) where nothing"
        " else is said; `n=2/3`: one of three is not run yet, or missing for the reason beside it;"
        " `× 1/3`: one of three diverged and is not in the mean. Bold: the best of its group with"
        " all seeds."
    )
    yield from KINDS[asked.kind].notes(found, asked, cells)
    if any(column.published for column in table.columns):
        prints = {e.paper.table for row in table.rows for e in row.entries if e.paper}
        where = [f"Tab. {t}" if t.isdigit() else f"section {t}" for t in sorted(prints)]
        yield f"Paper: as printed in {names.listed(where)}. {RULE}"
        yield from _footnotes(table)
    yield from results.left_out(found, cells)
    yield f"One cell again: `{snakemake(study, HERE.metrics(study.name, cells[0]))}`"


def _footnotes(table: Table) -> Iterator[str]:
    for row in table.rows:
        for column, entry in zip(table.columns, row.entries, strict=True):
            if entry.paper and entry.paper.note:
                yield f"{row.name}, {column.head}: {entry.paper.note}."
