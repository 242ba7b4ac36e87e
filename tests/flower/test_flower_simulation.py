"""Through Flower's own simulation engine, whose clients are processes, it is the same again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra flower")
pytest.importorskip("ray", reason="needs the extra flower")

import fedgloss
from fedgloss.algorithms import build_algorithm
from fedgloss.tensors import load_tensors
from local_grid import FEDERATED
from problems import TOLERANCE, assert_close, problem

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SRC, SPEC = HERE.parents[1] / "src", HERE.parent / "spec"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A folder with what every training left."""
    folder = tmp_path_factory.mktemp("simulated")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (SRC, HERE, SPEC))),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    ended = subprocess.run(
        [sys.executable, HERE / "simulated.py", folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("method", FEDERATED)
def test_five_rounds_of_the_simulation_engine_equal_the_library(simulated, method, name):
    deployment, clients, work, course = problem(name, method)
    ours = load_tensors(simulated / f"{name}-{method}.safetensors")
    theirs = fedgloss.train(deployment.model, clients, method, **course, **work)
    assert_close(ours["history"], theirs.history, TOLERANCE[name])
    for state in build_algorithm(method).global_state:
        assert_close(ours[state], theirs.state[state], TOLERANCE[name])
