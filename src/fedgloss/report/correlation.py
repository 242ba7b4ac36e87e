"""How two quantities of runs correlate, with an interval that knows that seeds are no methods."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Coefficient = Callable[[np.ndarray, np.ndarray], float]
DRAWS = 2000
"""Bootstrap samples behind an interval."""
FEWEST = 4
"""Methods without which there is no interval."""


@dataclass(frozen=True)
class Points:
    """Cells that ran to the end, one entry each."""

    labels: np.ndarray
    """The algorithm's label."""
    conditions: np.ndarray
    """The panel's number."""
    flatness: np.ndarray
    """Logarithm of the measure, which spans orders of magnitude."""
    accuracy: np.ndarray

    def where(self, kept: np.ndarray) -> "Points":
        """Some of them: kept is an array of truth values."""
        return Points(
            self.labels[kept], self.conditions[kept], self.flatness[kept], self.accuracy[kept]
        )


@dataclass(frozen=True)
class Correlation:
    """A coefficient, NaN where there is none, and its interval, None with too few methods."""

    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "–"
        numbers = [self.value, *(self.interval or ())]
        value, *ends = [f"{number:+.2f}".replace("-", "−") for number in numbers]
        return f"{value} [{', '.join(ends)}]" if ends else value


def correlation(points: Points, coefficient: Coefficient, within: bool = False) -> Correlation:
    """A coefficient over these points, with the interval of a bootstrap over methods.

    within: after each condition's mean is taken off both.
    """

    def value(index: np.ndarray) -> float:
        x, y = points.flatness[index], points.accuracy[index]
        if within:
            x, y = (_centred(v, points.conditions[index]) for v in (x, y))
        return coefficient(x, y)

    methods = np.unique(points.labels)
    members = [np.flatnonzero(points.labels == label) for label in methods]
    whole = value(np.arange(len(points.labels)))
    if len(methods) < FEWEST or np.isnan(whole):
        return Correlation(whole, None)
    draw = np.random.default_rng(0)
    values = [
        value(np.concatenate([members[k] for k in draw.integers(len(methods), size=len(methods))]))
        for _ in range(DRAWS)
    ]
    low, high = np.nanquantile(values, (0.025, 0.975))
    return Correlation(whole, (float(low), float(high)))


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's coefficient; NaN where one of the two does not vary."""
    x, y = x - x.mean() if len(x) else x, y - y.mean() if len(y) else y
    scale = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / scale) if scale > 0 else float("nan")


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's coefficient of the ranks; equal values share the mean of theirs."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return values - (np.bincount(which, values) / counts)[which]
