"""Every federated method on every problem, in one run of Flower's simulation engine.

    python simulated.py FOLDER

Leaves FOLDER/PROBLEM-METHOD.safetensors: the models after each round, and the server's state.
"""

import sys
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fedgloss.flower import client_app, serve
from fedgloss.tensors import save_tensors
from local_grid import FEDERATED
from problems import TOLERANCE, problem

NODES = 4


def apps(folder: Path) -> tuple[ServerApp, ClientApp]:
    """One training after the other; the file NOW says to all processes which it is."""
    now = folder / "now"

    def here() -> tuple:
        return problem(*now.read_text().split())

    client = client_app(
        lambda context: here()[0], lambda context: here()[1][context.node_config["partition-id"]]
    )
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        for name in TOLERANCE:
            for method in FEDERATED:
                now.write_text(f"{name} {method}")
                deployment, clients, _, course = problem(name, method)
                nodes = {"min_available": len(clients), "timeout": 300.0}
                result = serve(grid, deployment, keep_history=True, **course, **nodes)
                left = {"history": result.history, **result.state}
                save_tensors(folder / f"{name}-{method}.safetensors", left)

    return server, client


if __name__ == "__main__":
    server, client = apps(Path(sys.argv[1]))
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(
        server, client, NODES, backend_config={**resources, "init_args": {"num_cpus": 2}}
    )
