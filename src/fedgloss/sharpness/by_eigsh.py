"""The largest eigenvalues by SciPy's eigsh (ARPACK), with the products of curvlinops.

Neither shares code with `eigenvalues.lanczos`: curvlinops differentiates forward over backward, and
ARPACK restarts its Krylov space where it grows. The packages are needed here alone.
"""

import numpy as np
import torch
from torch import Tensor

from fedgloss.errors import InputError, reason
from fedgloss.sharpness.arguments import require_finite
from fedgloss.sharpness.arithmetic import arithmetic
from fedgloss.sharpness.eigenvalues import Spectrum
from fedgloss.sharpness.krylov import Watch, finite, norm, uniform, unwatched
from fedgloss.sharpness.objective import Objective
from fedgloss.sharpness.terms import Batches, Criterion, Terms, require_second_derivatives


def eigsh(
    objective: Objective,
    w: Tensor,
    count: int = 5,
    tolerance: float = 1e-4,
    max_products: int = 1000,
    seed: int = 0,
    watch: Watch = unwatched,
) -> tuple[Spectrum, Tensor]:
    """The `count` algebraically largest eigenvalues at w [P], and a unit eigenvector of lambda_1.

    Raises InputError where the packages are not installed, for a model that curvlinops does not
    differentiate, for count >= P, and where ARPACK does not converge.
    """
    require_finite(w)
    require_second_derivatives(objective, "eigsh")
    if count >= len(w):
        raise InputError(f"count: {count} (allowed for eigsh: below {len(w)}, the parameters)")
    try:
        from curvlinops import HessianLinearOperator
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator
        from scipy.sparse.linalg import eigsh as arpack
    except ImportError:
        raise InputError(
            "method: eigsh needs curvlinops and SciPy; pip install curvlinops-for-pytorch scipy"
        ) from None
    terms, batches = Terms(objective, w), Batches(objective, watch)
    vectors = min(len(w), max(2 * count + 1, 20))
    with arithmetic(objective.model, w.device, twice=True):
        hessian = HessianLinearOperator(
            terms,
            Criterion(),
            [terms.w],
            batches,
            check_deterministic=False,
            num_data=len(objective),
        )

        def product(v: np.ndarray) -> np.ndarray:
            try:
                Hv = hessian @ torch.from_numpy(v).to(w).reshape(-1)
            except (RuntimeError, NotImplementedError) as error:
                raise InputError(
                    f"method: curvlinops cannot differentiate this model ({reason(error)})"
                ) from None
            return finite(Hv.detach()).double().cpu().numpy()

        size = (len(w), len(w))
        try:
            values, found = arpack(
                LinearOperator(size, product, dtype=np.float64),
                k=count,
                which="LA",
                v0=uniform(w, seed).double().cpu().numpy(),
                ncv=vectors,
                tol=tolerance / 2,
                maxiter=max(max_products // max(vectors - count, 1), 1),
            )
        except ArpackNoConvergence:
            raise InputError(
                f"method: eigsh has not converged in {batches.passes} products (allowed: lanczos,"
                " which says how far it got)"
            ) from None
        spent = batches.passes
        order = np.argsort(values)[::-1]
        residuals = [norm(torch.from_numpy(product(v) - x * v)) for x, v in _pairs(values, found)]
    first = torch.from_numpy(found[:, order[0]]).to(w)
    return Spectrum(
        eigenvalues=tuple(float(values[i]) for i in order),
        residuals=tuple(residuals[i] for i in order),
        converged=tuple(bool(residuals[i] <= tolerance * abs(values[i])) for i in order),
        products=spent + count,
    ), first / norm(first)


def _pairs(values: np.ndarray, vectors: np.ndarray) -> list[tuple[float, np.ndarray]]:
    return [(float(value), vectors[:, i]) for i, value in enumerate(values)]
