"""The figures, drawn from the result files: PNG for the screen, PDF for a paper, byte-stable."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from fedgloss.errors import InputError
from fedgloss.files import atomic
from fedgloss.report import definitions, names
from fedgloss.report.bars import draw_eigenvalues
from fedgloss.report.curves import AXES, draw_curves
from fedgloss.report.panels import colour, figure_cells
from fedgloss.report.results import Results
from fedgloss.report.surfaces import Surface, draw_surfaces

if TYPE_CHECKING:
    from fedgloss.study.study import Study

STYLE = Path(__file__).with_name("style.mplstyle")
# Neither format may carry the date, nor the version of what drew it.
METADATA = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def draw(study: "Study", name: str, folder: Path, out_stem: Path) -> None:
    """Draw one figure of a study to {out_stem}.png and .pdf.

    Raises InputError for an unknown figure.
    """
    if name not in study.figures:
        raise InputError(
            f"{study.file}: figures: no figure {name!r} (allowed: {', '.join(study.figures)})"
        )
    spec, found = study.figures[name], Results(study, Path(folder))
    with plt.style.context(STYLE):
        figure = KINDS[spec["kind"]](found, spec)
        for suffix, metadata in METADATA.items():
            with atomic(f"{out_stem}.{suffix}") as temporary:
                figure.savefig(temporary, format=suffix, metadata=metadata)
        plt.close(figure)


def caption(study: "Study", name: str, folder: Path) -> str:
    """What the figure shows and how to read it."""
    spec, found = study.figures[name], Results(study, Path(folder))
    cells = [
        cell
        for column in spec["columns"]
        for label in spec["rows"]
        for cell in figure_cells(study, spec, label, column)
    ]
    manifests = [m for m in map(found.manifest, cells) if m]
    title = spec.get("title", name)
    if spec["kind"] == "curves":
        every = definitions.training_values(manifests, "evaluate_every")
        what = AXES[spec.get("metric", "accuracy")].split(" (")[0]
        return (
            f"{title}. {what}, every {every} rounds: the mean over the seeds in a band of ± one"
            " sample standard deviation (ddof = 1). Dashed: client SGD. A seed that diverged is"
            " a thin line that ends in × and is not in the mean."
        )
    if spec["kind"] == "eigenvalues":
        return (
            f"{title}. λ₁: {definitions.lambda1(found, cells)}; lower is flatter. Bars: the mean"
            " over the seeds; dots: each seed; text: mean ± sample standard deviation. Pale: client"
            " SGD."
        )
    last = definitions.training_values(manifests, "last")
    return (
        f"{title}. Loss around the average of the last {last} rounds' global models"
        f" ({names.columns(study, spec['columns'])[0]}, seed {_seed(study, spec)}) along two random"
        " directions, scaled filter by filter to the weights. Left: the surfaces, one of them as a"
        " net. Right: the same as contours with common levels; the cross is the model itself."
    )


def _seed(study: "Study", spec: Mapping[str, Any]) -> int:
    """The seed of a landscape: the one given, or the first of the grid."""
    return spec.get("seed", study.select(**spec["columns"][0])[0].seed)


def _landscape(found: Results, spec: Mapping[str, Any]) -> Figure:
    surfaces = []
    for label in spec["rows"]:
        chosen = {**spec, "seed": _seed(found.study, spec)}
        cells = figure_cells(found.study, chosen, label, spec["columns"][0])
        grid = found.landscape(cells[0]) if cells else None
        if grid is not None and np.isfinite(grid["loss"]).any():  # a diverged run's has no rows
            x, y = np.unique(grid["x"]), np.unique(grid["y"])
            loss = np.array(grid["loss"]).reshape(len(x), len(y))
            surfaces.append(
                Surface(names.algorithm(found.study, label), colour(found.study, label), x, y, loss)
            )
    if not surfaces:
        return _nothing("No loss landscape has been computed yet.")
    return draw_surfaces(surfaces)


def _nothing(text: str) -> Figure:
    figure = plt.figure(figsize=(4.8, 1.2))
    figure.text(0.5, 0.5, text, ha="center", va="center", color="#555555")
    return figure


KINDS = {"curves": draw_curves, "eigenvalues": draw_eigenvalues, "landscape": _landscape}
