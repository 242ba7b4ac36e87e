"""The spread of a few independent estimates, as a confidence interval."""

import math
import statistics
from collections.abc import Callable, Sequence


def quantile(degrees: float) -> float:
    """The t for which a Student variable of so many degrees of freedom is in [-t, t] with 95 %.

    degrees: at least 1, not only integers: Welch's interval has others. Found by bisection of the
    distribution function, no package needed.
    """
    low, high = 0.0, 20.0
    for _ in range(50):
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


def _within(t: float, degrees: float) -> float:
    """The probability of [-t, t].

    With t = sqrt(degrees) tan(theta) the density is proportional to cos(theta)^(degrees - 1).
    """
    end = math.atan(t / math.sqrt(degrees))
    half = math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2)) * math.sqrt(math.pi)
    inside = _simpson(lambda theta: math.cos(theta) ** (degrees - 1), end)
    return 2 * inside / half


def _simpson(f: Callable[[float], float], end: float, pieces: int = 400) -> float:
    """The integral of a smooth function from 0 to `end`, by Simpson's rule."""
    step = end / pieces
    inner = sum((4 if i % 2 else 2) * f(i * step) for i in range(1, pieces))
    return (f(0.0) + inner + f(end)) * step / 3
