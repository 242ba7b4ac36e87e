"""What crosses the wire, who is drawn, and a server that goes on from its checkpoints."""

import itertools
import random

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

import fedgloss
from fedgloss.algorithms import build_algorithm
from fedgloss.errors import InputError
from fedgloss.flower import Stopped, serve
from local_grid import CLIENTS, FEDERATED, LocalGrid, on_grid

PARAMETERS = 410
HEADER = 128
"""Bytes with which NumPy's format, which Flower sends, describes an array."""


def arrays(messages):
    return [array for m in messages for array in m.content["message"].values()]


# What crosses the wire


@pytest.mark.parametrize("method", FEDERATED)
def test_the_messages_of_the_method_cross_the_wire_and_nothing_else(method):
    """Counted from Flower's own records, message by message, it is what the library counts."""
    grid, deployment, clients, work = on_grid(method)
    result = serve(grid, deployment, rounds=2, clients_per_round=3)
    simulated = fedgloss.train(
        deployment.model, clients, method, rounds=2, clients_per_round=3, **work
    )
    exchanges = [key for key in grid.sent if key[1] != "greeting"]
    assert len(exchanges) == 2 * (2 if build_algorithm(method).probe else 1)
    for messages, counted in ((grid.sent, "bytes_down"), (grid.replies, "bytes_up")):
        sent = arrays(m for key in exchanges for m in messages[key])
        numbers = sum(len(array.data) - HEADER for array in sent)
        assert numbers == getattr(result, counted) == getattr(simulated, counted)
        assert {array.dtype for array in sent} == {"float32"}
        for message in (m for key in exchanges for m in messages[key]):
            assert {*message.content} == {"message", "fedgloss"}
            beside = message.content["fedgloss"]
            assert len(str(dict(beside))) < 250  # a few numbers


@pytest.mark.parametrize(("method", "models"), [("fedavg", 1), ("fedgloss", 1), ("fedsmoo", 2)])
def test_fedgloss_costs_what_fedavg_costs_and_fedsmoo_twice_that(method, models):
    grid, deployment, *_ = on_grid(method)
    result = serve(grid, deployment, rounds=3)
    assert result.bytes_down == result.bytes_up == 3 * CLIENTS * models * PARAMETERS * 4


def test_bfloat16_halves_the_bytes_and_is_said_in_the_metrics():
    exact, rounded = (
        serve(on_grid("fedgloss", wire=wire)[0], on_grid("fedgloss", wire=wire)[1], rounds=3)
        for wire in ("exact", "bfloat16")
    )
    assert rounded.bytes_down * 2 == exact.bytes_down
    assert rounded.bytes_up * 2 == exact.bytes_up
    assert [row["wire_bits"] for row in rounded.metrics] == [16] * 3
    assert "wire_bits" not in exact.metrics[0]
    apart = (rounded.w - exact.w).norm() / exact.w.norm()
    assert 0 < apart < 0.02


def test_with_bfloat16_the_server_counts_from_what_the_clients_got():
    """Clients that stand still, at a step of zero, move the server nowhere."""
    grid, deployment, *_ = on_grid("fedopt", wire="bfloat16", lr=0.0, weight_decay=0.0)
    result = serve(grid, deployment, rounds=2)
    start = torch.cat([p.detach().flatten() for p in deployment.model.parameters()])
    assert torch.equal(result.w, start)


# Who takes part


def test_the_participants_are_those_that_the_library_draws():
    grid, deployment, clients, work = on_grid("fedavg")
    serve(grid, deployment, rounds=6, clients_per_round=2)
    drawn = [
        [grid.contexts[m.metadata.dst_node_id].node_config["partition-id"] for m in messages]
        for (t, purpose), messages in sorted(grid.sent.items())
        if purpose == "batches"
    ]
    expected = [
        fedgloss.train(
            deployment.model, clients, "fedavg", rounds=t, clients_per_round=2, **work
        ).participants
        for t in range(1, 7)
    ]
    assert drawn == expected


def test_flowers_sampling_draws_among_those_who_are_connected():
    grid, deployment, *_ = on_grid("fedavg")
    grid.leave(1)
    seen = set()
    random.seed(0)
    serve(
        grid,
        deployment,
        rounds=8,
        clients_per_round=2,
        sampling="flower",
        min_available=3,
        failures="stop",
    )
    for (_, purpose), messages in grid.sent.items():
        nodes = [m.metadata.dst_node_id for m in messages]
        assert len(nodes) == (3 if purpose == "greeting" else 2)
        seen |= {grid.contexts[node].node_config["partition-id"] for node in nodes}
    assert seen == {0, 2, 3}


def test_flowers_sampling_needs_somebody_to_draw():
    grid, deployment, *_ = on_grid("fedavg")

    def all_leave(t, row):
        grid.contexts.clear()

    with pytest.raises(Stopped, match=r"^round 2: no client is connected$"):
        serve(grid, deployment, rounds=3, sampling="flower", on_round=all_leave)


def test_the_server_waits_until_enough_nodes_are_connected(monkeypatch):
    grid, deployment, *_ = on_grid("fedavg")
    grid.leave(0)
    waited = []
    monkeypatch.setattr(
        "fedgloss.flower.exchange.sleep", lambda seconds: waited.append(grid.join(0))
    )
    result = serve(grid, deployment, rounds=1)
    assert len(waited) == 1 and result.participants == [0, 1, 2, 3]


def test_the_server_does_not_wait_for_ever(monkeypatch, said):
    """It says now and then for whom it waits, and ends with one line."""
    now = itertools.count(0, 20)
    monkeypatch.setattr("fedgloss.flower.exchange.monotonic", lambda: next(now))
    monkeypatch.setattr("fedgloss.flower.exchange.sleep", lambda seconds: None)
    grid, deployment, *_ = on_grid("fedavg")
    grid.leave(0)
    with pytest.raises(Stopped) as error:
        serve(grid, deployment, rounds=1, connect_timeout=100)
    assert str(error.value) == (
        "before round 1: 3 of 4 nodes are connected after 100 seconds; start the others, or change"
        " min_available or connect_timeout"
    )
    assert [entry for entry in said().splitlines() if "waiting" in entry] == [
        f"fedgloss: 3 of 4 nodes are connected; waiting, for at most {seconds} seconds"
        for seconds in (80, 40)
    ]


# A server that goes on


@pytest.mark.parametrize("method", ["fedavg", "fedgloss", "fedsmoo", "scaffold"])
def test_a_server_that_dies_goes_on_from_its_last_round(tmp_path, method):
    """The clients are up: they go on from the states that they had in that round."""
    whole = serve(*on_grid(method)[:2], rounds=5, keep_history=True)
    grid, deployment, *_ = on_grid(method)

    def die(t, row):
        if t == 3:  # round 3 is played, but no checkpoint has it yet
            raise KeyboardInterrupt

    options = {"rounds": 5, "keep_history": True, "resume": tmp_path / "server"}
    with pytest.raises(KeyboardInterrupt):
        serve(grid, deployment, on_round=die, **options)
    rounds = []
    resumed = serve(grid, deployment, on_round=lambda t, row: rounds.append(t), **options)
    assert rounds == [3, 4, 5]
    assert torch.equal(resumed.history, whole.history)
    assert resumed.metrics == whole.metrics
    assert (resumed.bytes_down, resumed.bytes_up) == (whole.bytes_down, whole.bytes_up)
    for name, value in whole.state.items():
        assert torch.equal(resumed.state[name], value)


def test_a_run_that_stopped_goes_on_when_the_client_is_back(tmp_path):
    grid, deployment, *_ = on_grid("fedgloss")
    grid.happens = lambda t, k, purpose: "silent" if (t, k) == (3, 1) else None
    options = {"rounds": 4, "failures": "stop", "resume": tmp_path / "server"}
    with pytest.raises(Stopped):
        serve(grid, deployment, **options)
    grid.happens = lambda t, k, purpose: None
    resumed = serve(grid, deployment, **options)
    whole = serve(*on_grid("fedgloss")[:2], rounds=4)
    assert torch.equal(resumed.w, whole.w)


def test_a_finished_run_gives_its_result_again_and_asks_nobody(tmp_path):
    grid, deployment, *_ = on_grid("fedgloss")
    options = {"rounds": 2, "keep_history": True, "resume": tmp_path / "server"}
    first = serve(grid, deployment, **options)
    again = serve(LocalGrid(None, 0), deployment, **options)
    assert torch.equal(first.history, again.history)
    assert first.bytes_up == again.bytes_up and first.participants == again.participants


def test_the_checkpoints_of_another_deployment_are_refused(tmp_path):
    grid, deployment, *_ = on_grid("fedgloss")
    serve(grid, deployment, rounds=1, resume=tmp_path / "server")
    grid, deployment, *_ = on_grid("fedgloss", lr=0.2)
    with pytest.raises(InputError, match=r"^resume: .* \(lr differ\)"):
        serve(grid, deployment, rounds=1, resume=tmp_path / "server")


def test_another_training_on_the_same_nodes_begins_anew():
    """What the nodes keep of an earlier one is not taken for this one's."""
    grid, deployment, *_ = on_grid("fedgloss")
    first, second = (serve(grid, deployment, rounds=3) for _ in range(2))
    assert torch.equal(first.w, second.w)
    kept = [key for c in grid.contexts.values() for key in c.state.array_records]
    assert len(kept) == 2 * CLIENTS  # the last round's, and the one before it


def test_a_server_that_goes_on_takes_no_state_of_another_training(tmp_path):
    grid, deployment, *_ = on_grid("fedgloss")

    def stop(t, row):
        if t == 3:
            raise KeyboardInterrupt

    options = {"rounds": 4, "resume": tmp_path / "server"}
    with pytest.raises(KeyboardInterrupt):
        serve(grid, deployment, on_round=stop, **options)
    serve(grid, deployment, rounds=3)
    with pytest.raises(Stopped, match=r"^round 3: client 0 has lost its state; client 1 has"):
        serve(grid, deployment, failures="stop", **options)


def test_a_model_that_is_no_longer_finite_ends_the_run_as_in_the_library():
    grid, deployment, clients, work = on_grid("fedavg", lr=1e30)
    ours = serve(grid, deployment, rounds=4)
    theirs = fedgloss.train(deployment.model, clients, "fedavg", rounds=4, **work)
    assert ours.status == theirs.status == "diverged"
    assert ours.diverged_in == theirs.diverged_in


def test_what_a_client_keeps_is_not_rounded():
    grid, deployment, *_ = on_grid("fedgloss", wire="bfloat16")
    serve(grid, deployment, rounds=1)
    [record] = grid.contexts[grid.node_of(0)].state.array_records.values()
    assert record["sigma_k"].numpy().dtype == np.float32
