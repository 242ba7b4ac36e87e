"""How the eigenvalues of each method's Hessian are distributed, the methods side by side."""

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedgloss.report import definitions, names
from fedgloss.report.panels import cells_at, colour, line, panels
from fedgloss.report.results import NOT_COMPUTED, Absence, Results
from fedgloss.sharpness.quadrature import Density
from fedgloss.study.schema.shown import DensityFigure

if TYPE_CHECKING:
    from fedgloss.study.study import Cell

PLACES = 500
"""Of each curve."""
WIDTH = 0.01
"""The standard deviation of the Gaussian that smooths, as a part of a panel's eigenvalues' range:
80 steps of Lanczos resolve no less."""


def draw_density(found: Results, asked: DensityFigure) -> Figure:
    """One panel per column of the figure, one curve per row."""
    study = found.study
    figure, axes = panels(len(asked.columns), height=3.2)
    heads = names.columns(study, asked.columns)
    for axis, column, head in zip(axes, asked.columns, heads, strict=True):
        cells = [cell for label in asked.rows for cell in cells_at(study, asked, label, column)]
        spectra = {cell.algorithm: spectrum for cell in cells if (spectrum := density(found, cell))}
        parameters = [m["parameters"] for m in map(found.manifest, cells) if m]
        axis.set_yscale("log")
        if spectra:
            _panel(found, axis, spectra, parameters[0])
        axis.set(title=head, xlabel="Eigenvalue", ylabel="Density (log scale)")
    lines = [axes[0].plot([], [], **line(study, label))[0] for label in asked.rows]
    titles = [names.algorithm(study, label) for label in asked.rows]
    ncols = 2 if len(axes) == 1 else 4  # as many as the width holds
    figure.legend(lines, titles, loc="outside lower center", ncols=ncols, frameon=False)
    return figure


def caption(found: Results, asked: DensityFigure) -> str:
    """What the curves show and how to read them."""
    cells = found.study.cells_of(asked)
    spectra = {cell: density(found, cell) for cell in cells}
    starts = " or ".join(map(str, sorted({len(s.nodes) for s in spectra.values() if s})))
    whys = [
        (cell, None if spectrum else found.why_absent(cell, "hessian") or Absence(NOT_COMPUTED))
        for cell, spectrum in spectra.items()
    ]
    return (
        f"Density of the eigenvalues of {definitions.hessian(found, cells)} (seed {asked.seed}):"
        " the share of all eigenvalues for each unit of the axis, by stochastic Lanczos quadrature,"
        f" through a Gaussian whose standard deviation is {100 * WIDTH:.2g} % of the range of a"
        " panel's eigenvalues. Bands: the 95 % interval of the estimate from its"
        f" {starts or 'few'} random starts. Dotted: how high a single eigenvalue would be."
        f"{definitions.left_out(found.study, whys)}"
    )


def density(found: Results, cell: "Cell") -> Density | None:
    """What the cell's file has of it; None if it diverged, or is not there."""
    record, manifest = (found.hessian(cell) or {}).get("density"), found.manifest(cell)
    if not record or not manifest:
        return None
    nodes, weights = (tuple(map(np.array, record[key])) for key in ("nodes", "weights"))
    return Density(nodes, weights, record["products"], manifest["parameters"])


def _panel(found: Results, axes: Axes, spectra: dict[str, Density], parameters: int) -> None:
    """The curves of a panel, by label; below a tenth of one eigenvalue the axis ends."""
    nodes = [n for spectrum in spectra.values() for n in spectrum.nodes]
    low, high = min(map(np.min, nodes)), max(map(np.max, nodes))
    width = WIDTH * (high - low) or 1.0
    x = np.linspace(low - 4 * width, high + 4 * width, PLACES)
    single = 1 / (parameters * width * math.sqrt(2 * math.pi))
    floor, top = single / 10, single
    for label, spectrum in spectra.items():
        values, error = spectrum.smoothed(x, width)
        shade = {"color": colour(found.study, label), "alpha": 0.16, "linewidth": 0}
        axes.fill_between(x, np.maximum(values - error, floor / 10), values + error, **shade)
        axes.plot(x, np.maximum(values, floor / 10), linewidth=1.4, **line(found.study, label))
        top = max(top, float((values + error).max()))
    axes.axhline(single, color="#222222", linewidth=0.7, linestyle=(0, (1, 2)), zorder=0)
    axes.annotate(
        "one eigenvalue",
        (1, single),
        xytext=(-2, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=7,
        color="#555555",
    )
    axes.set(xlim=(x[0], x[-1]), ylim=(floor, 2 * top))
