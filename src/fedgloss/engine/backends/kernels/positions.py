"""Gradients of a convolution's outputs, position by position: where they lie, and their sums."""

import triton
import triton.language as tl

DEAD = tl.constexpr(255)
"""The code of a window whose value the ReLU cut off."""


@triton.jit
def place_of(o, p, O: tl.constexpr, AREA: tl.constexpr, CHANNELS_FIRST: tl.constexpr):
    """Where channels o of positions p lie, [o, p], in [B, AREA, O] or [B, O, AREA]."""
    if CHANNELS_FIRST:
        return (p // AREA * (O * AREA) + p % AREA)[None, :] + o[:, None] * AREA
    else:
        return p[None, :] * O + o[:, None]


@triton.jit
def sums_of_gradients(
    d, code, o, begin, end, MOST: tl.constexpr, O: tl.constexpr, AREA: tl.constexpr,
    POOL: tl.constexpr, CHANNELS_FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum of d over the positions from `begin` to `end`, at most MOST, for each channel o."""
    sums = tl.zeros((o.shape[0],), tl.float32)
    for start in tl.range(0, MOST, BLOCK, num_stages=1):  # short: not worth shared memory
        p = begin + start + tl.arange(0, BLOCK)
        place = place_of(o, p, O, AREA, CHANNELS_FIRST)
        known = (p < end)[None, :] & (o < O)[:, None]
        gradients = tl.load(d + place, mask=known, other=0.0).to(tl.float32)
        if POOL > 1:  # each is that of one position, if any
            came_from = tl.load(code + place, mask=known, other=DEAD).to(tl.int32)
            gradients = tl.where(came_from == DEAD, 0.0, gradients)
        sums += tl.sum(gradients, axis=1)
    return sums
