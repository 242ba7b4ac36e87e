"""The spread of a few independent estimates, as a confidence interval."""

import math
import statistics
from collections.abc import Sequence


def quantile(degrees: int) -> float:
    """The t for which a Student variable of so many degrees of freedom is in [-t, t] with 95 %.

    Found by bisection of its distribution function, whose closed form for an integer number of
    degrees is a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4): no package needed.
    """
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 0.95 else (low, middle)
    return high


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean of independent values, at least one, and half its 95 % interval.

    The half is None for one value, which has no spread.
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    return mean, quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def _within(t: float, degrees: int) -> float:
    """The probability of [-t, t]."""
    theta = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term, total = (math.cos(theta) if odd else 1.0), 0.0
    for j in range(odd + 1, degrees, 2):
        total += term
        term *= j / (j + 1) * math.cos(theta) ** 2
    if odd:
        return (2 / math.pi) * (theta + math.sin(theta) * total)
    return math.sin(theta) * total
