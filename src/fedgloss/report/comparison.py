"""Two studies, or two variants in one, against each other: cell by cell, over paired seeds.

Two runs with the same seed share participants, batches and initial model as far as both draw them.
What that has in common cancels in their difference, so its spread, not that of each side, decides.
"""

import csv
import io
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedgloss.errors import InputError, did_you_mean
from fedgloss.report import results, values
from fedgloss.report.model import decimals
from fedgloss.report.results import Results
from fedgloss.report.verdict import near
from fedgloss.student import mean_interval

if TYPE_CHECKING:
    from fedgloss.study.study import Cell

    Pair = tuple[Cell, Cell]
    """A cell of the first side, and the one of the second that it is compared with."""

FIELDS = ("dataset", "alpha", "model", "algorithm")
VALUES: dict[str, Callable[[Results, "Cell"], float | None]] = {
    "accuracy": values.accuracy,
    "lambda1": values.lambda1,
}
"""The metrics that are compared."""
NO_NUMBERS = ("training.record", "training.keep")
"""Settings that change no number of a run."""
RULE = (
    "Difference: the second side minus the first, the mean over the seeds that both have, with its"
    " 95 % interval (Student's t over the differences of the pairs). `higher`, `lower`: 0 is not in"
    " the interval. `equal`: it is, and all of the interval is within 1 point (10 % of the first"
    " where it is no percentage). `unclear`: it is, and the interval is wider. `one pair`: there is"
    " no interval. `measured differently`: by other methods or over other images, so that a"
    " difference would say nothing."
)
HEADS = (
    *("condition", "metric", "first", "second", "difference", "half_interval", "pairs"),
    *("first_diverged", "second_diverged", "verdict"),
)
WAY = {"data": "paper", "model": "average", "method": "lanczos", "images": "all"}
"""What decides an eigenvalue beside the run, as a result of before that was recorded has it."""


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
    unlike: str = ""
    """How the two sides were measured differently, so that there is no difference to tell."""

    @property
    def interval(self) -> tuple[float, float | None]:
        """The mean difference, and half its 95 % interval; None for one pair."""
        return mean_interval([self.second[seed] - self.first[seed] for seed in self.first])

    @property
    def verdict(self) -> str:
        """A word of RULE."""
        if self.unlike:
            return "measured differently"
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
    conditions: dict[str, list[Pair]] = {}
    for cell, other in _pairs(first, second, change):
        conditions.setdefault(cell.condition, []).append((cell, other))
    for condition, pairs in conditions.items():
        for metric, value in VALUES.items():
            found = _compared(condition, metric, value, first, second, pairs)
            if found.first or any(found.diverged):
                yield found


def remarks(first: Results, second: Results, change: Change | None = None) -> Iterator[str]:
    """What else differs between the two sides, a line each: settings, and what was left out."""
    pairs = [*_pairs(first, second, change)]
    besides = f" besides {change.field}" if change else ""
    listed = "; ".join(_differing(first, second, pairs, change))
    yield (
        f"Settings that differ{besides}, first / second: {listed}."
        if listed
        else f"No setting differs{besides}."
    )
    yield from left_out(first, second, change)


def left_out(first: Results, second: Results, change: Change | None = None) -> Iterator[str]:
    """A sentence on each kind of result that is there and does not count, of either side."""
    pairs = [*_pairs(first, second, change)]
    for name, side, place in (("first", first, 0), ("second", second, 1)):
        cells = [pair[place] for pair in pairs]
        unlike = results.measured_unlike(side, cells)
        for line in (*results.left_out(side, cells), *([f"{unlike}."] if unlike else [])):
            yield f"Of the {name}: {line}"


def _differing(
    first: Results, second: Results, pairs: Sequence["Pair"], change: Change | None
) -> Iterator[str]:
    """The settings that differ within pairs, with their values, and in how many if not in all.

    Not those that change no number.
    """
    asked = (change.field, change.first, change.second) if change else ()
    found: dict[str, Counter[tuple[str, str]]] = {}
    for one, other in pairs:
        ours, theirs = (
            dict(_flat(side.study.settings(cell).to_json()))
            for side, cell in ((first, one), (second, other))
        )
        for key in {**ours, **theirs}:
            both = ours.get(key, "–"), theirs.get(key, "–")
            is_asked = (key.rpartition(".")[2], *both) == asked
            if both[0] != both[1] and not is_asked and key not in NO_NUMBERS:
                found.setdefault(key, Counter())[both] += 1
    for key, counts in found.items():
        told = " or ".join(f"{a} / {b}" for a, b in counts)
        some = f" in {counts.total()} of {len(pairs)} pairs"
        yield f"{key} {told}{some if counts.total() < len(pairs) else ''}"


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a JSON value by the path of their keys, in words; what is empty has none."""
    if isinstance(value, Mapping):
        for inner, entry in value.items():
            yield from _flat(entry, f"{key}.{inner}" if key else inner)
    else:
        text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
        yield key, text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text


def _pairs(first: Results, second: Results, change: Change | None) -> Iterator["Pair"]:
    """The cells of the first side, each with its counterpart on the second."""
    if change:
        _check(first, change.field, change.first)
        _check(second, change.field, change.second)
    there = {str(cell): cell for cell in second.study.cells}
    found = False
    for cell in first.study.cells:
        if change and getattr(cell, change.field) != change.first:
            continue
        path = str(_with(cell, change.field, change.second) if change else cell)
        if path in there:
            found = True
            yield cell, there[path]
    if not found:
        raise InputError(f"{second.study.file}: has no cell that {first.study.file} has, too")


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
    cells: list["Pair"],
) -> Comparison:
    ours: dict[int, float] = {}
    theirs: dict[int, float] = {}
    diverged = [0, 0]
    unlike: dict[str, None] = {}
    for one, other in cells:
        states = first.status(one), second.status(other)
        if "diverged" in states:
            for side, state in enumerate(states):
                diverged[side] += state == "diverged"
            continue
        a, b = value(first, one), value(second, other)
        if a is not None and b is not None:
            ours[one.seed], theirs[one.seed] = a, b
            if metric == "lambda1":
                unlike |= dict.fromkeys(_unlike(first.hessian(one), second.hessian(other)))
    return Comparison(
        condition, metric, ours, theirs, (diverged[0], diverged[1]), ", ".join(unlike)
    )


def _unlike(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> Iterator[str]:
    """In what two eigenvalues were measured differently."""
    ways = [{**WAY, **(found or {}), "images": _images(found or {})} for found in (first, second)]
    for key in WAY:
        one, other = (way[key] for way in ways)
        if one != other:
            yield f"{key} {one} / {other}"


def _images(found: Mapping[str, Any]) -> str:
    """Over how many images an eigenvalue is: all there are, or so many of them."""
    some, whole = found.get("samples", 0), found.get("population", 0)
    return f"{some:,} of {whole:,}" if some < whole else "all"


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
    means = [statistics.fmean(side.values()) for side in (entry.first, entry.second)]
    digits = f",.{max(decimals(entry.metric, one) for one in means)}f"
    sides, (mean, half) = [f"{one:{digits}}" for one in means], entry.interval
    difference = f"{mean:+{digits}}" + ("" if half is None else f" ± {half:{digits}}")
    words = f"{entry.verdict}: {entry.unlike}" if entry.unlike else entry.verdict
    words += f"; {verdict}" if any(entry.diverged) else ""
    return [*sides, "" if entry.unlike else difference, str(len(entry.first)), words]


def to_csv(found: list[Comparison]) -> str:
    """With full precision; the interval is empty for one pair, and where there can be none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADS)
    for entry in found:
        numbers: list[float | str | None] = ["", "", "", ""]
        if entry.first:
            means = [statistics.fmean(side.values()) for side in (entry.first, entry.second)]
            numbers = [*means, *(("", "") if entry.unlike else entry.interval)]
        verdict = entry.verdict if entry.first else ""
        writer.writerow(
            [entry.condition, entry.metric, *numbers, len(entry.first), *entry.diverged, verdict]
        )
    return text.getvalue()
