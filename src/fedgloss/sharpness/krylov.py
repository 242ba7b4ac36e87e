"""Orthogonal vectors in the space of the parameters: what the spectral methods have in common."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedgloss.errors import InputError
from fedgloss.rng import Stream

Product = Callable[[Tensor], Tensor]
"""V -> H V, for V [P] or rows [b, P]."""
Watch = Callable[[int, str], object]
"""Is called after a product, with how many were spent and what was found so far, in words."""


def unwatched(products: int, found: str) -> None:
    """Nobody looks on."""


def counted(product: Product, watch: Watch) -> Product:
    """The same product, which tells each time how often it was asked for."""
    numbers = itertools.count(1)

    def telling(V: Tensor) -> Tensor:
        result = product(V)
        watch(next(numbers), "")
        return result

    return telling


def uniform(w: Tensor, seed: int, restart: int = 0) -> Tensor:
    """A vector to start from, like w [P], with entries from [-1, 1)."""
    draws = Stream(seed, "lanczos", round=restart).uniform(len(w))
    return torch.from_numpy(2 * draws - 1).to(w)


def finite(Hv: Tensor) -> Tensor:
    """Hv as it is; InputError where the Hessian is not finite."""
    if not bool(torch.isfinite(Hv).all()):
        raise InputError("w: the Hessian overflows there (allowed: w with a finite Hessian)")
    return Hv


def dot(x: Tensor, y: Tensor) -> float:
    """x . y, summed in float64."""
    return torch.dot(x.double(), y.double()).item()


def norm(x: Tensor) -> float:
    """|x|, summed in float64."""
    return torch.linalg.vector_norm(x, dtype=torch.float64).item()


def orthogonal(x: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """x [P] without its part in the span of the orthonormal vectors of the basis."""
    for _ in range(2):  # twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6.9)
        for v in basis:
            x = torch.addcmul(x, v, torch.dot(v, x), value=-1)  # x - (v.x) v in one pass
    return x


def orthonormal(x: Tensor, basis: Sequence[Tensor]) -> Tensor:
    """The unit vector [P] along what of x is orthogonal to the basis."""
    x = orthogonal(x, basis)
    return x / norm(x)


def orthonormal_span(rows: Tensor) -> list[Tensor]:
    """An orthonormal basis of what rows [b, P] span; rows that add nothing but rounding are out."""
    basis: list[Tensor] = []
    floor = 1e3 * torch.finfo(rows.dtype).eps
    for row in rows:
        size, rest = norm(row), orthogonal(row, basis)
        if size > 0 and norm(rest) > floor * size:
            basis.append(rest / norm(rest))
    return basis


def tridiagonal(product: Product, start: Tensor, steps: int) -> np.ndarray:
    """H in an orthonormal basis of the Krylov space of `start` [P], float64 [k, k], k <= steps.

    Lanczos with full reorthogonalisation; k < steps where the space closes before. Memory: k
    vectors of P.
    """
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    v, scale = start / norm(start), 0.0
    for _ in range(min(steps, len(start))):
        image = finite(product(v))
        basis.append(v)
        diagonal.append(dot(v, image))
        scale = max(scale, norm(image))
        rest = orthogonal(image, basis)
        length = norm(rest)
        if length <= 30 * torch.finfo(start.dtype).eps * scale:
            break
        beside.append(length)
        v = rest / length
    beside = beside[: len(diagonal) - 1]
    return np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
