"""The weights' gradients of convolutions on operands of four bytes.

A weight's gradient is a sum over all positions of a mini-batch. A Hopper GPU multiplies operands of
four bytes only if what is summed over lies together in memory, and copies best what is aligned too:
neither holds for channels-last images, which a filter reads from any column on. With the images of
a mini-batch beside one another, [H, W, C, B], both hold wherever the filter is. Operands of two
bytes are taken as they are (convolution.py).
"""

import triton
import triton.language as tl

from fedgloss.engine.backends.kernels.positions import DEAD, sums_of_gradients


@triton.jit
def turn_batches(
    x, x_out, d, code, dense, d_out, code_out,
    B: tl.constexpr, SIZE: tl.constexpr, HO: tl.constexpr, WO: tl.constexpr, O: tl.constexpr,
    POOL: tl.constexpr, UNPOOL: tl.constexpr, CHANNELS_FIRST: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """x [R, B, SIZE] -> [R, SIZE, B]; d and, where there is pooling, code [R, B, ...] likewise.

    UNPOOL: d is first made that of the windows; `dense` [R, B, HO, WO, O] is that before its turn.
    """
    HP: tl.constexpr = HO // POOL
    WP: tl.constexpr = WO // POOL
    POOLED: tl.constexpr = HP * WP * O
    OUTPUTS: tl.constexpr = HO * WO * O if UNPOOL else POOLED
    TILES: tl.constexpr = (SIZE + BLOCK_S - 1) // BLOCK_S
    tile, r = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    if tile < TILES:
        e = tile * BLOCK_S + tl.arange(0, BLOCK_S)
        _turn(x, x_out, r, b, e, B, SIZE)
    else:
        e = (tile - TILES) * BLOCK_S + tl.arange(0, BLOCK_S)
        if UNPOOL:
            o, v, u = e % O, e // O % WO, e // (O * WO)
            q = u % POOL * POOL + v % POOL
            place = u // POOL * WP + v // POOL
            place = o * (HP * WP) + place if CHANNELS_FIRST else place * O + o
            place = place[None, :] + b[:, None] * POOLED + r * (B * POOLED)
            known = (b < B)[:, None] & (e < OUTPUTS)[None, :]
            pooled = known & ((u // POOL < HP) & (v // POOL < WP))[None, :]
            value = tl.load(d + place, mask=pooled, other=0.0)
            came_from = tl.load(code + place, mask=pooled, other=DEAD).to(tl.int32)
            value = tl.where(came_from == q[None, :], value, 0.0)
            whole = r * (B * OUTPUTS)
            tl.store(dense + whole + b[:, None] * OUTPUTS + e[None, :], value, mask=known)
            tl.store(d_out + whole + e[None, :] * B + b[:, None], value, mask=known)
        else:
            _turn(d, d_out, r, b, e, B, OUTPUTS)
            if POOL > 1:
                _turn(code, code_out, r, b, e, B, OUTPUTS)


@triton.jit
def _turn(source, target, r, b, e, B: tl.constexpr, SIZE: tl.constexpr):
    known = (b < B)[:, None] & (e < SIZE)[None, :]
    whole = r * (B * SIZE)
    value = tl.load(source + whole + b[:, None] * SIZE + e[None, :], mask=known)
    tl.store(target + whole + e[None, :] * B + b[:, None], value, mask=known)


@triton.jit
def weight_gradient_batch_last(
    x, d, code, d_first, code_first, sums_out, bias_out,
    B: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    KERNEL: tl.constexpr, PAD: tl.constexpr, POOL: tl.constexpr, CHANNELS_FIRST: tl.constexpr,
    SPLITS: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """As `convolution_weight_gradient`, of what `turn_batches` made; d_first and code_first are as
    they were before.

    A product's operand is computed in registers where POOL > 1: then nothing may be loaded ahead.
    """
    HP: tl.constexpr = (H + 2 * PAD - KERNEL + 1) // POOL
    WP: tl.constexpr = (W + 2 * PAD - KERNEL + 1) // POOL
    AREA: tl.constexpr = HP * WP
    STEPS: tl.constexpr = (AREA * B + SPLITS * BLOCK_K - 1) // (SPLITS * BLOCK_K)
    ROW: tl.constexpr = KERNEL * C
    LENGTH: tl.constexpr = KERNEL * ROW
    OTILES: tl.constexpr = (O + BLOCK_M - 1) // BLOCK_M
    split = tl.program_id(1)
    r = (tl.program_id(2) // OTILES).to(tl.int64)
    o = tl.program_id(2) % OTILES * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    i, rest = n // ROW, n % ROW
    x += r * (B * H * W * C)
    d += r * (B * AREA * O)
    code += r * (B * AREA * O)
    patch = x + ((i * (W * C) + rest) * B)[None, :]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        m = (split * STEPS + step) * BLOCK_K + tl.arange(0, BLOCK_K)
        p, b = m // B, m % B
        inside = m < AREA * B
        if CHANNELS_FIRST:
            place = m[None, :] + o[:, None] * (AREA * B)
        else:
            place = (p * (O * B) + b)[None, :] + o[:, None] * B
        known = inside[None, :] & (o < O)[:, None]
        gradients = tl.load(d + place, mask=known, other=0.0)
        if POOL > 1:
            came_from = tl.load(code + place, mask=known, other=DEAD).to(tl.int32)
        for q in tl.static_range(POOL * POOL):
            u, v = p // WP * POOL + q // POOL - PAD, p % WP * POOL + q % POOL - PAD
            seen = inside[:, None] & (n < LENGTH)[None, :]
            if PAD > 0:
                uu, vv = u[:, None] + i[None, :], v[:, None] + (rest // C)[None, :]
                seen = seen & (uu >= 0) & (uu < H) & (vv >= 0) & (vv < W)
            first = (u * W + v) * (C * B) + b
            patches = tl.load(patch + first[:, None], mask=seen, other=0.0)
            part = tl.where(came_from == q, gradients, 0.0) if POOL > 1 else gradients
            sums = tl.dot(part, patches, sums, input_precision=PRECISION)
    target = (r * SPLITS + split) * O + o
    known = (o < O)[:, None] & (n < LENGTH)[None, :]
    tl.store(sums_out + target[:, None] * LENGTH + n[None, :], sums, mask=known)
    if BIAS:
        if tl.program_id(0) == 0:
            SHARE: tl.constexpr = (AREA * B + SPLITS - 1) // SPLITS
            end = tl.minimum((split + 1) * SHARE, AREA * B)
            bias = sums_of_gradients(
                d_first + r * (B * AREA * O), code_first + r * (B * AREA * O), o, split * SHARE,
                end, SHARE, O, AREA, POOL, CHANNELS_FIRST, 128,
            )  # fmt: skip
            tl.store(bias_out + target, bias, mask=o < O)
