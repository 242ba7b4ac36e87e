"""The files that a finished run leaves."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedgloss.engine.assembly import Result
from fedgloss.engine.flat import parameter_shapes, unflatten
from fedgloss.engine.rounds import Run
from fedgloss.files import sha256, write_json, write_text
from fedgloss.jobs.cells import CellFiles
from fedgloss.study.settings import Settings, kept
from fedgloss.tensors import save_tensors


def write_results(
    out: Path,
    settings: Settings,
    result: Result,
    by_class: list[float | None] | None,
    provenance: Mapping[str, Any],
) -> None:
    """Write a run's files, the manifest last.

    by_class: the final model's accuracy in percent on the test images of each class.
    """
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
    for old in out.glob("round-*.safetensors"):
        old.unlink()
    files = ["metrics.csv", "final.safetensors", "average.safetensors", "locals.safetensors"]
    for t, w in result.kept.items():
        files.append(f"{kept(t)}.safetensors")
        save_tensors(out / files[-1], unflatten(w, shapes))
    training = settings.training
    end, half = training["rounds"], training["rounds"] // 2
    write_json(
        out / "manifest.json",
        {
            "status": result.status,
            "diverged_in": result.diverged_in,
            "accuracy": mean_accuracy(result, end, training["last"]),
            "accuracy_at_half": mean_accuracy(result, half, training["last"]),
            "accuracy_by_class": by_class,
            "settings": settings.to_json(),
            "parameters": result.w.numel(),
            "bytes_down": result.bytes_down,
            "bytes_up": result.bytes_up,
            "gradients_per_step": result.gradients_per_step,
            "backend": result.backend,
            **provenance,
            "outputs": {name: sha256(out / name) for name in files},
        },
    )


def write_pause(
    file: Path, cell: CellFiles, run: Run, rounds: int, inputs: Mapping[str, str]
) -> None:
    """Write what a run is worth that paused after so many rounds, as if it had ended there."""
    diverged = run.diverged_in is not None
    write_json(
        file,
        {
            "status": "diverged" if diverged else "completed",
            "rounds": rounds,
            "accuracy": None
            if diverged
            else mean_accuracy(run, rounds, cell.settings.training["last"]),
            "settings": cell.settings.to_json(),
            "code": cell.code,
            "inputs": inputs,
        },
    )


def mean_accuracy(run: Result | Run, until: int, last: int) -> float | None:
    """The mean accuracy of the evaluated rounds among the last before `until`; None without any.

    A run that diverged has none.
    """
    values = [
        row["accuracy"]
        for row in run.metrics
        if "accuracy" in row and until - last < row["round"] <= until
    ]
    return sum(values) / len(values) if values and run.diverged_in is None else None


def _as_csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    columns = list(rows[0]) if rows else ["round", "accuracy", "loss"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
