"""The final model's accuracy on each class: what a mean over classes hides."""

import numpy as np
from matplotlib.figure import Figure

from fedgloss.errors import printable
from fedgloss.records import TEXT, read_record
from fedgloss.report import names, values
from fedgloss.report.panels import cells_at, panels
from fedgloss.report.results import NOT_COMPUTED, Absence, Results
from fedgloss.study.layout import MANIFEST, Layout
from fedgloss.study.schema.shown import ClassesFigure, Condition

WRITTEN = 20
"""Classes up to which the numbers stand in their fields, and the names below them."""
LONGEST = 16
"""Characters of a name; longer ones are cut."""


def draw_classes(found: Results, asked: ClassesFigure) -> Figure:
    """One panel per column of the figure; a row for each of its rows, a field for each class."""
    figure, axes = panels(len(asked.columns), height=0.9 + 0.26 * len(asked.rows))
    rows = [names.algorithm(found.study, label) for label in asked.rows]
    for axis, column, head in zip(
        axes, asked.columns, names.columns(found.study, asked.columns), strict=True
    ):
        runs = [cells_at(found.study, asked, label, column) for label in asked.rows]
        means = [_mean(found, cells) for cells in runs]
        classes = max(map(len, means), default=0) or 1
        values = np.array([[*row, *[np.nan] * (classes - len(row))] for row in means])
        axis.imshow(values, vmin=0, vmax=100, cmap="cividis", aspect="auto")
        for (i, k), value in np.ndenumerate(values) if classes <= WRITTEN else ():
            if np.isfinite(value):
                shade = "white" if value < 60 else "black"
                axis.text(k, i, f"{value:.0f}", ha="center", va="center", color=shade, fontsize=6.5)
        for i, row in enumerate(means):
            if not row:
                whys = [found.why_absent(cell) or Absence(NOT_COMPUTED) for cell in runs[i]]
                said = " or ".join(dict.fromkeys(why.why for why in whys)) or "not in the grid"
                axis.text(0.02, i, said, transform=axis.get_yaxis_transform(), va="center")
        axis.set_title(head)
        axis.set_xlabel("Class")
        axis.set_xticks(range(classes) if classes <= WRITTEN else [])
        named = _names(found, column)
        if classes == len(named) <= WRITTEN:
            steep = 45 if max(map(len, named)) > 2 else 0
            axis.set_xticks(
                range(classes), named, rotation=steep, ha="right" if steep else "center"
            )
            for label in axis.get_xticklabels():
                label.set(rotation_mode="anchor", parse_math=False)
        axis.set_yticks(range(len(rows)), rows)
        axis.grid(False)
    return figure


def caption(found: Results, asked: ClassesFigure) -> str:
    """What the fields show."""
    is_named = all(0 < len(_names(found, column)) <= WRITTEN for column in asked.columns)
    order = " Classes without names are in the order of the prepared data set's manifest."
    return (
        "Accuracy in percent on the test images of each class, of the model after the last round:"
        " the mean over the seeds that ran to the end, from 0 (dark) to 100 (light)."
        f"{'' if is_named else order}"
    )


def _names(found: Results, column: Condition) -> list[str]:
    """The classes' names by the prepared data set's manifest; none where that is not there."""
    file = Layout(found.folder).data(found.study.data_folder(column.dataset)) / MANIFEST
    if not file.is_file():
        return []
    named = map(printable, read_record(file, {"classes": TEXT.listed})["classes"])
    return [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in named]


def _mean(found: Results, cells: list) -> list[float]:
    """The mean over seeds, NaN for a class that has no test image; empty without a run."""
    runs = [run for cell in cells if (run := values.accuracy_by_class(found, cell))]
    by_class = np.array([[np.nan if v is None else v for v in run] for run in runs])
    return by_class.mean(axis=0).tolist() if runs else []
