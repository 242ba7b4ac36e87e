"""The methods through Flower's messages: what is trained, sent and kept is what the library has."""

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

import fedgloss
from fedgloss.algorithms import build_algorithm
from fedgloss.flower import Deployment, client_app, serve
from local_grid import FEDERATED, LocalGrid, numbers_of, on_images
from problem import Problem, Quadratic, load_vectors, mean_output

ROUNDS = 5


def of_node(clients):
    """What a node of each client loads."""
    return lambda context: clients[context.node_config["partition-id"]]


def served(deployment, clients, happens=lambda t, k, purpose: None, **options):
    grid = LocalGrid(client_app(deployment, of_node(clients)), len(clients), happens)
    return serve(grid, deployment, keep_history=True, **options), grid


def assert_equal(ours, theirs, tolerance, method):
    """The same trajectory, server state, metrics, costs and participants."""
    assert ours.history.dtype == theirs.history.dtype
    torch.testing.assert_close(ours.history, theirs.history, rtol=tolerance, atol=tolerance)
    for name in build_algorithm(method).global_state:
        torch.testing.assert_close(
            ours.state[name], theirs.state[name], rtol=tolerance, atol=tolerance
        )
    costs = ("bytes_down", "bytes_up", "gradients_per_step", "participants", "status")
    assert [getattr(ours, name) for name in costs] == [getattr(theirs, name) for name in costs]
    assert [row.keys() for row in ours.metrics] == [row.keys() for row in theirs.metrics]
    for mine, other in zip(ours.metrics, theirs.metrics, strict=True):
        assert mine == pytest.approx(other, rel=100 * tolerance, abs=tolerance)


def assert_clients_kept(grid, theirs, method, tolerance):
    """Each client has the state that it has in the library, if it ever took part."""
    for name in build_algorithm(method).client_state:
        for k, context in enumerate(grid.contexts.values()):
            kept = {key: r for key, r in context.state.items() if key.startswith("fedgloss.state")}
            marks = sorted(kept, key=lambda key: int(key.rpartition(".")[2]))
            last = torch.from_numpy(kept[marks[-1]][name].numpy()) if kept else None
            expected = theirs.state[name][k]
            if last is None:
                assert not expected.any()
            else:
                torch.testing.assert_close(last, expected, rtol=tolerance, atol=tolerance)


def the_vectors_problem(method):
    """The quadratic clients of the float64 vectors, five rounds of some of them."""
    given = load_vectors()["problem"]
    problem = Problem(given["A"], given["a"], given["N"], given["w0"])
    m = len(given["N"])
    clients = problem.clients(m)
    work = {"lr": given["lr"], "local_steps": given["local_steps"], "batch_size": None}
    work |= {"weight_decay": 0.05, "hyperparameters": numbers_of(method), "loss": mean_output}
    model = Quadratic(problem.w0, problem.split)
    schedule = [[0, 1], [1, 2], [0, 1, 2], [2], [2, 0]]
    return Deployment(model=model, clients=m, algorithm=method, **work), clients, work, schedule


@pytest.mark.parametrize("method", FEDERATED)
def test_the_vectors_problem_in_float64(method):
    deployment, clients, work, schedule = the_vectors_problem(method)
    record = ["norms", "communication"] if method != "fedspeed" else ["communication"]
    ours, grid = served(deployment, clients, schedule=schedule, record=record)
    theirs = fedgloss.train(
        deployment.model, clients, method, schedule=schedule, record=record, **work
    )
    assert_equal(ours, theirs, 1e-10, method)
    assert_clients_kept(grid, theirs, method, 1e-10)


@pytest.mark.parametrize("method", FEDERATED)
def test_a_small_cnn_in_float32(method):
    deployment, clients, work = on_images(method)
    drawn = {"rounds": ROUNDS, "clients_per_round": 3, "test": clients[1], "evaluate_every": 2}
    ours, grid = served(deployment, clients, **drawn)
    theirs = fedgloss.train(deployment.model, clients, method, **drawn, **work)
    assert_equal(ours, theirs, 1e-5, method)
    assert_clients_kept(grid, theirs, method, 1e-5)
