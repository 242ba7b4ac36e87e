"""Accuracy against a measure of flatness, over all cells shown, and how the two correlate.

The paper's premise is that flat minima generalise better. One panel for each condition; where there
are several, one more with all of them, in which conditions differ in both, so a correlation within
them stands beside that over all.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fedgloss.report import definitions, names, values
from fedgloss.report.correlation import DRAWS, FEWEST, Points, correlation, pearson, spearman
from fedgloss.report.panels import cells_at, colour, panels
from fedgloss.report.results import Results
from fedgloss.study.schema.shown import FlatnessFigure

if TYPE_CHECKING:
    from fedgloss.study.study import Cell

MEASURES: dict[str, tuple[str, Callable[[Results, "Cell"], float | None]]] = {
    "lambda1": ("λ₁", values.lambda1),
    "sharpness_gradient": (
        "Rise of the test loss along its gradient",
        lambda found, cell: values.last_mean(found, cell, "sharpness_gradient"),
    ),
}


def draw_flatness(found: Results, asked: FlatnessFigure) -> Figure:
    """One panel per column of the figure, and one of all where there are several."""
    columns, points = asked.columns, points_of(found, asked)
    several = len(columns) > 1
    figure, axes = panels(len(columns) + several, height=3.2)
    heads = [*names.columns(found.study, columns), *["All conditions"] * several]
    markers = "osD^vP*X<>"
    for i, (axis, head) in enumerate(zip(axes, heads, strict=True)):
        here = points.conditions == i if i < len(columns) else np.ones(len(points.labels), bool)
        for label in asked.rows:
            for place in range(len(columns)):
                kept = here & (points.labels == label) & (points.conditions == place)
                axis.scatter(
                    np.exp(points.flatness[kept]),
                    points.accuracy[kept],
                    s=22,
                    color=colour(found.study, label),
                    marker=markers[place % len(markers)] if i == len(columns) else "o",
                    edgecolor="white",
                    linewidth=0.5,
                    zorder=3,
                )
        if here.any():
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        what = MEASURES[asked.measure][0]
        axis.set(title=head, xlabel=f"{what} (log scale)", ylabel="Test accuracy (%)")
        text = said(points.where(here), several and i == len(columns))
        below = {"xytext": (0, -31), "textcoords": "offset points", "va": "top"}
        axis.annotate("\n".join(text), (0, 0), xycoords="axes fraction", fontsize=7, **below)
    handles = [
        axes[0].scatter([], [], s=22, color=colour(found.study, label)) for label in asked.rows
    ]
    labels = [names.algorithm(found.study, label) for label in asked.rows]
    ncols = 2 if len(axes) == 1 else 4  # as many as the width holds
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False)
    return figure


def caption(found: Results, asked: FlatnessFigure) -> str:
    """What the points are, and how the coefficients and their intervals are made."""
    cells = found.study.cells_of(asked)
    manifests = [m for m in map(found.manifest, cells) if m]
    if asked.measure == "lambda1":
        measure = f"λ₁: {definitions.lambda1(found, cells)}"
    else:
        last = definitions.training_values(manifests, "last")
        measure = (
            f"{MEASURES[asked.measure][0]}, at the distance 0.1, mean of the last {last} rounds"
        )
    several = (
        " In the last panel a shape is a condition, circle, square and so on in the panels' order."
        " Within conditions: of both, what is left after each condition's mean is taken off."
    )
    return (
        f"A point is one run, a colour one method. {measure}; lower is"
        f" flatter. Accuracy: {definitions.accuracy(manifests)}. Spearman: of ranks; Pearson: of"
        " the measure's logarithm and the accuracy. In brackets the 95 % interval of a bootstrap"
        f" over methods ({DRAWS:,} samples of all methods with their seeds and conditions, since"
        " seeds of one method are no independent evidence on methods); none for fewer than"
        f" {FEWEST} methods.{several if len(asked.columns) > 1 else ''} Runs that diverged, or"
        " whose measure is not above 0, are left out."
    )


def points_of(found: Results, asked: FlatnessFigure) -> Points:
    """The cells that have both numbers."""
    value = MEASURES[asked.measure][1]
    rows = []
    for place, column in enumerate(asked.columns):
        for label in asked.rows:
            for cell in cells_at(found.study, asked, label, column):
                flatness, accuracy = value(found, cell), values.accuracy(found, cell)
                if flatness is not None and flatness > 0 and accuracy is not None:
                    rows.append((label, place, flatness, accuracy))
    return Points(
        np.array([row[0] for row in rows], dtype=str),
        np.array([row[1] for row in rows], dtype=int),
        np.log([row[2] for row in rows]),
        np.array([row[3] for row in rows], dtype=float),
    )


def said(points: Points, within: bool) -> list[str]:
    """The lines below a panel."""
    lines = [
        f"Spearman {correlation(points, spearman)}, n = {len(points.labels)}",
        f"Pearson {correlation(points, pearson)}",
    ]
    if within:
        lines[0] += f"; within conditions {correlation(points, spearman, True)}"
        lines[1] += f"; within conditions {correlation(points, pearson, True)}"
    return lines
