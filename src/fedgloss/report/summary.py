"""How ours compares with the paper's over all tables: counts of verdicts, and what differs most."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedgloss.report import formats
from fedgloss.report.model import Entry, Table
from fedgloss.report.verdict import margin

if TYPE_CHECKING:
    from fedgloss.study.study import Study

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
COUNTED = (
    "Each printed number counts once, in the first table that shows it. Of several rows beside it,"
    " the one that counts is labelled with the method's own name; where none is, it is the method's"
    " first label in the study. The others, with another variant or training, are shown and not"
    " counted."
)


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


def pairs(study: "Study", tables: Iterable[Table]) -> list[Pair]:
    """The printed numbers that have a verdict here, each once, by COUNTED."""
    found: dict[int, Pair] = {}
    for table in tables:
        for row in table.rows:
            for column, entry in zip(table.columns, row.entries, strict=True):
                if not entry.verdict or not entry.paper or column.metric in DECLARED:
                    continue
                counting = study.baselines(column.condition, row.method)[0].algorithm
                if row.label == counting:
                    pair = Pair(table.title, row.name, column.head, column.metric, entry)
                    found.setdefault(entry.paper.line, pair)
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


def undecided(found: Iterable[Pair]) -> list[tuple[str, ...]]:
    """The pairs without a verdict: method, column, what, and why there is none."""
    return [
        (pair.row, pair.head, formats.HEADS[pair.metric], pair.entry.verdict.word)
        for pair in found
        if pair.entry.verdict and pair.entry.verdict.sign == "·"
    ]
