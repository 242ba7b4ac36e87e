"""The mini-batches of a round: which sample, under which augmentation, at which local step.

All of it is decided on the host before the round, from (seed, purpose, round, client) alone, and
becomes index tensors; the device gathers. A cohort holds the participants of one federation, or of
several that are trained together: S federations of K participants are S * K rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fedgloss import rng
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.losses import weight_of

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

    data: tuple[ClientData, ...]
    """Of each federation; all index the same samples."""
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
    pipeline: Pipeline | None
    device: torch.device
    """Where the models are; the samples may lie elsewhere."""
    dtype: torch.dtype
    equal: bool = False
    """Whether it is known that all participants take all of `steps`."""
    read: Reader | None = None
    """How the backend wants its images made, where it has a way of its own."""
    keys: tuple[tuple[int, str, int, int], ...] | None = None
    """(seed, purpose, round, client) of each row, where the model draws random numbers itself."""

    @property
    def steps(self) -> int:
        """Local steps of the busiest participant, or room for them."""
        return self.index.shape[2]

    def batch(self, step: int) -> Batch:
        """The mini-batches of a local step, the rows of all federations in one dimension."""
        if self.counts is None:
            counts = [sizes[step] if step < len(sizes) else 0 for sizes in self.sizes]
            B = max(counts)
        else:
            counts, B = self.counts[:, :, step].flatten(), self.index.shape[3]
        index = self.index[:, :, step, :B].flatten(0, 1)
        draws = None if self.draws is None else self.draws[:, :, step, :B].flatten(0, 1)
        seeds = self.keys and [_model_seed("model", key, step) for key in self.keys]
        return Batch(self._inputs(index, draws), self._targets(index), counts, seeds)

    def part(self, participants: slice) -> "Cohort":
        """The same for some of each federation's participants."""
        S, K = self.index.shape[:2]
        kept = range(K)[participants]
        rows = [s * K + k for s in range(S) for k in kept]
        return replace(
            self,
            ids=tuple(tuple(ids[k] for k in kept) for ids in self.ids),
            sizes=tuple(self.sizes[row] for row in rows),
            keys=self.keys and tuple(self.keys[row] for row in rows),
            index=self.index[:, participants],
            draws=None if self.draws is None else self.draws[:, participants],
            counts=None if self.counts is None else self.counts[:, participants],
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
        total = w.new_zeros(S, K, w.shape[-1])
        for s in range(S):
            for k, client in enumerate(self.ids[s]):
                indices = self.data[s].indices[client].to(self.index.device)
                weights = 0.0
                for i, part in enumerate(indices.split(chunk)):
                    x, y = self._inputs(part[None], None), self._targets(part[None])
                    seeds = self.keys and [_model_seed("model/all", self.keys[s * K + k], i)]
                    gradient = gradients(w[s], x, y, [len(part)], seeds)[0]
                    weight = weight_of(getattr(gradients, "loss", None), y[0])
                    total[s, k] += gradient * weight
                    weights += weight
                total[s, k] /= max(weights, 1e-300)
        return total

    def _inputs(self, index: Tensor, draws: Tensor | None) -> Tensor:
        if self.read is not None and self.pipeline is not None:
            return self.read(self.data[0].inputs, index, draws, self.pipeline)
        x = _rows(self.data[0].inputs, index).to(self.device, non_blocking=True)
        return x if self.pipeline is None else self.pipeline(x, draws, self.dtype)

    def _targets(self, index: Tensor) -> Tensor:
        return _rows(self.data[0].targets, index).to(self.device, non_blocking=True)


def draw_cohort(
    data: Sequence[ClientData],
    ids: Sequence[Sequence[int]],
    batching: Batching,
    pipeline: Pipeline | None,
    like: Tensor,
    seeds: Sequence[int],
    purpose: str,
    t: int,
    room: Room | None = None,
    gradients: Gradients | None = None,
    drawn: dict[Any, Any] | None = None,
) -> Cohort:
    """The cohort of round t for federations with these data, participants and seeds.

    like: a tensor of the models' device and type. room: all cohorts then have tensors of one shape,
    their sizes among them, which are left on the host. gradients: the backend, which may want
    images made in its own way, or random numbers. drawn: what this round's cohorts of the same
    seeds have drawn already.
    """
    sizes = [batching.sizes(len(data[s].indices[k])) for s, row in enumerate(ids) for k in row]
    S, K = len(ids), len(ids[0])
    steps, B, equal = room or (max(map(len, sizes), default=0), max(map(max, sizes)), False)
    drawn, rows = {} if drawn is None else drawn, []
    for row, here in enumerate(sizes):
        s, k = row // K, ids[row // K][row % K]
        key = id(data[s].indices), k, seeds[s], purpose, t, steps, B
        if key not in drawn:
            drawn[key] = _draw_row(
                data[s].indices[k], here, (steps, B), batching, pipeline, (seeds[s], purpose, t, k)
            )
        rows.append(drawn[key])
    index, draws, counts = (
        None if some[0] is None else torch.stack(some).unflatten(0, (S, K))
        for some in zip(*rows, strict=True)
    )
    if room is None:
        index = index.to(data[0].inputs.device, non_blocking=True)
        draws = None if draws is None else draws.to(like.device, non_blocking=True)
        counts = None
    keys = [(seeds[s], purpose, t, k) for s, row in enumerate(ids) for k in row]
    return Cohort(
        tuple(data),
        tuple(map(tuple, ids)),
        tuple(map(tuple, sizes)),
        index,
        draws,
        counts,
        pipeline,
        like.device,
        like.dtype,
        equal,
        getattr(gradients, "read_images", None),
        tuple(keys) if getattr(gradients, "draws", False) else None,
    )


def _draw_row(
    indices: Tensor,
    sizes: list[int],
    shape: tuple[int, int],
    batching: Batching,
    pipeline: Pipeline | None,
    key: tuple[int, str, int, int],
) -> tuple[Tensor, Tensor | None, Tensor]:
    """One client's round: samples [steps, B], augmentation [steps, B, 3], sizes [steps]."""
    seed, purpose, t, k = key
    steps, B = shape
    index = torch.zeros(steps, B, dtype=torch.int64)
    _fill(index, indices[batching.order(len(indices), seed, purpose, t, k)], sizes)
    counts = torch.zeros(steps, dtype=torch.int64)
    counts[: len(sizes)] = torch.tensor(sizes)
    if pipeline is None or pipeline.augmentation == "none":
        return index, None, counts
    draws = torch.zeros(steps, B, 3, dtype=torch.int64)
    _fill(draws, torch.from_numpy(pipeline.draw(seed, purpose, t, k, sizes)), sizes)
    return index, draws, counts


def _fill(grid: Tensor, values: Tensor, sizes: Sequence[int]) -> None:
    """Lay out consecutive values as mini-batches, one row of the grid each."""
    full = next((j for j, size in enumerate(sizes) if size < grid.shape[1]), len(sizes))
    done = full * grid.shape[1]
    grid[:full] = values[:done].unflatten(0, (full, grid.shape[1])) if full else grid[:0]
    for j in range(full, len(sizes)):
        grid[j, : sizes[j]] = values[done : done + sizes[j]]
        done += sizes[j]


def _model_seed(what: str, key: tuple[int, str, int, int], step: int) -> int:
    """The same for every gradient on a mini-batch: both of SAM's are of one function."""
    seed, purpose, t, client = key
    return int(rng.bits(seed, f"{purpose}/{what}", step + 1, t, client)[step] >> 1)


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """tensor[index] for an index of any shape; several times faster from a memory-mapped file."""
    return tensor.index_select(0, index.reshape(-1)).unflatten(0, index.shape)
