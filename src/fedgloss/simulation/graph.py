"""A round as one CUDA graph: recorded once, replayed with new draws.

A round of a small model is thousands of kernels of a few microseconds, which Python cannot launch
fast enough to keep a GPU busy; a graph launches them at once. Everything that changes from round to
round lies in tensors that the graph reads: the draws, the hyperparameters in force, and the state,
which the graph also writes. What the host alone knows must not decide anything inside: shapes are
those of the largest client, and sizes of mini-batches are tensors.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from fedgloss.algorithms.core import Named
from fedgloss.errors import InputError
from fedgloss.simulation.rounds import Draw, Simulation, play_together

WARM_UP = 2
"""Rounds run as they are before one is recorded: libraries set themselves up in them."""


class Graph(Protocol):
    """Device work that can be repeated."""

    def record(self, work: Callable[[], None]) -> None:
        """Take down what `work` asks of the device, without its being done."""

    def replay(self) -> None:
        """Do it."""


class CudaGraph:
    """A CUDA graph."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()

    def record(self, work: Callable[[], None]) -> None:
        with torch.cuda.graph(self.graph):
            work()

    def replay(self) -> None:
        self.graph.replay()


class Recorded:
    """Rounds of simulations that are trained together, replayed from a graph.

    Each simulation goes on by itself (`advance`) or here, in any order: its state is its own.
    """

    def __init__(
        self, simulations: Sequence[Simulation], new_graph: Callable[[], Graph] = CudaGraph
    ) -> None:
        self.simulations, self.new_graph = list(simulations), new_graph
        self.room = _room(self.simulations)
        self.graph: Graph | None = None
        self.draws: list[Draw] = []
        self.states: list[list[Tensor]] = []
        self.costs: list[list[tuple[int, int]]] = []
        self.rounds = 0

    def advance(self) -> None:
        """One round of each simulation."""
        draws = [simulation.draw(self.room) for simulation in self.simulations]
        if self.rounds < WARM_UP:
            self._warm_up(draws)
        else:
            if self.graph is None:
                self._record(draws)
            self._replay(draws)
        for simulation, draw in zip(self.simulations, draws, strict=True):
            simulation.locals = (draw.ids, simulation.locals[1])
            simulation.t += 1
        self.rounds += 1

    def _warm_up(self, draws: list[Draw]) -> None:
        if draws[0].rows.is_cuda:  # on another stream, as recording does
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                play_together(self.simulations, draws)
            torch.cuda.current_stream().wait_stream(stream)
        else:
            play_together(self.simulations, draws)

    def _record(self, draws: list[Draw]) -> None:
        """Record the round on these draws, from and to tensors that stay where they are."""
        self.draws = [_own(draw) for draw in draws]
        self.states = [_state(simulation) for simulation in self.simulations]
        before = [[(m.bytes_down, m.bytes_up) for m in s.measured] for s in self.simulations]
        graph = self.new_graph()

        def work() -> None:
            play_together(self.simulations, self.draws)
            for simulation, state in zip(self.simulations, self.states, strict=True):
                for kept, new in zip(state, _state(simulation), strict=True):
                    kept.copy_(new)

        graph.record(work)
        self.costs = []
        for simulation, state, counts in zip(self.simulations, self.states, before, strict=True):
            _restore(simulation, state)
            costs = []
            for measured, (down, up) in zip(simulation.measured, counts, strict=True):
                costs.append((measured.bytes_down - down, measured.bytes_up - up))
                measured.bytes_down, measured.bytes_up = down, up  # nothing was sent yet
            self.costs.append(costs)
        self.graph = graph

    def _replay(self, draws: list[Draw]) -> None:
        for own, draw in zip(self.draws, draws, strict=True):
            for kept, new in zip(own.tensors(), draw.tensors(), strict=True):
                kept.copy_(new, non_blocking=True)
        for simulation, state in zip(self.simulations, self.states, strict=True):
            for kept, now in zip(state, _state(simulation), strict=True):
                if kept is not now:  # the simulation went on elsewhere, or was restored
                    kept.copy_(now)
            _restore(simulation, state)
        self.graph.replay()
        for simulation, costs in zip(self.simulations, self.costs, strict=True):
            for measured, (down, up) in zip(simulation.measured, costs, strict=True):
                measured.bytes_down += down
                measured.bytes_up += up


def _room(simulations: Sequence[Simulation]) -> tuple[int, int]:
    """(local steps, samples of a mini-batch) of the largest client."""
    steps = samples = 1
    for simulation in simulations:
        sizes = {len(ix) for f in simulation.federations for ix in f.data.indices}
        batches = [simulation.batching.sizes(size) for size in sizes]
        steps = max(steps, *map(len, batches))
        samples = max(samples, *map(max, batches))
    return steps, samples


def _own(draw: Draw) -> Draw:
    """A copy of a draw whose tensors nobody else holds."""
    values = {k: v.clone() if isinstance(v, Tensor) else v for k, v in draw.h.items()}
    values["full_gradient"] = _unknown
    return Draw(
        draw.ids,
        draw.rows.clone(),
        draw.cohort.copy(),
        draw.probe and draw.probe.copy(),
        Named(**values),
    )


def _unknown(w: Tensor) -> Tensor:
    raise InputError(
        "backend: 'graph' cannot record a gradient over all of a client's data; use 'stacked'"
    )


def _state(simulation: Simulation) -> list[Tensor]:
    """What a round replaces; the clients' state it writes in place."""
    return [simulation.w, simulation.previous, simulation.diverged_in, *simulation.s.values()]


def _restore(simulation: Simulation, state: list[Tensor]) -> None:
    simulation.w, simulation.previous, simulation.diverged_in, *server = state
    simulation.s = Named(**dict(zip(simulation.s, server, strict=True)))
