"""One quantity over the seeds of one condition: its mean, its spread, and what is missing of it."""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedgloss.report.results import (
    DIVERGED,
    NOT_COMPUTED,
    NOT_REACHED,
    NOT_RUN,
    Absence,
    Measured,
    Results,
)

if TYPE_CHECKING:
    from fedgloss.study.study import Cell


@dataclass(frozen=True)
class Summary:
    """One quantity over the seeds of one condition; nothing that is missing is hidden in a mean."""

    values: Mapping[int, float]
    """By seed: the seeds that have a value."""
    absent: Mapping[int, str] = field(default_factory=dict)
    """By seed: why the others of the grid have none, in a word or two."""
    against: str = ""
    """What is missing of the method that the values are counted against: "FedAvg n=2/3"."""

    @property
    def n(self) -> int:
        """Seeds that have a value."""
        return len(self.values)

    @property
    def planned(self) -> int:
        """Seeds in the grid."""
        return self.n + len(self.absent)

    @property
    def diverged(self) -> int:
        """Seeds whose run diverged."""
        return [*self.absent.values()].count(DIVERGED)

    @property
    def unreached(self) -> int:
        """Seeds that ran to the end without reaching what was to be reached."""
        return [*self.absent.values()].count(NOT_REACHED)

    @property
    def reasons(self) -> Counter[str]:
        """Why seeds have no value yet, and how many; none that diverged or did not reach it."""
        ended = (DIVERGED, NOT_REACHED)
        return Counter(why for why in self.absent.values() if why not in ended)

    @property
    def missing(self) -> int:
        """Seeds that have no value yet."""
        return self.reasons.total()

    @property
    def nothing(self) -> str | None:
        """Why no seed has come to anything, in a word or two; None if one has."""
        if self.missing < self.planned:
            return None
        why, *others = self.reasons or (NOT_RUN,)
        return NOT_RUN if others else why

    @property
    def complete(self) -> bool:
        """Whether every seed has a value that no run is going to change."""
        return not self.absent and not self.against

    @property
    def mean(self) -> float | None:
        """The mean over the seeds that have a value."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation (ddof = 1); None for fewer than two values."""
        return statistics.stdev(self.values.values()) if self.n > 1 else None


def summarize(
    results: Results,
    cells: Iterable["Cell"],
    value: Callable[["Cell"], float | str | None],
    of: Measured | None = None,
) -> Summary:
    """Gather `value` over cells that differ in their seed.

    value: a number; why there is none, in a word or two; or None where the run, or what was
    computed `of` it, says why.
    """
    values: dict[int, float] = {}
    absent: dict[int, str] = {}
    for cell in cells:
        why = results.why_absent(cell)
        found = why.why if why else value(cell)
        if found is None:
            why = results.why_absent(cell, of) or Absence(NOT_COMPUTED)
            found = why.why
        if isinstance(found, str):
            absent[cell.seed] = found
        else:
            values[cell.seed] = found
    return Summary(values, absent)
