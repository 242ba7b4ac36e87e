"""Local training: v <- v - lr * (direction + wd * v), for all participants of one or more cohorts.

The direction may be clipped: scaled down to a norm, client by client.

Cohorts of several methods walk in step: wherever each of them asks for the gradient on its
mini-batches, one evaluation answers all. A method is a pure function, so it need not know: it runs
until it asks for a gradient that is not there yet, and runs again when it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedgloss.algorithms.core import Algorithm, Named, factors
from fedgloss.engine.cohort import Batch, Cohort, Counts, Gradients
from fedgloss.engine.elementwise import Lazy, computed

Gradient = Callable[[Tensor], Tensor]
PER_CLIENT = ("p", "share", "steps")
"""The facts of a round that have one value for each participant."""


class Rates(NamedTuple):
    """The numbers of a federation's local steps."""

    lr: float
    weight_decay: float
    clip: float | None
    """The largest L2 norm that a client's direction may have, if there is one."""


@dataclass
class Exchange:
    """A message on its way to a cohort, and what its clients need to answer it."""

    algorithm: Algorithm
    cohort: Cohort
    down: Named
    c: Named
    h: Named
    rates: Sequence[Rates]
    """Of each federation."""
    evaluations: float = 0.0
    """Mini-batch gradients computed for each local step, filled in by the training."""

    def finish(self, W: Tensor, c: Named) -> tuple[Named, Named]:
        """The clients' new state and their messages, of the models and the state they end with."""
        return self.algorithm.finish(W, self.down, c, self.h)

    def part(self, participants: slice) -> "Exchange":
        """The same for some of each federation's participants."""
        facts = {name: self.h[name][:, participants] for name in PER_CLIENT}
        facts["full_gradient"] = lambda w: self.h.full_gradient(w)[:, participants]
        return Exchange(
            self.algorithm,
            self.cohort.part(participants),
            self.down,
            Named(**{name: value[:, participants] for name, value in self.c.items()}),
            self.h.replace(**facts),
            self.rates,
        )


def train_together(
    exchanges: Sequence[Exchange], gradients: Gradients
) -> list[tuple[Tensor, Named]]:
    """All local steps of these cohorts, from the models received.

    Returns, for each exchange, the clients' models [S, K, P] and their state. Where the gradients
    of a few clients fill the processor's caches, the cohorts are trained a few clients at a time.
    """
    K = max(len(exchange.cohort.ids[0]) for exchange in exchanges)
    group = gradients.clients_at_once(exchanges[0].cohort) if len(exchanges) == 1 else K
    finished = []
    for k in range(0, K, group):
        here = slice(k, k + group)
        parts = [exchange.part(here) if group < K else exchange for exchange in exchanges]
        finished.append([_Descent(part, getattr(gradients, "lazy", False)) for part in parts])
        _train(finished[-1], gradients)
    results = []
    for exchange, descents in zip(exchanges, zip(*finished, strict=True), strict=True):
        evaluations = max(descent.evaluations for descent in descents)
        exchange.evaluations = evaluations / max(exchange.cohort.steps, 1)
        c = {name: _join([descent.c[name] for descent in descents]) for name in descents[0].c}
        results.append((_join([descent.W for descent in descents]), Named(**c)))
    return results


class _Descent:
    """A cohort, or part of one, in the middle of its local steps."""

    def __init__(self, exchange: Exchange, lazy: bool) -> None:
        """lazy: the methods' arithmetic is done line by line (elementwise.py)."""
        self.exchange, cohort, self.lazy = exchange, exchange.cohort, lazy
        self.W = exchange.down.w.expand(-1, len(cohort.ids[0]), -1).clone()
        empty = {name: torch.zeros_like(self.W) for name in exchange.algorithm.local_state}
        self.c = exchange.c.replace(**empty)
        self.evaluations = 0

    def direction(self, grad: Gradient) -> tuple[Any, Named]:
        """The method's step direction [S, K, P], a tensor or, if `lazy`, a line of them."""
        exchange = self.exchange
        if not self.lazy:
            return exchange.algorithm.direction(grad, self.W, exchange.down, self.c, exchange.h)
        down, c = (
            Named(**{name: Lazy.of(value) for name, value in record.items()})
            for record in (exchange.down, self.c)
        )
        W: Any = Lazy.of(self.W)  # to a method it is a tensor like any other
        lazy_grad: Any = lambda W: Lazy.of(grad(computed(W)))  # noqa: E731
        return exchange.algorithm.direction(lazy_grad, W, down, c, exchange.h)

    def gradient(self, batch: Batch, gradients: Gradients) -> Gradient:
        """The cohort's gradient on these mini-batches, [S, K, P] -> [S, K, P]."""

        def gradient(W: Tensor) -> Tensor:
            self.evaluations += 1
            return gradients(W.flatten(0, 1), *batch).view(W.shape)

        return gradient

    def step(self, direction: Any, c: Named, counts: Counts) -> None:
        """Clients with fewer steps than others stop where they are."""
        rates = self.exchange.rates
        if self.lazy and len(set(rates)) == 1:
            lr, weight_decay, clip = rates[0]
            now: Any = Lazy.of(self.W)
            W = computed(now - lr * (clipped(direction, clip) + weight_decay * now))
            c = Named(**computed(dict(c)))
        elif len(set(rates)) == 1:
            W = _descend(self.W, direction, rates[0])
        else:  # federation by federation: the bits of each alone
            rows = zip(self.W, computed(direction), rates, strict=True)
            W = torch.stack([_descend(v, d, own) for v, d, own in rows])
            c = Named(**computed(dict(c)))
        known = self.exchange.cohort.equal if isinstance(counts, Tensor) else all(counts)
        if not known:
            active = torch.as_tensor(counts, device=W.device).view(*W.shape[:2], 1) > 0
            W = torch.where(active, W, self.W)
            c = Named(**{name: torch.where(active, c[name], self.c[name]) for name in c})
        self.W, self.c = W, c


def _descend(W: Tensor, direction: Tensor, rates: Rates) -> Tensor:
    """One step in two passes over the memory; lr and weight decay are numbers for that reason."""
    lr, weight_decay, clip = rates
    return W.sub(clipped(direction, clip).add(W, alpha=weight_decay), alpha=lr)


def clipped(direction: Any, clip: float | None) -> Any:
    """The direction [..., K, P], a tensor or a line, with the norm of each client at most `clip`.

    What is not longer stays as it is, bit for bit; what is not finite stays so.
    """
    if clip is None:
        return direction
    a, b = factors(computed(direction))
    within = ~(a * b > clip)
    inverse, length = (1 / a).masked_fill(within, 1.0), (clip / b).masked_fill(within, 1.0)
    # A line of its own: as part of the step's it would be rounded otherwise where all is within.
    return computed(direction * inverse * length)


def _train(descents: Sequence[_Descent], gradients: Gradients) -> None:
    for step in range(max(descent.exchange.cohort.steps for descent in descents)):
        active = [descent for descent in descents if step < descent.exchange.cohort.steps]
        batches = [descent.exchange.cohort.batch(step) for descent in active]
        directions = _directions(active, batches, gradients)
        for descent, (direction, c), batch in zip(active, directions, batches, strict=True):
            descent.step(direction, c, batch.counts)


def _directions(
    descents: Sequence[_Descent], batches: Sequence[Batch], gradients: Gradients
) -> list[tuple[Tensor, Named]]:
    """Each cohort's step direction and new client state."""
    if len(descents) == 1:
        return [descents[0].direction(descents[0].gradient(batches[0], gradients))]
    known: list[list[Tensor]] = [[] for _ in descents]
    results: list[tuple[Tensor, Named] | None] = [None] * len(descents)
    while None in results:
        asked: dict[int, Tensor] = {}
        for i, descent in enumerate(descents):
            if results[i] is None:
                try:
                    results[i] = descent.direction(_Known(known[i]))
                except _Asked as question:
                    asked[i] = question.W
        if asked:
            batch = _merge([batches[i] for i in asked])
            W = torch.cat([point.flatten(0, 1) for point in asked.values()])
            answers = gradients(W, *batch).split([len(batches[i].targets) for i in asked])
            for (i, point), answer in zip(asked.items(), answers, strict=True):
                known[i].append(answer.view(point.shape))
                descents[i].evaluations += 1
    return [result for result in results if result is not None]


class _Asked(BaseException):
    """Not an error, so that no method catches it by mistake."""

    def __init__(self, W: Tensor) -> None:
        self.W = W


class _Known:
    """A cohort's gradient, as far as it has been computed: the answers in the order of asking."""

    def __init__(self, answers: Sequence[Tensor]) -> None:
        self.answers = iter(answers)

    def __call__(self, W: Tensor) -> Tensor:
        for answer in self.answers:
            return answer
        raise _Asked(W)


def _merge(batches: Sequence[Batch]) -> Batch:
    """The rows of several mini-batches, filled up to the longest."""
    if len(batches) == 1:
        return batches[0]
    B = max(batch.targets.shape[1] for batch in batches)

    def rows(tensors: Sequence[Tensor]) -> Tensor:
        filled = [
            torch.cat([rows, rows[:, :1].expand(-1, B - rows.shape[1], *rows.shape[2:])], dim=1)
            for rows in tensors
        ]
        return torch.cat(filled)

    on_device = [batch.counts for batch in batches if isinstance(batch.counts, Tensor)]
    if on_device:
        counts: Counts = torch.cat(on_device)
    else:
        counts = [count for batch in batches for count in batch.counts]
    seeds = [seed for batch in batches for seed in batch.seeds or ()] or None
    return Batch(
        rows([b.inputs for b in batches]), rows([b.targets for b in batches]), counts, seeds
    )


def _join(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim=1)
