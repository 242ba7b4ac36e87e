"""What the jobs left behind for each cell, read only; what is missing is None, never an error.

So is what is outdated: a run whose settings, data or code are no longer the study's, or whose
manifest or metrics are not those it wrote, and what was measured on it. So is a measurement that
cannot be read, or is of other models than the run that is there wrote. No table or figure counts
these; `outdated`, `unlike` and `unseen` say why.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedgloss.errors import InputError
from fedgloss.report.reading import (
    MANIFEST,
    Columns,
    Seen,
    read_hessian,
    read_locals,
    read_metrics,
    read_view,
)
from fedgloss.study.layout import Layout
from fedgloss.study.outdated import Expectations, measured_elsewhere, measured_otherwise
from fedgloss.study.views import View, cells_in

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study

Measured = Literal["hessian", "locals"]


@dataclass(frozen=True)
class Results:
    """The results folder of a study."""

    study: "Study"
    folder: Path

    @cached_property
    def _layout(self) -> Layout:
        return Layout(Path(self.folder))

    @cached_property
    def _expected(self) -> Expectations:
        return Expectations(self.study, self.folder)

    @cached_property
    def _read(self) -> Callable[["Cell"], tuple[dict[str, Any] | None, str | None]]:
        return cache(lambda cell: self._expected.read(cell, MANIFEST))

    def run(self, cell: "Cell") -> Path:
        """The folder of a cell's run."""
        return self._layout.run(self.study.name, cell)

    def status(self, cell: "Cell") -> str:
        """`completed`, `diverged`, `outdated` (left out of everything else here) or `missing`."""
        manifest, why = self._read(cell)
        if why:
            return "outdated"
        return manifest["status"] if manifest else "missing"

    def outdated(self, cell: "Cell") -> str | None:
        """Why a cell's run is not the one that the study asks for, or its files not the run's.

        None if all is well, or there is no run.
        """
        return self._read(cell)[1]

    def manifest(self, cell: "Cell") -> dict[str, Any] | None:
        """How the run went, with its settings and where it ran."""
        manifest, why = self._read(cell)
        return None if why else manifest

    def metrics(self, cell: "Cell") -> Columns | None:
        """The evaluated rounds: round, accuracy, loss and what else was recorded."""
        if self.manifest(cell) is None:
            return None
        return read_metrics(self._layout.metrics(self.study.name, cell))

    def hessian(self, cell: "Cell") -> dict[str, Any] | None:
        """The Hessian's largest eigenvalues, and of which model on which data.

        None also for those of another model, or on other data, than the study names.
        """
        return self._measured(cell, "hessian")[0]

    def locals(self, cell: "Cell") -> dict[str, Any] | None:
        """The largest eigenvalues of the last round's local models, on their own data and on all.

        None also for those by another method, or of other images, than the study names.
        """
        return self._measured(cell, "locals")[0]

    def unlike(self, cell: "Cell", kind: Measured) -> str | None:
        """Why eigenvalues that are there do not count; None if they do, or are not there."""
        return self._measured(cell, kind)[1]

    @cached_property
    def _measured(self) -> Callable[["Cell", Measured], tuple[dict[str, Any] | None, str | None]]:
        def measured(cell: "Cell", kind: Measured) -> tuple[dict[str, Any] | None, str | None]:
            file = getattr(self._layout, kind)(self.study.name, cell)
            if not file.exists() or self.outdated(cell):
                return None, None
            try:
                found = read_hessian(file) if kind == "hessian" else read_locals(file)
                self._check_measured(file, found, [cell])
            except InputError as error:
                return None, f"{cell}: {_broken(error, file)}"
            why = measured_otherwise(found, self.study.hessian)
            return None if why else found, None if found.get("status") == "diverged" else why

        return cache(measured)

    def view(self, cell: "Cell", view: View) -> Seen | None:
        """A loss surface: x, y, loss, accuracy, x slowest; or a line: t, loss, accuracy.

        No rows if a run diverged; None also where one of a line's runs is outdated.
        """
        return self._seen(cell, view)[0]

    def unseen(self, cell: "Cell", view: View) -> str | None:
        """Why a surface or line that is there is not shown; None if it is, or is not there."""
        return self._seen(cell, view)[1]

    @cached_property
    def _seen(self) -> Callable[["Cell", View], tuple[Seen | None, str | None]]:
        def seen(cell: "Cell", view: View) -> tuple[Seen | None, str | None]:
            file = self._layout.view(self.study.name, cell, view.kind, view.name)
            axes = ("x", "y") if view.kind == "landscape" else ("t",)
            if not file.exists() or any(map(self.outdated, cells_in(cell, view))):
                return None, None
            try:
                shown = read_view(file, axes)
                self._check_measured(file, shown.facts, cells_in(cell, view))
                return shown, None
            except InputError as error:
                return None, _broken(error, file)

        return cache(seen)

    def _check_measured(
        self, file: Path, found: Mapping[str, Any], cells: Iterable["Cell"]
    ) -> None:
        """InputError if what was measured is not of these cells' runs."""
        if why := measured_elsewhere(found, map(self.manifest, cells)):
            raise InputError(f"{file}: {why}")


def _broken(error: InputError, file: Path) -> str:
    """What is wrong with a measurement's file, and what to do; for a text that names the cell."""
    return f"{str(error).removeprefix(f'{file.parent}/')}; delete it to have it made again"


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


def summarize(
    results: Results, cells: Iterable["Cell"], value: Callable[["Cell"], float | str | None]
) -> Summary:
    """Gather `value` over cells: a number, NOT_REACHED, or None where it does not exist (yet)."""
    cells = list(cells)
    values: dict[int, float] = {}
    diverged = unreached = 0
    for cell in cells:
        if results.status(cell) == "diverged":
            diverged += 1
            continue
        found = value(cell)
        if isinstance(found, str):  # NOT_REACHED
            unreached += 1
        elif found is not None:
            values[cell.seed] = found
    return Summary(values, len(cells), diverged, unreached)


def part(results: Results, cells: Iterable["Cell"]) -> str:
    """What a title says where not all of these runs are there, " (12 of 42 runs)", or nothing."""
    states = [results.status(cell) for cell in cells]
    there = sum(state in ("completed", "diverged") for state in states)
    return f" ({there} of {len(states)} runs)" if there < len(states) else ""


def left_out(results: Results, cells: Iterable["Cell"]) -> Iterator[str]:
    """A sentence on the runs that are outdated, if there are any."""
    reasons = {cell: why for cell in cells if (why := results.outdated(cell))}
    if reasons:
        cell, why = next(iter(reasons.items()))
        count = f"{len(reasons)} runs are" if len(reasons) > 1 else "1 run is"
        yield (
            f"{count} outdated and left out, as if not run: {cell}"
            f"{' first' if len(reasons) > 1 else ''}, {why}."
        )


def measured_unlike(
    results: Results, cells: Iterable["Cell"], kind: Measured = "hessian"
) -> str | None:
    """A phrase on the eigenvalues that are there and not as the study asks, or None."""
    reasons = [why for cell in cells if (why := results.unlike(cell, kind))]
    if not reasons:
        return None
    count = f"{len(reasons)} runs" if len(reasons) > 1 else "1 run"
    return f"λ₁ of {count} is left out, as if not measured: {reasons[0]}"
