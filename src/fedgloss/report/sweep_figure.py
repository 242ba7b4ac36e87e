"""Figures of kind sweep: accuracy against what was searched.

A label with one or two settings that were searched has a response curve for each; one with more has
parallel coordinates, in which a trial is a line through its values.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fedgloss.report import names
from fedgloss.report.panels import is_wide, nothing_yet
from fedgloss.report.results import Results
from fedgloss.study.schema.shown import SweepFigure
from fedgloss.study.standings import Standing, Standings

if TYPE_CHECKING:
    from fedgloss.study.sweep import Axis, Trial

CHOSEN, OTHERS, DROPPED = "#D55E00", "#0072B2", "#BBBBBB"
CURVES = 2
"""With more axes than so many, there are parallel coordinates."""


def draw(found: Results, asked: SweepFigure) -> Figure:
    """A row for each label that is searched."""
    standings = Standings(found.study, found.folder)
    rows = {b: [s for s in standings.of(b) if s.mean is not None] for b in standings.bases}
    rows = {base: known for base, known in rows.items() if known}
    if not rows:
        return nothing_yet("No trial")
    figure = plt.figure(figsize=(8.4, 2.9 * len(rows)), layout="constrained")
    parts = np.atleast_1d(figure.subfigures(len(rows), 1))
    for part, (base, known) in zip(parts, rows.items(), strict=True):
        part.suptitle(names.algorithm(found.study, base), fontsize=9, fontweight="bold")
        axes, chosen = [*known[0].trial.point], standings.chosen(base)
        reached = standings.reached(base)
        colours = [
            CHOSEN if one is chosen else OTHERS if one.rung == reached else DROPPED for one in known
        ]
        if len(axes) > CURVES:
            every = [one.trial for one in standings.of(base)]
            _parallel(part.subplots(), known, every, colours)
        else:
            panels = np.atleast_1d(part.subplots(1, len(axes), sharey=True))
            for panel, axis in zip(panels, axes, strict=True):
                _response(panel, known, axis, colours)
            panels[0].set_ylabel("Held-out accuracy (%)")
            low, high = panels[0].get_ylim()  # of few seeds, intervals end beyond what can be
            panels[0].set_ylim(max(low, -4), min(high, 104))
    return figure


def _response(panel: Axes, known: Sequence[Standing], axis: "Axis", colours: Sequence[str]) -> None:
    """Each trial's accuracy, with its interval, over its value on one axis."""
    values = [one.trial.point[axis] for one in known]
    numbers = [value for value in values if not isinstance(value, str)]
    i = [*known[0].trial.point].index(axis)
    words = {one.trial.places[i]: str(value) for one, value in zip(known, values, strict=True)}
    places = numbers or [one.trial.places[i] for one in known]
    for place, one, colour in zip(places, known, colours, strict=True):
        front = 4 if colour == CHOSEN else 3
        panel.errorbar(
            place, one.mean, one.half_interval, fmt="o", ms=4, color=colour, zorder=front, lw=0.8
        )
    panel.set_xlabel(axis[1])
    if not numbers:
        panel.set_xticks([*words], [*words.values()])
        panel.set_xlim(min(words) - 0.5, max(words) + 0.5)
    elif is_wide([float(number) for number in numbers]) or _is_geometric(numbers):
        panel.set_xscale("log")
        panel.set_xlabel(f"{axis[1]} (log scale)")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())


def _is_geometric(numbers: Sequence[float]) -> bool:
    """Whether numbers lie more evenly in their logarithms."""
    some = np.unique(np.array(numbers, dtype=float))
    if len(some) < 3 or some[0] <= 0:
        return False
    middle = float(np.median(some))
    return abs(middle - (some[0] * some[-1]) ** 0.5) < abs(middle - (some[0] + some[-1]) / 2)


def _parallel(
    panel: Axes, known: Sequence[Standing], trials: Sequence["Trial"], colours: Sequence[str]
) -> None:
    """Each trial as a line through its place among the values of every axis, and its accuracy.

    trials: of these the places and values are, whether or not all are known yet.
    """
    axes = [*trials[0].point]
    heads = [name for _, name in axes]
    means = np.array([one.mean for one in known])
    low, high = float(means.min()), float(means.max())
    counts = [max(trial.places[i] for trial in trials) for i in range(len(axes))]
    order = np.argsort(means)  # the best on top
    for i in order:
        one, colour = known[i], colours[i]
        share = (means[i] - low) / max(high - low, 1e-9)
        places = [p / max(n, 1) for p, n in zip(one.trial.places, counts, strict=True)]
        panel.plot(
            [*range(len(axes) + 1)],
            [*places, share],
            color=colour,
            lw=2.2 if colour == CHOSEN else 0.9,
            alpha=1.0 if colour == CHOSEN else 0.25 + 0.6 * share,
            marker="o" if colour == CHOSEN else None,
            ms=4,
        )
    panel.set_xticks(range(len(axes) + 1), [*heads, "accuracy (%)"])
    panel.set_yticks([])
    panel.set_ylim(-0.12, 1.12)
    for place, axis in enumerate(axes):
        values = sorted((trial.places[place], trial.point[axis]) for trial in trials)
        for height, value, side in ((0, values[0][1], "top"), (1, values[-1][1], "bottom")):
            at = height + (0.03 if height else -0.03)
            panel.text(place, at, f"{value}", ha="center", va=side, fontsize=7)
        panel.axvline(place, color="#DDDDDD", lw=0.8, zorder=0)
    for height, value, side in ((0, low, "top"), (1, high, "bottom")):
        at = height + (0.03 if height else -0.03)
        panel.text(len(axes), at, f"{value:.1f}", ha="center", va=side, fontsize=7)
    panel.axvline(len(axes), color="#DDDDDD", lw=0.8, zorder=0)


def caption(found: Results, asked: SweepFigure) -> str:
    """What the points and lines are."""
    standings = Standings(found.study, found.folder)
    said = (
        "Each trial's accuracy (percent) on the images that its clients hold out, the mean over"
        " seeds and columns, with its 95 % interval over the seeds. Orange: the one chosen."
    )
    if len(standings.rungs) > 1:
        said += " Grey: dropped on the way, as it was then."
    if any(len(trial.point) > CURVES for trial in found.study.trials.values()):
        said += (
            " Where more than two settings were searched, a trial is a line through the places of"
            " its values, smallest below, to its accuracy."
        )
    return said
