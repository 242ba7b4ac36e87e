"""One training run of a study, from files to files.

The only configuration is the cell's resolved settings (`fedgloss settings` prints them); nothing
has a default here, so that what is recorded in the manifest is all there is.
"""

import contextlib
import csv
import io
import platform
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedgloss import __version__
from fedgloss.algorithms import build_algorithm
from fedgloss.data.datasets import load
from fedgloss.data.partitions import load_partition
from fedgloss.errors import InputError
from fedgloss.files import sha256, write_json, write_text
from fedgloss.settings import check_settings
from fedgloss.simulation.checkpoint import Checkpoints
from fedgloss.simulation.clients import ClientData, Pipeline
from fedgloss.simulation.flat import parameter_shapes, unflatten
from fedgloss.simulation.start import device_name, initial_model, prepare_torch
from fedgloss.simulation.train import Training, train
from fedgloss.tensors import save_tensors

MANIFEST_FORMAT = 1

OnRound = Callable[[int, dict[str, float] | None], None]


def train_cell(
    settings: Mapping[str, Any],
    data: Path,
    partition: Path,
    out: Path,
    *,
    code: str,
    weights: Path | None = None,
    checkpoints: Path | None = None,
    checkpoint_rounds: int = 1000,
    checkpoint_seconds: float = 300.0,
    device: str = "auto",
    threads: int = 1,
    backend: str = "auto",
    watch: Callable[[str, int, float], OnRound] = lambda label, rounds, images: lambda t, row: None,
) -> Training:
    """Train one cell and write its results into the folder `out`.

    metrics.csv: a row for each evaluated round. final.safetensors, average.safetensors: the model
    after the last round, and the mean over the last `last` rounds, by parameter name.
    locals.safetensors: the models of the last round's participants before aggregation, and their
    numbers (`clients`). manifest.json comes last: settings, provenance, status, hashes.
    weights: the file that the model starts from, if the settings name one by its SHA-256.
    watch: makes, from a label, the rounds and the images a round, a function to call each round.

    SIGTERM, SIGINT and SIGUSR1 end the run after a checkpoint, with `Interrupted`.
    Raises InputError if the settings, the data or the partition are not usable.
    """
    check_settings(settings)
    use_device = prepare_torch(device, threads)
    dataset = load(data)
    clients = load_partition(partition, dataset)
    training = settings["training"]
    if len(clients.clients) != training["clients"]:
        raise InputError(
            f"{partition}: has {len(clients.clients)} clients, but training.clients is"
            f" {training['clients']}"
        )
    # A split may name the test images, too: the authors' leave one out.
    test = slice(None) if clients.test is None else clients.test
    inputs = {"data": dataset.sha256, "partition": sha256(partition)}
    if weights or settings["weights"]:
        inputs["weights"] = _checked_weights(weights, settings["weights"])
    model = initial_model(settings["model"], dataset, settings["seed"], weights).to(use_device)
    store = None
    if checkpoints is not None:
        identity = {"settings": dict(settings), "code": code, **inputs, "device": use_device.type}
        identity |= {"backend": backend, "threads": threads, "torch": torch.__version__}
        store = Checkpoints(checkpoints, identity, checkpoint_rounds, checkpoint_seconds)
    label = f"{settings['dataset']}/alpha-{settings['alpha']}/{settings['algorithm']}"
    algorithm = build_algorithm(settings["method"], settings["variants"])
    images = sum(len(index) for index in clients.clients) * training["epochs"]
    if not algorithm.pooled:
        images *= training["clients_per_round"] / training["clients"]
    on_round = watch(f"{label}/seed-{settings['seed']}", training["rounds"], images)
    rounds_here = 0

    def counted(t: int, row: dict[str, float] | None) -> None:
        nonlocal rounds_here
        rounds_here += 1
        on_round(t, row)

    begun = time.monotonic()
    with _stop_on_signals() as stop:
        result = train(
            model,
            ClientData(dataset.train_images, dataset.train_labels, clients.clients),
            algorithm,
            rounds=training["rounds"],
            clients_per_round=training["clients_per_round"],
            lr=training["lr"],
            weight_decay=training["weight_decay"],
            batch_size=training["batch_size"],
            epochs=training["epochs"],
            hyperparameters=settings["hyperparameters"],
            seed=settings["seed"],
            test=(dataset.test_images[test], dataset.test_labels[test]),
            evaluate_every=training["evaluate_every"],
            last=training["last"],
            record=training["record"],
            backend=backend,
            keep_history=False,
            pipeline=Pipeline(dataset.mean, dataset.std, training["augmentation"]),
            checkpoints=store,
            should_stop=stop,
            on_round=counted,
        )
    seconds = time.monotonic() - begun
    write_results(
        out,
        settings,
        result,
        {
            "code": code,
            "inputs": inputs,
            "device": device_name(use_device),
            "threads": threads,
            "precision": "float32, TF32 off",
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "fedgloss": __version__,
            },
            "wall_seconds": round(seconds, 3),
            "images_per_second": round(rounds_here * images / max(seconds, 1e-9), 1),
        },
    )
    if store:
        store.clear()
    return result


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


def write_results(
    out: Path, settings: Mapping[str, Any], result: Training, provenance: Mapping[str, Any]
) -> None:
    """Write a run's files, the manifest last."""
    shapes = parameter_shapes(result.model)
    (out / "manifest.json").unlink(missing_ok=True)  # never beside files it does not describe
    write_text(out / "metrics.csv", _as_csv(result.metrics))
    save_tensors(out / "final.safetensors", unflatten(result.w, shapes))
    save_tensors(out / "average.safetensors", unflatten(result.average, shapes))
    local = unflatten(result.locals, shapes)
    save_tensors(
        out / "locals.safetensors",
        {
            **{f"model.{k}": v for k, v in local.items()},
            "clients": torch.tensor(result.participants),
        },
    )
    files = ("metrics.csv", "final.safetensors", "average.safetensors", "locals.safetensors")
    training = settings["training"]
    end, half = training["rounds"], training["rounds"] // 2
    write_json(
        out / "manifest.json",
        {
            "format": MANIFEST_FORMAT,
            "status": result.status,
            "diverged_in": result.diverged_in,
            "accuracy": _mean_accuracy(result, end - training["last"], end),
            "accuracy_at_half": _mean_accuracy(result, half - training["last"], half),
            "settings": dict(settings),
            "parameters": result.w.numel(),
            "bytes_down": result.bytes_down,
            "bytes_up": result.bytes_up,
            "gradients_per_step": result.gradients_per_step,
            "backend": result.backend,
            **provenance,
            "outputs": {name: sha256(out / name) for name in files},
        },
    )


def _mean_accuracy(result: Training, after: int, until: int) -> float | None:
    values = [
        row["accuracy"]
        for row in result.metrics
        if "accuracy" in row and after < row["round"] <= until
    ]
    return sum(values) / len(values) if values and result.status == "completed" else None


def _as_csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    columns = list(rows[0]) if rows else ["round", "accuracy", "loss"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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
