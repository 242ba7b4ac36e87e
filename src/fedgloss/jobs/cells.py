"""A cell to be trained: its files, and its settings as the engine's clients, method and numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedgloss.algorithms.core import Algorithm
from fedgloss.data.dataset import Dataset
from fedgloss.data.partition.partition import Partition
from fedgloss.engine.arguments import resolve_algorithm
from fedgloss.engine.clients import ClientData
from fedgloss.engine.federation import Federation, federation
from fedgloss.engine.numbers import resolve_course, resolve_participation
from fedgloss.engine.task import Course
from fedgloss.errors import InputError
from fedgloss.files import sha256
from fedgloss.study.settings import Settings


@dataclass(frozen=True)
class CellFiles:
    """A cell to train: what decides its numbers, and where its files are."""

    settings: Settings
    partition: Path
    out: Path
    code: str
    """The fingerprint of the code that decides the numbers."""
    checkpoints: Path | None = None


def check_same_shape(cells: Sequence[CellFiles]) -> None:
    """Cells trained together share their data, model and amount of work."""

    def shape(cell: CellFiles) -> dict[str, Any]:
        settings, training = cell.settings, cell.settings.training
        shared: dict[str, Any] = {
            name: getattr(settings, name) for name in ("dataset", "model", "weights", "precision")
        }
        shared["partition.held_out"] = settings.partition.get("held_out")
        free = ("lr", "weight_decay", "clip")
        kept = {"training.keep": training.get("keep", [])}
        return shared | {f"training.{k}": v for k, v in training.items() if k not in free} | kept

    first = shape(cells[0])
    for cell in cells[1:]:
        for name, value in shape(cell).items():
            if value != first[name]:
                raise InputError(
                    f"settings.{name}: cells trained together must agree, but have {first[name]!r}"
                    f" and {value!r}"
                )


def placed(dataset: Dataset, device: torch.device) -> Dataset:
    """The data set with its images on the device, once for all cells.

    What would take more than half of a GPU's free memory stays in the memory-mapped file, from
    which the rounds read what they need.
    """
    tensors = {
        name: getattr(dataset, name)
        for name in ("train_images", "train_labels", "test_images", "test_labels")
    }
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if sum(tensor.nbytes for tensor in tensors.values()) > free / 2:
            return dataset
    return replace(dataset, **{name: tensor.to(device) for name, tensor in tensors.items()})


def cell_course(settings: Settings) -> Course:
    """How long a cell is trained, and what is looked at."""
    training: Mapping[str, Any] = settings.training
    names = ("rounds", "batch_size", "epochs", "evaluate_every", "last", "record")
    asked = {name: training[name] for name in names}
    return resolve_course(**asked, keep=training.get("keep", ()))


def cell_federation(
    cell: CellFiles,
    w: Tensor,
    dataset: Dataset,
    clients: Partition,
    algorithms: dict[str, Algorithm],
) -> Federation:
    """A cell's clients, method and numbers; cells of one method share the `algorithms` entry."""
    settings, training = cell.settings, cell.settings.training
    if len(clients.clients) != training["clients"]:
        raise InputError(
            f"{cell.partition}: has {len(clients.clients)} clients, but training.clients is"
            f" {training['clients']}"
        )
    algorithm, hyperparameters = resolve_algorithm(
        settings.method, settings.variants, settings.hyperparameters
    )
    same = f"{settings.method} {sorted(settings.variants.items())}"
    _, participants = resolve_participation(
        training["rounds"], training["clients_per_round"], None, training["clients"]
    )
    return federation(
        algorithms.setdefault(same, algorithm),
        hyperparameters,
        w,
        ClientData(dataset.train_images, dataset.train_labels, clients.clients),
        lr=training["lr"],
        weight_decay=training["weight_decay"],
        clip=training.get("clip"),
        participants=participants,
        seed=settings.seed,
    )


def is_trial(settings: Settings) -> bool:
    """Whether a cell is tested on images that its clients hold out: it never sees test images."""
    return "held_out" in settings.partition


def cell_test(cell: CellFiles, dataset: Dataset, clients: Partition) -> tuple[Tensor, Tensor]:
    """The test images and labels; a split may name them: the authors' leave one out.

    Those of a trial are training images: what its clients hold out.
    """
    if is_trial(cell.settings) != (clients.held_out is not None):
        raise InputError(f"{cell.partition}: held_out: is not as settings.partition has it")
    if clients.held_out is not None:
        return dataset.train_images[clients.held_out], dataset.train_labels[clients.held_out]
    kept = slice(None) if clients.test is None else clients.test
    if not len(dataset.test_labels[kept]):
        raise InputError(f"{cell.partition}: names no test images")
    return dataset.test_images[kept], dataset.test_labels[kept]


def label_of(cells: Sequence[CellFiles]) -> str:
    """What progress lines call these cells."""
    s = cells[0].settings
    if len(cells) > 1:
        return f"{s.dataset}/{s.model}: {len(cells)} cells together"
    return f"{s.dataset}/alpha-{s.alpha}/{s.algorithm}/seed-{s.seed}"


def checked_weights(file: Path | None, expected: str | None) -> str:
    """The SHA-256 of the file of initial weights, which must be the one that the settings name."""
    if expected is None:
        raise InputError(f"weights: {file} is given, but settings.weights is null")
    if file is None:
        raise InputError(f"weights: no file is given, but settings.weights is {expected}")
    try:
        found = sha256(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    if found != expected:
        raise InputError(f"{file}: has the SHA-256 {found}, but settings.weights is {expected}")
    return found
