"""Samples of the images that a Hessian is of: their error, and their batches."""

import numpy as np
import pytest
import torch
from torch import nn

from fedgloss.data.subset import balanced_subset
from fedgloss.engine.flat import flatten
from fedgloss.models import build_model
from fedgloss.sharpness import sampling
from fedgloss.sharpness.eigenvalues import lanczos, top_eigenvalues
from fedgloss.sharpness.objective import Objective
from fedgloss.sharpness.sampling import fitting, sampling_error


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network fitted to 3,000 noisy points of three classes, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        targets = torch.arange(3000) % 3
        inputs = torch.randn(3, 6, dtype=torch.float64)[targets]
        inputs += torch.randn(3000, 6, dtype=torch.float64)
        model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(80):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    return model, inputs, targets


def test_the_stated_error_is_the_spread_over_many_samples(trained) -> None:
    """Of 20 samples of a fifth of the data: their lambda_1 about that of all, and its error."""
    model, inputs, targets = trained
    w = flatten(model)
    whole = top_eigenvalues(Objective(model, inputs, targets, 3000), w, count=1).eigenvalues[0]
    values, errors = [], []
    for seed in range(20):
        sample = balanced_subset(targets, 600, seed)
        objective = Objective(model, inputs[sample], targets[sample])
        spectrum, v = lanczos(objective, w, count=1)
        values.append(spectrum.eigenvalues[0])
        errors.append(sampling_error(objective, w, v, 3000))
    off = np.array(values) - whole
    assert 0.75 < np.std(values, ddof=1) / np.mean(errors) < 1.3
    assert np.mean(np.abs(off) <= 2 * np.array(errors)) >= 0.85
    # The largest eigenvalue of a sample is a little too large on average: less than its error.
    assert abs(off.mean()) < np.mean(errors)


def test_all_images_leave_no_sampling_error(trained) -> None:
    model, inputs, targets = trained
    w = flatten(model)
    assert sampling_error(Objective(model, inputs, targets), w, w, 3000) == 0


def test_batches_fit_the_memory_and_change_rounding_only(monkeypatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = build_model("smallcnn", (1, 8, 8), 10), torch.randn(400, 1, 8, 8)
    objective, w = Objective(model, images, torch.arange(400) % 10), flatten(model)
    assert fitting(objective, w).batch_size == 2000, "small models are not cut"
    monkeypatch.setitem(sampling.BUDGET, "cpu", 2**21)
    cut = fitting(objective, w)
    assert 20 < cut.batch_size < 200
    found = cut.hessian_vector(w, w)
    torch.testing.assert_close(found, objective.hessian_vector(w, w), rtol=1e-4, atol=1e-6)


def test_the_cifar_cnn_is_cut_to_some_hundred_images() -> None:
    model = build_model("cnn", (3, 32, 32), 10)
    objective = Objective(model, torch.zeros(4, 3, 32, 32), torch.arange(4))
    assert 100 <= fitting(objective, flatten(model)).batch_size <= 800
