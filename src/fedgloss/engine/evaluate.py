"""The loss and the accuracy of a flat model on a data set."""

import contextlib
import math
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedgloss.algorithms.core import unit
from fedgloss.engine.backends.autograd import AutogradGradients
from fedgloss.engine.backends.stacked import plain_layers
from fedgloss.engine.flat import parameter_shapes, seeded, unflatten
from fedgloss.engine.losses import ignored_label
from fedgloss.engine.task import Task
from fedgloss.errors import OWN_ERRORS, InputError, cause

BATCH_SIZE = 2000
"""The most samples in a pass."""
PART = 200
"""The most in a pass that is differentiated, which keeps what is between its layers."""
SAMPLE_BYTES = 2**17
"""Of samples that are larger, such as photographs of more than 105 x 105 pixels, there are fewer in
a pass, so that all passes take about as much memory."""


RADIUS = 0.1
"""How far from the model `sharpness` looks: the same for all methods, so that they compare."""


@torch.no_grad()
def evaluate(task: Task, w: Tensor, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """`loss`, `accuracy` in percent where targets are class indices, and the task's metrics.

    The model is in eval mode. The loss is that of all samples as one mini-batch, whatever it weighs
    or leaves out; what it leaves out does not count as right or wrong either.
    """
    loss = task.loss
    with evaluating(task.model, loss), seeded(0, w.device):
        z, y = _outputs(task, w, inputs, targets)
        result = {"loss": float(loss(z.clone(), y.clone()))}
    if are_classes(z, y):
        counted = _counted(task, y)
        correct = (z.argmax(dim=1) == y) & counted
        result = {"accuracy": 100 * int(correct.sum()) / max(int(counted.sum()), 1), **result}
    return result | own_metrics(task, z, y)


@torch.no_grad()
def class_accuracies(
    task: Task, w: Tensor, inputs: Tensor, targets: Tensor
) -> list[float | None] | None:
    """The accuracy in percent on the samples of each class, None for a class that has none.

    None instead of a list where targets are no class indices.
    """
    with evaluating(task.model), seeded(0, w.device):
        z, y = _outputs(task, w, inputs, targets)
    if not are_classes(z, y):
        return None
    counted = _counted(task, y)
    correct = (z.argmax(dim=1) == y) & counted
    rights, all_of = (y[kept].bincount(minlength=z.shape[1]) for kept in (correct, counted))
    pairs = zip(rights.tolist(), all_of.tolist(), strict=True)
    return [100 * right / count if count else None for right, count in pairs]


@torch.no_grad()
def sharpness(
    task: Task, w: Tensor, here: float, pseudo_gradient: Tensor, inputs: Tensor, targets: Tensor
) -> dict[str, float]:
    """By how much the loss on these samples is higher at the distance RADIUS from w, [P].

    here: the loss at w, as `evaluate` has it.
    `sharpness_pseudo_gradient`: along the round's pseudo-gradient [P], the direction of FedGloSS's
    server. `sharpness_gradient`: along the gradient of this loss, the direction of SAM itself.
    """
    directions = {
        "sharpness_pseudo_gradient": pseudo_gradient,
        "sharpness_gradient": _gradient(task, w, inputs, targets),
    }
    found = {}
    for name, direction in directions.items():
        point = w + RADIUS * unit(direction)
        with evaluating(task.model, task.loss), seeded(0, w.device):
            z, y = _outputs(task, point, inputs, targets)
            found[name] = float(task.loss(z, y.clone())) - here
    return found


def _gradient(task: Task, w: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """The gradient, [P], of the loss of all samples as one mini-batch.

    The loss may weigh samples by one another, so it is differentiated at all outputs at once; then
    the outputs batch by batch, which bounds the memory.
    """
    gradient = torch.zeros_like(w)
    by_outputs = AutogradGradients(task.model, lambda z, part: (z * part).sum())
    with evaluating(task.model, task.loss), seeded(0, w.device):
        with torch.no_grad():
            z, y = _outputs(task, w, inputs, targets)
        with torch.enable_grad():
            z.requires_grad_()
            (by_output,) = torch.autograd.grad(task.loss(z.clone(), y.clone()), z)
        size = samples_a_pass(inputs, w, PART)
        for x, part in zip(inputs.split(size), by_output.split(size), strict=True):
            gradient += by_outputs.gradient(w, _inputs(task, x, w), part)
    return gradient


def samples_a_pass(inputs: Tensor, w: Tensor, most: int = BATCH_SIZE) -> int:
    """How many of the samples [N, ...] a model of w's type is given at once, at most `most`."""
    size = inputs[:1].numel() * max(inputs.element_size(), w.element_size())
    return max(most * SAMPLE_BYTES // max(size, SAMPLE_BYTES), 1)


def _outputs(task: Task, w: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The model's outputs on all samples, batch by batch, and the targets beside them."""
    size = samples_a_pass(inputs, w)
    parameters = unflatten(w, parameter_shapes(task.model))
    model = task.model if w.is_cuda else _pooling_faster(task.model)
    outputs, labels = [], []
    for x, y in zip(inputs.split(size), targets.split(size), strict=True):
        output = functional_call(model, parameters, (_inputs(task, x, w),))
        outputs.append(output.to(w.dtype))
        labels.append(y.to(w.device, non_blocking=True))
    return torch.cat(outputs), torch.cat(labels)


class _ChannelsLast(nn.Module):
    """Max-pooling over channels-last images: on a processor in a quarter of the time.

    The values are the same. Those of a convolution would not be, so it does not see that layout.
    """

    def __init__(self, layer: nn.MaxPool2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or not x.is_contiguous() or self.layer.return_indices:
            return self.layer(x)
        return self.layer(x.contiguous(memory_format=torch.channels_last)).contiguous()


def _pooling_faster(model: nn.Module) -> nn.Module:
    """The same layers in the same order, of a sequence that is no more than its layers."""
    if not plain_layers(model):
        return model
    layers = OrderedDict(model.named_children())
    for name, layer in layers.items():
        if type(layer) is nn.MaxPool2d:
            layers[name] = _ChannelsLast(layer)
    return nn.Sequential(layers)


def _inputs(task: Task, x: Tensor, w: Tensor) -> Tensor:
    """Samples as the model sees them: a copy, so that no model can change the data in place."""
    x = x.to(w.device, non_blocking=True)
    return x.clone() if task.pipeline is None else task.pipeline(x, None, w.dtype)


def _counted(task: Task, targets: Tensor) -> Tensor:
    """Which samples count as right or wrong: those that the loss does not leave out."""
    ignored = ignored_label(task.loss)
    return targets >= 0 if ignored is None else targets != ignored


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
