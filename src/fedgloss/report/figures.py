"""The figures, drawn from the result files: PNG for the screen, PDF for a paper, byte-stable."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from fedgloss.errors import InputError
from fedgloss.files import atomic
from fedgloss.report import (
    bars,
    classes,
    curves,
    density,
    flatness,
    gain,
    landscapes,
    lines,
    sweep_figure,
)
from fedgloss.report.results import Results

if TYPE_CHECKING:
    from fedgloss.study.study import Study


class Kind(NamedTuple):
    """How figures of a kind are made, given what they are in study/schema/shown.py."""

    draw: Callable[[Results, Any], Figure]
    caption: Callable[[Results, Any], str]
    live: Callable[[Results, Any], str | None] = lambda found, asked: None
    """What plotly draws on the page, JSON, where one can read values or turn it around."""
    invitation: str = ""
    """To do that."""


KINDS = {
    "curves": Kind(curves.draw_curves, curves.caption, curves.to_read, "Read the values"),
    "eigenvalues": Kind(bars.draw_eigenvalues, bars.caption),
    "density": Kind(density.draw_density, density.caption),
    "gain": Kind(gain.draw_gain, gain.caption),
    "flatness": Kind(flatness.draw_flatness, flatness.caption),
    "classes": Kind(classes.draw_classes, classes.caption),
    "landscape": Kind(landscapes.draw, landscapes.caption, landscapes.turned, "Turn it around"),
    "lines": Kind(lines.draw, lines.caption),
    "sweep": Kind(sweep_figure.draw, sweep_figure.caption),
}
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
    asked, found = study.figures[name], Results(study, Path(folder))
    with plt.style.context(STYLE):
        figure = KINDS[asked.kind].draw(found, asked)
        for suffix, metadata in METADATA.items():
            with atomic(f"{out_stem}.{suffix}") as temporary:
                figure.savefig(temporary, format=suffix, metadata=metadata)
        plt.close(figure)


def live(study: "Study", name: str, folder: Path) -> tuple[str, str] | None:
    """The figure as the arguments of plotly, JSON, and an invitation; None if there is none."""
    asked = study.figures[name]
    kind = KINDS[asked.kind]
    drawn = kind.live(Results(study, Path(folder)), asked)
    return (drawn, kind.invitation) if drawn else None


def caption(study: "Study", name: str, folder: Path) -> str:
    """What the figure shows and how to read it."""
    asked = study.figures[name]
    return f"{asked.title}. {KINDS[asked.kind].caption(Results(study, Path(folder)), asked)}"
