"""A method is rehearsed before round 1, so that its faults are named before they cost a run.

The engine plays a few rounds of two small federations with it, stacked as cells trained together
are: the first, later ones, and some with large and small numbers, for a method may do something
else there. Each of its functions is watched: what it returns has the right shapes, types and names;
it changes none of its arguments and reads none of their values; asked again it says the same; and
each federation, and each client, gets what it gets when it is alone. A method that fails the last
is the worst: it is right in every test of its author's, and wrong beside another seed, without a
word.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from fedgloss.algorithms.core import Algorithm
from fedgloss.algorithms.declared import FACTS, OF_RECORDS, check_names, is_built_in, is_ours
from fedgloss.engine.backends.graph import room_of
from fedgloss.engine.clients import Batching, ClientData
from fedgloss.engine.cohort import Cohort, Counts, Seeds
from fedgloss.engine.federation import Federation, Simulation, federation, play_together
from fedgloss.engine.outcomes import FAILURES, kind_of, reason_of
from fedgloss.engine.watched import Raised, Watched
from fedgloss.errors import InputError
from fedgloss.records import is_finite
from fedgloss.rng import Stream

# All different, so that no shape passes for another.
FEDERATIONS, PARTICIPANTS, CLIENTS, PARAMETERS = 2, 3, 4, 7
FIRST = (0, 1)
LATER = (10, 100, 1_000, 10_000)
"""Rounds in which a method may do something else, beside those that its numbers name."""
SCALES = (1e6, 1e-6)
"""Of models and gradients: beyond the bounds of most methods, and far within."""
SAMPLES = ((1, 2, 2, 1), (1, 1, 1, 1))
"""Of each federation's clients, and so their local steps: those of any three participants of the
first differ, and so do the busiest clients of the two."""
LARGER = 1000
"""Parameters of a second rehearsal, in case the model has as many."""
MOST_NAMED = 6
MOST_ROUNDS = 100_000
"""Of a schedule, looked at beforehand: a second of work, or so."""


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
        if not is_built_in(mine[0].algorithm):
            _rehearse(mine, lazy, rounds)


def rehearse_beforehand(
    algorithm: Algorithm, numbers: Sequence[tuple[dict[str, float], float, float]], rounds: int
) -> None:
    """As `rehearse`, where there is no model yet: for a method that needs one all may be well.

    numbers: hyperparameters, learning rate and weight decay of each federation.
    """
    x = torch.zeros(1, 1, device="cpu")
    data = ClientData(x, x[:, 0], (torch.arange(1, device="cpu"),))
    federations = [
        federation(
            algorithm,
            dict(hyperparameters),
            torch.zeros(PARAMETERS, device="cpu"),
            data,
            lr=lr,
            weight_decay=weight_decay,
            participants=1,
            seed=0,
        )
        for hyperparameters, lr, weight_decay in numbers
    ]
    with suppress(Raised):
        rehearse(federations, rounds=rounds)


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
        small = like.double().cpu()
        _play(cast, small, PARAMETERS, thorough=True)
        ts = _later(different, rounds) or FIRST
        for scale in SCALES:
            _play(cast, small, PARAMETERS, thorough=True, ts=ts, scale=scale)
        _play(cast, small, PARAMETERS, as_recorded=True)
        _play(cast, like, min(size, LARGER))
    except Raised:
        # It may count on what the real model has: its layers, or a hundred parameters.
        _play(cast, like, size, thorough=True)
        return
    if lazy:
        _play(cast, like, PARAMETERS, lazy=True)


def _later(federations: Sequence[Federation], rounds: int) -> tuple[int, ...]:
    """Rounds to rehearse beside the first: the last one, those that a number may mean (a warm-up's
    T_s, and the next), and a few between."""
    numbers = {value for one in federations for value in one.hyperparameters.values()}
    named = [int(value) + more for value in numbers if value == int(value) for more in (0, 1)]
    ts = {*LATER, *sorted(named)[:MOST_NAMED], rounds - 1, len(FIRST)}
    return tuple(sorted(t for t in ts if len(FIRST) <= t < min(rounds, MOST_ROUNDS)))


class _Quadratics:
    """Gradients of f(w) = c/2 ||w - a||^2; a sample holds c and what its own a is made from."""

    def __init__(self, lazy: bool, scale: float) -> None:
        self.lazy, self.scale = lazy, scale

    def __call__(
        self, W: Tensor, x: Tensor, y: Tensor, counts: Counts, seeds: Seeds = None
    ) -> Tensor:
        """As `cohort.Gradients` says, for mini-batches that count in whole or not at all."""
        frequency, phase, curvature = x[..., None].unbind(-2)
        places = torch.arange(W.shape[-1], dtype=W.dtype, device=W.device)
        away = W[:, None] - self.scale * torch.sin(frequency * places + phase)
        active = torch.as_tensor(counts, device=W.device)[:, None] > 0
        return torch.where(active, (curvature * away).mean(dim=1), 0)

    def clients_at_once(self, cohort: Cohort) -> int:
        return PARTICIPANTS


def _play(
    cast: Sequence[Federation],
    like: Tensor,
    P: int,
    *,
    thorough: bool = False,
    lazy: bool = False,
    ts: Sequence[int] = FIRST,
    scale: float = 1.0,
    as_recorded: bool = False,
) -> Simulation:
    """Rounds `ts` of two federations of P parameters, of the device and type of `like`.

    as_recorded: the numbers in force are [S, 1, 1] also where the federations agree in them, as in
    recorded rounds and beside a federation with others.
    """
    S, m = len(cast), CLIENTS
    samples = [count for counts in SAMPLES for count in counts]
    numbers = Stream(0, "rehearsal").uniform(sum(samples) * 3).reshape(-1, 3)
    inputs = torch.tensor(0.5 + numbers, dtype=like.dtype, device=like.device)
    indices = torch.arange(len(inputs), device="cpu").split(samples)
    places = torch.arange(P, dtype=like.dtype, device=like.device)
    algorithm = cast[0].algorithm
    alone = algorithm.pooled  # one client, who has all samples: two of its steps will do
    K = 1 if alone else PARTICIPANTS
    watched = Watched(algorithm, (S, K, P), like, thorough, lazy)
    players = [
        federation(
            watched.algorithm(),
            one.hyperparameters,
            scale * torch.cos(places + s),
            ClientData(inputs, inputs[:, 0], indices[s * m : (s + 1) * m]),
            lr=one.lr,
            weight_decay=one.weight_decay,
            participants=PARTICIPANTS,
            seed=s,
            sizes=None if alone else torch.arange(1, m + 1, device="cpu"),
        )
        for s, one in enumerate(cast)
    ]
    batching = Batching(1, steps=2 if alone else None)
    simulation = Simulation(players, _Quadratics(lazy, scale), batching=batching)
    room = room_of([simulation]) if as_recorded else None
    for simulation.t in ts:
        play_together([simulation], [simulation.draw(room)])
    if thorough:
        watched.check_gradients()
    return simulation


def _check_schedule(one: Federation, rounds: int) -> None:
    """The hyperparameters in force, by the names that are declared, in all these rounds."""
    algorithm, hyper = one.algorithm, one.hyperparameters
    label = f"method {algorithm.name!r}: schedule"
    first: Mapping[str, float] = {}
    rounds = len(FIRST) if is_ours(algorithm.schedule) else min(rounds, MOST_ROUNDS)
    for t in range(max(rounds, len(FIRST))):
        given = dict(hyper)
        try:
            found, again = algorithm.schedule(given, t), algorithm.schedule(dict(hyper), t)
        except FAILURES as error:
            reason = reason_of(error, algorithm.schedule)
            raise InputError(f"{label} fails in round {t}: {reason}") from None
        if given != hyper:
            raise InputError(f"{label} changes the hyperparameters it was given; return others")
        if not isinstance(found, Mapping):
            raise InputError(
                f"{label} returns {kind_of(found)} in round {t}, expected hyperparameters by name"
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
