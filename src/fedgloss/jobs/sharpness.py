"""The Hessian eigenvalues of a finished run, from files to a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedgloss.data.augment import normalize
from fedgloss.data.dataset import Dataset
from fedgloss.data.partition.partition import load_partition
from fedgloss.engine.start import prepared
from fedgloss.files import write_json
from fedgloss.jobs.measured import data_and_model, manifest_of, parameters
from fedgloss.sharpness.objective import Objective

if TYPE_CHECKING:  # what a job is told decides no number by its code
    from fedgloss.study.jobfile import HessianJob

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
    manifest = manifest_of(job.run)
    result: dict[str, Any] = {"status": manifest["status"], "data": choice, "model": models[0]}
    if manifest["status"] == "diverged":
        write_json(job.out, {**result, "lambda1": None, "eigenvalues": [], "residuals": []})
        return
    with prepared(device, threads) as where:
        dataset, model = data_and_model(job.data, job.run, manifest, where)
        objective = _objective(dataset, model, job.partition, choice, where)
        estimate = power_iteration if choice == "official_code" else top_eigenvalues
        spectrum = estimate(
            objective, parameters(job.run, models[0], model, where), count=job.count
        )
        others = {
            f"lambda1_{name}_model": estimate(
                objective, parameters(job.run, name, model, where), count=1
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
