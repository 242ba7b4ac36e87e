"""A real federation on the loopback: a SuperLink and four SuperNodes, each a process of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra flower")

import fedgloss
from fedgloss.algorithms import build_algorithm
from fedgloss.flower import client_app, serve
from fedgloss.tensors import load_metadata, load_tensors
from local_grid import LocalGrid, on_images

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CLIENTS = 4
PATIENCE = 1500.0
"""Seconds for ten rounds; on two quiet cores they take two minutes."""


def free_ports(count):
    with_ports = [socket.socket() for _ in range(count)]
    try:
        for one in with_ports:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in with_ports]
    finally:
        for one in with_ports:
            one.close()


class Federation:
    """The processes, in a folder of their own, all of them on 127.0.0.1."""

    def __init__(self, folder):
        self.folder = folder
        self.link, *self.ports = free_ports(1 + CLIENTS)
        self.home = folder / "home"
        self.home.mkdir()
        address = f'address = "127.0.0.1:{self.link}"\ninsecure = true\n'
        (self.home / "config.toml").write_text(
            f'[superlink]\ndefault = "loopback"\n\n[superlink.loopback]\n{address}'
        )
        here = [str(ROOT / "src"), str(HERE), str(ROOT / "tests" / "spec")]
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(here),
            "FLWR_HOME": str(self.home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
        }
        self.processes = {}

    def start(self, name, command):
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            command,
            env=self.environment,
            cwd=self.folder,
            stdout=log,
            stderr=log,
            start_new_session=True,  # its own children end with it, below
        )

    def start_link(self):
        command = ["flower-superlink", "--insecure", "--host", "127.0.0.1"]
        command += ["--port", str(self.link), "--disable-runtime-dependency-installation"]
        self.start("link", command)

    def start_node(self, k):
        command = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.link}"]
        command += ["--port", str(self.ports[k]), "--node-config", f"partition-id={k}"]
        self.start(f"node-{k}", command)

    def kill(self, name):
        """The process and what it started, at once."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def run(self, name, **config):
        """Submit the app; returns the folder where its server reports."""
        reports = self.folder / name
        reports.mkdir()
        config = {"folder": f'"{reports}"', **config}
        pairs = " ".join(f"{key.replace('_', '-')}={value}" for key, value in config.items())
        app = self.folder / "app"
        if not app.exists():
            shutil.copytree(HERE / "loopback", app, ignore=shutil.ignore_patterns("__pycache__"))
        submitted = subprocess.run(
            ["flwr", "run", str(app), "loopback", "--run-config", pairs],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert submitted.returncode == 0, submitted.stdout + submitted.stderr
        return reports

    def wait_for(self, file):
        end = time.monotonic() + PATIENCE
        while not file.exists():
            said = (self.folder / "link.log").read_text(errors="replace")
            assert time.monotonic() < end, said[-3000:]
            assert "Traceback" not in said, said[-3000:]
            time.sleep(0.2)


@contextmanager
def running(folder):
    federation = Federation(folder)
    try:
        federation.start_link()
        wait_until_open(federation.link)
        for k in range(CLIENTS):
            federation.start_node(k)
        yield federation
    finally:
        for name in [*federation.processes]:
            federation.kill(name)


def wait_until_open(port):
    end = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < end, "the SuperLink does not listen"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    with running(tmp_path_factory.mktemp("federation")) as federation:
        yield federation


@pytest.mark.parametrize("method", ["fedgloss", "fedsmoo"])
def test_ten_rounds_equal_the_simulation(federation, method):
    reports = federation.run(method, method=f'"{method}"', rounds=10)
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
    reports = federation.run("killed", rounds=8, clients_per_round=CLIENTS, pause_after='"3 5"')
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
