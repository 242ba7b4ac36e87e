"""Clients that fail, leave, come late or come back; settings that differ; and what is refused."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

from flwr.app import Array

import fedgloss
from fedgloss.errors import InputError
from fedgloss.flower import Deployment, Stopped, client_app, serve
from local_grid import LocalGrid, on_images, small_cnn

M = 4


@pytest.fixture
def said(caplog):
    """The lines that were logged so far."""
    logger = logging.getLogger("flwr")
    propagates, logger.propagate = logger.propagate, True
    caplog.set_level(logging.INFO, logger="flwr")
    yield lambda: "\n".join(caplog.messages)
    logger.propagate = propagates


def on_grid(method="fedgloss", happens=lambda t, k, purpose: None, app=None, **changes):
    deployment, clients, work = on_images(method, **changes)
    app = app or client_app(deployment, lambda c: clients[c.node_config["partition-id"]])
    return LocalGrid(app, M, happens), deployment, clients, work


def run(grid, deployment, **options):
    options = {"rounds": 3, "keep_history": True, **options}
    return serve(grid, deployment, **options)


def missing(client, *rounds, how="silent"):
    return lambda t, k, purpose: how if k == client and t in rounds else None


# Who answers is who counts


@pytest.mark.parametrize("how", ["silent", "late", "gone"])
@pytest.mark.parametrize("method", ["fedavg", "fedgloss", "fedsmoo", "scaffold", "fedopt"])
def test_a_round_is_that_of_the_clients_who_answer(method, how):
    """As if the schedule had never named the one who did not: its weights and its n are theirs."""
    grid, deployment, clients, work = on_grid(method, missing(1, 2, how=how))
    ours = run(grid, deployment)
    schedule = [[0, 1, 2, 3], [0, 2, 3], [0, 1, 2, 3]]
    theirs = fedgloss.train(deployment.model, clients, method, schedule=schedule, **work)
    torch.testing.assert_close(ours.history, theirs.history, rtol=1e-5, atol=1e-5)
    assert ours.bytes_up == theirs.bytes_up


def test_what_a_late_client_learned_counts_for_nothing():
    """It has trained, and kept a state of which the server never heard: it goes on from before."""
    deployment = on_images("fedgloss")[0]
    results = [
        run(on_grid("fedgloss", missing(1, 2, how=how))[0], deployment)
        for how in ("silent", "late")
    ]
    assert torch.equal(results[0].history, results[1].history)


def test_a_client_that_fails_has_one_line_and_the_round_goes_on(said):
    deployment, clients, _ = on_images("fedavg")

    def load(context):
        if context.node_config["partition-id"] == 2:
            raise OSError("the disk is gone")
        return clients[context.node_config["partition-id"]]

    result = run(LocalGrid(client_app(deployment, load), M), deployment)
    assert result.participants == [0, 1, 3]
    assert "takes no part: load: OSError: the disk is gone" in said()
    assert "client 2 is not connected" in said()  # it never said who it is


def test_the_run_stops_at_the_first_failure_if_it_is_asked_to():
    grid, deployment, *_ = on_grid(happens=missing(1, 2))
    with pytest.raises(Stopped, match=r"^round 2: client 1: no answer within 3600 seconds$"):
        run(grid, deployment, failures="stop")


def test_a_round_that_nobody_answers_stops_the_run():
    grid, deployment, *_ = on_grid(happens=lambda t, k, purpose: "silent" if t == 2 else None)
    with pytest.raises(Stopped, match=r"^round 2: no client answered: client 0: no answer"):
        run(grid, deployment, timeout=5)


def test_a_client_that_leaves_is_missed_and_welcome_again(said):
    grid, deployment, *_ = on_grid("fedavg")
    happen = {1: lambda: grid.leave(3), 2: lambda: grid.join(3)}
    result = run(grid, deployment, rounds=4, on_round=lambda t, row: happen.get(t, lambda: None)())
    assert "client 3 is not connected" in said()
    assert result.participants == [0, 1, 2, 3]
    assert "round 2 of 4, 3 of 4 answered" in said()


def test_a_node_that_was_cut_off_goes_on_from_its_state(said):
    grid, deployment, clients, work = on_grid()
    gone = []

    def after(t, row):
        if t == 1:
            gone.append(grid.leave(3))
        elif t == 2:
            grid.come_back(*gone[0])

    ours = run(grid, deployment, on_round=after)
    schedule = [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 3]]
    theirs = fedgloss.train(deployment.model, clients, "fedgloss", schedule=schedule, **work)
    torch.testing.assert_close(ours.history, theirs.history, rtol=1e-5, atol=1e-5)
    assert "lost its state" not in said()


def test_a_node_that_was_started_again_under_its_own_name_is_not_missed(said):
    """With keys of its own a SuperNode is the same node again, with nothing in its memory."""
    grid, deployment, *_ = on_grid()

    def after(t, row):
        if t == 1:
            grid.contexts[grid.node_of(3)].state.clear()

    result = run(grid, deployment, on_round=after)
    assert result.participants == [0, 1, 2, 3]
    assert said().count("client 3 has lost its state and began from zero") == 1


def test_a_node_that_was_started_again_has_lost_its_state_and_says_so(said):
    grid, deployment, *_ = on_grid()
    result = run(grid, deployment, on_round=lambda t, row: grid.restart(3) if t == 1 else None)
    assert result.participants == [0, 1, 2, 3]
    assert said().count("client 3 has lost its state and began from zero") == 1


def test_a_lost_state_stops_a_run_that_is_to_stop_at_a_failure():
    grid, deployment, *_ = on_grid()
    restart = {1: lambda: grid.restart(3)}
    with pytest.raises(Stopped, match=r"^round 2: client 3 has lost its state$"):
        run(
            grid,
            deployment,
            failures="stop",
            on_round=lambda t, row: restart.get(t, lambda: None)(),
        )


@pytest.mark.parametrize("variants", ["recommended", "dual_in_step1"])
def test_a_lost_state_is_said_once_also_in_two_exchanges(variants, said):
    grid, deployment, *_ = on_grid("naivefedgloss", variants=variants)
    run(grid, deployment, on_round=lambda t, row: grid.restart(3) if t == 1 else None)
    assert said().count("client 3 has lost its state and began from zero") == 1


def test_nothing_is_lost_where_a_method_keeps_nothing(said):
    grid, deployment, *_ = on_grid("fedavg")
    run(grid, deployment, on_round=lambda t, row: grid.restart(3) if t == 1 else None)
    assert "lost its state" not in said()


# Two exchanges in a round


def test_naivefedgloss_goes_on_with_those_who_answer_both_exchanges():
    grid, deployment, clients, work = on_grid("naivefedgloss", missing(1, 2, how="gone"))
    ours = run(grid, deployment)
    schedule = [[0, 1, 2, 3], [0, 2, 3], [0, 1, 2, 3]]
    theirs = fedgloss.train(deployment.model, clients, "naivefedgloss", schedule=schedule, **work)
    torch.testing.assert_close(ours.history, theirs.history, rtol=1e-5, atol=1e-5)


def test_naivefedgloss_refuses_another_cohort_in_the_second_exchange():
    def happens(t, k, purpose):
        return "silent" if (t, k, purpose) == (2, 1, "batches") else None

    grid, deployment, *_ = on_grid("naivefedgloss", happens)
    with pytest.raises(Stopped) as error:
        run(grid, deployment)
    assert str(error.value) == (
        "round 2: naivefedgloss needs the same clients in both exchanges of a round, and client 1"
        " did not answer the second"
    )


def test_a_first_exchange_whose_state_is_kept_is_what_the_second_goes_on_from():
    grid, deployment, clients, work = on_grid("naivefedgloss", variants="dual_in_step1")
    ours = run(grid, deployment)
    theirs = fedgloss.train(
        deployment.model, clients, "naivefedgloss", rounds=3, clients_per_round=M, **work
    )
    torch.testing.assert_close(ours.history, theirs.history, rtol=1e-5, atol=1e-5)


# What both sides must agree on


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"lr": 0.2}, "lr: 0.05 on the server, 0.2 here"),
        ({"seed": 4}, "seed: 3 on the server, 4 here"),
        (
            {"hyperparameters": {"rho": 0.1, "rho_l": 0.05, "beta": 10.0}},
            "hyperparameters.rho: 0.05 on the server, 0.1 here",
        ),
        ({"variants": "paper"}, "variants.rho_schedule: official_code on the server"),
        ({"wire": "bfloat16"}, "wire: exact on the server, bfloat16 here"),
        ({"model": torch.nn.Linear(4, 2)}, "model: 410 parameters of float32 in 4 tensors"),
    ],
)
def test_a_client_with_other_settings_takes_no_part(other, line, said):
    deployment, clients, _ = on_images("fedgloss")
    app = client_app(
        lambda c: (
            replace(deployment, **other) if c.node_config["partition-id"] == 1 else deployment
        ),
        lambda c: clients[c.node_config["partition-id"]],
    )
    result = run(LocalGrid(app, M), deployment, rounds=1)
    assert result.participants == [0, 2, 3]
    [refusal] = [entry for entry in said().splitlines() if "takes no part" in entry]
    assert line in refusal


def test_a_client_without_data_takes_no_part(said):
    deployment, clients, _ = on_images("fedgloss")
    clients[2] = (clients[2][0][:0], clients[2][1][:0])
    app = client_app(deployment, lambda c: clients[c.node_config["partition-id"]])
    result = run(LocalGrid(app, M), deployment, rounds=1)
    assert result.participants == [0, 1, 3]
    assert "takes no part: clients[2]: has no samples" in said()
    with pytest.raises(
        Stopped, match=r"^before round 1: node \d+ takes no part: clients\[2\]: has"
    ):
        run(LocalGrid(app, M), deployment, failures="stop")


def test_a_client_whose_data_are_gone_later_is_missed_from_then_on(said):
    deployment, clients, _ = on_images("fedgloss")
    app = client_app(deployment, lambda c: clients[c.node_config["partition-id"]])

    def lose(t, row):
        clients[2] = (clients[2][0][:0], clients[2][1][:0])

    result = run(LocalGrid(app, M), deployment, on_round=lose)
    assert result.participants == [0, 1, 3]
    assert "client 2: clients[2]: has no samples" in said()


@pytest.mark.parametrize("number", [None, "1", -1, 4, True])
def test_a_node_must_say_which_client_it_is(number, said):
    grid, deployment, *_ = on_grid("fedavg")
    grid.contexts[grid.node_of(3)].node_config["partition-id"] = number
    result = run(grid, deployment, rounds=1)
    assert result.participants == [0, 1, 2]
    assert (
        f"node-config: partition-id is {number!r}; allowed: the client's number, 0 to 3" in said()
    )


def test_two_nodes_cannot_be_one_client():
    grid, deployment, *_ = on_grid("fedavg")
    grid.join(2)
    with pytest.raises(InputError, match=r"^node-config: nodes \d+ and \d+ are both client 2"):
        run(grid, deployment)


# What the server is asked


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sampling": "fair"}, "sampling: 'fair' is unknown"),
        ({"failures": "ignore"}, "failures: 'ignore' is unknown"),
        ({"timeout": 0}, "timeout: 0 is not a number of seconds"),
        ({"min_available": 5}, "min_available: 5 is not an integer from 1 to 4"),
        ({"record": ["delta_epsilon"]}, "record: 'delta_epsilon' is unknown"),
        ({"record": ["sharpness"]}, "record: 'sharpness' is measured on the test set"),
        (
            {"rounds": None, "schedule": [[0]], "sampling": "flower"},
            "sampling: 'flower' draws participants; not used together with schedule",
        ),
        ({"clients_per_round": 5}, "clients_per_round: 5 of only 4 clients"),
        ({"test": (torch.zeros(3, 1, 8, 8), torch.zeros(2))}, "test: 3 inputs and 2 targets"),
    ],
)
def test_arguments_that_are_wrong_are_named(options, line):
    grid, deployment, *_ = on_grid("fedavg")
    with pytest.raises(InputError) as error:
        run(grid, deployment, **options)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"algorithm": "centralized-sgd"}, "algorithm: centralized-sgd pools all samples"),
        ({"clients": 0}, "clients: 0 is not an integer of at least 1"),
        ({"wire": "int8"}, "wire: 'int8' is unknown"),
        ({"lr": -1}, "lr: -1 is not a finite number"),
        ({"algorithm": "fedsam"}, "hyperparameters: fedsam needs rho_l"),
    ],
)
def test_deployments_that_are_wrong_are_named(change, line):
    deployment = replace(Deployment(model=small_cnn(), clients=M, algorithm="fedavg"), **change)
    with pytest.raises(InputError) as error:
        serve(LocalGrid(None, M), deployment, rounds=1)
    assert str(error.value).startswith(line)


# A client that goes by its own rules


def meddling(meddle, only="message"):
    """The ClientApp of the images, whose client 1 changes what it answers."""
    deployment, clients, _ = on_images("fedavg")
    right = client_app(deployment, lambda c: clients[c.node_config["partition-id"]])

    def app(message, context):
        reply = right(message, context)
        if context.node_config["partition-id"] == 1 and only in reply.content:
            meddle(reply.content)
        return reply

    return LocalGrid(app, M), deployment


def short(content):
    content["message"]["w"] = Array(content["message"]["w"].numpy()[:7])


def of_another_type(content):
    content["message"]["w"] = Array(content["message"]["w"].numpy().astype("float64"))


def of_words(content):
    content["message"]["w"] = Array(np.array(["a", "b"]))


def of_noise(content):
    content["message"]["w"].data = b"no array"


def of_another_shape_than_it_says(content):
    content["message"]["w"].shape = (7,)


def of_another_name(content):
    content["message"]["v"] = content["message"].pop("w")


def without_message(content):
    del content["message"]


def without_facts(content):
    del content["fedgloss"]


def of_no_samples(content):
    content["fedgloss"]["samples"] = 0


def of_endless_samples(content):
    content["fedgloss"]["samples"] = float("inf")


def without_samples(content):
    del content["fedgloss"]["samples"]


@pytest.mark.parametrize(
    ("meddle", "line"),
    [
        (short, "'w' of its message is [7], expected [410]"),
        (of_another_type, "'w' of its message is torch.float64, expected torch.float32"),
        (of_words, "'w' of its message cannot be read"),
        (of_noise, "'w' of its message cannot be read"),
        (of_another_shape_than_it_says, "'w' of its message cannot be read (it is not what"),
        (of_another_name, "its message has ['v'], expected ['w']"),
        (without_message, "its answer has no message"),
        (without_facts, "its answer is not one of fedgloss.flower's"),
        (of_no_samples, "it says that it has 0 samples"),
        (of_endless_samples, "beside its message is inf in place of a number"),
        (without_samples, "beside its message is None in place of a number"),
    ],
)
def test_an_answer_of_another_form_is_refused_and_the_round_goes_on(meddle, line, said):
    result = run(*meddling(meddle), rounds=1)
    assert result.participants == [0, 2, 3]
    assert f"client 1: {line}" in said()


@pytest.mark.parametrize("number", [-1, 4, 1e9])
def test_a_node_that_says_it_is_nobody_takes_no_part(number, said):
    def meddle(content):
        content["fedgloss"]["client"] = number

    result = run(*meddling(meddle, only="fedgloss"), rounds=1)
    assert result.participants == [0, 2, 3]
    assert "takes no part: it says that it is client" in said()
