"""The arguments of `fedgloss.train`, checked: each error names the argument and what it allows."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedgloss import algorithms
from fedgloss.algorithms.core import Algorithm
from fedgloss.algorithms.declared import check_declared
from fedgloss.engine.backends.fused import can_fuse
from fedgloss.engine.backends.stacked import can_stack
from fedgloss.engine.clients import ClientData, Pipeline
from fedgloss.engine.losses import Loss
from fedgloss.errors import InputError, did_you_mean
from fedgloss.records import is_finite

BACKENDS = ("auto", "autograd", "stacked", "graph", "fused")


def resolve_algorithm(
    algorithm: str | Algorithm, variants: Mapping[str, str] | str, given: Mapping[str, float]
) -> tuple[Algorithm, dict[str, float]]:
    """The algorithm as an object, and all its hyperparameters."""
    for name, value in (("variants", variants), ("hyperparameters", given)):
        if not isinstance(value, Mapping) and not (name == "variants" and isinstance(value, str)):
            raise InputError(f"{name}: expected values by name, not {value!r:.40}")
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
    schedule: Iterable[Iterable[int]] | None,
    m: int,
) -> tuple[int, int | list[list[int]]]:
    """The number of rounds; and how many clients to draw each round, or the schedule."""
    if schedule is not None:
        if clients_per_round is not None:
            raise InputError("clients_per_round: not used together with schedule")
        schedule = [_ids(t, ids, m) for t, ids in enumerate(_iterable("schedule", schedule))]
        if rounds is not None and _integer("rounds", rounds, 0) > len(schedule):
            raise InputError(f"rounds: {rounds}, but the schedule has {len(schedule)}")
        count = len(schedule) if rounds is None else rounds
        return _integer("rounds", count, 0), schedule
    if rounds is None:
        raise InputError("rounds: must be given, unless schedule is")
    if clients_per_round is None:
        clients_per_round = m
    clients_per_round = _integer("clients_per_round", clients_per_round, 1)
    if clients_per_round > m:
        raise InputError(f"clients_per_round: {clients_per_round} of only {m} clients")
    return _integer("rounds", rounds, 0), clients_per_round


def _ids(t: int, given: Iterable[int], m: int) -> list[int]:
    """The clients of round t in a schedule."""
    where = f"schedule[{t}]"
    ids = _iterable(where, given)
    if not ids:
        raise InputError(f"{where}: names no client")
    for k in ids:
        whole = isinstance(k, Integral) and not isinstance(k, bool)
        if not whole or not 0 <= k < m:
            raise InputError(f"{where}: client {k!r:.40} does not exist (0 to {m - 1})")
    if len(set(ids)) < len(ids):
        raise InputError(f"{where}: names a client twice")
    return [int(k) for k in ids]


def _iterable(name: str, value: Any) -> list[Any]:
    """The entries of what may be a list, an array, a tensor or a generator."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.tolist()
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise InputError(f"{name}: expected a list of clients, not {value!r:.40}")
    return list(value)


def check_numbers(
    lr: float,
    weight_decay: float,
    batch_size: int | None,
    epochs: int,
    local_steps: int | None,
    evaluate_every: int,
    seed: int,
) -> None:
    """Refuse numbers out of range, by argument name."""
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not is_finite(value) or value < 0:
            raise InputError(f"{name}: {value!r} is not a finite number of at least 0")
    for name, value in (("batch_size", batch_size), ("local_steps", local_steps)):
        if value is not None:
            _integer(name, value, 1)
    for name, value in (("epochs", epochs), ("evaluate_every", evaluate_every)):
        _integer(name, value, 1)
    _integer("seed", seed, 0)


def check_last(last: int, rounds: int) -> None:
    """Refuse to average over more rounds than there are."""
    if _integer("last", last, 1) > rounds > 0:
        raise InputError(f"last: {last} of only {rounds} rounds")


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}: {value!r} is not an integer of at least {least}")
    return int(value)


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not allowed, naming those that are."""
    if value not in allowed:
        raise InputError(f"{name}: {value!r} is unknown{did_you_mean(value, list(allowed))}")


def check_names(argument: str, names: Iterable[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """These words, if all are allowed; InputError if not."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InputError(f"{argument}: expected a list of names, not {names!r:.40}")
    names = tuple(names)
    for name in names:
        check_choice(argument, name, allowed)
    return names


def check_callable(name: str, value: Any) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise InputError(f"{name}: expected a function, not {value!r:.40}")


def check_loss(loss: Any) -> None:
    """Refuse what is no function of outputs and targets."""
    if isinstance(loss, type):
        raise InputError(f"loss: is a class; give an instance: {loss.__name__}()")
    if not callable(loss):
        raise InputError(f"loss: expected a function of (outputs, targets), not {loss!r:.40}")


def choose_backend(
    backend: str, model: nn.Module, loss: Loss, inputs: Tensor, draws: bool = False
) -> str:
    """A backend by name, as asked, or the fastest of those that can train this model.

    inputs: [N, ...], of which the shape of a sample is taken. draws: model or loss draw random
    numbers, for which autograd alone has seeds.
    """
    sample = tuple(inputs.shape[1:])
    check_choice("backend", backend, BACKENDS)
    if draws and backend in ("auto", "autograd"):
        return "autograd"
    if draws:
        raise InputError(
            f"backend: {backend!r} has no seeds for what the model or the loss draws;"
            " use 'autograd'"
        )
    cuda = next(model.parameters()).is_cuda
    if backend in ("graph", "fused") and not cuda:
        raise InputError(
            f"backend: {backend!r} is for CUDA devices; allowed here: auto, autograd, stacked"
        )
    if backend == "fused" and not can_fuse(model, loss, sample):
        raise InputError(
            "backend: 'fused' takes float32 networks of convolutions (stride 1), pooling, ReLU and"
            " linear layers under the cross-entropy, and needs Triton; use 'autograd'"
        )
    if backend == "auto" and cuda and can_fuse(model, loss, sample):
        return "fused"
    if backend in ("stacked", "graph") and not can_stack(model, sample):
        raise InputError(
            f"backend: {backend!r} takes a torch.nn.Sequential of Conv2d (stride 1), MaxPool2d,"
            " ReLU, Flatten and Linear, each used once and without hooks; use 'autograd'"
        )
    return ("stacked" if can_stack(model, sample) else "autograd") if backend == "auto" else backend


def resolve_sizes(sizes: Sequence[float] | None, m: int) -> Tensor | None:
    """N_k for averaging as float64 [C], or None for the numbers of samples."""
    if sizes is None:
        return None
    try:
        sizes = torch.as_tensor(sizes, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(f"sizes: expected {m} positive numbers, one for each client") from None
    if sizes.shape != (m,) or not torch.isfinite(sizes).all() or not (sizes > 0).all():
        raise InputError(f"sizes: expected {m} positive numbers, one for each client")
    return sizes / sizes.max()  # only their ratios count, and their sum must not overflow


def placed(data: ClientData, w: Tensor, loss: Loss, pipeline: Pipeline | None) -> ClientData:
    """The data on the model's device, floats in the model's type."""
    inputs, targets = _placed((data.inputs, data.targets), w, loss, pipeline)
    return ClientData(inputs, targets, data.indices)


def checked_test(test: tuple[Tensor, Tensor], data: ClientData) -> tuple[Tensor, Tensor]:
    """The test set, if it looks like the clients' data; InputError if not."""
    pair = isinstance(test, Sequence) and len(test) == 2
    if not pair or not all(isinstance(t, Tensor) and t.ndim for t in test):
        raise InputError("test: expected a pair of tensors (inputs, targets)")
    if len(test[0]) != len(test[1]):
        raise InputError(f"test: {len(test[0])} inputs and {len(test[1])} targets")
    if not len(test[0]):
        raise InputError("test: has no samples")
    names, seen = ("inputs", "targets"), (data.inputs, data.targets)
    for what, given, theirs in zip(names, test, seen, strict=True):
        if given.shape[1:] != theirs.shape[1:]:
            raise InputError(
                f"test: {what} have shape {list(given.shape)}, the clients' {list(theirs.shape)}"
            )
        if given.is_floating_point() != theirs.is_floating_point():
            raise InputError(f"test: {what} are {given.dtype}, the clients' {theirs.dtype}")
    return test[0], test[1]


def placed_test(
    test: tuple[Tensor, Tensor], w: Tensor, loss: Loss, pipeline: Pipeline | None
) -> tuple[Tensor, Tensor]:
    """The test set on the model's device, as `placed` makes the clients' data."""
    placed = _placed(test, w, loss, pipeline)
    for what, tensor in zip(("inputs", "targets"), placed, strict=True):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"test: {what} contain NaN or infinity (as {tensor.dtype})")
    return placed


def _placed(
    samples: tuple[Tensor, Tensor], w: Tensor, loss: Loss, pipeline: Pipeline | None
) -> tuple[Tensor, Tensor]:
    inputs, targets = (tensor.detach().to(w.device) for tensor in samples)
    if pipeline is None and inputs.is_floating_point():
        inputs = inputs.to(w.dtype)
    if targets.is_floating_point():
        targets = targets.to(w.dtype)
    elif loss is F.cross_entropy and targets.dtype != torch.bool:
        targets = targets.long()  # which are the same classes in any type of integers
    return inputs, targets
