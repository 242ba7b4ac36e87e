"""`fedgloss.eigenvalues`, `trace`, `density`, `landscape`, `line`: how sharp your own model is."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedgloss.engine.arguments import check_loss, check_pipeline
from fedgloss.engine.clients import ClientData, Pipeline
from fedgloss.engine.flat import check_parameters, copied, flatten
from fedgloss.engine.start import find_device, prepared
from fedgloss.errors import InputError
from fedgloss.sharpness.arguments import require_finite, require_integer, require_positive
from fedgloss.sharpness.density import spectral_density
from fedgloss.sharpness.eigenvalues import Spectrum, top_eigenvalues
from fedgloss.sharpness.landscape import filter_normalized_directions, surface
from fedgloss.sharpness.landscape import line as line_between
from fedgloss.sharpness.objective import Objective, parameter_views
from fedgloss.sharpness.quadrature import Density
from fedgloss.sharpness.trace import Trace
from fedgloss.sharpness.trace import trace as trace_of

Data = tuple[Tensor, Tensor] | Sequence[tuple[Tensor, Tensor]] | ClientData
"""(inputs [N, ...], targets [N, ...]), or one such pair for each client: their union counts."""


@dataclass(frozen=True, eq=False)
class Landscape:
    """Loss and accuracy on a square around a model: entry [i, j] belongs to (x[i], y[j])."""

    x: np.ndarray
    """Steps along the first direction, float64 [points]; 1 is the length of the weights."""
    y: np.ndarray
    """Steps along the second direction, float64 [points]."""
    loss: np.ndarray
    """Mean loss, float64 [points, points]; can be inf or NaN far out."""
    accuracy: np.ndarray
    """Percent, float64 [points, points]; NaN where targets are no classes."""

    def __repr__(self) -> str:
        points, extent = len(self.x), self.x[-1]
        low, high = np.nanmin(self.loss), np.nanmax(self.loss)
        return (
            f"Landscape({points} x {points} points, {-extent:g} to {extent:g};"
            f" loss {low:.4g} to {high:.4g})"
        )


@dataclass(frozen=True, eq=False)
class Line:
    """Loss and accuracy on the straight line through two models."""

    t: np.ndarray
    """Places, float64 [n]: the first model is at 0, the other at 1."""
    loss: np.ndarray
    """Mean loss, float64 [n]; can be inf or NaN far out."""
    accuracy: np.ndarray
    """Percent, float64 [n]; NaN where targets are no classes."""

    def __repr__(self) -> str:
        ends = (float(self.loss[self.t == t][0]) for t in (0, 1))
        between = np.nanmax(self.loss[(self.t >= 0) & (self.t <= 1)])
        return "Line(loss {:.4g} to {:.4g}, at most {:.4g} between)".format(*ends, between)


@torch.inference_mode(False)
def eigenvalues(
    model: nn.Module,
    data: Data,
    *,
    count: int = 5,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    w: Tensor | None = None,
    pipeline: Pipeline | None = None,
    batch_size: int = 2000,
    tolerance: float = 1e-4,
    max_products: int = 150,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Spectrum:
    """The largest eigenvalues of the Hessian of a model's loss: lower is flatter.

        result = fedgloss.train(my_model, my_clients, "fedgloss", rounds=200)
        spectrum = fedgloss.eigenvalues(result.model, my_clients, count=2)
        print(spectrum.eigenvalues)

    model: any `torch.nn.Module`, left as it is. It is measured in eval mode, with all its
    parameters, in their type (float32 or float64).
    data: (inputs [N, ...], targets [N, ...]); or the clients as `fedgloss.train` takes them, of
    which the union counts.
    count: how many eigenvalues, largest first.
    loss: (outputs, targets) -> the mean loss of a mini-batch. Cross-entropies leave out what
    training leaves out.
    w: parameters [P] to measure at in place of the model's own, such as `result.average` or a row
    of `result.locals`.
    pipeline: how stored images become inputs, where training had one. Nothing is augmented.
    batch_size: samples a pass; bounds the memory, and changes results by rounding only, unless the
    loss compares the samples of a mini-batch with each other.
    tolerance, max_products: Lanczos stops at residuals below tolerance * |eigenvalue|, or after so
    many products of the Hessian with a vector; `Spectrum.converged` says which.
    seed: of the start vector. The same call gives the same numbers, bit for bit, on one machine.
    device: to compute on, in place of the model's own.

    Raises InputError, a ValueError, naming the argument that is wrong.
    """
    require_integer("count", count, least=1)
    require_integer("max_products", max_products, least=1)
    require_positive("tolerance", tolerance)
    require_integer("seed", seed, least=0)
    with _measured(model, data, loss, w, pipeline, batch_size, device) as (objective, point):
        return top_eigenvalues(objective, point, count, tolerance, max_products, seed)


@torch.inference_mode(False)
def trace(
    model: nn.Module,
    data: Data,
    *,
    products: int = 90,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    w: Tensor | None = None,
    pipeline: Pipeline | None = None,
    batch_size: int = 2000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Trace:
    """The trace of the Hessian of a model's loss, the sum of all curvature, with its error.

        print(fedgloss.trace(result.model, my_clients))  # Trace(48.2 ± 2.5, 90 products)

    products: of the Hessian with a vector; four times as many halve the error at least.
    seed: of the random vectors.
    The other arguments are those of `eigenvalues`.

    Raises InputError, a ValueError, naming the argument that is wrong.
    """
    require_integer("seed", seed, least=0)
    with _measured(model, data, loss, w, pipeline, batch_size, device) as (objective, point):
        return trace_of(objective, point, products, seed)


@torch.inference_mode(False)
def density(
    model: nn.Module,
    data: Data,
    *,
    starts: int = 10,
    steps: int = 80,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    w: Tensor | None = None,
    pipeline: Pipeline | None = None,
    batch_size: int = 2000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Density:
    """How the eigenvalues of the Hessian of a model's loss are distributed.

        spectrum = fedgloss.density(result.model, my_clients)
        y, error = spectrum.smoothed(np.linspace(-1, 5, 200), width=0.1)

    starts: random vectors; four times as many halve the error.
    steps: of Lanczos from each, so at most starts * steps products of the Hessian with a vector.
    seed: of the random vectors.
    The other arguments are those of `eigenvalues`.

    Raises InputError, a ValueError, naming the argument that is wrong.
    """
    require_integer("seed", seed, least=0)
    with _measured(model, data, loss, w, pipeline, batch_size, device) as (objective, point):
        return spectral_density(objective, point, starts, steps, seed)


@torch.inference_mode(False)
def landscape(
    model: nn.Module,
    data: Data,
    *,
    extent: float = 1.0,
    points: int = 21,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    w: Tensor | None = None,
    pipeline: Pipeline | None = None,
    batch_size: int = 2000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Landscape:
    """Loss and accuracy around a model, along two random directions (Li et al. 2018).

        surface = fedgloss.landscape(result.model, (x_test, y_test), points=11)
        plt.contourf(surface.x, surface.y, surface.loss.T)

    Each filter of a direction has the length of the same filter of the model, so that models with
    weights of different size can be compared; biases and normalisation layers stay.
    extent: half the side of the square, in such lengths.
    points: a side; an odd number has the model itself in the middle.
    seed: of the directions.
    The other arguments are those of `eigenvalues`.

    Raises InputError, a ValueError, naming the argument that is wrong.
    """
    require_integer("points", points, least=2)
    require_positive("extent", extent)
    require_integer("seed", seed, least=0)
    with _measured(model, data, loss, w, pipeline, batch_size, device) as (objective, point):
        directions = filter_normalized_directions(objective.model, point, seed)
        return Landscape(**surface(objective, point, directions, extent, points))


@torch.inference_mode(False)
def line(
    model: nn.Module,
    other: nn.Module | Tensor,
    data: Data,
    *,
    points: int = 21,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    w: Tensor | None = None,
    pipeline: Pipeline | None = None,
    batch_size: int = 2000,
    device: torch.device | str | None = None,
) -> Line:
    """Loss and accuracy on the straight line from a model to another, and a quarter beyond either.

        between = fedgloss.line(result.model, result.average, my_clients)
        plt.plot(between.t, between.loss)

    other: a model of the same kind, or its parameters [P].
    points: from one model to the other; the losses at t = 0 and t = 1 are theirs, exactly.
    The other arguments are those of `eigenvalues`.

    Raises InputError, a ValueError, naming the argument that is wrong.
    """
    require_integer("points", points, least=2)
    if isinstance(other, nn.Module):
        check_parameters(other)
        other = flatten(other)
    with _measured(model, data, loss, w, pipeline, batch_size, device) as (objective, start):
        try:
            require_finite(other)
            parameter_views(objective.model, other)
        except InputError as error:
            raise InputError(str(error).replace("w:", "other:", 1)) from None
        return Line(**line_between(objective, start, other.detach().to(start), points))


@contextmanager
def _measured(
    model: nn.Module,
    data: Data,
    loss: Callable[[Tensor, Tensor], Tensor],
    w: Tensor | None,
    pipeline: Pipeline | None,
    batch_size: int,
    device: torch.device | str | None,
) -> Iterator[tuple[Objective, Tensor]]:
    """The loss as a function of a vector, and the vector [P], on one device."""
    check_parameters(model)
    check_loss(loss)
    check_pipeline(pipeline)
    if device is not None:
        model = copied(model).to(find_device(device))
    point = flatten(model)
    if w is not None:
        require_finite(w)
        parameter_views(model, w)
        point = w.detach().to(point)
    inputs, targets = _union(data)
    check_pipeline(pipeline, inputs)

    def transform(x: Tensor) -> Tensor:
        return x if pipeline is None else pipeline(x, None, point.dtype)

    with prepared(point.device):
        objective = Objective(
            model,
            inputs.detach().to(point.device),
            targets.detach().to(point.device),
            batch_size=batch_size,
            transform=transform if pipeline else None,
            criterion=loss,
        )
        yield objective, point


def _union(data: Data) -> tuple[Tensor, Tensor]:
    """All samples as one pair; InputError where they are no finite tensors of one kind."""
    pair = False
    try:
        if not isinstance(data, ClientData):
            if not isinstance(data, list | tuple) or not data:
                raise InputError(
                    "data: expected (inputs, targets), or a list of such pairs, one for each client"
                )
            pair = len(data) == 2 and all(isinstance(part, Tensor) for part in data)
            clients = cast(Sequence[tuple[Tensor, Tensor]], [data] if pair else data)
            data = ClientData.from_list(clients)
        data = data.checked()
    except InputError as error:  # which calls them clients
        message = str(error).replace("clients[0]", "data") if pair else str(error)
        raise InputError(message.replace("clients", "data")) from None
    index = torch.cat(data.indices)
    return data.inputs[index], data.targets[index]
