"""The paper's numbers (study/constants/published.csv), by what we call things."""

import csv
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedgloss.report import names
from fedgloss.study.configuration import CONSTANTS
from fedgloss.study.schema.shown import Condition, Place

if TYPE_CHECKING:
    from fedgloss.study.study import Study

FILE = CONSTANTS / "published.csv"
SEEDS = 3
"""Seeds behind a published mean +- std; a number printed without one counts as a single run."""
SOURCES = {"landmarks": "landmarks-user-160k"}
"""A data set's source -> its name in published.csv, where they differ."""
FIGURES = {"figure7": "6.3.1"}
"""The section that prints numbers of a figure."""
METRICS = {
    "accuracy": "accuracy",
    "accuracy_gain": "accuracy_gain_over_fedavg",
    "accuracy_at_half": "accuracy_at_50pct",
    "lambda1": "lambda1",
    "rounds": "rounds_to_fedavg",
    "cost": "cost_to_fedavg",
    "cost_vs_fedgloss": "cost_vs_fedgloss",
    "communication_cost": "communication_cost",
    "gradients": "communication_cost",  # in the note of these rows, see _gradients
}
"""Our metric -> the metric in published.csv."""


@dataclass(frozen=True)
class Published:
    """A number as the paper prints it."""

    table: str
    mean: float | None
    std: float | None
    status: str
    """ok, diverged (a cross in the paper) or not_reached (a dash)."""
    rounds: int | None
    """The paper's training rounds."""
    note: str
    """What the source leaves unclear, e.g. the same number printed otherwise elsewhere."""
    line: int
    """Of published.csv, where its head is line 1."""

    @property
    def n(self) -> int:
        """Runs behind the number."""
        return SEEDS if self.std is not None else 1


def published(
    study: "Study", column: Condition, label: str, metric: str, place: Place | None = None
) -> Published | None:
    """What the paper prints for an algorithm's label in a column, or None.

    place: what of the paper our table is.
    """
    source = study.datasets[column.dataset].source
    return lookup(
        SOURCES.get(source, source), column, study.definition(label).method, metric, place
    )


def lookup(
    dataset: str, condition: Condition, method: str, metric: str, place: Place | None = None
) -> Published | None:
    """What the paper prints for a method on a data set at a condition's alpha and model, or None.

    Some numbers are printed in several tables, not always equal. The one of `place` wins, then the
    first; the others' go into the note.
    """
    if metric not in METRICS:
        return None
    found = _matching(dataset, condition, method, lambda name: name == METRICS[metric])
    found.sort(key=lambda row: not is_of(row["table"], place))
    if not found:
        return None
    first = found[0]
    if first["metric"] == "communication_cost":
        client, _ = names.METHODS[method].published
        mean = _gradients(first["note"], client) if metric == "gradients" else float(first["mean"])
        return Published(first["table"], mean, None, "ok", None, "", int(first["line"]))
    note = first["note"].replace("+-", "±")
    if not note:
        others = {r["table"]: _text(r) for r in found if _text(r) != _text(first)}
        note = "; ".join(f"table {table} prints {text}" for table, text in others.items())
    return Published(
        first["table"],
        float(first["mean"]) if first["mean"] else None,
        float(first["std"]) if first["std"] else None,
        first["status"],
        int(first["rounds"]) if first["rounds"] else None,
        note,
        int(first["line"]),
    )


def is_of(table: str, place: Place | None) -> bool:
    """Whether a table or section of published.csv is what `place` shows."""
    return table == FIGURES.get(place or "", (place or "").removeprefix("table"))


@dataclass(frozen=True)
class PublishedLocals:
    """What the paper prints for the local models of a method (Table 1)."""

    by_client: Mapping[str, Mapping[str, float]]
    """By client, e.g. airplane-1 or cat: lambda_1 on its `local` and the `global` data."""
    diverged: bool
    """Whether it prints a cross in their place."""
    lines: tuple[int, ...]
    """Of published.csv."""


def local_models(study: "Study", column: Condition, label: str) -> PublishedLocals | None:
    """What the paper prints for the local models of an algorithm's label in a column, or None."""
    source = study.datasets[column.dataset].source
    return lookup_locals(SOURCES.get(source, source), column, study.definition(label).method)


def lookup_locals(dataset: str, condition: Condition, method: str) -> PublishedLocals | None:
    """What the paper prints for the local models of a method on a data set, or None."""
    rows = _matching(dataset, condition, method, lambda name: name.startswith("lambda1_"))
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if named := re.fullmatch(r"lambda1_(local|global)\[(.+)\]", row["metric"]):
            found.setdefault(named[2], {})[named[1]] = float(row["mean"])
    diverged = any(row["status"] == "diverged" for row in rows)
    lines = tuple(int(row["line"]) for row in rows)
    return PublishedLocals(found, diverged, lines) if rows else None


def _matching(
    dataset: str, condition: Condition, method: str, is_wanted: Callable[[str], bool]
) -> list[dict[str, str]]:
    """The printed rows on a method under a condition whose metric is wanted."""
    known = names.METHODS.get(method)
    if known is None:
        return []
    client, name = known.published
    wanted = {
        "dataset": dataset,
        "model": condition.model,
        "algorithm": name,
        "client_opt": client,
    }
    return [
        row
        for row in _rows()
        if all(row[key] in ("", value) for key, value in wanted.items())
        and is_wanted(row["metric"])
        and _same_alpha(row["alpha"], condition.alpha)
    ]


def _gradients(note: str, client: str) -> float:
    """The gradients of a local step, of which a note tells: "...: 1 (sgd) or 2 (sam)"."""
    said = note.rpartition(": ")[2]
    if found := re.search(rf"(\d+) \({client}\)", said):
        return float(found[1])
    if found := re.match(r"(\d+) x fedgloss", said):  # whose client SAM takes two
        return 2.0 * float(found[1])
    return float(said)


def _same_alpha(printed: str, ours: str) -> bool:
    if not printed:  # centralized training and the landmarks have no alpha
        return True
    try:
        return float(printed) == float(ours)
    except ValueError:  # iid, natural, or the name of a split
        return False


def _text(row: Mapping[str, str]) -> str:
    return f"{row['mean']} ± {row['std']}" if row["std"] else row["mean"] or row["status"]


@functools.cache
def _rows() -> tuple[dict[str, str], ...]:
    """The rows of published.csv, each with its line."""
    with open(FILE, newline="", encoding="utf-8") as file:
        return tuple(row | {"line": str(i)} for i, row in enumerate(csv.DictReader(file), 2))
