"""Counter-based randomness: every draw is a pure function of (seed, purpose, round, client, step).

No generator is carried through a run, so resuming needs no generator state, and neither the order
in which clients are visited, nor batching, nor a crash can change a draw. The bits are those of
NumPy's Philox4x64-10 counter generator, whose raw stream is fixed by its definition; everything
above the raw stream (shuffles, samples) is spelled out here, so that no NumPy release can move it.
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Stream(NamedTuple):
    """What draws follow from; two streams that differ in any part share no number."""

    seed: int
    purpose: str
    round: int = 0
    client: int = 0

    def of(self, part: str) -> "Stream":
        """The stream for a part of this purpose."""
        return self._replace(purpose=f"{self.purpose}/{part}")

    def bits(self, count: int) -> np.ndarray:
        """`count` uniform 64-bit integers, shape [count], dtype uint64.

        The generator increments the lowest counter word as it goes, so round and client sit in the
        upper words and two streams never overlap.
        """
        counter = np.array([0, 0, self.client, self.round], dtype=np.uint64)
        key = _key(self.seed, self.purpose)
        return np.random.Philox(key=key, counter=counter).random_raw(count)

    def uniform(self, count: int) -> np.ndarray:
        """`count` draws from [0, 1) with 53 random bits each, shape [count], dtype float64."""
        return (self.bits(count) >> np.uint64(11)) * 2.0**-53

    def permutation(self, count: int) -> np.ndarray:
        """A uniformly random order of 0 .. count-1, shape [count], dtype int64."""
        return np.argsort(self.bits(count), kind="stable")

    def sample(self, count: int, population: int) -> np.ndarray:
        """`count` of `population` items without replacement, in increasing order, dtype int64."""
        return np.sort(self.permutation(population)[:count])

    def seed_of(self, step: int) -> int:
        """A seed of 63 bits for another generator: the stream's number at this place (0 first)."""
        return int(self.bits(step + 1)[step] >> 1)


@lru_cache(maxsize=256)
def _key(seed: int, purpose: str) -> np.ndarray:
    """The 128-bit Philox key of all streams with this seed and purpose."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return np.frombuffer(digest[:16], dtype="<u8")
