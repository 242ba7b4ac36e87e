"""Arguments of the analyses that are refused, in a line each that says what is allowed."""

from numbers import Integral

import torch
from torch import Tensor

from fedgloss.errors import InputError
from fedgloss.records import is_finite


def require_finite(w: Tensor) -> None:
    """Raise InputError unless w is a tensor of which every entry is finite."""
    require_tensor(w)
    if not bool(torch.isfinite(w).all()):
        raise InputError("w: has NaN or infinite entries (allowed: finite parameters)")


def require_tensor(w: Tensor) -> None:
    """Raise InputError for a vector of another kind, NumPy's for example."""
    if not isinstance(w, Tensor):
        raise InputError(f"w: is a {type(w).__name__} (allowed: a tensor [P])")


def require_integer(name: str, value: int, least: int) -> None:
    """Raise InputError unless the named argument is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}: {value!r} (allowed: an integer, at least {least})")


def require_positive(name: str, value: float) -> None:
    """Raise InputError unless the named argument is a finite number above 0."""
    if not is_finite(value) or value <= 0:
        raise InputError(f"{name}: {value!r} (allowed: a finite number above 0)")
