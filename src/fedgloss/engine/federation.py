"""The federated round, and the state that passes from one round to the next.

One simulation holds S federations of one method that differ in seed, hyperparameters or partition:
S is 1 for a cell trained alone. Simulations of several methods can share every mini-batch gradient
too (local.py), which is what makes small models fast.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgloss.algorithms.core import Algorithm, Named, mean
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.cohort import Cohort, Drawn, Gradients, Room, Source
from fedgloss.engine.draw import Draw
from fedgloss.engine.local import Exchange, Rates, train_together
from fedgloss.engine.measured import perturbation_error
from fedgloss.engine.numbers import check_rates
from fedgloss.engine.server import Server
from fedgloss.engine.state import ClientState, choose_place
from fedgloss.errors import InputError
from fedgloss.rng import Stream


@dataclass(frozen=True)
class Federation:
    """A method at work: its clients, its numbers, and the model it starts from."""

    algorithm: Algorithm
    hyperparameters: dict[str, float]
    w: Tensor
    """The initial model, [P]."""
    data: ClientData
    lr: float
    weight_decay: float
    clip: float | None
    """The largest L2 norm of a client's direction in a local step; None: any."""
    participants: int | Sequence[Sequence[int]]
    """How many clients to draw each round, or the schedule."""
    seed: int
    sizes: Tensor
    """N_k of each client, float64 [m]."""

    def images_a_round(self, batching: Batching) -> float:
        """The expected number of samples that a round trains on; of a schedule, the mean."""
        samples = [sum(batching.sizes(len(index))) for index in self.data.indices]
        if isinstance(self.participants, int):
            return self.participants / len(samples) * sum(samples)
        scheduled = [samples[k] for ids in self.participants for k in ids]
        return sum(scheduled) / max(len(self.participants), 1)

    @property
    def rates(self) -> Rates:
        """The numbers of its local steps."""
        return Rates(float(self.lr), float(self.weight_decay), self.clip and float(self.clip))

    def draw_participants(self, t: int) -> list[int]:
        """The clients of round t: the schedule's (none past its end), or drawn uniformly.

        The draw is without replacement and depends on the seed alone, so all methods of one seed
        meet the same clients.
        """
        if isinstance(self.participants, int):
            m = len(self.data.indices)
            return Stream(self.seed, "participants", t).sample(self.participants, m).tolist()
        return list(self.participants[t]) if t < len(self.participants) else []


def federation(
    algorithm: Algorithm,
    hyperparameters: dict[str, float],
    w: Tensor,
    data: ClientData,
    *,
    lr: float,
    weight_decay: float,
    clip: float | None = None,
    participants: int | Sequence[Sequence[int]],
    seed: int,
    sizes: Tensor | None = None,
) -> Federation:
    """A federation whose clients weigh by their samples, unless `sizes` says otherwise.

    Where the method wants all samples in one place, they are one client's from here on. Raises
    InputError naming an argument that is wrong.
    """
    check_rates(lr, weight_decay, clip, seed)
    data = data.checked()
    if algorithm.pooled:
        if sizes is not None:
            raise InputError(f"sizes: {algorithm.name} pools the samples, it weighs no clients")
        data, participants = data.pooled(), 1
    if sizes is None:
        samples = [len(index) for index in data.indices]
        sizes = torch.tensor(samples, dtype=torch.float64, device="cpu")
    return Federation(
        algorithm,
        hyperparameters,
        w,
        data,
        lr,
        weight_decay,
        clip,
        participants,
        seed,
        sizes.double(),
    )


Playing = Generator[Exchange, tuple[Tensor, Named], None]
"""A round that is being played: it yields exchanges and takes what training made of them."""


class Simulation(Server):
    """S federations of one method in round t: their servers, and all of their clients.

    Every random draw is a function of its stream (rng.py), so this state is all there is: a
    simulation restored from it goes on as if it had never stopped.
    """

    def __init__(
        self,
        federations: Sequence[Federation],
        gradients: Gradients,
        *,
        batching: Batching,
        pipeline: Pipeline | None = None,
        measure: Sequence[str] = (),
        evaluates: Callable[[int], bool] = lambda t: True,
    ) -> None:
        """measure: as `record` of `fedgloss.train`. evaluates: whether round t (1 first) has a row
        of metrics, and so is to be measured."""
        self.federations, self.gradients = tuple(federations), gradients
        w = torch.stack([f.w[None] for f in self.federations])
        super().__init__(self.federations[0].algorithm, w, measure)
        self.batching, self.evaluates = batching, evaluates
        self.m = len(self.federations[0].data.indices)
        self.source = Source(
            tuple(f.data for f in self.federations),
            tuple(f.seed for f in self.federations),
            batching,
            pipeline,
            self.w[..., :0],
            gradients,
        )
        self.rates = [f.rates for f in self.federations]
        S, _, P = self.w.shape
        vectors = S * self.m * len(self.algorithm.client_state)
        self.place = choose_place(vectors * P * self.w.element_size(), self.w.device)
        self.clients = {
            name: ClientState(S, self.m, self.w, self.place) for name in self.algorithm.client_state
        }

    @property
    def measures_perturbation(self) -> bool:
        """Whether the coming round has an extra exchange that measures delta_epsilon: it changes
        nothing, so a round that is not evaluated does without."""
        return "delta_epsilon" in self.measure and self.evaluates(self.t + 1)

    def draw(self, room: Room | None = None, drawn: Drawn | None = None) -> Draw:
        """All of the coming round that chance decides, or a schedule: the host's part of it.

        room: for a round that is replayed; its tensors are left on the host. drawn: see
        `Source.cohort`.
        """
        t, ids = self.t, [f.draw_participants(self.t) for f in self.federations]
        probes = self.algorithm.probe or self.measures_perturbation
        cohort = self.source.cohort(ids, "batches", t, room, drawn)
        probe = self.source.cohort(ids, "probe", t, room, drawn) if probes else None
        numbers = [s * self.m + k for s, some in enumerate(ids) for k in some]
        places = {state.values.device for state in self.clients.values()} or {self.w.device}
        rows = torch.tensor(numbers, device="cpu" if room else places.pop())
        device = torch.device("cpu") if room else self.w.device
        return Draw(ids, rows, cohort, probe, self._facts(t, ids, cohort, device, room is not None))

    def play(self, draw: Draw) -> Playing:
        """The device's part of a round: send, train, receive, aggregate (Algorithm 1, l. 3-24).

        A generator: it yields each exchange of models with the clients, and takes what their local
        training made of it, so that several simulations can be trained together.
        """
        ids, cohort, h = draw.ids, draw.cohort, draw.h
        c = Named(**{name: s.gather(draw.rows, len(ids)) for name, s in self.clients.items()})
        for state in self.clients.values() if self.place == "file" else ():
            state.prefetch([f.draw_participants(self.t + 1) for f in self.federations])
        evaluations, s, sent = 0.0, self.s, []

        if draw.probe:
            c_probe, up, down, evaluated = yield from self._exchange(
                draw.probe, s, c, h, start=self.w
            )
            exact = mean(down.w - self.locals[1], h.p)
            if self.measures_perturbation:
                rho = h[self.algorithm.radius] if self.algorithm.radius else h.t.new_ones(())
                self.note("delta_epsilon", perturbation_error(self.previous, exact, rho))
            if probe := self.algorithm.probe:  # else the exchange is a measurement alone
                sent.append((down, up))
                evaluations = evaluated
                c = c_probe if probe.clients_keep else c
                s = s.replace(**{probe.into: exact})

        c, up, down, evaluated = yield from self._exchange(cohort, s, c, h)
        sent.append((down, up))
        self.aggregate(down, up, s, h)
        # Nothing of a caller's own is called from here on. What else may end a round in the middle,
        # Ctrl-C, leaves `begun` ahead of `t`, and the round is not kept.
        for messages in sent:
            self._count(*messages)
        for name, state in self.clients.items():
            state.scatter(draw.rows, c[name])
        self.note_round(down.w, self.locals[1], h)
        for measured in self.measured:
            measured.gradients_per_step = evaluations + evaluated

    def state(self, s: int) -> dict[str, Tensor]:
        """As of `Server`, and the clients' state."""
        clients = {f"clients.{name}": state.values[s] for name, state in self.clients.items()}
        return super().state(s) | clients

    def load_state(self, states: Sequence[dict[str, Tensor]], t: int) -> None:
        """Go on from what `state` returned for each federation after round t - 1."""
        super().load_state(states, t)
        for name, state in self.clients.items():  # one by one: they may not fit the memory twice
            for s, saved in enumerate(states):
                state.values[s].copy_(saved[f"clients.{name}"])

    def _facts(
        self,
        t: int,
        ids: list[list[int]],
        cohort: Cohort,
        device: torch.device,
        replayed: bool,
    ) -> Named:
        """The round's hyperparameters and facts, as the methods see them (algorithms/core.py)."""
        sizes = torch.stack([f.sizes[row] for f, row in zip(self.federations, ids, strict=True)])
        totals = torch.stack([f.sizes.sum() for f in self.federations])[:, None]
        return round_facts(
            self.federations,
            t,
            m=self.m,
            p=sizes / sizes.sum(dim=1, keepdim=True),
            share=sizes * (self.m / totals),
            steps=[len(s) for s in cohort.sizes],
            full_gradient=lambda w: cohort.full_gradient(self.gradients, w),
            like=self.w.new_empty((), device=device),
            replayed=replayed,
        )

    def _exchange(
        self, cohort: Cohort, s: Named, c: Named, h: Named, start: Tensor | None = None
    ) -> Generator[Exchange, tuple[Tensor, Named], tuple[Named, Named, Named, float]]:
        """One message to the participants, their local training, and their answers.

        start: as of `Server.message`. Returns the clients' new state, the messages up and down, and
        the mini-batch gradients computed for each local step.
        """
        down = self.message(s, h, start)
        exchange = Exchange(self.algorithm, cohort, down, c, h, self.rates)
        W, c = yield exchange
        self.locals = (self.locals[0], W)
        c, up = exchange.finish(W, c)
        return c, up, down, exchange.evaluations

    def _count(self, down: Named, up: Named) -> None:
        """Count what crosses the network, where there is one."""
        if not self.algorithm.pooled:
            K = self.locals[1].shape[1]
            for measured in self.measured:
                measured.bytes_down += K * sum(map(_bytes, down.values()))
                measured.bytes_up += sum(map(_bytes, up.values()))


def round_facts(
    federations: Sequence[Federation],
    t: int,
    *,
    m: int,
    p: Tensor,
    share: Tensor,
    steps: Sequence[int],
    full_gradient: Callable[[Tensor], Tensor],
    like: Tensor,
    replayed: bool = False,
) -> Named:
    """The hyperparameters and facts of round t, as the methods see them (algorithms/core.py).

    m: clients in all. p, share: of each participant, float64 [S, K]. steps: of each participant, in
    one list. like: of the type and the device of the facts. replayed: the facts are of one shape in
    all rounds, also where schedules differ.
    """
    dtype, device, (S, K) = like.dtype, like.device, p.shape
    hyper = [f.algorithm.schedule(f.hyperparameters, t) for f in federations]

    def number(values: Sequence[float]) -> Tensor:
        alike = len(values) == 1 if replayed else len(set(values)) == 1
        return _numbers(values, alike, dtype, device)

    return Named(
        **{n: number([values[n] for values in hyper]) for n in hyper[0]},
        lr=number([f.lr for f in federations]),
        wd=number([f.weight_decay for f in federations]),
        t=torch.tensor(float(t), dtype=dtype, device=device),
        m=m,
        n=K,
        p=p.to(device, dtype)[..., None],
        share=share.to(device, dtype)[..., None],
        steps=torch.tensor([float(s) for s in steps], dtype=dtype, device=device).view(S, K, 1),
        full_gradient=full_gradient,
    )


def advance(simulations: Sequence[Simulation]) -> None:
    """One round of each of these simulations, their mini-batch gradients computed together."""
    draws = [simulation.draw() for simulation in simulations]
    play_together(simulations, draws)
    for simulation, draw in zip(simulations, draws, strict=True):
        simulation.locals = (draw.ids, simulation.locals[1])
        simulation.t += 1


def play_together(simulations: Sequence[Simulation], draws: Sequence[Draw]) -> None:
    """The device's part of `advance`."""
    rounds = [s.play(draw) for s, draw in zip(simulations, draws, strict=True)]
    waiting = [(round, next(round)) for round in rounds]
    while waiting:
        trained = train_together([exchange for _, exchange in waiting], simulations[0].gradients)
        waiting = [
            (round, exchange)
            for (round, _), result in zip(waiting, trained, strict=True)
            if (exchange := _answer(round, result)) is not None
        ]


def _answer(round: Playing, result: tuple[Tensor, Named]) -> Exchange | None:
    """Hand a round what it waits for; its next exchange, or None when it is over."""
    try:
        return round.send(result)
    except StopIteration:
        return None


def _numbers(
    values: Sequence[float], alike: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """One number for each federation, [S, 1, 1]; a plain scalar where all are `alike`."""
    if alike:
        return torch.tensor(float(values[0]), dtype=dtype, device=device)
    numbers = [float(value) for value in values]
    return torch.tensor(numbers, dtype=dtype, device=device)[:, None, None]


def _bytes(entry: Tensor) -> int:
    """Of one federation's part of an entry [S, ...]; a number is the same for all."""
    return (entry[0] if entry.dim() else entry).numel() * entry.element_size()
