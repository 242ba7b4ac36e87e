"""The same numbers from every backend: exactly, within rounding, and over a whole training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fedgloss
from cells import cell_settings, prepare_inputs, train_cell
from fedgloss.models import build_model
from fedgloss.simulation.flat import flatten
from fedgloss.simulation.train import build_gradients

HYPERPARAMETERS = {"fedavg": {}, "fedgloss": {"rho": 0.05, "rho_l": 0.15, "beta": 10.0}}


def network(dtype):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model("cnn", (3, 32, 32), 10).to(dtype)


def after_five_rounds(method, backend, dtype):
    """The paper's CNN after each round, on images of CIFAR's shape that are exact in float32."""
    generator = torch.Generator().manual_seed(0)
    clients = [
        (
            torch.randn(20, 3, 32, 32, generator=generator).to(dtype),
            torch.randint(10, (20,), generator=generator),
        )
        for _ in range(3)
    ]
    return fedgloss.train(
        network(dtype),
        clients,
        method,
        rounds=5,
        clients_per_round=2,
        lr=0.01,
        batch_size=8,
        weight_decay=4e-4,
        hyperparameters=HYPERPARAMETERS[method],
        backend=backend,
    ).history.double()


def distance(a, b):
    """Between two runs' last models, to the way from the first to the last."""
    return float((a[-1] - b[-1]).norm() / (b[-1] - b[0]).norm())


@pytest.mark.parametrize("method", HYPERPARAMETERS)
def test_five_rounds_of_the_papers_cnn_agree_in_double_precision(method):
    one_by_one, together = (
        after_five_rounds(method, backend, torch.float64) for backend in ("loop", "stacked")
    )
    assert distance(together, one_by_one) < 1e-10


@pytest.mark.parametrize("backend", ["loop", "stacked"])
def test_single_precision_is_within_the_stated_bound(backend):
    """A gradient within 1e-5 of its size, five rounds of FedAvg within 1e-3 of their way.

    There is no such bound with SAM: its steps have a fixed length in the direction of a gradient,
    and where a maximum or a ReLU flips, that direction jumps.
    """
    x, y = (
        torch.randn(2, 16, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
        torch.randint(10, (2, 16)),
    )

    def gradient(backend, dtype):
        model = network(dtype)
        W = flatten(model).expand(2, -1).clone()
        return build_gradients(backend, model, F.cross_entropy)(W, x.to(dtype), y, [16, 16])

    exact = gradient("loop", torch.float64)
    assert (gradient(backend, torch.float32) - exact).norm() < 1e-5 * exact.norm()

    exact = after_five_rounds("fedavg", "loop", torch.float64)
    assert distance(after_five_rounds("fedavg", backend, torch.float32), exact) < 1e-3


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("method", HYPERPARAMETERS)
def test_over_200_rounds_backends_differ_less_than_seeds(method, inputs, tmp_path):
    """The digits' accuracy curves: rounding grows, but a backend is never another experiment."""

    def curve(backend, seed):
        settings = cell_settings(method, rounds=200, evaluate_every=5, batch_size=14)
        settings["seed"] = seed
        out = tmp_path / f"{backend}-{seed}"
        options = {"device": "cpu", "backend": backend, "code": "code"}
        result = train_cell(settings, **inputs, out=out, **options)
        return [row["accuracy"] for row in result.metrics]

    loop, stacked = (
        np.array([curve(backend, seed) for seed in range(3)]) for backend in ("loop", "stacked")
    )
    assert loop[:, -1].min() > 80, "they learn"
    assert root_mean_square(loop - stacked) < root_mean_square(loop - loop.mean(axis=0)) / 4
    assert abs(loop.mean() - stacked.mean()) < loop.mean(axis=1).std(ddof=1)


def root_mean_square(x):
    return np.sqrt((x**2).mean())
