"""Convolutions of K models at once, without autograd, by the fastest of several ways.

Images are channels-last, [K, B, H, W, C]. Small ones become patches and one batched matrix product.
On a CPU a wide layer on larger images is filtered along its width with fewer products than the
definition asks for (`Filtered`); what is left goes to PyTorch's convolution, client after client.
On a GPU all others do so side by side where a graph launches their many kernels, and become patches
where Python has to. The choice is made per layer and input.
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedgloss.engine.backends.cudnn import SideBySide
from fedgloss.engine.backends.images import channels_first, channels_last, convolution_backward

POINTS = tuple(map(Fraction, ("0", "-1", "1", "1/2", "-2", "-1/2", "2", "-1/4")))
"""Where polynomials are evaluated, besides infinity. The first n of these powers of two keep
rounding errors small for every n (after Barabasz et al., arXiv 1803.10986)."""
LARGEST_TILE = len(POINTS) + 1
WORTHWHILE = 0.6
"""A filter must not need more than this share of the definition's products: the rest pays for the
transforms (benchmarks/engine.py)."""


class Convolution:
    """A stride-1 convolution with zero padding."""

    launched_by_graph = False

    def __init__(self, layer: nn.Conv2d, prefix: str) -> None:
        self.weight, self.bias = f"{prefix}.weight", layer.bias is not None and f"{prefix}.bias"
        self.kernel, self.padding = layer.kernel_size[0], int(layer.padding[0])
        self.channels = layer.in_channels, layer.out_channels

    def forward(self, x: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """[K, B, H, W, C] -> [K, B, H', W', O]."""
        weight = parameters[self.weight]
        bias = parameters[self.bias] if self.bias else weight.new_zeros(weight.shape[:2])
        way = self._way(x)
        y, saved = way.forward(x, weight, bias)
        return y, (way, saved)

    def backward(
        self,
        d: Tensor,
        saved: Any,
        parameters: dict[str, Tensor],
        gradients: dict[str, Tensor],
        need_input: bool,
    ) -> Tensor | None:
        way, saved = saved
        bias = gradients[self.bias] if self.bias else None
        weight, gradient = parameters[self.weight], gradients[self.weight]
        return way.backward(d, saved, weight, gradient, bias, need_input)

    def _way(self, x: Tensor) -> "Patches | Filtered | OneByOne | SideBySide":
        C, O = self.channels  # noqa: E741
        small = x.shape[2] * x.shape[3] * C <= 1024
        launched_by_python = x.is_cuda and not self.launched_by_graph
        if (small or launched_by_python) and self.padding < self.kernel:
            return Patches(self.kernel, self.padding)
        wide = min(C, O) >= 32 and x.dtype in (torch.float32, torch.float64)
        outputs = _filter_outputs(x.shape[3] + 2 * self.padding - self.kernel + 1, self.kernel)
        if wide and outputs and not x.is_cuda:
            return Filtered(self.kernel, self.padding, outputs)
        return (SideBySide if x.is_cuda else OneByOne)(self.padding)


class Patches:
    """Every window as a row of a matrix: one copy, one product for all clients."""

    def __init__(self, kernel: int, padding: int) -> None:
        self.kernel, self.padding = kernel, padding

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        patches, (B, H, W) = _patches(x, self.kernel, self.padding)
        kernel = weight.permute(0, 3, 4, 2, 1).flatten(1, 3)  # [K, k*k*C, O]
        return torch.baddbmm(bias[:, None], patches, kernel).unflatten(1, (B, H, W)), patches

    def backward(self, d, patches, weight, weight_gradient, bias_gradient, need_input):
        if bias_gradient is not None:
            torch.sum(d, (1, 2, 3), out=bias_gradient)
        K, O, C, k, _ = weight.shape  # noqa: E741
        kernel_gradient = torch.bmm(d.reshape(K, -1, O).transpose(1, 2), patches)
        weight_gradient.copy_(kernel_gradient.view(K, O, k, k, C).permute(0, 1, 4, 2, 3))
        if not need_input:
            return None
        # The input's gradient is the full convolution of d with the kernel turned by 180 degrees.
        patches, (B, H, W) = _patches(d, k, k - 1 - self.padding)
        turned = weight.flip(-1, -2).permute(0, 3, 4, 1, 2).reshape(K, k * k * O, C)
        return torch.bmm(patches, turned).unflatten(1, (B, H, W))


class OneByOne:
    """PyTorch's convolution, client after client."""

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        outputs = [
            F.conv2d(channels_first(x[k]), weight[k], bias[k], padding=self.padding)
            for k in range(len(x))
        ]
        return _stack([channels_last(output) for output in outputs]), x

    def backward(self, d, x, weight, weight_gradient, bias_gradient, need_input):
        inputs = []
        mask = [need_input, True, bias_gradient is not None]
        for k in range(len(x)):
            images = channels_first(d[k]), channels_first(x[k])
            input_gradient, weight_gradient[k], of_bias = convolution_backward(
                *images, weight[k], self.padding, 1, mask
            )
            if bias_gradient is not None:
                bias_gradient[k] = of_bias
            inputs.append(input_gradient)
        return _stack([channels_last(x) for x in inputs]) if need_input else None


class Filtered:
    """Minimal filtering along the width (Winograd 1980), the definition along the height.

    A row of W' outputs is T tiles of m; a tile needs n = m + k - 1 inputs. By `filter_matrices`,
    A [(G g) * (B d)] are the m outputs: n products where the definition takes m k. Over channels
    and rows of the kernel the products in the middle are n ordinary convolutions, one per element
    of a transformed tile, which a single grouped convolution computes. With k = 5 and m = 5 (the
    CNN's second convolution) it takes 9 products instead of 25; in single precision its rounding
    error is some 15 times that of the definition, 3e-6 of the outputs' size.
    """

    def __init__(self, kernel: int, padding: int, outputs: int) -> None:
        self.kernel, self.padding, self.outputs = kernel, padding, outputs
        self.tile = outputs + kernel - 1

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, list[Any]]:
        if self.padding:
            x = F.pad(x, (0, 0, *[self.padding] * 4))
        done = [self._forward(x[k], weight[k], bias[k]) for k in range(len(x))]
        return _stack([y for y, _ in done]), [saved for _, saved in done]

    def backward(self, d, saved, weight, weight_gradient, bias_gradient, need_input):
        if bias_gradient is not None:
            torch.sum(d, (1, 2, 3), out=bias_gradient)
        inputs = []
        for k in range(len(d)):
            x_gradient, weight_gradient[k] = self._backward(d[k], *saved[k], need_input)
            inputs.append(x_gradient)
        if not need_input:
            return None
        x, p = _stack(inputs), self.padding
        return x[:, :, p:-p, p:-p] if p else x

    def _forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Any]:
        A, G, B = self._matrices(x.dtype)
        N, H, W, C = x.shape
        O, m, n = len(weight), self.outputs, self.tile  # noqa: E741
        T, R = (W - n) // m + 1, H - self.kernel + 1
        rows = x.reshape(N * H, W, C)
        # V, U, M: the transformed inputs [T, N, H, n, C], kernels [n, O, C, k] and their products.
        V = x.new_empty(T, N * H, n, C)
        for t in range(T):
            torch.bmm(B.expand(N * H, n, n), rows[:, t * m : t * m + n], out=V[t])
        V = V.view(T * N, 1, H, n * C)
        U = torch.einsum("jw,ochw->joch", G, weight).reshape(n * O, C, 1, self.kernel)
        M = channels_last(F.conv2d(channels_first(V), U, groups=n)).reshape(T, N * R, n, O)
        y = x.new_empty(N * R, T, m, O)
        for t in range(T):
            torch.add(torch.bmm(A.expand(N * R, m, n), M[t]), bias, out=y[:, t])
        return y.view(N, R, T * m, O), (V, U)

    def _backward(
        self, d: Tensor, V: Tensor, U: Tensor, need_input: bool
    ) -> tuple[Tensor | None, Tensor]:
        """The transposes of the three transforms, in the opposite order."""
        A, G, B = self._matrices(d.dtype)
        N, R, W, O = d.shape  # noqa: E741
        m, n, k, H = self.outputs, self.tile, self.kernel, V.shape[2]
        T, C = W // m, V.shape[3] // n
        tiles = d.reshape(N * R, T, m, O)
        M = d.new_empty(T, N * R, n, O)
        for t in range(T):
            torch.bmm(A.T.expand(N * R, n, m), tiles[:, t], out=M[t])
        M = M.view(T * N, 1, R, n * O)
        V_gradient, U_gradient, _ = convolution_backward(
            channels_first(M), channels_first(V), U, 0, n, [need_input, True, False]
        )
        weight = torch.einsum("jw,joch->ochw", G, U_gradient.reshape(n, O, C, k))
        if not need_input:
            return None, weight
        V = channels_last(V_gradient).reshape(T, N * H, n, C)
        x = d.new_empty(N * H, W + k - 1, C)
        for t in range(T):
            tile, overlap = torch.bmm(B.T.expand(N * H, n, n), V[t]), (k - 1 if t else 0)
            x[:, t * m + overlap : t * m + n] = tile[:, overlap:]
            x[:, t * m : t * m + overlap] += tile[:, :overlap]
        return x.view(N, H, W + k - 1, C), weight

    def _matrices(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple(_as_tensor(M, dtype) for M in filter_matrices(self.outputs, self.kernel))


Matrix = tuple[tuple[Fraction, ...], ...]


@lru_cache
def filter_matrices(m: int, k: int) -> tuple[Matrix, Matrix, Matrix]:
    """A [m, n], G [n, k] and B [n, n] with A [(G g) * (B d)] = the m values of g sliding over d.

    n = m + k - 1. Toom and Cook's algorithm multiplies polynomials of m and k coefficients by
    evaluating both at n points and interpolating; a filter is its transpose. Rows are scaled by
    powers of two so that none of the three matrices is much larger than the others.
    """
    n = m + k - 1
    evaluate = _evaluation(n, n)
    B = tuple(zip(*_inverse(evaluate), strict=True))
    A, G = tuple(zip(*_evaluation(n, m), strict=True)), _evaluation(n, k)
    sizes = [
        (sum(abs(row[j]) for row in A), sum(map(abs, G[j])), sum(map(abs, B[j]))) for j in range(n)
    ]
    even = [float(a * g * b) ** (1 / 3) for a, g, b in sizes]
    of_A = [_power_of_two(even[j] / sizes[j][0]) for j in range(n)]
    of_G = [_power_of_two(even[j] / sizes[j][1]) for j in range(n)]
    return (
        tuple(tuple(v * s for v, s in zip(row, of_A, strict=True)) for row in A),
        tuple(tuple(v * s for v in row) for row, s in zip(G, of_G, strict=True)),
        tuple(tuple(v / a / g for v in row) for row, a, g in zip(B, of_A, of_G, strict=True)),
    )


def _evaluation(n: int, coefficients: int) -> Matrix:
    """Polynomials of so many coefficients at n - 1 points and at infinity."""
    finite = tuple(tuple(p**e for e in range(coefficients)) for p in POINTS[: n - 1])
    return (*finite, (*[Fraction(0)] * (coefficients - 1), Fraction(1)))


def _inverse(M: Matrix) -> Matrix:
    n = len(M)
    rows = [[*row, *(Fraction(i == j) for j in range(n))] for i, row in enumerate(M)]
    for i in range(n):
        pivot = next(r for r in range(i, n) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for r in range(n):
            if r != i:
                rows[r] = [v - rows[r][i] * u for v, u in zip(rows[r], rows[i], strict=True)]
    return tuple(tuple(row[n:]) for row in rows)


def _power_of_two(value: Any) -> Fraction:
    return Fraction(2) ** round(math.log2(value))


@lru_cache
def _as_tensor(M: Matrix, dtype: torch.dtype) -> Tensor:
    return torch.tensor([[float(v) for v in row] for row in M], dtype=dtype, device="cpu")


def _filter_outputs(width: int, k: int) -> int | None:
    """The widest tiles that make up a row of `width` outputs, None where filtering saves little."""
    m = max(m for m in range(1, max(2, LARGEST_TILE - k + 2)) if width % m == 0)
    return m if m + k - 1 <= WORTHWHILE * m * k else None


def _patches(x: Tensor, k: int, padding: int) -> tuple[Tensor, tuple[int, int, int]]:
    """Every k x k window of [K, B, H, W, C] as a row: [K, B*H'*W', k*k*C], and (B, H', W')."""
    x = F.pad(x, (0, 0, padding, padding, padding, padding)) if padding else x.contiguous()
    K, B, H, W, C = x.shape
    shape = (B, H - k + 1, W - k + 1)
    strides = (B * H * W * C, H * W * C, W * C, C, W * C, 1)
    windows = x.as_strided((K, *shape, k, k * C), strides)
    return windows.reshape(K, -1, k * k * C), shape


def _stack(tensors: list[Tensor]) -> Tensor:
    """torch.stack, without the copy where there is one tensor."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)
