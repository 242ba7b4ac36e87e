"""Linear layers, and the loss."""

import triton
import triton.language as tl

from fedgloss.engine.backends.kernels.positions import sums_of_gradients


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
            bias = sums_of_gradients(d, d, o, 0, B, B, O, 1, 1, False, BLOCK_K)
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
