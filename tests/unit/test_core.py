"""The pieces the methods share, over the whole range of their types."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedgloss.algorithms.core import sam, unit

TYPES = [torch.float32, torch.float64]


def exponents(dtype):
    """Those of two between which the type's positive numbers lie, the subnormal ones too."""
    return (-149, 127) if dtype == torch.float32 else (-1074, 1023)


def vector(dtype, exponent, seed, length):
    """[2, P] with entries between a quarter and one of 2 ** exponent."""
    generator = torch.Generator().manual_seed(seed)
    x = 1 - 0.75 * torch.rand(2, length, generator=generator, dtype=torch.float64)
    sign = 1 - 2.0 * torch.randint(2, x.shape, generator=generator)
    return torch.ldexp((x * sign).to(dtype), torch.tensor(exponent // 2)).mul(
        2.0 ** (exponent - exponent // 2)
    )


@pytest.mark.parametrize("dtype", TYPES)
@given(data=st.data())
def test_a_unit_vector_has_length_one_however_small_or_large_the_vector_is(dtype, data):
    exponent = data.draw(st.integers(*exponents(dtype)))
    x = vector(dtype, exponent, data.draw(st.integers(0, 99)), data.draw(st.sampled_from([1, 50])))
    length = unit(x).double().norm(dim=-1)
    exact = 4 * torch.finfo(dtype).eps
    assert torch.allclose(length, (x != 0).any(-1).double(), rtol=exact, atol=exact)
    assert torch.equal(unit(x).sign(), x.sign())


@pytest.mark.parametrize("dtype", TYPES)
def test_the_zero_vector_stays_zero_beside_others(dtype):
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype)
    assert unit(x).tolist() == [[0.0, 0.0], pytest.approx([0.6, 0.8])]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_no_vector_does_not_become_one(dtype, broken):
    assert not torch.isfinite(unit(torch.tensor([[1.0, broken]], dtype=dtype))).all()


@pytest.mark.parametrize("dtype", TYPES)
@given(data=st.data())
def test_sam_climbs_by_rho_whatever_the_gradients_length(dtype, data):
    exponent = data.draw(st.integers(*exponents(dtype)))
    g, asked = vector(dtype, exponent, 3, 50), []
    sam(lambda W: asked.append(W) or g, torch.zeros_like(g), torch.tensor(0.1, dtype=dtype))
    climbed = (asked[1] - asked[0]).double().norm(dim=-1)
    exact = 4 * torch.finfo(dtype).eps
    assert torch.allclose(climbed, 0.1 * (g != 0).any(-1).double(), rtol=exact, atol=exact)
