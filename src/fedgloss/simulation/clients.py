"""The clients' data, resident on the device, and the mini-batches of a cohort.

All samples lie in one pair of tensors; a client is a list of indices into them, a mini-batch an
index tensor. Which sample comes when is decided on the host before the round, from (seed, round,
client) alone; the device gathers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedgloss import rng
from fedgloss.data import augment
from fedgloss.errors import InputError


@dataclass(frozen=True)
class ClientData:
    """The samples of all clients: inputs [N, ...], targets [N, ...], and each client's indices."""

    inputs: Tensor
    targets: Tensor
    indices: tuple[Tensor, ...]

    @staticmethod
    def from_list(clients: Sequence[tuple[Tensor, Tensor]]) -> "ClientData":
        """One (inputs, targets) pair for each client. Raises InputError naming the client."""
        if not isinstance(clients, Sequence) or not clients:
            raise InputError("clients: expected a non-empty list of (inputs, targets) pairs")
        for k, pair in enumerate(clients):
            if not (
                isinstance(pair, Sequence)
                and len(pair) == 2
                and all(isinstance(tensor, Tensor) for tensor in pair)
            ):
                raise InputError(f"clients[{k}]: expected a pair of tensors (inputs, targets)")
            x, y = pair
            if not x.ndim or not y.ndim or len(x) != len(y):
                raise InputError(
                    f"clients[{k}]: inputs {list(x.shape)} and targets {list(y.shape)}"
                    " do not have one row for each sample"
                )
            for what, tensor, first in zip(("inputs", "targets"), pair, clients[0], strict=True):
                if tensor.shape[1:] != first.shape[1:] or tensor.dtype != first.dtype:
                    raise InputError(
                        f"clients[{k}]: {what} are {_kind(tensor)}, those of clients[0] are"
                        f" {_kind(first)}"
                    )
        ends = np.cumsum([len(x) for x, _ in clients])
        return ClientData(
            torch.cat([x for x, _ in clients]),
            torch.cat([y for _, y in clients]),
            tuple(
                torch.arange(end - len(x), end) for (x, _), end in zip(clients, ends, strict=True)
            ),
        )

    def checked(self) -> "ClientData":
        """This data, after refusing empty clients and values that are not numbers."""
        for k, index in enumerate(self.indices):
            if not len(index):
                raise InputError(f"clients[{k}]: has no samples")
        for what, tensor in (("inputs", self.inputs), ("targets", self.targets)):
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                bad = ~torch.isfinite(tensor.flatten(1)).all(dim=1) if tensor.ndim > 1 else None
                bad = ~torch.isfinite(tensor) if bad is None else bad
                k = next(k for k, index in enumerate(self.indices) if bad[index].any())
                raise InputError(f"clients[{k}]: {what} contain NaN or infinity")
        return self

    def pooled(self) -> "ClientData":
        """The union of all clients as a single one, for centralized training."""
        return ClientData(self.inputs, self.targets, (torch.cat(self.indices),))


@dataclass(frozen=True)
class Pipeline:
    """How stored images become inputs: uint8 -> (augmented, when training) -> normalised floats."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str = "none"
    padding: int = 4

    def draw(self, seed: int, purpose: str, t: int, client: int, sizes: list[int]) -> np.ndarray:
        """The augmentation of one client's mini-batches, int64 [samples, 3]."""
        return augment.draw(
            self.augmentation, seed, t, client, sizes, f"{purpose}/augment", self.padding
        )

    def __call__(self, x: Tensor, draws: Tensor | None, dtype: torch.dtype) -> Tensor:
        if draws is not None:
            x = augment.crop_flip(x, draws, self.padding)
        return augment.normalize(x, self.mean, self.std, dtype)


@dataclass(frozen=True)
class Batching:
    """How a client walks over its data: whole epochs in mini-batches, or a number of steps."""

    size: int | None
    """Samples in a mini-batch; None: all of the client's. A smaller last batch is kept."""
    epochs: int = 1
    steps: int | None = None
    """Exactly this many mini-batches, over as many epochs as it takes, in place of `epochs`."""

    def sizes(self, samples: int) -> list[int]:
        """The mini-batch sizes of a client's round."""
        size = min(self.size or samples, samples)
        epoch = [size] * (samples // size) + ([samples % size] if samples % size else [])
        if self.steps is None:
            return epoch * self.epochs
        return (epoch * math.ceil(self.steps / len(epoch)))[: self.steps]

    def order(self, samples: int, seed: int, purpose: str, t: int, client: int) -> np.ndarray:
        """The positions of a client's samples in the order of its round."""
        wanted, epochs = sum(self.sizes(samples)), []
        for epoch in range(math.ceil(wanted / samples)):
            epochs.append(rng.permutation(seed, f"{purpose}/epoch-{epoch}", samples, t, client))
        return np.concatenate(epochs)[:wanted]


class Cohort:
    """The participants of one round and their mini-batches, ready on the device."""

    def __init__(
        self,
        data: ClientData,
        ids: Sequence[int],
        batching: Batching,
        gradients: Callable[[Tensor, Tensor, Tensor, Sequence[int]], Tensor],
        pipeline: Pipeline | None,
        dtype: torch.dtype,
        seed: int,
        purpose: str,
        t: int,
    ) -> None:
        self.data, self.ids, self.gradients, self.pipeline = data, ids, gradients, pipeline
        self.dtype, self.evaluations = dtype, 0
        samples = [len(data.indices[k]) for k in ids]
        sizes = [batching.sizes(n) for n in samples]
        self.steps = [len(s) for s in sizes]
        self.counts = [
            [s[j] if j < len(s) else 0 for s in sizes] for j in range(max(self.steps, default=0))
        ]
        K, S, B = len(ids), len(self.counts), max(map(max, self.counts))
        index = torch.zeros(K, S, B, dtype=torch.int64)
        augmented = pipeline is not None and pipeline.augmentation != "none"
        draws = torch.zeros(K, S, B, 3, dtype=torch.int64) if augmented else None
        for i, k in enumerate(ids):
            order = data.indices[k][batching.order(samples[i], seed, purpose, t, k)]
            here = torch.zeros(S, B, dtype=torch.bool)
            for j, count in enumerate(sizes[i]):
                here[j, :count] = True
            index[i][here] = order
            if draws is not None:
                drawn = pipeline.draw(seed, purpose, t, k, sizes[i])
                draws[i][here] = torch.from_numpy(drawn)
        device = data.inputs.device
        self.index = index.to(device, non_blocking=True)
        self.draws = draws if draws is None else draws.to(device, non_blocking=True)

    def gradient(self, step: int) -> Callable[[Tensor], Tensor]:
        """The cohort's gradient on its mini-batches of this step, [K, P] -> [K, P].

        Both evaluations of SAM use it, hence the same samples under the same augmentation. Clients
        that have finished give zeros.
        """
        counts = self.counts[step]
        index = self.index[:, step, : max(counts)]
        draws = None if self.draws is None else self.draws[:, step, : max(counts)]
        x, y = self.inputs(index, draws), _rows(self.data.targets, index)

        def gradient(W: Tensor) -> Tensor:
            self.evaluations += 1
            return self.gradients(W, x, y, counts)

        return gradient

    def full_gradient(self, w: Tensor, chunk: int = 1024) -> Tensor:
        """The gradient of each participant's mean loss over all its data at w: [1, P] -> [K, P]."""
        W = w.expand(len(self.ids), -1)
        total = torch.zeros_like(W)
        for k, client in enumerate(self.ids):
            index = self.data.indices[client].to(self.data.inputs.device)
            for part in index.split(chunk):
                x, y = self.inputs(part[None], None), _rows(self.data.targets, part[None])
                gradient = self.gradients(W[k : k + 1], x, y, [len(part)])[0]
                total[k] += gradient * (len(part) / len(index))
        return total

    def inputs(self, index: Tensor, draws: Tensor | None) -> Tensor:
        """The inputs at these indices, through the pipeline if there is one."""
        x = _rows(self.data.inputs, index)
        return x if self.pipeline is None else self.pipeline(x, draws, self.dtype)


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """tensor[index] for an index of any shape; several times faster from a memory-mapped file."""
    return tensor.index_select(0, index.reshape(-1)).unflatten(0, index.shape)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {['N', *tensor.shape[1:]]}".replace("'", "")
