"""The spectrum by PyHessian (Yao, Gholami, Keutzer and Mahoney 2020), the field's usual tool.

Its numbers are right where it is used with care, which is taken here: a fresh copy of the model
for each computer (it adds to the gradients it finds, and leaves the model in eval mode), the mean
loss (sums are weighed wrongly), draws from a seed (it has none), estimates that do not end when two
happen to be alike, and the eigendecomposition of its density by a function that PyTorch still has.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedgloss.engine.flat import copied
from fedgloss.errors import InputError
from fedgloss.sharpness.density import Density
from fedgloss.sharpness.eigenvalues import Spectrum
from fedgloss.sharpness.krylov import dot, norm
from fedgloss.sharpness.objective import (
    IGNORED,
    Objective,
    full_precision,
    parameter_views,
    require_finite,
)
from fedgloss.sharpness.trace import Trace
from fedgloss.student import quantile


def eigenvalues(
    objective: Objective,
    w: Tensor,
    count: int = 1,
    tolerance: float = 1e-4,
    max_steps: int = 300,
    seed: int = 0,
) -> Spectrum:
    """The `count` eigenvalues of largest modulus, by its power iteration; sorted, largest first.

    Where the most negative eigenvalue is the largest in modulus, it is among them:
    `eigenvalues.top_eigenvalues` looks for the largest by sign. An estimate ends when two in a row
    differ by less than `tolerance` of themselves; `residuals` say how far it got.
    """
    with _computer(objective, w, seed) as computer:
        values, vectors = computer.eigenvalues(maxIter=max_steps, tol=tolerance, top_n=count)
    product, pairs = objective.hessian(w), []
    for value, parts in zip(values, vectors, strict=True):
        v = torch.cat([part.reshape(-1) for part in parts]).to(w)
        pairs.append((value, norm(product(v) - value * v) / math.sqrt(dot(v, v))))
    pairs.sort(reverse=True)
    return Spectrum(
        eigenvalues=tuple(value for value, _ in pairs),
        residuals=tuple(residual for _, residual in pairs),
        # An eigenvalue's error is about residual^2 / gap, and its last change was of that size.
        converged=tuple(residual**2 <= tolerance * value**2 for value, residual in pairs),
        products=0,  # it does not say
    )


def trace(objective: Objective, w: Tensor, products: int = 90, seed: int = 0) -> Trace:
    """Its estimate of the trace after so many probes of random signs (Hutchinson 1989)."""
    with _computer(objective, w, seed) as computer:
        probes = computer.trace(maxIter=products, tol=-math.inf)  # never "close enough"
    spread = float(np.std(probes, ddof=1)) / math.sqrt(len(probes))
    interval = quantile(len(probes) - 1) * spread
    return Trace(float(np.mean(probes)), spread, interval, 0.0, len(probes))


def density(
    objective: Objective, w: Tensor, starts: int = 10, steps: int = 80, seed: int = 0
) -> Density:
    """Its density of the eigenvalues: starts of random signs, so many steps of Lanczos each."""
    steps = min(steps, len(w))
    with _computer(objective, w, seed) as computer:
        nodes, weights = computer.density(iter=steps, n_v=starts)
    order = [np.argsort(values) for values in nodes]
    return Density(
        tuple(np.array(v, dtype=float)[o] for v, o in zip(nodes, order, strict=True)),
        tuple(np.array(v, dtype=float)[o] for v, o in zip(weights, order, strict=True)),
        starts * steps,
    )


@contextmanager
def _computer(objective: Objective, w: Tensor, seed: int) -> Iterator[Any]:
    """PyHessian's object for an objective at w [P]; its draws follow from the seed.

    Raises InputError where PyHessian is not installed, or would weigh the samples otherwise.
    """
    require_finite(w)
    try:
        import pyhessian
    except ImportError:
        raise InputError("pyhessian: is not installed; pip install pyhessian") from None
    if bool((objective.targets == IGNORED).any()):
        raise InputError(f"targets: PyHessian would count the label {IGNORED} (allowed: classes)")
    if objective.equal_batches and len(objective.targets) % objective.batch_size:
        raise InputError("equal_batches: PyHessian weighs batches by their samples")
    sys.modules["pyhessian.hessian"].torch = _Torch()
    model = copied(objective.model).to(w.dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter_views(model, w)[name])
    devices = [w.device] if w.is_cuda else []
    with torch.random.fork_rng(devices), full_precision(), torch.enable_grad(), _dtype(w):
        torch.manual_seed(seed)
        batches = [*objective.batches(w.dtype)]
        yield pyhessian.hessian(
            model, nn.functional.cross_entropy, dataloader=batches, cuda=w.is_cuda
        )


@contextmanager
def _dtype(w: Tensor) -> Iterator[None]:
    """PyHessian makes its vectors in the default type, which must be that of the parameters."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(w.dtype)
    try:
        yield
    finally:
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
