"""Loss surfaces: the directions of Li et al. 2018 and the grid; and lines between models."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.nn.utils import vector_to_parameters

from fedgloss.engine.flat import flatten, parameter_shapes, unflatten
from fedgloss.errors import InputError
from fedgloss.models.cnn import smallcnn
from fedgloss.sharpness.landscape import along, filter_normalized_directions, line, surface
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


def test_models_that_are_compared_move_along_one_pair_of_directions(model) -> None:
    """Each filter the same way, and as far as its own weights are long."""
    w = flatten(model)
    longer = w * torch.rand(len(w), generator=torch.Generator().manual_seed(0)).add(1)
    shapes = parameter_shapes(model)
    pairs = [filter_normalized_directions(model, at, seed=0) for at in (w, longer)]
    for one, other in zip(*pairs, strict=True):
        for name in ("0.weight", "4.weight"):
            a, b = (unflatten(d, shapes)[name].flatten(1) for d in (one, other))
            torch.testing.assert_close(
                a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
            )
            assert (b.norm(dim=1) > a.norm(dim=1)).all()


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


# Lines


def test_a_line_goes_through_both_models_exactly_and_a_quarter_beyond(model, data) -> None:
    objective, start = Objective(model, *data, batch_size=20), flatten(model)
    end = start + torch.linspace(-0.3, 0.3, len(start))
    found = line(objective, start, end, points=9)
    assert found["t"].tolist() == [i / 8 for i in range(-2, 11)]
    for t, w in ((0, start), (1, end)):
        (at,) = np.flatnonzero(found["t"] == t)
        assert (found["loss"][at], found["accuracy"][at]) == objective.loss(w)


def test_a_line_on_a_quadratic_is_a_parabola() -> None:
    start, end = torch.tensor([[0.3, -0.2, 0.1], [1.0, 2.0, -1.0]], dtype=torch.float64)
    found = line(Quadratic(), start, end, points=11)
    curvature = float((Quadratic.a * (end - start) ** 2).sum())
    np.testing.assert_allclose(np.diff(found["loss"], 2), curvature / 100, rtol=1e-9)


@pytest.mark.parametrize("points", [2, 4, 5, 31])
def test_a_line_has_its_points_between_the_models(points: int) -> None:
    t = along(points)
    assert ((t >= 0) & (t <= 1)).sum() == points
    assert -0.25 <= t[0] <= 0 and t[0] == pytest.approx(1 - t[-1])


def test_a_line_between_models_of_two_shapes_is_refused() -> None:
    with pytest.raises(InputError, match=r"^end: has shape \[4\] \(allowed: \[3\]\)$"):
        line(Quadratic(), torch.zeros(3), torch.zeros(4))
    with pytest.raises(InputError, match=r"^points: 1 \(allowed: at least 2\)$"):
        line(Quadratic(), torch.zeros(3), torch.ones(3), points=1)
