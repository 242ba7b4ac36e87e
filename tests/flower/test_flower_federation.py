"""A real federation on the loopback: a SuperLink and four SuperNodes, each a process of its own.

Two runs of ten rounds share it. In round 4 of FedGloSS the SuperNode of client 2 is killed, and in
round 6 it is back; FedSMOO does without that client from its own round 4 on, and goes on meanwhile.
"""

import shutil

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

import fedgloss
from fedgloss.algorithms import build_algorithm
from fedgloss.flower import serve
from fedgloss.tensors import load_metadata, load_tensors
from local_grid import CLIENTS, on_grid, on_images
from processes import HERE, federation_in

pytestmark = pytest.mark.slow

KILLED = 2
SCHEDULES = {
    "fedgloss": "02 12 2 12 02 2 13 0 23 1",
    "fedsmoo": "12 02 2 03 1 3 13 0 03 1",
}
"""The clients of each round; few, since each of them starts a process that imports PyTorch."""


def ids(schedule):
    return [[int(k) for k in cohort] for cohort in schedule.split()]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """The processes, when both runs have ended."""
    folder = tmp_path_factory.mktemp("federation")
    app = shutil.ignore_patterns("__pycache__")
    shutil.copytree(HERE / "loopback", folder / "app", ignore=app)
    first, hold = folder / "fedgloss", folder / "fedgloss" / f"hold-{KILLED}"
    with federation_in(folder, CLIENTS) as federation:
        federation.start_link()
        for k in range(CLIENTS):
            federation.start_node(k)
        submit(federation, "fedgloss", SCHEDULES["fedgloss"], pause_after='"3 5"')
        submit(federation, "fedsmoo", SCHEDULES["fedsmoo"], pause_after='"3"', method='"fedsmoo"')
        for run in SCHEDULES:
            federation.wait_for(folder / run / "done-3")
        hold.touch()
        for run in SCHEDULES:
            (folder / run / "go-3").touch()
        federation.wait_for(first / f"held-{KILLED}")  # it has the message of round 4
        federation.kill(f"node-{KILLED}")
        hold.unlink()
        federation.wait_for(first / "done-5")
        federation.start_node(KILLED)
        (first / "go-5").touch()
        for run in SCHEDULES:
            federation.wait_for(folder / run / "result.safetensors")
        yield federation


def submit(federation, run, schedule, *options, **config):
    """Start the app, whose server reports in a folder of the run's name; what `flwr run` prints."""
    reports = federation.folder / run
    reports.mkdir()
    config |= {"folder": f'"{reports}"', "schedule": f'"{schedule}"'}
    return federation.run(federation.folder / "app", *options, **config)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_ten_rounds_of_fedsmoo_equal_the_library(federation):
    deployment, clients, work = on_images("fedsmoo")
    schedule = ids(SCHEDULES["fedsmoo"])
    simulated = fedgloss.train(deployment.model, clients, "fedsmoo", schedule=schedule, **work)
    found = load_tensors(federation.folder / "fedsmoo" / "result.safetensors")
    assert len(found["history"]) == len(schedule) == 10
    assert_close(found["history"], simulated.history)
    for name in build_algorithm("fedsmoo").global_state:
        assert_close(found[name], simulated.state[name])
    said = load_metadata(federation.folder / "fedsmoo" / "result.safetensors")
    sent = [int(said["bytes_down"]), int(said["bytes_up"])]
    assert sent == [simulated.bytes_down, simulated.bytes_up]
    assert sent == [sum(map(len, schedule)) * 2 * 4 * 410] * 2


def test_fedgloss_equals_the_library_until_the_node_is_back(federation):
    """Its two rounds without the client are those of a schedule that does not name it."""
    deployment, clients, work = on_images("fedgloss")
    schedule = [*ids(SCHEDULES["fedgloss"])[:3], [1], [0]]
    simulated = fedgloss.train(deployment.model, clients, "fedgloss", schedule=schedule, **work)
    found = load_tensors(federation.folder / "fedgloss" / "result.safetensors")
    assert_close(found["history"][:5], simulated.history)


def test_ten_rounds_of_fedgloss_equal_those_in_one_process_where_the_client_begins_from_zero(
    federation,
):
    """Killed in round 4 and back in round 6 it has lost its state, and the server nothing."""
    grid, deployment, *_ = on_grid(
        "fedgloss", lambda t, k, purpose: "silent" if k == KILLED and t in (4, 5) else None
    )
    same = serve(
        grid,
        deployment,
        schedule=ids(SCHEDULES["fedgloss"]),
        keep_history=True,
        on_round=lambda t, row: grid.restart(KILLED) if t == 5 else None,
    )
    found = load_tensors(federation.folder / "fedgloss" / "result.safetensors")
    assert len(found["history"]) == 10
    assert_close(found["history"], same.history)
    for name in ("sigma", "delta"):
        assert_close(found[name], same.state[name])
    said = (federation.folder / "fedgloss" / "log").read_text()
    assert "round 4 of 10, 1 of 2 answered" in said
    assert "round 5 of 10, 1 of 2 answered" in said
    assert said.count("client 2 has lost its state and began from zero") == 1
    assert "round 6 of 10, 1 of 1 answered" in said
    assert "round 9 of 10, 2 of 2 answered" in said


def test_a_mistake_ends_the_run_as_failed_with_one_line(federation):
    """In the log, and in what Flower says about the run."""
    shown = submit(federation, "mistaken", "01 04", "--stream")
    why = "schedule[1]: client 4 does not exist (0 to 3)"
    assert f"ServerApp raised an exception: {why}\n" in shown
    assert "Traceback" not in shown
    status = federation.status_of(shown)
    assert status["status"] == "finished:failed"
    assert status["status-details"] == f"ServerApp failed with exception: {why}"
