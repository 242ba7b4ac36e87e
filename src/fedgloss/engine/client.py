"""A client by itself: from a message, its own state and its own data to its answer.

What it answers is what it would in a cohort of `Simulation`: same draws, same arithmetic.
"""

from typing import NamedTuple

import torch

from fedgloss.algorithms.core import Named
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.cohort import Gradients, Source
from fedgloss.engine.contract import guarded
from fedgloss.engine.federation import Federation, round_facts
from fedgloss.engine.local import Exchange, train_together


class Call(NamedTuple):
    """What a server tells a client beside the method's message."""

    t: int
    """The round, 0 first."""
    purpose: str
    """`batches`, or `probe` for the extra exchange: its mini-batches are in another order."""
    n: int
    """Participants of the round."""
    p: float
    """N_k over the samples of all participants."""
    share: float
    """m N_k over the samples of all clients."""


def alone(data: ClientData, k: int, m: int) -> ClientData:
    """One client's data as client k of m, of whom no other is here."""
    nothing = torch.arange(0, device="cpu")
    (own,) = data.indices
    return ClientData(
        data.inputs, data.targets, tuple(own if j == k else nothing for j in range(m))
    )


def answer(
    federation: Federation,
    k: int,
    down: Named,
    c: Named,
    call: Call,
    *,
    gradients: Gradients,
    batching: Batching,
    pipeline: Pipeline | None = None,
) -> tuple[Named, Named, float]:
    """Train client k from the message it got; returns its new state and its message.

    federation: with the data that `alone` makes. down: [1, 1, ...]. c: the state it kept, each
    [1, 1, P]. The number is of mini-batch gradients computed for each local step.
    """
    like = down.w[..., :0]
    data, m = federation.data, len(federation.data.indices)
    source = Source((data,), (federation.seed,), batching, pipeline, like, gradients)
    cohort = source.cohort([[k]], call.purpose, call.t)
    h = round_facts(
        [federation],
        call.t,
        m=m,
        p=torch.tensor([[call.p]], dtype=torch.float64, device="cpu"),
        share=torch.tensor([[call.share]], dtype=torch.float64, device="cpu"),
        steps=[len(sizes) for sizes in cohort.sizes],
        full_gradient=lambda w: cohort.full_gradient(gradients, w),
        like=like.new_empty(()),
    ).replace(n=call.n)
    exchange = Exchange(guarded(federation.algorithm), cohort, down, c, h, [federation.rates])
    [(W, c)] = train_together([exchange], gradients)
    return *exchange.finish(W, c), exchange.evaluations
