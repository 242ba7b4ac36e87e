"""Which networks the Triton kernels know, and how they see them: as blocks."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from fedgloss.engine.backends.stacked import can_stack, plain_layers
from fedgloss.engine.losses import is_cross_entropy

MOST_OUTPUTS = 2**15
"""Numbers that one program can hold for the loss of a mini-batch."""


@dataclass
class Block:
    """A convolution or a linear layer with what follows it."""

    prefix: str
    layer: nn.Conv2d | nn.Linear
    pool: int = 1
    relu: bool = False

    @property
    def is_convolution(self) -> bool:
        return isinstance(self.layer, nn.Conv2d)

    @property
    def convolution(self) -> nn.Conv2d:
        """The layer of a block that is one."""
        return cast(nn.Conv2d, self.layer)

    @property
    def linear(self) -> nn.Linear:
        """The layer of any other."""
        return cast(nn.Linear, self.layer)


def blocks_of(model: nn.Module) -> list[Block] | None:
    """The network as blocks, None where it is of another kind.

    It is blocks of a convolution, non-overlapping pooling and a ReLU (in either order), then a
    Flatten, then Linear layers with ReLUs.
    """
    if not plain_layers(model):
        return None
    blocks: list[Block] = []
    flat = False
    for prefix, child in model.named_children():
        layer: Any = child  # of the one type that `kind` says
        kind = type(layer)
        if kind is nn.Conv2d and not flat:
            k, p, one = layer.kernel_size, layer.padding, (1, 1)
            square = isinstance(p, tuple) and k[0] == k[1] and p[0] == p[1] < k[0]
            plain = layer.stride == layer.dilation == one and layer.groups == 1
            if not (square and plain and layer.padding_mode == "zeros"):
                return None
            blocks.append(Block(prefix, layer))
        elif kind is nn.Linear and (flat or not blocks):
            blocks.append(Block(prefix, layer))
            flat = True
        elif kind is nn.MaxPool2d and blocks and blocks[-1].is_convolution and not flat:
            size = layer.kernel_size
            size = size if isinstance(size, int) else size[0] if size[0] == size[1] else 0
            same = layer.stride in (size, (size, size)) and layer.padding in (0, (0, 0))
            plain = layer.dilation in (1, (1, 1)) and not layer.ceil_mode
            if size not in (2, 4) or blocks[-1].pool > 1 or not (same and plain):
                return None
            blocks[-1].pool = size
        elif kind is nn.ReLU and blocks and not (flat and blocks[-1].is_convolution):
            blocks[-1].relu = True
        elif kind is nn.Flatten and not flat and (layer.start_dim, layer.end_dim) == (1, -1):
            flat = True
        else:
            return None
    ends_plainly = bool(blocks) and not blocks[-1].is_convolution and not blocks[-1].relu
    return blocks if ends_plainly else None


def can_fuse(model: nn.Module, loss: Callable, sample: Sequence[int]) -> bool:
    """Whether `fused` can differentiate the model under the loss, and Triton is there.

    sample: the shape of one.
    """
    if not is_cross_entropy(loss) or next(model.parameters()).dtype != torch.float32:
        return False
    if importlib.util.find_spec("triton") is None:
        return False
    return can_stack(model, sample) and blocks_of(model) is not None


def most_samples(classes: int) -> int:
    """Of a mini-batch, for a network with so many outputs; a power of two."""
    return MOST_OUTPUTS // power_of_two(classes)


def outputs_fit(model: nn.Module, largest: int) -> bool:
    """Whether the loss of mini-batches of so many samples does, of a model that `can_fuse`."""
    blocks = blocks_of(model)
    return blocks is not None and largest <= most_samples(blocks[-1].linear.out_features)


def power_of_two(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()
