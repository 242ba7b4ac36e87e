"""What the sources share: file names as a tensor, and what is measured on images."""

import hashlib
from collections.abc import Iterator

import torch

from fedgloss.errors import InputError


def encode_names(names: list[str]) -> torch.Tensor:
    """Names as one uint8 tensor, newline-separated UTF-8; InputError for one that cannot be."""
    for name in names:
        if "\n" in name or any("\ud800" <= c <= "\udfff" for c in name):
            raise InputError(f"{name}: a name with a line break, or not in UTF-8")
    return torch.frombuffer(bytearray("\n".join(names).encode()), dtype=torch.uint8)


def names(encoded: torch.Tensor | None) -> list[str]:
    """The inverse of `encode_names`; no names for None. ValueError for bytes that are no text."""
    return [] if encoded is None else bytes(encoded.numpy()).decode().split("\n")


def _blocks(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Views of 16 MiB, so that work on a memory-mapped tensor holds little of it."""
    return iter(images.split(max(1, 2**24 // max(1, images[0].numel()))))


def shared_images(train: torch.Tensor, test: torch.Tensor) -> int:
    """How many training images are, pixel for pixel, also test images."""
    if train.shape[1:] != test.shape[1:]:
        return 0

    def digests(images: torch.Tensor) -> Iterator[bytes]:
        for block in _blocks(images):
            for image in block.contiguous().numpy():
                yield hashlib.blake2b(image, digest_size=16).digest()

    known = set(digests(test))
    return sum(digest in known for digest in digests(train))


def measure(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images [N, C, H, W], scaled to [0, 1].

    Counted from the 256 possible values, so exact for any number of images.
    """
    channels = images.shape[1]
    histogram = torch.zeros(channels, 256, dtype=torch.float64)
    for block in _blocks(images):
        for channel in range(channels):
            values = block[:, channel].reshape(-1).int()
            histogram[channel] += torch.bincount(values, minlength=256)
    value = torch.arange(256, dtype=torch.float64) / 255
    weight = histogram / histogram.sum(dim=1, keepdim=True)
    mean = weight @ value
    std = (weight @ value**2 - mean**2).clamp(min=0).sqrt()
    if not bool((std > 0).all()):
        raise InputError("training images: a channel is constant and cannot be normalised")
    return tuple(mean.tolist()), tuple(std.tolist())
