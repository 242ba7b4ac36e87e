"""A model of few parameters, clients that fit it, and a short training."""

import torch
from torch import nn

import fedgloss

CLASSES = 4


def seeded(build, *arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(*arguments)


class Model(nn.Module):
    """A layer between an embedding of [N, 6] and the classes, and what `forward` makes of it."""

    def __init__(self, inner=None):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.inner = inner or nn.Identity()

    def forward(self, x):
        return self.head(self.hidden(self.embed(x)))

    def hidden(self, h):
        return self.inner(h)


def spectral():
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, CLASSES)))


def federation(sizes=(7, 4, 9), dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 6, generator=generator, dtype=dtype),
            torch.randint(CLASSES, (n,), generator=generator),
        )
        for n in sizes
    ]


def train(model, method="fedavg", clients=None, **options):
    if "schedule" not in options:
        options = {"rounds": 3, "clients_per_round": 2, **options}
    options = {"lr": 0.1, "batch_size": 3, "local_steps": 3, **options}
    clients = federation() if clients is None else clients
    return fedgloss.train(model, clients, method, **options)
