"""A table as data: what stands in it, before it is text in any format."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedgloss.report import names
from fedgloss.report.published import Published
from fedgloss.report.seeds import Summary
from fedgloss.report.verdict import Verdict
from fedgloss.study.schema.shown import Condition

LOWER_IS_BETTER = (
    "lambda1",
    "lambda1_official",
    "trace",
    "rounds",
    "cost",
    "rounds_to_fedgloss",
    "cost_vs_fedgloss",
)
UNRANKED = ("communication_cost", "gradients", "accuracy_gain", "lambda1_share")
"""What a method costs by its definition, what ranks as another column does, and a shape."""
DECIMALS = {"accuracy": 1, "accuracy_at_half": 1, "lambda1": 2, "rounds": 0, "cost": 2}
DECIMALS |= {"lambda1_official": 2, "accuracy_gain": 1, "trace": 1, "lambda1_share": 1}
DECIMALS |= {"rounds_to_fedgloss": 0, "cost_vs_fedgloss": 2}
DECIMALS |= {"communication_cost": 2, "gradients": 1}
OF_ANY_SIZE = ("lambda1", "lambda1_official", "trace")


def decimals(metric: str, value: float) -> int:
    """How many of them a value is printed with: enough for two digits of what may be small."""
    fewest = DECIMALS[metric]
    if metric not in OF_ANY_SIZE or not value:
        return fewest
    return max(fewest, 1 - math.floor(math.log10(abs(value))))


@dataclass(frozen=True)
class Column:
    """One metric of one (dataset, alpha, model)."""

    condition: Condition
    head: str
    """What all metrics of the condition stand under."""
    metric: str
    published: bool
    """Whether the paper prints any number of this column."""

    @property
    def judged(self) -> bool:
        """Whether it has verdicts: the paper's cost repeats its rounds, to one digit."""
        return self.published and self.metric != "cost"


@dataclass(frozen=True)
class Entry:
    """Ours and the paper's for one row and column."""

    ours: Summary
    paper: Published | None
    verdict: Verdict | None
    best: bool = False
    """The best mean of its group, and of at least two methods that have all their seeds."""
    runs: Mapping[int, Mapping[str, object]] = field(default_factory=dict)
    """By seed: which run a value is of, and what made it; the keys are columns of the CSV."""


@dataclass(frozen=True)
class Row:
    """One algorithm."""

    label: str
    name: str
    """How it is shown."""
    method: str
    client: str
    cost: float | None
    """Bytes exchanged relative to FedAvg."""
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Table:
    """A table, as every format writes it."""

    study: str
    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    """What stands under the table: definitions, the verdict's rule, footnotes, how to rerun."""

    @property
    def has_costs(self) -> bool:
        """Whether the communication cost has a column of its own before the others."""
        shown = {column.metric for column in self.columns}
        return shown.isdisjoint(("cost", "cost_vs_fedgloss", "communication_cost"))

    @property
    def groups(self) -> list[tuple[str, list[Row]]]:
        """The rows under the client optimisers' names, as the paper groups them."""
        clients = dict.fromkeys(row.client for row in self.rows)
        return [(names.CLIENTS[c], [r for r in self.rows if r.client == c]) for c in clients]


@dataclass(frozen=True)
class Grid:
    """A table of words: heads, lines, notes below; `code` in backticks. Its CSV may say more."""

    study: str
    name: str
    title: str
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    fields: tuple[str, ...]
    """The columns of the CSV."""
    records: tuple[Mapping[str, object], ...]
    """The lines of the CSV."""
