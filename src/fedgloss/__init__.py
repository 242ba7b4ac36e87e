"""FedGloSS, rebuilt: the paper's methods, their sharpness, and its tables as build targets."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Looked up on first use, so that commands which need no tensors do not wait for torch.
_HOMES = {
    "Algorithm": "fedgloss.algorithms.core",
    "ClientData": "fedgloss.engine.clients",
    "InputError": "fedgloss.errors",
    "Interrupted": "fedgloss.engine.checkpoint",
    "METHODS": "fedgloss.algorithms",
    "Pipeline": "fedgloss.engine.clients",
    "Result": "fedgloss.engine.assembly",
    "train": "fedgloss.engine.train",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedgloss' has no attribute {name!r}")
