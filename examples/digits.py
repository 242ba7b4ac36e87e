"""The handwritten digits of scikit-learn on twenty clients, for the other examples.

Each client holds the images of one or two classes; a fifth of all images is kept for testing.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor

CLIENTS = 20


def federated_digits() -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """One (images [N_k, 1, 8, 8], labels [N_k]) pair for each client; and such a pair for test."""
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    targets = torch.tensor(labels)
    kept = torch.arange(len(targets)) % 5 == 0
    by_class = torch.argsort(targets[~kept], stable=True)  # neighbours are of one class
    clients = [(images[~kept][part], targets[~kept][part]) for part in by_class.chunk(CLIENTS)]
    return clients, (images[kept], targets[kept])


def small_network() -> torch.nn.Module:
    """A network of 2,410 parameters; the same one every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)
        return torch.nn.Sequential(torch.nn.Flatten(), *layers)
