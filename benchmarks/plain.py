"""The plain loop: a round as it is usually written, the yardstick of benchmarks/engine.py.

One nn.Module, one DataLoader over a Dataset with torchvision's transforms, one torch.optim.SGD for
each client; SAM and the ADMM terms of FedGloSS in a loop over the parameters.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from fedgloss.torchvision_compat import torchvision


class Net(nn.Module):
    """The CIFAR CNN of the paper."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 64, 5), nn.Conv2d(64, 64, 5)
        self.fc1, self.fc2 = nn.Linear(1600, 384), nn.Linear(384, 192)
        self.fc3 = nn.Linear(192, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))
        return self.fc3(x)


class SmallNet(nn.Module):
    """The CNN of the quickstart's digits."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(128, 64), nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Images(Dataset):
    """uint8 images [N, C, H, W] through torchvision's transforms, one at a time."""

    def __init__(self, images: Tensor, labels: Tensor, augmented: bool) -> None:
        T = torchvision("transforms")
        channels = images.shape[1]
        steps = [T.RandomCrop(32, 4), T.RandomHorizontalFlip()] if augmented else []
        normalize = T.Normalize((0.5,) * channels, (0.25,) * channels)
        self.transform = T.Compose([T.ToTensor(), *steps, normalize])
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy(), labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images[i]), int(self.labels[i])


@dataclass
class PlainLoop:
    """FedAvg with SGD, or FedGloSS's local problem: SAM on the clients and the ADMM terms."""

    model: nn.Module
    data: Dataset
    clients: list[range]
    batch_size: int
    lr: float = 0.01
    weight_decay: float = 4e-4
    sam: bool = False
    rho_l: float = 0.15
    beta: float = 10.0

    def __post_init__(self) -> None:
        self.duals = [[torch.zeros_like(p) for p in self.model.parameters()] for _ in self.clients]

    def round(self, participants: Iterable[int]) -> None:
        """Local training of these clients, then their mean."""
        trained = [self.train(k) for k in participants]
        with torch.no_grad():
            for p, values in zip(self.model.parameters(), zip(*trained, strict=True), strict=True):
                p.copy_(torch.stack(values).mean(0))

    def train(self, k: int) -> list[Tensor]:
        """One epoch of client k from the global model."""
        start = [p.detach().clone() for p in self.model.parameters()]
        model = copy.deepcopy(self.model)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        for x, y in self.batches(k):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if self.sam:
                self.sharpness_aware(model, optimizer, x, y)
                with torch.no_grad():
                    for p, s, dual in zip(model.parameters(), start, self.duals[k], strict=True):
                        p.grad.add_((p - s) / self.beta - dual)
            optimizer.step()
        if self.sam:
            with torch.no_grad():
                for p, s, dual in zip(model.parameters(), start, self.duals[k], strict=True):
                    dual.sub_((p - s) / self.beta)
        return [p.detach() for p in model.parameters()]

    def batches(self, k: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Client k's mini-batches of one epoch, on the model's device."""
        device = next(self.model.parameters()).device
        for x, y in DataLoader(Subset(self.data, self.clients[k]), self.batch_size, shuffle=True):
            yield x.to(device), y.to(device)

    def sharpness_aware(self, model, optimizer, x: Tensor, y: Tensor) -> None:
        """Replace the gradients by those at the perturbed point."""
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm() + 1e-12
            steps = [p.grad * (self.rho_l / norm) for p in model.parameters()]
            for p, step in zip(model.parameters(), steps, strict=True):
                p.add_(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for p, step in zip(model.parameters(), steps, strict=True):
                p.sub_(step)
