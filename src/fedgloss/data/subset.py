"""A smaller set of images that stands for all: drawn from a seed, each class as often as any."""

import numpy as np
import torch
from torch import Tensor

from fedgloss.errors import InputError
from fedgloss.rng import Stream


def balanced_subset(labels: Tensor, count: int, seed: int) -> Tensor:
    """`count` of the labels' indices, sorted, int64 [min(count, N)]; all where count is N or more.

    labels: classes, integers [N], on any device; the indices are on the CPU. Every class is drawn
    equally often, up to one; where one has not so many members, all of them are taken, and the
    others make up for it. A smaller count draws a subset of what a larger one draws.
    Raises InputError for other labels, and for a count below 1.
    """
    if labels.dim() != 1 or labels.is_floating_point():
        raise InputError(
            f"labels: {labels.dtype} {list(labels.shape)} (allowed: one class, an integer, each)"
        )
    if count < 1:
        raise InputError(f"count: {count} (allowed: at least 1)")
    if count >= len(labels):
        return torch.arange(len(labels))
    order = Stream(seed, "balanced subset").permutation(len(labels))
    drawn = labels.cpu().numpy()[order]
    by_class = np.argsort(drawn, kind="stable")
    _, starts, sizes = np.unique(drawn[by_class], return_index=True, return_counts=True)
    turn = np.empty_like(order)  # of each image: how many of its class were drawn before it
    turn[by_class] = np.arange(len(order)) - np.repeat(starts, sizes)
    return torch.from_numpy(np.sort(order[np.argsort(turn, kind="stable")[:count]]))
