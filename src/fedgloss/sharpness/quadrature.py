"""A spectral density as Gauss quadratures: computed once from a model, and drawn without it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedgloss.student import quantile

Points = np.ndarray
"""Places on the axis of eigenvalues, float64 [n]."""


@dataclass(frozen=True, eq=False)
class Density:
    """The spectral density of a Hessian, as one quadrature for each random start."""

    nodes: tuple[Points, ...]
    """For each start float64 [k]: where its weights lie, ascending."""
    weights: tuple[Points, ...]
    """For each start float64 [k], of sum 1: the share of eigenvalues near a node."""
    products: int
    """Hessian-vector products spent."""
    parameters: int
    """P, how many eigenvalues there are."""

    def __repr__(self) -> str:
        low, high = min(n[0] for n in self.nodes), max(n[-1] for n in self.nodes)
        starts = f"{len(self.nodes)} starts, {self.products} products"
        return f"Density({low:.4g} to {high:.4g}; {starts})"

    def smoothed(self, x: Points, width: float) -> tuple[Points, Points]:
        """The density at x [n] through a Gaussian of this standard deviation, and its error.

        The error is the half-width of a 95 % confidence interval, at each point by itself; details
        much finer than `width` are beyond k steps.
        """
        scale = 1 / (width * math.sqrt(2 * math.pi))
        return self._over_starts(
            lambda nodes: scale * np.exp(-0.5 * ((x[:, None] - nodes) / width) ** 2)
        )

    def moment(self, order: int) -> tuple[float, float]:
        """The mean of lambda^order over the eigenvalues, and the half-width of its 95 % interval.

        P times the first is the trace, P times the second the squared Frobenius norm.
        """
        mean, error = self._over_starts(lambda nodes: nodes[None] ** order)
        return float(mean[0]), float(error[0])

    def _over_starts(self, function: Callable[[Points], Points]) -> tuple[Points, Points]:
        """The mean of a function of eigenvalues, [n, k] at nodes [k], and its error.

        A random start's estimate of the mean of f has the variance 2 / (P + 2) of that of f over
        the eigenvalues; with random signs, at most. The spread of a few starts would say less: at
        an eigenvalue far from the others it is too small where all weights happen to be small.
        """
        pairs = [*zip(self.nodes, self.weights, strict=True)]
        mean = np.mean([function(nodes) @ weights for nodes, weights in pairs], axis=0)
        square = np.mean([function(nodes) ** 2 @ weights for nodes, weights in pairs], axis=0)
        variance = 2 / (self.parameters + 2) * np.maximum(square - mean**2, 0)
        return mean, quantile(len(pairs) - 1) * np.sqrt(variance / len(pairs))
