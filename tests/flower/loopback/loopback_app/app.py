"""Both sides of the app. What the server reports, and waits for, are files in a folder."""

import logging
from pathlib import Path
from time import monotonic, sleep

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedgloss.flower import Deployment, client_app, serve
from fedgloss.tensors import save_tensors
from local_grid import images, on_images

PATIENCE = 600.0


def deployment(context: Context) -> Deployment:
    return on_images(str(context.run_config["method"]))[0]


def load(context: Context):
    return images()[int(context.node_config["partition-id"])]


client = client_app(deployment, load)
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    config, given = context.run_config, deployment(context)
    folder = Path(str(config["folder"]))
    logging.getLogger("flwr").addHandler(logging.FileHandler(folder / "log"))
    pauses = [int(t) for t in str(config["pause-after"]).split()]

    def after_round(t: int, row) -> None:
        """Say that a round is over; where the test asked for it, wait until it says go."""
        (folder / f"done-{t}").touch()
        if t in pauses:
            wait(lambda: (folder / f"go-{t}").exists())
            wanted = int((folder / f"go-{t}").read_text())
            wait(lambda: len(list(grid.get_node_ids())) >= wanted)

    result = serve(
        grid,
        given,
        rounds=int(config["rounds"]),
        clients_per_round=int(config["clients-per-round"]),
        timeout=PATIENCE,
        keep_history=True,
        test=images()[0],
        resume=folder / "checkpoints",
        on_round=after_round,
    )
    numbers = {name: str(getattr(result, name)) for name in ("bytes_down", "bytes_up", "status")}
    save_tensors(
        folder / "result.safetensors", {"history": result.history, **result.state}, numbers
    )


def wait(until) -> None:
    """Wait for something, but not for ever."""
    end = monotonic() + PATIENCE
    while not until():
        assert monotonic() < end
        sleep(0.2)
