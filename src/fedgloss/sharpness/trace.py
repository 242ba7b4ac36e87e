"""The trace of the loss' Hessian, with its error: the sum of all curvature.

The probes and what is subtracted before probing follow Hutch++ (Meyer, Musco, Musco and Woodruff,
2021): a few products find the directions in which most of the trace lies, where it is computed
exactly; random probes estimate the rest. A network's Hessian has few large eigenvalues, so little
is left to chance.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedgloss.rng import Stream
from fedgloss.sharpness.arguments import require_finite, require_integer
from fedgloss.sharpness.krylov import (
    Watch,
    counted,
    dot,
    finite,
    norm,
    orthogonal,
    orthonormal_span,
    unwatched,
)
from fedgloss.sharpness.objective import Objective
from fedgloss.student import quantile

LEAST = 6
"""Products: fewer leave no two probes of the rest, and so no error."""


@dataclass(frozen=True)
class Trace:
    """The trace of a Hessian, estimated."""

    trace: float
    """The estimate of the sum of all eigenvalues."""
    standard_error: float
    """Of the estimate, from the spread of the probes; 0 where none were needed."""
    interval: float
    """The half-width of its 95 % confidence interval (Student's t)."""
    exact: float
    """The part of the trace that was computed without chance."""
    products: int
    """Hessian-vector products spent."""

    def __repr__(self) -> str:
        return f"Trace({self.trace:.4g} ± {self.interval:.2g}, {self.products} products)"


def trace(
    objective: Objective, w: Tensor, products: int = 90, seed: int = 0, watch: Watch = unwatched
) -> Trace:
    """The trace of the Hessian at w [P] from about so many Hessian-vector products.

    A third of them for a sketch H S of random signs S [P, b], a third for the exact trace on its
    span Q, a third for probes g of random signs: tr H = tr(Q' H Q) + E g' (I - QQ') H (I - QQ') g.
    All P of them, one for each axis, where there are no more parameters than products.

    Memory: 2/3 of `products` vectors of P. Raises InputError for a non-finite w or Hessian.
    """
    require_finite(w)
    require_integer("products", products, least=LEAST)
    product = counted(objective.hessian(w), watch)
    if len(w) <= products:
        axes = torch.eye(len(w), dtype=w.dtype, device=w.device)
        total = math.fsum(dot(axis, finite(product(axis))) for axis in axes)
        return Trace(total, 0.0, 0.0, total, len(w))

    third = products // 3
    sketch = torch.stack([finite(product(_signs(w, seed, "sketch", i))) for i in range(third)])
    Q = orthonormal_span(sketch)
    exact = math.fsum(dot(q, finite(product(q))) for q in Q)
    probes = []
    for i in range(products - 2 * third):
        g = orthogonal(_signs(w, seed, "probe", i), Q)
        probes.append(dot(g, finite(product(g))) if norm(g) > 0 else 0.0)
    spread = float(np.std(probes, ddof=1)) / math.sqrt(len(probes))
    return Trace(
        trace=exact + float(np.mean(probes)),
        standard_error=spread,
        interval=quantile(len(probes) - 1) * spread,
        exact=exact,
        products=third + len(Q) + len(probes),
    )


def _signs(w: Tensor, seed: int, purpose: str, i: int) -> Tensor:
    """A vector like w [P] of random signs, 1 and -1."""
    words = Stream(seed, f"trace {purpose}", round=i).bits(-(-len(w) // 64))
    signs = np.unpackbits(words.view(np.uint8), count=len(w)).astype(np.float32)
    return torch.from_numpy(2 * signs - 1).to(w)
