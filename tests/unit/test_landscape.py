"""Loss surfaces: the directions of Li et al. 2018 and the grid."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.nn.utils import vector_to_parameters

from fedgloss.engine.flat import flatten, parameter_shapes, unflatten
from fedgloss.errors import InputError
from fedgloss.models.cnn import smallcnn
from fedgloss.sharpness.landscape import filter_normalized_directions, surface
from fedgloss.sharpness.objective import Objective


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        )


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(50, 1, 6, 6))).float()
    return images, torch.from_numpy(rng.integers(0, 3, 50))


class Quadratic:
    """0.5 sum_i a_i w_i^2 + b.w, and a made-up accuracy w_0."""

    a = torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64)
    b = torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)

    def loss(self, w: torch.Tensor) -> tuple[float, float]:
        return float((0.5 * self.a * w * w + self.b * w).sum()), float(w[0])


def test_every_filter_has_the_norm_of_its_weights(model) -> None:
    w = flatten(model)
    shapes = parameter_shapes(model)
    weights = unflatten(w, shapes)
    for d in filter_normalized_directions(model, w, seed=0):
        parts = unflatten(d, shapes)
        for name in ("0.weight", "4.weight"):  # 4 filters of 3 x 3, 3 rows of 64
            expected = weights[name].flatten(1).norm(dim=1)
            torch.testing.assert_close(parts[name].flatten(1).norm(dim=1), expected)
        for name in ("0.bias", "1.weight", "1.bias", "4.bias"):
            assert not parts[name].any()


def test_a_filter_of_zeros_does_not_move(model) -> None:
    w = flatten(model)
    w[:9] = 0
    directions = filter_normalized_directions(model, w, seed=0)
    assert not directions[:, :9].any()
    assert directions[:, 9:36].all()


def test_directions_are_normal_draws_of_the_seed() -> None:
    layer = nn.Linear(40_000, 1, bias=False)
    w = torch.ones(40_000, dtype=torch.float64)  # norm 200: the draws, up to their own norm
    first, second = filter_normalized_directions(layer, w, seed=0)
    assert kstest(first.numpy(), "norm").pvalue > 1e-3
    assert abs(torch.dot(first, second)) / 40_000 < 5 / 200  # nearly orthogonal, not enforced
    again = filter_normalized_directions(layer, w, seed=0, count=1)
    assert torch.equal(again[0], first)
    other = filter_normalized_directions(layer, w, seed=1, count=1)[0]
    assert abs(torch.dot(first, other)) / 40_000 < 5 / 200


def test_quadratic_surface_is_exact() -> None:
    w = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    directions = torch.tensor([[1.0, 0, 0], [0, 0.5, 2]], dtype=torch.float64)
    grid = surface(Quadratic(), w, directions, extent=2.0, points=9)
    x, y = np.meshgrid(grid["x"], grid["y"], indexing="ij")
    p, q, r = 0.3 + x, -0.2 + 0.5 * y, 0.1 + 2 * y
    expected = 1.5 * p**2 + 0.5 * q**2 - r**2 + 0.5 * p - q
    np.testing.assert_allclose(grid["loss"], expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(grid["accuracy"], p, rtol=1e-13)


@pytest.mark.parametrize("points", [2, 5, 20, 21])
@pytest.mark.parametrize("extent", [1.0, 0.3])
def test_the_grid_is_symmetric(points: int, extent: float) -> None:
    w, directions = torch.zeros(3).double(), torch.eye(3).double()[:2]
    grid = surface(Quadratic(), w, directions, extent, points)
    for axis in (grid["x"], grid["y"]):
        assert len(axis) == points
        assert axis[-1] == extent
        assert (axis == -axis[::-1]).all()
        np.testing.assert_allclose(np.diff(axis), 2 * extent / (points - 1))
    assert grid["loss"].shape == grid["accuracy"].shape == (points, points)


def test_network_surface(model, data) -> None:
    images, labels = data
    objective, w = Objective(model, images, labels, batch_size=20), flatten(model)
    directions = filter_normalized_directions(model, w, seed=0)
    grid = surface(objective, w, directions, extent=0.5, points=3)
    assert (grid["loss"][1, 1], grid["accuracy"][1, 1]) == objective.loss(w)

    vector_to_parameters(w + 0.5 * directions[0] - 0.5 * directions[1], model.parameters())
    with torch.no_grad():
        logits = model(images)
    corner = nn.functional.cross_entropy(logits, labels)
    assert grid["loss"][2, 0] == pytest.approx(corner.item(), rel=1e-5)
    correct = (logits.argmax(1) == labels).float().mean()
    assert grid["accuracy"][2, 0] == pytest.approx(100 * correct.item())


def test_quickstart_network() -> None:
    """Scaling a ReLU network's filters up leaves its surface's shape: the point of the method."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = smallcnn((1, 8, 8), 10)
        images, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 10
    scaled = smallcnn((1, 8, 8), 10)
    scaled.load_state_dict(model.state_dict())
    with torch.no_grad():  # f(2 w1, w2 / 2) = f(w1, w2)
        for layer, factor in ((scaled[0], 2), (scaled[7], 0.5)):
            layer.weight *= factor
        scaled[0].bias *= 2
        scaled[3].bias *= 2
    grids = [
        surface(Objective(m, images, labels), w, filter_normalized_directions(m, w, 0), points=3)
        for m, w in ((m, flatten(m)) for m in (model, scaled))
    ]
    np.testing.assert_allclose(grids[0]["loss"], grids[1]["loss"], rtol=1e-4)


def test_bad_input_is_named_in_one_line(model, data) -> None:
    objective, w = Objective(model, *data), flatten(model)
    directions = filter_normalized_directions(model, w, seed=0)
    diverged = w.clone()
    diverged[0] = float("nan")
    for call, message in (
        (lambda: filter_normalized_directions(model, diverged, 0), "w: has NaN"),
        (lambda: filter_normalized_directions(model, w[1:], 0), "w: has shape"),
        (lambda: surface(objective, diverged, directions), "w: has NaN"),
        (lambda: surface(objective, w, directions[:1]), "directions: shape"),
        (lambda: surface(objective, w, directions, points=1), "points: 1"),
    ):
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
