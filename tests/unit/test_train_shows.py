"""What `fedgloss.train` shows: metrics of one's own, a bar, and a result in a line."""

import math

import pytest
import torch
from torch import nn

import fedgloss
from refusal import refused


@pytest.fixture
def model_and_clients():
    """A linear model and four clients with samples of three classes."""
    generator = torch.Generator().manual_seed(0)
    clients = [
        (torch.randn(9, 4, generator=generator), torch.randint(3, (9,), generator=generator))
        for _ in range(4)
    ]
    return nn.Linear(4, 3), clients


def test_metrics_of_ones_own_join_the_rows(model_and_clients):
    model, clients = model_and_clients
    x, y = clients[0]

    def worst_class(outputs, targets):
        right = outputs.argmax(dim=1) == targets
        return min(right[targets == c].double().mean() for c in targets.unique())

    asked = {"worst class": worst_class, "top": lambda z, y: z.max(), "none": lambda z, y: math.nan}
    options = {"rounds": 3, "clients_per_round": 2, "batch_size": 4, "test": (x, y)}
    result = fedgloss.train(model, clients, "fedavg", **options, metrics=asked)
    plain = fedgloss.train(model, clients, "fedavg", **options)
    for row, other in zip(result.metrics, plain.metrics, strict=True):
        assert row.keys() == {"round", "accuracy", "loss", "worst class", "top"}
        assert {name: row[name] for name in other} == other
    z = result.model.eval()(x)
    assert result.metrics[-1]["worst class"] == pytest.approx(float(worst_class(z, y)))


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"loss": len}, ["'loss'", "taken", "accuracy"]),
        ({"f1": 5}, ["'f1'", "a function"]),
        ([len], ["functions by name"]),
        ({"f1": lambda z, y: 1 / 0}, ["'f1'", "ZeroDivisionError"]),
        ({"f1": lambda z, y: "good"}, ["'f1'", "ValueError"]),
    ],
)
def test_metrics_that_cannot_work_are_refused_before_round_one(metrics, words, model_and_clients):
    model, clients = model_and_clients
    rounds = []
    with refused("metrics", *words):
        fedgloss.train(
            model,
            clients,
            "fedavg",
            rounds=2,
            clients_per_round=2,
            test=clients[0],
            metrics=metrics,
            on_round=lambda t, row: rounds.append(t),
        )
    assert rounds == []


def test_a_result_is_a_line_and_progress_is_seen(model_and_clients, capsys):
    model, clients = model_and_clients
    options = {"rounds": 4, "clients_per_round": 2, "batch_size": 4, "test": clients[0]}
    result = fedgloss.train(model, clients, "fedavg", **options, progress=True)
    assert len(repr(result)) < 150 and "\n" not in repr(result)
    assert repr(result).startswith("Result(completed; round 4: ")
    assert "round 4 of 4" in capsys.readouterr().err
    fedgloss.train(model, clients, "fedavg", **options)
    assert capsys.readouterr().err == ""
    with refused("progress", "'yes'"):
        fedgloss.train(model, clients, "fedavg", **options, progress="yes")
