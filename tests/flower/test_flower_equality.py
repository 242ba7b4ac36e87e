"""The methods through Flower's messages: what is trained, sent and kept is what the library has."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

import fedgloss
from fedgloss.algorithms import build_algorithm
from fedgloss.algorithms.core import Algorithm, Named, mean, total
from fedgloss.flower import client_app, serve
from local_grid import FEDERATED, LocalGrid
from problems import TOLERANCE, assert_close, problem


def kept_by(grid, k):
    """What client k has in Flower's record of its state, of its last round; None before one."""
    state = grid.contexts[grid.node_of(k)].state
    kept = {key: state[key] for key in state if key.startswith("fedgloss.state.")}
    last = max(kept, key=lambda key: int(key.rpartition(".")[2]), default=None)
    return None if last is None else kept[last]


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("method", FEDERATED)
def test_five_rounds_equal_the_library(method, name):
    deployment, clients, work, course = problem(name, method)
    tolerance = TOLERANCE[name]
    app = client_app(deployment, lambda context: clients[context.node_config["partition-id"]])
    grid = LocalGrid(app, len(clients))
    ours = serve(grid, deployment, keep_history=True, **course)
    theirs = fedgloss.train(deployment.model, clients, method, **course, **work)

    assert_close(ours.history, theirs.history, tolerance)
    algorithm = build_algorithm(method)
    for state in algorithm.global_state:
        assert_close(ours.state[state], theirs.state[state], tolerance)
    for state in algorithm.client_state:
        for k, expected in enumerate(theirs.state[state]):
            kept = kept_by(grid, k)
            if kept is None:  # it never took part
                assert not expected.any()
            else:
                assert_close(torch.from_numpy(kept[state].numpy()), expected, tolerance)
    costs = ("bytes_down", "bytes_up", "gradients_per_step", "participants", "status")
    assert [getattr(ours, cost) for cost in costs] == [getattr(theirs, cost) for cost in costs]
    assert [{*row} for row in ours.metrics] == [{*row} for row in theirs.metrics]
    for mine, other in zip(ours.metrics, theirs.metrics, strict=True):
        assert mine == pytest.approx(other, rel=100 * tolerance, abs=tolerance)


def test_a_method_of_ones_own_sees_the_same_facts_of_the_round():
    """On the clients and on the server: n, m, the weights, the sizes, the steps, the round."""

    def direction(grad, W, down, c, h):
        return grad(W) * (1 + 0.1 * h.n + 0.01 * h.m + h.p + 0.1 * h.share + 0.1 * h.t), c

    def aggregate(w, down, up, s, h):
        pull = 0.01 * h.n + 0.001 * h.m + 0.01 * h.t
        return (1 - 0.01 * pull) * mean(up.w, h.share * h.steps / total(h.share * h.steps)), s

    own = Algorithm("own", direction, aggregate)
    deployment, clients, work, course = problem("cnn", "fedavg")
    deployment = replace(deployment, algorithm=own)
    app = client_app(deployment, lambda context: clients[context.node_config["partition-id"]])
    ours = serve(LocalGrid(app, len(clients)), deployment, keep_history=True, **course)
    theirs = fedgloss.train(deployment.model, clients, own, **course, **work)
    assert_close(ours.history, theirs.history, 1e-5)


def signs_and_a_scalar():
    """Clients send the signs of their steps, in int8, and in bfloat16 half of them; the server
    sends one number beside its model."""

    def broadcast(w, s, h):
        return Named(w=w, radius=0.01 + 0.001 * h.t, round=h.t.to(torch.int32))

    def direction(grad, W, down, c, h):
        return grad(W) + down.radius * W, c

    def finish(W, down, c, h):
        moved = W - down.w
        return c, Named(sign=moved.sign().to(torch.int8), half=moved[..., ::2].to(torch.bfloat16))

    def aggregate(w, down, up, s, h):
        half = mean(up.half.to(w.dtype), h.p).mean(dim=-1, keepdim=True)
        step = down.radius * (1 + down.round) + h.share.mean(dim=-2, keepdim=True) * half
        return w + step * mean(up.sign.to(w.dtype), h.p), s

    return Algorithm("signs", direction, aggregate, broadcast, finish)


@pytest.mark.parametrize("wire", ["exact", "bfloat16"])
def test_messages_of_any_type_cross_the_wire_as_the_library_has_them(wire):
    own = signs_and_a_scalar()
    deployment, clients, work, course = problem("cnn", "fedavg")
    deployment = replace(deployment, algorithm=own, wire=wire)
    app = client_app(deployment, lambda context: clients[context.node_config["partition-id"]])
    grid = LocalGrid(app, len(clients))
    ours = serve(grid, deployment, keep_history=True, **course)
    theirs = fedgloss.train(deployment.model, clients, own, **course, **work)
    down, up = grid.sent[1, "batches"][0], grid.replies[1, "batches"][0]
    kinds = {n: (a.dtype, a.shape) for m in (down, up) for n, a in m.content["message"].items()}
    assert kinds == {
        "w": ("float32", (410,)),
        "radius": ("float32", ()),
        "round": ("int32", ()),
        "sign": ("int8", (410,)),
        "half": ("bfloat16", (205,)),
    }
    assert ours.bytes_up == theirs.bytes_up == course["rounds"] * 3 * (410 + 2 * 205)
    if wire == "exact":
        assert_close(ours.history, theirs.history, 1e-5)
        assert ours.bytes_down == theirs.bytes_down == course["rounds"] * 3 * (4 * 410 + 8)
    else:  # vectors of the model's type alone are rounded
        apart = ours.history[0] - theirs.history[0]
        assert 0 < apart.norm() < 0.05 * theirs.history[0].norm()
        assert ours.bytes_down == course["rounds"] * 3 * (2 * 410 + 8)
