"""The ways to a Hessian's spectrum that a study may choose from, under one interface each."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fedgloss.sharpness import by_eigsh, by_pyhessian
from fedgloss.sharpness.density import spectral_density
from fedgloss.sharpness.eigenvalues import Spectrum, lanczos
from fedgloss.sharpness.quadrature import Density
from fedgloss.sharpness.trace import Trace, trace


@dataclass(frozen=True)
class Method:
    """How eigenvalues, the trace and the density are computed.

    Attributes
      eigenvalues  (objective, w, count, watch=...) -> the spectrum, and lambda_1's eigenvector [P]
      trace        (objective, w, products, watch=...) -> the trace with its error
      density      (objective, w, starts, steps, watch=...) -> the density
      most         products after which so many eigenvalues are given up
    """

    eigenvalues: Callable[..., tuple[Spectrum, Tensor]]
    trace: Callable[..., Trace]
    density: Callable[..., Density]
    most: Callable[[int], int]


METHODS: dict[str, Method] = {
    "lanczos": Method(lanczos, trace, spectral_density, most=lambda count: 150),
    "pyhessian": Method(
        by_pyhessian.eigenvalues,
        by_pyhessian.trace,
        by_pyhessian.density,
        most=lambda count: 500 * (count + (count > 1)),
    ),
    "eigsh": Method(by_eigsh.eigsh, trace, spectral_density, most=lambda count: 1000),
}
"""By the study's key. eigsh has neither trace nor density: it takes lanczos'."""
