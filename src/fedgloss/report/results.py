"""What the jobs left behind for each cell, read only; what is missing is None, never an error.

So is what is outdated: a run whose settings, data or code are no longer the study's, or whose
metrics are not those it wrote, and what was measured on it. No table or figure counts it;
`outdated` says why.
"""

import csv
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedgloss.errors import InputError
from fedgloss.records import (
    COUNT,
    NUMBER,
    PERCENTAGE,
    POSITIVE,
    STATUS,
    TEXT,
    Kind,
    check_record,
    read_record,
)
from fedgloss.study.layout import MANIFEST as MANIFEST_FILE
from fedgloss.study.layout import Layout
from fedgloss.study.outdated import Expectations, measured_otherwise, read_manifest
from fedgloss.study.views import View, cells_in

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study

Columns = dict[str, list[float]]
"""A CSV of numbers by column."""

MANIFEST = {
    "status": STATUS,
    "diverged_in": COUNT.or_null,
    "accuracy": PERCENTAGE.or_null,
    "accuracy_at_half": PERCENTAGE.or_null,
    "settings": {
        "algorithm": TEXT,
        "method": TEXT,
        "variants": TEXT.by_name,
        "hyperparameters": NUMBER.by_name,
        "training": {
            "rounds": POSITIVE,
            "clients_per_round": POSITIVE,
            "evaluate_every": POSITIVE,
            "last": POSITIVE,
        },
    },
    "parameters": POSITIVE,
    "gradients_per_step": NUMBER,
    **dict.fromkeys(("bytes_down", "bytes_up"), COUNT),
    **dict.fromkeys(("backend", "device", "precision", "code"), TEXT),
    "threads": POSITIVE,
    **dict.fromkeys(("versions", "inputs", "outputs"), TEXT.by_name),
    **dict.fromkeys(("wall_seconds", "images_per_second"), NUMBER),
}
SHARPNESS = {"data": TEXT, "lambda1": NUMBER.or_null}
ESTIMATES = {
    "trace": {"trace": NUMBER, "standard_error": NUMBER, "products": POSITIVE},
    "density": Kind(
        "nodes and weights, as many of one as of the other, for each of two starts or more",
        lambda value: (
            isinstance(value, dict)
            and all(NUMBER.listed.listed.fits(value.get(key)) for key in ("nodes", "weights"))
            and [*map(len, value["nodes"])] == [*map(len, value["weights"])]
            and len(value["nodes"]) > 1
            and all(value["nodes"])
        ),
    ),
}
"""What a Hessian's file has beside eigenvalues, if it was asked for."""
LOCALS = {
    "status": STATUS,
    "method": TEXT,
    "images": Kind("a number, all or auto", lambda value: isinstance(value, (int, str))),
    "locals": Kind("a list", lambda value: isinstance(value, list)),
}
LARGEST = {
    **dict.fromkeys(("lambda1", "residual", "sampling_error"), NUMBER),
    "converged": Kind("true or false", lambda value: isinstance(value, bool)),
}
LOCAL = {
    **{"client": COUNT, "class": TEXT, "share": NUMBER, "images": POSITIVE},
    **{"local": LARGEST, "global": LARGEST},
}
"""What the report needs to know of a run, of its Hessian, and of its local models'."""


@dataclass(frozen=True)
class Seen:
    """A surface or a line, and what it is of."""

    columns: Columns
    facts: Mapping[str, Any]
    """`status`; if completed, `images`, of how many; of a local model `client` and `class`."""


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

    def outdated(self, cell: "Cell") -> str | None:
        """Why a cell's run is not the one that the study asks for, or its metrics not the run's.

        None if all is well, or there is no run.
        """
        return self._outdated(cell)

    @cached_property
    def _outdated(self) -> Callable[["Cell"], str | None]:
        def why(cell: "Cell") -> str | None:
            manifest = self._manifest(cell)
            return self._expected.why_left_out(cell, manifest) if manifest else None

        return cache(why)

    def metrics(self, cell: "Cell") -> Columns | None:
        """The evaluated rounds: round, accuracy, loss and what else was recorded."""
        if self.manifest(cell) is None:
            return None
        path = self._layout.metrics(self.study.name, cell)
        columns = self._csv(cell, path, ("round", "accuracy"))
        for name, values in (columns or {}).items():
            if not all(map(NUMBER.fits, values)):
                raise InputError(f"{path}: {name} has an entry that is not finite")
        return columns

    def manifest(self, cell: "Cell") -> dict[str, Any] | None:
        """How the run went, with its settings and where it ran."""
        return None if self.outdated(cell) else self._manifest(cell)

    def hessian(self, cell: "Cell") -> dict[str, Any] | None:
        """The Hessian's largest eigenvalues, and of which model on which data; see ESTIMATES.

        None also for those of another model, or on other data, than the study names.
        """
        path = self._layout.hessian(self.study.name, cell)
        found = self._record(cell, path, SHARPNESS)
        if found is None or self._otherwise(found):
            return None
        check_record(path, found, {k: kind for k, kind in ESTIMATES.items() if k in found})
        return found

    def locals(self, cell: "Cell") -> dict[str, Any] | None:
        """The largest eigenvalues of the last round's local models, on their own data and on all.

        None also for those by another method, or of other images, than the study names.
        """
        path = self._layout.locals(self.study.name, cell)
        found = self._record(cell, path, LOCALS)
        for i, row in enumerate(found["locals"] if found else ()):
            check_record(path, row, LOCAL, f"locals[{i}]")
        return None if found is None or self._otherwise(found) else found

    def otherwise(self, cell: "Cell", kind: Literal["hessian", "locals"]) -> str | None:
        """How eigenvalues that are there were not measured as the study asks; None if they were."""
        path = getattr(self._layout, kind)(self.study.name, cell)
        found = self._record(cell, path, SHARPNESS if kind == "hessian" else LOCALS)
        if found is None or found.get("status") == "diverged":
            return None
        return self._otherwise(found)

    def _otherwise(self, found: Mapping[str, Any]) -> str | None:
        return measured_otherwise(found, self.study.hessian)

    def _record(self, cell: "Cell", path: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
        if not path.exists() or self.outdated(cell):
            return None
        return read_record(path, wanted)

    def view(self, cell: "Cell", view: View) -> Seen | None:
        """A loss surface: x, y, loss, accuracy, x slowest; or a line: t, loss, accuracy.

        No rows if a run diverged; None also where one of a line's runs is outdated.
        """
        path = self._layout.view(self.study.name, cell, view.kind, view.name)
        axes = ("x", "y") if view.kind == "landscape" else ("t",)
        if any(map(self.outdated, cells_in(cell, view))):
            return None
        columns = self._csv(cell, path, (*axes, "loss", "accuracy"))
        if columns is None:
            return None
        places = [*zip(*(columns[name] for name in axes), strict=True)]
        along = [sorted({*columns[name]}) for name in axes]
        if places and (places != [*product(*along)] or min(map(len, along)) < 2):
            raise InputError(f"{path}: {' and '.join(axes)} are not those of a grid, x slowest")
        finite = filter(math.isfinite, (*columns["loss"], *columns["accuracy"]))
        if not all(map(NUMBER.fits, (*chain(*along), *finite))):
            raise InputError(f"{path}: holds numbers out of all bounds")
        facts = read_record(path.with_suffix(".json"), {"status": STATUS})
        if facts["status"] == "completed":
            local = {"client": COUNT, "class": TEXT} if "client" in facts else {}
            check_record(
                path.with_suffix(".json"), facts, {"images": POSITIVE, "of": POSITIVE, **local}
            )
        return Seen(columns, facts)

    def status(self, cell: "Cell") -> str:
        """`completed`, `diverged`, `outdated` (left out of everything else here) or `missing`."""
        manifest = self._manifest(cell)
        if manifest is None:
            return "missing"
        return "outdated" if self.outdated(cell) else manifest["status"]

    def run(self, cell: "Cell") -> Path:
        """The folder of a cell's run."""
        return self._layout.run(self.study.name, cell)

    def _manifest(self, cell: "Cell") -> dict[str, Any] | None:
        return read_manifest(self.run(cell) / MANIFEST_FILE, MANIFEST)

    def _csv(self, cell: "Cell", path: Path, wanted: tuple[str, ...]) -> Columns | None:
        if not path.exists() or self.outdated(cell):
            return None
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = csv.DictReader(file)
                columns: Columns = {name: [] for name in rows.fieldnames or ()}
                for name in wanted:
                    if name not in columns:
                        raise InputError(f"{path}: no column {name!r}")
                for row in rows:
                    for name in columns:
                        try:
                            columns[name].append(float(row[name]))
                        except (TypeError, ValueError):
                            where = f"line {rows.line_num}: {name}"
                            raise InputError(f"{path}: {where} is not a number") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: not a CSV file ({error})") from None
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
    results: Results, cells: Iterable["Cell"], kind: Literal["hessian", "locals"] = "hessian"
) -> str | None:
    """A phrase on the eigenvalues that are there and not as the study asks, or None."""
    reasons = [why for cell in cells if (why := results.otherwise(cell, kind))]
    if not reasons:
        return None
    count = f"{len(reasons)} runs" if len(reasons) > 1 else "1 run"
    return f"λ₁ of {count} is left out, as if not measured: {reasons[0]}"
