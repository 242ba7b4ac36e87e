"""A quantity over the rounds: the mean over seeds in a band, each line named where it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedgloss.report import names
from fedgloss.report.panels import colour, is_wide, panels
from fedgloss.report.results import Results

AXES = {
    "accuracy": "Test accuracy (%)",
    "loss": "Test loss",
    "w_norm": "Norm of the global model",
    "pseudo_gradient_norm": "Norm of the pseudo-gradient",
    "delta_epsilon": "Error of the perturbation, δε",
}
LABEL_GAP = 0.07
"""The least distance of two names, as a share of the panel's height."""


@dataclass(frozen=True)
class Curve:
    """One algorithm in one panel."""

    name: str
    style: Mapping[str, Any]
    completed: Sequence[tuple[list[float], list[float]]]
    """(rounds, values) of each seed that ran to the end."""
    diverged: Sequence[tuple[list[float], list[float]]]


def draw_curves(found: Results, spec: Mapping[str, Any]) -> Figure:
    """One panel per column of the figure."""
    metric, columns = spec.get("metric", "accuracy"), spec["columns"]
    figure, axes = panels(len(columns), height=3.0)
    drawn = [[_curve(found, label, column, metric) for label in spec["rows"]] for column in columns]
    for axis, curves, head in zip(axes, drawn, names.columns(columns), strict=True):
        for curve in curves:
            _draw(axis, curve)
        values = [v for c in curves for _, ys in (*c.completed, *c.diverged) for v in ys]
        if metric != "accuracy" and is_wide(values):
            axis.set_yscale("log")
        axis.margins(x=0.01)
        axis.set(title=head, xlabel="Round", ylabel=AXES[metric])
    if metric == "accuracy" and len({column["dataset"] for column in columns}) == 1:
        limits = np.array([axis.get_ylim() for axis in axes])
        for axis in axes:
            axis.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    for axis, curves in zip(axes, drawn, strict=True):
        axis.set_xlim(axis.get_xlim())
        _name(axis, curves)
    return figure


def _curve(found: Results, label: str, column: Mapping[str, str], metric: str) -> Curve:
    cells = found.study.select(algorithm=label, **column)
    runs: dict[str, list[tuple[list[float], list[float]]]] = {"completed": [], "diverged": []}
    for cell in cells:
        metrics, status = found.metrics(cell), found.status(cell)
        if status in runs and metrics and metrics.get(metric):
            runs[status].append((metrics["round"], metrics[metric]))
    broken = sum(found.status(cell) == "diverged" for cell in cells)
    absent = len(cells) - broken - len(runs["completed"])
    notes = [f"n={len(runs['completed'])}/{len(cells)}"] * bool(absent)
    notes += [f"× {broken}/{len(cells)}"] * bool(broken)
    return Curve(
        names.algorithm(label) + (f" ({', '.join(notes)})" if notes else ""),
        {
            "color": colour(found.study, label),
            "linestyle": (0, (3, 1.2)) if names.client(found.study, label) == "sgd" else "-",
        },
        **runs,
    )


def _draw(axes: Axes, curve: Curve) -> None:
    for t, values in curve.diverged:
        axes.plot(t, values, **curve.style, linewidth=0.8)
        axes.plot(t[-1], values[-1], "x", color=curve.style["color"], zorder=5)
    if curve.completed:
        t, mean, std = _statistics(curve)
        axes.plot(t, mean, **curve.style, zorder=4)
        if len(curve.completed) > 1:
            shade = {"color": curve.style["color"], "alpha": 0.16, "linewidth": 0}
            axes.fill_between(t, mean - std, mean + std, **shade)


def _statistics(curve: Curve) -> tuple[list[float], np.ndarray, np.ndarray]:
    """The rounds that every seed evaluated; mean and sample standard deviation there."""
    by_round = [dict(zip(*run, strict=True)) for run in curve.completed]
    t = sorted(set(by_round[0]).intersection(*by_round))
    values = np.array([[run[i] for i in t] for run in by_round])
    return t, values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))


def _name(axes: Axes, curves: Sequence[Curve]) -> None:
    """Write each line's name beside its end, pushed apart where ends are close."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = sorted(
        (float(to_axes.transform((0, _statistics(curve)[1][-1]))[1]), i)
        for i, curve in enumerate(curves)
        if curve.completed
    )
    places = [end for end, _ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + LABEL_GAP)
    for i in reversed(range(len(places))):
        above = places[i + 1] - LABEL_GAP if i + 1 < len(places) else 1.0
        places[i] = min(places[i], above)
    for place, (end, i) in zip(places, ends, strict=True):
        lead = {**curves[i].style, "transform": axes.transAxes, "clip_on": False, "linewidth": 1.3}
        axes.plot([1.0, 1.025], [end, place], **{**lead, "linestyle": "-", "linewidth": 0.6})
        axes.plot([1.025, 1.085], [place, place], **lead)
        axes.annotate(curves[i].name, (1.1, place), xycoords="axes fraction", va="center")
    absent = [curve.name for curve in curves if not curve.completed]
    if absent:
        axes.annotate(
            f"No mean: {', '.join(absent)}",
            (0, -0.2),
            xycoords="axes fraction",
            va="top",
            color="#555555",
        )
