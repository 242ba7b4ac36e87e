"""Training runs of a study, from files to files.

The only configuration is the cells' resolved settings (`fedgloss job` prints them); nothing
has a default here, so that what is recorded in a manifest is all there is.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fedgloss import __version__
from fedgloss.algorithms.core import Algorithm
from fedgloss.data.dataset import load
from fedgloss.data.definition import check_prepared
from fedgloss.data.partition.partition import load_partition
from fedgloss.engine.assembly import Result, assemble, summary
from fedgloss.engine.checkpoint import Checkpoints, Interrupted
from fedgloss.engine.clients import Pipeline
from fedgloss.engine.evaluate import class_accuracies
from fedgloss.engine.flat import check_model, flatten
from fedgloss.engine.rounds import Row, Run, run_rounds
from fedgloss.engine.start import device_name, initial_model, prepared
from fedgloss.engine.task import Task
from fedgloss.errors import InputError
from fedgloss.files import sha256
from fedgloss.jobs.cells import (
    CellFiles,
    cell_course,
    cell_federation,
    cell_test,
    check_same_shape,
    checked_weights,
    is_trial,
    label_of,
    placed,
)
from fedgloss.jobs.results import write_pause, write_results
from fedgloss.jobs.signals import stop_on_signals

OnRound = Callable[[int, Mapping[str, float] | None], None]


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
    until: int | None = None,
    paused: Sequence[Path] = (),
    watch: Callable[[str, int, float], OnRound] = lambda label, rounds, images: lambda t, row: None,
    on_row: Callable[[CellFiles, Mapping[str, float]], None] = lambda cell, row: None,
) -> list[Result]:
    """Train cells together on one device, and write the results of each into its folder `out`.

    Cells trained together have one data set, model and amount of work; seeds, partitions, methods,
    learning rates, clipping and hyperparameters may differ. Each leaves the files that it would
    leave alone:

    metrics.csv: a row for each evaluated round. final.safetensors, average.safetensors: the model
    after the last round, and the mean over the last `last` rounds, by parameter name.
    locals.safetensors: the models of the last round's participants before aggregation, and their
    numbers (`clients`). round-75.safetensors and the like: the models that `keep` asks for.
    manifest.json comes last: settings, provenance, status, hashes.

    weights: the file that the model starts from, if the settings name one by its SHA-256.
    watch: makes, from a label, the rounds and the images a round, a function to call each round.
    on_row: gets each row of metrics as it comes.

    until: pause after so many rounds, fewer than the settings have, with a checkpoint; the cells
    then leave no results, but each what it is worth so far, in its file of `paused`.

    SIGTERM, SIGINT and SIGUSR1 end the runs after a checkpoint, with `Interrupted`.
    Raises InputError if the settings, the data or a partition are not usable.
    """
    check_same_shape(cells)
    with prepared(device, threads, cells[0].settings.precision) as use_device:
        again = "delete the folder and prepare the data set again"
        for asked in (cell.settings.data for cell in cells):
            check_prepared(data, asked, "settings.data.", again)
        test = not is_trial(cells[0].settings)
        dataset = placed(load(data, verify=True, test=test), use_device)
        settings, training = cells[0].settings, cells[0].settings.training
        inputs = {"data": dataset.sha256}
        if weights is not None or settings.weights is not None:
            inputs["weights"] = checked_weights(weights, settings.weights)
        model = initial_model(settings.model, dataset, settings.seed, weights)
        model = model.to(use_device)
        check_model(model)
        pipeline = Pipeline(dataset.mean, dataset.std, training["augmentation"])
        task = Task(model, F.cross_entropy, pipeline)
        course = cell_course(settings)
        machine: dict[str, Any] = {
            "device": use_device.type,
            "backend": backend,
            "threads": threads,
        }
        machine |= {"torch": torch.__version__}
        partitions = {file: load_partition(file, dataset) for file in {c.partition for c in cells}}
        of_cells = [{**inputs, "partition": sha256(cell.partition)} for cell in cells]
        algorithms: dict[str, Algorithm] = {}
        runs = []
        for cell, own_inputs in zip(cells, of_cells, strict=True):
            identity = {"settings": cell.settings.to_json(), "code": cell.code, **own_inputs}
            identity |= machine
            store = None
            if cell.checkpoints is not None:
                store = Checkpoints(
                    cell.checkpoints, identity, checkpoint_rounds, checkpoint_seconds
                )
            w = flatten(initial_model(settings.model, dataset, cell.settings.seed, weights))
            own = cell_federation(
                cell, w.to(use_device), dataset, partitions[cell.partition], algorithms
            )
            runs.append(Run(own, cell_test(cell, dataset, partitions[cell.partition]), store))
        try:
            plan = assemble(task, runs, course, backend=backend, precision=settings.precision)
        except InputError as error:  # which says "the model" and "the clients"
            where = f"model {settings.model} on {settings.dataset}"
            raise InputError(f"{where}: {error}") from None

        images = [run.federation.images_a_round(course.batching) for run in runs]
        on_round = watch(label_of(cells), course.rounds, sum(images))
        rounds_here = rounds_done = 0

        def counted(t: int, rows: Sequence[Row]) -> None:
            nonlocal rounds_here, rounds_done
            rounds_here, rounds_done = rounds_here + 1, t
            on_round(t, _mean([row for row in rows if row]))
            for cell, row in zip(cells, rows, strict=True):
                if row:
                    on_row(cell, row)

        begun = time.monotonic()
        with stop_on_signals() as stop:
            try:
                run_rounds(
                    runs,
                    plan,
                    lambda: stop() or (until is not None and rounds_done >= until),
                    counted,
                )
            except Interrupted:
                if stop() or until is None or rounds_done < until:
                    raise
        if until is not None:
            for cell, file, run, own_inputs in zip(cells, paused, runs, of_cells, strict=True):
                write_pause(file, cell, run, until, own_inputs)
            return []
        seconds = time.monotonic() - begun
        results = [summary(run, plan, model) for run in runs]
        for run in runs:  # whoever took a run over writes its results
            if run.checkpoints:
                run.checkpoints.leave_if_taken_over()
        done = zip(cells, runs, results, of_cells, images, strict=True)
        for cell, run, result, own_inputs, count in done:
            provenance = {
                "code": cell.code,
                "inputs": own_inputs,
                "device": device_name(use_device),
                "threads": threads,
                "precision": settings.precision,
                "versions": _versions(),
                "cells_together": len(cells),
                "wall_seconds": round(seconds, 3),
                "images_per_second": round(rounds_here * count / max(seconds, 1e-9), 1),
            }
            by_class = None
            if result.status == "completed" and run.test is not None:
                by_class = class_accuracies(plan.task, result.w, *run.test)
            write_results(cell.out, cell.settings, result, by_class, provenance)
        for run in runs:  # not before all are written: of a job that fails, no cell's results stay
            if run.checkpoints:
                run.checkpoints.clear()
        return results


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "fedgloss": __version__,
    }


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """The mean row of metrics of several cells."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else None
