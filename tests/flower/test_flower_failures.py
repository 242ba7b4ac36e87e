"""Clients that fail, leave, come late or come back."""

import logging

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

import fedgloss
from fedgloss.errors import InputError
from fedgloss.flower import Stopped, client_app, serve
from local_grid import CLIENTS, LocalGrid, on_grid, on_images


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

    result = run(LocalGrid(client_app(deployment, load), CLIENTS), deployment)
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
        deployment.model, clients, "naivefedgloss", rounds=3, clients_per_round=CLIENTS, **work
    )
    torch.testing.assert_close(ours.history, theirs.history, rtol=1e-5, atol=1e-5)


# How a run ends


@pytest.mark.parametrize("error", [InputError("lr: 0.1 %, no less"), Stopped("round 3: nobody")])
def test_what_the_federation_says_at_its_end_is_one_line(error, said, caplog):
    """Flower logs whatever ends a ServerApp with its traceback, as here."""
    logging.getLogger("flwr").log(logging.ERROR, "%s failed", "ServerApp", exc_info=error)
    assert said() == f"ServerApp failed: {error}"
    assert caplog.records[0].exc_info is None


def test_an_error_of_the_users_own_code_keeps_its_traceback(said, caplog):
    logging.getLogger("flwr").log(logging.ERROR, "it failed", exc_info=KeyError("digits"))
    assert said() == "it failed"
    assert "KeyError: 'digits'" in caplog.text
