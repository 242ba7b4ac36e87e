"""The Hessian's spectrum at a finished run's models, global and local, from files to files."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedgloss.data.augment import normalize
from fedgloss.data.dataset import Dataset
from fedgloss.data.partition.partition import load_partition
from fedgloss.engine.start import prepared
from fedgloss.errors import InputError
from fedgloss.files import write_json
from fedgloss.jobs.measured import (
    chosen,
    client_of,
    data_and_model,
    hashes_of,
    majority,
    manifest_of,
    parameters,
    training_objective,
    union_of,
)
from fedgloss.sharpness.eigenvalues import Spectrum, power_iteration
from fedgloss.sharpness.krylov import Watch, dot, finite, unwatched
from fedgloss.sharpness.methods import METHODS
from fedgloss.sharpness.objective import Objective
from fedgloss.sharpness.sampling import fitting, sampling_error
from fedgloss.tensors import load_tensors

if TYPE_CHECKING:  # what a job is told decides no number by its code
    from fedgloss.study.jobfile import HessianJob, LocalsJob

Watching = Callable[[str, int], Watch]
"""From what is computed, in words, and the most products that it may take, to who looks on."""


def nobody(label: str, most: int) -> Watch:
    """Nobody looks on."""
    return unwatched


SWAPPED = {
    "cifar10": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cifar100": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2434, 0.2616)),
}
"""The released code normalises each CIFAR with the other's constants here (main.py:313-327)."""
SUBSET_SEED = 0
"""Of the images that are drawn where not all are taken: the same for all cells of a data set."""


def hessian(
    job: "HessianJob", device: str = "auto", threads: int = 1, watching: Watching = nobody
) -> None:
    """Write the largest Hessian eigenvalues of a run's `average` or `final` model as JSON.

    The first of `job.models` is the one reported; of any other, lambda_1 alone is written. The
    first of `job.choices` stands at the top, the other one under its name.

    choice "paper": the union of the clients' training data, or a class-balanced subset of it,
    correct normalisation, no augmentation. "official_code": what the released code does, that is
    the whole test set, swapped normalisation for CIFAR, batches of 64, 20 steps of power iteration.
    """
    choice, *besides = job.choices
    manifest = manifest_of(job.run)
    result: dict[str, Any] = {
        "status": manifest["status"],
        "data": choice,
        "model": job.models[0],
        "method": job.method,
        "images": job.images,
        "sha256": hashes_of(job.run, manifest, *job.models),
    }
    if manifest["status"] == "diverged":
        write_json(job.out, {**result, "lambda1": None, "eigenvalues": [], "residuals": []})
        return
    with prepared(device, threads) as where:
        dataset, model = data_and_model(job.data, job.run, manifest, where)
        points = {name: parameters(job.run, name, model, where) for name in job.models}
        found = {
            name: _spectra(job, name, dataset, model, points, watching) for name in job.choices
        }
        write_json(job.out, {**result, **found[choice], **{name: found[name] for name in besides}})


def _spectra(
    job: "HessianJob",
    choice: str,
    dataset: Dataset,
    model: nn.Module,
    points: dict[str, Tensor],
    watching: Watching,
) -> dict[str, Any]:
    """What is asked for of each model [P], by name, under one choice of data."""
    (first, w), *others = points.items()
    union = union_of(load_partition(job.partition, dataset))
    if choice == "official_code":
        objective, population = _as_released(dataset, model, w.device), len(dataset.test_labels)
    else:
        population = len(union)
        objective = fitting(_of_training(dataset, model, union, job.images, w.device), w)
    where = f"{job.run}: {choice}, {len(objective.targets):,} of {population:,} images"
    spectrum, v = _solved(job, choice, objective, w, job.count, f"{where}: {first} model", watching)
    result: dict[str, Any] = {"lambda1": spectrum.eigenvalues[0]}
    for name, point in others:
        label = f"{where}: {name} model"
        found, _ = _solved(job, choice, objective, point, 1, label, watching)
        result[f"lambda1_{name}_model"] = found.eigenvalues[0]
    result |= {
        "eigenvalues": list(spectrum.eigenvalues),
        "residuals": list(spectrum.residuals),
        "converged": all(spectrum.converged),
        "products": spectrum.products,
        "samples": len(objective.targets),
        "population": population,
    }
    if v is None:  # of the released estimate nothing more is asked
        return result
    result["sampling_error"] = sampling_error(objective, w, v, population)
    if len(objective.targets) < population:
        result["elsewhere"] = _elsewhere(dataset, model, union, len(objective.targets), w, v)
    method = METHODS[job.method]
    if job.trace:
        watch = watching(f"{where}: trace", job.trace)
        result["trace"] = asdict(method.trace(objective, w, job.trace, watch=watch))
    if job.density:
        starts, steps = job.density["starts"], job.density["steps"]
        watch = watching(f"{where}: density", starts * steps)
        density = method.density(objective, w, starts, steps, watch=watch)
        result["density"] = {
            "nodes": [nodes.tolist() for nodes in density.nodes],
            "weights": [weights.tolist() for weights in density.weights],
            "products": density.products,
        }
    return result


def _solved(
    job: "HessianJob | LocalsJob",
    choice: str,
    objective: Objective,
    w: Tensor,
    count: int,
    label: str,
    watching: Watching,
) -> tuple[Spectrum, Tensor | None]:
    """The largest eigenvalues at w [P], and with all but the released estimate a vector [P]."""
    if choice == "official_code":
        return power_iteration(objective, w, count, watch=watching(label, 20 * count)), None
    method = METHODS[job.method]
    return method.eigenvalues(objective, w, count, watch=watching(label, method.most(count)))


def _elsewhere(
    dataset: Dataset, model: nn.Module, union: Tensor, count: int, w: Tensor, v: Tensor
) -> dict[str, Any]:
    """v' H v over as many images as were chosen, none of which was; v [P] is their eigenvector.

    lambda_1 over a sample is on average above that over all images, since its direction is the
    sharpest for this sample; what that direction has over other images is on average below.
    """
    mine = chosen(dataset, union, count, SUBSET_SEED, w.device)
    both = chosen(dataset, union, min(2 * count, len(union)), SUBSET_SEED, w.device)
    others = both[~torch.isin(both, mine)]
    objective = fitting(training_objective(dataset, model, others, w.device), w)
    curvature = dot(v, finite(objective.hessian_vector(w, v)))
    return {"curvature": curvature, "samples": len(others)}


def locals_of_last_round(
    job: "LocalsJob", device: str = "auto", threads: int = 1, watching: Watching = nobody
) -> None:
    """Write lambda_1 of the local models of a run's last round as JSON (paper Table 1).

    Each on its client's own data, all of it, and on the union of all clients' (lambda_1,l and
    lambda_1,g there). A client is known by the class that most of its images have.
    """
    manifest = manifest_of(job.run)
    result: dict[str, Any] = {
        "status": manifest["status"],
        "method": job.method,
        "images": job.images,
        "sha256": hashes_of(job.run, manifest, "local-1"),
    }
    if manifest["status"] == "diverged":
        write_json(job.out, {**result, "locals": []})
        return
    with prepared(device, threads) as where:
        dataset, model = data_and_model(job.data, job.run, manifest, where)
        points = _local_parameters(job.run, model, where)
        partition = load_partition(job.partition, dataset)
        clients, union = partition.clients, union_of(partition)
        everyone = _of_training(dataset, model, union, job.images, where)
        everyone = fitting(everyone, next(iter(points.values())))
        rows = []
        for client, w in points.items():
            if client >= len(clients):
                raise InputError(
                    f"{job.run}/locals.safetensors: clients: {client} is not in {job.partition}"
                )
            name = f"client {client}"
            own = fitting(training_objective(dataset, model, clients[client], where), w)
            label, share = majority(dataset, clients[client])
            rows.append(
                {
                    "client": client,
                    "class": label,
                    "share": share,
                    "images": len(clients[client]),
                    "local": _largest(job, own, w, len(own.targets), f"{name}, own data", watching),
                    "global": _largest(job, everyone, w, len(union), f"{name}, all data", watching),
                }
            )
        sizes = {"samples": len(everyone.targets), "population": len(union)}
        write_json(job.out, {**result, **sizes, "locals": rows})


def _largest(
    job: "LocalsJob",
    objective: Objective,
    w: Tensor,
    population: int,
    label: str,
    watching: Watching,
) -> dict[str, Any]:
    """lambda_1 at w [P], and what its errors are."""
    spectrum, v = _solved(job, "paper", objective, w, 1, f"{job.run}: {label}", watching)
    return {
        "lambda1": spectrum.eigenvalues[0],
        "residual": spectrum.residuals[0],
        "converged": spectrum.converged[0],
        "products": spectrum.products,
        "sampling_error": 0.0 if v is None else sampling_error(objective, w, v, population),
    }


def _of_training(
    dataset: Dataset, model: nn.Module, union: Tensor, images: int | str, where: torch.device
) -> Objective:
    """The mean loss over the union [N] of clients' images, or over so many of them."""
    index = chosen(dataset, union, images, SUBSET_SEED, where)
    return training_objective(dataset, model, index, where)


def _as_released(dataset: Dataset, model: nn.Module, where: torch.device) -> Objective:
    """The mean loss as the released code has it here."""
    mean, std = SWAPPED.get(dataset.name, (dataset.mean, dataset.std))
    dtype = next(model.parameters()).dtype
    return Objective(
        model,
        dataset.test_images.to(where),
        dataset.test_labels.to(where),
        batch_size=64,
        transform=lambda x: normalize(x, mean, std, dtype),
        equal_batches=True,
    )


def _local_parameters(run: Path, model: nn.Module, where: torch.device) -> dict[int, Tensor]:
    """The flat parameters [P] of the last round's local models, by client."""
    path = run / "locals.safetensors"
    clients = load_tensors(path).get("clients")
    if clients is None or not len(clients):
        raise InputError(f"{path}: does not hold the models of a round's participants")
    names = [f"local-{place}" for place in range(1, len(clients) + 1)]
    return {client_of(run, name): parameters(run, name, model, where) for name in names}
