"""Surfaces over one grid in one 3-D axes, painted piece by piece from back to front.

matplotlib sorts pieces by the depth of their middles. Where surfaces are close to each other, or
are seen from outside, that mixes them in a checkerboard. Here a piece stands over a square of the
grid or over a side of one, and the order is exact wherever pieces do not cut each other: squares
and sides from the farthest to the nearest, and over one of them the lowest first where it is seen
from above, the highest first where it is seen from below. Pieces that cut each other are painted
in smaller ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from mpl_toolkits.mplot3d import proj3d

PARTS = 6
"""A side, of a piece that is cut by another."""
SHADE = 0.86
"""Of the colour of an underside."""


class Pieces(NamedTuple):
    """Quadrilaterals, and how they are drawn.

    Attributes
      corners  [m, 4, 3], counterclockwise from above; of a line from a to b: a, b, b, a
      faces    [m, 4], colours
      edges    [m, 4], colours
      widths   [m], of the edges, in points
    """

    corners: np.ndarray
    faces: np.ndarray
    edges: np.ndarray
    widths: np.ndarray


def paint(axes: Axes, pieces: Sequence[Pieces]) -> None:
    """Draw all pieces, in axes whose limits and view are final."""
    whole = Pieces(*map(np.concatenate, zip(*pieces, strict=True)))
    parts, squares = divided(whole, cutting(whole.corners))
    flat = projected(axes, parts.corners)
    order = from_behind(axes, parts.corners, flat, squares)
    shade = np.where(is_underside(flat)[:, None], [SHADE, SHADE, SHADE, 1.0], 1.0)
    axes.figure.add_artist(
        PolyCollection(
            flat[order],
            facecolors=(shade * parts.faces)[order],
            edgecolors=(shade * parts.edges)[order],
            linewidths=parts.widths[order],
            joinstyle="round",
            transform=axes.transData,
        )
    )


def cutting(corners: np.ndarray) -> np.ndarray:
    """Which of pieces [m, 4, 3] cut another over the same square: truth values [m]."""
    square = np.unique(middles(corners), axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(square, kind="stable")
    one, other = order[:-1], order[1:]
    above = corners[one, :, 2] - corners[other, :, 2]
    cut = (square[one] == square[other]) & (above.min(axis=1) < 0) & (above.max(axis=1) > 0)
    found = np.zeros(len(corners), dtype=bool)
    found[one[cut]] = found[other[cut]] = True
    return found


def divided(pieces: Pieces, which: np.ndarray) -> tuple[Pieces, np.ndarray]:
    """The pieces, with some of them, truth values [m], in PARTS x PARTS ones each.

    And over the middle of which square each of them stands, [n, 2].
    """
    t = np.arange(PARTS + 1) / PARTS
    a, b = t[:, None, None], t[None, :, None]
    first, second, third, fourth = pieces.corners[which].swapaxes(0, 1)[:, :, None, None]
    points = (1 - a) * (1 - b) * first + a * (1 - b) * second + a * b * third + (1 - a) * b * fourth
    around = (points[:, :-1, :-1], points[:, 1:, :-1], points[:, 1:, 1:], points[:, :-1, 1:])
    small = np.stack(around, axis=3).reshape(-1, 4, 3)
    corners = np.concatenate([pieces.corners[~which], small])
    *looks, squares = (
        np.concatenate([values[~which], values[which].repeat(PARTS**2, axis=0)])
        for values in (*pieces[1:], middles(pieces.corners))
    )
    return Pieces(corners, *looks), squares


def middles(corners: np.ndarray) -> np.ndarray:
    """Where on the grid pieces [m, 4, 3] stand, [m, 2]: alike over one square of it."""
    return np.round(corners[..., :2].mean(axis=1), 9)


def projected(axes: Axes, corners: np.ndarray) -> np.ndarray:
    """Where corners [m, 4, 3] are on the plane of the picture, [m, 4, 2]."""
    x, y, _ = proj3d.proj_transform(*corners.reshape(-1, 3).T, axes.get_proj())
    return np.stack([x, y], axis=-1).reshape(-1, 4, 2)


def from_behind(
    axes: Axes, corners: np.ndarray, flat: np.ndarray, squares: np.ndarray
) -> np.ndarray:
    """The order in which pieces [m, 4, 3], on the plane [m, 4, 2], are painted; see above."""
    # The eye is beyond one corner of the grid: each row is wholly before or behind another.
    azimuth = np.radians(axes.azim)
    near = np.sign([np.cos(azimuth), np.sin(azimuth)])
    x, y = (near * squares).T
    inner_x, inner_y = (near * middles(corners)).T
    height = corners[..., 2].mean(axis=1)
    return np.lexsort((np.where(is_underside(flat), -height, height), inner_y, inner_x, y, x))


def is_underside(flat: np.ndarray) -> np.ndarray:
    """Which pieces [m, 4, 2] turn their undersides to the eye: their corners run clockwise."""
    across, other = flat[:, 2] - flat[:, 0], flat[:, 3] - flat[:, 1]
    return across[:, 0] * other[:, 1] - across[:, 1] * other[:, 0] < 0
