"""The three ways to the largest eigenvalues agree with closed forms, dense matrices and each other.

Lanczos is checked further in test_hessian.py; here all three are held to the same.
"""

import builtins
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian

from fedgloss.engine.flat import flatten, parameter_shapes, unflatten
from fedgloss.models import build_model
from fedgloss.sharpness import by_pyhessian
from fedgloss.sharpness.by_eigsh import eigsh
from fedgloss.sharpness.eigenvalues import lanczos
from fedgloss.sharpness.objective import Objective
from refusal import refused
from zoo import ZOO

EXACT = {"lanczos": 1e-6, "eigsh": 1e-6, "pyhessian": 1e-3}
"""Of each method, the relative error that it must keep."""
SOLVE = {"lanczos": lanczos, "eigsh": eigsh, "pyhessian": by_pyhessian.eigenvalues}
every_method = pytest.mark.parametrize("method", SOLVE)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Viewing(nn.Module):
    """A convolutional network that flattens its images with .view: 799 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.out = nn.Conv2d(1, 6, 3), nn.Linear(96, 7), nn.Linear(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.out(torch.tanh(self.hidden(x.view(len(x), -1))))


class Attending(nn.Module):
    """Attention over the rows of an image, 561 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(6, 8), nn.Linear(8, 25)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x.squeeze(1))
        return self.out((x + self.attention(x, x, x)[0]).mean(1))


def problem(model: nn.Module, classes: int, steps: int) -> tuple[Objective, Tensor, np.ndarray]:
    """An objective of 61 images in batches of 25, 25 and 11; w; the dense Hessian's eigenvalues."""
    inputs, targets = torch.randn(61, 1, 6, 6, dtype=torch.float64), torch.randint(classes, (61,))
    optimiser = torch.optim.SGD(model.double().parameters(), lr=0.3)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    shapes = parameter_shapes(model)

    def loss(w: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            functional_call(model.eval(), unflatten(w, shapes), (inputs,)), targets
        )

    w = flatten(model)
    values = torch.linalg.eigvalsh(hessian(loss)(w)).flip(0).numpy()
    return Objective(model, inputs, targets, batch_size=25), w, values


NETWORKS = {"view": (Viewing, 6, 40), "attention": (Attending, 25, 40)}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request) -> tuple[Objective, Tensor, np.ndarray]:
    build, classes, steps = NETWORKS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return problem(build(), classes, steps)


@every_method
def test_the_eigenvalues_are_those_of_the_dense_hessian(network, method: str) -> None:
    objective, w, values = network
    assert 500 <= len(w) <= 1000 and len(objective) == 3 and values[-1] < 0
    options = {"tolerance": 1e-7} if method == "pyhessian" else {}
    found, _ = SOLVE[method](objective, w, count=2, **options)
    assert found.eigenvalues == pytest.approx(values[:2], rel=EXACT[method])
    assert all(found.converged) and found.products > 0
    for value, residual in zip(found.eigenvalues, found.residuals, strict=True):
        assert np.abs(values - value).min() <= residual + 1e-9


@every_method
def test_the_vector_is_a_unit_eigenvector_of_the_largest(network, method: str) -> None:
    objective, w, _ = network
    found, v = SOLVE[method](objective, w, count=1)
    assert float(v.norm()) == pytest.approx(1, abs=1e-9)
    residual = objective.hessian_vector(w, v) - found.eigenvalues[0] * v
    assert float(residual.norm()) <= found.residuals[0] + 1e-9


class Bowl(nn.Module):
    """Parameters whose loss is 0.5 w' diag(values) w, over inputs that only carry weights."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(len(values), dtype=torch.float64))
        self.register_buffer("values", torch.tensor(values, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] * (0.5 * (self.values * self.w * self.w).sum())


def bowl(values: list[float], batch_size: int = 3) -> Objective:
    """Seven samples, whose mean weight is 1: in uneven batches, unless each is weighed rightly."""
    weights = torch.tensor([[0.1], [2.9], [0.0], [1.0], [1.0], [1.5], [0.5]], dtype=torch.float64)
    return Objective(
        Bowl(values), weights, weights, batch_size, criterion=lambda outputs, _: outputs.mean()
    )


SPECTRA = {
    "outliers": [40.0, 12.0, 5.0, *np.linspace(0, 1, 60)],
    "the largest modulus is negative": [-50.0, 30.0, 6.0, *np.linspace(-1, 1, 60)],
    "all negative": [-1.0, -2.0, *np.linspace(-9, -4, 40)],
}


@every_method
@pytest.mark.parametrize("name", SPECTRA)
def test_a_quadratics_spectrum_is_found_by_sign(method: str, name: str) -> None:
    values = np.sort(SPECTRA[name])[::-1]
    objective = bowl([*values])
    options = {"tolerance": 1e-13, "max_steps": 3000} if method == "pyhessian" else {}
    w = torch.zeros(len(values), dtype=torch.float64)
    for count in (1, 2):
        found, _ = SOLVE[method](objective, w, count=count, **options)
        assert found.eigenvalues == pytest.approx(values[:count], rel=1e-6)
        assert all(found.converged)


def test_a_summed_loss_is_refused_for_all_methods_at_once() -> None:
    model = nn.Linear(4, 3)
    loss = nn.CrossEntropyLoss(reduction="sum")
    with refused("loss", "mean over a mini-batch, not the sum"):
        Objective(model, torch.randn(9, 4), torch.arange(9) % 3, criterion=loss)


@every_method
def test_labels_that_do_not_count_are_left_out(method: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        inputs, targets = torch.randn(20, 5, dtype=torch.float64), torch.arange(20) % 3
    targets[:6] = -100
    w = flatten(model)
    expected, _ = lanczos(Objective(model, inputs[6:], targets[6:]), w, count=1)
    found, _ = SOLVE[method](Objective(model, inputs, targets, batch_size=8), w, count=1)
    assert found.eigenvalues == pytest.approx(expected.eigenvalues, rel=1e-3)


@every_method
def test_nothing_is_left_behind_and_a_seed_repeats(network, method: str) -> None:
    """PyHessian adds to gradients it finds, draws from the global generator, leaves eval mode."""
    objective, w, _ = network
    copy, draws, theirs = w.clone(), torch.get_rng_state(), sys.modules.get("pyhessian.hessian")
    one, two = (SOLVE[method](objective, w, count=1, seed=4)[0] for _ in range(2))
    assert one == two
    assert torch.equal(torch.get_rng_state(), draws) and torch.equal(w, copy)
    assert all(p.grad is None for p in objective.model.parameters())
    assert torch.get_default_dtype() == torch.float32
    assert theirs is None or theirs.torch is torch


@every_method
def test_each_product_is_seen(network, method: str) -> None:
    objective, w, _ = network
    seen: list[int] = []
    found, _ = SOLVE[method](objective, w, count=1, watch=lambda n, said: seen.append(n))
    assert seen[:3] == [1, 2, 3] and found.products - 1 <= len(seen) <= found.products


def test_on_the_cifar_cnn_the_three_agree_to_one_percent() -> None:
    """In float32, at random weights, on three random images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("cnn", (3, 32, 32), 10)
        objective = Objective(model, torch.randn(3, 3, 32, 32), torch.arange(3), 2)
    w = 1.5 * flatten(model)
    tolerances = {"lanczos": 0.01, "eigsh": 0.01, "pyhessian": 1e-5}
    found = {
        name: solve(objective, w, count=1, tolerance=tolerances[name])[0]
        for name, solve in SOLVE.items()
    }
    assert all(spectrum.converged == (True,) for spectrum in found.values())
    values = [spectrum.eigenvalues[0] for spectrum in found.values()]
    assert values == pytest.approx([values[0]] * 3, rel=0.01)


def test_a_checkpointed_model_is_recomputed_at_the_point_that_is_measured() -> None:
    """What torch.utils.checkpoint computes again must not be of the model's own parameters."""
    zoo = ZOO["checkpointed"]
    model, (inputs, targets) = zoo.model().double(), zoo.data()
    objective = Objective(model, inputs.double(), targets)
    w = flatten(model) * 1.5
    expected = lanczos(objective, w, count=1)[0].eigenvalues
    found = by_pyhessian.eigenvalues(objective, w, count=1)[0].eigenvalues
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("method", ["eigsh", "pyhessian"])
def test_models_without_second_derivatives_are_for_lanczos(method: str) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Hardsigmoid(), nn.Linear(5, 3)).double()
    objective = Objective(model, torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 3)
    with refused(f"method: {method}", "allowed for it: lanczos"):
        SOLVE[method](objective, flatten(model))


@pytest.mark.parametrize(("method", "package"), [("eigsh", "curvlinops"), ("pyhessian",) * 2])
def test_a_package_that_is_missing_is_named_in_one_line(network, monkeypatch, method, package):
    objective, w, _ = network
    whole = builtins.__import__

    def without(name, *others, **more):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return whole(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with refused(f"method: {method}", "pip install"):
        SOLVE[method](objective, w)


def test_eigsh_says_so_when_it_does_not_converge() -> None:
    objective = bowl([*np.linspace(1, 2, 300)])  # no gaps
    w = torch.zeros(300, dtype=torch.float64)
    with refused("method: eigsh has not converged in", "allowed: lanczos"):
        eigsh(objective, w, count=1, max_products=20)


@pytest.mark.parametrize("method", ["lanczos", "pyhessian"])
def test_the_others_say_how_far_they_got(method: str) -> None:
    objective = bowl([*np.linspace(1, 2, 300)])
    w, few = torch.zeros(300, dtype=torch.float64), {"lanczos": "max_products"}
    found, _ = SOLVE[method](objective, w, count=1, **{few.get(method, "max_steps"): 5})
    assert found.converged == (False,) and found.residuals[0] > 0.01
