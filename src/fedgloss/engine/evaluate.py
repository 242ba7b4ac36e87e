"""The loss and the accuracy of a flat model on a data set."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedgloss.engine.flat import parameter_shapes, seeded, unflatten
from fedgloss.engine.losses import ignored_label
from fedgloss.engine.task import Task
from fedgloss.errors import OWN_ERRORS, InputError, cause

BATCH_SIZE = 2000
"""Samples in a pass: bounds the memory."""


@torch.no_grad()
def evaluate(
    task: Task, w: Tensor, inputs: Tensor, targets: Tensor, batch_size: int = BATCH_SIZE
) -> dict[str, float]:
    """`loss`, `accuracy` in percent where targets are class indices, and the task's metrics.

    The model is in eval mode. The loss is that of all samples as one mini-batch, whatever it weighs
    or leaves out; what it leaves out does not count as right or wrong either.
    """
    model, loss, pipeline = task.model, task.loss, task.pipeline
    parameters = unflatten(w, parameter_shapes(model))
    outputs, labels = [], []
    with evaluating(model, loss), seeded(0, w.device):
        for x, y in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
            x = x.to(w.device, non_blocking=True)
            # A copy: neither a model nor a loss can then change the data in place.
            x = x.clone() if pipeline is None else pipeline(x, None, w.dtype)
            outputs.append(functional_call(model, parameters, (x,)).to(w.dtype))
            labels.append(y.to(w.device, non_blocking=True))
        z, y = torch.cat(outputs), torch.cat(labels)
        result = {"loss": float(loss(z.clone(), y.clone()))}
    if are_classes(z, y):
        ignored = ignored_label(loss)
        counted = y >= 0 if ignored is None else y != ignored
        correct = (z.argmax(dim=1) == y) & counted
        result = {"accuracy": 100 * int(correct.sum()) / max(int(counted.sum()), 1), **result}
    return result | own_metrics(task, z, y)


def own_metrics(task: Task, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """The user's metrics by name, but for those that are not finite; InputError if one fails."""
    found = {}
    for name, metric in task.metrics.items():
        try:
            value = float(metric(outputs.clone(), targets.clone()))
        except OWN_ERRORS as error:
            raise InputError(f"metrics: {name!r}: {cause(error)}") from None
        if math.isfinite(value):
            found[name] = value
    return found


def are_classes(outputs: Tensor, targets: Tensor) -> bool:
    """Whether each sample has one class and one output for each."""
    return not targets.is_floating_point() and targets.ndim == 1 and outputs.ndim == 2


@contextlib.contextmanager
def evaluating(*parts: object) -> Iterator[None]:
    """Modules in eval mode, each part of them then back in its own."""
    modules = [part for part in parts if isinstance(part, nn.Module)]
    modes = [(module, module.training) for part in modules for module in part.modules()]
    for part in modules:
        part.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
