"""What the jobs left behind for each cell, read only; what is missing is None, never an error.

So is what is outdated: a run whose settings, data or code are no longer the study's, or whose
manifest or metrics are not those it wrote, and what was measured on it. So is a measurement that
cannot be read, or is of other models than the run that is there wrote. No table or figure counts
these; `why_absent` says why.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedgloss.errors import InputError
from fedgloss.report import names
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
from fedgloss.study.outdated import AGAIN, Expectations, measured_elsewhere, measured_otherwise
from fedgloss.study.views import Line, View, cells_in

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study

Measured = Literal["hessian", "locals"]

NOT_RUN, OUTDATED, DIVERGED, NOT_REACHED = "not run", "outdated", "diverged", "not reached"
NOT_COMPUTED, UNREADABLE, OTHERWISE = "not computed", "unreadable", "measured otherwise"
NOT_FINITE = "no finite loss"


@dataclass(frozen=True)
class Absence:
    """Why there is nothing to show of a cell."""

    why: str
    """In a word or two, which stand beside a number."""
    detail: str = ""
    """What exactly is wrong, for a note."""

    def __str__(self) -> str:
        return f"{self.why}: {self.detail}" if self.detail else self.why


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

    def why_absent(self, cell: "Cell", of: Measured | View | None = None) -> Absence | None:
        """Why there is nothing to show of a cell's run, or of what was computed `of` it.

        None where it is there. Of a line between two cells the words name the run that is to blame,
        where it is not of the method that the line goes to.
        """
        for one in cells_in(cell, of) if isinstance(of, View) else (cell,):
            found = self._why_no_run(one)
            if found and isinstance(of, Line):
                return replace(found, why=f"{self._whose(one, cell, of)}{found.why}")
            if found:
                return found
        if isinstance(of, View):
            return self._seen(cell, of)[1]
        return self._measured(cell, of)[1] if of else None

    def _why_no_run(self, cell: "Cell") -> Absence | None:
        manifest, why = self._read(cell)
        if why:
            return Absence(OUTDATED, why)
        if manifest is None:
            return Absence(NOT_RUN)
        return Absence(DIVERGED) if manifest["status"] == "diverged" else None

    def _whose(self, one: "Cell", cell: "Cell", line: Line) -> str:
        """Which of the two runs of a line one is, for a text that names the other's method."""
        if one.algorithm != line.other.algorithm:
            return f"{names.algorithm(self.study, one.algorithm)} "
        return f"seed {one.seed} " if cell.seed != line.other.seed else ""

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

    @cached_property
    def _measured(
        self,
    ) -> Callable[["Cell", Measured], tuple[dict[str, Any] | None, Absence | None]]:
        def measured(cell: "Cell", kind: Measured) -> tuple[dict[str, Any] | None, Absence | None]:
            file = getattr(self._layout, kind)(self.study.name, cell)
            if not file.exists() or self.manifest(cell) is None:
                return None, Absence(NOT_COMPUTED)
            try:
                found = read_hessian(file) if kind == "hessian" else read_locals(file)
                self._check_measured(file, found, [cell])
            except InputError as error:
                return None, Absence(UNREADABLE, _broken(error, file))
            why = measured_otherwise(found, self.study.hessian)
            return (None, Absence(OTHERWISE, why)) if why else (found, None)

        return cache(measured)

    def view(self, cell: "Cell", view: View) -> Seen | None:
        """A loss surface: x, y, loss, accuracy, x slowest; or a line: t, loss, accuracy.

        None also where a run that it is of diverged or is outdated, or where no loss is finite.
        """
        return None if self.why_absent(cell, view) else self._seen(cell, view)[0]

    @cached_property
    def _seen(self) -> Callable[["Cell", View], tuple[Seen | None, Absence | None]]:
        def seen(cell: "Cell", view: View) -> tuple[Seen | None, Absence | None]:
            file = self._layout.view(self.study.name, cell, view.kind, view.name)
            axes = ("x", "y") if view.kind == "landscape" else ("t",)
            if not file.exists():
                return None, Absence(NOT_COMPUTED)
            try:
                found = read_view(file, axes)
                self._check_measured(file, found.facts, cells_in(cell, view))
            except InputError as error:
                return None, Absence(UNREADABLE, _broken(error, file))
            drawn = any(map(math.isfinite, found.columns["loss"]))
            return (found, None) if drawn else (None, Absence(NOT_FINITE))

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


def part(results: Results, cells: Iterable["Cell"]) -> str:
    """What a title says where not all of these runs are there, " (12 of 42 runs)", or nothing."""
    states = [results.status(cell) for cell in cells]
    there = sum(state in ("completed", "diverged") for state in states)
    return f" ({there} of {len(states)} runs)" if there < len(states) else ""


def left_out(results: Results, cells: Iterable["Cell"]) -> Iterator[str]:
    """A sentence on the runs that are outdated, if there are any."""
    reasons = _because(results, cells, None, OUTDATED)
    if reasons:
        cell, why = next(iter(reasons.items()))
        count = f"{len(reasons)} runs are" if len(reasons) > 1 else "1 run is"
        yield (
            f"{count} outdated and left out, as if not run: {cell}"
            f"{' first' if len(reasons) > 1 else ''}, {why}; {AGAIN}."
        )


def measured_unlike(
    results: Results, cells: Iterable["Cell"], kind: Measured = "hessian"
) -> str | None:
    """A phrase on the eigenvalues that are there and not as the study asks, or None."""
    reasons = _because(results, cells, kind, UNREADABLE, OTHERWISE)
    if not reasons:
        return None
    cell, why = next(iter(reasons.items()))
    count = f"{len(reasons)} runs" if len(reasons) > 1 else "1 run"
    return f"λ₁ of {count} is left out, as if not measured: {cell}: {why}"


def _because(
    results: Results, cells: Iterable["Cell"], of: Measured | None, *whys: str
) -> dict["Cell", str]:
    """The cells that are absent for one of these reasons, with what exactly is wrong."""
    found = {cell: results.why_absent(cell, of) for cell in cells}
    return {cell: why.detail for cell, why in found.items() if why and why.why in whys}
