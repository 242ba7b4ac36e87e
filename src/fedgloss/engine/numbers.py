"""The numbers of a run, checked: each error names the argument and what it allows."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

from fedgloss.engine.clients import Batching
from fedgloss.engine.task import MEASUREMENTS, Course
from fedgloss.errors import InputError, did_you_mean
from fedgloss.records import is_finite


def resolve_participation(
    rounds: int | None,
    clients_per_round: int | None,
    schedule: Iterable[Iterable[int]] | None,
    m: int,
) -> tuple[int, int | list[list[int]]]:
    """The number of rounds; and how many clients to draw each round, or the schedule."""
    if schedule is not None:
        if clients_per_round is not None:
            raise InputError("clients_per_round: not used together with schedule")
        drawn = [_ids(t, ids, m) for t, ids in enumerate(_iterable("schedule", schedule))]
        if rounds is not None and check_integer("rounds", rounds, 0) > len(drawn):
            raise InputError(f"rounds: {rounds}, but the schedule has {len(drawn)}")
        return len(drawn) if rounds is None else int(rounds), drawn
    if rounds is None:
        raise InputError("rounds: must be given, unless schedule is")
    if clients_per_round is None:
        clients_per_round = m
    clients_per_round = check_integer("clients_per_round", clients_per_round, 1)
    if clients_per_round > m:
        raise InputError(f"clients_per_round: {clients_per_round} of only {m} clients")
    return check_integer("rounds", rounds, 0), clients_per_round


def _ids(t: int, given: Iterable[int], m: int) -> list[int]:
    """The clients of round t in a schedule."""
    where = f"schedule[{t}]"
    ids = _iterable(where, given)
    if not ids:
        raise InputError(f"{where}: names no client")
    for k in ids:
        whole = isinstance(k, Integral) and not isinstance(k, bool)
        if not whole or not 0 <= k < m:
            raise InputError(f"{where}: client {k!r:.40} does not exist (0 to {m - 1})")
    if len(set(ids)) < len(ids):
        raise InputError(f"{where}: names a client twice")
    return [int(k) for k in ids]


def _iterable(name: str, value: Any) -> list[Any]:
    """The entries of what may be a list, an array, a tensor or a generator."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise InputError(f"{name}: expected a list of clients, not {value!r:.40}")
    return list(value)


def check_rates(lr: float, weight_decay: float, clip: float | None, seed: int) -> None:
    """Refuse the numbers of a federation that are out of range, by argument name."""
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not is_finite(value) or value < 0:
            raise InputError(f"{name}: {value!r} is not a finite number of at least 0")
    if clip is not None and (not is_finite(clip) or clip <= 0):
        raise InputError(f"clip: {clip!r} is not a finite number greater than 0, nor None")
    check_integer("seed", seed, 0)


def resolve_course(
    rounds: int,
    *,
    batch_size: int | None,
    epochs: int,
    local_steps: int | None = None,
    evaluate_every: int,
    last: int,
    record: Sequence[str],
    keep: Iterable[int] = (),
    keep_history: bool = False,
) -> Course:
    """The course that these arguments ask for; InputError for one out of range."""
    check_integer("rounds", rounds, 0)
    for name, size in (("batch_size", batch_size), ("local_steps", local_steps)):
        if size is not None:
            check_integer(name, size, 1)
    check_integer("epochs", epochs, 1)
    check_integer("evaluate_every", evaluate_every, 1)
    if check_integer("last", last, 1) > rounds > 0:
        raise InputError(f"last: {last} of only {rounds} rounds")
    record = check_names("record", record, MEASUREMENTS)
    check_truth("keep_history", keep_history)
    batching = Batching(batch_size, epochs, local_steps)
    kept = _rounds("keep", keep, rounds)
    return Course(rounds, batching, evaluate_every, last, record, kept, keep_history)


def _rounds(name: str, given: Iterable[int], rounds: int) -> tuple[int, ...]:
    """Some of the rounds, 1 first, in their order."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise InputError(f"{name}: expected a list of rounds, not {given!r:.40}")
    given = list(given)
    for t in given:
        if isinstance(t, bool) or not isinstance(t, Integral) or not 1 <= t <= rounds:
            raise InputError(f"{name}: {t!r:.40} is no round (allowed: 1 to {rounds})")
    return tuple(sorted({int(t) for t in given}))


def check_integer(name: str, value: Any, least: int) -> int:
    """The value as Python's integer; InputError if it is none, or less than `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}: {value!r} is not an integer of at least {least}")
    return int(value)


def check_truth(name: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise InputError(f"{name}: {value!r:.40} is not a truth value; allowed: True, False")


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not allowed, naming those that are."""
    if value not in allowed:
        raise InputError(f"{name}: {value!r} is unknown{did_you_mean(value, list(allowed))}")


def check_names(argument: str, names: Iterable[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """These words, if all are allowed; InputError if not."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InputError(f"{argument}: expected a list of names, not {names!r:.40}")
    names = tuple(names)
    for name in names:
        check_choice(argument, name, allowed)
    return names
