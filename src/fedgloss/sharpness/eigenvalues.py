"""The largest eigenvalues of the loss' Hessian (paper Fig. 7, Tab. 1, Tab. 7).

`top_eigenvalues`, or `lanczos`, is the measurement, to a stated residual. `power_iteration` is what
the authors' code runs, kept so that its numbers can be reproduced as it computes them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedgloss.errors import InputError
from fedgloss.rng import Stream
from fedgloss.sharpness.arguments import require_finite, require_integer
from fedgloss.sharpness.krylov import (
    Watch,
    dot,
    finite,
    norm,
    orthogonal,
    orthonormal,
    uniform,
    unwatched,
)
from fedgloss.sharpness.objective import Objective

# A Hessian-vector product is known to a few units of rounding of ||H||; a residual below this
# many is zero to working precision.
ROUNDING_UNITS = 30


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a Hessian, largest first."""

    eigenvalues: tuple[float, ...]
    """lambda_1 >= lambda_2 >= ..."""
    residuals: tuple[float, ...]
    """||H v - lambda v|| for each pair: an eigenvalue of H is at most this far, up to the rounding
    of the products H v (about 1e-6 ||H|| in float32)."""
    converged: tuple[bool, ...]
    """Whether each pair met the method's own tolerance."""
    products: int
    """Hessian-vector products spent."""

    def __repr__(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.eigenvalues)
        done = "converged" if all(self.converged) else "not all converged"
        return f"Spectrum({values}; {done} in {self.products} products)"


def top_eigenvalues(
    objective: Objective,
    w: Tensor,
    count: int = 5,
    tolerance: float = 1e-4,
    max_products: int = 150,
    seed: int = 0,
) -> Spectrum:
    """The `count` algebraically largest eigenvalues of the Hessian at w [P]: see `lanczos`."""
    return lanczos(objective, w, count, tolerance, max_products, seed)[0]


def lanczos(
    objective: Objective,
    w: Tensor,
    count: int = 5,
    tolerance: float = 1e-4,
    max_products: int = 150,
    seed: int = 0,
    watch: Watch = unwatched,
) -> tuple[Spectrum, Tensor]:
    """The `count` algebraically largest eigenvalues of the Hessian at w [P], or all P if fewer.

    And a unit eigenvector [P] of lambda_1.

    Lanczos with full reorthogonalisation, until every residual is at most tolerance * |lambda|, or
    rounding. The error of an eigenvalue is the residual at worst, and about residual^2 / gap where
    its neighbours are a gap away: far smaller. An eigenvalue that H has exactly twice is found
    twice if the Krylov space closes, and may else be found once; lambda_1 is right either way.

    Memory: two vectors of P per product. Where `max_products` end before the tolerance is met,
    `converged` says so. Raises InputError for a non-finite w or Hessian.
    """
    _check(w, count)
    if max_products < count:
        raise InputError(
            f"count: {count} (allowed: at most max_products, which is {max_products}: each"
            " eigenvalue takes a product)"
        )
    product = objective.hessian(w)
    count = min(count, len(w))
    steps = min(max_products, len(w))
    rounding = ROUNDING_UNITS * torch.finfo(w.dtype).eps

    basis: list[Tensor] = []  # orthonormal Krylov vectors
    images: list[Tensor] = []  # H times each of them
    T = np.zeros((steps, steps))  # H in that basis: tridiagonal, float64
    closed: list[np.ndarray] = []  # the leading Ritz values, each time the Krylov space closed
    v = orthonormal(uniform(w, seed), basis)
    while True:
        basis.append(v)
        images.append(finite(product(v)))
        k = len(basis)
        T[k - 1, k - 1] = dot(v, images[-1])
        values, vectors = (x[..., ::-1] for x in np.linalg.eigh(T[:k, :k]))
        floor = rounding * float(np.abs(values).max())
        rest = orthogonal(images[-1], basis)
        beta = norm(rest)
        if beta > floor:
            # H y - theta y = beta * (last coordinate of y) * v_{k+1}. Half the tolerance, so that
            # rounding does not undo in the measured residual what was reached here.
            bounds = beta * np.abs(vectors[-1, :count])
            limits = np.maximum(tolerance * np.abs(values[:count]), floor)
            done = not closed and k >= count and (bounds <= limits / 2).all()
            left = (bounds / np.maximum(np.abs(values[:count]), floor)).max()
            watch(k, f"λ₁ {values[0]:.4g}, residual {left:.1e} of {tolerance / 2:.0e}")
        else:
            # The space is invariant: its Ritz values are eigenvalues. What is orthogonal to it can
            # hold further copies of them, so go on from fresh vectors until that changes nothing.
            closed.append(values[:count])
            full = len(closed) > 1 and len(closed[-2]) == count
            done = full and np.allclose(closed[-2], closed[-1], rtol=0, atol=floor)
        if done or k == steps:
            break
        if beta > floor:
            T[k, k - 1] = T[k - 1, k] = beta
            v = rest / beta
        else:
            v = orthonormal(uniform(w, seed, len(closed)), basis)

    first = _combined(basis, vectors[:, 0].tolist())
    found = [
        _measured(_combined(basis, y), _combined(images, y)) for y in vectors.T[:count].tolist()
    ]
    found.sort(reverse=True)
    spectrum = Spectrum(
        eigenvalues=tuple(value for value, _ in found),
        residuals=tuple(residual for _, residual in found),
        converged=tuple(r <= max(tolerance * abs(value), floor) for value, r in found),
        products=k,
    )
    return spectrum, first / norm(first)


def power_iteration(
    objective: Objective,
    w: Tensor,
    count: int = 5,
    tolerance: float = 1e-4,
    max_steps: int = 20,
    seed: int = 0,
    watch: Watch = unwatched,
) -> Spectrum:
    """The released code's estimate of the `count` eigenvalues of largest modulus, descending.

    Power iteration with deflation, as in eigenthings/hessian_eigenthings/power_iter.py: at most
    `max_steps` steps per eigenvalue, until the estimate changes by less than `tolerance` of itself;
    the first start vector uniform in [0, 1) and not normalised, each later one the eigenvector
    before it. 20 steps often stop short: the eigenvalues are then too small, as their residuals
    tell. For that code's numbers let `objective` have its batches: 64, `equal_batches=True`.
    Raises InputError for a non-finite w or Hessian.
    """
    _check(w, count)
    product = objective.hessian(w)
    vector = torch.from_numpy(Stream(seed, "power iteration").uniform(len(w))).to(w)
    pairs: list[tuple[float, Tensor, bool]] = []
    products = 0
    for _ in range(min(count, len(w))):
        estimate, converged = 0.0, False
        for _ in range(max_steps):
            image = finite(product(vector))
            products += 1
            watch(products, f"{len(pairs)} eigenvalues of {count}")
            for value, found, _ in pairs:
                image = image - value * dot(found, vector) * found
            length = norm(image)
            if length == 0:
                estimate, vector, converged = 0.0, image, True
                break
            previous, estimate = estimate, dot(vector, image)
            vector = image / length
            converged = abs(estimate - previous) < tolerance * abs(estimate)
            if converged:
                break
        pairs.append((estimate, vector, converged))
    pairs.sort(key=lambda pair: -pair[0])
    images = product(torch.stack([vector for _, vector, _ in pairs]))
    return Spectrum(
        eigenvalues=tuple(value for value, _, _ in pairs),
        residuals=tuple(
            norm(Hv - value * v) for (value, v, _), Hv in zip(pairs, images, strict=True)
        ),
        converged=tuple(converged for _, _, converged in pairs),
        products=products + len(pairs),
    )


def _check(w: Tensor, count: int) -> None:
    require_finite(w)
    require_integer("count", count, least=1)


def _combined(vectors: list[Tensor], coordinates: list[float]) -> Tensor:
    total = torch.zeros_like(vectors[0])
    for y, v in zip(coordinates, vectors, strict=True):
        total = total + y * v
    return total


def _measured(v: Tensor, Hv: Tensor) -> tuple[float, float]:
    """The Rayleigh quotient of v [P] and the norm of its residual, given H v."""
    value = dot(v, Hv) / dot(v, v)
    return value, norm(Hv - value * v) / norm(v)
