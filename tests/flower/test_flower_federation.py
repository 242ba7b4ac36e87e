"""A real federation on the loopback: a SuperLink and four SuperNodes, each a process of its own."""

import shutil
import time

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

import fedgloss
from fedgloss.algorithms import build_algorithm
from fedgloss.flower import client_app, serve
from fedgloss.tensors import load_metadata, load_tensors
from local_grid import LocalGrid, on_images
from processes import HERE, federation_in

pytestmark = pytest.mark.slow

CLIENTS = 4


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    app = shutil.ignore_patterns("__pycache__")
    shutil.copytree(HERE / "loopback", folder / "app", ignore=app)
    with federation_in(folder, CLIENTS) as federation:
        federation.start_link()
        for k in range(CLIENTS):
            federation.start_node(k)
        yield federation


def submit(federation, name, **config):
    """Start the app; returns the folder where its server reports."""
    reports = federation.folder / name
    reports.mkdir()
    federation.run(federation.folder / "app", folder=f'"{reports}"', **config)
    return reports


@pytest.mark.parametrize("method", ["fedgloss", "fedsmoo"])
def test_ten_rounds_equal_the_simulation(federation, method):
    reports = submit(federation, method, method=f'"{method}"', rounds=10)
    federation.wait_for(reports / "result.safetensors")
    deployment, clients, work = on_images(method)
    simulated = fedgloss.train(
        deployment.model, clients, method, rounds=10, clients_per_round=3, **work
    )
    found = load_tensors(reports / "result.safetensors")
    torch.testing.assert_close(found["history"], simulated.history, rtol=1e-5, atol=1e-5)
    for name in build_algorithm(method).global_state:
        torch.testing.assert_close(found[name], simulated.state[name], rtol=1e-5, atol=1e-5)
    said = load_metadata(reports / "result.safetensors")
    sent = [int(said["bytes_down"]), int(said["bytes_up"])]
    assert sent == [simulated.bytes_down, simulated.bytes_up]
    assert sent == [10 * 3 * (2 if method == "fedsmoo" else 1) * 4 * 410] * 2


def test_a_node_is_killed_in_round_4_and_is_back_in_round_6(federation):
    """The rounds go on without it; then it begins from zero, and the server has lost nothing."""
    reports = submit(federation, "killed", rounds=8, clients_per_round=CLIENTS, pause_after='"3 5"')
    federation.wait_for(reports / "done-3")
    (reports / "go-3").write_text(str(CLIENTS))
    time.sleep(1)  # the message is out; to start an app takes a node longer than that
    federation.kill("node-2")
    federation.wait_for(reports / "done-5")
    federation.start_node(2)
    (reports / "go-5").write_text(str(CLIENTS))
    federation.wait_for(reports / "result.safetensors")

    deployment, clients, _ = on_images("fedgloss")
    app = client_app(deployment, lambda context: clients[context.node_config["partition-id"]])
    grid = LocalGrid(
        app, CLIENTS, lambda t, k, purpose: "silent" if k == 2 and t in (4, 5) else None
    )
    same = serve(
        grid,
        deployment,
        rounds=8,
        keep_history=True,
        on_round=lambda t, row: grid.restart(2) if t == 5 else None,
    )
    found = load_tensors(reports / "result.safetensors")
    torch.testing.assert_close(found["history"], same.history, rtol=1e-5, atol=1e-5)
    for name in ("sigma", "delta"):
        torch.testing.assert_close(found[name], same.state[name], rtol=1e-5, atol=1e-5)
    said = (reports / "log").read_text()
    assert "round 4 of 8, 3 of 4 answered" in said
    assert "round 5 of 8, 3 of 4 answered" in said
    assert "client 2 has lost its state and began from zero" in said
    assert "round 6 of 8, 4 of 4 answered" in said
