"""A round as one CUDA graph: recorded once, replayed with new draws.

A round of a small model is hundreds of kernels of a few microseconds, which Python cannot launch
fast enough to keep a GPU busy; a graph launches them at once. Everything that changes from round to
round lies in tensors that the graph reads: the draws, the hyperparameters in force, and the state,
which the graph also writes. What the host alone knows must not decide anything inside: shapes are
those of the largest client, and sizes of mini-batches are tensors.

Each simulation is a branch of the graph, so those that do not fill the GPU by themselves overlap.
The host draws the next round while the GPU works on this one, and hands the draws over in one copy.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from fedgloss.algorithms.core import Named
from fedgloss.engine.cohort import Room
from fedgloss.engine.draw import Draw
from fedgloss.engine.federation import Simulation, advance, play_together
from fedgloss.errors import InputError, reason

WARM_UP = 2
"""Rounds run as they are before one is recorded: libraries set themselves up in them."""


class CannotRecord(Exception):
    """Why a round cannot be recorded. Nothing of it was done yet."""


class Graph(Protocol):
    """Device work that can be repeated."""

    def record(self, branches: Sequence[Callable[[], None]]) -> None:
        """Take down what each of `branches` asks of the device, without its being done.

        Raises CannotRecord where one of them does.
        """

    def replay(self) -> None:
        """Do it, the branches side by side."""


class CudaGraph:
    """A CUDA graph, with a stream for each branch."""

    def __init__(self) -> None:
        self.graph = torch.cuda.CUDAGraph()

    def record(self, branches: Sequence[Callable[[], None]]) -> None:
        streams = [torch.cuda.Stream() for _ in branches]
        before = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(self.graph):
                here = torch.cuda.current_stream()
                for stream in streams:
                    stream.wait_stream(here)
                try:
                    for stream, branch in zip(streams, branches, strict=True):
                        with torch.cuda.stream(stream):
                            branch()
                finally:  # else CUDA's complaint of streams that were not joined hides the error
                    for stream in streams:
                        here.wait_stream(stream)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # a recording that CUDA has given up does not put it back
            raise InputError(
                f"backend: a round cannot be recorded as a CUDA graph ({reason(_first(error))});"
                " use 'stacked' or 'autograd'"
            ) from None

    def replay(self) -> None:
        self.graph.replay()


def _first(error: BaseException) -> BaseException:
    """What went wrong before all that followed from it; a method's fault, if it is one."""
    errors = [error]
    while (before := errors[-1].__context__) is not None:
        errors.append(before)
    return next((one for one in errors if isinstance(one, InputError)), errors[-1])


class Handover:
    """The draws of a round on the device: one piece of memory, filled by one copy.

    The host writes into pinned memory. It may be a few rounds ahead, never so far that it would
    overwrite what has not been copied yet.
    """

    AHEAD = 4

    def __init__(self, draws: Sequence[Draw], device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.places, end = [], 0
        for draw in draws:
            for tensor in draw.tensors():
                self.places.append((end, tensor.nbytes))
                end += -(-tensor.nbytes // 16) * 16
        self.device = torch.zeros(end, dtype=torch.uint8, device=device)
        self.host = [
            torch.zeros(end, dtype=torch.uint8, device="cpu", pin_memory=self.cuda)
            for _ in range(self.AHEAD if self.cuda else 1)
        ]
        self.copied = [torch.cuda.Event() for _ in self.host] if self.cuda else []
        self.turn = 0

    def views(self, draws: Sequence[Draw]) -> Iterator[Tensor]:
        """The draws' tensors on the device, in their order."""
        tensors = [tensor for draw in draws for tensor in draw.tensors()]
        for (begin, size), tensor in zip(self.places, tensors, strict=True):
            yield self.device[begin : begin + size].view(tensor.dtype).view(tensor.shape)

    def fill(self, draws: Sequence[Draw]) -> None:
        """Hand these draws over."""
        turn = self.turn = (self.turn + 1) % len(self.host)
        if self.cuda:
            self.copied[turn].synchronize()
        host = self.host[turn]
        tensors = [tensor for draw in draws for tensor in draw.tensors()]
        for (begin, size), tensor in zip(self.places, tensors, strict=True):
            host[begin : begin + size] = tensor.contiguous().reshape(-1).view(torch.uint8)
        self.device.copy_(host, non_blocking=True)
        if self.cuda:
            self.copied[turn].record()


class _Branch:
    """A simulation's part of a graph, and what the host must do before and after it."""

    def __init__(self, simulation: Simulation, draw: Draw) -> None:
        """draw: where the draws of each round are handed over."""
        self.simulation, self.draw = simulation, draw
        self.state: list[Tensor] = []
        """Where the graph reads the state and writes it."""
        self.trained = simulation.locals[1]
        self.measured: list[tuple[int, int, dict[str, Tensor]]] = []
        """Of each federation: bytes down and up in a round, and where measurements are left."""

    def settle(self) -> None:
        """Before the recording: what holds the state now is where the graph finds it."""
        self.state = _state(self.simulation)

    def work(self) -> None:
        """The round as it is recorded, from and to tensors that stay where they are."""
        simulation, self.measured = self.simulation, []
        before = [(measured.bytes_down, measured.bytes_up) for measured in simulation.measured]
        for measured in simulation.measured:
            measured.latest = {}
        play_together([simulation], [self.draw])
        _overwrite(self.state, _state(simulation))
        _restore(simulation, self.state)
        # Another recording of the same simulation (with or without an extra exchange) leaves the
        # clients' models and the measurements elsewhere.
        self.trained = simulation.locals[1]
        for measured, (down, up) in zip(simulation.measured, before, strict=True):
            sent = measured.bytes_down - down, measured.bytes_up - up
            self.measured.append((*sent, dict(measured.latest)))
            measured.bytes_down, measured.bytes_up = down, up  # nothing was sent yet

    def enter(self) -> None:
        """Before a replay; the simulation may have gone on elsewhere, or been restored."""
        self.simulation.begun = self.simulation.t + 1
        _overwrite(self.state, _state(self.simulation))
        _restore(self.simulation, self.state)

    def leave(self) -> None:
        """After a replay."""
        self.simulation.locals = (self.simulation.locals[0], self.trained)
        for measured, (down, up, latest) in zip(
            self.simulation.measured, self.measured, strict=True
        ):
            measured.bytes_down += down
            measured.bytes_up += up
            measured.latest |= latest


class Replay:
    """Rounds of simulations that are trained together, replayed from a graph.

    Each simulation goes on by itself (`advance`) or here, in any order: its state is its own.
    named: the backend that was asked for by name; InputError says what it cannot record. None:
    rounds that cannot be recorded are played as they are.
    """

    def __init__(
        self,
        simulations: Sequence[Simulation],
        new_graph: Callable[[], Graph] = CudaGraph,
        named: str | None = "graph",
    ) -> None:
        self.simulations, self.new_graph, self.named = list(simulations), new_graph, named
        self.can_record = True
        for simulation in simulations:
            try:
                _check(simulation)
            except CannotRecord as error:
                self._give_up(error)
        self.room = room_of(self.simulations)
        self.graph: Graph | None = None
        self.handover: Handover | None = None
        self.branches: list[_Branch] = []
        self.rounds = 0

    def advance(self) -> None:
        """One round of each simulation."""
        if not self.can_record:
            advance(self.simulations)
            return
        drawn: dict = {}
        draws = [simulation.draw(self.room, drawn) for simulation in self.simulations]
        if self.handover is None:
            self.handover = Handover(draws, self.simulations[0].w.device)
            views = self.handover.views(draws)
            self.branches = [
                _Branch(simulation, draw.placed(views, full_gradient=_unknown))
                for simulation, draw in zip(self.simulations, draws, strict=True)
            ]
        if self.graph is None and self.rounds >= WARM_UP:
            graph = self.new_graph()
            for branch in self.branches:
                branch.settle()
            try:
                graph.record([branch.work for branch in self.branches])
            except CannotRecord as error:  # a method may ask in a later round first
                self._give_up(error)
                advance(self.simulations)
                return
            self.graph = graph
        self.handover.fill(draws)
        if self.graph is None:
            self._warm_up()
        else:
            for branch in self.branches:
                branch.enter()
            self.graph.replay()
            for branch in self.branches:
                branch.leave()
        for simulation, draw in zip(self.simulations, draws, strict=True):
            simulation.locals = (draw.ids, simulation.locals[1])
            simulation.t += 1
        self.rounds += 1

    def _warm_up(self) -> None:
        """Rounds as they are: libraries set themselves up, and methods show what they ask for."""
        for branch in self.branches:
            simulation = branch.simulation
            with _another_stream() if simulation.w.is_cuda else nullcontext():
                try:
                    play_together([simulation], [branch.draw])
                except CannotRecord as error:
                    self._give_up(error)
                    play_together([simulation], [simulation.draw()])

    def _give_up(self, error: CannotRecord) -> None:
        if self.named is not None:
            raise InputError(f"backend: {self.named!r} {error}; use 'stacked'") from None
        self.can_record = False


@contextmanager
def _another_stream() -> Iterator[None]:
    """The block asks another stream than the caller's, as recording does."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def _check(simulation: Simulation) -> None:
    """Refuse what cannot be recorded."""
    device = simulation.w.device
    first = simulation.federations[0]
    where = {"samples": first.data.inputs.device, "targets": first.data.targets.device}
    where |= {f"state {name}": c.values.device for name, c in simulation.clients.items()}
    for what, place in where.items():
        if place != device:
            raise CannotRecord(
                f"records rounds with everything on {device}, and the clients' {what} did not fit"
                " there"
            )
    for federation in simulation.federations:
        if not isinstance(federation.participants, int):
            counts = {len(ids) for ids in federation.participants}
            if len(counts) > 1:
                raise CannotRecord(
                    "records rounds of as many clients each time, and the schedule has"
                    f" {min(counts)} to {max(counts)}"
                )


def room_of(simulations: Sequence[Simulation]) -> Room:
    """What the largest client needs."""
    steps, samples = set(), 1
    for simulation in simulations:
        sizes = {len(ix) for f in simulation.federations for ix in f.data.indices}
        batches = [simulation.batching.sizes(size) for size in sizes]
        steps |= {len(batch) for batch in batches}
        samples = max(samples, *map(max, batches))
    return Room(max(steps), samples, len(steps) == 1)


def _unknown(w: Tensor) -> Tensor:
    raise CannotRecord("cannot record a gradient over all of a client's data")


def _state(simulation: Simulation) -> list[Tensor]:
    """What a round replaces; the clients' state it writes in place."""
    return [simulation.w, simulation.previous, simulation.diverged_in, *simulation.s.values()]


def _restore(simulation: Simulation, state: list[Tensor]) -> None:
    simulation.w, simulation.previous, simulation.diverged_in, *server = state
    simulation.s = Named(**dict(zip(simulation.s, server, strict=True)))


def _overwrite(kept: Sequence[Tensor], new: Sequence[Tensor]) -> None:
    """kept <- new, all at once: a new value may be what is kept of another, as the last model is
    for a server that remembers it."""
    places = {tensor.untyped_storage().data_ptr() for tensor in kept}
    changed = [
        (place, value.clone() if value.untyped_storage().data_ptr() in places else value)
        for place, value in zip(kept, new, strict=True)
        if value is not place
    ]
    for place, value in changed:
        place.copy_(value)
