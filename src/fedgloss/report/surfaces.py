"""Two or more loss surfaces in one picture, as the paper's Fig. 6: one a net, the others solid."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from fedgloss.report import definitions, names
from fedgloss.report.panels import cells_at, colour
from fedgloss.report.results import Results
from fedgloss.study.schema.shown import LandscapeFigure

LEVELS = 15
LIGHT = np.array([-0.5, -0.6, 1.0]) / np.linalg.norm([-0.5, -0.6, 1.0])
HEIGHT, RELIEF, CONTOUR, BAR = 2.9, 3.0, 1.85, 0.1
"""Inches: of the figure, and the widths of its parts."""


@dataclass(frozen=True)
class Surface:
    """A loss surface."""

    name: str
    colour: str
    x: np.ndarray
    """[n], the grid's coordinates along the first direction."""
    y: np.ndarray
    """[m]"""
    loss: np.ndarray
    """[n, m]"""


def draw_landscape(found: Results, asked: LandscapeFigure) -> Figure:
    """The surfaces of a landscape's rows that there are; a diverged run's has no points."""
    study, (column,) = found.study, asked.columns
    surfaces = []
    for label in asked.rows:
        cells = cells_at(study, asked, label, column)
        grid = found.landscape(cells[0]) if cells else None
        if grid is not None and np.isfinite(grid["loss"]).any():
            x, y = np.unique(grid["x"]), np.unique(grid["y"])
            loss = np.array(grid["loss"]).reshape(len(x), len(y))
            surface = Surface(names.algorithm(study, label), colour(study, label), x, y, loss)
            surfaces.append(surface)
    return draw_surfaces(surfaces) if surfaces else _nothing()


def _nothing() -> Figure:
    figure = plt.figure(figsize=(4.8, 1.2))
    text = "No loss landscape has been computed yet."
    figure.text(0.5, 0.5, text, ha="center", va="center", color="#555555")
    return figure


def caption(found: Results, asked: LandscapeFigure) -> str:
    """What the surfaces show and how to read them."""
    manifests = [m for m in map(found.manifest, found.study.cells_of(asked)) if m]
    last = definitions.training_values(manifests, "last")
    return (
        f"Loss around the average of the last {last} rounds' global models"
        f" ({names.columns(found.study, asked.columns)[0]}, seed {asked.seed}) along two random"
        " directions, scaled filter by filter to the weights. Left: the surfaces, one of them as a"
        " net. Right: the same as contours with common levels; the cross is the model itself."
    )


def draw_surfaces(surfaces: Sequence[Surface]) -> Figure:
    """The surfaces in one 3-D axes (the last as a net), and each as filled contours beside it."""
    width = RELIEF + len(surfaces) * (CONTOUR + 0.2) + 0.95
    figure = plt.figure(figsize=(width, HEIGHT))

    def place(left: float, wide: float, bottom: float, high: float, **kind: str) -> Axes:
        return figure.add_axes((left / width, bottom / HEIGHT, wide / width, high / HEIGHT), **kind)

    finite = np.concatenate([s.loss[np.isfinite(s.loss)] for s in surfaces])
    low, high = float(finite.min()), float(finite.max())
    relief = place(-0.05, RELIEF - 0.1, 0.0, HEIGHT - 0.22, projection="3d")
    _relief(relief, surfaces, low, high)
    # A flat bottom and steep walls share the picture: levels spaced evenly in the square root.
    levels = low + max(high - low, 1e-12) * np.linspace(0, 1, LEVELS) ** 2
    left, bottom = RELIEF + 0.3, 0.52
    for surface in surfaces:
        axes = place(left, CONTOUR, bottom, CONTOUR)
        filled = _contours(axes, surface, levels)
        if surface is not surfaces[0]:
            axes.set_yticklabels([])
        left += CONTOUR + 0.2
    bar = figure.colorbar(filled, cax=place(left, BAR, bottom, CONTOUR), format="%.2g")
    bar.set_ticks(levels[:: (LEVELS - 1) // 7])
    bar.ax.tick_params(which="both", length=0)
    bar.set_label("Loss")
    bar.outline.set_visible(False)
    return figure


def _relief(axes: Axes, surfaces: Sequence[Surface], low: float, high: float) -> None:
    # All quadrilaterals go into one collection: matplotlib then hides by distance what is behind,
    # across surfaces too, which it does not between collections.
    corners, faces, edges, widths, handles = [], [], [], [], []
    for surface in surfaces:
        quads = _quads(surface)
        base = np.array(colors.to_rgb(surface.colour))
        if surface is surfaces[-1]:
            face, edge, line = np.array([[1, 1, 1, 0.0]]), np.array([[*base, 1.0]]), 0.7
            handles.append(Line2D([], [], color=base, marker="+", label=f"{surface.name} (net)"))
        else:
            rgb = base + (1 - base) * _lightened(quads, high - low)[:, None]
            face = edge = np.column_stack([rgb, np.full(len(quads), 0.95)])
            line = 0.3
            handles.append(Patch(facecolor=base, label=surface.name))
        corners.append(quads)
        faces.append(np.broadcast_to(face, (len(quads), 4)))
        edges.append(np.broadcast_to(edge, (len(quads), 4)))
        widths += [line] * len(quads)
    axes.add_collection3d(
        Poly3DCollection(
            np.concatenate(corners),
            facecolors=np.concatenate(faces),
            edgecolors=np.concatenate(edges),
            linewidths=widths,
        )
    )
    x, y = surfaces[0].x, surfaces[0].y
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), zlim=(low, high))
    axes.set(xticks=[x[0], 0, x[-1]], yticks=[y[0], 0, y[-1]], xticklabels=[], yticklabels=[])
    axes.tick_params(pad=-2)
    axes.zaxis.set_major_locator(plt.MaxNLocator(4))
    axes.set_zlabel("Loss", labelpad=-6)
    axes.view_init(elev=20, azim=-58)
    axes.set_box_aspect((1, 1, 0.8), zoom=0.95)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.pane.set_facecolor("#F7F7F7")
        axis.pane.set_edgecolor("#DDDDDD")
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.52, 1.1),
        ncols=len(handles),
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
    )


def _quads(surface: Surface) -> np.ndarray:
    """The grid's quadrilaterals, [(n - 1)(m - 1), 4 corners, 3]; those not finite are left out."""
    x, y = np.meshgrid(surface.x, surface.y, indexing="ij")
    points = np.stack([x, y, surface.loss], axis=-1)
    around = [points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]]
    corners = np.stack(around, axis=2).reshape(-1, 4, 3)
    return corners[np.isfinite(corners).all(axis=(1, 2))]


def _lightened(corners: np.ndarray, height: float) -> np.ndarray:
    """How much each quadrilateral is lightened, by its angle to a light from above left."""
    scaled = corners / np.array([1, 1, max(height, 1e-12)])
    normals = np.cross(scaled[:, 2] - scaled[:, 0], scaled[:, 3] - scaled[:, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return 0.1 + 0.6 * np.clip(normals @ LIGHT, 0, 1)


def _contours(axes: Axes, surface: Surface, levels: np.ndarray) -> ScalarMappable:
    x, y = np.meshgrid(surface.x, surface.y, indexing="ij")
    norm = colors.BoundaryNorm(levels, 256)
    loss = np.ma.masked_invalid(surface.loss)
    filled = axes.contourf(x, y, loss, levels=levels, norm=norm, cmap="cividis_r")
    axes.contour(x, y, loss, levels=levels, colors="white", linewidths=0.4, alpha=0.7)
    for shade, thick in (("white", 3.0), ("#222222", 1.3)):
        axes.plot(0, 0, "x", color=shade, markersize=5, markeredgewidth=thick)
    axes.set_title(surface.name)
    axes.grid(False)
    axes.set(xticks=[surface.x[0], 0, surface.x[-1]], yticks=[surface.y[0], 0, surface.y[-1]])
    return filled
