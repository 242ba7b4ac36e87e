"""What figures share: a fixed colour per method, panels in rows of two, when to use a log axis."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedgloss.report import names
from fedgloss.study.schema.shown import Condition, Shown

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study

# Okabe and Ito's colours, safe for colour-blind readers. A method's client-SGD and client-SAM forms
# share one: dashes and pale bars tell client SGD.
COLOURS = {
    "fedavg": "#444444",
    "fedprox": "#999999",
    "feddyn": "#009E73",
    "scaffold": "#E69F00",
    "fedgloss-sgd": "#D55E00",
    "fedopt": "#8C6D31",
    "fedsam": "#0072B2",
    "feddyn-sam": "#009E73",
    "fedspeed": "#56B4E9",
    "fedgamma": "#E69F00",
    "fedsmoo": "#CC79A7",
    "fedgloss": "#D55E00",
    "naivefedgloss": "#882255",
    "centralized-sgd": "#999999",
    "centralized-sam": "#000000",
    "centralized-sam-previous": "#666666",
}
SPARE_COLOURS = ("#332288", "#117733", "#AA4499", "#44AA99", "#661100", "#6699CC")
LOG_SPREAD = 20
"""Positive values that span more than this factor get a logarithmic axis."""


def colour(study: "Study", label: str) -> str:
    """The colour of an algorithm, the same in all figures of a study.

    A method's colour is for the label that is its name, or else for its first; others are spare.
    """
    if label in COLOURS:
        return COLOURS[label]
    own = [*dict.fromkeys(c.algorithm for c in study.cells if c.algorithm not in COLOURS)]
    taken = {c.algorithm for c in study.cells}.intersection(COLOURS)
    first = {study.definition(name).method: name for name in reversed(own)}
    first = {name: method for method, name in first.items() if method in COLOURS.keys() - taken}
    if label in first:
        return COLOURS[first[label]]
    own = [name for name in own if name not in first]
    return SPARE_COLOURS[own.index(label) % len(SPARE_COLOURS)]


def line(study: "Study", label: str) -> dict[str, Any]:
    """How an algorithm's line is drawn: in its colour, dashed with client SGD."""
    dashed = names.client(study, label) == "sgd"
    return {"color": colour(study, label), "linestyle": (0, (3, 1.2)) if dashed else "-"}


def cells_at(study: "Study", figure: Shown, label: str, column: Condition) -> list["Cell"]:
    """The cells of one row in one column of a figure: all seeds, or the one it names."""
    cells = study.select(column, algorithm=label)
    return [cell for cell in cells if figure.one_seed in (None, cell.seed)]


def nothing_yet(what: str) -> Figure:
    """A figure that says so."""
    figure = plt.figure(figsize=(4.8, 1.2))
    text = f"{what} has been computed yet."
    figure.text(0.5, 0.5, text, ha="center", va="center", color="#555555")
    return figure


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes, two to a row; `height` of each in inches."""
    across = min(count, 2)
    down = math.ceil(count / across)
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(4.8 if count == 1 else 8.4, height * down),
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.05, hspace=0.08)
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def is_wide(values: Sequence[float]) -> bool:
    """Whether values ask for a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_SPREAD
