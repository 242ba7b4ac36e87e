"""Loss around a model and between two (paper Fig. 1, 2, 4 and 6), after Li et al. 2018.

"Visualizing the Loss Landscape of Neural Nets": two random directions, scaled filter by filter to
the weights, so that surfaces of networks with different weight norms can be compared.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fedgloss.errors import InputError
from fedgloss.rng import Stream
from fedgloss.sharpness.arguments import require_finite
from fedgloss.sharpness.objective import Objective, parameter_views

Values = tuple[float, float]
"""Loss and accuracy at a point."""
Through = Callable[[Callable[[Tensor], Values], Iterable[Tensor]], Iterable[Values]]
"""How points are evaluated, in order: `map`, or what also keeps the values and reports progress."""


def filter_normalized_directions(model: nn.Module, w: Tensor, seed: int, count: int = 2) -> Tensor:
    """Random directions d [count, P] in which every filter has the norm of the same filter of w.

    A filter is what produces one output channel of a convolution or one output of a linear layer:
    an entry of a weight's first dimension. Biases and normalisation layers (one-dimensional
    parameters) do not move. The directions are independent normal draws and not made orthogonal:
    in thousands of dimensions they nearly are.

    Models that are compared get one pair: the same seed points every filter the same way, whatever
    w is. Only the lengths are each model's own, and must be. Scaling a ReLU network's filters up
    and the next layer's down leaves what it computes as it is, so a step of one length for all
    models would make the one with larger weights look flatter.
    Raises InputError for a non-finite or misshapen w.
    """
    require_finite(w)
    directions = torch.stack([_normal(w, seed, index) for index in range(count)])
    for d in directions:
        for part, weights in zip(
            parameter_views(model, d).values(), parameter_views(model, w).values(), strict=True
        ):
            if part.dim() < 2:
                part.zero_()
                continue
            norms, targets = (x.flatten(1).norm(dim=1) for x in (part, weights))
            scale = targets / norms.clamp_min(torch.finfo(w.dtype).tiny)
            part.mul_(scale.view(-1, *[1] * (part.dim() - 1)))
    return directions


def surface(
    objective: Objective,
    w: Tensor,
    directions: Tensor,
    extent: float = 1.0,
    points: int = 21,
    through: Through = map,
) -> dict[str, np.ndarray]:
    """Loss and accuracy (percent) on the grid w + x d_1 + y d_2, x and y in [-extent, extent].

    Returns float64 arrays: x and y [points], loss and accuracy [points, points]; entry [i, j]
    belongs to (x[i], y[j]). An odd number of points has w itself in the middle. One point at a
    time, row by row. Stacking several points' models was measured on a processor: with vmap never
    faster (0.35 times the speed for the paper's CNN), with the engine's stacked layers 1.7 times as
    fast for the digits' network, which is a second of a surface, and slower for the CNN than passes
    of fewer images are. A GPU is filled by the images of one pass.
    Raises InputError for a non-finite w, fewer than two points, or other than two directions.
    """
    require_finite(w)
    if directions.shape != (2, len(w)):
        raise InputError(f"directions: shape {list(directions.shape)} (allowed: [2, {len(w)}])")
    if points < 2:
        raise InputError(f"points: {points} (allowed: at least 2)")
    # Integers over an integer: exactly symmetric, and exactly 0 in the middle.
    axis = extent * np.arange(1 - points, points, 2) / (points - 1)
    grid = (w + x * directions[0] + y * directions[1] for x in axis.tolist() for y in axis.tolist())
    loss, accuracy = _arrays([*through(objective.loss, grid)]).reshape(2, points, points)
    return {"x": axis, "y": axis, "loss": loss, "accuracy": accuracy}


def line(
    objective: Objective, start: Tensor, end: Tensor, points: int = 21, through: Through = map
) -> dict[str, np.ndarray]:
    """Loss and accuracy (percent) on the straight line through two models, start and end [P].

    `points` from t = 0, which is `start` itself, to t = 1, which is `end` itself, and as densely a
    quarter of the way beyond either, so that it shows whether an end lies in a basin. Returns
    float64 arrays t, loss and accuracy, of one length.
    Raises InputError for non-finite or misshapen ends, and fewer than two points.
    """
    for model in (start, end):
        require_finite(model)
    if start.shape != end.shape:
        raise InputError(f"end: has shape {list(end.shape)} (allowed: {list(start.shape)})")
    t = along(points)
    # Both ends exactly: 1 * start + 0 * end, and the other way round.
    between = ((1 - x) * start + x * end for x in t.tolist())
    loss, accuracy = _arrays([*through(objective.loss, between)])
    return {"t": t, "loss": loss, "accuracy": accuracy}


def along(points: int) -> np.ndarray:
    """The places on a line at which it is evaluated, t, float64; see `line`."""
    if points < 2:
        raise InputError(f"points: {points} (allowed: at least 2)")
    steps = points - 1
    return np.arange(-(steps // 4), steps + steps // 4 + 1) / steps


def _arrays(values: Sequence[Values]) -> np.ndarray:
    """Losses and accuracies, float64 [2, points]."""
    return np.array(values, dtype=np.float64).T


def _normal(w: Tensor, seed: int, index: int) -> Tensor:
    """Standard normal draws [P] by Box and Muller's transform."""
    radius, angle = (
        Stream(seed, f"direction {part}", round=index).uniform(len(w))
        for part in ("radius", "angle")
    )
    draws = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)
    return torch.from_numpy(draws).to(w)
