"""Loss surfaces side by side: in each panel some in one 3-D axes, and their contours below.

Heights and contours are evenly spaced in log(1 + loss): as the loss itself near a minimum, whose
curvature is what a picture is for, while walls, tens of times as high, do not press it flat.
Between the points that were computed a cubic spline is drawn, which has no kinks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedgloss.report.painting import Pieces, paint

ACROSS = 3
"""Panels to a row."""
LEVELS = 16
LIGHT = np.array([-0.5, -0.6, 1.0]) / np.linalg.norm([-0.5, -0.6, 1.0])
WIDE, RELIEF, HEAD, FOOT, GAP, RIGHT = 3.1, 2.5, 0.55, 0.3, 0.12, 0.7
"""Inches: a panel's width, the 3-D axes' height, what is above them and below the contours, what is
between those, and what is left for the bar."""
MESHES = 16
"""Of a net, a side, at most."""
CELLS = 48
"""Of a surface, a side, about: as fine as it is drawn."""
FROM_ZERO = 0.35
"""Heights begin at a loss of 0 where the lowest is below this share of the axis."""
APART = 0.12
"""The least distance of two ticks, as a share of the axis."""
TICKS = (0, 0.01, 0.03, 0.1, 0.3, 1, 2, 5, 10, 20, 50, 100, 300, 1000, 1e4, 1e5, 1e6)


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
    net: bool = False
    """Drawn as a net, through which the others can be seen."""


@dataclass(frozen=True)
class Panel:
    """Surfaces that are compared in one 3-D axes."""

    title: str
    surfaces: tuple[Surface, ...]


def draw_surfaces(panels: Sequence[Panel]) -> Figure:
    """All panels with one scale of heights, contours and colours."""
    across, down = min(len(panels), ACROSS), -(-len(panels) // ACROSS)
    most = max(len(panel.surfaces) for panel in panels)
    map_side = min((WIDE - 0.45 - (most - 1) * GAP) / most, 1.35)
    high = HEAD + RELIEF + 0.3 + map_side + FOOT
    size = (across * WIDE + RIGHT, down * high)
    figure = plt.figure(figsize=size)

    def place(left: float, bottom: float, wide: float, tall: float, **kind: str) -> Axes:
        place = (left / size[0], bottom / size[1], wide / size[0], tall / size[1])
        return figure.add_axes(place, **kind)

    low, top, ticks = heights(panels)
    levels = np.expm1(np.linspace(np.log1p(low), np.log1p(top), LEVELS))
    for number, panel in enumerate(panels):
        left, bottom = number % across * WIDE, (down - 1 - number // across) * high
        relief = place(left, bottom + FOOT + map_side + 0.3, WIDE, RELIEF, projection="3d")
        _relief(relief, panel.surfaces, low, top, ticks)
        place(left, bottom, WIDE, high).set_axis_off()
        middle = (left + WIDE / 2) / size[0]
        figure.text(middle, (bottom + high - 0.12) / size[1], panel.title, ha="center", va="top")
        taken = len(panel.surfaces) * (map_side + GAP) - GAP
        start = left + (WIDE - taken) / 2 + 0.1
        for index, surface in enumerate(panel.surfaces):
            axes = place(start + index * (map_side + GAP), bottom + FOOT, map_side, map_side)
            filled = _contours(axes, surface, levels)
            if index:  # the same square
                axes.set(xticklabels=[], yticklabels=[])
    bar = figure.colorbar(
        filled,
        cax=place(across * WIDE + 0.12, FOOT, 0.1, map_side),
        format="%.3g",
        ticks=ticks,
        spacing="uniform",
    )
    bar.ax.tick_params(which="both", length=0)
    bar.set_label("Loss")
    bar.outline.set_visible(False)
    return figure


def heights(panels: Sequence[Panel]) -> tuple[float, float, list[float]]:
    """The lowest and the highest loss to show, one pair for all panels, and round ones between."""
    finite = [s.loss[np.isfinite(s.loss)] for panel in panels for s in panel.surfaces]
    low, top = (float(f(np.concatenate(finite))) for f in (np.min, np.max))
    low = 0.0 if 0 < np.log1p(low) < FROM_ZERO * np.log1p(top) else low
    top = max(top, low + 1e-6)
    ticks: list[float] = []
    for loss in TICKS:
        above = np.log1p(loss) - np.log1p(ticks[-1] if ticks else -0.9)
        if low <= loss <= top and above >= APART * (np.log1p(top) - np.log1p(low)):
            ticks.append(loss)
    if len(ticks) < 3:  # a short axis is nearly linear
        ticks = [float(t) for t in MaxNLocator(4).tick_values(low, top) if low <= t <= top]
    return low, top, ticks


def _relief(
    axes: Axes, surfaces: Sequence[Surface], low: float, top: float, ticks: Sequence[float]
) -> None:
    x, y = surfaces[0].x, surfaces[0].y
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), zlim=(np.log1p(low), np.log1p(top)))
    axes.set(xticks=[x[0], 0, x[-1]], yticks=[y[0], 0, y[-1]], xticklabels=[], yticklabels=[])
    axes.set(zticks=np.log1p(ticks), zticklabels=[f"{tick:g}" for tick in ticks])
    axes.tick_params(pad=-2)
    axes.set_zlabel("Loss", labelpad=-6)
    axes.view_init(elev=23, azim=-58)
    axes.set_box_aspect((1, 1, 0.8), zoom=1.12)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.pane.set_facecolor("#F7F7F7")
        axis.pane.set_edgecolor("#DDDDDD")
    handles: list[Line2D | Patch] = []
    for surface in surfaces:
        shade = {"color": surface.colour} if surface.net else {"facecolor": surface.colour}
        kind = partial(Line2D, [], [], marker="+") if surface.net else Patch
        handles.append(kind(**shade, label=surface.name))
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 1.1),
        ncols=min(len(handles), 2),
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
    )
    height = np.log1p(top) - np.log1p(low)
    paint(axes, [_net(s) if s.net else _solid(s, height) for s in surfaces])


def _net(surface: Surface) -> Pieces:
    """The pieces of a net's threads: not every line of a fine grid is one.

    Each goes through all points of its line, so that a wide mesh has no kinks.
    """
    points, step = _fine(surface)
    threads = []
    for lines, count in ((points, len(surface.x)), (points.swapaxes(0, 1), len(surface.y))):
        for line in lines[[step * place for place in threads_of(count)]]:
            threads.append(np.stack([*pairwise(line)]))
    ends = np.concatenate(threads)  # [pieces, 2, 3]
    corners = ends[np.isfinite(ends).all(axis=(1, 2))][:, [0, 1, 1, 0]]
    edge = np.array([*colors.to_rgb(surface.colour), 1.0])
    edges = np.broadcast_to(edge, (len(corners), 4))
    return Pieces(corners, np.zeros_like(edges), edges, np.full(len(corners), 0.7))


def _solid(surface: Surface, height: float) -> Pieces:
    """The grid's quadrilaterals; those not finite are left out."""
    points, _ = _fine(surface)
    around = [points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]]
    corners = np.stack(around, axis=2).reshape(-1, 4, 3)
    corners = corners[np.isfinite(corners).all(axis=(1, 2))]
    base = np.array(colors.to_rgb(surface.colour))
    rgb = base + (1 - base) * _lightened(corners, height)[:, None]
    faces = np.column_stack([rgb, np.ones(len(corners))])
    return Pieces(corners, faces, faces, np.full(len(corners), 0.3))  # edges close the seams


def _fine(surface: Surface) -> tuple[np.ndarray, int]:
    """The surface as it is drawn, in the axes' coordinates [n, m, 3], and its points to a step."""
    axes, heights = [surface.x, surface.y], np.log1p(surface.loss)
    least = min(heights.shape)
    cuts = max(round(CELLS / (least - 1)), 1)
    if least < 4 or not np.isfinite(heights).all():
        cuts = 1  # no spline goes through what is not there
    if cuts > 1:
        along, across = (spline(len(axis), cuts) for axis in axes)
        axes = [np.linspace(a[0], a[-1], (len(a) - 1) * cuts + 1) for a in axes]
        # The lowest and the highest are points that were computed.
        heights = np.clip(along @ heights @ across.T, heights.min(), heights.max())
    return np.stack([*np.meshgrid(*axes, indexing="ij"), heights], axis=-1), cuts


def spline(knots: int, cuts: int) -> np.ndarray:
    """The matrix [places, knots] that takes values at even knots to a cubic spline through them.

    There are `cuts` places to an interval, and four knots at least. At both ends the second
    derivative goes on straight: cubic polynomials are met exactly.
    """
    unit = np.eye(knots)
    differences, system = np.zeros((2, knots, knots))
    differences[1:-1] = unit[:-2] - 2 * unit[1:-1] + unit[2:]
    system[1:-1] = unit[1:-1] + differences[1:-1] / 6
    system[0], system[-1] = differences[1], differences[-2]
    second = np.linalg.solve(system, differences)  # derivatives at the knots
    t = np.arange((knots - 1) * cuts + 1) / cuts
    left = np.minimum(t.astype(int), knots - 2)
    s = (t - left)[:, None]
    bent = (2 - s) * second[left] + (1 + s) * second[left + 1]
    return (1 - s) * unit[left] + s * unit[left + 1] - s * (1 - s) / 6 * bent


def threads_of(lines: int) -> list[int]:
    """Which of a grid's lines are threads of a net: both edges, evenly where that is possible."""
    least = max(-(-(lines - 1) // MESHES), 1)
    even = [step for step in range(least, 2 * least + 1) if (lines - 1) % step == 0]
    meshes = (lines - 1) // even[0] if even else MESHES
    return [round(i * (lines - 1) / meshes) for i in range(meshes + 1)]


def _lightened(corners: np.ndarray, height: float) -> np.ndarray:
    """How much each quadrilateral is lightened, by its angle to a light from above left."""
    scaled = corners / np.array([1, 1, max(height, 1e-12)])
    normals = np.cross(scaled[:, 2] - scaled[:, 0], scaled[:, 3] - scaled[:, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return 0.05 + 0.5 * np.clip(normals @ LIGHT, 0, 1)


def _contours(axes: Axes, surface: Surface, levels: np.ndarray) -> ScalarMappable:
    x, y, height = np.moveaxis(_fine(surface)[0], -1, 0)
    norm = colors.BoundaryNorm(levels, 256)
    loss = np.ma.masked_invalid(np.expm1(height))
    filled = axes.contourf(x, y, loss, levels=levels, norm=norm, cmap="cividis_r")
    axes.contour(x, y, loss, levels=levels, colors="white", linewidths=0.4, alpha=0.7)
    for colour, thick in (("white", 3.0), ("#222222", 1.3)):
        axes.plot(0, 0, "x", color=colour, markersize=5, markeredgewidth=thick)
    axes.set_title(surface.name.replace(", ", "\n"), fontsize="small", fontweight="normal", pad=3)
    axes.grid(False)
    axes.set(xticks=[surface.x[0], 0, surface.x[-1]], yticks=[surface.y[0], 0, surface.y[-1]])
    return filled
