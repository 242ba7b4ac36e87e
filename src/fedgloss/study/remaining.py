"""Which of a study's jobs are still to be run, for all of it or for a target of the workflow."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from fedgloss.errors import InputError
from fedgloss.files import read_json
from fedgloss.study import resources
from fedgloss.study.invocation import cells_below
from fedgloss.study.layout import MANIFEST, Layout
from fedgloss.study.outdated import measured_elsewhere, measured_otherwise
from fedgloss.study.resources import Need
from fedgloss.study.schema.shown import Figure, Table
from fedgloss.study.status import States
from fedgloss.study.study import Cell, Study
from fedgloss.study.views import View, cells_in


@dataclass(frozen=True)
class Job:
    """What is to be run: train, locals (a cell), hessian (a method's cells), landscape or line."""

    kind: str
    cell: Cell
    part: str
    """The first table or figure that shows it."""
    need: Need
    on_cpu: Need
    """The same on one core of a processor."""
    cells: int = 1
    """How many cells it is about: `cell` and others that differ from it in the seed."""

    @property
    def condition(self) -> str:
        """The job's cell without its seed."""
        return self.cell.condition


def job(
    study: Study,
    kind: str,
    cell: Cell,
    part: str = "",
    rounds_done: int = 0,
    until: int | None = None,
    cells: int = 1,
) -> Job:
    """A job of this kind with what it needs; cells: of how many seeds, if it is a hessian."""
    if kind == "train":
        needs = [
            resources.training(study, cell, rounds_done, on_cpu, until) for on_cpu in (False, True)
        ]
    else:
        needs = [getattr(resources, kind)(study, cell, on_cpu) for on_cpu in (False, True)]
    if kind == "hessian":
        share = cells / len(study.asked.seeds)
        needs = [replace(need, seconds=need.seconds * share) for need in needs]
    need, on_cpu = needs
    return Job(kind, cell, part, need, on_cpu, cells)


def remaining(study: Study, results: Path, target: str = "") -> Iterator[Job]:
    """The jobs on a GPU's or a cluster's bill whose results are not there yet."""
    entries = entries_of(study)
    if named := named_by(study, target):
        entries = named
        behind = (cell for entry in entries.values() for cell in study.cells_behind(entry))
        cells = [*dict.fromkeys(behind)]
    else:
        cells = cells_below(study, target, [name for _, name in entries])
    states = States(study, results)
    ends = states.standings.foreseen() if study.trials else dict.fromkeys(cells)
    cells = [cell for cell in cells if cell in ends]
    parts: dict[Cell, str] = {}
    for (_, part), entry in entries.items():
        for cell in study.cells_behind(entry):
            parts.setdefault(cell, part)
    measured = _Measured(study, entries.values(), Layout(results))
    state = {cell: states.of(cell) for cell in cells}
    done = {cell for cell in cells if state[cell] in ("done", "diverged", "dropped")}
    done |= {cell for cell in cells if state[cell] == "without models" and measured.is_there(cell)}
    left = {*cells} - done
    for cell in cells:
        spared, end = rounds_done(states, cell), ends[cell]
        if cell in left and (end is None or spared < end):
            yield job(study, "train", cell, parts.get(cell, ""), spared, end)
    unmeasured: dict[str, list[Cell]] = {}
    for cell in cells:  # of an outdated run nothing stays
        if cell.condition in measured.sharp and (cell in left or not measured.has_hessian(cell)):
            unmeasured.setdefault(cell.condition, []).append(cell)
    for cell, *others in unmeasured.values():
        yield job(study, "hessian", cell, parts.get(cell, ""), cells=1 + len(others))
    for cell in cells:
        if cell in measured.local and (cell in left or not measured.has_locals(cell)):
            yield job(study, "locals", cell, parts.get(cell, ""))
    asked = {*cells}
    for cell, view in measured.views:
        stale = left.intersection(cells_in(cell, view)) or not measured.has_view(cell, view)
        if cell in asked and stale:
            yield job(study, view.kind, cell, parts.get(cell, ""))


class _Measured:
    """What tables and figures show of models, and whether it is there."""

    def __init__(self, study: Study, entries: Iterable[Table | Figure], layout: Layout) -> None:
        self.study, self.layout = study, layout
        self._manifest = cache(lambda cell: read_json(layout.run(study.name, cell) / MANIFEST))
        self.sharp: set[str] = set()
        self.local: set[Cell] = set()
        self.views: dict[tuple[Cell, View], None] = {}
        for entry in entries:
            self.views.update(dict.fromkeys(study.views(entry)))
            for cell in study.cells_behind(entry):
                sources = study.sources(entry, cell)
                if "hessian" in sources:
                    self.sharp.add(cell.condition)
                if "locals" in sources:
                    self.local.add(cell)

    def has_hessian(self, cell: Cell) -> bool:
        found = self._found(self.layout.hessian(self.study.name, cell), [cell])
        return found is not None and is_measured(self.study, found)

    def has_locals(self, cell: Cell) -> bool:
        return self._found(self.layout.locals(self.study.name, cell), [cell]) is not None

    def has_view(self, cell: Cell, view: View) -> bool:
        file = self.layout.view(self.study.name, cell, view.kind, view.name)
        facts = self._found(file.with_suffix(".json"), cells_in(cell, view))
        return file.is_file() and facts is not None

    def _found(self, file: Path, cells: Iterable[Cell]) -> dict[str, Any] | None:
        """What a measurement's file says; None if there is none of the runs that are there."""
        if not file.is_file():
            return None
        try:
            found = read_json(file)
            manifests = [self._manifest(cell) for cell in cells]
        except InputError:  # tables leave it out, and name it
            return None
        is_one = isinstance(found, dict) and not measured_elsewhere(found, manifests)
        return found if is_one else None

    def is_there(self, cell: Cell) -> bool:
        """Whether nothing needs a cell's model any more."""
        return (
            (cell.condition not in self.sharp or self.has_hessian(cell))
            and (cell not in self.local or self.has_locals(cell))
            and all(self.has_view(*one) for one in self.views if cell in cells_in(*one))
        )


Entries = dict[tuple[str, str], Table | Figure]
"""Tables and figures by "table" or "figure" and their name: one of each may have the same."""


def entries_of(study: Study) -> Entries:
    """A study's tables, then its figures."""
    tables: Entries = {("table", name): entry for name, entry in study.tables.items()}
    return tables | {("figure", name): entry for name, entry in study.figures.items()}


def named_by(study: Study, target: str) -> Entries:
    """The tables and figures that a target of the workflow builds; none if it is about cells.

    A name without `table_` or `figure_` before it is that of both.
    """
    entries = entries_of(study)
    places = {key: e for key, e in entries.items() if e.paper and target in (e.paper, "paper")}
    return places or {
        (kind, name): entry
        for (kind, name), entry in entries.items()
        if target in (name, f"{kind}_{name}")
    }


def rounds_done(states: States, cell: Cell) -> int:
    """The rounds that a cell's checkpoints spare."""
    return min(states.rounds(cell), states.study.settings(cell).training["rounds"])


def is_measured(study: Study, found: Mapping[str, Any]) -> bool:
    """Whether a cell's eigenvalues are all that the study's `hessian` section asks for."""
    asked = study.hessian
    if measured_otherwise(found, asked):
        return False
    if found.get("status") == "diverged":
        return True
    values = found.get("eigenvalues")
    others = {f"lambda1_{name}_model" for name in asked.models[1:]}
    more = {*asked.choices[1:], *(key for key in ("trace", "density") if getattr(asked, key))}
    return (
        isinstance(values, list)
        and more <= found.keys()
        and len(values) == asked.count
        and others == {key for key in found if key.startswith("lambda1_")}
    )
