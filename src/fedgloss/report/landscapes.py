"""Figures of loss surfaces: of methods (the paper's Fig. 1 and 6), of local models (2 and 4)."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colors
from matplotlib.figure import Figure

from fedgloss.report import definitions, interactive, names
from fedgloss.report.panels import colour, nothing_yet
from fedgloss.report.reading import Seen
from fedgloss.report.results import Results
from fedgloss.report.surfaces import Panel, Surface, draw_surfaces
from fedgloss.study import views
from fedgloss.study.schema.shown import LandscapeFigure

if TYPE_CHECKING:
    from fedgloss.study.study import Cell

REFERENCE = "#222222"
"""The colour of a global model among its own local ones."""


def draw(found: Results, asked: LandscapeFigure) -> Figure:
    """The surfaces that there are; a diverged run's has no points."""
    panels = panels_of(found, asked)
    return draw_surfaces(panels) if panels else nothing_yet("No loss landscape")


def turned(found: Results, asked: LandscapeFigure) -> str | None:
    """The same to be turned around in a browser: see report/interactive.py."""
    panels = panels_of(found, asked)
    return interactive.scenes(panels) if panels else None


def panels_of(found: Results, asked: LandscapeFigure) -> list[Panel]:
    """What is drawn: panels without any surface are left out."""
    heads = names.columns(found.study, asked.columns)
    panels = []
    for place, panel in enumerate(views.surfaces(found.study, asked)):
        seen = [found.view(cell, view) for cell, view in panel]
        surfaces = [
            _surface(found, asked, cell, view, result, net=0 < index == len(panel) - 1)
            for index, ((cell, view), result) in enumerate(zip(panel, seen, strict=True))
            if result
        ]
        if asked.participants:
            title = _client(asked.participants[place], filter(None, seen))
        else:
            title = heads[place]
        if surfaces:
            panels.append(Panel(title, tuple(surfaces)))
    return panels


def _surface(
    found: Results,
    asked: LandscapeFigure,
    cell: "Cell",
    view: views.Surface,
    result: Seen,
    net: bool,
) -> Surface:
    name = method = names.algorithm(found.study, cell.algorithm)
    shade = colour(found.study, cell.algorithm)
    if asked.participants:
        name = "own data" if view.on == "own" else "all data"
        if net:
            name = "global model" if view.model == "average" else f"{method}, all data"
            shade = REFERENCE if view.model == "average" else shade
        elif view.on == "own":  # the same method's, paler
            shade = colors.to_hex(0.5 + 0.5 * np.array(colors.to_rgb(shade)))
    columns = result.columns
    x, y = np.unique(columns["x"]), np.unique(columns["y"])
    loss = np.array(columns["loss"]).reshape(len(x), len(y))
    return Surface(name, shade, x, y, loss, net)


def _client(place: int, results: Iterable[Seen]) -> str:
    """A participant by its client and the class that most of its images are of."""
    for result in results:
        if "client" in result.facts:
            return f"Client {result.facts['client']}: class {result.facts['class']}"
    return f"Participant {place}"


def caption(found: Results, asked: LandscapeFigure) -> str:
    """What the surfaces show and how to read them."""
    study = found.study
    shown = [(cell, view, found.view(cell, view)) for cell, view in study.views(asked)]
    manifests = [m for m in map(found.manifest, study.cells_behind(asked)) if m]
    last = definitions.training_values(manifests, "last")
    method = [names.algorithm(study, label) for label in asked.rows]
    around = f"the average of the last {last} rounds' global models"
    if asked.participants:
        (head,) = names.columns(study, asked.columns)
        reference = f"the local model of {method[1]}" if len(method) > 1 else around
        what = (
            f"Loss around local models of {method[0]} ({head}, seed {asked.seed}): those of"
            " participants of the last round before aggregation, on their own client's data (pale)"
            f" and on all data; as a net, {reference} on all data"
        )
    else:
        net = f"; {method[-1]} is drawn as a net" if len(method) > 1 else ""
        what = f"Loss around {around} (seed {asked.seed}){net}"
    counts = [seen.facts for _, _, seen in shown if seen and seen.facts.get("data") == "all"]
    sizes = dict.fromkeys(len(seen.columns["loss"]) for _, _, seen in shown if seen)
    grids = " or ".join(f"{side} × {side}" for side in map(math.isqrt, filter(None, sizes)))
    return (
        f"{what}. {definitions.images(counts)} Computed at {grids or 'some'} points of each square,"
        " and a cubic spline between them. Axes: two random directions, the same for all models but"
        " for their lengths: each filter of a direction is as long as the same filter of the model,"
        " or larger weights would look flatter. One unit is that length. Heights and contours are"
        " evenly spaced in log(1 + loss), with one scale for all panels; a cross is the model"
        " itself."
        f"{definitions.not_drawn(found, study.views(asked))}"
    )
