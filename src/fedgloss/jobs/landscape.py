"""Loss surfaces around the models of finished runs, and lines between them: files to files."""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedgloss.data.dataset import Dataset
from fedgloss.data.partition.partition import Partition, load_partition
from fedgloss.engine.start import device_name, prepared
from fedgloss.errors import InputError
from fedgloss.files import write_json, write_text
from fedgloss.jobs.kept import Through, kept
from fedgloss.jobs.measured import (
    chosen,
    client_of,
    data_and_model,
    hashes_of,
    is_local,
    majority,
    manifest_of,
    parameters,
    training_objective,
    union_of,
)
from fedgloss.sharpness.landscape import along, filter_normalized_directions, surface
from fedgloss.sharpness.landscape import line as line_between
from fedgloss.sharpness.objective import Objective

if TYPE_CHECKING:  # what a job is told decides no number by its code
    from fedgloss.study.jobfile import LandscapeJob, LineJob

Watch = Callable[[str, int, float, str], Callable[[int, None], None]]

PASS = 3 * 2**20
"""Bytes of images, as floats, that a processor is given at once: 256 of CIFAR's, all of the digits.

The memory for a larger pass's results is given back to the system and taken again. With the paper's
CNN, 256 images a pass took two thirds of the time of 1,000 or 2,000.
"""


def silent(label: str, points: int, images: float, unit: str) -> Callable[[int, None], None]:
    """Say nothing."""
    return lambda count, row: None


def landscape(
    job: "LandscapeJob", device: str = "auto", threads: int = 1, watch: Watch = silent
) -> None:
    """Write the loss surface around one of a run's models as CSV: x, y, loss, accuracy.

    Beside it, as JSON, what it is of: the model, the data, how many images of how many, and of a
    local model the client. Of a diverged run there are no rows. A job that was killed goes on.

    watch: what is told of each point, made with a label, the points, the images of each, and what
    is counted.
    """
    manifest = manifest_of(job.run)
    of = {"sha256": hashes_of(job.run, manifest, job.model)}
    if manifest["status"] == "diverged":
        _write(job.out, {"status": "diverged", **of}, ["x", "y", "loss", "accuracy"], ())
        return
    with prepared(device, threads) as where:
        dataset, model = data_and_model(job.data, job.run, manifest, where)
        w = parameters(job.run, job.model, model, where)
        clients = load_partition(job.partition, dataset)
        facts: dict[str, Any] = {"status": "completed", "model": job.model, "data": job.on, **of}
        if is_local(job.model):
            facts |= _client(client_of(job.run, job.model), clients, dataset, job)
        elif job.on == "own":
            raise InputError(
                f"on: own, but the model {job.model} has no data of its own; allowed: all"
            )
        held = union_of(clients) if job.on == "all" else clients.clients[facts["client"]]
        objective, counts = _objective(dataset, model, held, job, where)
        with _kept(job, facts | counts, [w], dataset, threads, job.points**2, watch) as through:
            grid = surface(
                objective,
                w,
                filter_normalized_directions(objective.model, w, job.seed),
                job.extent,
                job.points,
                through,
            )
            rows = (
                (x, y, grid["loss"][i, j], grid["accuracy"][i, j])
                for i, x in enumerate(grid["x"])
                for j, y in enumerate(grid["y"])
            )
            _write(job.out, facts | counts, ["x", "y", "loss", "accuracy"], rows)


def line(job: "LineJob", device: str = "auto", threads: int = 1, watch: Watch = silent) -> None:
    """Write loss and accuracy on the line between two models as CSV: t, loss, accuracy.

    Beside it, as JSON, what it is of, as for a surface.
    """
    manifests = [manifest_of(run) for run in (job.run, job.other_run)]
    of = {
        "sha256": [
            *hashes_of(job.run, manifests[0], job.model),
            *hashes_of(job.other_run, manifests[1], job.other_model),
        ]
    }
    if any(manifest["status"] == "diverged" for manifest in manifests):
        _write(job.out, {"status": "diverged", **of}, ["t", "loss", "accuracy"], ())
        return
    with prepared(device, threads) as where:
        dataset, model = data_and_model(job.data, job.run, manifests[0], where)
        ends = [
            parameters(run, name, model, where)
            for run, name in ((job.run, job.model), (job.other_run, job.other_model))
        ]
        held = union_of(load_partition(job.partition, dataset))
        objective, counts = _objective(dataset, model, held, job, where)
        facts = {"status": "completed", "data": "all", **of, **counts}
        with _kept(job, facts, ends, dataset, threads, len(along(job.points)), watch) as through:
            found = line_between(objective, ends[0], ends[1], job.points, through)
            _write(job.out, facts, [*found], zip(*found.values(), strict=True))


def _client(
    client: int, clients: Partition, dataset: Dataset, job: "LandscapeJob"
) -> dict[str, Any]:
    """A client, and the class that most of its images are of."""
    if client >= len(clients.clients):
        raise InputError(f"{job.partition}: has no client {client}, which took part in {job.run}")
    return {"client": client, "class": majority(dataset, clients.clients[client])[0]}


def _objective(
    dataset: Dataset,
    model: torch.nn.Module,
    held: Tensor,
    job: "LandscapeJob | LineJob",
    where: torch.device,
) -> tuple[Objective, dict[str, int]]:
    """The mean loss over images without augmentation, and of how many images of how many it is."""
    index = chosen(dataset, held, job.images, job.seed, where)
    objective = training_objective(dataset, model, index, where)
    if where.type == "cpu":
        most = PASS // (4 * objective.inputs[0].numel())
        objective = replace(objective, batch_size=min(objective.batch_size, max(most, 1)))
    return objective, {"images": len(index), "of": len(held)}


def _kept(
    job: "LandscapeJob | LineJob",
    facts: Mapping[str, Any],
    models: Iterable[Tensor],
    dataset: Dataset,
    threads: int,
    points: int,
    watch: Watch,
) -> AbstractContextManager[Through[Tensor]]:
    """The job's points through what an earlier, killed one has kept, with a line on progress."""
    where = next(iter(models)).device
    identity = {
        **facts,
        "points": job.points,
        "extent": getattr(job, "extent", None),
        "seed": job.seed,
        "models": [hashlib.sha256(w.cpu().numpy().tobytes()).hexdigest() for w in models],
        "dataset": dataset.sha256,
        "partition": hashlib.sha256(job.partition.read_bytes()).hexdigest(),
        "code": job.code,
        # Other machines round otherwise.
        "device": device_name(where),
        "threads": threads,
        "torch": torch.__version__,
    }
    progress = watch(f"{job.run}: {job.out.stem}", points, facts["images"], "point")
    return kept(job.out, identity, lambda count: progress(count, None))


def _write(
    out: Path, facts: Mapping[str, Any], columns: list[str], rows: Iterable[Iterable[float]]
) -> None:
    """The CSV of values, in the shortest digits that are read back as the same numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([repr(float(value)) for value in row] for row in rows)
    write_json(out.with_suffix(".json"), facts)
    write_text(out, text.getvalue())
