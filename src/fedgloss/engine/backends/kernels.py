"""Triton kernels for the gradients of R models at once, each on its own mini-batch.

A convolution is a matrix product whose left operand, the patches, is never written down: a tile of
it is gathered from the images as it is needed. Images are channels-last, [R, B, H, W, C]; a patch
in the order row, column, channel then consists of KERNEL runs of KERNEL * C neighbouring numbers.

Bias, pooling and ReLU happen on the tile before it is stored. Of a pooled window only its largest
value is kept, and a code: which position it came from, or DEAD where the ReLU cut it off. Sums over
all positions of a mini-batch (the weights' gradients) are split into a fixed number of parts, which
are added in a fixed order: the same bits in every run.

Operands are stored in the type that the images have (float32, float16, bfloat16); sums are float32.
PRECISION says how float32 operands are multiplied: "tf32", "tf32x3" or "ieee".

What a loop loads for a product must have no other reader in that loop: sums of gradients have a
loop of their own. A Hopper GPU computes a product while it loads the tiles of a later one. Where a
tile has a second reader, Triton 3.6 to 3.9 makes room for one tile too few
(https://github.com/triton-lang/triton/issues/6691): a tile can be overwritten while a product reads
it, and then the result depends on timing.
"""

import triton
import triton.language as tl

DEAD = tl.constexpr(255)


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
        place = _place(o, p, O, HP * WP, CHANNELS_FIRST)
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
            bias = _sums_of_gradients(
                d, code, o, split * SHARE, end, SHARE, O, HP * WP, POOL, CHANNELS_FIRST, 128
            )
            tl.store(bias_out + target, bias, mask=o < O)


@triton.jit
def _place(o, p, O: tl.constexpr, AREA: tl.constexpr, CHANNELS_FIRST: tl.constexpr):
    """Where channels o of positions p lie, [o, p], in [B, AREA, O] or [B, O, AREA]."""
    if CHANNELS_FIRST:
        return (p // AREA * (O * AREA) + p % AREA)[None, :] + o[:, None] * AREA
    else:
        return p[None, :] * O + o[:, None]


@triton.jit
def _sums_of_gradients(
    d, code, o, begin, end, MOST: tl.constexpr, O: tl.constexpr, AREA: tl.constexpr,
    POOL: tl.constexpr, CHANNELS_FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum of d over the positions from `begin` to `end`, at most MOST, for each channel o."""
    sums = tl.zeros((o.shape[0],), tl.float32)
    for start in tl.range(0, MOST, BLOCK, num_stages=1):  # short: not worth shared memory
        p = begin + start + tl.arange(0, BLOCK)
        place = _place(o, p, O, AREA, CHANNELS_FIRST)
        known = (p < end)[None, :] & (o < O)[:, None]
        gradients = tl.load(d + place, mask=known, other=0.0).to(tl.float32)
        if POOL > 1:  # each is that of one position, if any
            came_from = tl.load(code + place, mask=known, other=DEAD).to(tl.int32)
            gradients = tl.where(came_from == DEAD, 0.0, gradients)
        sums += tl.sum(gradients, axis=1)
    return sums


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


@triton.jit
def linear_forward(
    x, W, y, offset, bias_offset, row_stride,
    ALIGN: tl.constexpr, B: tl.constexpr, I: tl.constexpr, O: tl.constexpr, RELU: tl.constexpr,
    BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """x [R, B, I], weights [O, I] in W [R, P] -> y [R, B, O]."""
    r = tl.program_id(2).to(tl.int64)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = W + r * row_stride * ALIGN
    x += r * (B * I)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, I, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inputs = tl.load(
            x + m[:, None] * I + k[None, :], mask=(m < B)[:, None] & (k < I)[None, :], other=0.0
        )
        weights = tl.load(
            row + offset + n[None, :] * I + k[:, None],
            mask=(n < O)[None, :] & (k < I)[:, None],
            other=0.0,
        )
        weights = weights.to(x.dtype.element_ty)
        sums = tl.dot(inputs, weights, sums, input_precision=PRECISION)
    if BIAS:
        sums += tl.load(row + bias_offset + n, mask=n < O, other=0.0)[None, :]
    if RELU:
        sums = tl.where(sums <= 0, 0.0, sums)
    place = r * (B * O) + m[:, None] * O + n[None, :]
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=(m < B)[:, None] & (n < O)[None, :])


@triton.jit
def linear_input_gradient(
    d, W, x, dx, offset, row_stride,
    ALIGN: tl.constexpr, B: tl.constexpr, I: tl.constexpr, O: tl.constexpr, MASK: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """d [R, B, O] -> dx [R, B, I]; MASK: only where x, a ReLU's output, is not 0."""
    r = tl.program_id(2).to(tl.int64)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = W + r * row_stride * ALIGN
    d += r * (B * O)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, O, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        gradients = tl.load(
            d + m[:, None] * O + k[None, :], mask=(m < B)[:, None] & (k < O)[None, :], other=0.0
        )
        weights = tl.load(
            row + offset + k[:, None] * I + n[None, :],
            mask=(k < O)[:, None] & (n < I)[None, :],
            other=0.0,
        )
        weights = weights.to(d.dtype.element_ty)
        sums = tl.dot(gradients, weights, sums, input_precision=PRECISION)
    place = r * (B * I) + m[:, None] * I + n[None, :]
    known = (m < B)[:, None] & (n < I)[None, :]
    if MASK:
        sums = tl.where(tl.load(x + place, mask=known, other=0.0) == 0.0, 0.0, sums)
    tl.store(dx + place, sums.to(dx.dtype.element_ty), mask=known)


@triton.jit
def linear_weight_gradient(
    x, d, scale, out, offset, bias_offset, row_stride,
    ALIGN: tl.constexpr, B: tl.constexpr, I: tl.constexpr, O: tl.constexpr, BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """d^T x and the sums of d over the mini-batch, into the flat gradients [R, P]."""
    r = tl.program_id(2).to(tl.int64)
    o = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = out + r * row_stride * ALIGN
    factor = tl.load(scale + r)
    d += r * (B * O)
    x += r * (B * I)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, B, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        gradients = tl.load(
            d + k[None, :] * O + o[:, None], mask=(k < B)[None, :] & (o < O)[:, None], other=0.0
        )
        inputs = tl.load(
            x + k[:, None] * I + n[None, :], mask=(k < B)[:, None] & (n < I)[None, :], other=0.0
        )
        sums = tl.dot(gradients, inputs, sums, input_precision=PRECISION)
    place = row + offset + o[:, None] * I + n[None, :]
    tl.store(place, sums * factor, mask=(o < O)[:, None] & (n < I)[None, :])
    if BIAS:
        if tl.program_id(0) == 0:
            bias = _sums_of_gradients(d, d, o, 0, B, B, O, 1, 1, False, BLOCK_K)
            tl.store(row + bias_offset + o, bias * factor, mask=o < O)


@triton.jit
def cross_entropy_gradient(
    z, labels, counts, d, scale, labels_stride,
    B: tl.constexpr, N: tl.constexpr, SCALED: tl.constexpr, SHIFT: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Outputs z [R, B, N] -> the gradient d of each model's mean loss over its first counts[r].

    SCALED: d is multiplied by the power of two that brings its largest element to 2^SHIFT, so that
    small gradients keep their digits in float16; `scale` [R] undoes it.
    """
    r = tl.program_id(0)
    b, n = tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_N)
    known = (b < B)[:, None] & (n < N)[None, :]
    place = r.to(tl.int64) * (B * N) + b[:, None] * N + n[None, :]
    logits = tl.load(z + place, mask=known, other=float("-inf")).to(tl.float32)
    logits = tl.where((b < B)[:, None], logits, 0.0)
    label = tl.load(labels + r * labels_stride + b, mask=b < B, other=-1).to(tl.int32)
    own = n[None, :] == label[:, None]
    e = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    others = tl.sum(tl.where(own, 0.0, e), axis=1)  # not 1 - p: that would lose digits
    g = tl.where(own, -others[:, None], e) / tl.sum(e, axis=1)[:, None]
    count = tl.load(counts + r).to(tl.int32)
    g = tl.where((b < count)[:, None] & known, g / tl.maximum(count, 1).to(tl.float32), 0.0)
    if SCALED:
        largest = tl.max(tl.max(tl.abs(g), axis=1), axis=0)
        power = (largest.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        power = tl.where((power > 1e-30) & (power < 1e30), power, 1.0)
        g *= tl.exp2(SHIFT * 1.0) / power
        tl.store(scale + r, power * tl.exp2(-SHIFT * 1.0))
    else:
        tl.store(scale + r, 1.0)
    tl.store(d + place, g.to(d.dtype.element_ty), mask=known)
