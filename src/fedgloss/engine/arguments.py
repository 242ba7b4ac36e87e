"""The arguments of `fedgloss.train`, checked: each error names the argument and what it allows."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedgloss import algorithms
from fedgloss.algorithms.core import Algorithm
from fedgloss.algorithms.declared import check_declared
from fedgloss.data import augment
from fedgloss.engine.backends.blocks import MOST_OUTPUTS, can_fuse, outputs_fit
from fedgloss.engine.backends.recorded import can_record
from fedgloss.engine.backends.stacked import can_stack
from fedgloss.engine.clients import ClientData, Pipeline
from fedgloss.engine.losses import Loss, is_cross_entropy
from fedgloss.engine.numbers import check_choice, check_integer
from fedgloss.engine.task import COLUMNS, Task
from fedgloss.errors import InputError
from fedgloss.records import is_finite

BACKENDS = ("auto", "autograd", "stacked", "recorded", "graph", "fused")


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
        check_declared(algorithm.name, algorithm)
    elif isinstance(algorithm, str):
        algorithm = algorithms.build_algorithm(algorithm, variants)
    else:
        raise InputError("algorithm: expected a method's name or an Algorithm")
    return algorithm, algorithms.resolve_hyperparameters(algorithm, given)


def check_callable(name: str, value: Any) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise InputError(f"{name}: expected a function, not {value!r:.40}")


def check_metrics(metrics: Any) -> None:
    """Refuse what is not functions by name, and names that rows of metrics have already."""
    if not isinstance(metrics, Mapping):
        raise InputError(f"metrics: expected functions by name, not {metrics!r:.40}")
    for name, metric in metrics.items():
        if not isinstance(name, str) or name in COLUMNS:
            raise InputError(
                f"metrics: {name!r:.40} cannot be the name of one; taken: {', '.join(COLUMNS)}"
            )
        check_callable(f"metrics: {name!r}", metric)


def check_loss(loss: Any) -> None:
    """Refuse what is no function of outputs and targets."""
    if isinstance(loss, type):
        raise InputError(f"loss: is a class; give an instance: {loss.__name__}()")
    if not callable(loss):
        raise InputError(f"loss: expected a function of (outputs, targets), not {loss!r:.40}")


def check_pipeline(pipeline: Any, inputs: Tensor | None = None) -> None:
    """Refuse what is no `Pipeline`, one without sense, and one for other images than these."""
    if pipeline is None:
        return
    if not isinstance(pipeline, Pipeline):
        raise InputError(f"pipeline: expected a fedgloss.Pipeline, not {pipeline!r:.40}")
    for name, what in (("mean", "finite numbers"), ("std", "finite numbers greater than 0")):
        values = getattr(pipeline, name)
        listed = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
        if not listed or not all(is_finite(v) and (name == "mean" or v > 0) for v in values):
            raise InputError(
                f"pipeline: {name}: {values!r:.60} is not a tuple of {what}, one for each channel"
            )
    if len(pipeline.mean) != len(pipeline.std):
        raise InputError("pipeline: mean and std are not of equally many channels")
    check_choice("pipeline: augmentation", pipeline.augmentation, ("none", *augment.KINDS))
    check_integer("pipeline: padding", pipeline.padding, 0)
    if inputs is None:
        return
    if inputs.dtype != torch.uint8 or inputs.ndim != 4:
        raise InputError(
            f"pipeline: is for images, uint8 [N, C, H, W], and the inputs are {inputs.dtype}"
            f" {list(inputs.shape)}; floats that are normalised already need none"
        )
    if len(pipeline.mean) != inputs.shape[1]:
        raise InputError(
            f"pipeline: has {len(pipeline.mean)} channels, the inputs have {inputs.shape[1]}"
        )


def choose_backend(
    backend: str,
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    draws: bool = False,
    largest: int = 1,
) -> str:
    """A backend by name, as asked, or the fastest of those that can train this model.

    inputs: [N, ...], of which the shape of a sample is taken. draws: model or loss draw random
    numbers, for which autograd alone has seeds. largest: samples of the largest mini-batch.
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
    if backend in ("recorded", "graph", "fused") and not cuda:
        raise InputError(
            f"backend: {backend!r} is for CUDA devices; allowed here: auto, autograd, stacked"
        )
    if backend == "fused" and not can_fuse(model, loss, sample):
        raise InputError(
            "backend: 'fused' takes float32 networks of convolutions (stride 1), pooling, ReLU and"
            " linear layers under the cross-entropy, and needs Triton; use 'autograd'"
        )
    if backend == "fused" and not outputs_fit(model, largest):
        raise InputError(
            f"backend: 'fused' takes at most {MOST_OUTPUTS} outputs of a mini-batch, each side"
            f" rounded up to a power of two: too few for {largest} samples; use 'recorded'"
        )
    if backend == "recorded" and not can_record(model, loss):
        raise InputError(
            "backend: 'recorded' takes no models with hooks, and no data with labels that the loss"
            " leaves out; use 'autograd'"
        )
    if backend == "auto" and cuda:
        if can_fuse(model, loss, sample) and outputs_fit(model, largest):
            return "fused"
        return "recorded" if can_record(model, loss) else "autograd"
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
        weights = torch.as_tensor(sizes, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise InputError(f"sizes: expected {m} positive numbers, one for each client") from None
    if weights.shape != (m,) or not torch.isfinite(weights).all() or not (weights > 0).all():
        raise InputError(f"sizes: expected {m} positive numbers, one for each client")
    return weights / weights.max()  # only their ratios count, and their sum must not overflow


def placed(data: ClientData, w: Tensor, task: Task) -> ClientData:
    """The data on the model's device, floats in the model's type."""
    inputs, targets = _placed((data.inputs, data.targets), w, task)
    return ClientData(inputs, targets, data.indices)


def checked_test(test: tuple[Tensor, Tensor], data: ClientData | None) -> tuple[Tensor, Tensor]:
    """The test set, if it looks like the clients' data, where these are here; InputError if not."""
    pair = isinstance(test, Sequence) and len(test) == 2
    if not pair or not all(isinstance(t, Tensor) and t.ndim for t in test):
        raise InputError("test: expected a pair of tensors (inputs, targets)")
    if len(test[0]) != len(test[1]):
        raise InputError(f"test: {len(test[0])} inputs and {len(test[1])} targets")
    if not len(test[0]):
        raise InputError("test: has no samples")
    names = ("inputs", "targets")
    seen = test if data is None else (data.inputs, data.targets)
    for what, given, theirs in zip(names, test, seen, strict=True):
        if given.shape[1:] != theirs.shape[1:]:
            raise InputError(
                f"test: {what} have shape {list(given.shape)}, the clients' {list(theirs.shape)}"
            )
        if given.is_floating_point() != theirs.is_floating_point():
            raise InputError(f"test: {what} are {given.dtype}, the clients' {theirs.dtype}")
    return test[0], test[1]


def placed_test(test: tuple[Tensor, Tensor], w: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """The test set on the model's device, as `placed` makes the clients' data."""
    placed = _placed(test, w, task)
    for what, tensor in zip(("inputs", "targets"), placed, strict=True):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"test: {what} contain NaN or infinity (as {tensor.dtype})")
    return placed


def _placed(samples: tuple[Tensor, Tensor], w: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    check_pipeline(task.pipeline, samples[0])
    inputs, targets = (tensor.detach().to(w.device) for tensor in samples)
    if task.pipeline is None and inputs.is_floating_point():
        inputs = inputs.to(w.dtype)
    if targets.is_floating_point():
        targets = targets.to(w.dtype)
    elif is_cross_entropy(task.loss) and targets.dtype != torch.bool:
        targets = targets.long()  # which are the same classes in any type of integers
    return inputs, targets
