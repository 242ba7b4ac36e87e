"""How the eigenvalues of the loss' Hessian are distributed: stochastic Lanczos quadrature.

From a random vector, k steps of Lanczos give the nodes and weights of a Gauss quadrature of the
measure that has the weight (u_i . v)^2 at each eigenvalue; its mean over random v is the spectral
density, 1 / P at each (Golub and Welsch 1969; Ghorbani, Krishnan and Xiao 2019, whose figures of
networks' Hessians are made so).
"""

import numpy as np
import torch
from torch import Tensor

from fedgloss.rng import Stream
from fedgloss.sharpness.arguments import require_finite, require_integer
from fedgloss.sharpness.krylov import Watch, counted, tridiagonal, unwatched
from fedgloss.sharpness.objective import Objective
from fedgloss.sharpness.quadrature import Density


def spectral_density(
    objective: Objective,
    w: Tensor,
    starts: int = 10,
    steps: int = 80,
    seed: int = 0,
    watch: Watch = unwatched,
) -> Density:
    """The density of the Hessian's eigenvalues at w [P], from starts * steps products at most.

    starts: random vectors, at least 2; four times as many halve the error. steps: of Lanczos from
    each; the quadrature is exact for polynomials of degree 2 * steps - 1.

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
    return Density(tuple(nodes), tuple(weights), products, len(w))


def _normal(w: Tensor, seed: int, i: int) -> Tensor:
    """A standard normal vector like w [P] (Box and Muller): its direction is uniform."""
    u, v = Stream(seed, "density", round=i).uniform(2 * len(w)).reshape(2, -1)
    return torch.from_numpy(np.sqrt(-2 * np.log1p(-u)) * np.cos(2 * np.pi * v)).to(w)
