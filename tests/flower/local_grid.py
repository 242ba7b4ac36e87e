"""A Flower grid within the process, whose nodes do what a test says, and two problems to train."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import count

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from torch import nn

from fedgloss.algorithms import METHODS, build_algorithm
from fedgloss.flower import Deployment, client_app

CLIENTS = 4
NUMBERS = {"mu": 0.1, "alpha": 0.1, "beta": 10.0, "rho": 0.05, "rho_l": 0.05, "lambda": 10.0}
FEDERATED = [name for name in METHODS if not build_algorithm(name).pooled]
UNAVAILABLE = 5
"""Flower's code for a node that is gone."""


def numbers_of(method: str) -> dict[str, float]:
    return {n: v for n, v in NUMBERS.items() if n in build_algorithm(method).hyperparameters}


class LocalGrid(Grid):
    """Nodes as the simulation engine makes them, one for each client.

    happens: what becomes of a message to a client in a round (1 first; 0 for the greeting) with a
    purpose: "silent" (it never arrives), "late" (the answer comes when nobody waits for it),
    "gone" (Flower says that the node is), or None.
    """

    def __init__(
        self,
        app: ClientApp,
        clients: int,
        happens: Callable[[int, int, str], str | None] = lambda t, k, purpose: None,
        run_config: dict | None = None,
    ) -> None:
        self.app, self.happens, self.run_config = app, happens, run_config or {}
        self.ids = count(1000)
        # As Flower does where it runs a ServerApp: a message says from where it comes.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
        self.contexts: dict[int, Context] = {}
        self.sent: dict[tuple[int, str], list[Message]] = defaultdict(list)
        self.replies: dict[tuple[int, str], list[Message]] = defaultdict(list)
        for k in range(clients):
            self.join(k)

    def join(self, k: int) -> int:
        """A new node of client k, with nothing in its state."""
        node = next(self.ids)
        config = {"partition-id": k, "num-partitions": len(self.contexts) + 1}
        self.contexts[node] = Context(1, node, config, RecordDict(), self.run_config)
        return node

    def restart(self, k: int) -> None:
        """Client k's node dies, and another one takes its place."""
        self.leave(k)
        self.join(k)

    def leave(self, k: int) -> tuple[int, Context]:
        """What `come_back` takes."""
        node = self.node_of(k)
        return node, self.contexts.pop(node)

    def come_back(self, node: int, context: Context) -> None:
        """The same node is connected again, as after an outage of the network."""
        self.contexts[node] = context

    def node_of(self, k: int) -> int:
        [node] = [n for n, c in self.contexts.items() if c.node_config["partition-id"] == k]
        return node

    def set_run(self, run) -> None: ...

    @property
    def run(self): ...

    def create_message(self, *arguments, **options): ...

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages): ...

    def pull_messages(self, message_ids): ...

    def send_and_receive(self, messages, *, timeout=None) -> Iterable[Message]:
        came = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(next(self.ids))
            context = self.contexts[message.metadata.dst_node_id]
            k, t = context.node_config["partition-id"], int(message.metadata.group_id or 0)
            purpose = message.content["fedgloss"].get("purpose", "greeting")
            self.sent[t, purpose].append(message)
            what = self.happens(t, k, purpose)
            if what == "silent":
                continue
            if what == "gone":
                reply = Message(Error(UNAVAILABLE, "Node Unavailable"), reply_to=message)
            else:
                reply = self._answered(message, context)
            if what != "late":
                self.replies[t, purpose].append(reply)
                came.append(reply)
        return came

    def _answered(self, message: Message, context: Context) -> Message:
        try:
            return self.app(message, context)
        except Exception as error:  # as Flower's nodes do
            return Message(Error(2, f"{type(error)}:<'{error}'>"), reply_to=message)


def small_cnn() -> nn.Module:
    """410 parameters in float32, for images of 8 x 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)
        )


def images(sizes: Iterable[int] = (20, 33, 7, 50)) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Unequal clients."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 1, 8, 8, generator=generator),
            torch.randint(10, (n,), generator=generator),
        )
        for n in sizes
    ]


def on_images(method: str, **options) -> tuple[Deployment, list, dict]:
    """The CNN's deployment, its clients, and the same as options of `fedgloss.train`."""
    numbers = {"hyperparameters": numbers_of(method), "lr": 0.05, "batch_size": 8, "seed": 3}
    numbers |= {"weight_decay": 1e-3, **options}
    clients = images()
    deployment = Deployment(model=small_cnn(), clients=len(clients), algorithm=method, **numbers)
    return deployment, clients, numbers


def on_grid(
    method: str = "fedgloss",
    happens: Callable[[int, int, str], str | None] = lambda t, k, purpose: None,
    **options,
) -> tuple[LocalGrid, Deployment, list, dict]:
    """`on_images`, and a grid whose nodes train that."""
    deployment, clients, work = on_images(method, **options)
    app = client_app(deployment, lambda context: clients[context.node_config["partition-id"]])
    return LocalGrid(app, CLIENTS, happens), deployment, clients, work
