"""A finished run that is to be measured: its data, its models and their parameters."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedgloss.data.augment import normalize
from fedgloss.data.dataset import Dataset, load
from fedgloss.data.partition.partition import Partition
from fedgloss.data.subset import balanced_subset
from fedgloss.engine.flat import parameter_shapes
from fedgloss.engine.start import initial_model
from fedgloss.errors import InputError
from fedgloss.files import sha256
from fedgloss.records import COUNT, STATUS, TEXT, read_record
from fedgloss.sharpness.auto import AUTO
from fedgloss.sharpness.objective import Objective
from fedgloss.tensors import load_tensors

MANIFEST = {
    "status": STATUS,
    "inputs": {"data": TEXT},
    "settings": {"model": TEXT, "seed": COUNT},
    "outputs": TEXT.by_name,
}
"""What an analysis needs to know of a run."""


def manifest_of(run: Path) -> dict[str, Any]:
    """A run's manifest; InputError if it does not say what an analysis needs to know."""
    return read_record(run / "manifest.json", MANIFEST)


def data_and_model(
    data: Path, run: Path, manifest: dict[str, Any], where: torch.device
) -> tuple[Dataset, nn.Module]:
    """The data set in a folder, which must be the run's own, and the run's model before round 0."""
    dataset = load(data)
    if dataset.sha256 != manifest["inputs"]["data"]:
        raise InputError(f"{data}: is not the data that {run}/manifest.json says it was trained on")
    settings = manifest["settings"]
    try:
        return dataset, initial_model(settings["model"], dataset, settings["seed"]).to(where)
    except InputError as error:
        raise InputError(f"{run}/manifest.json: settings.model: {error}") from None


def hashes_of(run: Path, manifest: dict[str, Any], *names: str) -> list[str]:
    """The SHA-256 of the files of these models (see `parameters`): what a measurement is of.

    Raises InputError if one is not there, or not the file that the run wrote. A diverged run is not
    measured, and its models are not looked at: it may not have come to one that it was to keep.
    """
    files = [*dict.fromkeys(map(_file_of, names))]
    written = {name: digest for name, digest in manifest["outputs"].items() if name in files}
    for name in files if manifest["status"] != "diverged" else ():
        if not (run / name).is_file():
            raise InputError(f"{run / name}: the run has left no such file")
        if name not in written:
            raise InputError(f"{run / name}: is not among the outputs that manifest.json names")
        if sha256(run / name) != written[name]:
            said = "is not the file that manifest.json describes (SHA-256)"
            raise InputError(f"{run / name}: {said}")
    return [written[name] for name in files if name in written]


def union_of(clients: Partition) -> Tensor:
    """The indices of all training images that clients hold, sorted, int64 [N]."""
    return torch.cat(clients.clients).sort().values


def chosen(
    dataset: Dataset, held: Tensor, images: int | str, seed: int, where: torch.device
) -> Tensor:
    """So many of the training images `held` [N], as many of each class, drawn from a seed.

    images: a number, `all`, or `auto`, which is all on a GPU and AUTO on a processor.
    """
    if images == "auto":
        images = AUTO if where.type == "cpu" else "all"
    if not isinstance(images, int) or images >= len(held):
        return held
    return held[balanced_subset(dataset.train_labels[held], images, seed)]


def training_objective(
    dataset: Dataset, model: nn.Module, index: Tensor, where: torch.device
) -> Objective:
    """The mean loss over these training images [n], normalised and not augmented."""
    mean, std = dataset.mean, dataset.std
    dtype = next(model.parameters()).dtype
    return Objective(
        model,
        dataset.train_images[index].to(where),
        dataset.train_labels[index].to(where),
        transform=lambda x: normalize(x, mean, std, dtype),
    )


def majority(dataset: Dataset, index: Tensor) -> tuple[str, float]:
    """The class that most of these training images have, and what part of them does."""
    counts = torch.bincount(dataset.train_labels[index].long())
    return dataset.classes[int(counts.argmax())], float(counts.max()) / len(index)


def parameters(run: Path, name: str, model: nn.Module, where: torch.device) -> Tensor:
    """The flat parameters [P] of one of a run's models.

    name: `average`, `final`, or `local-1`, `local-2`, ...: the model of the last round's first,
    second, ... participant before aggregation; or `round-75`, say, of a model that was kept.
    """
    if is_local(name):
        path, tensors, place = _locals(run, name)
        tensors = {
            key.removeprefix("model."): stacked[place]
            for key, stacked in tensors.items()
            if key.startswith("model.")
        }
    else:
        path = run / _file_of(name)
        tensors = load_tensors(path)
    # By parameter: in the model's state, one that is shared has several names.
    shapes = parameter_shapes(model)
    if {key: tensor.shape for key, tensor in tensors.items()} != shapes:
        raise InputError(f"{path}: does not hold the parameters of this model")
    w = torch.cat([tensors[key].reshape(-1) for key in shapes]).to(where)
    if not bool(torch.isfinite(w).all()):
        raise InputError(f"{path}: has parameters that are NaN or infinite")
    return w


def _file_of(name: str) -> str:
    """The file of a run that holds one of its models."""
    return "locals.safetensors" if is_local(name) else f"{name}.safetensors"


def is_local(name: str) -> bool:
    """Whether a model is that of a participant of the last round."""
    return re.fullmatch("local-[1-9][0-9]*", name) is not None


def client_of(run: Path, name: str) -> int:
    """The client that a local model is of."""
    _, tensors, place = _locals(run, name)
    return int(tensors["clients"][place])


def _locals(run: Path, name: str) -> tuple[Path, dict[str, Tensor], int]:
    """The file of a run's local models, what it holds, and the place in it of one of them."""
    path, place = run / _file_of(name), int(name.removeprefix("local-")) - 1
    tensors = load_tensors(path)
    clients = tensors.get("clients")
    if clients is None or any(len(t) != len(clients) for t in tensors.values() if t.dim()):
        raise InputError(f"{path}: does not hold the models of a round's participants")
    if place >= len(clients):
        raise InputError(f"{path}: has no {name} (allowed: local-1 to local-{len(clients)})")
    return path, tensors, place
