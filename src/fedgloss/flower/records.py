"""Between a method's messages and Flower's records: what is sent, and what a client keeps."""

from functools import cache

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
HEADER = 128
"""Bytes with which NumPy's format, which Flower sends, describes an array."""


def pack(message: Named, like: Tensor, wire: str) -> ArrayRecord:
    """A message or a state of one participant, each [1, 1, n] or a scalar, as arrays by name.

    like: a tensor of the model's type, of which `bfloat16` sends vectors rounded. An array says of
    which type and shape it is when it is unpacked.
    """
    return ArrayRecord({name: _array(value, like, wire) for name, value in message.items()})


def unpack(record: ArrayRecord, like: Tensor, wire: str) -> Named:
    """What `pack` was given, on the device of `like`; InputError if an array cannot be read."""
    return Named(**{name: _tensor(name, array, like, wire) for name, array in record.items()})


def size(record: ArrayRecord) -> int:
    """Bytes of the numbers in the arrays, without those with which Flower describes each."""
    return sum(len(array.data) - HEADER for array in record.values())


def number(value: object) -> float:
    """A number among the facts beside a message; InputError if it is none."""
    if not is_finite(value):
        raise InputError(f"beside its message is {value!r:.40} in place of a number")
    return float(value)  # type: ignore[arg-type]


def check_form(message: Named, expected: Named) -> None:
    """Refuse a message that has not the names, types and shapes of the expected one."""
    if {*message} != {*expected}:
        raise InputError(f"its message has {sorted(message)}, expected {sorted(expected)}")
    for name, value in message.items():
        if value.dtype != expected[name].dtype:
            raise InputError(
                f"{name!r} of its message is {value.dtype}, expected {expected[name].dtype}"
            )
        ours, theirs = list(expected[name].shape[2:]), list(value.shape[2:])
        if ours != theirs:
            raise InputError(f"{name!r} of its message is {theirs}, expected {ours}")


class Kept:
    """A client's state between rounds, in Flower's own record of it.

    Two are kept: that of the last round and the one it was made from. A server that never got the
    client's last answer, or was started again from the checkpoint before it, names the earlier one.
    """

    def __init__(self, state: RecordDict, run: str, like: Tensor) -> None:
        """run: what tells one training from another. like: a tensor as each of the state's is."""
        self.state, self.run, self.like = state, run, like

    def load(self, mark: str, names: tuple[str, ...]) -> Named | None:
        """The state after what `mark` names; None if it is not here."""
        record, like = self.state.get(self._key(mark)), self.like
        if not isinstance(record, ArrayRecord) or {*record} != {*names}:
            return None
        found = unpack(record, like, "exact")
        fits = all(v.shape == like.shape and v.dtype == like.dtype for v in found.values())
        return found if fits else None

    def save(self, mark: str, c: Named, before: str) -> None:
        """Keep a state, and of the others that of `before` alone."""
        for key in [*self.state]:
            if key.startswith(KEPT) and key != self._key(before):
                del self.state[key]
        self.state[self._key(mark)] = pack(c, self.like, "exact")

    def _key(self, mark: str) -> str:
        return f"{KEPT}.{self.run}.{mark}"


def _array(value: Tensor, like: Tensor, wire: str) -> Array:
    kind, value = value.dtype, value.detach().cpu()
    value = value[0, 0] if value.ndim else value  # a scalar is for all alike
    carried = value.to(_carried(kind, value.ndim, like, wire)).contiguous()
    array = Array(carried.view(_of_numpy(carried.dtype)).numpy())
    array.dtype = str(kind).removeprefix("torch.")
    return array


def _tensor(name: str, array: Array, like: Tensor, wire: str) -> Tensor:
    try:
        found = array.numpy()
        kind, values = getattr(torch, array.dtype), torch.from_numpy(found)
        carried = _carried(kind, values.ndim, like, wire)
        if (values.dtype, found.shape) != (_of_numpy(carried), tuple(array.shape)):
            raise TypeError("it is not what it says")
    except Exception as error:  # whatever comes of bytes from elsewhere
        raise InputError(f"{name!r} of its message cannot be read ({error!s:.60})") from None
    values = values.view(carried).to(like.device, kind)
    return values[None, None] if values.ndim else values


def _carried(kind: torch.dtype, ndim: int, like: Tensor, wire: str) -> torch.dtype:
    """The type in which a tensor crosses the wire."""
    return torch.bfloat16 if wire == "bfloat16" and ndim and kind == like.dtype else kind


@cache
def _of_numpy(kind: torch.dtype) -> torch.dtype:
    """A type, or that of its bits if NumPy does not know it, as bfloat16."""
    nothing = torch.empty(0, dtype=kind, device="cpu")
    try:
        nothing.numpy()
    except TypeError:
        return {1: torch.uint8, 2: torch.uint16}[nothing.element_size()]
    return kind
