"""`fedgloss.eigenvalues` and its like: whatever trains can be measured."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fedgloss
from fedgloss.engine.flat import flatten
from refusal import refused
from zoo import ZOO

CLASSES = 4
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")


@pytest.fixture
def model() -> nn.Module:
    """125 parameters in float64, with dropout: on in training, off where sharpness is measured."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, CLASSES)
        return nn.Sequential(*layers).double()


def samples(count: int = 30, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(CLASSES, (count,), generator=generator)


def dense(model: nn.Module, value: Tensor) -> np.ndarray:
    """The eigenvalues of a loss' Hessian, largest first, by dense linear algebra."""
    parameters = list(model.parameters())
    gradient = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
    rows = [
        torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        for entry in torch.cat([part.flatten() for part in gradient])
    ]
    H = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    return np.linalg.eigvalsh(H.numpy())[::-1]


# What is measured


WEIGHT = torch.tensor([0.1, 5.0, 1.0, 2.0], dtype=torch.float64)


class Halved(nn.Module):
    """A loss with dropout of its own, which measuring switches off."""

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(F.dropout(z, 0.5, self.training), y) / 2


LOSSES = {
    "cross-entropy": F.cross_entropy,
    "class weights": nn.CrossEntropyLoss(weight=WEIGHT),
    "class weights, a function": partial(F.cross_entropy, weight=WEIGHT),
    "another label left out": nn.CrossEntropyLoss(ignore_index=2),
    "label smoothing": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    "negative log likelihood": lambda z, y: F.nll_loss(F.log_softmax(z, 1), y),
    "squares": lambda z, y: F.mse_loss(z, F.one_hot(y, CLASSES).to(z.dtype)),
    "changes its outputs": lambda z, y: F.cross_entropy(z.mul_(2), y),
    "a tensor of one entry": lambda z, y: F.cross_entropy(z, y)[None],
}


@pytest.mark.parametrize("batch_size", [7, 2000])
@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_loss_over_all_samples_is_measured(name, batch_size, model) -> None:
    (x, y), loss = samples(), LOSSES[name]
    found = fedgloss.eigenvalues(model, (x, y), count=3, loss=loss, batch_size=batch_size)
    reference = copy.deepcopy(model).eval()
    expected = dense(reference, loss(reference(x), y).sum())
    np.testing.assert_allclose(found.eigenvalues, expected[:3], rtol=1e-5)
    grid = fedgloss.landscape(model, (x, y), points=3, loss=loss, batch_size=batch_size)
    with torch.no_grad():
        assert grid.loss[1, 1] == pytest.approx(float(loss(reference(x), y)), rel=1e-12)


def test_a_loss_in_eval_mode_and_as_it_was_afterwards(model) -> None:
    loss, plain = Halved(), lambda z, y: F.cross_entropy(z, y) / 2
    found = fedgloss.eigenvalues(model, samples(), count=1, loss=loss)
    assert found == fedgloss.eigenvalues(model, samples(), count=1, loss=plain)
    assert loss.training and model.training


def test_class_weights_follow_the_type_that_is_computed_in() -> None:
    """EmbeddingBag has no second derivatives: its Hessian is a quotient of float64 gradients."""
    bag, (tokens, y) = nn.Sequential(nn.EmbeddingBag(9, 3)), ZOO["linear"].data(9)
    tokens = torch.arange(45).reshape(9, 5) % 9
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    assert fedgloss.eigenvalues(bag, (tokens, y), count=1, loss=loss).eigenvalues[0] > 0


def test_accuracy_counts_what_the_loss_counts(model) -> None:
    x, y = samples()
    y[:10] = -100
    some, rest = (
        fedgloss.landscape(model, (x[part:], y[part:]), points=3, batch_size=8).accuracy
        for part in (0, 10)
    )
    np.testing.assert_allclose(some, rest)
    scores = copy.deepcopy(model).eval()(x).argmax(1)
    assert rest[1, 1] == pytest.approx(100 * (scores == y)[10:].double().mean())


def test_a_regression_has_no_accuracy(model) -> None:
    x, _ = samples()
    found = fedgloss.landscape(model, (x, x[:, :CLASSES]), points=3, loss=F.mse_loss)
    assert np.isfinite(found.loss).all() and np.isnan(found.accuracy).all()


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_model(name: str) -> None:
    model, (x, y) = ZOO[name].model(), ZOO[name].data()
    state = copy.deepcopy(model.state_dict())
    spectrum = fedgloss.eigenvalues(model, (x, y), count=1, max_products=4)
    assert np.isfinite(spectrum.eigenvalues[0])
    assert np.isfinite(fedgloss.landscape(model, (x, y), extent=0.1, points=2).loss).all()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


def test_running_statistics_and_frozen_parameters_are_no_obstacle() -> None:
    """Training refuses them; in eval mode such a model is a function like any other."""
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, CLASSES)).double()
    model[0].weight.requires_grad_(False)
    (x, y), reference = samples(), copy.deepcopy(model).eval().requires_grad_()
    found = fedgloss.eigenvalues(model, (x, y), count=1)
    expected = dense(reference, F.cross_entropy(reference(x), y))[0]
    assert found.eigenvalues[0] == pytest.approx(expected, rel=1e-6)


# The data


def test_clients_count_as_their_union(model) -> None:
    x, y = samples()
    expected = fedgloss.eigenvalues(model, (x, y))
    clients = [(x[:4], y[:4]), (x[4:], y[4:])]
    assert fedgloss.eigenvalues(model, clients) == expected
    held = fedgloss.ClientData(x, y, (torch.arange(10), torch.arange(10, 30)))
    assert fedgloss.eigenvalues(model, held) == expected


def test_images_as_they_are_stored() -> None:
    images = torch.randint(256, (20, 1, 4, 4), dtype=torch.uint8)
    model, y = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.arange(20) % 3
    pipeline = fedgloss.Pipeline((0.5,), (0.25,), augmentation="image_aug")
    floats = (images.float() / 255 - 0.5) / 0.25
    found = fedgloss.eigenvalues(model, (images, y), count=1, pipeline=pipeline).eigenvalues
    expected = fedgloss.eigenvalues(model, (floats, y), count=1).eigenvalues
    assert found == pytest.approx(expected, rel=1e-4)


# The point


def test_a_trained_model_its_average_and_its_local_models(model) -> None:
    clients = [samples(8, k) for k in range(3)]
    result = fedgloss.train(model, clients, "fedsam", rounds=3, last=2, lr=0.1, clients_per_round=2,
                            hyperparameters={"rho_l": 0.05})  # fmt: skip
    final = fedgloss.eigenvalues(result.model, clients)
    assert fedgloss.eigenvalues(model, clients, w=result.w) == final
    average = fedgloss.eigenvalues(model, clients, w=result.average)
    local = fedgloss.eigenvalues(model, clients, w=result.locals[0])
    assert len({found.eigenvalues for found in (final, average, local)}) == 3
    assert not torch.equal(result.w, flatten(model))


def test_the_seed_decides(model) -> None:
    first, again, other = (
        fedgloss.landscape(model, samples(), points=2, seed=seed).loss for seed in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).all()
    spectra = [fedgloss.eigenvalues(model, samples(), seed=seed) for seed in (0, 0, 1)]
    assert spectra[0] == spectra[1]
    assert spectra[0].eigenvalues == pytest.approx(spectra[2].eigenvalues, rel=1e-4)


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
@pytest.mark.parametrize("device", [None, "cpu"])
def test_the_mode_around_a_call_makes_no_difference(mode, device, model) -> None:
    expected = fedgloss.eigenvalues(model, samples(), count=1)
    grid = fedgloss.landscape(model, samples(), points=2)
    with mode():
        assert fedgloss.eigenvalues(model, samples(), count=1, device=device) == expected
        inside = fedgloss.landscape(copy.deepcopy(model), samples(), points=2, device=device)
    assert (inside.loss == grid.loss).all()


def test_the_line_between_two_models_ends_at_their_losses(model) -> None:
    other, (x, y) = copy.deepcopy(model), samples()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1
    found = fedgloss.line(model, other, (x, y), points=5)
    for t, end in ((0, model), (1, other)):
        expected = F.cross_entropy(copy.deepcopy(end).eval()(x), y).item()
        assert found.loss[found.t == t] == pytest.approx(expected, rel=1e-12)
    back = fedgloss.line(other, flatten(model), (x, y), points=5)
    np.testing.assert_allclose(back.loss, found.loss[::-1])
    assert repr(found).startswith("Line(loss ") and len(found.t) == 7


# What is shown and what is refused


def test_results_are_frozen_and_shown_in_a_line(model) -> None:
    spectrum = fedgloss.eigenvalues(model, samples(), count=2)
    grid = fedgloss.landscape(model, samples(), points=3)
    first, second = spectrum.eigenvalues
    assert repr(spectrum).startswith(f"Spectrum({first:.4g}, {second:.4g}; converged in ")
    assert repr(grid).startswith("Landscape(3 x 3 points, -1 to 1; loss ")
    short = fedgloss.eigenvalues(model, samples(), count=2, max_products=2)
    assert "not all converged" in repr(short)
    for result in (spectrum, grid):
        assert len(repr(result)) < 100
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.products = 0


X, Y = samples()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": X}, ["data: expected (inputs, targets)"]),
        ({"data": []}, ["data: expected (inputs, targets)"]),
        ({"data": (X, Y[:5])}, ["data: inputs [30, 6] and targets [5]"]),
        ({"data": [(X, Y), (X, Y.double())]}, ["data[1]: targets are float64"]),
        ({"data": [(X, Y), (X[:0], Y[:0])]}, ["data[1]: has no samples"]),
        ({"data": (X / 0, Y)}, ["data: inputs contain NaN"]),
        ({"data": (X, Y + 1)}, ["targets: 4 is not a class", "0 to 3"]),
        ({"data": (X, Y), "loss": nn.CrossEntropyLoss}, ["loss: is a class"]),
        ({"loss": "mse"}, ["loss: expected a function"]),
        ({"loss": F.mse_loss}, ["do not pass through the model and the loss"]),
        ({"loss": partial(F.cross_entropy, reduction="sum")}, ["loss: must return the mean"]),
        ({"loss": partial(F.cross_entropy, reduction="none")}, ["loss: must return the mean"]),
        ({"w": torch.zeros(3)}, ["w: has shape [3]", "the model's size"]),
        ({"w": [0.0]}, ["w: is a list"]),
        ({"seed": -1}, ["seed: -1", "an integer, at least 0"]),
        ({"batch_size": 0}, ["batch_size: 0"]),
        ({"device": "tpu"}, ["device: 'tpu'"]),
    ],
)
def test_what_cannot_work_is_one_line_that_names_it(options, words, model) -> None:
    options = {"data": (X, Y), **options}
    for measure in (fedgloss.eigenvalues, fedgloss.landscape):
        with refused(*words):
            measure(model, **options)


def test_numbers_out_of_range(model) -> None:
    for name, value in (("count", 0), ("max_products", 0), ("tolerance", 0), ("tolerance", "1")):
        with refused(f"{name}: {value!r}", "allowed: "):
            fedgloss.eigenvalues(model, (X, Y), **{name: value})
    with refused("count: 100000", "max_products, which is 150"):
        fedgloss.eigenvalues(model, (X, Y), count=100_000)
    for name, value in (("points", 1), ("points", 3.0), ("extent", 0), ("extent", float("nan"))):
        with refused(f"{name}: {value!r}", "allowed: "):
            fedgloss.landscape(model, (X, Y), **{name: value})
    for other, words in (
        (torch.zeros(3), ["other: has shape [3]"]),
        (None, ["other: is a NoneType"]),
        (nn.Linear(2, 2), ["other: has shape [6]"]),
    ):
        with refused(*words):
            fedgloss.line(model, other, (X, Y))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (F.relu, ["model: expected a torch.nn.Module"]),
        (nn.ReLU(), ["model: has no parameters"]),
        (nn.LazyLinear(3), ["model: 'weight' of a lazy layer"]),
        (nn.Linear(6, 4).bfloat16(), ["model: has parameters of type bfloat16"]),
        (nn.LSTM(6, 4).double(), ["model: returns tuple"]),
    ],
)
def test_models_that_cannot_be_measured(model, words) -> None:
    with refused(*words):
        fedgloss.eigenvalues(model, (X, Y))


def test_trace_and_density_are_of_the_same_hessian(model: nn.Module) -> None:
    x, y = samples()
    values = dense(model, F.cross_entropy(model.eval()(x), y))
    trace = fedgloss.trace(model, (x, y), products=len(values))
    assert trace.trace == pytest.approx(values.sum(), rel=1e-6) and trace.interval == 0
    density = fedgloss.density(model, (x, y), starts=40, steps=40)
    mean, error = density.moment(1)
    assert abs(mean - values.mean()) <= error
    assert repr(trace).startswith("Trace(") and repr(density).startswith("Density(")
    with refused("seed", "-1"):
        fedgloss.trace(model, (x, y), seed=-1)
    with refused("starts: 1", "at least 2"):
        fedgloss.density(model, (x, y), starts=1)
