"""Pieces of work for a GPU that may overlap: each in a CUDA stream of its own."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import torch

Made = TypeVar("Made")


def abreast(works: Sequence[Callable[[], Made]], device: torch.device) -> list[Made]:
    """What each of `works` returns; on other devices they are done one after another.

    All begin after what the caller has asked of the GPU so far, and what the caller asks next waits
    for all of them: so memory that is freed in between is used again by nobody too early. That
    holds while a graph is recorded too, where each becomes a branch.
    """
    if device.type != "cuda":
        return [work() for work in works]
    here = torch.cuda.current_stream(device)
    streams = _streams(here.cuda_stream, device, len(works))
    made, begun = [], []
    try:
        for stream, work in zip(streams, works, strict=True):
            stream.wait_stream(here)
            begun.append(stream)
            with torch.cuda.stream(stream):
                made.append(work())
    finally:
        for stream in begun:
            here.wait_stream(stream)
    return made


@lru_cache
def _streams(caller: int, device: torch.device, count: int) -> list[torch.cuda.Stream]:
    """A caller's own: in a graph, a stream that two branches use makes one wait for the other.

    PyTorch has 32 streams of each priority, which it hands out in turn. Callers are in streams of
    the ordinary one; with more than 32 of the other in use, some do wait for others.
    """
    return [torch.cuda.Stream(device, priority=-1) for _ in range(count)]
