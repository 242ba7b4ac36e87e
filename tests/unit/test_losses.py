"""Losses and labels: evaluation means what training means, and what does not count does not."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedgloss
from fedgloss.algorithms.core import Algorithm, mean
from fedgloss.engine.evaluate import evaluate
from fedgloss.engine.flat import flatten
from fedgloss.engine.task import Task

CLASSES = 4
WEIGHT = torch.tensor([0.1, 5.0, 1.0, 2.0], dtype=torch.float64)


def network(outputs=CLASSES):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, outputs)).double()


def samples(n, seed=0, classes=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


def train(clients=None, model=None, **options):
    options = {"rounds": 2, "clients_per_round": 2, "lr": 0.1, "batch_size": 3, **options}
    clients = clients or [samples(7, 1), samples(5, 2)]
    return fedgloss.train(model or network(), clients, "fedavg", **options)


def smooth(z, y):
    return F.cross_entropy(z, y, label_smoothing=0.1)


LOSSES = {
    "cross-entropy": F.cross_entropy,
    "class weights": nn.CrossEntropyLoss(weight=WEIGHT),
    "class weights, a function": partial(F.cross_entropy, weight=WEIGHT),
    "another label left out": nn.CrossEntropyLoss(ignore_index=2),
    "label smoothing": smooth,
    "negative log likelihood": lambda z, y: F.nll_loss(F.log_softmax(z, 1), y),
    "margins": nn.MultiMarginLoss(),
    "squares": lambda z, y: F.mse_loss(z, F.one_hot(y, CLASSES).to(z.dtype)),
    "a contrast within the mini-batch": lambda z, y: F.cross_entropy(
        F.normalize(z) @ F.normalize(z).T / 0.5, torch.arange(len(z))
    ),
}


def test_a_loss_may_draw_and_change_its_outputs():
    """Dropout of the outputs: seeded like a model's own, and off in evaluation."""

    class Noisy(nn.Module):
        def forward(self, z, y):
            return F.cross_entropy(F.dropout(z.mul_(2), 0.3, self.training), y)

    test, runs = samples(9, 3), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs.append(train(loss=Noisy(), test=test))
        assert runs[-1].backend == "autograd"
    assert torch.equal(runs[0].w, runs[1].w)
    with torch.no_grad():
        expected = F.cross_entropy(2 * runs[0].model(test[0]), test[1]).item()
    assert runs[0].metrics[-1]["loss"] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["cross-entropy", "class weights", "another label left out"])
@pytest.mark.parametrize("backend", ["autograd", "stacked"])
def test_the_gradient_of_all_samples_is_that_of_their_mean(name, backend):
    """More than are passed at once, of which some do not count."""
    x, y = samples(2500, 1)
    y[:1200] = 2 if "label" in name else -100
    full = Algorithm(
        "full",
        lambda grad, W, down, c, h: (h.full_gradient(down.w) + 0 * W, c),
        lambda w, down, up, s, h: (mean(up.w, h.p), s),
        gradients=0,
    )
    model, loss = network(), LOSSES[name]
    result = fedgloss.train(
        model, [(x, y)], full, rounds=1, lr=1.0, batch_size=None, loss=loss, backend=backend
    )
    gradients = torch.autograd.grad(loss(model(x), y), list(model.parameters()))
    expected = flatten(model) - torch.cat([gradient.flatten() for gradient in gradients])
    assert torch.allclose(result.w, expected, rtol=1e-10, atol=1e-12)


# Evaluation


@pytest.mark.parametrize("name", [name for name in LOSSES if "contrast" not in name])
def test_the_loss_is_that_of_all_samples_in_whatever_pieces_they_are_passed(name, monkeypatch):
    model, (x, y) = network(), samples(23)
    expected = LOSSES[name](model(x), y).item()
    for size in (1, 2, 7, 23, 100):
        monkeypatch.setattr("fedgloss.engine.evaluate.samples_a_pass", lambda *_, n=size: n)
        row = evaluate(Task(model, LOSSES[name]), flatten(model), x, y)
        assert row["loss"] == pytest.approx(expected, rel=1e-12)


def test_samples_that_the_loss_leaves_out_count_neither_as_right_nor_as_wrong(monkeypatch):
    model, (x, y) = network(), samples(20)
    y[:9] = -100
    with monkeypatch.context() as patch:
        patch.setattr("fedgloss.engine.evaluate.samples_a_pass", lambda *_: 4)
        all_left_out_in_a_piece = evaluate(Task(model, F.cross_entropy), flatten(model), x, y)
    only_the_others = evaluate(Task(model, F.cross_entropy), flatten(model), x[9:], y[9:])
    assert all_left_out_in_a_piece == pytest.approx(only_the_others)
    other = nn.CrossEntropyLoss(ignore_index=1)
    kept = y != 1
    x, y, kept = x[9:], y[9:], kept[9:]
    assert evaluate(Task(model, other), flatten(model), x, y) == pytest.approx(
        evaluate(Task(model, other), flatten(model), x[kept], y[kept])
    )


def test_a_loss_of_ones_own_may_leave_out_negative_labels():
    def own(z, y):
        return F.cross_entropy(z, y, ignore_index=-1)

    model, (x, y) = network(), samples(12)
    y[:5] = -1
    accuracy = evaluate(Task(model, own), flatten(model), x, y)["accuracy"]
    assert accuracy == evaluate(Task(model, own), flatten(model), x[5:], y[5:])["accuracy"]
    assert train([(x, y), samples(5)], loss=own, test=(x, y)).status == "completed"


# Training


@pytest.mark.parametrize("backend", ["autograd", "stacked"])
@pytest.mark.parametrize(
    "loss", [F.cross_entropy, nn.CrossEntropyLoss(), partial(F.cross_entropy, ignore_index=2)]
)
def test_a_mini_batch_of_samples_that_do_not_count_is_no_divergence(loss, backend):
    label = 2 if isinstance(loss, partial) else -100
    clients = [samples(6, 1), samples(6, 2)]
    clients[0][1][:] = label
    result = train(clients, loss=loss, backend=backend, weight_decay=0.0)
    assert result.status == "completed"
    start = flatten(network())
    alone = train(clients, loss=loss, backend=backend, schedule=[[0]], rounds=1,
                  clients_per_round=None)  # fmt: skip
    assert torch.equal(alone.w, start), "nothing counts, so nothing moves"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("backend", ["auto", "autograd", "stacked"])
def test_classes_may_be_integers_of_any_type(dtype, backend):
    def typed(pair):
        return pair[0], pair[1].to(dtype)

    clients, test = [samples(7, 1), samples(5, 2)], samples(4, 3)
    ours = train([*map(typed, clients)], test=typed(test), backend=backend)
    expected = train(clients, test=test, backend=backend)
    assert torch.equal(ours.history, expected.history)
    assert ours.metrics == expected.metrics


@pytest.mark.parametrize("name", LOSSES)
def test_both_backends_train_under_any_mean(name):
    options = {"loss": LOSSES[name], "test": samples(9, 4)}
    ours, theirs = (train(backend=backend, **options) for backend in ("autograd", "stacked"))
    assert torch.allclose(ours.history, theirs.history, rtol=1e-10, atol=1e-12)


def test_targets_may_be_probabilities_or_numbers():
    clients = [(x, torch.softmax(x[:, :CLASSES], 1)) for x, _ in (samples(7, 1), samples(5, 2))]
    assert "accuracy" not in train(clients, test=clients[0]).metrics[-1]
    numbers = [(x, x[:, :1].sin()) for x, _ in clients]
    result = train(numbers, network(1), loss=nn.MSELoss(), test=numbers[0])
    assert result.metrics[-1]["loss"] < result.metrics[0]["loss"]


# Refused


def out_of_range(label):
    clients = [samples(7, 1), samples(5, 2)]
    clients[1][1][4] = label
    return clients


def text(z, y):
    return "0.5"


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, z, y):
        return F.cross_entropy(z / self.temperature, y)


class Grows(nn.Module):
    calls = 0

    def forward(self, z, y):
        self.calls += 1
        return F.cross_entropy(z, y) * self.calls


MODEL = network()

REFUSED = {
    "a regulariser of the model's parameters": (
        {
            "model": MODEL,
            "loss": lambda z, y: (
                F.cross_entropy(z, y) + 0.1 * sum(p.pow(2).sum() for p in MODEL.parameters())
            ),
        },
        "loss: depends on parameters other than by the outputs",
    ),
    "parameters of its own": ({"loss": Temperature()}, "loss: depends on parameters other than"),
    "memory": ({"loss": Grows()}, "loss: two calls on one mini-batch differ"),
    "targets changed": (
        {"loss": lambda z, y: F.cross_entropy(z, y.mul_(0))},
        "loss: changes its targets",
    ),
    "draws in eval mode": (
        {
            "loss": lambda z, y: F.cross_entropy(z + torch.randn_like(z), y),
            "test": samples(5),
        },
        "loss: draws random numbers in eval mode too",
    ),
    "draws, stacked": (
        {"loss": lambda z, y: F.cross_entropy(F.dropout(z), y), "backend": "stacked"},
        "backend: 'stacked' has no seeds for what the model or the loss draws",
    ),
    "a sum": (
        {"loss": partial(F.cross_entropy, reduction="sum")},
        "loss: must return the mean over a mini-batch, not the sum",
    ),
    "a sum of a module": (
        {"loss": nn.CrossEntropyLoss(reduction="sum")},
        "loss: must return the mean over a mini-batch, not the sum",
    ),
    "a sum of one's own": (
        {"loss": lambda z, y: ((z - 1) ** 2).sum()},
        "loss: must return the mean over a mini-batch, not the sum",
    ),
    "one value a sample": (
        {"loss": nn.CrossEntropyLoss(reduction="none")},
        "loss: must return the mean loss of a mini-batch, a scalar tensor",
    ),
    "a number": (
        {"loss": lambda z, y: F.cross_entropy(z, y).item()},
        "loss: must return the mean loss of a mini-batch, a scalar tensor",
    ),
    "text": ({"loss": text}, "loss: must return the mean loss"),
    "a pair": ({"loss": lambda z, y: (z.mean(), y)}, "loss: must return the mean loss"),
    "detached": (
        {"loss": lambda z, y: F.cross_entropy(z, y).detach()},
        "clients: inputs [6] and targets [] do not pass",
    ),
    "no function": ({"loss": "cross_entropy"}, "loss: expected a function"),
    "none": ({"loss": None}, "loss: expected a function"),
    "a class in place of an instance": (
        {"loss": nn.CrossEntropyLoss},
        "loss: is a class; give an instance: CrossEntropyLoss()",
    ),
    "a class too many": (
        {"clients": out_of_range(4)},
        "clients: a target is class 4, the model has 4 outputs (allowed: 0 to 3, and -100",
    ),
    "a negative class": ({"clients": out_of_range(-1)}, "clients: a target is class -1"),
    "too many for a module": (
        {"clients": out_of_range(9), "loss": nn.CrossEntropyLoss()},
        "clients: a target is class 9",
    ),
    "too many for a partial": (
        {"clients": out_of_range(9), "loss": partial(F.cross_entropy, weight=WEIGHT)},
        "clients: a target is class 9",
    ),
    "too many for a loss of one's own": (
        {"clients": out_of_range(9), "loss": smooth},
        "clients: inputs [6] and targets [] do not pass through the model and the loss",
    ),
    "too many for margins, in the test set": (
        {"test": out_of_range(9)[1], "loss": nn.MultiMarginLoss()},
        "test: inputs [6] and targets [] do not pass through the model and the loss",
    ),
    "all left out": (
        {"clients": [(x, torch.full_like(y, -100)) for x, y in (samples(4), samples(5))]},
        "clients: every target is -100, which the loss leaves out",
    ),
    "probabilities of too few classes": (
        {"clients": [(x, x[:, :3]) for x, _ in (samples(4), samples(5))]},
        "clients: inputs [6] and targets [3] do not pass",
    ),
    "truth values": (
        {"clients": [(x, y > 1) for x, y in (samples(4), samples(5))]},
        "clients: inputs [6] and targets [] do not pass",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_mean_or_no_output_is_refused_before_round_1(name):
    options, message = REFUSED[name]
    rounds = []
    with pytest.raises(fedgloss.InputError) as caught:
        train(**options, on_round=lambda t, row: rounds.append(t))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert rounds == []


def test_arrays_are_not_taken_for_tensors():
    x, y = samples(4)
    with pytest.raises(fedgloss.InputError, match=r"clients\[0\]: expected a pair"):
        train([(np.asarray(x), np.asarray(y))] * 2)
