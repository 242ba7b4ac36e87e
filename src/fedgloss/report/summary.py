"""How ours compares with the paper's over all tables: counts of verdicts, and what differs most."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fedgloss.report import formats
from fedgloss.report.model import Entry, Table
from fedgloss.report.verdict import margin

OUTCOMES = {
    "=": "agrees",
    "≈": "close",
    "∼": "uncertain",
    ">": "above",
    "<": "below",
    "≠": "diverged or not reached in one",
    "·": "no verdict",
}
"""What is counted: the signs of verdicts, in words."""
FARTHEST = 10
DECLARED = ("communication_cost", "gradients")
"""What follows from a method alone: that it agrees says nothing about its results."""


@dataclass(frozen=True)
class Pair:
    """A number of ours beside the paper's, and where it stands."""

    table: str
    row: str
    head: str
    metric: str
    entry: Entry

    @property
    def distance(self) -> float:
        """The difference in units of what counts as near; 0 where there is nothing to subtract."""
        ours = self.entry.ours.mean
        paper = self.entry.paper.mean if self.entry.paper else None
        judged = self.entry.verdict is not None and self.entry.verdict.sign in "=≈∼<>"
        if ours is None or paper is None or not judged:
            return 0.0
        return abs(ours - paper) / (margin(paper, self.metric) or 1.0)


def pairs(tables: Iterable[Table]) -> list[Pair]:
    """All numbers that have a verdict, each once: some columns stand in several tables."""
    found: dict[tuple[object, ...], Pair] = {}
    for table in tables:
        for row in table.rows:
            for column, entry in zip(table.columns, row.entries, strict=True):
                if entry.verdict and column.metric not in DECLARED:
                    pair = Pair(table.title, row.name, column.head, column.metric, entry)
                    source = entry.paper.table if entry.paper else ""
                    found.setdefault((row.label, column.condition, column.metric, source), pair)
    return [*found.values()]


def counted(found: Iterable[Pair], key: Callable[[Pair], str]) -> Iterator[tuple[str, list[int]]]:
    """For each value of `key` how often each of OUTCOMES occurs."""
    groups: dict[str, Counter[str]] = {}
    for pair in found:
        verdict = pair.entry.verdict
        if verdict:
            groups.setdefault(key(pair), Counter())[verdict.sign] += 1
    for name, counts in groups.items():
        yield name, [counts[sign] for sign in OUTCOMES]


def farthest(found: Iterable[Pair]) -> list[tuple[str, ...]]:
    """The pairs that differ most: method, column, what, ours, the paper's, verdict."""
    ordered = sorted((pair for pair in found if pair.distance > 1), key=lambda p: -p.distance)
    return [
        (
            pair.row,
            pair.head,
            formats.HEADS[pair.metric],
            formats.number(pair.entry.ours, pair.metric),
            formats.paper_number(pair.entry.paper, pair.metric),
            pair.entry.verdict.word if pair.entry.verdict else "",
        )
        for pair in ordered[:FARTHEST]
    ]
