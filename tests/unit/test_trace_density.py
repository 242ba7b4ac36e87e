"""Trace and spectral density of a Hessian, against matrices that are known whole."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from fedgloss.engine.flat import flatten, parameter_shapes, unflatten
from fedgloss.sharpness import by_pyhessian
from fedgloss.sharpness.density import spectral_density
from fedgloss.sharpness.objective import Objective
from fedgloss.sharpness.trace import trace
from fedgloss.student import quantile
from refusal import refused
from test_hessian import Quadratic, with_eigenvalues

SEEDS = range(20)


def dense(model, inputs, targets):
    """The whole Hessian in float64, [P, P], differentiated by torch.func."""
    model = model.double()
    shapes = parameter_shapes(model)

    def loss(w):
        outputs = functional_call(model, unflatten(w, shapes), (inputs.double(),))
        return nn.functional.cross_entropy(outputs, targets)

    return hessian(loss)(flatten(model))


@pytest.fixture(scope="module")
def convolutions():
    """A convolutional network of 585 parameters, somewhat trained: objective, w, Hessian [P, P]."""
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 9), nn.Tanh()
    )
    model.append(nn.Linear(9, 3)).double()
    inputs, targets = torch.randn(60, 1, 8, 8, dtype=torch.float64), torch.randint(3, (60,))
    step = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(60):
        step.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        step.step()
    H = dense(model, inputs, targets)
    return Objective(model, inputs, targets, batch_size=25), flatten(model), H


@pytest.fixture(scope="module")
def network(convolutions):
    """The same Hessian as a matrix, whose products are quick: objective, w, eigenvalues.

    So hundreds of estimates can be made of it; one of each is made of the network itself.
    """
    _, w, H = convolutions
    return Quadratic(H), w, torch.linalg.eigvalsh(H).numpy()


def test_of_the_network_itself_the_estimates_are_those_of_its_matrix(convolutions, network):
    objective, w, _ = convolutions
    matrix, _, _ = network
    theirs, ours = (trace(one, w, products=12, seed=2) for one in (objective, matrix))
    assert theirs.trace == pytest.approx(ours.trace, rel=1e-9)
    assert theirs.standard_error == pytest.approx(ours.standard_error, rel=1e-6)
    theirs, ours = (spectral_density(one, w, starts=2, steps=8) for one in (objective, matrix))
    assert np.allclose(theirs.nodes, ours.nodes, rtol=1e-7, atol=1e-9)
    assert np.allclose(theirs.weights, ours.weights, rtol=1e-5, atol=1e-9)


# Trace


def test_few_parameters_are_probed_one_by_one():
    quadratic = with_eigenvalues([5.0, -2.0, 1.0, 0.25])
    found = trace(quadratic, quadratic.w, products=6)
    assert found.trace == pytest.approx(4.25, rel=1e-12)
    assert (found.standard_error, found.interval, found.products) == (0, 0, 4)


def test_a_hessian_of_low_rank_leaves_nothing_to_chance():
    quadratic = with_eigenvalues([9.0, 4.0, 1.0, -3.0] + [0.0] * 300)
    found = trace(quadratic, quadratic.w, products=30)
    assert found.trace == pytest.approx(11, rel=1e-10)
    assert found.interval < 1e-9


def test_the_trace_is_within_its_interval_in_nineteen_of_twenty_seeds(network):
    objective, w, values = network
    found = [trace(objective, w, products=60, seed=seed) for seed in SEEDS]
    errors = np.array([abs(t.trace - values.sum()) for t in found])
    assert (errors <= [t.interval for t in found]).sum() >= 19
    # And the interval is not merely wide: as many plain probes would err by sqrt(2 / 60) |H|.
    plain = np.sqrt(2 / 60) * np.linalg.norm(values)
    assert np.median([t.standard_error for t in found]) < 0.7 * plain
    assert len({t.trace for t in found}) == 20


def test_negative_curvature_and_cancelling_eigenvalues():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    quadratic = with_eigenvalues(values)
    found = [trace(quadratic, quadratic.w, products=90, seed=seed) for seed in SEEDS]
    within = [abs(t.trace - values.sum()) <= t.interval for t in found]
    assert sum(within) >= 19


def test_the_error_shrinks_with_the_products(network):
    objective, w, _ = network
    few, many = (trace(objective, w, products=n, seed=1).standard_error for n in (30, 240))
    assert many < few / 4


def test_a_seed_repeats_the_trace_bit_by_bit(network):
    objective, w, _ = network
    assert trace(objective, w, 30, seed=3) == trace(objective, w, 30, seed=3)


def test_the_trace_refuses_what_leaves_no_error(network):
    objective, w, _ = network
    with refused("products: 5", "at least 6"):
        trace(objective, w, products=5)
    with refused("w", "NaN or infinite"):
        trace(objective, torch.full_like(w, torch.nan))


# Density


def exact_density(values, x, width):
    bells = np.exp(-0.5 * ((x[:, None] - values) / width) ** 2)
    return bells.mean(axis=1) / (width * np.sqrt(2 * np.pi))


def test_the_moments_are_those_of_the_eigenvalues_in_nineteen_of_twenty_seeds(network):
    objective, w, values = network
    found = [spectral_density(objective, w, starts=8, steps=25, seed=seed) for seed in SEEDS]
    for order in (1, 2, 3):
        estimates = [density.moment(order) for density in found]
        truth = (values**order).mean()
        assert sum(abs(mean - truth) <= error for mean, error in estimates) >= 19


def test_the_density_is_within_its_error_in_nineteen_of_twenty_seeds(network):
    """At each point a 95 % interval holds the truth in about 95 of 100 seeds."""
    objective, w, values = network
    x = np.linspace(values.min(), values.max(), 15)
    width = (values.max() - values.min()) / 15
    truth = exact_density(values, x, width)
    inside = []
    for seed in SEEDS:
        found = spectral_density(objective, w, starts=10, steps=40, seed=seed)
        density, error = found.smoothed(x, width)
        inside.append(np.abs(density - truth) <= error + 1e-6 * truth.max())
    assert np.mean(inside) >= 0.95


def test_the_error_of_a_density_is_the_spread_over_many_starts(network):
    """And no wider: at an eigenvalue far from the others, and where most of them are."""
    objective, w, values = network
    x = np.array([values.max(), 0.0])
    found = [spectral_density(objective, w, starts=2, steps=40, seed=seed) for seed in range(60)]
    estimates, errors = zip(*(density.smoothed(x, 0.5) for density in found), strict=True)
    stated = np.mean(errors, axis=0) / quantile(1)
    np.testing.assert_allclose(stated, np.std(estimates, axis=0, ddof=1), rtol=0.3)


def test_a_spectrum_of_few_values_is_found_whole():
    """Three eigenvalues close the Krylov space after three steps; the shares are the counts."""
    quadratic = with_eigenvalues([7.0] * 50 + [1.0] * 100 + [-2.0] * 50)
    found = spectral_density(quadratic, quadratic.w, starts=40, steps=20)
    for nodes in found.nodes:
        assert nodes == pytest.approx([-2, 1, 7], abs=1e-9)
    assert np.mean(found.weights, axis=0) == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert found.products == 40 * 3


def test_a_density_is_one_and_repeats(network):
    objective, w, values = network
    found = spectral_density(objective, w, starts=3, steps=20)
    span = values.max() - values.min()
    x = np.linspace(values.min() - span, values.max() + span, 2000)
    density, _ = found.smoothed(x, span / 20)
    assert np.trapezoid(density, x) == pytest.approx(1, rel=1e-3)
    again = spectral_density(objective, w, starts=3, steps=20)
    assert all((a == b).all() for a, b in zip(found.nodes, again.nodes, strict=True))


def test_the_density_refuses_one_start(network):
    objective, w, _ = network
    with refused("starts: 1", "at least 2"):
        spectral_density(objective, w, starts=1)


# PyHessian's, which are asked for by name


def test_pyhessians_trace_is_within_its_error_and_counts_its_probes(convolutions):
    objective, w, H = convolutions
    seen = []
    traces = [
        by_pyhessian.trace(objective, w, products=20, seed=seed, watch=lambda n, _: seen.append(n))
        for seed in range(3)
    ]
    assert {t.products for t in traces} == {20}, "it stopped where two estimates were alike"
    assert seen == [*range(1, 21)] * 3
    assert all(abs(t.trace - float(H.trace())) <= 1.5 * t.interval for t in traces)


def test_pyhessians_density_has_the_moments_of_the_eigenvalues(convolutions):
    objective, w, H = convolutions
    found = by_pyhessian.density(objective, w, starts=6, steps=8)
    values = torch.linalg.eigvalsh(H).numpy()
    for order in (1, 2):
        mean, error = found.moment(order)
        assert abs(mean - (values**order).mean()) <= 1.5 * error
