"""Surfaces to turn around in a browser, and curves to read values from.

Plotly draws them, whose script is part of the page.
"""

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from fedgloss.report.surfaces import Panel, Surface, heights, threads_of

ACROSS, GAP = 3, 0.02
HIGH, LOW = 430, 300
"""Pixels, of a row of surfaces, and of a panel of curves."""


class Line(NamedTuple):
    """A method's mean over its seeds, and their standard deviation, at each place."""

    name: str
    colour: str
    dashed: bool
    x: Sequence[float]
    mean: np.ndarray
    std: np.ndarray


class Lines(NamedTuple):
    """A panel of lines."""

    title: str
    logarithmic: bool
    lines: Sequence[Line]


def script() -> str:
    """Plotly's own script, 4.8 MB: once on a page, it draws all figures, and asks for no other."""
    return (resources.files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")


def scenes(panels: Sequence[Panel]) -> str:
    """The panels as the arguments of `Plotly.newPlot`, JSON that may stand inside <script>."""
    across, down = min(len(panels), ACROSS), -(-len(panels) // ACROSS)
    low, top, ticks = heights(panels)
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "height": down * HIGH,
        "margin": {"l": 0, "r": 0, "t": 30, "b": 0},
        "paper_bgcolor": "white",
        "font": {"size": 12},
        "annotations": [],
        "showlegend": True,
        "legend": {"orientation": "h", "y": 0},
    }
    named: set[str] = set()
    for number, panel in enumerate(panels):
        scene = "scene" if number == 0 else f"scene{number + 1}"
        left, row = number % across / across, number // across
        right, upper = left + 1 / across - GAP, 1 - row / down
        layout[scene] = {
            "domain": {"x": [left, right], "y": [upper - 1 / down, upper - 0.06 / down]},
            "camera": {"eye": {"x": -1.5, "y": -1.75, "z": 1.05}},
            "aspectratio": {"x": 1, "y": 1, "z": 0.8},
            **{axis: {"title": {"text": ""}, "nticks": 3} for axis in ("xaxis", "yaxis")},
            "zaxis": {
                "title": {"text": "Loss"},
                "range": [float(np.log1p(low)), float(np.log1p(top))],
                "tickvals": [float(np.log1p(tick)) for tick in ticks],
                "ticktext": [f"{tick:g}" for tick in ticks],
            },
        }
        layout["annotations"].append(
            {
                "text": panel.title,
                "x": (left + right) / 2,
                "y": upper,
                "xref": "paper",
                "yref": "paper",
                "yanchor": "top",
                "showarrow": False,
            }
        )
        for surface in panel.surfaces:
            trace = _net(surface) if surface.net else _solid(surface)
            traces.append({**trace, "scene": scene, "showlegend": surface.name not in named})
            named.add(surface.name)
    return _arguments(traces, layout)


def lines(panels: Sequence[Lines], what: str) -> str:
    """Panels one below the other, as `scenes`; all values at a round are shown at once."""
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "height": LOW * len(panels) + 100,
        "margin": {"l": 50, "r": 10, "t": 30, "b": 40},
        "paper_bgcolor": "white",
        "font": {"size": 12},
        "hovermode": "x unified",
        "legend": {"orientation": "h", "y": 1 + 0.05 / len(panels), "yanchor": "bottom"},
        "grid": {"rows": len(panels), "columns": 1, "pattern": "independent"},
    }
    named: set[str] = set()
    for number, panel in enumerate(panels):
        axis = "" if number == 0 else f"{number + 1}"
        layout[f"xaxis{axis}"] = {"title": {"text": f"{panel.title}: round"}}
        layout[f"yaxis{axis}"] = {
            "title": {"text": what},
            "type": "log" if panel.logarithmic else "linear",
        }
        for line in panel.lines:
            values = zip(line.mean, line.std, strict=True)
            traces.append(
                {
                    **{"name": line.name, "legendgroup": line.name, "type": "scatter"},
                    **{"xaxis": f"x{axis}", "yaxis": f"y{axis}", "mode": "lines"},
                    **{"x": [*line.x], "y": _rounded(line.mean)},
                    "text": [f"{mean:.4g} ± {std:.2g}" for mean, std in values],
                    "hovertemplate": "%{text}",
                    "line": {"color": line.colour, "dash": "dash" if line.dashed else "solid"},
                    "showlegend": line.name not in named,
                }
            )
            named.add(line.name)
    return _arguments(traces, layout)


def _arguments(traces: list[dict[str, Any]], layout: dict[str, Any]) -> str:
    config = {"displaylogo": False, "responsive": True}
    text = json.dumps({"data": traces, "layout": layout, "config": config}, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _solid(surface: Surface) -> dict[str, Any]:
    return {
        "name": surface.name,
        "type": "surface",
        "x": _rounded(surface.x),
        "y": _rounded(surface.y),
        "z": _rounded(np.log1p(surface.loss).T),  # its rows belong to y
        "text": [[f"{value:.4g}" for value in row] for row in surface.loss.T],
        "hovertemplate": "loss %{text}<extra>%{fullData.name}</extra>",
        "colorscale": [[0, surface.colour], [1, surface.colour]],
        "showscale": False,
        "opacity": 0.9,
    }


def _net(surface: Surface) -> dict[str, Any]:
    """Threads along both directions, one line with gaps."""
    x, y = np.meshgrid(surface.x, surface.y, indexing="ij")
    points = np.stack([x, y, np.log1p(surface.loss)], axis=-1)
    threads = []
    for lines in (points, points.swapaxes(0, 1)):
        for line in lines[threads_of(len(lines))]:
            threads += [line, np.full((1, 3), np.nan)]
    along = np.concatenate(threads)
    return {
        "name": surface.name,
        "type": "scatter3d",
        "mode": "lines",
        **{axis: _rounded(along[:, i]) for i, axis in enumerate("xyz")},
        "line": {"color": surface.colour, "width": 2},
        "hoverinfo": "name",
    }


def _rounded(values: np.ndarray) -> Any:
    """Numbers to four digits, which no screen shows more of; null where there is none."""
    if values.ndim > 1:
        return [_rounded(row) for row in values]
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]
