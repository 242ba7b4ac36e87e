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


def test_the_error_is_that_of_a_mean_over_at_most_fifty_parts(trained) -> None:
    model, inputs, targets = (x[:130] if isinstance(x, torch.Tensor) else x for x in trained)
    targets = torch.zeros_like(targets)  # one class: its parts follow the order of the images
    w = flatten(model)
    v = torch.ones_like(w) / len(w) ** 0.5
    parts = [slice(start, start + 3) for start in range(0, 129, 3)]
    curvatures = [
        v @ Objective(model, inputs[part], targets[part]).hessian_vector(w, v) for part in parts
    ]
    expected = np.std(curvatures, ddof=1) / 43**0.5 * (1 - 130 / 1000) ** 0.5
    found = sampling_error(Objective(model, inputs, targets), w, v, 1000)
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_small_class_is_spread_over_the_parts_like_a_large_one(trained) -> None:
    """Parts that hold the same images of the same classes leave no error."""
    model, inputs, _ = trained
    targets = (torch.arange(600) % 12 == 0).long()  # 50 of one, one for each part
    w = flatten(model)
    v = torch.ones_like(w) / len(w) ** 0.5
    objective = Objective(model, inputs[:2][targets], targets)
    assert sampling_error(objective, w, v, 3000) < 1e-12


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
