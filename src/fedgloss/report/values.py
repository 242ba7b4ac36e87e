"""One number of a run each: what tables and figures show, from what the run left behind."""

import math
import statistics
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fedgloss.errors import InputError
from fedgloss.records import NUMBER, PERCENTAGE
from fedgloss.report import names
from fedgloss.report.results import Results
from fedgloss.study.layout import MANIFEST

if TYPE_CHECKING:
    from fedgloss.study.study import Cell

FLOAT32_BYTES = 4
NOT_EVALUATED = "not evaluated then"


def accuracy(found: Results, cell: "Cell") -> float | None:
    """The mean test accuracy (percent) of the evaluated rounds among the last `last` ones."""
    manifest = found.manifest(cell)
    return manifest["accuracy"] if manifest else None


def accuracy_gain(found: Results, cell: "Cell") -> float | str | None:
    """The accuracy minus that of FedAvg's run with the same seed, in points; or why it has none."""
    base = next(c for c in found.study.baselines(cell.column) if c.seed == cell.seed)
    ours, theirs = accuracy(found, cell), accuracy(found, base)
    if ours is not None and (why := found.why_absent(base)):
        return f"{names.algorithm(found.study, base.algorithm)} {why.why}"
    return None if ours is None or theirs is None else ours - theirs


def accuracy_at_half(found: Results, cell: "Cell") -> float | str | None:
    """The mean test accuracy (percent) of the evaluations in the last `last` rounds before T/2.

    Or a word where there was none.
    """
    manifest = found.manifest(cell)
    if not manifest or manifest["status"] != "completed":
        return None
    value: float | None = manifest["accuracy_at_half"]
    return NOT_EVALUATED if value is None else value


def lambda1(found: Results, cell: "Cell") -> float | None:
    """The Hessian's largest eigenvalue."""
    hessian = found.hessian(cell)
    return hessian["lambda1"] if hessian else None


def lambda1_official(found: Results, cell: "Cell") -> float | None:
    """The same as the released code estimates it, where the study asks for it, too."""
    hessian = found.hessian(cell) or {}
    record = hessian if hessian.get("data") == "official_code" else hessian.get("official_code", {})
    value: Any = record.get("lambda1") if isinstance(record, dict) else None
    return value if NUMBER.fits(value) else None


def trace(found: Results, cell: "Cell") -> float | None:
    """An estimate of the sum of all eigenvalues of the Hessian, where the study asks for it."""
    return ((found.hessian(cell) or {}).get("trace") or {}).get("trace")


def lambda1_share(found: Results, cell: "Cell") -> float | None:
    """The largest eigenvalue in percent of that sum; None if it is not above 0."""
    largest, whole = lambda1(found, cell), trace(found, cell)
    return 100 * largest / whole if largest is not None and whole and whole > 0 else None


def accuracy_by_class(found: Results, cell: "Cell") -> list[float | None] | None:
    """The final model's accuracy (percent) on each class; None for a class without test images.

    None instead of a list where the run has not ended, or is from before this was measured.
    """
    manifest = found.manifest(cell)
    rates = manifest.get("accuracy_by_class") if manifest else None
    if rates is not None and not PERCENTAGE.or_null.listed.fits(rates):
        file = found.run(cell) / MANIFEST
        raise InputError(f"{file}: accuracy_by_class: is not {PERCENTAGE.or_null.listed.words}")
    return rates


def last_mean(found: Results, cell: "Cell", metric: str) -> float | None:
    """The mean of a recorded metric over the evaluated rounds among the last `last` ones."""
    manifest, metrics = found.manifest(cell), found.metrics(cell)
    if not manifest or not metrics or manifest["status"] != "completed" or metric not in metrics:
        return None
    training = manifest["settings"]["training"]
    after = training["rounds"] - training["last"]
    pairs = zip(metrics["round"], metrics[metric], strict=True)
    mean = statistics.fmean(value for t, value in pairs if t > after)
    return mean if math.isfinite(mean) else None


def gradients(found: Results, cell: "Cell") -> float | None:
    """Mini-batch gradients per local step."""
    manifest = found.manifest(cell)
    return manifest["gradients_per_step"] if manifest else None


def exchanged(found: Results, cell: "Cell") -> float | None:
    """All bytes that a run sent."""
    manifest = found.manifest(cell)
    return manifest["bytes_down"] + manifest["bytes_up"] if manifest else None


def communication_cost(found: Results, cells: Iterable["Cell"]) -> float | None:
    """Bytes that crossed the network relative to FedAvg's two models per client and round.

    Counted in the runs that went to the end; None if there is none, or nothing is communicated.
    """
    costs = []
    for cell in cells:
        manifest = found.manifest(cell)
        if manifest and manifest["status"] == "completed":
            training = manifest["settings"]["training"]
            models = 2 * training["rounds"] * training["clients_per_round"]
            sent = manifest["bytes_down"] + manifest["bytes_up"]
            costs.append(sent / (models * manifest["parameters"] * FLOAT32_BYTES))
    return statistics.fmean(costs) if costs else None
