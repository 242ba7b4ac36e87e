"""Between a method's messages and Flower's records: what is sent, and what a client keeps."""

import math

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor

from fedgloss.algorithms.core import Named
from fedgloss.errors import InputError
from fedgloss.records import is_finite

MESSAGE = "message"
"""The record with the method's message."""
FACTS = "fedgloss"
"""The record with what goes beside it: a few numbers."""
KEPT = "fedgloss.state"
"""How the records of a client's state begin."""


def pack(message: Named, wire: str) -> ArrayRecord:
    """A message or a state of one participant, each [1, 1, ...], as arrays by name."""
    return ArrayRecord({name: Array(_array(value[0, 0], wire)) for name, value in message.items()})


def unpack(record: ArrayRecord, like: Tensor, wire: str) -> Named:
    """What `pack` was given, each [1, 1, ...], on the device and in the type of `like`.

    Raises InputError if an array is not of the type that is agreed on.
    """
    return Named(**{name: _tensor(name, array, like, wire) for name, array in record.items()})


def size(record: ArrayRecord) -> int:
    """Bytes of the numbers in the arrays, without the 128 with which Flower describes each."""
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in record.values())


def number(value: object) -> float:
    """A number among the facts beside a message; InputError if it is none."""
    if not is_finite(value):
        raise InputError(f"beside its message is {value!r:.40} in place of a number")
    return float(value)  # type: ignore[arg-type]


def check_shapes(message: Named, expected: Named) -> None:
    """Refuse a message that has not the names and shapes of the expected one."""
    if {*message} != {*expected}:
        raise InputError(f"its message has {sorted(message)}, expected {sorted(expected)}")
    for name, value in message.items():
        ours, theirs = list(expected[name].shape[2:]), list(value.shape[2:])
        if ours != theirs:
            raise InputError(f"{name!r} of its message is {theirs}, expected {ours}")


class Kept:
    """A client's state between rounds, in Flower's own record of it.

    Two are kept: that of the last round and the one it was made from. A server that never got the
    client's last answer, or was started again from the checkpoint before it, names the earlier one.
    """

    def __init__(self, state: RecordDict, run: str) -> None:
        """run: what tells one training from another."""
        self.state, self.run = state, run

    def load(self, mark: str, names: tuple[str, ...], like: Tensor) -> Named | None:
        """The state after what `mark` names; None if it is not here."""
        record = self.state.get(self._key(mark))
        if not isinstance(record, ArrayRecord) or {*record} != {*names}:
            return None
        found = unpack(record, like, "exact")
        return found if all(value.shape[2:] == like.shape[2:] for value in found.values()) else None

    def save(self, mark: str, c: Named, before: str) -> None:
        """Keep a state, and of the others that of `before` alone."""
        for key in [*self.state]:
            if key.startswith(KEPT) and key != self._key(before):
                del self.state[key]
        self.state[self._key(mark)] = pack(c, "exact")

    def _key(self, mark: str) -> str:
        return f"{KEPT}.{self.run}.{mark}"


def _array(value: Tensor, wire: str) -> np.ndarray:
    value = value.detach().cpu().contiguous()
    if wire == "bfloat16":  # which NumPy does not know
        return value.to(torch.bfloat16).view(torch.uint16).numpy()
    return value.numpy()


def _tensor(name: str, array: Array, like: Tensor, wire: str) -> Tensor:
    try:
        found = array.numpy()
        if (str(found.dtype), found.shape) != (array.dtype, tuple(array.shape)):
            raise TypeError("it is not what it says")
        values = torch.from_numpy(found)
    except Exception as error:  # whatever comes of bytes from elsewhere
        raise InputError(f"{name!r} of its message cannot be read ({error!s:.60})") from None
    expected = torch.uint16 if wire == "bfloat16" else like.dtype
    if values.dtype != expected:
        raise InputError(f"{name!r} of its message is {values.dtype}, expected {expected}")
    if wire == "bfloat16":
        values = values.view(torch.bfloat16)
    return values.to(like.device, like.dtype)[None, None]
