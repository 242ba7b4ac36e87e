"""Randomness inside a model: seeded in training, and off in evaluation."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import switches
from anyone import CLASSES, Model, federation, seeded, train
from fedgloss.engine.evaluate import class_accuracies
from fedgloss.engine.task import Task


class Functional(Model):
    def hidden(self, h):
        return F.dropout(h, 0.4, training=self.training)


class Recurrent(Model):
    def __init__(self):
        super().__init__(nn.LSTM(8, 8, num_layers=2, dropout=0.4, batch_first=True))

    def hidden(self, h):
        return self.inner(torch.stack([h, h.flip(1)], dim=1))[0][:, -1]


class Attention(Model):
    def __init__(self):
        super().__init__(nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True))

    def hidden(self, h):
        h = torch.stack([h, h.flip(1), 2 * h], dim=1)
        return self.inner(h, h, h)[0].mean(dim=1)


class Transformer(Model):
    def __init__(self):
        super().__init__(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True))

    def hidden(self, h):
        return self.inner(torch.stack([h, h.flip(1)], dim=1)).mean(dim=1)


class Noisy(Model):
    def hidden(self, h):
        return h + 0.3 * torch.randn_like(h) if self.training else h


class DropsPaths(Model):
    """Stochastic depth: a layer is left out for some samples."""

    def hidden(self, h):
        kept = torch.rand(len(h), 1, dtype=h.dtype) < 0.5 if self.training else 0.5
        return h + kept * torch.tanh(h)


DRAWING = {
    "nn.Dropout": lambda: Model(nn.Dropout(0.4)),
    "nn.Dropout in place": lambda: Model(nn.Dropout(0.4, inplace=True)),
    "nn.AlphaDropout": lambda: Model(nn.AlphaDropout(0.3)),
    "nn.FeatureAlphaDropout": lambda: Model(nn.FeatureAlphaDropout(0.3)),
    "nn.RReLU": lambda: Model(nn.RReLU()),
    "a sequence with dropout": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES)
    ),
    "F.dropout": Functional,
    "LSTM(dropout=)": Recurrent,
    "MultiheadAttention(dropout=)": Attention,
    "TransformerEncoderLayer(dropout=)": Transformer,
    "noise": Noisy,
    "stochastic depth": DropsPaths,
}


@pytest.mark.parametrize("name", DRAWING)
def test_a_models_own_draws_follow_from_the_seed(name):
    model = seeded(DRAWING[name]).double()
    torch.manual_seed(1)
    first = train(model, seed=5)
    torch.manual_seed(2)
    drawn = switches.generators()
    assert torch.equal(train(model, seed=5).history, first.history)
    assert switches.generators() == drawn, "the program's own generators are left alone"
    assert first.backend == "autograd"
    schedule = [[0, 1]] * 3  # the same mini-batches, as a client is taken whole
    whole = {"schedule": schedule, "batch_size": None, "local_steps": 1}
    assert not torch.equal(train(model, seed=1, **whole).w, train(model, seed=2, **whole).w)


@pytest.mark.parametrize("name", DRAWING)
def test_the_draws_depend_on_the_client_and_not_on_who_came_before(name):
    model = seeded(DRAWING[name]).double()
    ours = train(model, schedule=[[0, 1, 2], [2, 0]], keep_history=True)
    theirs = train(model, schedule=[[2, 0, 1], [0, 2]], keep_history=True)
    assert torch.allclose(ours.history, theirs.history, rtol=1e-10, atol=1e-12)
    alone = train(model, schedule=[[1]])
    assert torch.equal(alone.locals[0], train(model, schedule=[[0, 1]]).locals[1])


@pytest.mark.parametrize("name", DRAWING)
def test_both_gradients_of_sam_are_of_one_function(name):
    """With no radius FedSAM is FedAvg, which it is only if both of its passes drop the same."""
    model = seeded(DRAWING[name]).double()
    sam = train(model, "fedsam", hyperparameters={"rho_l": 0.0})
    assert torch.allclose(sam.history, train(model).history, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", DRAWING)
def test_evaluation_is_in_eval_mode_and_leaves_the_mode_alone(name):
    model = seeded(DRAWING[name]).double()
    x, y = test = federation()[2]
    result = train(model, test=test, record=("sharpness",))
    assert result.model.training and model.training
    quiet, row = copy.deepcopy(result.model).eval(), result.metrics[-1]
    outputs = quiet(x)
    loss, right = F.cross_entropy(outputs, y), (outputs.argmax(1) == y).double()
    assert row["loss"] == pytest.approx(loss.item())
    assert row["accuracy"] == pytest.approx(100 * right.mean().item())
    by_class = class_accuracies(Task(result.model, F.cross_entropy), result.w, x, y)
    assert by_class == pytest.approx([100 * right[y == k].mean().item() for k in range(CLASSES)])
    assert result.model.training
    gradients = torch.autograd.grad(loss, [*quiet.parameters()])
    step = 0.1 / torch.cat([g.flatten() for g in gradients]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(quiet.parameters(), gradients, strict=True):
            parameter += step * gradient
    rise = (F.cross_entropy(quiet(x), y) - loss).item()
    assert row["sharpness_gradient"] == pytest.approx(rise, rel=1e-6)


class DrawsForSome(Model):
    """Dropout for large inputs alone, which no trial of a few samples meets."""

    def hidden(self, h):
        return F.dropout(h, 0.5, self.training and bool((h > 20).any()))


def test_draws_for_some_inputs_alone_are_seeded_too():
    clients = federation((12, 12))
    clients[1][0][11] *= 1000
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = switches.generators()
        model = seeded(DrawsForSome).double()
        runs.append(train(model, clients=clients, epochs=2, local_steps=None, test=clients[1]).w)
        assert switches.generators() == before
    assert torch.equal(*runs)


def test_trainings_in_threads_take_turns():
    model = seeded(DRAWING["nn.Dropout"]).double()
    alone = [train(model, seed=seed).w for seed in range(4)]
    before = switches.read()
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda seed: train(model, seed=seed).w, range(4))
    assert all(map(torch.equal, together, alone))
    assert switches.differences(before) == []


def test_a_model_given_in_eval_mode_is_trained_in_it():
    model = seeded(DRAWING["nn.Dropout"]).double().eval()
    ours, plain = train(model), train(seeded(Model).double())
    assert torch.allclose(ours.w, plain.w, rtol=1e-10, atol=1e-12)
    assert not ours.model.training


def test_modes_are_kept_part_by_part():
    model = seeded(DRAWING["a sequence with dropout"]).double()
    model[2].eval()
    result = train(model, test=federation()[0])
    assert [part.training for part in result.model] == [True, True, False, True]
