"""What each call of a method's functions must leave: shapes, types and names, and its arguments.

All of it is known without a look at any value, so it is checked in every round: it makes no GPU
wait, and may be part of a round that is recorded. What else must hold is rehearsed (rehearsal.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedgloss.algorithms.core import Algorithm, Named
from fedgloss.algorithms.declared import OF_RECORDS, check_names, is_built_in
from fedgloss.engine.local import Gradient
from fedgloss.engine.outcomes import (
    DIRECTION,
    FAILURES,
    MESSAGE,
    MODEL,
    PARTS,
    SERVER_STATE,
    begin_of,
    by_part,
    kind_of,
    reason_of,
    tensors_in,
)
from fedgloss.errors import InputError, did_you_mean

CHANGED = (
    "changes in place what it was given (as `x.add_(y)`, `x += y` and `x[0] = y` do);"
    " write `x = x + y`"
)


@dataclass(frozen=True)
class Contract:
    """What one call of one of a method's functions must return."""

    method: Algorithm
    function: str
    """Its name in `Algorithm`."""
    shape: tuple[int, int, int]
    """S, K, P of the call; K counts where there is one row for each participant."""
    like: Tensor
    """Of the model's type and device."""
    when: str = ""
    """What is special about the call, for an error's message."""

    def checked(self, result: Any) -> Any:
        """The result, if it has the parts, names, shapes and types that the engine counts on."""
        S, _, P = self.shape
        parts = PARTS[self.function]
        if len(parts) > 1 and not (isinstance(result, tuple) and len(result) == len(parts)):
            raise self.refusal(f"returns {kind_of(result)}, expected {' and '.join(parts)}")
        for part, value in by_part(self.function, result).items():
            if part in (DIRECTION, MODEL):
                wanted = self.shape if part == DIRECTION else (S, 1, P)
                self.check_tensor(f"returns as {part}", value, wanted)
            elif not isinstance(value, Named):
                entry = "w=..." if part == MESSAGE else ""
                raise self.refusal(
                    f"returns {kind_of(value)} as {part}, expected Named({entry}), from"
                    f" fedgloss.algorithms.core{'' if entry else ', as `s.replace(v=v)` makes one'}"
                )
            elif part == MESSAGE:
                self._check_message(value)
            else:
                self._check_state(part, value)
        return result

    def _check_state(self, part: str, state: Named) -> None:
        method, size = self.method, self.shape
        needed, passing = method.client_state, method.local_state
        if part == SERVER_STATE:
            needed, passing, size = method.global_state, (), (size[0], 1, size[2])
        needed = (*needed, *passing) if self.function == "direction" else needed
        for name in needed:
            if name not in state:
                raise self.refusal(f"returns no {name!r} in {part}")
        for name in state:
            if name not in (*needed, *passing):
                raise self.refusal(
                    f"returns {name!r} in {part}, which the Algorithm does not declare"
                    f"{did_you_mean(name, [*needed, *passing])}"
                )
            self.check_tensor(f"returns as {name!r} of {part}", state[name], size)

    def _check_message(self, message: Named) -> None:
        """One row for all participants, or one for each; of any type: it may be compressed."""
        S, K, P = self.shape
        down = self.function == "broadcast"
        rows = 1 if down else K
        label = f"method {self.method.name!r}: {self.function}: {MESSAGE}"
        check_names(label, message, OF_RECORDS)
        is_model = {"w"} if down or self.method.probe else set()
        if not is_model <= message.keys():
            raise self.refusal(f"returns no 'w' in {MESSAGE}")
        for name, value in message.items():
            label = f"returns as {name!r} of {MESSAGE}"
            if name in is_model:
                self.check_tensor(label, value, (S, rows, P))
            elif not (down and isinstance(value, Tensor) and value.ndim == 0):
                size = value.shape[2] if isinstance(value, Tensor) and value.ndim == 3 else 1
                self.check_tensor(label, value, (S, rows, size), typed=False)

    def check_tensor(
        self, label: str, value: Any, shape: tuple[int, ...], typed: bool = True
    ) -> None:
        """Refuse what is no tensor of this shape; typed: nor of the model's type."""
        if not isinstance(value, Tensor):
            raise self.refusal(f"{label} {kind_of(value)}, expected a tensor")
        if value.shape != shape:
            size = "P" if shape[2] == self.shape[2] else shape[2]
            rows = "1" if shape[1] == 1 and self.shape[1] > 1 else "K"
            raise self.refusal(
                f"{label} a tensor {list(value.shape)}{self.when}, expected {list(shape)}, that is"
                f" [S, {rows}, {size}]"
            )
        if typed and value.dtype != self.like.dtype:
            kinds = [str(dtype).removeprefix("torch.") for dtype in (value.dtype, self.like.dtype)]
            raise self.refusal(f"{label} {kinds[0]} where the model is {kinds[1]}")
        if value.device != self.like.device:
            raise self.refusal(
                f"{label} a tensor on {value.device}, the model is on {self.like.device}"
            )
        if value.requires_grad:
            raise self.refusal(f"{label} a tensor that requires grad; detach() it")

    def refusal(self, fault: str, place: str | None = None) -> InputError:
        """The error that names method, function and fault; place: in the file, its line."""
        place = begin_of(getattr(self.method, self.function)) if place is None else place
        return InputError(f"method {self.method.name!r}: {self.function} {fault}{place}")


def guarded(method: Algorithm) -> Algorithm:
    """The method, held to its contract in every call: what goes wrong in a late round is one line.

    The package's own are as they are. A local step's direction is not looked at, which would cost
    where there are thousands of small ones; but what it raises is named, too. What grad or
    h.full_gradient raises is no fault of the method's, and stays what it is.
    """
    if is_built_in(method):
        return method

    def watched(function: str) -> Callable[..., Any]:
        return lambda *arguments: _held_to_contract(method, function, arguments)

    def direction(grad: Gradient, *arguments: Any) -> Any:
        return _named_if_it_fails(method, "direction", arguments, grad)

    return replace(
        method,
        broadcast=watched("broadcast"),
        direction=direction,
        finish=watched("finish"),
        aggregate=watched("aggregate"),
    )


def _held_to_contract(method: Algorithm, function: str, arguments: tuple[Any, ...]) -> Any:
    given = [tensor for value in arguments for _, tensor in tensors_in(value)]
    before = [tensor._version for tensor in given]
    result = _named_if_it_fails(method, function, arguments)
    S, K, P = arguments[0].shape  # the models: [S, 1, P] of a server, [S, K, P] of clients
    contract = Contract(method, function, (S, K, P), arguments[0])
    if [tensor._version for tensor in given] != before:
        raise contract.refusal(CHANGED)
    return contract.checked(result)


def _named_if_it_fails(
    method: Algorithm, function: str, arguments: tuple[Any, ...], grad: Gradient | None = None
) -> Any:
    others: list[BaseException] = []  # raised by what the method calls, not by the method

    def asked(answer: Gradient) -> Gradient:
        def ask(point: Tensor) -> Tensor:
            try:
                return answer(point)
            except BaseException as error:
                others.append(error)
                raise

        return ask

    *rest, h = arguments
    given = (*rest, h.replace(full_gradient=asked(h.full_gradient)))
    ours = getattr(method, function)
    try:
        return ours(asked(grad), *given) if grad else ours(*given)
    except (InputError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except FAILURES as error:
        if any(error is other for other in others):
            raise
        # A GPU's is not read: it may be in the middle of recording the round.
        when = f" in round {int(h.t) + 1}" if h.t.device.type == "cpu" else ""
        contract = Contract(method, function, (0, 0, 0), h.t)
        raise contract.refusal(f"fails{when}: {reason_of(error, ours)}", "") from None
