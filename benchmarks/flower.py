"""What a round costs through Flower: its bytes, and its time beside our engine and Flower's FedAvg.

    python benchmarks/flower.py [--rounds 6] [--json FILE]

Ten clients with scikit-learn's digits train one epoch in mini-batches of 8, in Flower's simulation
engine with two processes of one thread. The methods take turns, twice, in one run on one machine.
What is shown are ratios of the fastest rounds, which other work on the machine disturbs least:
`round / FedAvg` beside Flower's own strategy FedAvg with a plain PyTorch loop on the clients,
`round / engine` beside `fedgloss.train` with one thread. Bytes are counted from Flower's records
and by the library. Needs the extra flower, and scikit-learn.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import fedgloss
from digits import federated_digits
from fedgloss.flower import Deployment, client_app, serve

CLIENTS, LR, BATCH = 10, 0.1, 8
HYPERPARAMETERS = {
    "fedavg": {},
    "fedgloss": {"rho": 0.05, "rho_l": 0.05, "beta": 10.0},
    "fedsmoo": {"rho": 0.05, "beta": 10.0},
}
PLAIN = "Flower's FedAvg"
WIDTHS = {"2,410 parameters": (32,), "300,000 parameters": (512, 512)}


def network(width: str) -> nn.Module:
    """A network for the digits, the same every time."""
    sizes = (64, *WIDTHS[width], 10)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Flatten()]
        for inner, outer in pairwise(sizes):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def samples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ten clients, each with those of two of the examples' twenty."""
    clients, _ = federated_digits()
    pairs = zip(clients[::2], clients[1::2], strict=True)
    return [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in pairs]


def deployment(method: str, width: str) -> Deployment:
    return Deployment(
        model=network(width),
        clients=CLIENTS,
        algorithm=method,
        hyperparameters=HYPERPARAMETERS[method],
        lr=LR,
        batch_size=BATCH,
    )


def plain_training(message: Message, context: Context, width: str) -> Message:
    """A client of Flower's FedAvg, as it is usually written."""
    model = network(width)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = samples()[context.node_config["partition-id"]]
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for batch in torch.randperm(len(x)).split(BATCH):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    content = {"arrays": ArrayRecord(model.state_dict())}
    content["metrics"] = MetricRecord({"num-examples": len(x)})
    return Message(RecordDict(content), reply_to=message)


class Both(ClientApp):
    """Ours or Flower's, by the message; `now` says which method is on."""

    def __init__(self, now: Path) -> None:
        super().__init__()
        self.now = now

    def __call__(self, message: Message, context: Context) -> Message:
        method, width = self.now.read_text().split("/")
        if method == PLAIN:
            return plain_training(message, context, width)
        mine = samples()[context.node_config["partition-id"]]
        return client_app(deployment(method, width), lambda _: mine)(message, context)


def through_flower(grid: Grid, method: str, width: str, rounds: int) -> tuple[list[float], int]:
    """Seconds of each round but the first, and bytes of a round."""
    ends: list[float] = []
    if method == PLAIN:
        arrays, size = ArrayRecord(network(width).state_dict()), 0

        def evaluated(t: int, arrays: ArrayRecord) -> None:
            ends.append(time.monotonic())

        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=CLIENTS)
        strategy.start(grid, arrays, rounds, evaluate_fn=evaluated)
        size = 2 * CLIENTS * sum(array.numpy().nbytes for array in arrays.values())
        ends = ends[1:]  # it is called once before the first round
    else:
        result = serve(
            grid,
            deployment(method, width),
            rounds=rounds,
            on_round=lambda t, row: ends.append(time.monotonic()),
        )
        size = (result.bytes_down + result.bytes_up) // rounds
    return [end - begin for begin, end in pairwise(ends)], size


def in_the_engine(method: str, width: str, rounds: int) -> tuple[list[float], int]:
    """The same with `fedgloss.train`."""
    ends: list[float] = []
    torch.set_num_threads(1)
    given = deployment(method, width)
    result = fedgloss.train(
        given.model,
        samples(),
        method,
        rounds=rounds,
        lr=LR,
        batch_size=BATCH,
        hyperparameters=HYPERPARAMETERS[method],
        on_round=lambda t, row: ends.append(time.monotonic()),
    )
    size = (result.bytes_down + result.bytes_up) // rounds
    return [end - begin for begin, end in pairwise(ends)], size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[dict]] = {}
    server = ServerApp()
    with tempfile.TemporaryDirectory() as folder:
        now = Path(folder) / "now"

        @server.main()
        def measure(grid: Grid, context: Context) -> None:
            for width in WIDTHS:
                seconds, bytes_of = defaultdict(list), {}
                for _ in range(2):
                    for method in (*HYPERPARAMETERS, PLAIN):
                        now.write_text(f"{method}/{width}")
                        took, bytes_of[method] = through_flower(grid, method, width, options.rounds)
                        seconds[method] += took
                        if method != PLAIN:
                            took, counted = in_the_engine(method, width, options.rounds)
                            seconds["engine", method] += took
                            bytes_of["engine", method] = counted
                methods = (*HYPERPARAMETERS, PLAIN)
                found[width] = [row(method, seconds, bytes_of) for method in methods]

        resources = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 2}}
        run_simulation(server, Both(now), CLIENTS, backend_config=resources)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def row(method: str, seconds: dict, bytes_of: dict) -> dict:
    """A method's figures: bytes of a round, and its time as ratios."""
    own = min(seconds[method])
    entry = {
        "method": method,
        "bytes a round": bytes_of[method],
        "round / FedAvg": own / min(seconds[PLAIN]),
    }
    if method != PLAIN:
        entry["the library's count"] = bytes_of["engine", method]
        entry["round / engine"] = own / min(seconds["engine", method])
    return entry


def show(found: dict[str, list[dict]]) -> None:
    for width, rows in found.items():
        print(f"\n{width}")
        for entry in rows:
            texts = {k: f"{v:.2f}" if isinstance(v, float) else v for k, v in entry.items()}
            print(", ".join(f"{name}: {text}" for name, text in texts.items()))


if __name__ == "__main__":
    main()
