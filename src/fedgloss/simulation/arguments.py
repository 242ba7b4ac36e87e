"""The arguments of `fedgloss.train`, checked: each error names the argument and what it allows."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedgloss import algorithms
from fedgloss.algorithms.core import Algorithm
from fedgloss.algorithms.declared import check_declared
from fedgloss.errors import InputError, did_you_mean
from fedgloss.records import is_finite
from fedgloss.simulation.clients import ClientData, Pipeline
from fedgloss.simulation.fused import can_fuse
from fedgloss.simulation.stacked import can_stack

BACKENDS = ("auto", "loop", "stacked", "graph", "fused")


def resolve_algorithm(
    algorithm: str | Algorithm, variants: Mapping[str, str] | str, given: Mapping[str, float]
) -> tuple[Algorithm, dict[str, float]]:
    """The algorithm as an object, and all its hyperparameters."""
    if isinstance(algorithm, Algorithm):
        if variants not in ({}, "recommended"):
            raise InputError("variants: give the method's name for these, not an Algorithm")
    elif isinstance(algorithm, str):
        algorithm = algorithms.build_algorithm(algorithm, variants)
    else:
        raise InputError("algorithm: expected a method's name or an Algorithm")
    check_declared(algorithm.name, algorithm)
    return algorithm, algorithms.resolve_hyperparameters(algorithm, given)


def resolve_participation(
    rounds: int | None,
    clients_per_round: int | None,
    schedule: Sequence[Sequence[int]] | None,
    m: int,
    algorithm: Algorithm,
) -> tuple[int, int | list[list[int]]]:
    """The number of rounds; and how many clients to draw each round, or the schedule."""
    if schedule is not None:
        if clients_per_round is not None:
            raise InputError("clients_per_round: not used together with schedule")
        for t, ids in enumerate(schedule):
            if not len(ids):
                raise InputError(f"schedule[{t}]: names no client")
            for k in ids:
                if isinstance(k, bool) or int(k) != k or not 0 <= k < m:
                    raise InputError(f"schedule[{t}]: client {k} does not exist (0 to {m - 1})")
            if len(set(ids)) < len(ids):
                raise InputError(f"schedule[{t}]: names a client twice")
        if rounds is not None and rounds > len(schedule):
            raise InputError(f"rounds: {rounds}, but the schedule has {len(schedule)}")
        count = len(schedule) if rounds is None else rounds
        return _integer("rounds", count, 0), [[int(k) for k in ids] for ids in schedule]
    if rounds is None:
        raise InputError("rounds: must be given, unless schedule is")
    if clients_per_round is None or algorithm.pooled:
        clients_per_round = m
    clients_per_round = _integer("clients_per_round", clients_per_round, 1)
    if clients_per_round > m:
        raise InputError(f"clients_per_round: {clients_per_round} of only {m} clients")
    return _integer("rounds", rounds, 0), clients_per_round


def check_numbers(
    lr: float,
    weight_decay: float,
    batch_size: int | None,
    epochs: int,
    local_steps: int | None,
    evaluate_every: int,
    last: int,
    seed: int,
) -> None:
    """Refuse numbers out of range, by argument name."""
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not is_finite(value) or value < 0:
            raise InputError(f"{name}: {value!r} is not a finite number of at least 0")
    for name, value in (("batch_size", batch_size), ("local_steps", local_steps)):
        if value is not None:
            _integer(name, value, 1)
    for name, value in (("epochs", epochs), ("evaluate_every", evaluate_every), ("last", last)):
        _integer(name, value, 1)
    _integer("seed", seed, 0)


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}: {value!r} is not an integer of at least {least}")
    return int(value)


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not allowed, naming those that are."""
    if value not in allowed:
        raise InputError(f"{name}: {value!r} is unknown{did_you_mean(value, list(allowed))}")


def choose_backend(
    backend: str, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
) -> str:
    """A backend by name, as asked, or the fastest of those that can train this model."""
    check_choice("backend", backend, BACKENDS)
    cuda = next(model.parameters()).is_cuda
    if backend in ("graph", "fused") and not cuda:
        raise InputError(
            f"backend: {backend!r} is for CUDA devices; allowed here: auto, loop, stacked"
        )
    if backend == "fused" and not can_fuse(model, loss):
        raise InputError(
            "backend: 'fused' takes float32 networks of convolutions (stride 1), pooling, ReLU and"
            " linear layers under the cross-entropy, and needs Triton; use 'loop'"
        )
    if backend == "auto" and cuda and can_fuse(model, loss):
        return "fused"
    if backend in ("stacked", "graph") and not can_stack(model):
        raise InputError(
            f"backend: {backend!r} takes a torch.nn.Sequential of Conv2d (stride 1), MaxPool2d,"
            " ReLU, Flatten and Linear; use 'loop'"
        )
    return ("stacked" if can_stack(model) else "loop") if backend == "auto" else backend


def resolve_sizes(sizes: Sequence[float] | None, m: int, algorithm: Algorithm) -> Tensor | None:
    """N_k for averaging as float64 [C], or None for the numbers of samples."""
    if sizes is None:
        return None
    if algorithm.pooled:
        raise InputError("sizes: centralized training pools the samples, it weighs no clients")
    sizes = torch.as_tensor(sizes, dtype=torch.float64)
    if sizes.shape != (m,) or not torch.isfinite(sizes).all() or not (sizes > 0).all():
        raise InputError(f"sizes: expected {m} positive numbers, one for each client")
    return sizes


def placed(data: ClientData, w: Tensor, pipeline: Pipeline | None) -> ClientData:
    """The data on the model's device, floats in the model's type."""
    return ClientData(
        _like(data.inputs, w, pipeline is None), _like(data.targets, w, True), data.indices
    )


def placed_test(
    test: tuple[Tensor, Tensor], data: ClientData, w: Tensor, pipeline: Pipeline | None
) -> tuple[Tensor, Tensor]:
    """The test set on the model's device, if it looks like the clients' data."""
    if not (isinstance(test, Sequence) and len(test) == 2 and len(test[0]) == len(test[1])):
        raise InputError("test: expected a pair of tensors (inputs, targets) of equal length")
    if not len(test[0]):
        raise InputError("test: has no samples")
    for what, given, seen in zip(
        ("inputs", "targets"), test, (data.inputs, data.targets), strict=True
    ):
        if given.shape[1:] != seen.shape[1:]:
            raise InputError(
                f"test: {what} have shape {list(given.shape)}, the clients' {list(seen.shape)}"
            )
    return _like(test[0], w, pipeline is None), _like(test[1], w, True)


def _like(tensor: Tensor, w: Tensor, cast: bool) -> Tensor:
    return tensor.to(w.device, w.dtype if cast and tensor.is_floating_point() else None)


def try_out(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    w: Tensor,
    data: ClientData,
    pipeline: Pipeline | None,
) -> None:
    """Pass one sample through, so that shapes that do not fit are named before the first round."""
    x, y = data.inputs[:1], data.targets[:1]
    x = x if pipeline is None else pipeline(x, None, w.dtype)
    try:
        with torch.no_grad():
            output = model(x)
            value = loss(output, y)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"clients: inputs {list(data.inputs.shape[1:])} and targets"
            f" {list(data.targets.shape[1:])} do not pass through the model and the loss ({reason})"
        ) from None
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise InputError("loss: must return the mean loss of a mini-batch, a scalar tensor")
    if loss is F.cross_entropy and not y.is_floating_point():
        classes, largest = output.shape[1], int(data.targets.max())
        if largest >= classes:
            raise InputError(
                f"clients: a target is class {largest}, the model has {classes} outputs"
            )
