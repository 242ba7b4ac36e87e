"""Loss and accuracy on straight lines between models: above and below, a column for each panel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from fedgloss.report import definitions, names
from fedgloss.report.panels import colour, is_wide, nothing_yet
from fedgloss.report.results import Results
from fedgloss.study import views
from fedgloss.study.schema.shown import LinesFigure
from fedgloss.study.settings import round_of
from fedgloss.study.views import Line

if TYPE_CHECKING:
    from fedgloss.study.study import Cell

WIDE, HIGH = 3.1, 1.9
"""Inches: of an axes, with what is around it."""


@dataclass(frozen=True)
class Between:
    """What lies between two models."""

    name: str
    colour: str
    t: np.ndarray
    """[n]; one model is at 0, the other at 1."""
    loss: np.ndarray
    """[n]"""
    accuracy: np.ndarray
    """[n], percent."""


@dataclass(frozen=True)
class Lines:
    """Lines in one axes."""

    title: str
    ends: tuple[str, str]
    """What the models at 0 and at 1 are."""
    lines: tuple[Between, ...]


def draw(found: Results, asked: LinesFigure) -> Figure:
    """The lines that there are; one to a diverged run has no points."""
    study, panels = found.study, []
    heads = names.columns(study, asked.columns)
    for head, panel in zip(heads, views.lines(study, asked), strict=True):
        lines = []
        for cell, view in panel:
            seen = found.view(cell, view)
            label = view.other.algorithm  # of lines between methods, the one that is told apart
            if seen:
                values = (np.array(seen.columns[name]) for name in ("t", "loss", "accuracy"))
                line = Between(names.algorithm(study, label), colour(study, label), *values)
                lines.append(line)
        if lines:
            panels.append(Lines(head, _ends(found, asked, panel), tuple(lines)))
    return draw_lines(panels) if panels else nothing_yet("No line between models")


def _ends(
    found: Results, asked: LinesFigure, panel: Sequence[tuple["Cell", Line]]
) -> tuple[str, str]:
    """What stands below either end of a panel's lines; T: of each run the last round."""
    if asked.between == "models":
        return "average", "final"
    if asked.between == "rounds":
        starts, ends = zip(*(_rounds(found, asked, cell) for cell, _ in panel), strict=True)
        start = f"{starts[0]:,}" if len({*starts}) == 1 else f"T − {-(asked.round or 0):,}"
        return f"round {start}", f"round {ends[0]:,}" if len({*ends}) == 1 else "round T"
    if asked.between == "methods":
        return names.algorithm(found.study, panel[0][0].algorithm), "the other"
    one, other, *_ = found.study.asked.seeds
    return f"seed {one}", f"seed {other}"


def _rounds(found: Results, asked: LinesFigure, cell: "Cell") -> tuple[int, int]:
    """The rounds that the models of a cell's line between rounds are after."""
    training = found.study.settings(cell).training
    return round_of(asked.round or 0, training), training["rounds"]


def caption(found: Results, asked: LinesFigure) -> str:
    """What the lines show and how to read them."""
    study = found.study
    shown = [(cell, view, found.view(cell, view)) for cell, view in study.views(asked)]
    manifests = [m for m in map(found.manifest, study.cells_behind(asked)) if m]
    last = definitions.training_values(manifests, "last")
    starts = dict.fromkeys(cell.algorithm for cell, _ in study.views(asked)) or asked.rows[:1]
    one, other, *_ = [*study.asked.seeds, 0]
    seed = one if asked.seed is None else asked.seed
    average = f"the average of the last {last} rounds' global models"
    ends = {
        "seeds": f"from {average} of seed {one} to that of seed {other}",
        "methods": f"from {average} of"
        f" {' or '.join(names.algorithm(study, label) for label in starts)} to that of each"
        f" other method (seed {seed})",
        "models": f"from {average} to the last of these models (seed {seed})",
        "rounds": f"from {_earlier(found, asked)} to the last (seed {seed})",
    }
    return (
        f"Loss and accuracy on the straight line {ends[asked.between]}. Dots: the two models; lines"
        " go a quarter beyond either. A bump between them is a barrier: the models do not lie in"
        " one basin."
        f" {definitions.images(seen.facts for _, _, seen in shown if seen)}"
        f"{definitions.not_drawn(found, study.views(asked))}"
    )


def _earlier(found: Results, asked: LinesFigure) -> str:
    """In words, the models at which lines between rounds start."""
    pairs = {_rounds(found, asked, cell) for cell in found.study.cells_of(asked)}
    rounds = [f"{t:,} of {last:,}" for t, last in sorted(pairs)]
    return f"the global model after round {' or '.join(rounds)}"


def draw_lines(panels: Sequence[Lines]) -> Figure:
    """Loss above, accuracy below, with scales in common; a dot for each model."""
    size = (max(len(panels) * WIDE, 4.2), 2 * HIGH + 0.5)
    figure, axes = plt.subplots(
        2,
        len(panels),
        figsize=size,
        sharex="col",  # what stands below the ends may be each panel's own
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    losses = np.concatenate([line.loss for panel in panels for line in panel.lines])
    for column, panel in enumerate(panels):
        for row, quantity in enumerate(("loss", "accuracy")):
            chart = axes[row, column]
            for line in panel.lines:
                values = getattr(line, quantity)
                chart.plot(line.t, values, color=line.colour, linewidth=1.4, label=line.name)
                ends = np.isin(line.t, (0, 1))
                chart.plot(line.t[ends], values[ends], "o", color=line.colour, markersize=3.5)
            for t in (0, 1):
                chart.axvline(t, color="#AAAAAA", linewidth=0.6, zorder=0)
        axes[0, column].set_title(panel.title)
        axes[1, column].set(xticks=(0, 1), xticklabels=panel.ends)
    if is_wide(losses.tolist()):
        axes[0, 0].set_yscale("log")
        axes[0, 0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[0, 0].set_ylabel("Loss")
    axes[1, 0].set_ylabel("Accuracy (%)")
    handles, labels = [], []
    for panel, chart in zip(panels, axes[0], strict=True):
        for line, handle in zip(panel.lines, chart.get_lines()[::2], strict=False):
            if line.name not in labels:
                handles.append(handle)
                labels.append(line.name)
    ncols = min(len(labels), 2 if len(panels) == 1 else 4)  # as many as the width holds
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False)
    return figure
