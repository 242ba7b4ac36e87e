"""A method is rehearsed before round 1, so that its faults are named before they cost a run.

The engine plays two rounds of two small federations with it, stacked as cells trained together are.
Each of its functions is watched: what it returns has the right shapes, types and names; it changes
none of its arguments; asked again it says the same; and each federation, and each client, gets
what it gets when it is alone. A method that fails the last is the worst: it is right in
every test of its author's, and wrong beside another seed, without a word.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedgloss.algorithms.core import Algorithm, Named
from fedgloss.algorithms.declared import FACTS, FUNCTIONS, OF_RECORDS, check_names
from fedgloss.engine.clients import Batching, ClientData
from fedgloss.engine.cohort import Cohort, Counts, Seeds
from fedgloss.engine.elementwise import Lazy, computed
from fedgloss.engine.federation import Federation, Simulation, advance, federation
from fedgloss.engine.local import PER_CLIENT, Gradient
from fedgloss.errors import InputError, did_you_mean
from fedgloss.records import is_finite
from fedgloss.rng import Stream

# All different, so that no shape passes for another.
FEDERATIONS, PARTICIPANTS, CLIENTS, PARAMETERS = 2, 3, 4, 7
ROUNDS = 2
SAMPLES = ((1, 2, 2, 1), (1, 1, 1, 1))
"""Of each federation's clients, and so their local steps: those of any three participants of the
first differ, and so do the busiest clients of the two."""
LARGER = 1000
"""Parameters of a second rehearsal, in case the model has as many."""
MOST_ROUNDS = 100_000
"""Of a schedule, looked at beforehand: a second of work, or so."""

FAILURES = (Exception, SystemExit)
"""What a user's function may end with; an interruption is the user's own."""
OF_ANY_SIZE = (AttributeError, KeyError, NameError, TypeError)
"""Exceptions that would arise in a model of any size."""

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
ON_CLIENTS = ("direction", "finish")
"""The functions that a client runs, which knows of no other."""
ALONE, BY_ITSELF = " when one federation is alone", " when one client is alone"
LINE_BY_LINE = (
    " on the backend 'fused', where a line's tensors are computed when they are wanted (and are no"
    " torch.Tensor before); or use the backend 'graph'"
)

Arguments = tuple[Any, ...]
"""Of a function, without `grad`; the last is `h`."""


def rehearse(federations: Sequence[Federation], lazy: bool = False, rounds: int = 3) -> None:
    """Refuse methods that would go wrong, with the numbers that these federations have.

    lazy: the backend does the methods' arithmetic line by line (elementwise.py). rounds: those for
    which a schedule is asked beforehand, all of the run where they are known. Draws nothing from
    the global random generators. Raises InputError with one line that names the method, its
    function, and what is wrong.
    """
    methods: dict[int, list[Federation]] = {}
    for one in federations:
        methods.setdefault(id(one.algorithm), []).append(one)
    for mine in methods.values():
        # The package's own are rehearsed by its tests.
        if not all(_is_ours(getattr(mine[0].algorithm, name)) for name in FUNCTIONS):
            _rehearse(mine, lazy, rounds)


def _rehearse(federations: Sequence[Federation], lazy: bool, rounds: int) -> None:
    # Where numbers differ a method sees [S, 1, 1]; where they do not, a scalar.
    numbers = [(f.hyperparameters, f.lr, f.weight_decay) for f in federations]
    different = [f for i, f in enumerate(federations) if numbers[i] not in numbers[:i]]
    for one in different:
        _check_schedule(one, rounds)
    cast = (different * FEDERATIONS)[:FEDERATIONS]
    like = cast[0].w[:0]
    size = cast[0].w.numel()
    try:
        _play(cast, like.double().cpu(), PARAMETERS, thorough=True)
        _play(cast, like, min(size, LARGER))
    except _Raised:
        # It may count on what the real model has: its layers, or a hundred parameters.
        _play(cast, like, size, thorough=True)
        return
    if lazy:
        _play(cast, like, PARAMETERS, lazy=True)


class _Raised(InputError):
    """A function of the method raised an exception that another size might not raise."""


class _Quadratics:
    """Gradients of f(w) = c/2 ||w - a||^2; a sample holds c and what its own a is made from."""

    def __init__(self, lazy: bool) -> None:
        self.lazy = lazy

    def __call__(
        self, W: Tensor, x: Tensor, y: Tensor, counts: Counts, seeds: Seeds = None
    ) -> Tensor:
        """As `cohort.Gradients` says, for mini-batches that count in whole or not at all."""
        frequency, phase, curvature = x[..., None].unbind(-2)
        places = torch.arange(W.shape[-1], dtype=W.dtype, device=W.device)
        away = W[:, None] - torch.sin(frequency * places + phase)
        active = torch.as_tensor(counts, device=W.device)[:, None] > 0
        return torch.where(active, (curvature * away).mean(dim=1), 0)

    def clients_at_once(self, cohort: Cohort) -> int:
        return PARTICIPANTS


def _play(
    cast: Sequence[Federation], like: Tensor, P: int, thorough: bool = False, lazy: bool = False
) -> Simulation:
    """Two rounds of two federations of P parameters, of the device and type of `like`."""
    S, m = len(cast), CLIENTS
    samples = [count for counts in SAMPLES for count in counts]
    numbers = Stream(0, "rehearsal").uniform(sum(samples) * 3).reshape(-1, 3)
    inputs = torch.tensor(0.5 + numbers, dtype=like.dtype, device=like.device)
    indices = torch.arange(len(inputs)).split(samples)
    places = torch.arange(P, dtype=like.dtype, device=like.device)
    algorithm = cast[0].algorithm
    alone = algorithm.pooled  # one client, who has all samples: two of its steps will do
    K = 1 if alone else PARTICIPANTS
    watched = _Watched(algorithm, (S, K, P), like, thorough, lazy)
    players = [
        federation(
            watched.algorithm(),
            one.hyperparameters,
            torch.cos(places + s),
            ClientData(inputs, inputs[:, 0], indices[s * m : (s + 1) * m]),
            lr=one.lr,
            weight_decay=one.weight_decay,
            participants=PARTICIPANTS,
            seed=s,
            sizes=None if alone else torch.arange(1, m + 1),
        )
        for s, one in enumerate(cast)
    ]
    batching = Batching(1, steps=2 if alone else None)
    simulation = Simulation(players, _Quadratics(lazy), batching=batching)
    for _ in range(ROUNDS):
        advance([simulation])
    if thorough:
        watched.check_gradients()
    return simulation


class _Watched:
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
        self.lazy, self.when = lazy, ""  # when: what is special about the present call
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
            plain = tuple(_map(value, computed) for value in arguments)
            found, _ = self._call(function, plain, lambda W: computed(grad(W)), self.shape)
            if part := _difference(function, found, result):
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
            result, alone = _map((result, alone), lambda value: torch.where(active, value, 0))
        return _difference(function, result, alone)

    def _again(
        self, function: str, arguments: Arguments, grad: Gradient | None, result: Any
    ) -> None:
        """The same arguments, the same result: the engine may call a function several times."""
        again, _ = self._call(function, arguments, grad, self.shape)
        if part := _difference(function, result, again, exact=True):
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

            facts = {
                name: mine(value) if name in PER_CLIENT else value.expand(S, 1, 1)[s, 0, 0]
                for name, value in h.items()
                if isinstance(value, Tensor)
            }
            facts["full_gradient"] = _part(h.full_gradient, (S, 1, P), here, here)
            given = (*(_map(value, mine) for value in others), h.replace(**facts))
            part = grad and _part(grad, self.shape, here, here)
            found, _ = self._call(function, given, part, (1, K, P), ALONE)
            if name := self._apart(function, _map(result, mine), found, given[-1]):
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

            facts = {name: own(h[name]) for name in PER_CLIENT}
            facts["full_gradient"] = _part(h.full_gradient, (S, 1, P), (), here)
            given = (own(W), down, _map(c, own), h.replace(**facts))
            part = grad and _part(grad, self.shape, here, here)
            found, _ = self._call(function, given, part, (S, 1, P), BY_ITSELF)
            if name := self._apart(function, _map(result, own), found, given[-1]):
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
        self.when = when
        *others, h = arguments
        before = [_Kept(tensor) for value in arguments for _, tensor in _tensors(value)]

        def asked(name: str, answer: Gradient, wanted: tuple[int, ...], kept: list) -> Gradient:
            def ask(point: Tensor) -> Tensor:
                self._check_tensor(function, f"asks {name} at", computed(point), wanted)
                found = answer(point)
                kept.append(_Kept(computed(found)))
                return found

            return ask

        whole: list[_Kept] = []
        batches: list[_Kept] = []
        full = asked("h.full_gradient", h.full_gradient, (S, 1, P), whole)
        given = (*others, h.replace(full_gradient=full))
        given = (asked("grad", grad, shape, batches), *given) if grad else given
        ours = getattr(self.given, function)
        try:
            result = ours(*given)
        except InputError:
            raise
        except FAILURES as error:
            where = f"tensors [S, K, P] = {list(shape)}"
            refusal = self._refusal(function, f"fails on {where}{when}: {_reason(error, ours)}")
            raise (refusal if isinstance(error, OF_ANY_SIZE) else _Raised(str(refusal))) from None
        if any(kept.has_changed() for kept in (*before, *whole, *batches)):
            raise self._refusal(
                function,
                "changes in place what it was given (as `x.add_(y)`, `x += y` and `x[0] = y` do);"
                " write `x = x + y`",
            )
        return self._checked(function, _map(result, computed), shape), len(batches)

    def _checked(self, function: str, result: Any, shape: tuple[int, int, int]) -> Any:
        """The result, if it has the parts, names, shapes and types that the engine counts on."""
        S, _, P = shape
        parts = PARTS[function]
        if len(parts) > 1 and not (isinstance(result, tuple) and len(result) == len(parts)):
            raise self._refusal(
                function, f"returns {_kind(result)}, expected {' and '.join(parts)}"
            )
        method = self.given
        for part, value in _by_part(function, result).items():
            if part in (DIRECTION, MODEL):
                wanted = shape if part == DIRECTION else (S, 1, P)
                self._check_tensor(function, f"returns as {part}", value, wanted)
                continue
            if not isinstance(value, Named):
                raise self._refusal(function, f"returns {_kind(value)} as {part}, expected a Named")
            if part == MESSAGE:
                self._check_message(function, value, shape)
                continue
            size = (S, 1, P) if part == SERVER_STATE else shape
            needed = method.global_state if part == SERVER_STATE else method.client_state
            passing = method.local_state if part == CLIENT_STATE else ()
            needed = (*needed, *passing) if function == "direction" else needed
            for name in needed:
                if name not in value:
                    raise self._refusal(function, f"returns no {name!r} in {part}")
            for name in value:
                if name not in (*needed, *passing):
                    raise self._refusal(
                        function,
                        f"returns {name!r} in {part}, which the Algorithm does not declare"
                        f"{did_you_mean(name, [*needed, *passing])}",
                    )
                self._check_tensor(function, f"returns as {name!r} of {part}", value[name], size)
        return result

    def _check_message(self, function: str, message: Named, shape: tuple[int, int, int]) -> None:
        """One row for all participants, or one for each; of any type: it may be compressed."""
        S, K, P = shape
        down = function == "broadcast"
        rows = 1 if down else K
        check_names(f"method {self.given.name!r}: {function}: {MESSAGE}", message, OF_RECORDS)
        is_model = {"w"} if down or self.given.probe else set()
        if not is_model <= message.keys():
            raise self._refusal(function, f"returns no 'w' in {MESSAGE}")
        for name, value in message.items():
            label = f"returns as {name!r} of {MESSAGE}"
            if name in is_model:
                self._check_tensor(function, label, value, (S, rows, P))
            elif not (down and isinstance(value, Tensor) and value.ndim == 0):
                size = value.shape[2] if isinstance(value, Tensor) and value.ndim == 3 else 1
                self._check_tensor(function, label, value, (S, rows, size), typed=False)

    def _check_tensor(
        self, function: str, label: str, value: Any, shape: tuple[int, ...], typed: bool = True
    ) -> None:
        if not isinstance(value, Tensor):
            raise self._refusal(function, f"{label} {_kind(value)}, expected a tensor")
        if value.shape != shape:
            rows = "1" if shape[1] == 1 and self.shape[1] > 1 else "K"
            meaning = f"[S, {rows}, {'P' if shape[2] == self.shape[2] else shape[2]}]"
            raise self._refusal(
                function,
                f"{label} a tensor {list(value.shape)}{self.when}, expected {list(shape)}, that is"
                f" {meaning}",
            )
        if typed and value.dtype != self.like.dtype:
            kinds = [str(dtype).removeprefix("torch.") for dtype in (value.dtype, self.like.dtype)]
            raise self._refusal(function, f"{label} {kinds[0]} where the model is {kinds[1]}")
        if value.device != self.like.device:
            raise self._refusal(
                function, f"{label} a tensor on {value.device}, the model is on {self.like.device}"
            )
        if value.requires_grad:
            raise self._refusal(function, f"{label} a tensor that requires grad; detach() it")

    def _refusal(self, function: str, fault: str) -> InputError:
        return InputError(f"method {self.given.name!r}: {function} {fault}")


class _Kept:
    """A tensor as it was."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version, self.copy = tensor, tensor._version, tensor.clone()

    def has_changed(self) -> bool:
        return self.tensor._version != self.version or not _equal(self.tensor, self.copy)


def _check_schedule(one: Federation, rounds: int) -> None:
    """The hyperparameters in force, by the names that are declared, in all these rounds."""
    algorithm, hyper = one.algorithm, one.hyperparameters
    label = f"method {algorithm.name!r}: schedule"
    first: Mapping[str, float] = {}
    rounds = ROUNDS if _is_ours(algorithm.schedule) else min(rounds, MOST_ROUNDS)
    for t in range(max(rounds, ROUNDS)):
        given = dict(hyper)
        try:
            found, again = algorithm.schedule(given, t), algorithm.schedule(dict(hyper), t)
        except FAILURES as error:
            reason = _reason(error, algorithm.schedule)
            raise InputError(f"{label} fails in round {t}: {reason}") from None
        if given != hyper:
            raise InputError(f"{label} changes the hyperparameters it was given; return others")
        if not isinstance(found, Mapping):
            raise InputError(
                f"{label} returns {_kind(found)} in round {t}, expected hyperparameters by name"
            )
        first = first or found
        for name in (*hyper, *first):
            if name not in found:
                raise InputError(f"{label} returns no {name!r} in round {t}")
        for name, value in found.items():
            if not is_finite(value):
                raise InputError(
                    f"{label} returns {value!r:.60} as {name!r} in round {t}, no finite number"
                )
            if name not in first:
                raise InputError(f"{label} returns {name!r} in round {t}, but not in round 0")
        check_names(label, found, (*FACTS, *OF_RECORDS))
        if found != again:
            raise InputError(f"{label} gives another result when it is called again in round {t}")


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


def _map(result: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A result, or an argument, with all its tensors changed."""
    if isinstance(result, tuple):
        return tuple(_map(part, change) for part in result)
    if isinstance(result, Named):
        return Named(**{name: _map(value, change) for name, value in result.items()})
    return change(result) if isinstance(result, Tensor | Lazy) else result


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in a record, or in several, by name."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Named):
        for key in value:
            yield from _tensors(value[key], f"{name}: {key}" if name else key)


def _by_part(function: str, result: Any) -> dict[str, Any]:
    parts = PARTS[function]
    return dict(zip(parts, result if len(parts) > 1 else (result,), strict=True))


def _difference(function: str, one: Any, other: Any, exact: bool = False) -> str | None:
    """The first part of two results that differs."""
    same = _equal if exact else _close
    others = _by_part(function, other)
    for part, value in _by_part(function, one).items():
        found = [dict(_tensors(result, part)) for result in (value, others[part])]
        for name in found[0].keys() | found[1].keys():
            if not all(name in f for f in found) or not same(found[0][name], found[1][name]):
                return name
    return None


def _equal(one: Tensor, other: Tensor) -> bool:
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


def _is_ours(function: Callable) -> bool:
    """Whether a function and all those it was made with are this package's."""
    within = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return str(getattr(function, "__module__", "")).partition(".")[0] == "fedgloss" and all(
        _is_ours(other) for other in within if callable(other)
    )


def _kind(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _reason(error: BaseException, function: Callable) -> str:
    """An error's first line that says something, and where in the method's file it arose."""
    try:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    except FAILURES:
        text = "(its message cannot be read)"
    if isinstance(error, AttributeError) and isinstance(error.obj, Named):
        text = f"there is no {error.name!r}{did_you_mean(error.name, [*error.obj])}"
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = f" ({Path(file).name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}{': ' * bool(text)}{text}{where}"
