"""Convolutions of stacked models against PyTorch's, differentiated by autograd."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fedgloss.engine.backends import convolution
from fedgloss.engine.backends.convolution import Convolution, Filtered, OneByOne, Patches
from fedgloss.engine.backends.cudnn import SideBySide
from fedgloss.engine.backends.stacked import StackedGradients
from fedgloss.models import build_model

WAYS = {  # channels in and out, height, width, kernel, padding
    "patches": (Patches, (3, 5, 8, 9, 3, 1)),
    "patches, five wide": (Patches, (2, 4, 9, 12, 5, 2)),
    "one by one": (OneByOne, (3, 40, 24, 20, 5, 0)),
    "one by one, padded": (OneByOne, (8, 40, 16, 13, 3, 1)),
    "filtered": (Filtered, (32, 32, 14, 14, 5, 0)),
    "filtered, padded": (Filtered, (32, 48, 9, 12, 5, 2)),
    "filtered, kernel 3": (Filtered, (40, 32, 12, 14, 3, 1)),
    "filtered, tiles narrower than their overlap": (Filtered, (32, 32, 7, 10, 5, 1)),
}


def both(way: str, dtype: torch.dtype, need_input: bool = True, bias: bool = True):
    """Outputs and gradients by this package and by autograd, and the way taken."""
    expected, (C, O, H, W, k, p) = WAYS[way]  # noqa: E741
    torch.manual_seed(0)
    layer = nn.Conv2d(C, O, k, padding=p, bias=bias)
    K, B = 2, 3
    x = torch.randn(K, B, H, W, C, dtype=dtype)
    parameters = {"c.weight": torch.randn(K, O, C, k, k, dtype=dtype)}
    if bias:
        parameters["c.bias"] = torch.randn(K, O, dtype=dtype)
    gradients = {name: torch.full_like(value, torch.nan) for name, value in parameters.items()}
    ours = Convolution(layer, "c")
    y, saved = ours.forward(x, parameters)
    d = torch.randn_like(y)
    dx = ours.backward(d, saved, parameters, gradients, need_input)
    assert type(saved[0]) is expected

    leaves = [x, *parameters.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    reference = torch.stack(
        [
            F.conv2d(x[k].permute(0, 3, 1, 2), *(v[k] for v in parameters.values()), padding=p)
            for k in range(K)
        ]
    ).permute(0, 1, 3, 4, 2)
    wanted = torch.autograd.grad(reference, leaves, d)
    return [y, dx, *gradients.values()], [reference.detach(), *wanted]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_equals_autograd(way, bias):
    for ours, wanted in zip(*both(way, torch.float64, bias=bias), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("way", ["patches", "one by one", "filtered, padded"])
def test_the_inputs_gradient_is_made_where_it_is_needed(way):
    (_, none, *gradients), (_, _, *wanted) = both(way, torch.float64, need_input=False)
    assert none is None
    for ours, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith("filtered")])
def test_filtering_costs_little_precision(way):
    """The stated bound: 1e-5 of the size of what is computed, in single precision."""
    for ours, wanted in zip(*both(way, torch.float32), strict=True):
        assert (ours - wanted).norm() <= 1e-5 * wanted.norm()


@given(st.integers(1, 7), st.integers(2, 5), st.data())
def test_filters_are_exact_in_rational_numbers(m, k, data):
    """A [(G g) * (B d)] is g sliding over d."""
    n = m + k - 1
    if n > convolution.LARGEST_TILE:
        return
    numbers = st.fractions(-3, 3, max_denominator=7)
    d = data.draw(st.lists(numbers, min_size=n, max_size=n))
    g = data.draw(st.lists(numbers, min_size=k, max_size=k))
    A, G, B = convolution.filter_matrices(m, k)
    products = [a * b for a, b in zip(times(G, g), times(B, d), strict=True)]
    assert times(A, products) == [sum(g[j] * d[i + j] for j in range(k)) for i in range(m)]


def times(M, v: list[Fraction]) -> list[Fraction]:
    return [sum(a * b for a, b in zip(row, v, strict=True)) for row in M]


@pytest.mark.parametrize("need_input", [True, False])
@pytest.mark.parametrize("C", [3, 4])
def test_side_by_side_it_is_the_same(C, need_input):
    """As on a GPU, where images of 3 channels are filled up to 4."""
    torch.manual_seed(0)
    sizes = ((2, 3, 6, 7, C), (2, 5, C, 3, 3), (2, 5), (2, 3, 6, 7, 5))
    x, weight, bias, d = (torch.randn(size, dtype=torch.float64) for size in sizes)
    found = []
    for way in (OneByOne(1), SideBySide(1)):
        y, saved = way.forward(x, weight, bias)
        gradients = torch.full_like(weight, torch.nan), torch.full_like(bias, torch.nan)
        found.append([y, way.backward(d, saved, weight, *gradients, need_input), *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("by_graph", [True, False])
def test_on_a_gpu_it_depends_on_what_launches_the_kernels(by_graph):
    """Python cannot launch a convolution's kernels for each client fast enough, a graph can."""
    gradients = StackedGradients(
        build_model("cnn", (3, 32, 32), 10), F.cross_entropy, by_graph=by_graph
    )
    convolutions = [layer for layer in gradients.layers if isinstance(layer, Convolution)]
    with FakeTensorMode():
        wide = torch.empty(5, 64, 32, 32, 3, device="cuda")
        small = torch.empty(5, 64, 4, 4, 16, device="cuda")
    assert [type(layer._way(wide)) for layer in convolutions] == [
        SideBySide if by_graph else Patches
    ] * 2
    assert type(convolutions[0]._way(small)) is Patches
