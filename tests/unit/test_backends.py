"""The same numbers from every backend: exactly, within rounding, and over a whole training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedgloss
from cells import cell_settings, prepare_inputs, train_cell
from fedgloss.engine.assembly import build_gradients
from fedgloss.engine.backends import stacked
from fedgloss.engine.flat import flatten
from fedgloss.models import build_model

HYPERPARAMETERS = {"fedavg": {}, "fedgloss": {"rho": 0.05, "rho_l": 0.15, "beta": 10.0}}


def network(dtype):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model("cnn", (3, 32, 32), 10).to(dtype)


def images(count, generator):
    """Of CIFAR's shape and exact in float32, and their labels."""
    return (
        torch.randn(count, 3, 32, 32, generator=generator),
        torch.randint(10, (count,), generator=generator),
    )


def after_five_rounds(method, backend, dtype):
    """The paper's CNN after each round."""
    generator = torch.Generator().manual_seed(0)
    clients = [(x.to(dtype), y) for x, y in (images(20, generator) for _ in range(3))]
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
        after_five_rounds(method, backend, torch.float64) for backend in ("autograd", "stacked")
    )
    assert distance(together, one_by_one) < 1e-10


def smoothed(outputs, targets):
    """A loss that no backend knows."""
    return F.cross_entropy(outputs, targets, label_smoothing=0.1)


@pytest.mark.parametrize("loss", [F.cross_entropy, smoothed])
@pytest.mark.parametrize("method", HYPERPARAMETERS)
def test_clients_who_finish_early_may_be_trained_in_groups(method, loss, monkeypatch):
    """A group whose clients take fewer steps than others ends with them."""
    generator = torch.Generator().manual_seed(0)
    clients = [
        (torch.randn(n, 9, generator=generator).double(), torch.arange(n) % 5)
        for n in (13, 2, 7, 4, 5)
    ]
    model = nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 5)).double()

    def run(backend="stacked", cached_bytes=stacked.CACHED_BYTES):
        monkeypatch.setattr(stacked, "CACHED_BYTES", cached_bytes)
        return fedgloss.train(
            model,
            clients,
            method,
            rounds=3,
            clients_per_round=4,
            batch_size=3,
            hyperparameters=HYPERPARAMETERS[method],
            loss=loss,
            backend=backend,
        )

    by_autograd, together = run("autograd"), run()
    of_one = 3 * 20 * 8  # a mini-batch behind the first layer
    for bytes_at_once in (1, 2 * of_one, 3 * of_one):
        apart = run(cached_bytes=bytes_at_once)
        assert distance(apart.history, by_autograd.history) < 1e-12
        assert distance(apart.history, together.history) < 1e-12
        assert apart.gradients_per_step == together.gradients_per_step


def gradients(backend, dtype):
    """Of twelve clients with two images each, [12, P]."""
    x, y = images(24, torch.Generator().manual_seed(1))
    model = network(dtype)
    W = flatten(model).expand(12, -1).clone()
    compute = build_gradients(backend, model, F.cross_entropy)
    return compute(W, x.to(dtype).unflatten(0, (12, 2)), y.view(12, 2), [2] * 12)


@pytest.mark.parametrize("backend", ["autograd", "stacked"])
def test_single_precision_is_within_the_stated_bound(backend):
    """A gradient within 1e-5 of its size, far from what half precision or TF32 could do.

    The median over the clients: where two values that a maximum compares are equal up to rounding,
    a machine may take the other one, and that client's gradient jumps.
    """
    exact = gradients("autograd", torch.float64)
    errors = (gradients(backend, torch.float32) - exact).norm(dim=1) / exact.norm(dim=1)
    assert errors.median() < 1e-5


@pytest.mark.parametrize("backend", ["autograd", "stacked"])
def test_five_rounds_in_single_precision_go_the_same_way(backend):
    """Of FedAvg, within 1e-3 of the way.

    There is no such bound with SAM: its steps have a fixed length in the direction of a gradient,
    and where a maximum or a ReLU flips, that direction jumps.
    """
    exact = after_five_rounds("fedavg", "autograd", torch.float64)
    assert distance(after_five_rounds("fedavg", backend, torch.float32), exact) < 1e-3


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.slow
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

    autograd, stacked = (
        np.array([curve(backend, seed) for seed in range(3)]) for backend in ("autograd", "stacked")
    )
    chance = 10
    assert autograd[:, -1].min() > 5 * chance, "they learn"
    assert (
        root_mean_square(autograd - stacked)
        < root_mean_square(autograd - autograd.mean(axis=0)) / 4
    )


def root_mean_square(x):
    return np.sqrt((x**2).mean())
