"""What training accepts, the analysis accepts too: gradients, Hessians and surfaces of the zoo."""

import copy
import json
import threading
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

import switches
from cells import cell_settings, prepare_inputs, train_cell
from fedgloss.engine.flat import flatten, parameter_shapes, unflatten
from fedgloss.jobs.landscape import landscape
from fedgloss.jobs.spectrum import hessian
from fedgloss.models.cnn import smallcnn
from fedgloss.sharpness.eigenvalues import power_iteration, top_eigenvalues
from fedgloss.sharpness.landscape import filter_normalized_directions, surface
from fedgloss.sharpness.objective import Objective
from fedgloss.study.jobfile import HessianJob, LandscapeJob
from refusal import refused
from zoo import ZOO

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
every_model = pytest.mark.parametrize("name", ZOO)


@cache
def problem(name: str) -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """A float64 model, its parameters [P], a direction [P] of length 1, inputs and targets."""
    model = ZOO[name].model().double()
    inputs, targets = ZOO[name].data()
    w = flatten(model)
    v = torch.from_numpy(np.random.default_rng(0).normal(size=len(w)))
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    return model, w, v / v.norm(), inputs, targets


def objective_of(name: str, **options: object) -> Objective:
    model, _, _, inputs, targets = problem(name)
    return Objective(model, inputs, targets, **options)


# The references: autograd on the module itself


def plain(name: str, w: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The module's loss and outputs at w, and its parameters."""
    model, _, _, inputs, targets = problem(name)
    model = copy.deepcopy(model).eval()
    model.load_state_dict(unflatten(w, parameter_shapes(model)), strict=False)
    outputs = model(inputs.clone())
    return cross_entropy(outputs, targets), outputs.detach(), list(model.parameters())


def derivative(value: Tensor, parameters: list[Tensor], **options: bool) -> Tensor:
    """[P]; zero for parameters that the value does not depend on."""
    parts = torch.autograd.grad(value, parameters, materialize_grads=True, **options)
    return torch.cat([part.reshape(-1) for part in parts])


def plain_gradient(name: str, w: Tensor) -> Tensor:
    loss, _, parameters = plain(name, w)
    return derivative(loss, parameters)


def plain_product(name: str) -> Tensor:
    """H v [P]."""
    _, w, v, _, _ = problem(name)
    with sdpa_kernel(SDPBackend.MATH):
        loss, _, parameters = plain(name, w)
        return derivative(derivative(loss, parameters, create_graph=True) @ v, parameters)


def quotient(name: str, step: float = 1e-6) -> Tensor:
    """H v [P] as a difference of gradients, which needs no second derivative."""
    _, w, v, _, _ = problem(name)
    return (plain_gradient(name, w + step * v) - plain_gradient(name, w - step * v)) / (2 * step)


# Every model


@every_model
def test_the_gradient_is_that_of_the_module(name: str) -> None:
    w = problem(name)[1]
    found = objective_of(name).gradient(w)
    torch.testing.assert_close(found, plain_gradient(name, w), rtol=1e-9, atol=1e-12)


@every_model
def test_the_hessian_is_that_of_the_module(name: str) -> None:
    _, w, v, _, _ = problem(name)
    found = objective_of(name).hessian_vector(w, v)
    if ZOO[name].twice:
        torch.testing.assert_close(found, plain_product(name), rtol=1e-9, atol=1e-12)
    if ZOO[name].slope:
        torch.testing.assert_close(found, quotient(name), rtol=0, atol=1e-6 * float(found.norm()))


@every_model
def test_the_hessian_is_symmetric(name: str) -> None:
    _, w, v, _, _ = problem(name)
    u = torch.linspace(-1, 1, len(w), dtype=w.dtype)
    Hu, Hv = objective_of(name).hessian_vector(w, torch.stack([u, v]))
    if ZOO[name].slope:
        assert float(v @ Hu) == pytest.approx(float(u @ Hv), abs=1e-6 * float(Hu.norm()))


@every_model
def test_float32_agrees_with_float64(name: str) -> None:
    """Other kernels compute then, some of which cannot be differentiated twice."""
    _, w, v, inputs, targets = problem(name)
    inputs = inputs.float() if inputs.is_floating_point() else inputs
    objective, exact = Objective(ZOO[name].model(), inputs, targets), objective_of(name)
    assert objective.loss(w.float()) == pytest.approx(exact.loss(w), rel=1e-5)
    expected = exact.hessian_vector(w, v)
    found = objective.hessian_vector(w.float(), v.float()).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.norm()))


@every_model
def test_surface_and_spectrum(name: str) -> None:
    model, w, _, _, targets = problem(name)
    objective = objective_of(name, batch_size=4)
    grid = surface(objective, w, filter_normalized_directions(model, w, seed=0), 0.1, points=3)
    assert np.isfinite(grid["loss"]).all()
    if ZOO[name].alone:
        loss, outputs, _ = plain(name, w)
        accuracy = 100 * (outputs.argmax(1) == targets).double().mean()
        assert grid["loss"][1, 1] == pytest.approx(loss.item())
        assert grid["accuracy"][1, 1] == pytest.approx(accuracy.item())
    found = top_eigenvalues(objective, w, count=1, max_products=6)
    assert np.isfinite(found.eigenvalues[0])


@every_model
def test_the_caller_finds_all_as_it_was(name: str) -> None:
    model, (inputs, targets) = ZOO[name].model(), ZOO[name].data()
    w, state, data = flatten(model), copy.deepcopy(model.state_dict()), inputs.clone()
    before, drawn, more = switches.read(), switches.generators(), other_switches()
    objective = Objective(model, inputs, targets)
    first = objective.loss(w)
    objective.gradient(w)
    objective.hessian_vector(w, torch.ones_like(w))
    assert objective.loss(w) == first, "a function of w alone"
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(w, flatten(model))
    assert torch.equal(inputs, data)
    assert switches.differences(before) == []
    assert switches.generators() == drawn
    assert other_switches() == more


def other_switches() -> tuple[bool, ...]:
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch._C._get_mkldnn_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


# Models that ask for more


class Observed(nn.Module):
    """A linear model that calls a function in its forward pass."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.act = nn.Linear(5, 3), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.layer(x))


def vectors(count: int = 6) -> tuple[Tensor, Tensor]:
    return ZOO["linear"].data(count)


def test_recurrent_layers_compute_without_cudnn() -> None:
    """It has no derivatives in eval mode, and no second ones at all."""
    found = []
    model = Observed(lambda x: found.append(torch.backends.cudnn.enabled) or x)
    w = flatten(model)
    Objective(model, *vectors()).hessian_vector(w, w)
    assert all(found)
    found.clear()
    model.lstm = nn.LSTM(2, 2)
    w = flatten(model)
    Objective(model, *vectors()).hessian_vector(w, w)
    assert not any(found)


def test_padded_sequences_have_one_loss() -> None:
    """Attention's fast path, without gradients, treats padding in another way than training."""
    model, w, _, inputs, targets = problem("padded sequences")
    assert not model(inputs).isnan().any()
    expected = cross_entropy(model(inputs), targets).item()  # in training mode; it has no dropout
    assert Objective(model, inputs, targets).loss(w)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("noise", [torch.randn_like, lambda x: nn.functional.dropout(x.exp())])
def test_what_a_model_draws_is_the_same_in_every_pass(noise: Callable[[Tensor], Tensor]) -> None:
    model, (inputs, targets) = Observed(lambda x: x + noise(x)).double(), vectors(40)
    w = flatten(model)
    objective = Objective(model, inputs, targets, batch_size=20)
    assert objective.loss(w) == objective.loss(w)
    step = torch.linspace(-1, 1, len(w)).to(w) * 1e-6
    slope = objective.loss(w + step)[0] - objective.loss(w - step)[0]
    assert slope == pytest.approx(2 * float(objective.gradient(w) @ step), rel=1e-6)
    objective.hessian_vector(w, w)


def test_a_loss_that_does_not_depend_on_the_parameters() -> None:
    model = Observed(torch.zeros_like)
    w, objective = flatten(model), Objective(model, *vectors())
    assert not objective.gradient(w).any()
    assert not objective.hessian_vector(w, w).any()
    assert top_eigenvalues(objective, w, count=2).eigenvalues == (0, 0)


def test_a_model_whose_eval_returns_nothing() -> None:
    class Careless(nn.Linear):
        def train(self, mode: bool = True) -> None:
            super().train(mode)

    model = Careless(5, 3)
    assert Objective(model, *vectors()).loss(flatten(model))[0] > 0


@pytest.mark.parametrize("batch_size", [4, 6])
def test_what_is_computed_again_is_so_at_the_same_parameters(batch_size: int) -> None:
    """Not at the module's own, nor in their type: torch.utils.checkpoint, in the backward pass."""
    model, (inputs, targets) = ZOO["checkpointed"].model(), ZOO["checkpointed"].data()
    plain = ZOO["checkpointed"].model()
    plain.reentrant = None
    found, expected = (Objective(m, inputs, targets, batch_size) for m in (model, plain))
    own = flatten(model)
    V = torch.stack([torch.linspace(-1, 1, len(own)), own])
    for w in (own, 2 * own + 0.1, 2 * own.double() + 0.1):
        assert found.loss(w) == expected.loss(w)
        torch.testing.assert_close(found.gradient(w), expected.gradient(w))
        V = V.to(w)
        torch.testing.assert_close(found.hessian_vector(w, V), expected.hessian_vector(w, V))
        assert found.hessian_vector(w, V).any()
    assert torch.equal(flatten(model), own)


@pytest.mark.parametrize("layers", [[], [nn.Linear(5, 5)]])
def test_reentrant_checkpoints_are_refused(layers: list[nn.Module]) -> None:
    """Their gradient is an error, or zero where their inputs need none: in the first layer."""
    model = ZOO["checkpointed"].model()
    model.reentrant = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of the zero
        with refused("model", "use_reentrant=True", "allowed: use_reentrant=False"):
            Objective(nn.Sequential(*layers, model), *ZOO["checkpointed"].data())


def test_sparse_gradients_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Flatten(), nn.Linear(15, 3))
    with refused("model: cannot be differentiated", "sparse"):
        Objective(model, torch.arange(45).reshape(9, 5) % 9, torch.arange(9) % 3)


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = nn.Linear(5, 3)
    model.lock = threading.Lock()
    with refused("model: cannot be copied", "lock"):
        Objective(model, *vectors())


def test_single_precision_inside_is_no_obstacle() -> None:
    """Outputs are converted to the parameters' type, as training does."""
    model = Observed(lambda x: x.bfloat16())
    w, objective = flatten(model), Objective(model, *vectors())
    assert objective.gradient(w).dtype == torch.float32
    assert torch.isfinite(objective.hessian_vector(w, w)).all()


def test_pooling_and_view_in_any_layout() -> None:
    """Also where the data lie channels last, and for the networks computed that way here."""
    inputs, targets = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.arange(6)
    model = smallcnn((1, 8, 8), 10).double()
    other = nn.Sequential(*model[:6], Observed(None), *model[7:])
    other[6].forward = lambda x: x.view(x.size(0), -1)
    other[6].layer = nn.Identity()  # as many parameters
    w = flatten(model)
    expected = Objective(model, inputs, targets)
    found = Objective(other, inputs.to(memory_format=torch.channels_last), targets)
    assert found.loss(w) == pytest.approx(expected.loss(w))
    torch.testing.assert_close(found.hessian_vector(w, w), expected.hessian_vector(w, w))


def test_once_differentiable_in_single_precision_alone_is_refused() -> None:
    scale = torch.eye(3)
    model = Observed(lambda x: torch.cdist(x, x) @ torch.ones(len(x), 3) + x @ scale)
    w, objective = flatten(model), Objective(model, *vectors())
    assert objective.gradient(w).any()
    with refused("model", "twice", "float64"):
        objective.hessian(w)


# The parameter vector


def test_any_layout_and_type_of_the_vector() -> None:
    model, w, v, inputs, targets = problem("mlp-mixer")
    single = Objective(ZOO["mlp-mixer"].model(), inputs.float(), targets)
    objective = Objective(model, inputs, targets)
    strided = torch.stack([w, v], 1)[:, 0]
    assert not strided.is_contiguous()
    assert objective.loss(strided) == objective.loss(w)
    assert torch.equal(objective.gradient(strided), objective.gradient(w))
    V = torch.stack([v, w, 2 * v], 1)  # columns
    product = objective.hessian(strided)
    torch.testing.assert_close(product(V.T), objective.hessian_vector(w, V.T.contiguous()))
    torch.testing.assert_close(product(v.float()), product(v), rtol=1e-5, atol=1e-6)
    # A float64 vector computes in float64, whatever the model was built in.
    assert single.loss(w) == pytest.approx(objective.loss(w), rel=1e-6)
    assert single.gradient(w).dtype == torch.float64
    directions = filter_normalized_directions(model, strided, seed=0)
    assert torch.equal(directions, filter_normalized_directions(model, w, seed=0))
    with refused("w", "int64", "floats"):
        objective.loss(w.long())
    with refused("V", len(w)):
        product(torch.cat([v, v]))


def test_buffers_have_the_vectors_type() -> None:
    _, w, _, inputs, targets = problem("spectral norm")
    objective = Objective(ZOO["spectral norm"].model(), inputs, targets)
    assert objective.gradient(w).dtype == torch.float64


def test_inside_autocast() -> None:
    model = ZOO["perceptron"].model()
    w, objective = flatten(model), Objective(model, *vectors())
    expected = objective.loss(w), objective.hessian_vector(w, w)
    with torch.autocast("cpu", torch.bfloat16):
        assert objective.loss(w) == expected[0]
        assert torch.equal(objective.hessian_vector(w, w), expected[1])


@pytest.mark.parametrize("name", ["perceptron", "prototypes"])
def test_inside_no_grad(name: str) -> None:
    _, w, v, _, _ = problem(name)
    objective = objective_of(name)
    expected = objective.gradient(w), objective.hessian_vector(w, v)
    with torch.no_grad():
        assert torch.equal(objective.gradient(w), expected[0])
        assert torch.equal(objective.hessian_vector(w, v), expected[1])


@pytest.mark.parametrize("batch_size", [4, 6])
@pytest.mark.parametrize("name", ["perceptron", "checkpointed", "prototypes", "spectral norm"])
def test_inside_inference_mode(name: str, batch_size: int) -> None:
    """Whatever is made there: the vectors, the data, the model, the objective."""

    def measured(objective: Objective, w: Tensor, v: Tensor) -> list[object]:
        return [
            objective.loss(w),
            objective.gradient(w).tolist(),
            objective.hessian_vector(w, v).tolist(),
            objective.hessian_vector(w, torch.stack([v, w])).tolist(),
            top_eigenvalues(objective, w, count=2),
        ]

    _, w, v, inputs, targets = problem(name)
    outside = objective_of(name, batch_size=batch_size)
    expected = measured(objective_of(name, batch_size=batch_size), w, v)
    assert expected[4].eigenvalues[0] > 0
    with torch.inference_mode():
        model = ZOO[name].model().double()
        inside = Objective(model, inputs.clone(), targets.clone(), batch_size)
        made = w.clone(), v.clone()
        assert made[0].is_inference()
        for objective in (outside, inside):
            assert measured(objective, w, v) == expected
            assert measured(objective, *made) == expected
        assert not torch.is_grad_enabled()
    assert measured(inside, *made) == expected


@pytest.mark.parametrize(
    "use",
    [
        lambda objective, w: objective.loss(w),
        lambda objective, w: objective.gradient(w),
        lambda objective, w: objective.hessian(w),
        lambda objective, w: top_eigenvalues(objective, w),
        lambda objective, w: filter_normalized_directions(objective.model, w, seed=0),
    ],
)
def test_a_vector_of_numpys_is_refused(use: Callable[[Objective, np.ndarray], object]) -> None:
    with refused("w", "ndarray", "a tensor [P]"):
        use(objective_of("linear"), problem("linear")[1].numpy())


@pytest.mark.parametrize("value", [0, 2.0, "2", True, None])
def test_counts_are_integers(value: object) -> None:
    with refused("batch_size", repr(value), "an integer, at least 1"):
        objective_of("linear", batch_size=value)
    for method in (top_eigenvalues, power_iteration):
        with refused("count", repr(value), "an integer, at least 1"):
            method(objective_of("linear"), problem("linear")[1], count=value)


# Targets


@pytest.fixture
def segmentation() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A model of [N, 3, 6, 6], its parameters, inputs, and targets of which many do not count."""
    model = ZOO["segmentation"].model().double()
    inputs, targets = ZOO["segmentation"].data(10)
    targets[torch.rand(targets.shape) < 0.3] = -100
    targets[2:4] = -100
    return model, flatten(model), inputs.double(), targets


@pytest.mark.parametrize("label", [-100, 1])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 10])
def test_labels_that_do_not_count(segmentation, batch_size: int, label: int) -> None:
    """A class of the model among them, which it may predict."""
    model, w, inputs, targets = segmentation
    targets[targets == -100] = label
    criterion = nn.CrossEntropyLoss(ignore_index=label)
    objective = Objective(model, inputs, targets, batch_size, criterion=criterion)
    outputs = model(inputs)
    counted = targets != label
    loss, accuracy = objective.loss(w)
    assert loss == pytest.approx(criterion(outputs, targets).item(), rel=1e-12)
    right = (outputs.argmax(1) == targets)[counted].double().mean()
    assert accuracy == pytest.approx(100 * right.item(), rel=1e-12)
    whole = Objective(model, inputs, targets, criterion=criterion)
    torch.testing.assert_close(objective.gradient(w), whole.gradient(w))
    torch.testing.assert_close(objective.hessian_vector(w, w), whole.hessian_vector(w, w))


def test_equal_batches_are_those_with_labels(segmentation) -> None:
    model, w, inputs, targets = segmentation
    found = Objective(model, inputs, targets, 2, equal_batches=True).loss(w)
    parts = [slice(i, i + 2) for i in (0, 4, 6, 8)]
    each = [Objective(model, inputs[part], targets[part]).loss(w) for part in parts]
    assert found == pytest.approx(np.mean(each, axis=0))


def test_the_only_batch_with_labels_need_not_be_the_first() -> None:
    model, w, v, inputs, targets = problem("perceptron")
    targets = targets.clone()
    targets[:3] = -100
    found = Objective(model, inputs, targets, 3).hessian_vector(w, v)
    expected = Objective(model, inputs[3:], targets[3:]).hessian_vector(w, v)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("batch_size", [4, 6])
@pytest.mark.parametrize("name", ["linear", "segmentation"])
def test_probabilities(name: str, batch_size: int) -> None:
    model, w, _, inputs, targets = problem(name)
    outputs = model(inputs)
    wanted = torch.rand(outputs.shape).softmax(1)
    loss, accuracy = Objective(model, inputs, wanted, batch_size).loss(w)  # float32: converted
    assert loss == pytest.approx(cross_entropy(outputs, wanted.double()).item(), rel=1e-12)
    right = (outputs.argmax(1) == wanted.argmax(1)).double().mean()
    assert accuracy == pytest.approx(100 * right.item())
    # Certainty is a class.
    certain = nn.functional.one_hot(targets, 3).movedim(-1, 1).double()
    found = Objective(model, inputs, certain, batch_size)
    torch.testing.assert_close(found.gradient(w), objective_of(name).gradient(w))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32, torch.bool])
def test_classes_of_any_integer_type(dtype: torch.dtype) -> None:
    model, w, _, inputs, targets = problem("linear")
    targets = targets.clamp(max=1)
    expected = Objective(model, inputs, targets).loss(w)
    assert Objective(model, inputs, targets.to(dtype)).loss(w) == expected


# What does not fit is named before any work


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda m, x, y: Objective(m, x, y + 1), ["targets", "3 is not a class", "0 to 2"]),
        (lambda m, x, y: Objective(m, x, y - 1), ["targets", "-1 is not a class", "-100"]),
        (lambda m, x, y: Objective(m, x, y.new_full((6,), -100)), ["targets", "all -100"]),
        (lambda m, x, y: Objective(m, x, y[:, None]), ["targets", "int64 [6, 1]"]),
        (lambda m, x, y: Objective(m, x, y.double()), ["targets", "float64 [6]"]),
        (lambda m, x, y: Objective(m, x, torch.rand(6, 4)), ["targets", "float32 [6, 4]"]),
        (lambda m, x, y: Objective(m, x[:, :4], y), ["inputs", "float64 [6, 4]"]),
        (lambda m, x, y: Objective(m, x.long(), y), ["inputs", "int64 [6, 5]", "transform"]),
        (
            lambda m, x, y: Objective(m, x, y, transform=lambda x: x.view(7)),
            ["inputs", "float64 [6, 5]"],
        ),
        (lambda m, x, y: Objective(Observed(lambda x: (x, x)), x, y), ["model", "tuple"]),
        (lambda m, x, y: Objective(Observed(lambda x: x[:, 0]), x, y), ["model", "float32 [2]"]),
        (
            lambda m, x, y: Objective(nn.MultiheadAttention(4, 2), x, y),
            ["inputs", "do not pass through the model"],
        ),
    ],
)
def test_data_that_do_not_fit(build: Callable[..., Objective], words: list[str]) -> None:
    model, _, _, inputs, _ = problem("linear")
    targets = torch.arange(6) % 3
    with refused(*words):
        build(model, inputs, targets)


# From files to files


def tied(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A user's own model in float64: a parameter with two names, attention, and `view`."""
    torch.set_default_dtype(torch.float64)
    try:
        return Tied(classes)
    finally:
        torch.set_default_dtype(torch.float32)


class Tied(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 2, stride=2)
        self.block = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True)
        self.block.linear2.weight = self.block.linear1.weight
        self.last = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.block(x.view(x.size(0), 4, -1).transpose(1, 2))
        return self.last(x.flatten(1))


def test_a_run_of_a_users_model_is_analysed(tmp_path) -> None:
    settings = cell_settings(rounds=2, last=1, evaluate_every=1)
    settings["model"] = f"{__name__}:tied"
    inputs, run = prepare_inputs(tmp_path), tmp_path / "run"
    result = train_cell(settings, **inputs, out=run, code="code", device="cpu")
    where = {**inputs, "run": run}
    hessian(
        HessianJob(
            **where,
            out=tmp_path / "h.json",
            choices=("paper",),
            count=1,
            models=("average",),
            method="lanczos",
            images="auto",
            trace=None,
            density=None,
        )
    )
    found = json.loads((tmp_path / "h.json").read_text())
    assert found["lambda1"] > 0
    around = {"model": "average", "on": "all", "images": "auto", "code": "code", "seed": 0}
    landscape(LandscapeJob(**where, **around, out=tmp_path / "l.csv", points=3, extent=0.5), "cpu")
    middle = (tmp_path / "l.csv").read_text().splitlines()[5].split(",")
    assert middle[:2] == ["0.0", "0.0"] and np.isfinite(float(middle[2]))
    assert result.w.dtype == torch.float64
