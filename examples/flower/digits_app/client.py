"""A client: its own images, and nothing else of its own."""

import torch
from flwr.app import Context
from torch import Tensor

from digits_app.task import deployment, digits, for_testing
from fedgloss.flower import client_app


def load(context: Context) -> tuple[Tensor, Tensor]:
    """This client's images, of one or two classes; yours would read them from its disk."""
    images, targets = digits()
    kept = for_testing(targets)
    by_class = torch.argsort(targets[~kept], stable=True)
    part = by_class.chunk(context.run_config["clients"])[context.node_config["partition-id"]]
    return images[~kept][part], targets[~kept][part]


app = client_app(deployment, load)
