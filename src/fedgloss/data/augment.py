"""Crops, flips and normalisation as device operations inside the training step.

The draws are made on the host, as a pure function of (seed, purpose, round, client), before the
round begins; the device only applies them, so a whole round can be captured in a CUDA graph.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import pad

from fedgloss.errors import InputError
from fedgloss.rng import Stream

KINDS = ("batch_aug", "image_aug")


def draw(kind: str, stream: Stream, batch_sizes: Sequence[int], padding: int = 4) -> np.ndarray:
    """Crop offsets and flips of one client's round: (dy, dx, flip), int64 [sum(batch_sizes), 3].

    dy and dx are uniform on 0 .. 2 * padding (81 positions for CIFAR's padding of 4), flip on
    {0, 1}. "image_aug" draws for each image. "batch_aug" draws once for each mini-batch, since
    the released code hands torchvision's transforms a whole batch (clients/client.py:14-24,86).
    """
    if kind not in KINDS:
        raise InputError(f"augmentation: {kind!r} is unknown (allowed: none, {', '.join(KINDS)})")
    count = len(batch_sizes) if kind == "batch_aug" else sum(batch_sizes)
    bounds = np.array([2 * padding + 1, 2 * padding + 1, 2])
    uniform = stream.of(kind).uniform(3 * count)
    draws = (uniform.reshape(count, 3) * bounds).astype(np.int64)
    return np.repeat(draws, batch_sizes, axis=0) if kind == "batch_aug" else draws


def crop_flip(images: torch.Tensor, draws: torch.Tensor, padding: int) -> torch.Tensor:
    """Pad with zeros, cut out H x W at offset (dy, dx), mirror left-right where flip is 1.

    images uint8 [..., C, H, W], draws int64 [..., 3] -> uint8 [..., C, H, W], the dimensions
    before C being any batch dimensions. Zeros are black: padding comes before normalisation, as
    in the released code. Neither shapes nor control flow depend on the draws.
    """
    height, width = images.shape[-2:]
    dy, dx, flip = (draws[..., None, i] for i in range(3))
    row = torch.arange(height, device=images.device) + dy
    column = torch.arange(width, device=images.device)
    column = torch.where(flip == 1, width - 1 - column, column) + dx
    source = row[..., :, None] * (width + 2 * padding) + column[..., None, :]
    padded = pad(images, (padding,) * 4).flatten(-2)
    index = source.flatten(-2)[..., None, :].expand(*images.shape[:-2], -1)
    return padded.gather(-1, index).unflatten(-1, (height, width))


def normalize(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype
) -> torch.Tensor:
    """(images / 255 - mean) / std per channel: uint8 [..., C, H, W] -> `dtype` of that shape.

    The order of operations is that of torchvision's ToTensor and Normalize, bit for bit.
    """
    shift, scale = _constants(tuple(mean), tuple(std), images.device, dtype)
    return (images.to(dtype) / 255).sub_(shift).div_(scale)


@lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    # Kept, because a copy from the host is not allowed while a CUDA graph is captured.
    def column(values: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]

    return column(mean), column(std)
