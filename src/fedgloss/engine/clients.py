"""The clients' data, resident on the device, and how a client walks over them.

All samples lie in one pair of tensors; a client is a list of indices into them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedgloss.data import augment
from fedgloss.errors import InputError
from fedgloss.rng import Stream


@dataclass(frozen=True)
class ClientData:
    """The samples of all clients; a client is a list of indices into them."""

    inputs: Tensor
    """[N, ...]."""
    targets: Tensor
    """[N, ...]."""
    indices: tuple[Tensor, ...]
    """Of each client's samples, int64 [N_k]."""

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
            for what, tensor in zip(("inputs", "targets"), pair, strict=True):
                if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
                    raise InputError(f"clients[{k}]: {what} are not dense tensors with values")
                if tensor.device != clients[0][0].device:
                    raise InputError(
                        f"clients[{k}]: {what} are on {tensor.device}, the inputs of clients[0] on"
                        f" {clients[0][0].device}"
                    )
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
                torch.arange(end - len(x), end, device="cpu")
                for (x, _), end in zip(clients, ends, strict=True)
            ),
        )

    def checked(self) -> "ClientData":
        """This data, after refusing empty clients, indices of no sample, and values that are not
        numbers."""
        samples = len(self.inputs)
        if len(self.targets) != samples or not self.indices:
            raise InputError(
                f"clients: {samples} inputs, {len(self.targets)} targets and {len(self.indices)}"
                " clients (allowed: as many inputs as targets, and at least one client)"
            )
        for k, index in enumerate(self.indices):
            kind = getattr(index, "dtype", type(index).__name__)
            if kind != torch.int64 or index.ndim != 1:
                raise InputError(f"clients[{k}]: indices must be int64 [N_k], not {kind}")
            if not len(index):
                raise InputError(f"clients[{k}]: has no samples")
            if not 0 <= index.min() <= index.max() < samples:
                raise InputError(f"clients[{k}]: indices are not all from 0 to {samples - 1}")
        for what, tensor in (("inputs", self.inputs), ("targets", self.targets)):
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                bad = ~torch.isfinite(tensor.flatten(1)).all(dim=1) if tensor.ndim > 1 else None
                bad = ~torch.isfinite(tensor) if bad is None else bad
                k = next(k for k, index in enumerate(self.indices) if bad[index].any())
                raise InputError(
                    f"clients[{k}]: {what} contain NaN or infinity (as {tensor.dtype})"
                )
        return self

    def pooled(self) -> "ClientData":
        """The union of all clients as a single one, for centralized training."""
        return ClientData(self.inputs, self.targets, (torch.cat(self.indices),))


@dataclass(frozen=True)
class Pipeline:
    """How stored images become inputs: uint8 -> (augmented, when training) -> normalised floats."""

    mean: tuple[float, ...]
    """Of each channel, for pixels from 0 to 1."""
    std: tuple[float, ...]
    """Of each channel, for pixels from 0 to 1."""
    augmentation: str = "none"
    """`none`, `batch_aug` (one crop and flip for a mini-batch) or `image_aug` (one an image)."""
    padding: int = 4
    """Pixels of zeros on each side, from which crops are cut."""

    def draw(self, stream: Stream, sizes: list[int]) -> np.ndarray:
        """The augmentation of one client's mini-batches, int64 [samples, 3]."""
        return augment.draw(self.augmentation, stream.of("augment"), sizes, self.padding)

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

    def order(self, stream: Stream, samples: int) -> np.ndarray:
        """The positions of a client's samples in the order of its round."""
        wanted = sum(self.sizes(samples))
        epochs = range(math.ceil(wanted / samples))
        orders = [stream.of(f"epoch-{epoch}").permutation(samples) for epoch in epochs]
        return np.concatenate(orders)[:wanted]


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {['N', *tensor.shape[1:]]}".replace("'", "")
