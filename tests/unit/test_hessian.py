"""The Hessian's eigenvalues: against closed forms, dense linear algebra, SciPy and PyHessian."""

import copy
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from pyhessian import hessian as pyhessian
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.func import functional_call

from fedgloss.engine.flat import flatten, parameter_shapes, unflatten
from fedgloss.errors import InputError
from fedgloss.models.cnn import smallcnn
from fedgloss.rng import Stream
from fedgloss.sharpness.eigenvalues import power_iteration, top_eigenvalues
from fedgloss.sharpness.objective import Objective


class Quadratic:
    """0.5 w^T A w: an objective whose Hessian is the given matrix."""

    def __init__(self, A: torch.Tensor) -> None:
        self.A = A
        self.w = A.new_zeros(len(A))

    def hessian(self, w: torch.Tensor):
        return lambda V: V @ self.A


def with_eigenvalues(values: list[float] | np.ndarray, seed: int = 0) -> Quadratic:
    """A quadratic with this spectrum in random axes, float64."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))
    return Quadratic(torch.from_numpy((Q * np.asarray(values)) @ Q.T))


def tiny() -> nn.Module:
    """Convolution, max-pooling, ReLU, GroupNorm and dropout in 374 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.GroupNorm(2, 6),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(24, 9),
        nn.ReLU(),
        nn.Linear(9, 5),
    )


@pytest.fixture
def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A model, its parameters, and 90 images with labels, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = tiny().double()
        images = torch.randn(90, 1, 6, 6, dtype=torch.float64)
        return model, flatten(model), images, torch.randint(0, 5, (90,))


@pytest.fixture
def dense(problem) -> torch.Tensor:
    """The same problem's Hessian by torch.func, written down entry by entry."""
    model, w, images, labels = problem
    model, shapes = copy.deepcopy(model).eval(), parameter_shapes(model)

    def loss(w: torch.Tensor) -> torch.Tensor:
        logits = functional_call(model, unflatten(w, shapes), (images,))
        return nn.functional.cross_entropy(logits, labels)

    return torch.func.hessian(loss)(w)


def test_known_spectrum() -> None:
    # The largest modulus is negative: lambda_1 is the algebraically largest all the same.
    values = np.concatenate([[-50.0, -3.0], 20 * 0.9 ** np.arange(150)])
    quadratic = with_eigenvalues(values)
    found = top_eigenvalues(quadratic, quadratic.w, tolerance=1e-9)
    assert found.eigenvalues == pytest.approx(np.sort(values)[::-1][:5], rel=1e-8)
    assert all(found.converged)
    assert found.products <= 80


def test_residuals_bound_the_error() -> None:
    values = np.linspace(1, 2, 300)  # no gaps: slow, so that the residuals are still large
    quadratic = with_eigenvalues(values)
    found = top_eigenvalues(quadratic, quadratic.w, max_products=20)
    assert found.products == 20
    assert not any(found.converged)
    for eigenvalue, residual in zip(found.eigenvalues, found.residuals, strict=True):
        assert 1e-4 < residual < 0.1
        assert np.abs(values - eigenvalue).min() <= residual


def test_no_fewer_products_than_eigenvalues_are_asked_for() -> None:
    quadratic = with_eigenvalues(np.linspace(1, 2, 300))
    found = top_eigenvalues(quadratic, quadratic.w, count=3, max_products=3)
    assert len(found.eigenvalues) == found.products == 3


@pytest.mark.parametrize(
    "values",
    [1000 * 0.5 ** np.arange(60), np.r_[1e4, 1e3, 1e2, 10, np.linspace(0, 1, 200)]],
    ids=["geometric", "four outliers"],
)
def test_no_ghosts_in_float32(values: np.ndarray) -> None:
    """Without reorthogonalisation Lanczos finds lambda_1 again and again."""
    quadratic = Quadratic(with_eigenvalues(values).A.float())
    found = top_eigenvalues(quadratic, quadratic.w, tolerance=1e-6)
    assert found.eigenvalues[:4] == pytest.approx(values[:4], rel=1e-5)
    assert all(found.converged)


@pytest.mark.parametrize("solve", [top_eigenvalues, power_iteration])
def test_a_spectrum_is_plain_json(solve) -> None:
    quadratic = with_eigenvalues([3, 2, 1])
    found = solve(quadratic, quadratic.w, count=2)
    record = json.loads(json.dumps(asdict(found)))
    assert record["eigenvalues"] == list(found.eigenvalues)
    assert set(record) == {"eigenvalues", "residuals", "converged", "products"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5, 5, 4, 3, 2, 1], [5, 5, 4, 3, 2]),
        ([2] * 4 + [1] * 9, [2, 2, 2, 2, 1]),
        ([7.0, -1, 0, 0, 0, 0, 0, 0, 0], [7, 0, 0, 0, 0]),
        ([-1, -2, -3], [-1, -2, -3]),
        ([4], [4]),
        ([0] * 40, [0] * 5),
    ],
    ids=["pair", "two values", "rank 2", "fewer than asked", "one parameter", "zero Hessian"],
)
def test_repeated_zero_and_few_eigenvalues(values: list[float], expected: list[float]) -> None:
    quadratic = with_eigenvalues(values)
    found = top_eigenvalues(quadratic, quadratic.w)
    assert found.eigenvalues == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert all(found.converged)


def test_network_of_zeros() -> None:
    """At w = 0 only the last biases matter: H = I/10 - 1/100 there, nine times 0.1 (P = 13,706)."""
    images, labels = torch.ones(20, 1, 8, 8), torch.arange(20) % 10
    model = smallcnn((1, 8, 8), 10)
    found = top_eigenvalues(Objective(model, images, labels), torch.zeros_like(flatten(model)))
    assert found.eigenvalues == pytest.approx([0.1] * 5, rel=1e-5)
    assert found.products < 30


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_dense_hessian(problem, dense, dtype: torch.dtype, rel: float) -> None:
    model, w, images, labels = problem
    expected = torch.linalg.eigvalsh(dense).flip(0)[:5]
    objective = Objective(model, images, labels, batch_size=37)
    found = top_eigenvalues(objective, w.to(dtype))
    assert found.eigenvalues == pytest.approx(expected.tolist(), rel=rel)
    assert all(found.converged)
    assert found.products < len(w) / 4


@pytest.mark.parametrize("batch_size", [90, 40], ids=["one batch", "three batches"])
def test_products_are_exact(problem, dense, batch_size: int) -> None:
    model, w, images, labels = problem
    objective = Objective(model, images, labels, batch_size)
    V = torch.from_numpy(np.random.default_rng(0).normal(size=(3, len(w))))
    torch.testing.assert_close(objective.hessian_vector(w, V), V @ dense, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        objective.hessian_vector(w, V[0]), dense @ V[0], rtol=1e-10, atol=1e-12
    )


def test_gradient_is_the_slope_of_the_loss(problem) -> None:
    model, w, images, labels = problem
    objective = Objective(model, images, labels, batch_size=40)
    step = torch.from_numpy(np.random.default_rng(0).normal(size=len(w))) * 1e-6
    slope = objective.loss(w + step)[0] - objective.loss(w - step)[0]
    assert slope == pytest.approx(2 * torch.dot(objective.gradient(w), step).item(), rel=1e-5)


def test_agrees_with_scipy(problem) -> None:
    model, w, images, labels = problem
    objective = Objective(model, images, labels)
    product = objective.hessian(w)
    H = LinearOperator(
        (len(w), len(w)), lambda v: product(torch.from_numpy(v).flatten()).numpy(), dtype=float
    )
    expected = np.sort(eigsh(H, k=5, which="LA", return_eigenvectors=False))[::-1]
    assert top_eigenvalues(objective, w).eigenvalues == pytest.approx(expected, rel=1e-6)


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The quickstart's network after 60 steps on 200 synthetic images of ten classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        labels = torch.arange(200) % 10
        images = torch.randn(10, 1, 8, 8)[labels] + torch.randn(200, 1, 8, 8)
        model = smallcnn((1, 8, 8), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model, images, labels


def test_agrees_with_pyhessian(digits) -> None:
    model, images, labels = digits
    # A copy: PyHessian adds to whatever gradients its model already has.
    other = copy.deepcopy(model)
    other.zero_grad()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        computer = pyhessian(other, nn.CrossEntropyLoss(), data=(images, labels), cuda=False)
        theirs, _ = computer.eigenvalues(maxIter=300, tol=1e-6)
    ours = top_eigenvalues(Objective(model, images, labels), flatten(model))
    assert ours.eigenvalues[0] == pytest.approx(theirs[0], rel=1e-3)


def test_batches_change_rounding_only(digits) -> None:
    model, images, labels = digits
    w = flatten(model)
    whole, cut = (Objective(model, images, labels, size) for size in (200, 64))
    assert cut.loss(w) == pytest.approx(whole.loss(w), rel=1e-6)
    eigenvalues = [top_eigenvalues(objective, w).eigenvalues for objective in (whole, cut)]
    assert eigenvalues[0] == pytest.approx(eigenvalues[1], rel=1e-4)


def test_seeds_agree_and_one_seed_repeats_bit_by_bit(digits) -> None:
    model, images, labels = digits
    objective, w = Objective(model, images, labels), flatten(model)
    runs = [top_eigenvalues(objective, w, seed=seed) for seed in range(4)]
    eigenvalues = np.array([run.eigenvalues for run in runs])
    assert (eigenvalues.std(axis=0) / eigenvalues.mean(axis=0) < 1e-4).all()
    assert len({run.residuals for run in runs}) == 4  # the starts did differ
    assert top_eigenvalues(objective, w, seed=0) == runs[0]


def test_transform_is_applied_to_each_batch(digits) -> None:
    model, images, labels = digits
    pixels = (images * 20 + 128).clamp(0, 255).to(torch.uint8)
    plain = Objective(model, (pixels.float() - 128) / 20, labels)
    transformed = Objective(model, pixels, labels, 64, transform=lambda x: (x.float() - 128) / 20)
    w = flatten(model)
    assert transformed.loss(w) == pytest.approx(plain.loss(w), rel=1e-6)


def test_equal_batches_average_over_batches(problem) -> None:
    model, w, images, labels = problem
    v = torch.from_numpy(np.random.default_rng(0).normal(size=len(w)))
    parts = [
        Objective(model, images[i : i + 40], labels[i : i + 40])
        for i in (0, 40, 80)  # 40, 40 and 10 images
    ]
    whole = Objective(model, images, labels, 40, equal_batches=True)
    product = sum(part.hessian_vector(w, v) for part in parts) / 3
    torch.testing.assert_close(whole.hessian_vector(w, v), product)
    losses, accuracies = zip(*(part.loss(w) for part in parts), strict=True)
    assert whole.loss(w) == pytest.approx((sum(losses) / 3, sum(accuracies) / 3))


def test_the_callers_model_is_left_alone(problem) -> None:
    model, w, images, labels = problem
    objective = Objective(model, images, labels)
    assert objective.loss(w) == objective.loss(w)  # no dropout
    top_eigenvalues(objective, w, max_products=6)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(flatten(model), w)
    assert not w.requires_grad


def test_power_iteration_where_it_converges() -> None:
    # It seeks the largest modulus, and sorts what it found.
    quadratic = with_eigenvalues([-100.0, 40, 16, 6, 2, *[0.1] * 20])
    found = power_iteration(quadratic, quadratic.w)
    assert found.eigenvalues == pytest.approx([40, 16, 6, 2, -100], rel=1e-3)
    assert all(found.converged)


def test_power_iteration_stops_after_twenty_steps() -> None:
    quadratic = with_eigenvalues(np.linspace(1, 2, 300))
    found = power_iteration(quadratic, quadratic.w, count=2, tolerance=0)
    assert found.products == 2 * 20 + 2
    assert found.converged == (False, False)
    exact = top_eigenvalues(quadratic, quadratic.w, tolerance=1e-6, max_products=300)
    assert found.eigenvalues[0] < exact.eigenvalues[0] - 1e-3
    assert found.residuals[0] > 1e-2


def test_power_iteration_follows_the_released_steps() -> None:
    """By hand: A = diag(2, 1), start u; estimates u.Au, then Rayleigh quotients of A u, A^2 u."""
    A = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    u = Stream(3, "power iteration").uniform(2)
    powers = u * np.array([2.0, 1.0]) ** 2
    found = power_iteration(Quadratic(A), A.new_zeros(2), count=1, max_steps=3, seed=3)
    assert found.eigenvalues[0] == pytest.approx(
        (2 * powers[0] ** 2 + powers[1] ** 2) / (powers**2).sum(), rel=1e-12
    )


def test_power_iteration_of_a_zero_hessian() -> None:
    quadratic = with_eigenvalues([0] * 8)
    assert power_iteration(quadratic, quadratic.w).eigenvalues == (0.0,) * 5


@pytest.mark.parametrize("solve", [top_eigenvalues, power_iteration])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_model_is_refused(digits, solve, value: float) -> None:
    model, images, labels = digits
    w = flatten(model)
    w[7] = value
    with pytest.raises(InputError, match="w: has NaN or infinite entries"):
        solve(Objective(model, images, labels), w)
    with pytest.raises(InputError, match="Hessian overflows"):
        solve(Objective(model, images, labels), torch.full_like(w, 1e30))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m, x, y: Objective(m, x, y[:-1]), "inputs, targets: have 200 and 199"),
        (lambda m, x, y: Objective(m, x[:0], y[:0]), "at least 1"),
        (lambda m, x, y: Objective(m, x, y, batch_size=0), "batch_size: 0"),
        (lambda m, x, y: Objective(m, x.to(torch.uint8), y), "uint8 .* without a transform"),
        (lambda m, x, y: Objective(m, x, y).loss(torch.zeros(3)), r"w: has shape \[3\]"),
        (lambda m, x, y: top_eigenvalues(Objective(m, x, y), flatten(m), count=0), "count: 0"),
        (
            lambda m, x, y: top_eigenvalues(Objective(m, x, y), flatten(m), max_products=4),
            r"count: 5 \(allowed: at most max_products, which is 4",
        ),
    ],
)
def test_bad_input_is_named_in_one_line(digits, build, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        build(*digits)
    assert "\n" not in str(error.value)
