"""The loss surface of a finished run, from files to files; and what every analysis begins with."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedgloss.data.augment import normalize
from fedgloss.data.dataset import Dataset, load
from fedgloss.data.partition.partition import load_partition
from fedgloss.engine.flat import parameter_shapes
from fedgloss.engine.start import initial_model, prepared
from fedgloss.errors import InputError
from fedgloss.files import write_text
from fedgloss.records import COUNT, STATUS, TEXT, read_record
from fedgloss.sharpness.objective import Objective
from fedgloss.tensors import load_tensors

if TYPE_CHECKING:  # what a job is told decides no number by its code
    from fedgloss.study.jobfile import HessianJob, LandscapeJob, LocalsJob

MANIFEST = {
    "status": STATUS,
    "inputs": {"data": TEXT},
    "settings": {"model": TEXT, "seed": COUNT},
}
"""What an analysis needs to know of a run."""


def landscape(job: "LandscapeJob", device: str = "auto", threads: int = 1) -> None:
    """Write the loss surface around a run's averaged model as CSV: x, y, loss, accuracy."""
    from fedgloss.sharpness.landscape import filter_normalized_directions, surface

    manifest = read_record(job.run / "manifest.json", MANIFEST)
    if manifest["status"] == "diverged":
        write_text(job.out, "x,y,loss,accuracy\n")
        return
    with prepared(device, threads) as where:
        dataset, model = data_and_model(job, manifest, where)
        w = parameters(job.run, "average", model, where)
        directions = filter_normalized_directions(model, w, job.seed)
        union = union_of_clients(job.partition, dataset)
        objective = training_objective(dataset, model, union, where)
        grid = surface(objective, w, directions, job.extent, job.points)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["x", "y", "loss", "accuracy"])
        for i, x in enumerate(grid["x"]):
            for j, y in enumerate(grid["y"]):
                values = (x, y, grid["loss"][i, j], grid["accuracy"][i, j])
                writer.writerow([repr(float(value)) for value in values])
        write_text(job.out, text.getvalue())


def data_and_model(
    job: "HessianJob | LocalsJob | LandscapeJob", manifest: dict[str, Any], where: torch.device
) -> tuple[Dataset, torch.nn.Module]:
    """The data that a run was trained on, and a model of its kind; InputError for other data."""
    dataset = load(job.data)
    if dataset.sha256 != manifest["inputs"]["data"]:
        raise InputError(
            f"{job.data}: is not the data that {job.run}/manifest.json says it was trained on"
        )
    settings = manifest["settings"]
    try:
        return dataset, initial_model(settings["model"], dataset, settings["seed"]).to(where)
    except InputError as error:
        raise InputError(f"{job.run}/manifest.json: settings.model: {error}") from None


def union_of_clients(partition: Path, dataset: Dataset) -> torch.Tensor:
    """The indices of all training images that clients hold, sorted, int64 [N]."""
    return torch.cat(load_partition(partition, dataset).clients).sort().values


def training_objective(
    dataset: Dataset, model: torch.nn.Module, index: torch.Tensor, where: torch.device
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


def parameters(run: Path, name: str, model: torch.nn.Module, where: torch.device) -> torch.Tensor:
    """The flat parameters [P] of a run's `average` or `final` model."""
    path = run / f"{name}.safetensors"
    tensors = load_tensors(path)
    # By parameter: in the model's state, one that is shared has several names.
    shapes = parameter_shapes(model)
    if {key: tensor.shape for key, tensor in tensors.items()} != shapes:
        raise InputError(f"{path}: does not hold the parameters of this model")
    return finite(path, torch.cat([tensors[key].reshape(-1) for key in shapes]).to(where))


def finite(path: Path, w: torch.Tensor) -> torch.Tensor:
    """w as it is; InputError naming its file where it has entries that are not finite."""
    if not bool(torch.isfinite(w).all()):
        raise InputError(f"{path}: has parameters that are NaN or infinite")
    return w
