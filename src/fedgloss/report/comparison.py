"""Two studies, or two variants in one, against each other: cell by cell, over paired seeds.

Two runs with the same seed share participants, batches and initial model as far as both draw them.
What that has in common cancels in their difference, so its spread, not that of each side, decides.
"""

import csv
import io
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedgloss.errors import InputError, did_you_mean
from fedgloss.report import results as values
from fedgloss.report.model import DECIMALS
from fedgloss.report.results import Results
from fedgloss.report.verdict import near
from fedgloss.student import mean_interval

if TYPE_CHECKING:
    from fedgloss.study.study import Cell

FIELDS = ("dataset", "alpha", "model", "algorithm")
VALUES: dict[str, Callable[[Results, "Cell"], float | None]] = {
    "accuracy": values.accuracy,
    "lambda1": values.lambda1,
}
"""The metrics that are compared."""
RULE = (
    "Difference: the second side minus the first, the mean over the seeds that both have, with its"
    " 95 % interval (Student's t over the differences of the pairs). `higher`, `lower`: 0 is not in"
    " the interval. `equal`: it is, and all of the interval is within 1 point (10 % of the first"
    " where it is no percentage). `unclear`: it is, and the interval is wider. `one pair`: there is"
    " no interval."
)
HEADS = (
    *("condition", "metric", "first", "second", "difference", "half_interval", "pairs"),
    *("first_diverged", "second_diverged", "verdict"),
)


@dataclass(frozen=True)
class Change:
    """What one of two sides differs from the other in: a field of the cell, and its two values."""

    field: str
    first: str
    second: str


@dataclass(frozen=True)
class Comparison:
    """One metric of one condition on two sides, over the seeds that both have."""

    condition: str
    """The condition of the first side, the path of its cells without their seeds."""
    metric: str
    first: Mapping[int, float]
    """By seed."""
    second: Mapping[int, float]
    diverged: tuple[int, int]
    """Seeds that diverged on either side; these are in no pair."""

    @property
    def interval(self) -> tuple[float, float | None]:
        """The mean difference, and half its 95 % interval; None for one pair."""
        return mean_interval([self.second[seed] - self.first[seed] for seed in self.first])

    @property
    def verdict(self) -> str:
        """A word of RULE."""
        difference, half = self.interval
        if half is None:
            return "one pair"
        if abs(difference) > half:
            return "higher" if difference > 0 else "lower"
        base = statistics.fmean(self.first.values())
        return "equal" if near(abs(difference) + half, base, self.metric) else "unclear"


def compare(first: Results, second: Results, change: Change | None = None) -> Iterator[Comparison]:
    """The conditions of `first` that `second` has too, in the order of the first's grid.

    change: what the cells of the second side have in another field; None: they have the same path.
    Conditions without a seed that both sides have finished, or diverged on, are left out. Raises
    InputError if the two have no condition in common, or no value that `change` names.
    """
    if change:
        _check(first, change.field, change.first)
        _check(second, change.field, change.second)
    there = {str(cell): cell for cell in second.study.cells}
    pairs: dict[str, list[tuple[Cell, Cell]]] = {}
    for cell in first.study.cells:
        if change and getattr(cell, change.field) != change.first:
            continue
        path = str(_with(cell, change.field, change.second) if change else cell)
        if path in there:
            pairs.setdefault(cell.condition, []).append((cell, there[path]))
    if not pairs:
        raise InputError(f"{second.study.file}: has no cell that {first.study.file} has, too")
    for condition, cells in pairs.items():
        for metric, value in VALUES.items():
            found = _compared(condition, metric, value, first, second, cells)
            if found.first or any(found.diverged):
                yield found


def _with(cell: "Cell", field: str, value: str) -> "Cell":
    """The same cell with another value of one of FIELDS."""
    changed: Any = {field: value}  # not the seed, which is no text
    return replace(cell, **changed)


def _check(side: Results, field: str, value: str) -> None:
    known = [*dict.fromkeys(getattr(cell, field) for cell in side.study.cells)]
    if value not in known:
        hint = did_you_mean(value, known)
        raise InputError(f"{side.study.file}: {field}: {value!r} is not in this study{hint}")


def _compared(
    condition: str,
    metric: str,
    value: Callable[[Results, "Cell"], float | None],
    first: Results,
    second: Results,
    cells: list[tuple["Cell", "Cell"]],
) -> Comparison:
    ours: dict[int, float] = {}
    theirs: dict[int, float] = {}
    diverged = [0, 0]
    for one, other in cells:
        states = first.status(one), second.status(other)
        if "diverged" in states:
            for side, state in enumerate(states):
                diverged[side] += state == "diverged"
            continue
        a, b = value(first, one), value(second, other)
        if a is not None and b is not None:
            ours[one.seed], theirs[one.seed] = a, b
    return Comparison(condition, metric, ours, theirs, (diverged[0], diverged[1]))


def to_markdown(found: list[Comparison], first: str, second: str) -> str:
    """A table of them with the names of the two sides, and the rule below."""
    from tabulate import tabulate

    heads = ["Condition of the first", "Metric", first, second, "Difference", "Pairs", "Verdict"]
    lines = [[entry.condition, entry.metric, *_numbers(entry)] for entry in found]
    alignment = ["left", "left", "right", "right", "right", "right", "left"]
    body = tabulate(lines, heads, tablefmt="pipe", disable_numparse=True, colalign=alignment)
    return f"{body}\n\n{RULE}\n"


def _numbers(entry: Comparison) -> list[str]:
    verdict = f"× {entry.diverged[0]} first, {entry.diverged[1]} second diverged"
    if not entry.first:
        return ["", "", "", "0", verdict]
    digits, (mean, half) = f",.{DECIMALS[entry.metric]}f", entry.interval
    sides = [f"{statistics.fmean(side.values()):{digits}}" for side in (entry.first, entry.second)]
    spread = "" if half is None else f" ± {half:{digits}}"
    words = entry.verdict + (f"; {verdict}" if any(entry.diverged) else "")
    return [*sides, f"{mean:+{digits}}{spread}", str(len(entry.first)), words]


def to_csv(found: list[Comparison]) -> str:
    """With full precision; the interval is empty for one pair."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADS)
    for entry in found:
        numbers: list[float | str | None] = ["", "", "", ""]
        if entry.first:
            means = [statistics.fmean(side.values()) for side in (entry.first, entry.second)]
            numbers = [*means, *entry.interval]
        verdict = entry.verdict if entry.first else ""
        writer.writerow(
            [entry.condition, entry.metric, *numbers, len(entry.first), *entry.diverged, verdict]
        )
    return text.getvalue()
