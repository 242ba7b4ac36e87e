"""How the eigenvalues of the loss' Hessian are distributed: stochastic Lanczos quadrature.

From a random vector, k steps of Lanczos give the nodes and weights of a Gauss quadrature of the
measure that has the weight (u_i . v)^2 at each eigenvalue; its mean over random v is the spectral
density, 1 / P at each (Golub and Welsch 1969; Ghorbani, Krishnan and Xiao 2019, whose figures of
networks' Hessians are made so).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedgloss.rng import Stream
from fedgloss.sharpness.krylov import Watch, counted, tridiagonal, unwatched
from fedgloss.sharpness.objective import Objective, require_finite, require_integer
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

    def __repr__(self) -> str:
        low, high = min(n[0] for n in self.nodes), max(n[-1] for n in self.nodes)
        starts = f"{len(self.nodes)} starts, {self.products} products"
        return f"Density({low:.4g} to {high:.4g}; {starts})"

    def smoothed(self, x: Points, width: float) -> tuple[Points, Points]:
        """The density at x [n] through a Gaussian of this standard deviation, and its error.

        The error is the half-width of a 95 % confidence interval over the starts, at each point by
        itself; details much finer than `width` are beyond k steps.
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
        """The mean of a function of eigenvalues, [n, k] at nodes [k], and its error."""
        values = np.stack(
            [
                function(nodes) @ weights
                for nodes, weights in zip(self.nodes, self.weights, strict=True)
            ]
        )
        spread = values.std(axis=0, ddof=1) / math.sqrt(len(values))
        return values.mean(axis=0), quantile(len(values) - 1) * spread


def spectral_density(
    objective: Objective,
    w: Tensor,
    starts: int = 10,
    steps: int = 80,
    seed: int = 0,
    watch: Watch = unwatched,
) -> Density:
    """The density of the Hessian's eigenvalues at w [P], from starts * steps products at most.

    starts: random vectors, at least 2, whose spread is the error. steps: of Lanczos from each; the
    quadrature is exact for polynomials of degree 2 * steps - 1.

    Memory: `steps` vectors of P. Raises InputError for a non-finite w or Hessian.
    """
    require_finite(w)
    require_integer("starts", starts, least=2)
    require_integer("steps", steps, least=1)
    product = counted(objective.hessian(w), watch)
    nodes, weights, products = [], [], 0
    for i in range(starts):
        T = tridiagonal(product, _normal(w, seed, i), steps)
        values, vectors = np.linalg.eigh(T)
        nodes.append(values)
        weights.append(vectors[0] ** 2)
        products += len(T)
    return Density(tuple(nodes), tuple(weights), products)


def _normal(w: Tensor, seed: int, i: int) -> Tensor:
    """A standard normal vector like w [P] (Box and Muller): its direction is uniform."""
    u, v = Stream(seed, "density", round=i).uniform(2 * len(w)).reshape(2, -1)
    return torch.from_numpy(np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v)).to(w)
