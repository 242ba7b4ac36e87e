"""What the server and the clients share: the digits, the network, and how it is trained."""

import torch
from flwr.app import Context
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fedgloss.flower import Deployment

HYPERPARAMETERS = {
    "fedavg": {},
    "fedsam": {"rho_l": 0.05},
    "fedgloss": {"rho": 0.05, "rho_l": 0.05, "beta": 10},
}


def deployment(context: Context) -> Deployment:
    """The federation that the run configuration asks for."""
    config = context.run_config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
        model = nn.Sequential(nn.Flatten(), *layers)
    return Deployment(
        model=model,
        clients=config["clients"],
        algorithm=config["method"],
        hyperparameters=HYPERPARAMETERS.get(config["method"], {}),
        lr=0.1,
        batch_size=8,
    )


def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 1, 8, 8] and labels [1797] of scikit-learn."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    return images, torch.tensor(labels)


def for_testing(targets: Tensor) -> Tensor:
    """A fifth of the images, which no client has."""
    return torch.arange(len(targets)) % 5 == 0
