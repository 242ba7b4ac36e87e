"""The mini-batches of a round: which sample, under which augmentation, at which local step.

All of it is decided on the host before the round, each row by its stream of draws (rng.py), and
becomes index tensors; the device gathers. A cohort holds the participants of one federation, or of
several that are trained together: S federations of K participants are S * K rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.losses import weight_of
from fedgloss.rng import Stream

Counts = Sequence[int] | Tensor
"""How many samples of each row's mini-batch count, 0 for clients that have finished: numbers, or a
tensor on the device where a round must not depend on what the host knows (graph.py)."""
Seeds = Sequence[int] | None
"""For each row, what a model's own random draws on its mini-batch follow from (dropout)."""
Reader = Callable[[Tensor, Tensor, Tensor | None, Pipeline], Tensor]
"""(images, index [R, B], augmentation, pipeline) -> inputs [R, B, ...]."""


class Room(NamedTuple):
    """What any round may need, so that all rounds have tensors of one shape."""

    steps: int
    samples: int
    """Of a mini-batch."""
    equal: bool
    """Whether all clients take that many steps."""


class Gradients(Protocol):
    """How the gradients of many models on their mini-batches are computed: a backend."""

    def __call__(
        self, W: Tensor, x: Tensor, y: Tensor, counts: Counts, seeds: Seeds = None
    ) -> Tensor:
        """W [R, P], x [R, B, ...], y [R, B, ...] -> [R, P]: the gradients of R mean losses.

        The mini-batch of row r is its first counts[r] samples; the gradient of none is zero.
        """

    def clients_at_once(self, cohort: "Cohort") -> int:
        """How many clients of each federation to train together."""


class Batch(NamedTuple):
    """One mini-batch for each row."""

    inputs: Tensor
    targets: Tensor
    counts: Counts
    seeds: Seeds


@dataclass(frozen=True)
class Cohort:
    """The participants of one round and their mini-batches, ready on the device."""

    source: "Source"
    """What they were drawn from."""
    ids: tuple[tuple[int, ...], ...]
    """The participants of each federation, S x K."""
    sizes: tuple[tuple[int, ...], ...]
    """The mini-batch sizes of each row, in the order of its local steps."""
    index: Tensor
    """int64 [S, K, steps, B]: the samples; what lies past a mini-batch's size does not count."""
    draws: Tensor | None
    """int64 [S, K, steps, B, 3]: their augmentation, if there is any."""
    counts: Tensor | None
    """int64 [S, K, steps], where the sizes are to be known on the device only."""
    equal: bool
    """Whether it is known that all participants take all of `steps`."""
    streams: tuple[Stream, ...]
    """What the draws of each row follow from."""

    @property
    def steps(self) -> int:
        """Local steps of the busiest participant, or room for them."""
        return self.index.shape[2]

    def batch(self, step: int) -> Batch:
        """The mini-batches of a local step, the rows of all federations in one dimension."""
        counts: Counts
        if self.counts is None:
            counts = [sizes[step] if step < len(sizes) else 0 for sizes in self.sizes]
            B = max(counts)
        else:
            counts, B = self.counts[:, :, step].flatten(), self.index.shape[3]
        index = self.index[:, :, step, :B].flatten(0, 1)
        draws = None if self.draws is None else self.draws[:, :, step, :B].flatten(0, 1)
        seeds = self._seeds(self.streams, "model", step)
        return Batch(self._inputs(index, draws), self._targets(index), counts, seeds)

    def part(self, participants: slice) -> "Cohort":
        """The same for some of each federation's participants.

        Its steps are those of the busiest of them, unless the host must not decide anything.
        """
        S, K = self.index.shape[:2]
        kept = range(K)[participants]
        rows = [s * K + k for s in range(S) for k in kept]
        sizes = tuple(self.sizes[row] for row in rows)
        steps = self.steps if self.counts is not None else max(map(len, sizes))
        here = slice(None), participants, slice(steps)
        return replace(
            self,
            ids=tuple(tuple(ids[k] for k in kept) for ids in self.ids),
            sizes=sizes,
            streams=tuple(self.streams[row] for row in rows),
            index=self.index[here],
            draws=None if self.draws is None else self.draws[here],
            counts=None if self.counts is None else self.counts[here],
        )

    def placed(self, tensors: Iterator[Tensor]) -> "Cohort":
        """The same with other tensors, taken in the order of `tensors`."""
        return replace(
            self,
            index=next(tensors),
            draws=None if self.draws is None else next(tensors),
            counts=None if self.counts is None else next(tensors),
        )

    def tensors(self) -> list[Tensor]:
        """What differs between two rounds, in a fixed order."""
        return [t for t in (self.index, self.draws, self.counts) if t is not None]

    def full_gradient(self, gradients: Gradients, w: Tensor, chunk: int = 1024) -> Tensor:
        """Each participant's gradient over all its data at w: [S, 1, P] -> [S, K, P]."""
        S, K = self.index.shape[:2]
        chunk = min(chunk, getattr(gradients, "most_samples", chunk))
        total = w.new_zeros(S, K, w.shape[-1])
        for s in range(S):
            for k, client in enumerate(self.ids[s]):
                indices = self.source.data[s].indices[client].to(self.index.device)
                stream = self.streams[s * K + k]
                weights = 0.0
                for i, part in enumerate(indices.split(chunk)):
                    x, y = self._inputs(part[None], None), self._targets(part[None])
                    seeds = self._seeds([stream], "model/all", i)
                    gradient = gradients(w[s], x, y, [len(part)], seeds)[0]
                    weight = weight_of(getattr(gradients, "loss", None), y[0])
                    total[s, k] += gradient * weight
                    weights += weight
                total[s, k] /= weights or 1.0  # of labels that are all left out there is none
        return total

    def _seeds(self, streams: Sequence[Stream], what: str, step: int) -> Seeds:
        """The same for every gradient on a mini-batch: both of SAM's are of one function."""
        if not getattr(self.source.gradients, "draws", False):
            return None
        return [stream.of(what).seed_of(step) for stream in streams]

    def _inputs(self, index: Tensor, draws: Tensor | None) -> Tensor:
        inputs, pipeline, like = self.source.inputs, self.source.pipeline, self.source.like
        read: Reader | None = getattr(self.source.gradients, "read_images", None)
        here = inputs.device == like.device
        if read is not None and pipeline is not None and here:
            return read(inputs, index, draws, pipeline)
        x = _rows(inputs, index).to(like.device, non_blocking=True)
        return x if pipeline is None else pipeline(x, draws, like.dtype)

    def _targets(self, index: Tensor) -> Tensor:
        device = self.source.like.device
        return _rows(self.source.data[0].targets, index).to(device, non_blocking=True)


Drawn = dict[tuple[int, Stream, int, int], tuple[Tensor, Tensor | None, Tensor]]
"""Rows by the client's samples, the stream and the shape, so that none is drawn twice."""


@dataclass(frozen=True)
class Source:
    """What the cohorts of some federations are drawn from, round after round."""

    data: tuple[ClientData, ...]
    """Of each federation; all index the same samples."""
    seeds: tuple[int, ...]
    """Of each federation."""
    batching: Batching
    pipeline: Pipeline | None
    like: Tensor
    """Of the models' device and type; the samples may lie elsewhere."""
    gradients: Gradients
    """The backend, which may want images made in its own way, or random numbers."""

    @property
    def inputs(self) -> Tensor:
        """The samples of all clients."""
        return self.data[0].inputs

    def cohort(
        self,
        ids: Sequence[Sequence[int]],
        purpose: str,
        t: int,
        room: Room | None = None,
        drawn: Drawn | None = None,
    ) -> Cohort:
        """The cohort of round t for these participants of each federation.

        room: all cohorts then have tensors of one shape, their sizes among them, which are left on
        the host. drawn: what this round's cohorts of other federations have drawn already.
        """
        streams = [
            Stream(seed, purpose, t, k)
            for seed, some in zip(self.seeds, ids, strict=True)
            for k in some
        ]
        indices = [data.indices[k] for data, some in zip(self.data, ids, strict=True) for k in some]
        sizes = [self.batching.sizes(len(index)) for index in indices]
        steps, B, equal = room or (max(map(len, sizes), default=0), max(map(max, sizes)), False)
        drawn, rows = {} if drawn is None else drawn, []
        for index, here, stream in zip(indices, sizes, streams, strict=True):
            key = id(index), stream, steps, B
            if key not in drawn:
                drawn[key] = self._row(index, here, stream, (steps, B))
            rows.append(drawn[key])
        shape = len(ids), len(ids[0])
        index = torch.stack([row[0] for row in rows]).unflatten(0, shape)
        some = [row[1] for row in rows if row[1] is not None]
        draws = torch.stack(some).unflatten(0, shape) if some else None
        counts = torch.stack([row[2] for row in rows]).unflatten(0, shape) if room else None
        if room is None:
            index = index.to(self.inputs.device, non_blocking=True)
            draws = None if draws is None else draws.to(self.like.device, non_blocking=True)
        return Cohort(
            self,
            tuple(map(tuple, ids)),
            tuple(map(tuple, sizes)),
            index,
            draws,
            counts,
            equal,
            tuple(streams),
        )

    def _row(
        self, indices: Tensor, sizes: list[int], stream: Stream, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """A client's round: samples [steps, B], augmentation [steps, B, 3], sizes [steps]."""
        index = torch.zeros(*shape, dtype=torch.int64, device="cpu")
        _fill(index, indices[self.batching.order(stream, len(indices))], sizes)
        counts = torch.zeros(shape[0], dtype=torch.int64, device="cpu")
        counts[: len(sizes)] = torch.tensor(sizes, device="cpu")
        if self.pipeline is None or self.pipeline.augmentation == "none":
            return index, None, counts
        draws = torch.zeros(*shape, 3, dtype=torch.int64, device="cpu")
        _fill(draws, torch.from_numpy(self.pipeline.draw(stream, sizes)), sizes)
        return index, draws, counts


def _fill(grid: Tensor, values: Tensor, sizes: Sequence[int]) -> None:
    """Lay out consecutive values as mini-batches, one row of the grid each."""
    full = next((j for j, size in enumerate(sizes) if size < grid.shape[1]), len(sizes))
    done = full * grid.shape[1]
    grid[:full] = values[:done].unflatten(0, (full, grid.shape[1])) if full else grid[:0]
    for j in range(full, len(sizes)):
        grid[j, : sizes[j]] = values[done : done + sizes[j]]
        done += sizes[j]


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """tensor[index] for an index of any shape; several times faster from a memory-mapped file."""
    return tensor.index_select(0, index.reshape(-1)).unflatten(0, index.shape)
