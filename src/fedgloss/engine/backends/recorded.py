"""Any model on a GPU: one client's gradient recorded as a CUDA graph, replayed for all clients.

Through autograd a ResNet18's gradient is hundreds of kernels of a few microseconds, which Python
cannot launch fast enough to keep a GPU busy. Here autograd runs once while a graph takes its
kernels down; a replay launches them all at once, on whatever was copied into the tensors that the
graph reads. One client's kernels do not fill a GPU either, so there are several lanes, each with
graphs and memory of its own, and clients in different lanes are computed side by side.
"""

import contextlib
import gc
import importlib.util
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fedgloss.engine.backends.autograd import AutogradGradients
from fedgloss.engine.cohort import Cohort, Counts, Seeds
from fedgloss.engine.losses import Counting, Loss
from fedgloss.errors import printable, reason

MOST_LANES = 8
"""Clients side by side: as many as a GPU takes launches from at the same time."""
MOST_KINDS = 4
"""Sizes of mini-batches that are recorded: each is a graph in every lane."""
WARM_UP = 3
"""Gradients computed as they are before one is recorded: libraries set themselves up in them."""


def can_record(model: nn.Module, loss: Loss) -> bool:
    """Whether a replay leaves nothing out.

    Hooks may do more than compute. `Counting` asks the device how to go on.
    """
    every = torch.nn.modules.module
    hooks = [
        hooks
        for holder in (every, *model.modules())
        for name, hooks in vars(holder).items()
        if name.endswith("_hooks") and ("_forward_" in name or "_backward_" in name)
    ]
    return not any(hooks) and not isinstance(loss, Counting)


class Lane(Protocol):
    """Where the device computes some rows, one after another, beside other lanes."""

    def begin(self) -> None:
        """What the lane is asked from here on waits for what the caller has asked so far."""

    def end(self) -> None:
        """What the caller asks from here on waits for what the lane was asked so far."""

    def opened(self) -> AbstractContextManager[object]:
        """What the block asks of the device, the lane is asked."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does again what `work` asks of the device; the lane is open. It may be run first."""

    def free_memory(self) -> float:
        """Bytes of the device that nobody holds."""


class CudaLane:
    """A stream with memory for its graphs, which share it: no two of them run at the same time.

    Everything that a kernel may write to has one lane only: what is between the layers lies in the
    graphs' memory, and the workspaces of cuBLAS belong to the stream on which work is recorded.
    """

    def __init__(self) -> None:
        # PyTorch has 32 streams of each priority, which it hands out in turn. Some versions free a
        # stream's workspaces together with any graph that was recorded on it. Graphs of others are
        # recorded on streams of the ordinary priority, so they do not share one with a lane.
        self.stream = torch.cuda.Stream(priority=-1)
        self.pool = torch.cuda.graph_pool_handle()

    def begin(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())

    def end(self) -> None:
        torch.cuda.current_stream().wait_stream(self.stream)

    def opened(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self.stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        for _ in range(WARM_UP - 1):
            work()
        with _never_waiting():
            work()
        graph = torch.cuda.CUDAGraph()
        # Of other threads nothing is recorded, so they may do what a recording must not.
        mode = "thread_local"
        with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode=mode):
            work()
        return graph.replay

    def free_memory(self) -> float:
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]


@contextlib.contextmanager
def _never_waiting() -> Iterator[None]:
    """What makes the host wait for the GPU raises an error, as it would while a graph is recorded:
    but a recording that fails leaves PyTorch's memory in disorder, and this does not."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it may miss something
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


class _Kind(NamedTuple):
    """What graphs differ in."""

    size: int
    """Samples."""
    input_shape: torch.Size
    input_dtype: torch.dtype
    target_shape: torch.Size
    target_dtype: torch.dtype


class _Recording:
    """The gradient on mini-batches of one kind, with the tensors that its graph reads and writes.

    They are a client's own at first, so that what is run before recording has labels that exist.
    """

    def __init__(
        self, compute: Callable[[Tensor, Tensor, Tensor], Tensor], lane: Lane, *given: Tensor
    ) -> None:
        self.given, self.gradient = [tensor.clone() for tensor in given], given[0]

        def work() -> None:
            self.gradient = compute(*self.given)

        self.replay = lane.record(work)

    def __call__(self, *given: Tensor) -> Tensor:
        """The gradient [P], which the next call overwrites."""
        for kept, now in zip(self.given, given, strict=True):
            kept.copy_(now)
        self.replay()
        return self.gradient


class _Recordings:
    """A lane, and the recordings in it."""

    def __init__(self, lane: Lane) -> None:
        self.lane, self.of = lane, dict[_Kind, _Recording]()
        self.bytes = 0.0


class _CannotRecord(Exception):
    pass


class RecordedGradients:
    """What `AutogradGradients` computes, for a model on a GPU that draws no random numbers.

    A row has the same bits in every call, whatever its lane, its place and the other rows, and
    whether or not its kind is recorded: those of autograd on a copy of its tensors. That is as long
    as cuDNN and cuBLAS choose alike for equal shapes, as they do under `start.prepared`. They may
    choose otherwise for tensors that begin at odd addresses, as rows of W do, so the backend
    `autograd` may differ by rounding.

    The host waits for the GPU only while something is recorded: the first time that a lane meets a
    kind of mini-batch. The commonest kinds are recorded; where there are more than MOST_KINDS, the
    others go through autograd. The lanes together take at most half of the memory that was free.
    A model that cannot be recorded goes through autograd for good, and one line on standard error
    says why.

    dtype: as for `AutogradGradients`. new_lane: what makes a lane.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        dtype: torch.dtype | None = None,
        new_lane: Callable[[], Lane] = CudaLane,
    ) -> None:
        self.eager, self.loss, self.new_lane = AutogradGradients(model, loss, dtype), loss, new_lane
        self.lanes: list[_Recordings] = []
        self.kinds: list[_Kind] = []
        self.most_lanes = MOST_LANES
        self.gave_up = False
        first = next(model.parameters())
        # A model of millions of parameters spends as long on the method's own terms as on gradients
        # if each operation reads and writes all clients' models: so one kernel does a line of them.
        on_gpu = first.is_cuda and first.dtype == torch.float32
        self.lazy = on_gpu and importlib.util.find_spec("triton") is not None

    @torch.no_grad()
    def __call__(
        self, W: Tensor, x: Tensor, y: Tensor, counts: Counts, seeds: Seeds = None
    ) -> Tensor:
        """As `cohort.Gradients` says; counts are numbers."""
        if not self.gave_up:
            try:
                return self._side_by_side(W, x, y, [int(count) for count in counts])
            except _CannotRecord as error:
                self.gave_up, self.lanes = True, []
                print(
                    "fedgloss: warning: backend: the model's gradient cannot be recorded"
                    f" ({printable(str(error))}); 'autograd' computes it, which is slower",
                    file=sys.stderr,
                    flush=True,
                )
        return self.eager(W, x, y, counts)

    def clients_at_once(self, cohort: Cohort) -> int:
        """All of them."""
        return len(cohort.ids[0])

    def _side_by_side(self, W: Tensor, x: Tensor, y: Tensor, counts: Sequence[int]) -> Tensor:
        gradients = torch.empty_like(W)
        kinds = {
            k: _Kind(count, x.shape[2:], x.dtype, y.shape[2:], y.dtype)
            for k, count in enumerate(counts)
            if count
        }
        self._choose(kinds.values())
        recorded = [k for k, kind in kinds.items() if kind in self.kinds]
        # What a lane is given and what it writes belongs to the caller's stream, on which nothing
        # is freed or used before all lanes are joined; so their memory is not taken by others.
        begun: list[_Recordings] = []
        try:
            for i, k in enumerate(recorded):
                lane = self._lane(i % _lanes_for(len(recorded), self.most_lanes))
                if lane not in begun:
                    lane.lane.begin()
                    begun.append(lane)
                given = W[k], x[k, : counts[k]], y[k, : counts[k]]
                with lane.lane.opened():
                    gradients[k].copy_(self._recording(lane, kinds[k], *given)(*given))
            for k, count in enumerate(counts):
                if not count:
                    gradients[k].zero_()
                elif k not in recorded:
                    copies = [tensor.clone() for tensor in (W[k], x[k, :count], y[k, :count])]
                    gradients[k] = self.eager.gradient(*copies)
        finally:
            for lane in begun:
                lane.lane.end()
        return gradients

    def _choose(self, kinds: Iterable[_Kind]) -> None:
        """Which kinds to record, as long as there may be more: the commonest of a call, and of
        those that are as common the largest."""
        if len(self.kinds) < MOST_KINDS:
            found = Counter(kind for kind in kinds if kind not in self.kinds)
            best = sorted(found, key=lambda kind: (-found[kind], -kind.size))
            self.kinds += best[: MOST_KINDS - len(self.kinds)]

    def _lane(self, number: int) -> _Recordings:
        """A lane by its number, which is at most one more than there are."""
        if number == len(self.lanes):
            if not self.lanes:
                gc.collect()  # graphs of earlier runs end now, before lanes may get their streams
            if self._has_room():
                self.lanes.append(_Recordings(self.new_lane()))
            else:
                self.most_lanes = number
        return self.lanes[number % len(self.lanes)]

    def _has_room(self) -> bool:
        """Whether with another lane they would hold at most half of what they could have."""
        if not self.lanes:
            return True
        held = [lane.bytes for lane in self.lanes]
        return sum(held) + 2 * max(held) <= self.lanes[0].lane.free_memory()

    def _recording(self, lane: _Recordings, kind: _Kind, *given: Tensor) -> _Recording:
        if kind not in lane.of:
            free = lane.lane.free_memory()
            try:
                lane.of[kind] = _Recording(self.eager.gradient, lane.lane, *given)
            except Exception as error:  # whatever a user's forward raises where it may not wait
                raise _CannotRecord(reason(_first(error))) from error
            lane.bytes += max(free - lane.lane.free_memory(), 0)
        return lane.of[kind]


def _lanes_for(rows: int, most: int) -> int:
    """The fewest lanes that take no more turns than `most` would."""
    return math.ceil(rows / math.ceil(rows / most))


def _first(error: BaseException) -> BaseException:
    """The error that others followed: ending a recording that failed raises one of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return error
