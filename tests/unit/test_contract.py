"""What goes wrong in a method of one's own in a late round is one line, as before round 1."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import fedgloss
from fedgloss.algorithms import build_algorithm
from fedgloss.algorithms.core import Algorithm, Named, mean
from fedgloss.engine import assembly
from fedgloss.engine.contract import guarded
from refusal import refused

LATE = 3
"""The round in which these methods go wrong, by a memory that no rehearsal sees."""


@pytest.fixture(autouse=True)
def unrehearsed(monkeypatch):
    monkeypatch.setattr(assembly, "rehearse", lambda *_: None)


def train(**late):
    """Train with a method whose functions are others in round 3: as they are given."""

    def direction(grad, W, down, c, h):
        return grad(W), c

    def finish(W, down, c, h):
        return c, Named(w=W)

    def aggregate(w, down, up, s, h):
        return mean(up.w, h.p), s

    def broadcast(w, s, h):
        return Named(w=w)

    usual = dict(broadcast=broadcast, direction=direction, finish=finish, aggregate=aggregate)

    def function(name):
        def call(*arguments):
            now = usual | late if arguments[-1].t == LATE - 1 else usual
            return now[name](*arguments)

        return call

    method = Algorithm(
        "mine", **{name: function(name) for name in usual}, global_state=("v",), client_state=("c",)
    )
    clients = [(torch.ones(2, 3), torch.tensor([0, 1])) for _ in range(2)]
    return fedgloss.train(nn.Linear(3, 2), clients, method, rounds=5, lr=0.1, batch_size=2)


def test_a_right_method_runs():
    assert train().status == "completed"


def drifting(w, down, up, s, h):
    w += 1
    return w, s


def growing(w, down, up, s, h):
    s.v.add_(1)
    return w, s


@pytest.mark.parametrize(
    ("late", "words"),
    [
        ({"aggregate": lambda w, down, up, s, h: (up.w, s)}, ("aggregate returns as the model",)),
        ({"aggregate": lambda w, down, up, s, h: (w.double(), s)}, ("float64", "is float32")),
        ({"aggregate": lambda w, down, up, s, h: w}, ("aggregate returns a tensor", "expected")),
        ({"aggregate": lambda w, down, up, s, h: (w, Named())}, ("no 'v' in the server's state",)),
        ({"aggregate": drifting}, ("aggregate changes in place", "x = x + y")),
        ({"aggregate": growing}, ("aggregate changes in place", "x = x + y")),
        ({"broadcast": lambda w, s, h: {"w": w}}, ("broadcast returns a value of type dict",)),
        ({"finish": lambda W, down, c, h: (Named(), Named(w=W))}, ("finish returns no 'c'",)),
        (
            {"aggregate": lambda w, down, up, s, h: (w + s.vv, s)},
            ("aggregate fails in round 3: AttributeError: there is no 'vv'", "allowed: v"),
        ),
        (
            {"direction": lambda grad, W, down, c, h: (grad(W) + c.d, c)},
            ("direction fails in round 3: AttributeError: there is no 'd'",),
        ),
    ],
)
def test_what_goes_wrong_in_a_late_round_is_one_line(late, words):
    with refused("method 'mine': ", *words, "(test_contract.py, line"):
        train(**late)


def test_what_a_model_raises_is_not_laid_at_the_methods_door():
    class Tired(nn.Linear):
        asked = 0

        def forward(self, x):
            Tired.asked += 1
            if Tired.asked > 40:
                raise KeyError("tired")
            return super().forward(x)

    clients = [(torch.ones(2, 3), torch.tensor([0, 1])) for _ in range(2)]
    method = build_algorithm("fedavg")
    method = replace(method, direction=lambda grad, W, down, c, h: (grad(W), c))
    with pytest.raises(KeyError, match="tired"):
        fedgloss.train(Tired(3, 2), clients, method, rounds=50, lr=0.1, batch_size=2)


def test_the_packages_own_methods_are_left_as_they_are():
    method = build_algorithm("fedgloss")
    assert guarded(method) is method
