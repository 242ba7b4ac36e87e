"""A method whose functions are watched while the engine plays a rehearsal with it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fedgloss.algorithms.core import Algorithm, Named
from fedgloss.engine.contract import CHANGED, Contract
from fedgloss.engine.elementwise import computed
from fedgloss.engine.local import PER_CLIENT, Gradient
from fedgloss.engine.outcomes import (
    FAILURES,
    Kept,
    difference,
    mapped,
    place_of,
    reason_of,
    tensors_in,
)
from fedgloss.errors import InputError

OF_ANY_SIZE = (AttributeError, KeyError, NameError, TypeError)
"""Exceptions that would arise in a model of any size."""

ON_CLIENTS = ("direction", "finish")
"""The functions that a client runs, which knows of no other."""
NO_DATA = "asks for h.full_gradient, but a server has no data: let finish compute and send it"
ALONE, BY_ITSELF = " when one federation is alone", " when one client is alone"
LINE_BY_LINE = (
    " on the backends 'fused' and 'recorded', where a line's tensors are computed when they are"
    " wanted (and are no torch.Tensor before); or use the backend 'graph' or 'autograd'"
)

Arguments = tuple[Any, ...]
"""Of a function, without `grad`; the last is `h`."""


READS = {
    **dict.fromkeys(("__bool__", "is_nonzero"), "`if`, `and`, `max()` or bool()"),
    **{f"__{name}__": f"{name}()" for name in ("float", "int", "complex")},
    "__index__": "an index, or range()",
    "__contains__": "`in`",
    **dict.fromkeys(("numpy", "__array__"), "numpy()"),
    **{name: f"{name}()" for name in ("item", "tolist", "equal", "allclose")},
}
"""Functions of torch that hand a tensor's values to Python, and how they are written. To print
one (which decides nothing) and to index with one is none of them."""


COUNTS = ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount")
"""Functions of torch whose result is as large as values decide."""
COPIES = ("tensor", "as_tensor")
"""Functions of torch that bring Python's numbers to a device."""


class _OnHost(BaseException):
    """What a tensor holds was asked for, or given, on the host; no Exception, so that no method
    catches it by mistake."""


class _Unread(TorchFunctionMode):
    """Within it no tensor's value can be read on the host, nor written from there.

    What Python does with a value it does for all federations at once: a rehearsal might not enter
    the branch in which they are mixed, and a recorded round would go the same way for ever.
    """

    engine = False
    """Whether it is the engine that computes, as the method asked it to."""

    def __torch_function__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if self.engine:
            return func(*args, **kwargs)
        if how := READS.get(name):
            raise _OnHost(
                f"reads a tensor's value in Python ({how}), which decides for all federations that"
                " are trained together, makes a GPU wait, and cannot be recorded; write"
                " torch.where(condition, x, y) for `if`, x.clamp(max=y) or torch.minimum(x, y) for"
                " `min`, and keep numbers as tensors"
            )
        if name in COUNTS or (name == "where" and len(args) + len(kwargs) == 1):
            how = f"{name}()"
        elif name == "__getitem__" and any(map(_is_mask, _entries(args[1]))):
            how = "x[mask]"
        if how:
            raise _OnHost(
                f"makes a tensor that is as large as values decide ({how}), which makes a GPU wait,"
                " and cannot be recorded; write torch.where(mask, x, 0)"
            )
        if name == "new_tensor" or (name in COPIES and kwargs.get("device") is not None):
            raise _OnHost(
                f"brings a number of Python's to the device in each call ({name}()), which makes a"
                " GPU wait, and cannot be recorded; use the number as it is, or"
                " torch.full_like(x, number)"
            )
        return func(*args, **kwargs)


def _entries(index: Any) -> Sequence[Any]:
    return index if isinstance(index, tuple) else (index,)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


class Raised(InputError):
    """A function of the method raised an exception that another size might not raise."""


class Watched:
    """A method whose functions are checked as the engine calls them.

    thorough: each is also called again, for each federation alone, and for each client by itself.
    lazy: direction is called with lazy tensors, and with others.
    """

    def __init__(
        self,
        given: Algorithm,
        shape: tuple[int, int, int],
        like: Tensor,
        thorough: bool,
        lazy: bool,
    ) -> None:
        self.given, self.shape, self.like, self.thorough = given, shape, like, thorough
        self.asked: list[int] = []  # gradients, in each call of direction
        self.lazy = lazy
        self.step = 0  # local steps of the present exchange that are done

    def algorithm(self) -> Algorithm:
        """The method for the engine."""
        return replace(
            self.given,
            broadcast=lambda *arguments: self._watch("broadcast", arguments),
            direction=lambda grad, *arguments: self._watch("direction", arguments, grad),
            finish=lambda *arguments: self._watch("finish", arguments),
            aggregate=lambda *arguments: self._watch("aggregate", arguments),
        )

    def check_gradients(self) -> None:
        """The time that a run is said to need follows from what is declared."""
        exchanges = 2 if self.given.probe else 1
        least, most = (exchanges * count for count in (min(self.asked), max(self.asked)))
        if not least <= self.given.gradients <= most:
            count = f"{least}" if least == most else f"{least} to {most}"
            raise self._refusal(
                "direction",
                f"costs {count} mini-batch gradients in a local step, but the Algorithm declares"
                f" gradients={self.given.gradients}",
            )

    def _watch(self, function: str, arguments: Arguments, grad: Gradient | None = None) -> Any:
        when = LINE_BY_LINE if self.lazy else ""
        result, asked = self._call(function, arguments, grad, self.shape, when)
        if self.lazy and grad:
            plain = tuple(mapped(value, computed) for value in arguments)
            found, _ = self._call(function, plain, lambda W: computed(grad(W)), self.shape)
            if part := difference(function, found, result):
                raise self._refusal(function, f"gives other numbers ({part}){LINE_BY_LINE}")
        self.asked += [asked] if grad else []
        if self.thorough:
            self._again(function, arguments, grad, result)
            self._alone(function, arguments, grad, result)
            if function in ON_CLIENTS:
                self._one_by_one(function, arguments, grad, result)
            self._again(function, arguments, grad, result)
        self.step = self.step + 1 if function == "direction" else 0
        return result

    def _apart(self, function: str, result: Any, alone: Any, h: Named) -> str | None:
        """What differs; clients that have done all their steps stay where they are anyway."""
        if function == "direction":
            active = h.steps > self.step
            result, alone = mapped((result, alone), lambda value: torch.where(active, value, 0))
        return difference(function, result, alone)

    def _again(
        self, function: str, arguments: Arguments, grad: Gradient | None, result: Any
    ) -> None:
        """The same arguments, the same result: the engine may call a function several times."""
        again, _ = self._call(function, arguments, grad, self.shape)
        if part := difference(function, result, again, exact=True):
            raise self._refusal(
                function,
                f"gives another result when it is called again ({part}): it must depend on its"
                " arguments alone, without random numbers or a memory of its own",
            )

    def _alone(
        self, function: str, arguments: Arguments, grad: Gradient | None, result: Any
    ) -> None:
        """Each federation must get what it gets when it is trained alone."""
        S, K, P = self.shape
        *others, h = arguments
        clients = "" if function in ON_CLIENTS else "dim=-2 (clients) or "
        dims = f"{clients}dim=-1 (parameters)"
        for s in range(S):
            here = (slice(s, s + 1),)

            def mine(value: Tensor, here: tuple[slice, ...] = here) -> Tensor:
                return value[here] if value.ndim else value

            facts: dict[str, Any] = {
                name: mine(value) if name in PER_CLIENT else value.expand(S, 1, 1)[s, 0, 0]
                for name, value in h.items()
                if isinstance(value, Tensor)
            }
            facts["full_gradient"] = _part(h.full_gradient, (S, 1, P), here, here)
            given = (*(mapped(value, mine) for value in others), h.replace(**facts))
            part = grad and _part(grad, self.shape, here, here)
            found, _ = self._call(function, given, part, (1, K, P), ALONE)
            if name := self._apart(function, mapped(result, mine), found, given[-1]):
                raise self._refusal(
                    function,
                    f"mixes the federations that are trained together ({name}): reduce over {dims},"
                    " never over all dimensions, and keep nothing between calls",
                )

    def _one_by_one(
        self, function: str, arguments: Arguments, grad: Gradient | None, result: Any
    ) -> None:
        """Each client must get what it gets when it is trained by itself, as `autograd` does."""
        S, K, P = self.shape
        W, down, c, h = arguments
        for k in range(K) if K > 1 else ():
            here = (slice(None), slice(k, k + 1))

            def own(value: Tensor, here: tuple[slice, ...] = here) -> Tensor:
                return value[here]

            facts: dict[str, Any] = {name: own(h[name]) for name in PER_CLIENT}
            facts["full_gradient"] = _part(h.full_gradient, (S, 1, P), (), here)
            given = (own(W), down, mapped(c, own), h.replace(**facts))
            part = grad and _part(grad, self.shape, here, here)
            found, _ = self._call(function, given, part, (S, 1, P), BY_ITSELF)
            if name := self._apart(function, mapped(result, own), found, given[-1]):
                raise self._refusal(
                    function,
                    f"mixes the clients ({name}): a client knows its own model, state and data;"
                    " what needs those of others belongs in aggregate",
                )

    def _call(
        self,
        function: str,
        arguments: Arguments,
        grad: Gradient | None,
        shape: tuple[int, int, int],
        when: str = "",
    ) -> tuple[Any, int]:
        """What a function returns, checked, and how many mini-batch gradients it asked for."""
        S, _, P = shape
        *others, h = arguments
        before = [Kept(tensor) for value in arguments for _, tensor in tensors_in(value)]
        contract = Contract(self.given, function, shape, self.like, when)

        def asked(name: str, answer: Gradient, wanted: tuple[int, ...], kept: list) -> Gradient:
            def ask(point: Tensor) -> Tensor:
                contract.check_tensor(f"asks {name} at", computed(point), wanted)
                unread.engine = True
                found = answer(point)
                unread.engine = False
                kept.append(Kept(computed(found)))
                return found

            return ask

        unread = _Unread()
        whole: list[Kept] = []
        batches: list[Kept] = []
        full = asked("h.full_gradient", h.full_gradient, (S, 1, P), whole)
        if function not in ON_CLIENTS:

            def full(point: Tensor) -> Tensor:
                raise contract.refusal(NO_DATA)

        given = (*others, h.replace(full_gradient=full))
        given = (asked("grad", grad, shape, batches), *given) if grad else given
        ours = getattr(self.given, function)
        try:
            with unread:
                result = ours(*given)
        except InputError:
            raise
        except _OnHost as asked_for:
            raise contract.refusal(f"{asked_for}", place_of(asked_for, ours)) from None
        except FAILURES as error:
            where = f"tensors [S, K, P] = {list(shape)}"
            refusal = contract.refusal(f"fails on {where}{when}: {reason_of(error, ours)}", "")
            raise (refusal if isinstance(error, OF_ANY_SIZE) else Raised(str(refusal))) from None
        if any(kept.has_changed() for kept in (*before, *whole, *batches)):
            raise contract.refusal(CHANGED)
        return contract.checked(mapped(result, computed)), len(batches)

    def _refusal(self, function: str, fault: str) -> InputError:
        return Contract(self.given, function, self.shape, self.like).refusal(fault)


def _part(
    answer: Gradient,
    shape: tuple[int, int, int],
    asked: tuple[slice, ...],
    kept: tuple[slice, ...],
) -> Gradient:
    """Gradients of some rows alone: they are asked for among all the others, which stay at 0."""

    def part(point: Tensor) -> Tensor:
        whole = point.new_zeros(shape)
        whole[asked] = point
        return answer(whole)[kept].clone()

    return part
