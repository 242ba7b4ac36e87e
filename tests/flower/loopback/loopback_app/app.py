"""Both sides of the app. What the test and the processes tell each other are files in a folder."""

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
    """The client's images; where the test asks it to hold still, it does so until it is killed."""
    k, folder = int(context.node_config["partition-id"]), Path(str(context.run_config["folder"]))
    if (folder / f"hold-{k}").exists():
        (folder / f"held-{k}").touch()
        sleep(PATIENCE)
    return images()[k]


client = client_app(deployment, load)
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    config, given = context.run_config, deployment(context)
    folder = Path(str(config["folder"]))
    logging.getLogger("flwr").addHandler(logging.FileHandler(folder / "log"))
    pauses = [int(t) for t in str(config["pause-after"]).split()]

    def after_round(t: int, row) -> None:
        """Say that a round is over; where the test asks for it, wait until it says go."""
        (folder / f"done-{t}").touch()
        if t in pauses:
            wait(lambda: (folder / f"go-{t}").exists())
            wait(lambda: len(list(grid.get_node_ids())) >= given.clients)

    result = serve(
        grid,
        given,
        schedule=[[int(k) for k in ids] for ids in str(config["schedule"]).split()],
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
