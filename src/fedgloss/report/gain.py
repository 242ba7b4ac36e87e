"""Accuracy gained over FedAvg against what was communicated, as the paper's Fig. 9."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from fedgloss.report import definitions, names, values
from fedgloss.report.communication import baseline, exchanged, final, lacks
from fedgloss.report.curves import Curve, curve_of, draw_curve, name_ends
from fedgloss.report.panels import cells_at, panels
from fedgloss.report.reading import Columns
from fedgloss.report.results import Results
from fedgloss.report.seeds import Summary, summarize
from fedgloss.study.schema.shown import Condition, GainFigure

LEAST = 5.0
"""Points of accuracy that a panel shows at least, above 0 and below."""


def draw_gain(found: Results, asked: GainFigure) -> Figure:
    """One panel per column of the figure, one line per row that ends in its final accuracy."""
    columns = asked.columns
    figure, axes = panels(len(columns), height=3.0)
    heads = names.columns(found.study, columns)
    for axis, column, head in zip(axes, columns, heads, strict=True):
        _panel(found, asked, axis, column)
        axis.set(title=head, xlabel="Communication (B)", ylabel="Accuracy − FedAvg's (points)")
    return figure


def caption(found: Results, asked: GainFigure) -> str:
    """What the lines and dots show."""
    manifests = [m for m in map(found.manifest, found.study.cells_of(asked)) if m]
    return (
        "Dots: the reported accuracy"
        f" ({definitions.accuracy(manifests)}) minus FedAvg's, mean ± sample standard deviation"
        " over the seeds, at all the bytes that the run exchanged. Lines: test accuracy on the way"
        " minus the same number; where one crosses 0, FedAvg's final accuracy is reached. B: what"
        " FedAvg exchanges in all its rounds. Dashed: client SGD. A seed that diverged is a thin"
        " line that ends in ×."
    )


def _panel(found: Results, asked: GainFigure, axes: Axes, column: Condition) -> None:
    fedavg = baseline(found, column, "fedavg")
    target, budget = final(found, fedavg).mean, exchanged(found, fedavg)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if lacking := lacks(found, fedavg):
        said = f"{'Nothing to compare with:' if target is None else 'Against'} {lacking}"
        axes.annotate(said, (0.02, 0.04), xycoords="axes fraction")
    if target is None or not budget:
        return

    def points(metrics: Columns) -> tuple[list[float], list[float]]:
        if not metrics["round"]:  # diverged before anything was recorded, so without the bytes
            return [], []
        sent = zip(metrics["bytes_down"], metrics["bytes_up"], strict=True)
        gained = [accuracy - target for accuracy in metrics["accuracy"]]
        return [(down + up) / budget for down, up in sent], gained

    curves, lowest = [], 0.0
    for label in asked.rows:
        cells = cells_at(found.study, asked, label, column)
        curve = curve_of(found, label, cells, points)
        draw_curve(axes, curve, 1.2)
        ours = summarize(found, cells, lambda cell: values.accuracy(found, cell))
        _dot(axes, curve, ours, target)
        lowest = min([lowest, *(value - target for value in ours.values.values())])
        curves.append(curve)
    axes.margins(x=0.02)
    # What is far below FedAvg's end is the beginning of training, which all lines share.
    top = max(axes.get_ylim()[1], LEAST)
    axes.set_ylim(min(-top, 1.1 * lowest), top)
    axes.set_xlim(axes.get_xlim())
    name_ends(axes, curves)


def _dot(axes: Axes, curve: Curve, ours: Summary, target: float) -> None:
    """The reported accuracy at the end of a curve."""
    if curve.completed and ours.mean is not None:
        axes.errorbar(
            curve.completed[0][0][-1],
            ours.mean - target,
            yerr=ours.std,
            fmt="o",
            color=curve.style["color"],
            markersize=5,
            markeredgecolor="white",
            capsize=2,
            linewidth=0.9,
            zorder=6,
        )
