"""A quantity over the rounds: the mean over seeds in a band, each line named where it ends."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from fedgloss.errors import InputError
from fedgloss.report import definitions, interactive, names
from fedgloss.report.formats import count
from fedgloss.report.panels import cells_at, is_wide, line, panels
from fedgloss.report.reading import Columns
from fedgloss.report.results import Results
from fedgloss.report.seeds import summarize
from fedgloss.study.schema.shown import CurvesFigure

if TYPE_CHECKING:
    from fedgloss.study.study import Cell

AXES = {
    "accuracy": "Test accuracy (%)",
    "loss": "Test loss",
    "w_norm": "Norm of the global model",
    "pseudo_gradient_norm": "Norm of the pseudo-gradient",
    "delta_epsilon": "Error of the perturbation, δε",
    "cosine": "Cosine of consecutive pseudo-gradients",
    "sharpness_pseudo_gradient": "Rise of the test loss along the pseudo-gradient",
    "sharpness_gradient": "Rise of the test loss along its gradient",
}
MEANING = {
    "w_norm": "It is that of the model after the round.",
    "delta_epsilon": (
        "It is the server's radius in that round times the distance between the unit vectors along"
        " the last pseudo-gradient and along the exact one, that of the round's own clients from"
        " the unperturbed model (Eq. 6), so at most twice the radius."
    ),
    "cosine": "Both are the pseudo-gradients that training used.",
    "sharpness_pseudo_gradient": "It is that at the distance 0.1 from the model.",
    "sharpness_gradient": "It is that at the distance 0.1 from the model.",
}
"""What captions add to the names of some axes."""
LABEL_GAP = 0.07
"""The least distance of two names, as a share of the panel's height."""


@dataclass(frozen=True)
class Curve:
    """One algorithm in one panel."""

    name: str
    style: Mapping[str, Any]
    completed: Sequence[tuple[list[float], list[float]]]
    """(places, values) of each seed that ran to the end."""
    diverged: Sequence[tuple[list[float], list[float]]]


def draw_curves(found: Results, asked: CurvesFigure) -> Figure:
    """One panel per column of the figure."""
    metric, columns = asked.metric, asked.columns
    figure, axes = panels(len(columns), height=3.0)
    drawn = _curves(found, asked)
    thick = 1.6 if len(asked.rows) <= 6 else 1.2
    for axis, curves, head in zip(axes, drawn, names.columns(found.study, columns), strict=True):
        for curve in curves:
            draw_curve(axis, curve, thick)
        if _is_logarithmic(metric, curves):
            axis.set_yscale("log")
        axis.margins(x=0.01)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set(title=head, xlabel="Round", ylabel=AXES[metric])
    if metric == "accuracy" and len({column.dataset for column in columns}) == 1:
        limits = np.array([axis.get_ylim() for axis in axes])
        for axis in axes:
            axis.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    for axis, curves in zip(axes, drawn, strict=True):
        axis.set_xlim(axis.get_xlim())
        name_ends(axis, curves)
    return figure


def _curves(found: Results, asked: CurvesFigure) -> list[list[Curve]]:
    """Those of each column, in the order of the rows."""
    return [
        [
            curve_of(
                found,
                label,
                cells_at(found.study, asked, label, column),
                lambda columns: (columns["round"], columns.get(asked.metric, [])),
            )
            for label in asked.rows
        ]
        for column in asked.columns
    ]


def _is_logarithmic(metric: str, curves: Sequence[Curve]) -> bool:
    values = [v for c in curves for _, ys in (*c.completed, *c.diverged) for v in ys]
    return metric != "accuracy" and is_wide(values)


def to_read(found: Results, asked: CurvesFigure) -> str | None:
    """The means for plotly, to read their values from: JSON; None where no run has ended."""
    drawn, heads = _curves(found, asked), names.columns(found.study, asked.columns)
    panels = [
        interactive.Lines(
            head,
            _is_logarithmic(asked.metric, curves),
            [
                interactive.Line(
                    c.name, c.style["color"], c.style["linestyle"] != "-", *_statistics(c)
                )
                for c in curves
                if c.completed
            ],
        )
        for head, curves in zip(heads, drawn, strict=True)
    ]
    return interactive.lines(panels, AXES[asked.metric]) if any(p.lines for p in panels) else None


def caption(found: Results, asked: CurvesFigure) -> str:
    """What the curves show and how to read them."""
    manifests = [m for m in map(found.manifest, found.study.cells_of(asked)) if m]
    every = definitions.training_values(manifests, "evaluate_every")
    return (
        f"{AXES[asked.metric].split(' (')[0]}, every {every} rounds: the mean over the seeds in a"
        " band of ± one sample standard deviation (ddof = 1). Dashed: client SGD. A seed that"
        " diverged is a thin line that ends in × and is not in the mean."
        f" {MEANING.get(asked.metric, '')}".rstrip()
    )


def curve_of(
    found: Results,
    label: str,
    cells: Sequence["Cell"],
    points: Callable[[Columns], tuple[list[float], list[float]]],
) -> Curve:
    """A row's runs as curves through what is made of their metrics: none if that is nothing."""
    runs: dict[str, list[tuple[list[float], list[float]]]] = {"completed": [], "diverged": []}
    ends: dict[int, float] = {}
    for cell in cells:
        metrics, manifest = found.metrics(cell), found.manifest(cell)
        status = manifest["status"] if manifest else ""
        x, y = points(metrics) if metrics else ([], [])
        if not (manifest and status in runs and metrics and y):
            continue
        every = manifest["settings"]["training"]["evaluate_every"]
        if kept := [i for i in _evenly(metrics["round"], every) if math.isfinite(y[i])]:
            runs[status].append(([x[i] for i in kept], [y[i] for i in kept]))
            ends[cell.seed] = y[-1]
    rounds = [set(t) for t, _ in runs["completed"]]
    if rounds and not set.intersection(*rounds):
        file = found.run(cells[0]) / "metrics.csv"
        raise InputError(f"{file}: no evaluated round that the other seeds have, too")
    ours = summarize(found, cells, lambda cell: ends.get(cell.seed))
    cross = "× " if ours.diverged and not ours.n else ""
    return Curve(
        names.algorithm(found.study, label) + ("" if ours.complete else f" ({cross}{count(ours)})"),
        line(found.study, label),
        **runs,
    )


def _evenly(t: list[float], every: int) -> list[int]:
    """Which are the regular evaluations, and the last: every round of the last ones would smear."""
    return [i for i in range(len(t)) if t[i] % every == 0 or i == len(t) - 1]


def draw_curve(axes: Axes, curve: Curve, thick: float) -> None:
    for t, values in curve.diverged:
        axes.plot(t, values, **curve.style, linewidth=thick / 2)
        axes.plot(t[-1], values[-1], "x", color=curve.style["color"], zorder=5)
    if curve.completed:
        t, mean, std = _statistics(curve)
        axes.plot(t, mean, **curve.style, linewidth=thick, zorder=4)
        if len(curve.completed) > 1:
            shade = {"color": curve.style["color"], "alpha": 0.16, "linewidth": 0}
            axes.fill_between(t, mean - std, mean + std, **shade)


def _statistics(curve: Curve) -> tuple[list[float], np.ndarray, np.ndarray]:
    """The rounds that every seed evaluated; mean and sample standard deviation there."""
    by_round = [dict(zip(*run, strict=True)) for run in curve.completed]
    t = sorted(set(by_round[0]).intersection(*by_round))
    values = np.array([[run[i] for i in t] for run in by_round])
    return t, values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))


def name_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Write each line's name beside its end, pushed apart where ends are close."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = sorted(
        (float(to_axes.transform((0, _statistics(curve)[1][-1]))[1]), i)
        for i, curve in enumerate(curves)
        if curve.completed
    )
    for place, (end, i) in zip(_apart([end for end, _ in ends]), ends, strict=True):
        lead = {**curves[i].style, "transform": axes.transAxes, "clip_on": False, "linewidth": 1.3}
        axes.plot([1.0, 1.025], [end, place], **{**lead, "linestyle": "-", "linewidth": 0.6})
        axes.plot([1.025, 1.085], [place, place], **lead)
        axes.annotate(curves[i].name, (1.1, place), xycoords="axes fraction", va="center")
    absent = [curve.name for curve in curves if not curve.completed]
    if absent:
        axes.annotate(
            textwrap.fill(f"No mean: {', '.join(absent)}", 60),
            (0, -0.2),
            xycoords="axes fraction",
            va="top",
            color="#555555",
        )


def _apart(ends: Sequence[float]) -> list[float]:
    """Places LABEL_GAP apart, as near as can be to ascending `ends` (least squares).

    What touches is merged into a block around its mean, until no blocks touch. They are from 0 to
    1, or, where there are too many, from below.
    """
    blocks: list[list[float]] = []
    for end in ends:
        blocks.append([end])
        while (
            len(blocks) > 1
            and _middle(blocks[-1]) - _middle(blocks[-2])
            < LABEL_GAP * (len(blocks[-1]) + len(blocks[-2])) / 2
        ):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    places = []
    for block in blocks:
        lowest = _middle(block) - LABEL_GAP * (len(block) - 1) / 2
        places += [lowest + LABEL_GAP * i for i in range(len(block))]
    low = [max(place, LABEL_GAP * i) for i, place in enumerate(places)]
    return [min(place, 1 - LABEL_GAP * (len(low) - 1 - i)) for i, place in enumerate(low)]


def _middle(block: Sequence[float]) -> float:
    return sum(block) / len(block)
