"""The example runs as its README says, and what it prints is what the library finds."""

import re
import shutil
from types import SimpleNamespace

import pytest

pytest.importorskip("flwr", reason="needs the extra flower")
pytest.importorskip("ray", reason="needs the extra flower")

import fedgloss
from processes import ROOT, federation_in

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "examples" / "flower"
ROUNDS = 5


def test_the_example_runs_in_the_simulation_engine(tmp_path, monkeypatch):
    app = shutil.copytree(EXAMPLE, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    nodes = "num-supernodes=10 client-resources-num-cpus=1"
    with federation_in(tmp_path) as federation:
        federation.start_link("--simulation")
        shown = federation.run(
            app, "--stream", "--federation-config", nodes, method="'fedgloss'", rounds=ROUNDS
        )
    [(accuracy, sent)] = re.findall(r"^fedgloss: ([\d.]+) %, ([\d.]+) MB sent$", shown, re.M)

    monkeypatch.syspath_prepend(EXAMPLE)
    from digits_app import client, task

    config = {"method": "fedgloss", "clients": 10}
    deployment = task.deployment(SimpleNamespace(run_config=config))
    clients = [
        client.load(SimpleNamespace(run_config=config, node_config={"partition-id": k}))
        for k in range(10)
    ]
    images, targets = task.digits()
    kept = task.for_testing(targets)
    result = fedgloss.train(
        deployment.model,
        clients,
        deployment.algorithm,
        rounds=ROUNDS,
        clients_per_round=5,
        lr=deployment.lr,
        batch_size=deployment.batch_size,
        hyperparameters=deployment.hyperparameters,
        test=(images[kept], targets[kept]),
    )
    assert float(accuracy) == pytest.approx(result.metrics[-1]["accuracy"], abs=0.3)
    assert float(sent) == pytest.approx((result.bytes_down + result.bytes_up) / 1e6, abs=0.005)
