"""What is measured of a run besides its numbers: delta_epsilon, the cosine, sharpness."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import fedgloss
from fedgloss.algorithms import build_algorithm
from fedgloss.engine.evaluate import RADIUS, class_accuracies, evaluate, samples_a_pass
from fedgloss.engine.flat import flatten, unflatten
from fedgloss.engine.measured import cosine, perturbation_error
from fedgloss.engine.rehearsal import PARAMETERS
from fedgloss.engine.task import Task

VALUES = {"rho": 0.05, "rho_l": 0.1, "beta": 10.0}
SCHEDULE = [[0, 1, 2], [1, 3], [2, 0]]


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def samples(n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


CLIENTS = [samples(n, seed) for seed, n in enumerate((7, 4, 9, 5))]


def run(method="fedgloss", model=None, **options):
    known = build_algorithm(method) if isinstance(method, str) else method
    given = {name: VALUES[name] for name in VALUES if name in known.hyperparameters}
    options = {"schedule": SCHEDULE, "lr": 0.1, "batch_size": 3, "weight_decay": 0.01, **options}
    return fedgloss.train(model or network(), CLIENTS, method, hyperparameters=given, **options)


def test_the_extra_exchange_is_made_in_evaluated_rounds_alone_and_measures_the_same():
    asked = []

    def direction(grad, W, down, c, h):
        asked.append((h.t, W.shape[-1]))
        return fedgloss_method.direction(grad, W, down, c, h)

    fedgloss_method = build_algorithm("fedgloss")
    method = dataclasses.replace(fedgloss_method, direction=direction)
    options = {"record": ("delta_epsilon",), "schedule": [[0]] * 6}
    options |= {"batch_size": None}  # one step for each exchange
    every = run("fedgloss", evaluate_every=1, **options).metrics
    some = run(method, evaluate_every=3, last=1, **options).metrics
    assert some == [every[2], every[5]]
    asked = [t for t, size in asked if size != PARAMETERS]  # where it was not rehearsed
    steps = [asked.count(t) for t in range(2, 6)]  # rounds 0 and 1 are, at this size too
    assert steps == [2, 1, 1, 2]


@pytest.mark.parametrize("method", ["fedavg", "fedgloss-sgd", "centralized-sgd"])
def test_the_cosine_is_that_of_consecutive_pseudo_gradients(method):
    rows = run(method, record=("consistency", "norms")).metrics
    if method == "fedgloss-sgd":
        deltas = [run(method, schedule=SCHEDULE[:t]) for t in (1, 2, 3)]
        deltas = [result.state["delta"] for result in deltas]
    else:  # the model moves by minus the pseudo-gradient
        models = torch.stack([flatten(network()), *run(method).history])
        deltas = [*(models[:-1] - models[1:])]
    assert rows[0]["cosine"] == 0  # there was none before
    for row, one, other in zip(rows[1:], deltas, deltas[1:], strict=False):
        expected = F.cosine_similarity(one, other, dim=0).item()
        assert row["cosine"] == pytest.approx(expected, rel=1e-9)


def test_the_cosine_of_float32_vectors_is_right_to_the_last_digits_of_float32():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 100_000, generator=generator)
    y = x + 1e-3 * torch.randn(x.shape, generator=generator)
    exact = F.cosine_similarity(x.double(), y.double(), dim=-1).item()
    assert 1 - cosine(x, y).item() == pytest.approx(1 - exact, rel=1e-6)
    gap = (x.double() / x.double().norm() - y.double() / y.double().norm()).norm().item()
    assert perturbation_error(x, y, torch.tensor(1.0)).item() == pytest.approx(gap, rel=1e-6)


WEIGHTED = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 3.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("loss", [F.cross_entropy, WEIGHTED], ids=["mean", "weighted"])
@pytest.mark.parametrize("backend", ["autograd", "stacked"])
def test_sharpness_is_the_rise_of_the_test_loss_at_a_tenth(loss, backend, monkeypatch):
    """Computed here by autograd over all samples at once; there in parts that do not come out."""
    monkeypatch.setattr("fedgloss.engine.evaluate.PART", 4)
    test = samples(11, seed=9)
    options = {"loss": loss, "test": test, "schedule": [[0, 1]], "backend": backend}
    result = run("fedavg", record=("sharpness",), **options)
    model, start = result.model, flatten(network())

    def value(w):
        shapes = {name: p.shape for name, p in model.named_parameters()}
        return loss(torch.func.functional_call(model, unflatten(w, shapes), (test[0],)), test[1])

    w = result.w.clone().requires_grad_()
    here = value(w)
    (gradient,) = torch.autograd.grad(here, w)
    [row] = result.metrics
    for name, direction in (("pseudo_gradient", start - result.w), ("gradient", gradient)):
        there = value(result.w + RADIUS * direction / direction.norm())
        assert row[f"sharpness_{name}"] == pytest.approx((there - here).item(), rel=1e-9)
    assert row["sharpness_gradient"] > row["sharpness_pseudo_gradient"]


class Recomputed(nn.Module):
    """Its layers are computed again while it is differentiated."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return checkpoint(self.layers, x, use_reentrant=False)


def test_sharpness_of_a_model_that_recomputes_is_that_of_its_layers():
    options = {"test": samples(11, seed=9), "record": ("sharpness",), "backend": "autograd"}
    plain, again = (run("fedavg", model=m, **options) for m in (network(), Recomputed(network())))
    assert torch.equal(plain.w, again.w)
    for row, other in zip(plain.metrics, again.metrics, strict=True):
        assert other == pytest.approx(row, rel=1e-9)


def test_a_loss_may_use_its_outputs_up():
    test = samples(11, seed=9)
    options = {"test": test, "record": ("sharpness",), "backend": "autograd"}
    plain = run("fedavg", loss=lambda z, y: F.cross_entropy(2 * z, y), **options)
    in_place = run("fedavg", loss=lambda z, y: F.cross_entropy(z.mul_(2), y), **options)
    assert in_place.metrics == plain.metrics


def test_measuring_sharpness_changes_no_number():
    options = {"test": samples(11, seed=9), "evaluate_every": 2}
    plain, recorded = run(**options), run(record=("sharpness",), **options)
    assert torch.equal(plain.history, recorded.history)
    names = ("round", "accuracy", "loss")
    assert [{k: row[k] for k in names} for row in recorded.metrics] == plain.metrics


def test_accuracy_by_class_leaves_out_what_the_loss_does_and_names_absent_classes():
    model = nn.Linear(2, 4)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -9.0]]))
        model.bias.zero_()
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [5.0, 0.0]])
    y = torch.tensor([0, 1, 1, 2, -100])  # the second is taken for class 0, the last is left out
    task = Task(model, F.cross_entropy)
    assert class_accuracies(task, flatten(model), x, y) == [100.0, 50.0, 100.0, None]
    assert class_accuracies(task, flatten(model), x, torch.zeros(5, 4)) is None


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((3, 32, 32), torch.float32, 2000),
        ((3, 32, 32), torch.uint8, 2000),  # which become floats
        ((20,), torch.int64, 2000),
        ((3, 224, 224), torch.uint8, 435),
        ((3, 224, 224), torch.float64, 217),
        ((3, 9000, 9000), torch.uint8, 1),
        ((0,), torch.float32, 2000),
    ],
)
def test_large_samples_are_evaluated_fewer_at_once(shape, dtype, expected):
    inputs = torch.zeros((), dtype=dtype).expand(3000, *shape)
    assert samples_a_pass(inputs, torch.zeros(1)) == expected
    assert samples_a_pass(inputs, torch.zeros(1), most=200) == max(expected // 10, 1)


def test_an_evaluation_does_not_depend_on_its_passes(monkeypatch):
    class Watching(nn.Linear):
        def forward(self, x):
            passes.append(len(x))
            return super().forward(x)

    passes: list[int] = []
    torch.manual_seed(0)
    model, x, y = Watching(4, 3).double(), torch.randn(7, 4).double(), torch.arange(7) % 3
    task, w = Task(model, F.cross_entropy), flatten(model)
    expected = evaluate(task, w, x, y)
    monkeypatch.setattr("fedgloss.engine.evaluate.samples_a_pass", lambda *given: 3)
    assert evaluate(task, w, x, y) == pytest.approx(expected, rel=1e-12)
    assert passes == [7, 3, 3, 1]
