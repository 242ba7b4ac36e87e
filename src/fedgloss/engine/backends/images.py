"""Images that lie in memory as [B, H, W, C], and PyTorch's operations on them."""

import torch
from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    """[B, C, H, W] seen as [B, H, W, C]."""
    return x.permute(0, 2, 3, 1)


def channels_first(x: Tensor) -> Tensor:
    """[B, H, W, C] seen as [B, C, H, W]: the same memory, PyTorch's channels-last format."""
    return x.permute(0, 3, 1, 2)


def convolution_backward(
    d: Tensor, x: Tensor, weight: Tensor, padding: int, groups: int, mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, weight and bias, those that `mask` asks for; all channels first."""
    one, none = [1, 1], [0, 0]
    return torch.ops.aten.convolution_backward(
        d, x, weight, [len(weight)], one, [padding] * 2, one, False, none, groups, mask
    )
