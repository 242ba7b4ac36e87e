"""Training runs of a study, from files to files.

The only configuration is the cells' resolved settings (`fedgloss settings` prints them); nothing
has a default here, so that what is recorded in a manifest is all there is.
"""

import contextlib
import platform
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fedgloss import __version__
from fedgloss.data.dataset import Dataset, load
from fedgloss.data.partition.partition import Partition, load_partition
from fedgloss.engine.arguments import (
    check_last,
    check_names,
    check_numbers,
    resolve_algorithm,
    resolve_participation,
)
from fedgloss.engine.assembly import Training, assemble, summary
from fedgloss.engine.checkpoint import Checkpoints
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.federation import federation
from fedgloss.engine.flat import check_model, flatten
from fedgloss.engine.rounds import RECORDS, Row, Run, run_rounds
from fedgloss.engine.start import device_name, initial_model, prepared
from fedgloss.errors import InputError
from fedgloss.files import sha256
from fedgloss.jobs.results import write_results
from fedgloss.study.settings import Settings

OnRound = Callable[[int, Mapping[str, float] | None], None]


@dataclass(frozen=True)
class CellFiles:
    """A cell to train: what decides its numbers, and where its files are."""

    settings: Mapping[str, Any]
    partition: Path
    out: Path
    code: str
    """The fingerprint of the code that decides the numbers."""
    checkpoints: Path | None = None


def train_cells(
    cells: Sequence[CellFiles],
    data: Path,
    *,
    weights: Path | None = None,
    checkpoint_rounds: int = 1000,
    checkpoint_seconds: float = 300.0,
    device: str = "auto",
    threads: int = 1,
    backend: str = "auto",
    watch: Callable[[str, int, float], OnRound] = lambda label, rounds, images: lambda t, row: None,
    on_row: Callable[[CellFiles, Mapping[str, float]], None] = lambda cell, row: None,
) -> list[Training]:
    """Train cells together on one device, and write the results of each into its folder `out`.

    Cells trained together have one data set, model and amount of work; seeds, partitions, methods,
    learning rates and hyperparameters may differ. Each leaves the files that it would leave alone:

    metrics.csv: a row for each evaluated round. final.safetensors, average.safetensors: the model
    after the last round, and the mean over the last `last` rounds, by parameter name.
    locals.safetensors: the models of the last round's participants before aggregation, and their
    numbers (`clients`). manifest.json comes last: settings, provenance, status, hashes.

    weights: the file that the model starts from, if the settings name one by its SHA-256.
    watch: makes, from a label, the rounds and the images a round, a function to call each round.
    on_row: gets each row of metrics as it comes.

    SIGTERM, SIGINT and SIGUSR1 end the runs after a checkpoint, with `Interrupted`.
    Raises InputError if the settings, the data or a partition are not usable.
    """
    for cell in cells:
        Settings.from_json(cell.settings)
    _check_same_shape(cells)
    with prepared(device, threads, cells[0].settings["precision"]) as use_device:
        dataset = _on(load(data, verify=True), use_device)
        settings = cells[0].settings
        inputs = {"data": dataset.sha256}
        if weights is not None or settings["weights"] is not None:
            inputs["weights"] = _checked_weights(weights, settings["weights"])

        model = initial_model(settings["model"], dataset, settings["seed"], weights)
        model = model.to(use_device)
        check_model(model)
        machine = {"device": use_device.type, "backend": backend, "threads": threads}
        machine["torch"] = torch.__version__
        partitions = {file: load_partition(file, dataset) for file in {c.partition for c in cells}}
        hashes = {file: sha256(file) for file in partitions}
        algorithms: dict[str, Any] = {}
        runs, images = [], []
        for cell in cells:
            identity = {"settings": dict(cell.settings), "code": cell.code, **inputs}
            identity |= {"partition": hashes[cell.partition], **machine}
            store = cell.checkpoints and Checkpoints(
                cell.checkpoints, identity, checkpoint_rounds, checkpoint_seconds
            )
            clients = partitions[cell.partition]
            runs.append(_run(cell, dataset, clients, weights, use_device, algorithms, store))
            images.append(_images_a_round(runs[-1], settings["training"]["epochs"]))
        training = settings["training"]
        plan = assemble(
            model,
            F.cross_entropy,
            runs,
            batching=Batching(training["batch_size"], training["epochs"]),
            pipeline=Pipeline(dataset.mean, dataset.std, training["augmentation"]),
            rounds=training["rounds"],
            evaluate_every=training["evaluate_every"],
            last=training["last"],
            record=training["record"],
            backend=backend,
            precision=settings["precision"],
        )

        on_round = watch(_label(cells), plan.rounds, sum(images))
        rounds_here = 0

        def counted(t: int, rows: Sequence[Row]) -> None:
            nonlocal rounds_here
            rounds_here += 1
            on_round(t, _mean([row for row in rows if row]))
            for cell, row in zip(cells, rows, strict=True):
                if row:
                    on_row(cell, row)

        begun = time.monotonic()
        with _stop_on_signals() as stop:
            run_rounds(runs, plan, stop, counted)
        seconds = time.monotonic() - begun
        results = [summary(run, plan) for run in runs]
        for run in runs:  # whoever took a run over writes its results
            if run.checkpoints:
                run.checkpoints.leave_if_taken_over()
        for cell, run, result, count in zip(cells, runs, results, images, strict=True):
            provenance = {
                "code": cell.code,
                "inputs": {**inputs, "partition": hashes[cell.partition]},
                "device": device_name(use_device),
                "threads": threads,
                "precision": settings["precision"],
                "versions": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                    "fedgloss": __version__,
                },
                "cells_together": len(cells),
                "wall_seconds": round(seconds, 3),
                "images_per_second": round(rounds_here * count / max(seconds, 1e-9), 1),
            }
            write_results(cell.out, cell.settings, result, provenance)
            if run.checkpoints:
                run.checkpoints.clear()
        return results


def _on(dataset: Dataset, device: torch.device) -> Dataset:
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


def _check_same_shape(cells: Sequence[CellFiles]) -> None:
    """Cells trained together share their data, model and amount of work."""

    def shape(cell: CellFiles) -> dict[str, Any]:
        settings, training = cell.settings, cell.settings["training"]
        shared = {name: settings[name] for name in ("dataset", "model", "weights", "precision")}
        free = ("lr", "weight_decay")
        return shared | {f"training.{k}": v for k, v in training.items() if k not in free}

    first = shape(cells[0])
    for cell in cells[1:]:
        for name, value in shape(cell).items():
            if value != first[name]:
                raise InputError(
                    f"settings.{name}: cells trained together must agree, but have {first[name]!r}"
                    f" and {value!r}"
                )


def _run(
    cell: CellFiles,
    dataset: Dataset,
    clients: Partition,
    weights: Path | None,
    device: torch.device,
    algorithms: dict[str, Any],
    checkpoints: Checkpoints | None,
) -> Run:
    """A cell as a run; cells of one method share the `algorithms` entry."""
    settings, training = cell.settings, cell.settings["training"]
    if len(clients.clients) != training["clients"]:
        raise InputError(
            f"{cell.partition}: has {len(clients.clients)} clients, but training.clients is"
            f" {training['clients']}"
        )
    algorithm, hyperparameters = resolve_algorithm(
        settings["method"], settings["variants"], settings["hyperparameters"]
    )
    same = f"{settings['method']} {sorted(settings['variants'].items())}"
    algorithm = algorithms.setdefault(same, algorithm)
    _, participants = resolve_participation(
        training["rounds"], training["clients_per_round"], None, training["clients"], algorithm
    )
    check_numbers(
        training["lr"],
        training["weight_decay"],
        training["batch_size"],
        training["epochs"],
        None,
        training["evaluate_every"],
        settings["seed"],
    )
    check_last(training["last"], training["rounds"])
    check_names("training.record", training["record"], RECORDS)
    model = initial_model(settings["model"], dataset, settings["seed"], weights)
    w = flatten(model).to(device)
    data = ClientData(dataset.train_images, dataset.train_labels, clients.clients)
    # A split may name the test images, too: the authors' leave one out.
    kept = slice(None) if clients.test is None else clients.test
    test = dataset.test_images[kept], dataset.test_labels[kept]
    if not len(test[0]):
        raise InputError(f"{cell.partition}: names no test images")
    return Run(
        federation(
            algorithm,
            hyperparameters,
            w,
            data,
            lr=training["lr"],
            weight_decay=training["weight_decay"],
            participants=participants,
            seed=settings["seed"],
        ),
        test,
        checkpoints,
    )


def _images_a_round(run: Run, epochs: int) -> float:
    """The expected number of training images in a round."""
    federation = run.federation
    share = 1.0
    if isinstance(federation.participants, int) and not federation.algorithm.pooled:
        share = federation.participants / len(federation.data.indices)
    return float(federation.sizes.sum()) * epochs * share


def _label(cells: Sequence[CellFiles]) -> str:
    """What progress lines call these cells."""
    s = cells[0].settings
    if len(cells) > 1:
        return f"{s['dataset']}/{s['model']}: {len(cells)} cells together"
    return f"{s['dataset']}/alpha-{s['alpha']}/{s['algorithm']}/seed-{s['seed']}"


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """The mean row of metrics of several cells."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else None


def _checked_weights(file: Path | None, expected: str | None) -> str:
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


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether the run was asked to end (a cluster's warning, Ctrl-C)."""
    asked: list[int] = []
    before = {
        number: signal.signal(number, lambda received, frame: asked.append(received))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    }
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
