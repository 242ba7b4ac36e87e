"""The largest Hessian eigenvalue of each method, as the paper's Fig. 7; every seed is a dot."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fedgloss.report import definitions, names, values
from fedgloss.report.formats import count, is_plain, number
from fedgloss.report.panels import cells_at, colour, is_wide, panels
from fedgloss.report.results import Results
from fedgloss.report.seeds import Summary, summarize
from fedgloss.study.schema.shown import EigenvaluesFigure


def draw_eigenvalues(found: Results, asked: EigenvaluesFigure) -> Figure:
    """One panel per column of the figure, one bar per row."""
    rows, columns = asked.rows, asked.columns
    figure, axes = panels(len(columns), height=0.85 + 0.3 * len(rows))
    drawn = [
        [
            summarize(
                found,
                cells_at(found.study, asked, label, column),
                lambda cell: values.lambda1(found, cell),
                "hessian",
            )
            for label in rows
        ]
        for column in columns
    ]
    wide = any(is_wide(_values(summaries)) for summaries in drawn)
    for axis, summaries, head in zip(axes, drawn, names.columns(found.study, columns), strict=True):
        _panel(found, axis, rows, summaries, wide and min(_values(summaries), default=0) > 0)
        axis.set_title(head)
    return figure


def caption(found: Results, asked: EigenvaluesFigure) -> str:
    """What the bars show and how to read them."""
    return (
        f"λ₁: {definitions.lambda1(found, found.study.cells_of(asked))}; lower is flatter. Bars:"
        " the mean over the seeds; dots: each seed; text: mean ± sample standard deviation. Pale:"
        " client SGD."
    )


def _values(summaries: Sequence[Summary]) -> list[float]:
    return [value for ours in summaries for value in ours.values.values()]


def _panel(
    found: Results, axes: Axes, rows: Sequence[str], summaries: Sequence[Summary], wide: bool
) -> None:
    values = _values(summaries)
    left = min(values) / 2 if wide else 0.0
    right = max(values, default=1.0) * (1.5 if wide else 1.05)
    for place, (label, ours) in enumerate(zip(rows, summaries, strict=True)):
        text = number(ours, "lambda1")
        if ours.mean is not None:
            full = np.array(to_rgb(colour(found.study, label)))
            pale = names.client(found.study, label) == "sgd"
            axes.barh(
                place,
                ours.mean - left,
                left=left,
                height=0.62,
                color=full + (1 - full) * 0.7 * pale,
                edgecolor=full,
                linewidth=0.9,
            )
            seeds = list(ours.values.values())
            spots = {"facecolor": "white", "edgecolor": "#222222", "linewidth": 0.7, "zorder": 3}
            axes.scatter(seeds, [place] * len(seeds), s=12, **spots)
        text += "" if is_plain(ours) else f" ({count(ours)})" if text else count(ours)
        axes.annotate(text, (1.02, place), xycoords=("axes fraction", "data"), va="center")
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlim=(left, right), ylim=(len(rows) - 0.45, -0.55))
    axes.set_xlabel("λ₁ (log scale)" if wide else "λ₁")
    axes.set_yticks(range(len(rows)), [names.algorithm(found.study, label) for label in rows])
    axes.grid(axis="y", visible=False)
