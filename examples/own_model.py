"""A model of your own, in the library and in a study.

Run:    python examples/own_model.py
In a study, name the function below, and let Python find this folder (PYTHONPATH=examples):

    models: {mine: {model: "own_model:net"}}

A study needs no other change than `model: mine` in its grid, and the constants that a model without
an entry in methods.yaml has to give; `fedgloss check STUDY` names each that is missing.
"""

import torch
from torch import Tensor, nn

import fedgloss
from digits import federated_digits


class Residual(nn.Module):
    """A network with a skip connection: any module will do that keeps no running statistics."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(pixels, 32), nn.Linear(32, 32)
        self.norm, self.last = nn.LayerNorm(32), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.flatten(1)))
        return self.last(x + torch.relu(self.middle(self.norm(x))))


def net(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The model for images of `shape` (channels, height, width)."""
    channels, height, width = shape
    return Residual(channels * height * width, classes)


if __name__ == "__main__":
    clients, test = federated_digits()
    torch.manual_seed(0)
    result = fedgloss.train(
        net((1, 8, 8), 10),
        clients,
        "feddyn",
        rounds=30,
        clients_per_round=5,
        lr=0.1,
        batch_size=8,
        hyperparameters={"alpha": 0.1},
        test=test,
    )
    print(f"{result.metrics[-1]['accuracy']:.1f} % after {len(result.metrics)} rounds")
