"""The spectrum by PyHessian (Yao, Gholami, Keutzer and Mahoney 2020), the field's usual tool.

Its numbers are right where it is used with care, which is taken here. It gets the loss as a module
of one parameter (`Terms`), so batches and losses of any kind are weighed rightly, and there are no
old gradients that it would add to; its draws follow from a seed, of which it has none; it looks for
the largest modulus, so the spectrum is shifted until that is the largest eigenvalue; its vectors
are a little short; its traces end when two estimates happen to be alike; and its density calls an
eigendecomposition that PyTorch no longer has. The package is needed here alone.
"""

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fedgloss.errors import InputError
from fedgloss.sharpness.arguments import require_finite
from fedgloss.sharpness.arithmetic import arithmetic
from fedgloss.sharpness.eigenvalues import Spectrum
from fedgloss.sharpness.krylov import Watch, dot, finite, norm, unwatched
from fedgloss.sharpness.objective import Objective
from fedgloss.sharpness.quadrature import Density
from fedgloss.sharpness.terms import Batches, Criterion, Terms, require_second_derivatives
from fedgloss.sharpness.trace import Trace
from fedgloss.student import quantile

T = TypeVar("T")


def eigenvalues(
    objective: Objective,
    w: Tensor,
    count: int = 5,
    tolerance: float = 1e-5,
    max_steps: int = 500,
    seed: int = 0,
    watch: Watch = unwatched,
) -> tuple[Spectrum, Tensor]:
    """The `count` algebraically largest eigenvalues at w [P], and a unit eigenvector of lambda_1.

    By its power iteration with deflation: for each eigenvalue at most `max_steps` products, until
    two estimates in a row differ by less than `tolerance` of themselves. A residual is then about
    sqrt(tolerance) of the eigenvalue; up to twice that counts as converged.
    """
    options = {"maxIter": max_steps, "tol": tolerance}

    def found(computer: Any) -> tuple[list[Tensor], float, int]:
        values, vectors = computer.eigenvalues(**options, top_n=1)
        if values[0] < 0 or count > 1:  # else the largest modulus is lambda_1
            # No eigenvalue is below -|values[0]|: with so much added, none is negative.
            computer.model.shift = 1.01 * abs(values[0])
            values, vectors = computer.eigenvalues(**options, top_n=min(count, len(w)))
        return [v.detach() for (v,) in vectors], computer.model.shift, computer.data.passes

    vectors, shift, spent = _computed(objective, w, seed, watch, found)
    product, pairs = objective.hessian(w), []
    for v in (v / norm(v) for v in vectors):
        image = finite(product(v))
        value = dot(v, image)  # its own estimate is of vectors that are not quite of length 1
        pairs.append((value, norm(image - value * v), v))
    pairs.sort(key=lambda pair: -pair[0])
    return Spectrum(
        eigenvalues=tuple(value for value, _, _ in pairs),
        residuals=tuple(residual for _, residual, _ in pairs),
        converged=tuple(r**2 <= 4 * tolerance * (x + shift) ** 2 for x, r, _ in pairs),
        products=spent + len(pairs),
    ), pairs[0][2]


def trace(
    objective: Objective, w: Tensor, products: int = 90, seed: int = 0, watch: Watch = unwatched
) -> Trace:
    """Its estimate of the trace after so many probes of random signs (Hutchinson 1989)."""
    endless = {"maxIter": products, "tol": -math.inf}  # no estimate is "close enough"
    probes = _computed(objective, w, seed, watch, lambda computer: computer.trace(**endless))
    spread = float(np.std(probes, ddof=1)) / math.sqrt(len(probes))
    interval = quantile(len(probes) - 1) * spread
    return Trace(float(np.mean(probes)), spread, interval, 0.0, len(probes))


def density(
    objective: Objective,
    w: Tensor,
    starts: int = 10,
    steps: int = 80,
    seed: int = 0,
    watch: Watch = unwatched,
) -> Density:
    """Its density of the eigenvalues: starts of random signs, so many steps of Lanczos each."""
    steps = min(steps, len(w))
    size = {"iter": steps, "n_v": starts}
    nodes, weights = _computed(objective, w, seed, watch, lambda own: own.density(**size))
    order = [np.argsort(values) for values in nodes]
    return Density(
        tuple(np.array(v, dtype=float)[o] for v, o in zip(nodes, order, strict=True)),
        tuple(np.array(v, dtype=float)[o] for v, o in zip(weights, order, strict=True)),
        starts * steps,
        len(w),
    )


def _computed(
    objective: Objective, w: Tensor, seed: int, watch: Watch, compute: Callable[[Any], T]
) -> T:
    """What `compute` makes of PyHessian's object for an objective at w [P].

    Raises InputError where PyHessian is not installed, or the model has no second derivatives.
    """
    require_finite(w)
    require_second_derivatives(objective, "pyhessian")
    try:
        import pyhessian
    except ImportError:
        raise InputError("method: pyhessian is not installed; pip install pyhessian") from None
    terms, batches = Terms(objective, w), Batches(objective, watch)

    def run() -> T:
        return compute(pyhessian.hessian(terms, Criterion(), dataloader=batches, cuda=w.is_cuda))

    with (
        arithmetic(objective.model, w.device, twice=True),
        torch.enable_grad(),
        _fit_for_use(sys.modules["pyhessian.hessian"], w.dtype),
    ):
        # At w also where it differentiates, which is outside of the batches' forward passes.
        return objective.at(terms.w, seed, run)


@contextmanager
def _fit_for_use(module: Any, dtype: torch.dtype) -> Iterator[None]:
    """Its vectors are made in the default type, which must be that of the parameters; its `torch`
    has `eig`; and no warning of a cycle of references, which it breaks after each batch."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    module.torch = _Torch()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using backward", category=UserWarning)
            yield
    finally:
        module.torch = torch
        torch.set_default_dtype(before)


class _Torch:
    """PyTorch, with the function `eig` that it once had and PyHessian's density still calls."""

    @staticmethod
    def eig(T: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        """Eigenvalues [k, 2] (real, imaginary) and vectors [k, k] of a symmetric matrix."""
        values, vectors = torch.linalg.eigh(T.double())
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
