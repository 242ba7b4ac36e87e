"""FedGloSS, rebuilt: the paper's methods on your own models and data, and their sharpness.

`train` runs any of `METHODS`; `eigenvalues`, `trace`, `density`, `landscape` and `line` measure how
sharp a model is.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedgloss.algorithms.core import Algorithm
    from fedgloss.engine.assembly import Result
    from fedgloss.engine.checkpoint import Interrupted
    from fedgloss.engine.clients import ClientData, Pipeline
    from fedgloss.engine.train import train
    from fedgloss.errors import InputError
    from fedgloss.sharpness.eigenvalues import Spectrum
    from fedgloss.sharpness.measure import (
        Landscape,
        Line,
        density,
        eigenvalues,
        landscape,
        line,
        trace,
    )
    from fedgloss.sharpness.quadrature import Density
    from fedgloss.sharpness.trace import Trace

METHODS: dict[str, str]
"""The methods that come with the package: the import path of each by its name."""

__version__ = "0.1.0"
__all__ = [
    "METHODS",
    "Algorithm",
    "ClientData",
    "Density",
    "InputError",
    "Interrupted",
    "Landscape",
    "Line",
    "Pipeline",
    "Result",
    "Spectrum",
    "Trace",
    "density",
    "eigenvalues",
    "landscape",
    "line",
    "trace",
    "train",
]

# Looked up on first use, so that commands which need no tensors do not wait for torch.
_HOMES = {
    "Algorithm": "fedgloss.algorithms.core",
    "ClientData": "fedgloss.engine.clients",
    "Density": "fedgloss.sharpness.quadrature",
    "InputError": "fedgloss.errors",
    "Interrupted": "fedgloss.engine.checkpoint",
    "Landscape": "fedgloss.sharpness.measure",
    "Line": "fedgloss.sharpness.measure",
    "METHODS": "fedgloss.algorithms",
    "Pipeline": "fedgloss.engine.clients",
    "Result": "fedgloss.engine.assembly",
    "Spectrum": "fedgloss.sharpness.eigenvalues",
    "Trace": "fedgloss.sharpness.trace",
    "density": "fedgloss.sharpness.measure",
    "eigenvalues": "fedgloss.sharpness.measure",
    "landscape": "fedgloss.sharpness.measure",
    "line": "fedgloss.sharpness.measure",
    "trace": "fedgloss.sharpness.measure",
    "train": "fedgloss.engine.train",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedgloss' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found
