"""Full-length cells in a short time with a GPU: the last stage of benchmarks/gpu.py."""

import json
import os
import signal
import tarfile
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fedgloss.data.augment import normalize
from fedgloss.data.dataset import load
from fedgloss.engine.backends import fused as fused_backend
from fedgloss.fingerprint import of_training
from fedgloss.jobs.train import CellFiles, train_cells
from fedgloss.models import build_model
from fedgloss.rng import Stream
from fedgloss.sharpness.eigenvalues import top_eigenvalues
from fedgloss.sharpness.objective import Objective
from fedgloss.study.settings import Settings
from fedgloss.tensors import load_tensors

if TYPE_CHECKING:
    from gpu import Bench


def cells(bench: "Bench") -> dict:
    """Full-length cells: the groups of DATA/cells.json, as many of each as the time allows.

    A group is a list of {name, settings, partition}; its cells are trained together. What they
    leave is packed into OUT/cells-N.tar, and every row of metrics is in OUT/rows.csv at once.
    """
    options, found, finished = bench.options, {}, []
    for precision, tiles in bench.tiles.items():
        fused_backend.TILES[fused_backend.STORAGE[precision][0].itemsize].update(tiles)
    plan = json.loads((options.data / "cells.json").read_text())
    work = options.data / "runs"
    unit = plan["seconds_a_unit"]
    rows = open(options.out / "rows.csv", "a")  # noqa: SIM115
    for number, group in enumerate(plan["groups"]):
        spare = 8 + plan["reserve"] * (number + 1 < len(plan["groups"]))
        while group and unit * sum(cell["units"] for cell in group) > bench.left() - spare:
            group = group[:-1]
        print(
            f"group {number}: {[cell['name'] for cell in group]}, {bench.left():.0f} s left",
            flush=True,
        )
        if not group:
            continue
        files = [
            CellFiles(
                Settings.from_json(cell["settings"]),
                options.data / cell["partition"],
                work / cell["name"],
                of_training(cell["settings"]["method"], cell["settings"]["model"]),
            )
            for cell in group
        ]
        names = {id(file): cell["name"] for file, cell in zip(files, group, strict=True)}

        def on_row(file, row, names=names):
            rows.write(f"{names[id(file)]},{','.join(map(str, row.values()))}\n")
            rows.flush()

        def watch(label, total, images):
            begun = time.monotonic()

            def on_round(t, row):
                if t % 1000 == 0:
                    here = time.monotonic() - begun
                    left = bench.left()
                    print(
                        f"  round {t}, {1e3 * here / t:.2f} ms a round, {left:.0f} s left, {row}",
                        flush=True,
                    )

            return on_round

        alarm = threading.Timer(max(bench.left() - 4, 1), os.kill, (os.getpid(), signal.SIGUSR1))
        alarm.start()
        begun = time.monotonic()
        try:
            train_cells(
                files, options.data / "data", device=options.device, watch=watch, on_row=on_row
            )
        except Exception as error:
            traceback.print_exc()
            found[f"group {number}"] = f"{type(error).__name__}: {error}"
            continue
        finally:
            alarm.cancel()
        wall = time.monotonic() - begun
        unit = wall / sum(cell["units"] for cell in group)
        found[f"group {number}"] = {
            "cells": [c["name"] for c in group],
            "seconds": wall,
            "unit": unit,
        }
        print(f"group {number}: {wall:.1f} s", flush=True)
        finished += [cell["name"] for cell in group]
        pack(work, finished, options.out)
        if number + 1 >= plan["sharpness_after"]:
            last = number + 1 == len(plan["groups"])
            known, seconds = found.get("lambda1", {}), 1e9 if last else plan["reserve"]
            found["lambda1"] = sharpness(bench, work, finished, known, seconds)
        bench.found["cells"] = found
        bench.write()
    pack(work, finished, options.out)
    return found


def sharpness(bench: "Bench", work: Path, names: list[str], known: dict, most: float) -> dict:
    """lambda_1 of the averaged models over 1,000 training images of each class, in `most` seconds.

    Known ones are not measured again.
    """
    entered, device = time.monotonic(), bench.device
    data = load(bench.options.data / "data")
    order = torch.from_numpy(Stream(0, "hessian subset").permutation(len(data.train_labels)))
    labels = data.train_labels[order]
    chosen = torch.cat([order[labels == c][:1000] for c in range(len(data.classes))]).sort().values
    images, targets = data.train_images[chosen].to(device), data.train_labels[chosen].to(device)
    model = build_model("cnn", (3, 32, 32), len(data.classes)).to(device)
    objective = Objective(
        model, images, targets, transform=lambda x: normalize(x, data.mean, data.std, torch.float32)
    )
    for name in names:
        manifest = json.loads((work / name / "manifest.json").read_text())
        begun = time.monotonic()
        short = bench.left() < 12 or begun - entered > most
        if name in known or short or manifest["status"] != "completed":
            continue
        tensors = load_tensors(work / name / "average.safetensors")
        w = torch.cat([tensors[n].reshape(-1) for n, _ in model.named_parameters()])
        w = w.to(device)
        loss, accuracy = objective.loss(w)
        spectrum = top_eigenvalues(objective, w, count=1)
        known[name] = {
            "lambda1": spectrum.eigenvalues[0], "residual": spectrum.residuals[0],
            "converged": spectrum.converged[0], "products": spectrum.products,
            "samples": len(chosen), "train_loss": loss, "train_accuracy": accuracy,
            "seconds": time.monotonic() - begun,
        }  # fmt: skip
        print(name, known[name], flush=True)
    return known


def pack(work: Path, names: list[str], out: Path) -> None:
    """Four cells an archive: few files, none of them large."""

    for first in range(0, len(names), 4):
        with tarfile.open(out / f"cells-{first // 4}.tar", "w") as archive:
            for name in names[first : first + 4]:
                for file in ("manifest.json", "metrics.csv", "average.safetensors"):
                    archive.add(work / name / file, f"{name}/{file}")
