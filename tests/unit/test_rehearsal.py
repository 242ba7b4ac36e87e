"""A method of one's own is rehearsed before round 1: what is wrong with it is said in one line."""

import itertools
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedgloss
import switches
from fedgloss.algorithms import METHODS, build_algorithm, resolve_hyperparameters, variant_choices
from fedgloss.algorithms.core import Algorithm, Named, Probe, mean, total, unit
from fedgloss.engine import rehearsal
from fedgloss.engine.backends.stacked import StackedGradients
from fedgloss.engine.clients import Batching, ClientData
from fedgloss.engine.federation import Simulation, advance, federation
from fedgloss.engine.rehearsal import rehearse
from refusal import refused

ROOT = Path(__file__).resolve().parents[2]
HYPERPARAMETERS = {"mu": 0.1, "alpha": 0.1, "beta": 10.0, "rho": 0.05, "rho_l": 0.1}
HYPERPARAMETERS |= {"lambda": 10.0, "T_s": 6, "momentum": 0.9}


def of(algorithm, w=None, lr=0.1, **changes):
    """A federation with this method."""
    known = {k: v for k, v in HYPERPARAMETERS.items() if k in algorithm.hyperparameters} | changes
    x = torch.zeros(4, 2)
    return federation(
        algorithm,
        resolve_hyperparameters(algorithm, known),
        torch.zeros(30) if w is None else w,
        ClientData(x, x[:, 0], tuple(torch.arange(4).split(1))),
        lr=lr,
        weight_decay=1e-3,
        participants=2,
        seed=0,
    )


# A method that is right in every respect; the others differ from it in one.


def direction(grad, W, down, c, h):
    return grad(W) - c.drift, c


def finish(W, down, c, h):
    return c.replace(drift=c.drift + 0.1 * (W - down.w)), Named(w=W)


def aggregate(w, down, up, s, h):
    v = h.momentum * s.v + mean(down.w - up.w, h.p)
    return w - v, s.replace(v=v)


def broadcast(w, s, h):
    return Named(w=w - h.momentum * s.v, v=s.v)


def mine(**changes):
    given = dict(
        name="mine",
        direction=direction,
        aggregate=aggregate,
        broadcast=broadcast,
        finish=finish,
        global_state=("v",),
        client_state=("drift",),
        hyperparameters={"momentum": 0.9},
    )
    return Algorithm(**(given | changes))


def test_a_right_method_passes():
    rehearse([of(mine())])
    rehearse([of(mine()), of(mine(), lr=0.2, momentum=0.5)])
    rehearse([of(mine(), torch.zeros(30, dtype=torch.float64))])


def forgetful():
    memory = []

    def direction(grad, W, down, c, h):
        memory.append(1)
        return grad(W) / len(memory), c

    return direction


def borrowing():
    memory = {}

    def direction(grad, W, down, c, h):
        memory["g"] = grad(W)
        return memory["g"], c

    def finish(W, down, c, h):
        return c.replace(drift=memory["g"]), Named(w=W)

    return {"direction": direction, "finish": finish}


def changed_gradient(grad, W, down, c, h):
    g = grad(W)
    g.mul_(0.5)
    return g, c


def changed_model(grad, W, down, c, h):
    g = grad(W)
    W += 1
    return g, c


def changed_state(w, down, up, s, h):
    s.v.mul_(0.9).add_(mean(down.w - up.w, h.p))
    return w - s.v, s


def changed_behind_its_back(w, down, up, s, h):
    s.v.data.mul_(0.9).add_(mean(down.w - up.w, h.p))
    return w - s.v, s


def changed_element(W, down, c, h):
    c.drift[..., 0] = 0
    return c, Named(w=W)


def changed_hyperparameters(hyper, t):
    hyper["momentum"] *= 0.9
    return hyper


def mixed_norm(w, down, up, s, h):
    d = mean(down.w - up.w, h.p)
    return w - d / (1 + d.norm()), s  # one norm of all federations


def tracked(grad, W, down, c, h):
    W = W.clone().requires_grad_()
    return grad(W.detach()) + W, c


def scaled_by_the_busiest(grad, W, down, c, h):
    return grad(W) / h.steps * h.steps.max(), c


def scaled_by_the_idlest(grad, W, down, c, h):
    return grad(W) / h.steps * h.steps.amin(-2, keepdim=True), c


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def failing(error):
    def aggregate(w, down, up, s, h):
        raise error

    return {"aggregate": aggregate}


A = [2, 3, 7]  # federations, participants, parameters
WRONG = {
    "a sum over all dimensions": (
        {"aggregate": lambda w, down, up, s, h: (w - (down.w - up.w).sum() * 1e-3, s)},
        ("aggregate mixes the federations", "the model", "dim=-2", "dim=-1"),
    ),
    "a norm over all dimensions": (
        {"aggregate": mixed_norm},
        ("aggregate mixes the federations", "never over all dimensions"),
    ),
    "the first federation for all": (
        {"aggregate": lambda w, down, up, s, h: (w - mean(down.w - up.w, h.p)[:1], s)},
        ("aggregate mixes the federations",),
    ),
    "a norm of all clients": (
        {"direction": lambda grad, W, down, c, h: (grad(W) / (W - 9).norm(), c)},
        ("direction mixes the federations", "the direction"),
    ),
    "a message that mixes federations": (
        {"broadcast": lambda w, s, h: Named(w=w, v=s.v - s.v.mean())},
        ("broadcast mixes the federations", "the message: v"),
    ),
    "a mean over clients on the clients": (
        {"direction": lambda grad, W, down, c, h: (grad(W) - W.mean(-2, keepdim=True), c)},
        ("direction mixes the clients", "aggregate"),
    ),
    "a client that learns of the others at the end": (
        {"finish": lambda W, down, c, h: (c, Named(w=W - W.mean(-2, keepdim=True)))},
        ("finish mixes the clients", "the message: w"),
    ),
    "the local steps of all federations' clients": (
        {"direction": scaled_by_the_busiest},
        ("direction mixes the federations", "the direction", "over dim=-1 (parameters)"),
    ),
    "the local steps of other clients": (
        {"direction": scaled_by_the_idlest},
        ("direction mixes the clients (the direction)", "aggregate"),
    ),
    "the weights of other clients": (
        {"finish": lambda W, down, c, h: (c, Named(w=W * h.share / h.share.amax(-2, True)))},
        ("finish mixes the clients (the message: w)",),
    ),
    "the busiest client of all federations": (
        {"aggregate": lambda w, down, up, s, h: (mean(up.w, h.p) / h.steps.max(), s)},
        ("aggregate mixes the federations", "the model"),
    ),
    "clients taken for the first dimension": (
        {"aggregate": lambda w, down, up, s, h: (up.w.mean(0), s)},
        ("aggregate returns as the model", "[3, 7]", "[2, 1, 7]", "[S, 1, P]"),
    ),
    "keepdim forgotten": (
        {"aggregate": lambda w, down, up, s, h: ((h.p * up.w).sum(-2), s)},
        ("aggregate returns as the model", "[2, 7]", "[2, 1, 7]"),
    ),
    "a number per client without its dimension": (
        {"finish": lambda W, down, c, h: (c, Named(w=W, size=W.norm(dim=-1)))},
        ("finish returns as 'size' of the message", "[2, 3]", "[2, 3, 1]", "[S, K, 1]"),
    ),
    "a direction for all clients at once": (
        {"direction": lambda grad, W, down, c, h: (down.w, c)},
        ("direction returns as the direction", "[2, 1, 7]", "[2, 3, 7]", "[S, K, P]"),
    ),
    "one number for each client's direction": (
        {"direction": lambda grad, W, down, c, h: (grad(W).norm(dim=-1, keepdim=True), c)},
        ("direction returns as the direction", "[2, 3, 1]", "[2, 3, 7]", "[S, K, P]"),
    ),
    "one number for a direction where the model is large": (
        {"direction": lambda grad, W, down, c, h: (grad(W)[..., : 7 if W.shape[-1] < 8 else 1], c)},
        ("direction returns as the direction", "[2, 3, 1]", "[2, 3, 30]", "[S, K, P]"),
    ),
    "the first entries alone": (
        {"direction": lambda grad, W, down, c, h: (grad(W)[..., :10], c)},
        ("direction returns as the direction", "[2, 3, 10]", "[2, 3, 30]", "[S, K, P]"),
    ),
    "an error that begins with an empty line": (
        failing(ValueError("\n \n  too far\nby ten")),
        ("aggregate fails", ": ValueError: too far (test_rehearsal.py, line"),
    ),
    "an error without words": (
        failing(ValueError),
        ("aggregate fails", ": ValueError (test_rehearsal.py, line"),
    ),
    "an error that cannot be printed": (
        failing(Unspeakable()),
        ("aggregate fails", ": Unspeakable: (its message cannot be read)"),
    ),
    "an exit": (
        {"finish": lambda W, down, c, h: sys.exit("enough")},
        ("finish fails", ": SystemExit: enough (test_rehearsal.py, line"),
    ),
    "an exit in a schedule": (
        {"schedule": lambda hyper, t: sys.exit(3)},
        ("schedule fails in round 0: SystemExit: 3",),
    ),
    "shapes that do not broadcast": (
        {"aggregate": lambda w, down, up, s, h: (w - up.w @ up.w, s)},
        (
            "aggregate fails on tensors [S, K, P] = [2, 3, ",
            "RuntimeError",
            "test_rehearsal.py, line",
        ),
    ),
    "a message per participant from the server": (
        {"broadcast": lambda w, s, h: Named(w=w, v=h.p * s.v)},
        ("broadcast returns as 'v' of the message", A, "[2, 1, 7]"),
    ),
    "a message that is no tensor": (
        {"broadcast": lambda w, s, h: Named(w=w, rate=0.5)},
        ("broadcast returns as 'rate' of the message", "float", "a tensor"),
    ),
    "a message without the model": (
        {"broadcast": lambda w, s, h: Named(model=w)},
        ("broadcast returns no 'w' in the message",),
    ),
    "a message with a name of the engine's own": (
        {"broadcast": lambda w, s, h: Named(w=w, values=w)},
        ("broadcast: the message: 'values'",),
    ),
    "a tensor for a message": (
        {"broadcast": lambda w, s, h: w},
        ("broadcast returns a tensor [2, 1, 7] as the message", "Named"),
    ),
    "a dictionary for a state": (
        {"aggregate": lambda w, down, up, s, h: (w, {"v": s.v})},
        ("aggregate returns a value of type dict as the server's state", "Named"),
    ),
    "nothing": (
        {"finish": lambda W, down, c, h: None},
        ("finish returns None", "the clients' state and the message"),
    ),
    "the direction alone": (
        {"direction": lambda grad, W, down, c, h: grad(W)},
        ("direction returns a tensor", "the direction and the clients' state"),
    ),
    "three results": (
        {"aggregate": lambda w, down, up, s, h: (w, s, s)},
        ("aggregate returns a tuple of 3", "the model and the server's state"),
    ),
    "a state that is not declared": (
        {"aggregate": lambda w, down, up, s, h: (w, s.replace(vv=s.v))},
        ("aggregate returns 'vv' in the server's state", "not declare", "'v'"),
    ),
    "a state that is lost": (
        {"direction": lambda grad, W, down, c, h: (grad(W), Named())},
        ("direction returns no 'drift' in the clients' state",),
    ),
    "a state of another shape": (
        {"finish": lambda W, down, c, h: (c.replace(drift=down.w), Named(w=W))},
        ("finish returns as 'drift' of the clients' state", "[2, 1, 7]", A),
    ),
    "a name that does not exist": (
        {"aggregate": lambda w, down, up, s, h: (w - s.momentun, s)},
        ("AttributeError: there is no 'momentun'", "allowed: v"),
    ),
    "a hyperparameter that is misspelt": (
        {"aggregate": lambda w, down, up, s, h: (w * h.momentun, s)},
        ("aggregate fails", "did you mean 'momentum'"),
    ),
    "a key that does not exist": (
        {"aggregate": lambda w, down, up, s, h: (w * h["decay"], s)},
        ("aggregate fails", "KeyError: 'decay'"),
    ),
    "too few arguments": (
        {"direction": lambda grad, W, down, c: (grad(W), c)},
        ("direction fails", "TypeError", "positional arguments"),
    ),
    "single precision": (
        {"aggregate": lambda w, down, up, s, h: (w.float(), s)},
        ("aggregate returns as the model float32 where the model is float64",),
    ),
    "double precision": (
        {"aggregate": lambda w, down, up, s, h: (w.double(), s)},
        ("aggregate returns as the model float64 where the model is float32",),
    ),
    "another device": (
        {"aggregate": lambda w, down, up, s, h: (w.to("meta"), s)},
        ("aggregate returns as the model a tensor on meta", "on cpu"),
    ),
    "a graph of gradients": (
        {"direction": tracked},
        ("direction returns as the direction a tensor that requires grad", "detach"),
    ),
    "random numbers": (
        {"direction": lambda grad, W, down, c, h: (grad(W) + torch.randn_like(W), c)},
        ("direction gives another result when it is called again", "random numbers"),
    ),
    "memory": (
        {"direction": forgetful()},
        ("direction gives another result when it is called again", "memory"),
    ),
    "memory that another function reads": (
        borrowing(),
        ("finish", "when one federation is alone"),
    ),
    "a gradient changed in place": ({"direction": changed_gradient}, ("direction changes in",)),
    "a model changed in place": ({"direction": changed_model}, ("direction changes in place",)),
    "a server's state changed in place": (
        {"aggregate": changed_state},
        ("aggregate changes in place", "x = x + y"),
    ),
    "a state changed behind its back": (
        {"aggregate": changed_behind_its_back},
        ("aggregate changes in place",),
    ),
    "a client's state changed in place": (
        {"finish": changed_element},
        ("finish changes in place",),
    ),
    "a gradient at the server's model": (
        {"direction": lambda grad, W, down, c, h: (grad(down.w) + 0 * W, c)},
        ("direction asks grad at a tensor [2, 1, 7]", A),
    ),
    "a full gradient at the clients' models": (
        {"finish": lambda W, down, c, h: (c, Named(w=h.full_gradient(W)))},
        ("finish asks h.full_gradient at", A, "[2, 1, 7]"),
    ),
    "a full gradient that the server has no data for": (
        {"aggregate": lambda w, down, up, s, h: (w - mean(h.full_gradient(w), h.p), s)},
        ("aggregate asks for h.full_gradient, but a server has no data",),
    ),
    "a number that is one as long as all federations agree": (
        {"aggregate": lambda w, down, up, s, h: (torch.add(w, s.v, alpha=h.momentum), s)},
        ("aggregate fails", "'alpha' must be Number, not Tensor"),
    ),
    "more gradients than declared": (
        {"direction": lambda grad, W, down, c, h: (grad(W - grad(W)), c)},
        ("2 mini-batch gradients in a local step", "gradients=1"),
    ),
    "a schedule that returns one number": (
        {"schedule": lambda hyper, t: 0.9**t},
        ("schedule returns a value of type float", "by name"),
    ),
    "a schedule that forgets": (
        {"schedule": lambda hyper, t: {}},
        ("schedule returns no 'momentum' in round 0",),
    ),
    "a schedule that ends": (
        {"schedule": lambda hyper, t: {"momentum": [0.9, 0.5][t]}},
        ("schedule fails in round 2", "IndexError"),
    ),
    "a schedule without a number": (
        {"schedule": lambda hyper, t: {"momentum": float("nan") if t else 0.9}},
        ("schedule returns nan as 'momentum' in round 1",),
    ),
    "a schedule that changes what it is given": (
        {"schedule": changed_hyperparameters},
        ("schedule changes the hyperparameters it was given",),
    ),
    "a schedule with a fact's name": (
        {"schedule": lambda hyper, t: {**hyper, "lr": 0.1}},
        ("schedule: 'lr' is a name of the engine's own",),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named(what):
    changes, words = WRONG[what]
    with refused("method 'mine': ", *words):
        rehearse([of(mine(**changes))])


def test_clients_that_have_finished_may_get_what_they_like():
    """Their gradient is zero, and they stay where they are: 0 / 0 harms nobody."""

    def steepest(grad, W, down, c, h):
        g = grad(W)
        return g / g.norm(dim=-1, keepdim=True) - c.drift / h.steps, c

    def following(grad, W, down, c, h):
        g = grad(W)
        return torch.where(g.norm(dim=-1, keepdim=True) > 0, g, W.mean(-2, keepdim=True)), c

    rehearse([of(mine(direction=steepest))])
    rehearse([of(mine(direction=following))])


def test_an_interruption_is_not_the_methods():
    with pytest.raises(KeyboardInterrupt):
        rehearse([of(mine(**failing(KeyboardInterrupt())))])


@pytest.mark.parametrize(
    ("momentum", "words"),
    [
        (lambda t: 1 / (57 - t), "fails in round 57: ZeroDivisionError: "),
        (lambda t: None if t > 3 else 0.9, "returns None as 'momentum' in round 4, no finite"),
        (lambda t: 1e36 * t, "as 'momentum' in round 341, no finite"),
        (lambda t: random.random() if t == 99 else 0.9, "called again in round 99"),
    ],
)
def test_a_schedule_is_asked_for_every_round_of_the_run(momentum, words):
    method = mine(schedule=lambda hyper, t: {"momentum": momentum(t)})
    rehearse([of(method)], rounds=3)
    with refused("method 'mine': schedule ", words):
        rehearse([of(method)], rounds=400)


def test_a_schedule_need_not_reach_past_the_end_of_the_run():
    method = mine(schedule=lambda hyper, t: {"momentum": [0.9, 0.8, 0.7, 0.6, 0.5][t]})
    rehearse([of(method)], rounds=5)
    with refused("schedule fails in round 5: IndexError"):
        rehearse([of(method)], rounds=6)


def test_of_a_very_long_schedule_a_first_part_is_looked_at():
    asked = []

    def schedule(hyper, t):
        asked.append(t)
        return hyper

    rehearse([of(mine(schedule=schedule)), of(mine(schedule=schedule))], rounds=10**9)
    assert max(asked) == rehearsal.MOST_ROUNDS - 1


READ = {
    "if": lambda w, d, h: w - d / d.norm() if d.norm() > h.momentum else w - d,
    "and": lambda w, d, h: w - (d.sum() > 0 and d),
    "a warm-up": lambda w, d, h: w - d if h.t < 4 else w - h.momentum * d,
    "a hyperparameter": lambda w, d, h: w - d if h.momentum > 0.5 else w,
    "min": lambda w, d, h: w - d * min(1.0, h.momentum / d.norm()),
    "item": lambda w, d, h: w - d * min(1.0, 1 / d.norm(dim=-1).max().item()),
    "float": lambda w, d, h: w - d.clamp(max=float(h.momentum)),
    "int": lambda w, d, h: w - d / int(h.steps.max()),
    "range": lambda w, d, h: w - sum(d for _ in range(h.t.long() + 1)),
    "tolist": lambda w, d, h: w - sum(h.steps.flatten().tolist()) * d,
    "numpy": lambda w, d, h: w - torch.from_numpy(d.numpy()),
    "an array": lambda w, d, h: w - torch.from_numpy(np.asarray(d)),
    "in": lambda w, d, h: w - d if 0.0 in d else w,
    "equal": lambda w, d, h: w if torch.equal(d, w) else w - d,
    "a check": lambda w, d, h: w - d if torch.isfinite(d).all() else w,
}


def stepping(step):
    """A method whose server takes this step: (w, d, h) -> w."""
    return mine(aggregate=lambda w, down, up, s, h: (step(w, mean(down.w - up.w, h.p), h), s))


@pytest.mark.parametrize("how", READ)
def test_what_reads_a_tensors_value_in_python_is_refused(how):
    """It decides for all federations at once, and a rehearsal may not see both ways."""

    def aggregate(w, down, up, s, h):
        return READ[how](w, mean(down.w - up.w, h.p), h), s

    words = "aggregate reads a tensor's value in Python (", "torch.where", "test_rehearsal.py, line"
    with refused("method 'mine': ", *words):
        rehearse([of(mine(aggregate=aggregate))])


AS_LARGE = {
    "x[mask]": lambda w, d, h: w - d[d > 0].sum(),
    "x[mask] ": lambda w, d, h: w - d[..., d[0, 0] > 0].sum(),
    "where()": lambda w, d, h: w - torch.where(d > 0)[0].sum(),
    "nonzero()": lambda w, d, h: w - d.nonzero().sum(),
    "masked_select()": lambda w, d, h: w - d.masked_select(d > 0).sum(),
    "unique()": lambda w, d, h: w - d.unique().sum(),
}


@pytest.mark.parametrize("how", AS_LARGE)
def test_what_is_as_large_as_values_decide_is_refused(how):
    with refused(f"aggregate makes a tensor that is as large as values decide ({how.strip()})"):
        rehearse([of(stepping(AS_LARGE[how]))])


@pytest.mark.parametrize("how", ["tensor", "as_tensor", "new_tensor"])
def test_what_copies_to_the_device_in_each_round_is_refused(how):
    """A GPU would wait for each; a number alone, or a tensor on the host, is in the kernel."""

    def step(w, d, h):
        return w - d * (
            d.new_tensor(0.5) if how == "new_tensor" else getattr(torch, how)(0.5, device=d.device)
        )

    with refused(f"aggregate brings a number of Python's to the device in each call ({how}())"):
        rehearse([of(stepping(step))])
    rehearse([of(stepping(lambda w, d, h: w - torch.full_like(d, 0.5) * torch.tensor(0.5) * d))])


def test_a_method_cannot_catch_the_refusal_to_read_a_value():
    def aggregate(w, down, up, s, h):
        try:
            return w - float(h.momentum) * mean(down.w - up.w, h.p), s
        except Exception:
            return w, s

    with refused("reads a tensor's value in Python (float())"):
        rehearse([of(mine(aggregate=aggregate))])


def test_what_decides_nothing_is_no_reading(capsys):
    def step(w, d, h):
        print(d.norm(), f"{h.t:.0f}")
        return w - d / h.n * torch.tensor([1.0, 0.5], dtype=d.dtype)[(h.t > 3).long()]

    rehearse([of(stepping(step))])
    assert "tensor(" in capsys.readouterr().out


def test_a_branch_is_entered_by_large_and_by_small_numbers():
    def clipped(w, d, h):
        length = d.norm()  # of all federations
        return w - torch.where(length > 100, d * 100 / length, d)

    def floored(w, d, h):
        length = d.norm()
        return w - torch.where(length < 1e-4, d * 1e-4 / length, d)

    for step in (clipped, floored):
        with refused("aggregate mixes the federations"):
            rehearse([of(stepping(step))])


@pytest.mark.parametrize(("after", "rounds"), [(4, 6), (6, 60), (59, 61), (999, 20_000)])
def test_later_rounds_are_rehearsed_too(after, rounds):
    """The last, some between, and those which a hyperparameter may mean: 6 here."""

    def late(w, d, h):
        return w - torch.where(h.t > after, d / d.norm(), d)

    def aggregate(w, down, up, s, h):
        return late(w, mean(down.w - up.w, h.p), h), s

    method = mine(aggregate=aggregate, hyperparameters={"momentum": 0.9, "T_s": 6})
    rehearse([of(method)], rounds=after + 1)
    with refused("aggregate mixes the federations"):
        rehearse([of(method)], rounds=rounds)


def test_the_exchange_of_a_probe_is_rehearsed_too():
    def unsent(W, down, c, h):
        return c, Named(moved=W - down.w)

    def averaged(w, down, up, s, h):
        return w + mean(up.moved, h.p) - unit(s.delta), s

    method = mine(finish=unsent, aggregate=averaged, global_state=("delta", "v"), gradients=2)
    rehearse([of(replace(method, gradients=1))])
    with refused("finish returns no 'w' in the message"):
        rehearse([of(replace(method, probe=Probe("delta")))])
    wanted = replace(
        method, probe=Probe("delta", clients_keep=True), finish=finish, aggregate=aggregate
    )
    rehearse([of(wanted)])
    with refused("2 mini-batch gradients", "gradients=1"):
        rehearse([of(replace(wanted, gradients=1))])


# What a method declares


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *(
            ({"hyperparameters": {name: 0.1}}, ("hyperparameters", repr(name)))
            for name in ("m", "lr", "full_gradient", "keys", "self", "my-rate", "_hidden", "0", "")
        ),
        *(({"name": name}, ("name", "printable", repr(name))) for name in (3, None, "", " ")),
        ({"name": "a\nb"}, ("name", "printable", r"a\nb")),
        ({"name": "\x1b[2J"}, ("name", "printable", r"\x1b")),
        ({"hyperparameters": ["momentum"]}, ("hyperparameters", "dict")),
        ({"global_state": ("get",)}, ("global_state", "'get'")),
        ({"client_state": ("a b",)}, ("client_state", "'a b'")),
        ({"local_state": (1,)}, ("local_state", "1 is not a name")),
        ({"global_state": "momentum"}, ("global_state", "tuple")),
        ({"client_state": ("a", "b"), "local_state": ("b",)}, ("local_state", "'b'", "twice")),
        ({"global_state": ("a",), "client_state": ("a",)}, ("client_state", "'a'", "twice")),
        ({"global_state": ("a", "a")}, ("global_state", "'a'", "twice")),
        ({"direction": None}, ("direction", "function")),
        ({"probe": "yes"}, ("probe", "None or a Probe")),
        ({"probe": Probe("v", clients_keep=1)}, ("probe: clients_keep", "True or False")),
        ({"probe": Probe("delta")}, ("probe: into: 'delta' is not among the global_state", "v")),
        ({"radius": "rho"}, ("radius: 'rho' is not among the hyperparameters", "momentum")),
        ({"gradients": 1.5}, ("gradients", "integer")),
    ],
)
def test_what_cannot_be_declared_is_named(changes, words):
    method = mine(**changes)
    with refused(f"method {method.name!r}: ", *words):
        train(method, hyperparameters={})


# The methods at hand


def as_ones_own(algorithm):
    """Methods of the package are not rehearsed again in every run: this makes it one's own."""
    return replace(algorithm, schedule=lambda hyper, t: algorithm.schedule(hyper, t))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_passes_in_all_its_variants(name):
    choices = variant_choices(name)
    for values in itertools.product(*choices.values()):
        method = as_ones_own(build_algorithm(name, dict(zip(choices, values, strict=True))))
        numbers = {"rho": 0.2, "mu": 0.3}
        numbers = {k: v for k, v in numbers.items() if k in method.hyperparameters}
        rehearse([of(method), of(method, lr=0.02, **numbers)])


def test_the_methods_of_the_documentation_pass(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    for file in (ROOT / "docs" / "examples").glob("*.py"):
        names = [n for n, f in vars(__import__(file.stem)).items() if hasattr(f, "named")]
        assert names
        for name in names:
            rehearse([of(build_algorithm(f"{file.stem}:{name}"))])


def test_the_packages_own_are_not_rehearsed_in_each_run(monkeypatch):
    monkeypatch.setattr(rehearsal, "_play", lambda *_, **__: pytest.fail("was rehearsed"))
    rehearse([of(build_algorithm("fedgloss"))])
    with pytest.raises(pytest.fail.Exception):  # one of its families around a function of a user's
        from fedgloss.algorithms.feddyn import dynamic

        rehearse([of(dynamic("mine", lambda grad, W, h: grad(W), "weighted"))])


def test_methods_that_count_on_the_models_size_are_rehearsed_at_that_size():
    def by_layer(w, down, up, s, h):
        first, rest = mean(down.w - up.w, h.p).split([10, 20], dim=-1)
        return w - torch.cat([unit(first), unit(rest)], dim=-1), s

    rehearse([of(mine(aggregate=by_layer))])
    with refused("aggregate fails on tensors [S, K, P] = [2, 3, 31]", "sum exactly to 31"):
        rehearse([of(mine(aggregate=by_layer), torch.zeros(31))])


def test_messages_may_be_compressed():
    def half(W, down, c, h):
        moved = W - down.w
        step = moved.abs().amax(dim=-1, keepdim=True) / 127 + 1e-30
        return c, Named(moved=(moved / step).round().to(torch.int8), step=step)

    def decoded(w, down, up, s, h):
        return w + mean(up.moved * up.step, h.p), s

    rehearse([of(mine(finish=half, aggregate=decoded))])


@pytest.mark.parametrize("backend", ["stacked", "autograd"])
def test_clients_that_are_trained_one_by_one_get_their_own_full_gradient(backend):
    """`direction` may ask for it too, and a backend may train a few clients of a cohort at a time.

    Steps along full gradients alone are those of whole-client mini-batches.
    """

    def whole(grad, W, down, c, h):
        return h.full_gradient(down.w), c

    def once(grad, W, down, c, h):
        return grad(down.w.expand_as(W)), c

    full = mine(direction=whole, gradients=0)
    options = {"rounds": 2, "clients_per_round": 3, "batch_size": None, "epochs": 2}
    found = train(full, backend=backend, **options)
    expected = train(mine(direction=once), backend="autograd", **options)
    torch.testing.assert_close(found.w, expected.w, rtol=1e-5, atol=1e-6)


# What a rehearsal is for, and what it leaves alone


def train(method, **options):
    generator = torch.Generator().manual_seed(0)
    clients = [
        (torch.randn(4, 3, generator=generator), torch.randint(2, (4,), generator=generator))
        for _ in range(4)
    ]
    model = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.fill_(0.1)
        model[0].bias.fill_(0.2)
    options = {"rounds": 2, "clients_per_round": 2, "batch_size": 2, **options}
    return fedgloss.train(model, clients, method, **options)


def test_without_it_federations_were_mixed_without_a_word():
    """A sum over all dimensions: right alone, in every shape, and another method together."""

    def careless(w, down, up, s, h):
        d = total(down.w - up.w)
        return w - d / d.square().sum().sqrt(), s

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=generator)
    y = torch.randint(2, (8,), generator=generator)
    model = nn.Sequential(nn.Linear(3, 2))
    method = mine(aggregate=careless)

    def after(*seeds):
        some = []
        for seed in seeds:
            w = torch.randn(8, generator=torch.Generator().manual_seed(seed))
            data = ClientData(x, y, tuple(torch.arange(8).split(2)))
            some.append(
                federation(
                    method, {"momentum": 0.9}, w, data,
                    lr=0.1, weight_decay=0.0, participants=2, seed=seed,
                )
            )  # fmt: skip
        gradients = StackedGradients(model, F.cross_entropy)
        simulation = Simulation(some, gradients, batching=Batching(1))
        advance([simulation])
        return simulation.w

    assert not torch.allclose(after(0, 1)[0], after(0)[0], rtol=0.01)
    with refused("method 'mine': aggregate mixes the federations"):
        train(method, hyperparameters={})


def test_it_leaves_random_numbers_and_the_run_alone():
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    found = switches.read()
    rehearse([of(mine())])
    assert switches.differences(found) == []
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.random.get_state()[1].tolist() == before[2]
    result = train(mine())
    assert result.gradients_per_step == 1
    model = 8 * 4
    assert (result.bytes_down, result.bytes_up) == (2 * 2 * 2 * model, 2 * 2 * model)


def test_a_run_that_will_diverge_is_no_fault_of_its_method():
    rehearse([of(mine(), lr=1e30)])
    rehearse([of(mine(aggregate=lambda w, down, up, s, h: (w / 0, s)))])
