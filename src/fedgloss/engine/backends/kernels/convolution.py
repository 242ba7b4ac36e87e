"""Images from uint8 on, and convolutions with what follows them; see the package for the layout."""

import triton
import triton.language as tl

from fedgloss.engine.backends.kernels.positions import DEAD, place_of, sums_of_gradients


@triton.jit
def gather_images(
    images, index, draws, constants, out, index_stride, draws_stride,
    B: tl.constexpr, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, CHANNELS: tl.constexpr,
    PADDING: tl.constexpr, AUGMENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """uint8 images [N, C, H, W] -> cropped, flipped, normalised [R, B, H, W, CHANNELS].

    constants: the channels' means, then their standard deviations. Channels beyond C are zero.
    """
    r, b = tl.program_id(0), tl.program_id(1)
    e = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = e < H * W * CHANNELS
    c, row, column = e % CHANNELS, e // (W * CHANNELS), e // CHANNELS % W
    if AUGMENT:
        draw = draws + r * draws_stride + b * 3
        flip = tl.load(draw + 2)
        column = tl.where(flip == 1, W - 1 - column, column) + tl.load(draw + 1).to(tl.int32)
        column -= PADDING
        row += tl.load(draw).to(tl.int32) - PADDING
    real = inside & (c < C)
    seen = real & (row >= 0) & (row < H) & (column >= 0) & (column < W)
    image = tl.load(index + r * index_stride + b)
    source = images + image * (C * H * W) + c * (H * W) + row * W + column
    value = tl.load(source, mask=seen, other=0).to(tl.float32)
    mean = tl.load(constants + c, mask=real, other=0.0)
    std = tl.load(constants + C + c, mask=real, other=1.0)
    value = tl.div_rn(tl.div_rn(value, 255.0) - mean, std)
    place = out + (r.to(tl.int64) * B + b) * (H * W * CHANNELS) + e
    tl.store(place, tl.where(real, value, 0.0).to(out.dtype.element_ty), mask=inside)


@triton.jit
def pack_weights(
    W, out, turned, offset, row_stride,
    ALIGN: tl.constexpr, C: tl.constexpr, CHANNELS: tl.constexpr, O: tl.constexpr,
    TAPS: tl.constexpr, TURNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """[R, P] flat parameters -> one layer's kernels [R, O, TAPS, CHANNELS].

    TURNED: [R, CHANNELS, TAPS, O] too. What a product sums over should lie together in memory (for
    operands of four bytes a Hopper GPU demands it), and the inputs' gradient sums over O.
    """
    r = tl.program_id(1).to(tl.int64)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = e < O * TAPS * CHANNELS
    c, tap, o = e % CHANNELS, e // CHANNELS % TAPS, e // (CHANNELS * TAPS)
    source = W + r * row_stride * ALIGN + offset + (o * C + c) * TAPS + tap
    value = tl.load(source, mask=inside & (c < C), other=0.0)
    value = value.to(out.dtype.element_ty)
    tl.store(out + r * (O * TAPS * CHANNELS) + e, value, mask=inside)
    if TURNED:
        place = (c * TAPS + tap) * O + o
        tl.store(turned + r * (O * TAPS * CHANNELS) + place, value, mask=inside)


@triton.jit
def convolution_forward(
    x, weight, W_flat, y, code, bias_offset, row_stride,
    ALIGN: tl.constexpr, B: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    O: tl.constexpr, KERNEL: tl.constexpr, PAD: tl.constexpr, POOL: tl.constexpr,
    RELU: tl.constexpr, BIAS: tl.constexpr, CHANNELS_FIRST: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """x [R, B, H, W, C], weight [R, O, KERNEL, KERNEL, C] -> y [R, B, H', W', O], code likewise.

    CHANNELS_FIRST: y and code are [R, B, O, H', W']. A tile's rows are first the windows' first
    positions, then their second ones: with 64 windows to four warps a thread has all of a window.
    """
    HP: tl.constexpr = (H + 2 * PAD - KERNEL + 1) // POOL
    WP: tl.constexpr = (W + 2 * PAD - KERNEL + 1) // POOL
    Q: tl.constexpr = POOL * POOL
    BLOCK_P: tl.constexpr = BLOCK_M // Q
    ROW: tl.constexpr = KERNEL * C
    LENGTH: tl.constexpr = KERNEL * ROW
    r = tl.program_id(1).to(tl.int64)
    m = tl.arange(0, BLOCK_M)
    n = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    p, q = tl.program_id(0) * BLOCK_P + m % BLOCK_P, m // BLOCK_P
    b = p // (HP * WP)
    u = p // WP % HP * POOL + q // POOL - PAD
    v = p % WP * POOL + q % POOL - PAD
    inside = p < B * HP * WP
    first = x + r * (B * H * W * C) + (b * H * W + u * W + v) * C
    weight += r * (O * LENGTH)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, LENGTH, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        i, rest = k // ROW, k % ROW
        known = inside[:, None]
        if LENGTH % BLOCK_K != 0:
            known = known & (k < LENGTH)[None, :]
        if PAD > 0:
            uu, vv = u[:, None] + i[None, :], v[:, None] + (rest // C)[None, :]
            known = known & (uu >= 0) & (uu < H) & (vv >= 0) & (vv < W)
        patches = tl.load(first[:, None] + (i * (W * C) + rest)[None, :], mask=known, other=0.0)
        kernels = tl.load(
            weight + n[None, :] * LENGTH + k[:, None],
            mask=(n < O)[None, :] & (k < LENGTH)[:, None],
            other=0.0,
        )
        sums = tl.dot(patches, kernels, sums, input_precision=PRECISION)
    if POOL > 1:
        value, where = tl.max(
            tl.reshape(sums, (Q, BLOCK_P, BLOCK_N)),
            axis=0,
            return_indices=True,
            return_indices_tie_break_left=True,
        )
    else:
        value, where = sums, tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    if BIAS:
        bias = W_flat + r * row_stride * ALIGN + bias_offset + n
        value += tl.load(bias, mask=n < O, other=0.0)[None, :]
    if RELU:  # written so that what is not a number stays so
        where = tl.where(value <= 0, DEAD, where)
        value = tl.where(value <= 0, 0.0, value)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    if CHANNELS_FIRST:
        b, place = p // (HP * WP), p % (HP * WP)
        place = (b * O * HP * WP + place)[:, None] + n[None, :] * (HP * WP)
    else:
        place = p[:, None] * O + n[None, :]
    place += r * (B * HP * WP * O)
    inside = (p < B * HP * WP)[:, None] & (n < O)[None, :]
    tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)
    if POOL > 1:
        tl.store(code + place, where.to(tl.uint8), mask=inside)


@triton.jit
def unpool(
    d, code, out,
    B: tl.constexpr, HO: tl.constexpr, WO: tl.constexpr, O: tl.constexpr, POOL: tl.constexpr,
    CHANNELS_FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of a pooled layer's outputs -> that of the windows, [R, B, HO, WO, O]."""
    HP: tl.constexpr = HO // POOL
    WP: tl.constexpr = WO // POOL
    r, b = tl.program_id(1).to(tl.int64), tl.program_id(2)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = e < HO * WO * O
    o, v, u = e % O, e // O % WO, e // (O * WO)
    q = u % POOL * POOL + v % POOL
    pooled = inside & (u // POOL < HP) & (v // POOL < WP)
    place = u // POOL * WP + v // POOL
    place = o * (HP * WP) + place if CHANNELS_FIRST else place * O + o
    place += (r * B + b) * (HP * WP * O)
    value = tl.load(d + place, mask=pooled, other=0.0)
    came_from = tl.load(code + place, mask=pooled, other=DEAD).to(tl.int32)
    value = tl.where(came_from == q, value, 0.0)
    tl.store(out + (r * B + b) * (HO * WO * O) + e, value, mask=inside)


@triton.jit
def convolution_input_gradient(
    d, weight, x, dx,
    B: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    KERNEL: tl.constexpr, PAD: tl.constexpr, MASK: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """d [R, B, HO, WO, O], weight [R, C, KERNEL, KERNEL, O] -> dx [R, B, H, W, C].

    MASK: only where x, a ReLU's output, is not 0.
    """
    HO: tl.constexpr = H + 2 * PAD - KERNEL + 1
    WO: tl.constexpr = W + 2 * PAD - KERNEL + 1
    PARTS: tl.constexpr = (O + BLOCK_K - 1) // BLOCK_K
    r = tl.program_id(1).to(tl.int64)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    b, u, v = m // (H * W), m // W % H + PAD, m % W + PAD
    inside = m < B * H * W
    first = d + r * (B * HO * WO * O) + (b * HO * WO + u * WO + v) * O
    weight += r * (O * KERNEL * KERNEL * C)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(KERNEL * KERNEL * PARTS):
        tap, o = step // PARTS, step % PARTS * BLOCK_K + tl.arange(0, BLOCK_K)
        i, j = tap // KERNEL, tap % KERNEL
        known = inside & (u >= i) & (u - i < HO) & (v >= j) & (v - j < WO)
        known = known[:, None]
        if O % BLOCK_K != 0:
            known = known & (o < O)[None, :]
        gradients = tl.load(first[:, None] + (o - (i * WO + j) * O)[None, :], mask=known, other=0.0)
        kernels = tl.load(
            weight + n[None, :] * (KERNEL * KERNEL * O) + tap * O + o[:, None],
            mask=(o < O)[:, None] & (n < C)[None, :],
            other=0.0,
        )
        sums = tl.dot(gradients, kernels, sums, input_precision=PRECISION)
    place = r * (B * H * W * C) + m[:, None] * C + n[None, :]
    known = inside[:, None] & (n < C)[None, :]
    if MASK:
        sums = tl.where(tl.load(x + place, mask=known, other=0.0) == 0.0, 0.0, sums)
    tl.store(dx + place, sums.to(dx.dtype.element_ty), mask=known)


@triton.jit
def convolution_weight_gradient(
    x, d, code, sums_out, bias_out,
    B: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, O: tl.constexpr,
    KERNEL: tl.constexpr, PAD: tl.constexpr, POOL: tl.constexpr, CHANNELS_FIRST: tl.constexpr,
    SPLITS: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Partial sums over positions of d x^T, [R, SPLITS, O, KERNEL * KERNEL * C], and of d, where
    there is a BIAS, [R, SPLITS, O].

    POOL > 1: d is that of the pooled outputs (CHANNELS_FIRST: [R, B, O, H', W']), and `code` tells
    where in its window each belongs; otherwise d is [R, B, HO, WO, O].
    """
    HP: tl.constexpr = (H + 2 * PAD - KERNEL + 1) // POOL
    WP: tl.constexpr = (W + 2 * PAD - KERNEL + 1) // POOL
    Q: tl.constexpr = POOL * POOL
    POSITIONS: tl.constexpr = B * HP * WP * Q
    STEPS: tl.constexpr = (POSITIONS + SPLITS * BLOCK_K - 1) // (SPLITS * BLOCK_K)
    ROW: tl.constexpr = KERNEL * C
    LENGTH: tl.constexpr = KERNEL * ROW
    OTILES: tl.constexpr = (O + BLOCK_M - 1) // BLOCK_M
    split = tl.program_id(1)
    r = (tl.program_id(2) // OTILES).to(tl.int64)
    o = tl.program_id(2) % OTILES * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    i, rest = n // ROW, n % ROW
    offset = i * (W * C) + rest
    x += r * (B * H * W * C)
    d += r * (B * HP * WP * O)
    code += r * (B * HP * WP * O)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(STEPS):
        m = (split * STEPS + step) * BLOCK_K + tl.arange(0, BLOCK_K)
        p, q = m // Q, m % Q
        b = p // (HP * WP)
        u = p // WP % HP * POOL + q // POOL - PAD
        v = p % WP * POOL + q % POOL - PAD
        inside = m < POSITIONS
        place = place_of(o, p, O, HP * WP, CHANNELS_FIRST)
        known = inside[None, :] & (o < O)[:, None]
        gradients = tl.load(d + place, mask=known, other=0.0)
        if POOL > 1:
            came_from = tl.load(code + place, mask=known, other=DEAD).to(tl.int32)
            gradients = tl.where(came_from == q[None, :], gradients, 0.0)
        seen = inside[:, None] & (n < LENGTH)[None, :]
        if PAD > 0:
            uu, vv = u[:, None] + i[None, :], v[:, None] + (rest // C)[None, :]
            seen = seen & (uu >= 0) & (uu < H) & (vv >= 0) & (vv < W)
        first = (b * H * W + u * W + v) * C
        patches = tl.load(x + first[:, None] + offset[None, :], mask=seen, other=0.0)
        sums = tl.dot(gradients.to(x.dtype.element_ty), patches, sums, input_precision=PRECISION)
    target = (r * SPLITS + split) * O + o
    known = (o < O)[:, None] & (n < LENGTH)[None, :]
    tl.store(sums_out + target[:, None] * LENGTH + n[None, :], sums, mask=known)
    if BIAS:
        if tl.program_id(0) == 0:
            SHARE: tl.constexpr = (B * HP * WP + SPLITS - 1) // SPLITS
            end = tl.minimum((split + 1) * SHARE, B * HP * WP)
            bias = sums_of_gradients(
                d, code, o, split * SHARE, end, SHARE, O, HP * WP, POOL, CHANNELS_FIRST, 128
            )
            tl.store(bias_out + target, bias, mask=o < O)


@triton.jit
def add_weight_gradients(
    sums, bias_sums, scale, out, offset, bias_offset, row_stride,
    ALIGN: tl.constexpr, C: tl.constexpr, CHANNELS: tl.constexpr, O: tl.constexpr,
    TAPS: tl.constexpr, SPLITS: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The partial sums added up, into the flat gradients [R, P]; the last program adds the bias."""
    LENGTH: tl.constexpr = O * TAPS * CHANNELS
    r = tl.program_id(1).to(tl.int64)
    row = out + r * row_stride * ALIGN
    factor = tl.load(scale + r)
    e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(0) * BLOCK < LENGTH:
        inside = e < LENGTH
        c, tap, o = e % CHANNELS, e // CHANNELS % TAPS, e // (CHANNELS * TAPS)
        total = tl.zeros((BLOCK,), tl.float32)
        for split in range(SPLITS):
            total += tl.load(sums + (r * SPLITS + split) * LENGTH + e, mask=inside, other=0.0)
        place = row + offset + (o * C + c) * TAPS + tap
        tl.store(place, total * factor, mask=inside & (c < C))
    elif BIAS:
        o = tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        for split in range(SPLITS):
            total += tl.load(bias_sums + (r * SPLITS + split) * O + o, mask=o < O, other=0.0)
        tl.store(row + bias_offset + o, total * factor, mask=o < O)
