"""Model, loss and data tried on single mini-batches before round 1.

What cannot work is refused in one line before any work: after it, hours of training would be lost.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from fedgloss.engine.backends.autograd import AutogradGradients
from fedgloss.engine.clients import Batching, ClientData
from fedgloss.engine.evaluate import are_classes, evaluating, own_metrics, samples_a_pass
from fedgloss.engine.flat import parameter_shapes, seeded, unflatten
from fedgloss.engine.losses import ignored_label
from fedgloss.engine.task import Task
from fedgloss.errors import InputError, reason

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
"""Types without minimum and maximum; as classes of a cross entropy they are int64 by now."""
SAME = 1e-3
"""Two passes of one model differ by less, relative to the largest output, where a GPU adds in
another order; what a forward keeps from pass to pass makes a larger difference."""


def try_out(
    task: Task,
    w: Tensor,
    data: ClientData,
    batching: Batching,
    test: tuple[Tensor, Tensor] | None = None,
) -> bool:
    """Whether the model or the loss draws random numbers, like dropout.

    task: its model is on w's device, and changed by nothing here; its loss must be a mean. data: of
    one federation. The mini-batches tried have the smallest and the largest size that will occur.
    Raises InputError naming the argument at fault.
    """
    trial = _Trial(task, w)
    batches = [
        (trial.inputs(data.inputs[index]), data.targets[index].to(w.device))
        for index in _mini_batches(data, batching)
    ]
    draws = [trial.draws(x, y) for x, y in batches]
    trial.check_targets("clients", data.inputs, data.targets)
    draws += [trial.differentiate(x, y) for x, y in batches]
    if test is not None:
        trial.try_test(*test)
    return any(draws)


def try_out_test(task: Task, w: Tensor, test: tuple[Tensor, Tensor]) -> None:
    """The part of `try_out` that needs no clients."""
    _Trial(task, w).try_test(*test)


def _mini_batches(data: ClientData, batching: Batching) -> list[Tensor]:
    """The samples of a smallest and of a largest mini-batch."""
    by_size: dict[int, Tensor] = {}
    for index in data.indices:
        for size in set(batching.sizes(len(index))):
            by_size.setdefault(size, index[:size])
    return [by_size[size] for size in sorted({min(by_size), max(by_size)})]


class _Trial:
    def __init__(self, task: Task, w: Tensor) -> None:
        self.task = task
        self.model, self.loss, self.pipeline = task.model, task.loss, task.pipeline
        self.w, self.shapes = w.clone(), parameter_shapes(self.model)

    def inputs(self, x: Tensor) -> Tensor:
        """Inputs as the model sees them."""
        x = x.to(self.w.device)
        return x.clone() if self.pipeline is None else self.pipeline(x, None, self.w.dtype)

    def draws(self, x: Tensor, y: Tensor) -> bool:
        """Whether a pass over this mini-batch draws; it must do the same each time."""
        with _refusing("clients", x, y):
            (output, draws), (again, _) = self._forward(x), self._forward(x)
            if not _alike(output, again):
                raise InputError(
                    "model: two passes over one mini-batch differ: its forward keeps something"
                    " from pass to pass, or draws from a generator that is not PyTorch's"
                )
        return draws

    def differentiate(self, x: Tensor, y: Tensor) -> bool:
        """A gradient on this mini-batch; whether the loss draws."""
        with _refusing("clients", x, y), seeded(0, self.w.device):
            draws = self._check_loss(self._forward(x)[0], y)
            gradients = AutogradGradients(self.model, self.loss)
            gradients(self.w[None], x[None].clone(), y[None].clone(), [len(y)], [0])
            self._check_reads(x, y)
        return draws

    @torch.enable_grad()
    def _check_reads(self, x: Tensor, y: Tensor) -> None:
        """Refuse a model that reads its parameters past the module's attributes."""
        point = self.w.clone().requires_grad_()
        named = dict(self.model.named_parameters())
        output = functional_call(self.model, unflatten(point, self.shapes), (x.clone(),))
        value = self.loss(output.to(point.dtype), y.clone())
        found = torch.autograd.grad(value.sum(), [point, *named.values()], allow_unused=True)[1:]
        for name, gradient in zip(named, found, strict=True):
            if gradient is not None:
                raise InputError(
                    f"model: its forward reads parameter {name!r} from elsewhere than the module"
                    " that it belongs to; use the module's attribute"
                )

    def try_test(self, inputs: Tensor, targets: Tensor) -> None:
        """What is done with a test set: its labels, and an evaluation of the fewest samples."""
        size = samples_a_pass(inputs, self.w)
        some = slice(min(len(inputs) % size or size, 2))
        self.check_targets("test", inputs, targets)
        self.evaluate(self.inputs(inputs[some]), targets[some].to(self.w.device))

    def evaluate(self, x: Tensor, y: Tensor) -> None:
        """A pass in eval mode."""
        with _refusing("test", x, y), evaluating(self.model, self.loss), torch.no_grad():
            output = self._forward(x)[0].to(self.w.dtype)
            if self._watched(lambda: self.loss(output, y))[1]:
                raise InputError("loss: draws random numbers in eval mode too")
        with torch.no_grad():
            own_metrics(self.task, output, y)

    def _watched(self, compute: Callable[[], Any]) -> tuple[Any, bool]:
        """What this returns, always with the same draws; and whether there were any."""
        with seeded(0, self.w.device):
            before = _generators(self.w.device)
            result = compute()
            return result, not all(map(torch.equal, before, _generators(self.w.device)))

    @torch.no_grad()
    def _forward(self, x: Tensor) -> tuple[Tensor, bool]:
        """The outputs for x, and whether any random numbers were drawn for them."""
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        w, given = self.w.clone(), x.clone()
        parameters = unflatten(w, self.shapes)
        output, draws = self._watched(lambda: functional_call(self.model, parameters, (x,)))
        if not isinstance(output, Tensor):
            raise InputError(f"model: returns {type(output).__name__}, must return one tensor")
        if not output.is_floating_point():
            raise InputError(f"model: returns {output.dtype}, must return real numbers")
        for name, buffer in self.model.named_buffers():
            if name not in buffers or not _same(buffer, buffers[name]):
                raise InputError(
                    f"model: its forward changes the buffer {name!r}, which would depend on the"
                    " order of the clients and is not averaged"
                )
        if not _same(w, self.w):
            raise InputError("model: its forward changes its parameters")
        if not _same(x, given):
            raise InputError("model: its forward changes its inputs (an in-place first layer?)")
        if draws and not self.model.training:
            raise InputError(
                "model: draws random numbers in eval mode too; give F.dropout and its like"
                " training=self.training"
            )
        return output, draws

    @torch.no_grad()
    def _check_loss(self, output: Tensor, y: Tensor) -> bool:
        """Refuse what is no mean loss of the outputs alone; whether it draws."""
        output = output.to(self.w.dtype)
        targets = y.clone()
        with torch.enable_grad():
            value, draws = self._watched(lambda: self.loss(output.clone(), targets))
        if isinstance(value, Tensor) and value.requires_grad:
            raise InputError(
                "loss: depends on parameters other than by the outputs, in ways that no gradient"
                " here sees: use weight_decay, or let the model return what is to be trained"
            )
        if not _same(targets, y):
            raise InputError("loss: changes its targets")
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise InputError("loss: must return the mean loss of a mini-batch, a scalar tensor")
        again, _ = self._watched(lambda: self.loss(output.clone(), y.clone()))
        if not _alike(value, again):
            raise InputError(
                "loss: two calls on one mini-batch differ: it keeps something from call to call"
            )
        twice = self.loss(torch.cat([output, output]), torch.cat([y, y]))
        if value.abs() > 0 and torch.allclose(twice, 2 * value, rtol=1e-5, atol=0):
            raise InputError(
                "loss: must return the mean over a mini-batch, not the sum (reduction='mean')"
            )
        return draws

    def check_targets(self, what: str, inputs: Tensor, targets: Tensor) -> None:
        """Refuse labels that the model has no output for."""
        for name, tensor in (("inputs", inputs), ("targets", targets)):
            if tensor.dtype in UNSIGNED and (name == "targets" or self.pipeline is None):
                kind = str(tensor.dtype).removeprefix("torch.")
                raise InputError(
                    f"{what}: {name} are {kind}, with which PyTorch can hardly compute; allowed:"
                    " uint8, signed integers such as int64, bool, and floats"
                )
        if targets.is_floating_point() or targets.dtype == torch.bool or not targets.numel():
            return
        flat = targets.flatten(1).max(dim=1).values if targets.ndim > 1 else targets
        rows = [int(flat.argmin()), int(flat.argmax())]
        if self.pipeline is None and not inputs.is_floating_point() and inputs[0].numel():
            tokens = inputs.flatten(1) if inputs.ndim > 1 else inputs[:, None]
            rows += [int(tokens.amin(1).argmin()), int(tokens.amax(1).argmax())]
        x, y = self.inputs(inputs[rows]), targets[rows].to(self.w.device)
        with _refusing(what, x, y), evaluating(self.model):
            output = self._forward(x)[0]
        ignored = ignored_label(self.loss)
        if ignored is not None and output.ndim == targets.ndim + 1:
            counted, classes = targets[targets != ignored], output.shape[1]
            if not len(counted):
                raise InputError(f"{what}: every target is {ignored}, which the loss leaves out")
            smallest, largest = int(counted.min()), int(counted.max())
            for label in (smallest, largest):
                if not 0 <= label < classes:
                    raise InputError(
                        f"{what}: a target is class {label}, the model has {classes} outputs"
                        f" (allowed: 0 to {classes - 1}, and {ignored} for none)"
                    )
        elif self.w.device.type == "cpu" and are_classes(output, targets):
            # On a GPU a label out of range would end the process, not raise.
            with _refusing(what, x, y), torch.no_grad():
                self.loss(output.clone(), y.clone())


@contextlib.contextmanager
def _refusing(what: str, x: Tensor, y: Tensor) -> Iterator[None]:
    """Whatever a user's code raises becomes one line; Python's and NumPy's generators stay."""
    before = random.getstate(), np.random.get_state()
    try:
        yield
        moved = random.getstate() != before[0]
        if moved or not all(map(np.array_equal, np.random.get_state(), before[1])):
            raise InputError(
                "model: draws random numbers from Python's or NumPy's generator; use PyTorch's,"
                " whose draws follow from the seed here"
            )
    except InputError:
        raise
    except Exception as error:
        hint = "; these inputs are uint8: give floats, or a pipeline" * (x.dtype == torch.uint8)
        raise InputError(
            f"{what}: inputs {list(x.shape[1:])} and targets {list(y.shape[1:])} do not pass"
            f" through the model and the loss in a batch of {len(x)} ({reason(error)}){hint}"
        ) from None
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _generators(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def _alike(a: Tensor, b: Tensor) -> bool:
    a, b = a.double(), b.double()
    scale = float(a.abs().nan_to_num().max()) if a.numel() else 0.0
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=SAME * scale, equal_nan=True)
