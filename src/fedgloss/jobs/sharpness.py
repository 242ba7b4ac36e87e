"""The analysis of a finished run, from files to files."""

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
from fedgloss.files import write_json, write_text
from fedgloss.records import COUNT, STATUS, TEXT, read_record
from fedgloss.sharpness.objective import Objective
from fedgloss.tensors import load_tensors

if TYPE_CHECKING:  # what a job is told decides no number by its code
    from fedgloss.study.jobfile import HessianJob, LandscapeJob

MANIFEST = {
    "status": STATUS,
    "inputs": {"data": TEXT},
    "settings": {"model": TEXT, "seed": COUNT},
}
"""What an analysis needs to know of a run."""
SWAPPED = {
    "cifar10": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cifar100": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2434, 0.2616)),
}
"""The released code normalises each CIFAR with the other's constants here (main.py:313-327)."""


def hessian(job: "HessianJob", device: str = "auto", threads: int = 1) -> None:
    """Write the largest Hessian eigenvalues of a run's `average` or `final` model as JSON.

    The first of `job.models` is the one reported; of any other, lambda_1 alone is written.

    choice "paper": the union of the clients' training data, correct normalisation, no augmentation,
    Lanczos. "official_code": what the released code does, that is the test set, swapped
    normalisation for CIFAR, batches of 64, 20 steps of power iteration.
    """
    from fedgloss.sharpness.eigenvalues import power_iteration, top_eigenvalues

    choice, models = job.choice, job.models
    manifest = read_record(job.run / "manifest.json", MANIFEST)
    result: dict[str, Any] = {"status": manifest["status"], "data": choice, "model": models[0]}
    if manifest["status"] == "diverged":
        write_json(job.out, {**result, "lambda1": None, "eigenvalues": [], "residuals": []})
        return
    with prepared(device, threads) as where:
        dataset, model = _model_and_data(job, manifest, where)
        objective = _objective(dataset, model, job.partition, choice, where)
        estimate = power_iteration if choice == "official_code" else top_eigenvalues
        spectrum = estimate(
            objective, _parameters(job.run, models[0], model, where), count=job.count
        )
        others = {
            f"lambda1_{name}_model": estimate(
                objective, _parameters(job.run, name, model, where), count=1
            ).eigenvalues[0]
            for name in models[1:]
        }
        write_json(
            job.out,
            {
                **result,
                "lambda1": spectrum.eigenvalues[0],
                **others,
                "eigenvalues": list(spectrum.eigenvalues),
                "residuals": list(spectrum.residuals),
                "converged": all(spectrum.converged),
                "products": spectrum.products,
                "samples": len(objective.targets),
            },
        )


def landscape(job: "LandscapeJob", device: str = "auto", threads: int = 1) -> None:
    """Write the loss surface around a run's averaged model as CSV: x, y, loss, accuracy."""
    from fedgloss.sharpness.landscape import filter_normalized_directions, surface

    manifest = read_record(job.run / "manifest.json", MANIFEST)
    if manifest["status"] == "diverged":
        write_text(job.out, "x,y,loss,accuracy\n")
        return
    with prepared(device, threads) as where:
        dataset, model = _model_and_data(job, manifest, where)
        w = _parameters(job.run, "average", model, where)
        directions = filter_normalized_directions(model, w, job.seed)
        objective = _objective(dataset, model, job.partition, "paper", where)
        grid = surface(objective, w, directions, job.extent, job.points)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["x", "y", "loss", "accuracy"])
        for i, x in enumerate(grid["x"]):
            for j, y in enumerate(grid["y"]):
                values = (x, y, grid["loss"][i, j], grid["accuracy"][i, j])
                writer.writerow([repr(float(value)) for value in values])
        write_text(job.out, text.getvalue())


def _model_and_data(
    job: "HessianJob | LandscapeJob", manifest: dict[str, Any], where: torch.device
) -> tuple[Dataset, torch.nn.Module]:
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


def _objective(
    dataset: Dataset, model: torch.nn.Module, partition: Path, choice: str, where: torch.device
) -> Objective:
    official = choice == "official_code"
    if official:
        images, labels = dataset.test_images, dataset.test_labels
    else:
        union = torch.cat(load_partition(partition, dataset).clients).sort().values
        images, labels = dataset.train_images[union], dataset.train_labels[union]
    mean, std = (
        SWAPPED.get(dataset.name, (dataset.mean, dataset.std))
        if official
        else (
            dataset.mean,
            dataset.std,
        )
    )
    dtype = next(model.parameters()).dtype
    return Objective(
        model,
        images.to(where),
        labels.to(where),
        batch_size=64 if official else 2000,
        transform=lambda x: normalize(x, mean, std, dtype),
        equal_batches=official,
    )


def _parameters(run: Path, name: str, model: torch.nn.Module, where: torch.device) -> torch.Tensor:
    """The flat parameters [P] of a run's `average` or `final` model."""
    path = run / f"{name}.safetensors"
    tensors = load_tensors(path)
    # By parameter: in the model's state, one that is shared has several names.
    shapes = parameter_shapes(model)
    if {key: tensor.shape for key, tensor in tensors.items()} != shapes:
        raise InputError(f"{path}: does not hold the parameters of this model")
    w = torch.cat([tensors[key].reshape(-1) for key in shapes]).to(where)
    if not bool(torch.isfinite(w).all()):
        raise InputError(f"{path}: has parameters that are NaN or infinite")
    return w
