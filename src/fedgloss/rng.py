"""Counter-based randomness: every draw is a pure function of (seed, purpose, round, client).

No generator is carried through a run, so resuming needs no generator state, and neither the order
in which clients are visited, nor batching, nor a crash can change a draw. The bits are those of
NumPy's Philox4x64-10 counter generator, whose raw stream is fixed by its definition; everything
above the raw stream (shuffles, samples) is spelled out here, so that no NumPy release can move it.
"""

import hashlib
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def _key(seed: int, purpose: str) -> np.ndarray:
    """The 128-bit Philox key of one stream of draws."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return np.frombuffer(digest[:16], dtype="<u8")


def bits(seed: int, purpose: str, count: int, round: int = 0, client: int = 0) -> np.ndarray:
    """`count` uniform 64-bit integers, shape [count], dtype uint64.

    The generator increments the lowest counter word as it goes, so round and client sit in the
    upper words and two streams never overlap.
    """
    counter = np.array([0, 0, client, round], dtype=np.uint64)
    return np.random.Philox(key=_key(seed, purpose), counter=counter).random_raw(count)


def uniform(seed: int, purpose: str, count: int, round: int = 0, client: int = 0) -> np.ndarray:
    """`count` draws from [0, 1) with 53 random bits each, shape [count], dtype float64."""
    return (bits(seed, purpose, count, round, client) >> np.uint64(11)) * 2.0**-53


def permutation(seed: int, purpose: str, count: int, round: int = 0, client: int = 0) -> np.ndarray:
    """A uniformly random order of 0 .. count-1, shape [count], dtype int64."""
    return np.argsort(bits(seed, purpose, count, round, client), kind="stable")


def sample(seed: int, purpose: str, count: int, population: int, round: int = 0) -> np.ndarray:
    """`count` of `population` items without replacement, in increasing order, dtype int64."""
    return np.sort(permutation(seed, purpose, population, round)[:count])
