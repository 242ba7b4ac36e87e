"""What the functions of a method return: named, compared, and described in an error's message."""

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedgloss.algorithms.core import Named
from fedgloss.algorithms.declared import is_ours
from fedgloss.engine.elementwise import Lazy
from fedgloss.errors import did_you_mean

FAILURES = (Exception, SystemExit)
"""What a user's function may end with; an interruption is the user's own."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Between a federation alone and beside another, relative to the largest value."""

DIRECTION, MODEL, MESSAGE = "the direction", "the model", "the message"
CLIENT_STATE, SERVER_STATE = "the clients' state", "the server's state"
PARTS = {
    "broadcast": (MESSAGE,),
    "direction": (DIRECTION, CLIENT_STATE),
    "finish": (CLIENT_STATE, MESSAGE),
    "aggregate": (MODEL, SERVER_STATE),
}
"""What each function returns."""


class Kept:
    """A tensor as it was."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version, self.copy = tensor, tensor._version, tensor.clone()

    def has_changed(self) -> bool:
        return self.tensor._version != self.version or not equal(self.tensor, self.copy)


def mapped(result: Any, change: Callable[[Any], Any]) -> Any:
    """A result, or an argument, with all its tensors changed."""
    if isinstance(result, tuple):
        return tuple(mapped(part, change) for part in result)
    if isinstance(result, Named):
        return Named(**{name: mapped(value, change) for name, value in result.items()})
    return change(result) if isinstance(result, Tensor | Lazy) else result


def tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in a record, or in several, by name."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Named):
        for key in value:
            yield from tensors_in(value[key], f"{name}: {key}" if name else key)


def by_part(function: str, result: Any) -> dict[str, Any]:
    parts = PARTS[function]
    return dict(zip(parts, result if len(parts) > 1 else (result,), strict=True))


def difference(function: str, one: Any, other: Any, exact: bool = False) -> str | None:
    """The first part of two results that differs."""
    same = equal if exact else _close
    others = by_part(function, other)
    for part, value in by_part(function, one).items():
        found = [dict(tensors_in(result, part)) for result in (value, others[part])]
        for name in found[0].keys() | found[1].keys():
            if not all(name in f for f in found) or not same(found[0][name], found[1][name]):
                return name
    return None


def equal(one: Tensor, other: Tensor) -> bool:
    """Bit by bit, NaN like NaN."""
    if one.shape != other.shape or one.dtype != other.dtype or torch.equal(one, other):
        return one.shape == other.shape and one.dtype == other.dtype
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _close(one: Tensor, other: Tensor) -> bool:
    """But for rounding; scalars stand for all values of a tensor."""
    if one.dtype not in TOLERANCE or one.dtype != other.dtype or torch.equal(one, other):
        return torch.equal(one, other)
    one, other = torch.broadcast_tensors(one, other)
    largest = one.nan_to_num(0, 0, 0).abs().max() if one.numel() else 0.0
    tolerance = TOLERANCE[one.dtype]
    return torch.allclose(one, other, tolerance, tolerance * float(largest), equal_nan=True)


def kind_of(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def reason_of(error: BaseException, function: Callable) -> str:
    """An error's first line that says something, and where in the method's file it arose."""
    try:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    except FAILURES:
        text = "(its message cannot be read)"
    if isinstance(error, AttributeError) and isinstance(error.obj, Named):
        text = f"there is no {error.name!r}{did_you_mean(str(error.name), [*error.obj])}"
    return f"{type(error).__name__}{': ' * bool(text)}{text}{place_of(error, function)}"


def place_of(error: BaseException, function: Callable) -> str:
    """Where in the method's file an error arose, in brackets; nothing if not there."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f" ({Path(file).name}, line {lines[-1]})" if file and lines else ""


def begin_of(function: Callable) -> str:
    """Where a function of a caller's own begins, in brackets; nothing for others."""
    code = getattr(function, "__code__", None)
    if code is None or is_ours(function):
        return ""
    return f" ({Path(code.co_filename).name}, line {code.co_firstlineno})"
