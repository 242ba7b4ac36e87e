"""Flower's processes for a test, in a folder of its own and on 127.0.0.1 alone."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE = 1500.0
"""Seconds to wait for any one thing; all of the federation takes minutes on two quiet cores."""


def free_ports(count: int) -> list[int]:
    some = [socket.socket() for _ in range(count)]
    try:
        for one in some:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in some]
    finally:
        for one in some:
            one.close()


class Federation:
    """A SuperLink, and SuperNodes; or a SuperLink that simulates its nodes."""

    def __init__(self, folder: Path, clients: int) -> None:
        self.folder = folder
        self.link, *self.ports = free_ports(1 + clients)
        home = folder / "home"
        home.mkdir()
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "loopback"\n\n[superlink.loopback]\n'
            f'address = "127.0.0.1:{self.link}"\ninsecure = true\n'
        )
        here = [str(ROOT / "src"), str(HERE), str(ROOT / "tests" / "spec")]
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(here),
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
            "OMP_NUM_THREADS": "1",
        }
        self.processes: dict[str, subprocess.Popen] = {}

    def start_link(self, *options: str) -> None:
        command = ["flower-superlink", "--insecure", "--host", "127.0.0.1"]
        command += ["--port", str(self.link), "--disable-runtime-dependency-installation"]
        self._start("link", [*command, *options])
        end = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.link), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < end, "the SuperLink does not listen"
                time.sleep(0.2)

    def start_node(self, k: int) -> None:
        command = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.link}"]
        command += ["--port", str(self.ports[k]), "--node-config", f"partition-id={k}"]
        self._start(f"node-{k}", command)

    def kill(self, name: str) -> None:
        """The process and what it started, at once."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def run(self, app: Path, *options: str, **config: object) -> str:
        """Submit an app; returns what `flwr run` prints."""
        pairs = " ".join(f"{key.replace('_', '-')}={value}" for key, value in config.items())
        return self._ask("run", str(app), "loopback", "--run-config", pairs, *options)

    def status_of(self, shown: str) -> dict[str, str]:
        """What Flower says about a run, from what `flwr run` printed of it."""
        [number] = re.findall(r"Successfully started run (\d+)", shown)
        found = self._ask("ls", "loopback", "--run-id", number, "--format", "json")
        return json.loads(found)["runs"][0]

    def wait_for(self, report: Path) -> None:
        """Wait for a file of the server's; not for ever, nor when it has failed."""
        end, log = time.monotonic() + PATIENCE, report.with_name("log")
        while not report.exists():
            said = log.read_text(errors="replace") if log.exists() else ""
            assert " raised an exception" not in said and time.monotonic() < end, said[-3000:]
            time.sleep(0.2)

    def _ask(self, *arguments: str) -> str:
        """What a command of `flwr` prints."""
        asked = subprocess.run(
            ["flwr", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert asked.returncode == 0, asked.stdout + asked.stderr
        return asked.stdout

    def _start(self, name: str, command: list[str]) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen(
            command,
            env=self.environment,
            cwd=self.folder,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that `kill` reaches what it starts
        )


@contextmanager
def federation_in(folder: Path, clients: int = 0) -> Iterator[Federation]:
    """Processes that end with the block, whatever happens in it."""
    federation = Federation(folder, clients)
    try:
        yield federation
    finally:
        for name in [*federation.processes]:
            federation.kill(name)
