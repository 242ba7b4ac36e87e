"""The files that a finished run leaves."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedgloss.engine.assembly import Result
from fedgloss.engine.flat import parameter_shapes, unflatten
from fedgloss.files import sha256, write_json, write_text
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
            "accuracy": _mean_accuracy(result, end - training["last"], end),
            "accuracy_at_half": _mean_accuracy(result, half - training["last"], half),
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


def _mean_accuracy(result: Result, after: int, until: int) -> float | None:
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
