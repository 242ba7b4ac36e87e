"""The mean loss of a model on a dataset, as a function of one flat parameter vector."""

import copy
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from fedgloss.engine.flat import copied, flatten, parameter_shapes, seeded, unflatten
from fedgloss.engine.losses import Loss
from fedgloss.errors import InputError, reason
from fedgloss.sharpness.arguments import require_integer, require_tensor
from fedgloss.sharpness.arithmetic import (
    Holder,
    arithmetic,
    derivative,
    differentiable_once_only,
    no_reentrant_checkpoints,
)
from fedgloss.sharpness.targets import Batch, as_classes, check_classes, described, right, weighed

T = TypeVar("T")

PLAIN = (nn.Conv2d, nn.MaxPool2d, nn.ReLU, nn.Flatten, nn.Linear)
"""Layers that are known to take images in any layout in memory."""
STEP = 1e-7
"""Of a difference quotient in float64, relative to |w|: short, since ReLU has kinks; rounding then
is about 1e-8 of the result."""


def parameter_views(model: nn.Module, w: Tensor) -> dict[str, Tensor]:
    """w [P] as views by parameter name; InputError when the model has not P parameters."""
    shapes = parameter_shapes(model)
    count = sum(shape.numel() for shape in shapes.values())
    if w.shape != (count,):
        raise InputError(f"w: has shape {list(w.shape)} (allowed: [{count}], the model's size)")
    if not w.is_floating_point():
        raise InputError(f"w: is of type {described(w)} (allowed: floats)")
    return unflatten(w, shapes)


@dataclass(frozen=True, eq=False)
class Objective:
    """The mean loss of `model` in eval mode over a dataset; all tensors on one device.

    Attributes
      model          any module that `fedgloss.train` takes; a copy is used, so the caller's is
                     never changed
      inputs         [N, ...], normalised; or anything with a `transform`
      targets        for the cross-entropy, classes [N] or, for outputs [N, classes, ...],
                     [N, ...], -100 where there is none; or probabilities, floats of the outputs'
                     shape
      batch_size     images per pass; bounds the memory, changes results by rounding only
      transform      applied to each batch of inputs (uint8 -> normalised floats, for example)
      equal_batches  weigh every batch equally, a smaller last one too. False is the mean over
                     labels; True is how the released code averages Hessians (hvp_operator.py)
      criterion      (outputs, targets) -> the mean loss of a mini-batch, as `fedgloss.train` takes
                     it; modules are copied, and put in eval mode too

    Floats are converted to the type of the parameter vector, buffers too: float64 parameters give a
    float64 loss. Integers, tokens for example, reach the model as they are. What a model draws at
    random is the same in every pass. Raises InputError when data, model and loss do not fit.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    batch_size: int = 2000
    transform: Callable[[Tensor], Tensor] | None = None
    equal_batches: bool = False
    criterion: Loss = cross_entropy
    _batches: list[Batch] = field(init=False, repr=False)
    """Those that weigh anything, in the order of the data."""
    _layout: torch.memory_format = field(init=False, repr=False)
    _holder: Holder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets) or len(self.targets) == 0:
            raise InputError(
                f"inputs, targets: have {len(self.inputs)} and {len(self.targets)} entries "
                "(allowed: as many of one as of the other, at least 1)"
            )
        require_integer("batch_size", self.batch_size, least=1)
        with torch.inference_mode(False):
            model, criterion = copied(self.model), _copied_loss(self.criterion)
        model.eval()
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "criterion", criterion)
        object.__setattr__(self, "_holder", Holder(model, criterion))
        # The same numbers up to rounding. The paper's CNN is up to twice as fast with channels
        # last; residual networks are slower, and a user's `x.view(len(x), -1)` would be refused.
        last = self.inputs.device.type == "cpu" and _is_plain(model)
        layout = torch.channels_last if last else torch.contiguous_format
        object.__setattr__(self, "_layout", layout)
        self._try_out()
        batches = weighed(self.targets, self.criterion, self.batch_size, self.equal_batches)
        object.__setattr__(self, "_batches", batches)

    def __len__(self) -> int:
        """How many batches weigh anything."""
        return len(self._batches)

    def term(self, w: Tensor, number: int) -> Tensor:
        """What the batch of this number adds to the loss at w [P]: a scalar, with its graph.

        For those who differentiate it themselves, where `arithmetic` holds.
        """
        batch = self._batches[number]
        loss = self.at(w, batch.start, partial(self._loss, w, batch.start))
        return batch.weight * loss

    def loss(self, w: Tensor) -> tuple[float, float]:
        """Loss and accuracy in percent at w [P]; the loss can overflow to inf or NaN far out.

        Where targets are probabilities, a prediction is right if it is the most probable class.
        Where they are no classes at all, for a regression, the accuracy is NaN.
        """
        require_tensor(w)
        with self._arithmetic():
            w = w.clone()  # a model may clamp its parameters
            total = torch.zeros(2, dtype=torch.float64, device=w.device)
            for batch in self._batches:
                loss, right = self.at(w, batch.start, partial(self._scores, w, batch.start))
                accuracy = 100 * (right / max(batch.labels, 1))
                total += torch.stack([batch.weight * loss, batch.share * accuracy])
        loss, accuracy = total.tolist()
        return loss, accuracy

    def gradient(self, w: Tensor) -> Tensor:
        """The loss' gradient at w, [P]."""
        require_tensor(w)
        with self._arithmetic():
            total = torch.zeros_like(w, memory_format=torch.contiguous_format)
            for batch in self._batches:
                gradient = self._gradient(w, batch.start, create_graph=False)[1]
                total.add_(gradient, alpha=batch.weight)
        return total

    def hessian_vector(self, w: Tensor, V: Tensor) -> Tensor:
        """The loss' Hessian at w times V, for V [P] or a block of rows [b, P]."""
        return self.hessian(w)(V)

    def hessian(self, w: Tensor) -> Callable[[Tensor], Tensor]:
        """The map V -> H V at w, exact, for V [P] or a block of rows [b, P].

        A product differentiates the gradient once more, backwards: right for max-pooling and ReLU
        networks (the Hessian of the piece w lies on), and measured faster than, or as fast as,
        forward over backward and its vmap. For models with an operation that PyTorch differentiates
        once only, or wrongly the second time (EmbeddingBag, Hardsigmoid, cdist, weight_norm), it is
        a difference quotient of gradients in float64 instead, right to about 1e-7 of |H|.
        """
        # With a single batch the gradient's graph, which a product needs in memory anyway, is
        # built once and kept: a product then takes half the time.
        require_tensor(w)
        kept, exact = None, self.differentiable_twice
        if exact and len(self._batches) == 1:
            with self._arithmetic(twice=True):
                kept = self._gradient(w, self._batches[0].start, create_graph=True)

        def product(V: Tensor) -> Tensor:
            if V.shape[-1:] != w.shape:
                raise InputError(f"V: has shape {list(V.shape)} (allowed: [..., {len(w)}])")
            rows = V.to(w).reshape(-1, len(w))
            products = self._products(w, rows, kept) if exact else self._differences(w, rows)
            return products.view(V.shape)

        return product

    def _products(self, w: Tensor, rows: Tensor, kept: tuple[Tensor, Tensor] | None) -> Tensor:
        """H times each of rows [b, P]; kept: the single batch's point and gradient."""
        with self._arithmetic(twice=True):
            rows = rows.clone(memory_format=torch.contiguous_format)
            total = torch.zeros_like(rows)
            for batch in self._batches:
                # Nothing here names the graph: it is freed before the next batch's is built.
                Hv = self._derivatives(
                    *(kept or self._gradient(w, batch.start, create_graph=True)), rows, batch.start
                )
                total.add_(Hv, alpha=batch.weight)
        return total

    def _differences(self, w: Tensor, rows: Tensor) -> Tensor:
        """H times each of rows [b, P], from two gradients in float64."""
        total, point = torch.zeros_like(rows, memory_format=torch.contiguous_format), w.double()
        for v, result in zip(rows.double(), total, strict=True):
            size = float(v.norm())
            if size > 0:
                step = STEP * max(float(point.norm()), 1) / size
                ahead, behind = (self.gradient(point + h * v) for h in (step, -step))
                result.copy_((ahead - behind) / (2 * step))
        return total

    @functools.cached_property
    def differentiable_twice(self) -> bool:
        """Whether PyTorch has right second derivatives of the model, tried on two samples.

        Raises InputError where it has not, and the model does not compute in float64 either.
        """
        w = flatten(self.model)
        try:
            with self._arithmetic(twice=True):
                point, gradient = self._gradient(w, 0, create_graph=True, size=2)
                if not differentiable_once_only(gradient):
                    self._derivatives(point, gradient, torch.ones_like(point)[None], 0)
                    return True
        except RuntimeError as error:
            if "derivative for" not in str(error):
                raise
        try:
            with self._arithmetic():
                self._gradient(w.double(), 0, create_graph=False, size=2)
        except RuntimeError as error:
            raise InputError(
                "model: cannot be differentiated twice, and does not compute in float64, in which"
                f" its Hessian would be approximated ({reason(error)})"
            ) from None
        return False

    def _try_out(self) -> None:
        """Pass two samples through and back (batch normalisation refuses one sample), and look at
        all targets."""
        try:
            with self._arithmetic():
                w = flatten(self.model)
                self.at(w, 0, partial(self._check, w))
        except InputError:
            raise
        except Exception as error:  # whatever code of the user's own raises
            as_they_are = self.transform is None and not self.inputs.is_floating_point()
            hint = "; integers, without a transform, stay what they are" if as_they_are else ""
            name = "cross-entropy" if self.criterion is cross_entropy else "loss"
            raise InputError(
                f"inputs, targets: {described(self.inputs)} and {described(self.targets)} do not"
                f" pass through the model and the {name} ({reason(error)}){hint}"
            ) from None
        try:
            with self._arithmetic(), no_reentrant_checkpoints():
                self._gradient(w, 0, create_graph=False, size=2)
        except RuntimeError as error:
            raise InputError(f"model: cannot be differentiated ({reason(error)})") from None

    def _check(self, w: Tensor) -> None:
        """To be called at w: refuse targets and losses that do not work on two samples."""
        outputs, targets = self._outputs(w, 0, 2)
        check_classes(self.targets, outputs, self.criterion)
        value = self.criterion(outputs.clone(), targets)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise InputError("loss: must return the mean loss of a mini-batch, a scalar tensor")
        twice = self.criterion(torch.cat([outputs, outputs]), torch.cat([targets, targets]))
        if value.abs() > 0 and torch.allclose(twice, 2 * value, rtol=1e-5, atol=0):
            raise InputError(
                "loss: must return the mean over a mini-batch, not the sum (reduction='mean')"
            )

    def at(self, w: Tensor, seed: int, compute: Callable[[], T]) -> T:
        """What `compute` returns where the model's parameters are views of w [P], draws seeded.

        Not the forward pass alone has to run in here but each derivative too: what
        torch.utils.checkpoint computes again then would else be of the model's own parameters.
        """
        tensors = {f"model.{k}": value for k, value in parameter_views(self.model, w).items()}
        for name, buffer in self._holder.named_buffers():  # copies; a loss has its weights there
            dtype = w.dtype if buffer.is_floating_point() else buffer.dtype
            tensors[name] = buffer.to(w.device, dtype, copy=True)
        with seeded(seed, w.device):
            return functional_call(self._holder, tensors, (compute,))

    def _outputs(self, w: Tensor, start: int, size: int | None = None) -> tuple[Tensor, Tensor]:
        """The outputs [B, ...] and targets of the batch, or of its first `size` samples.

        To be called at w: see `at`.
        """
        batch = slice(start, start + (size or self.batch_size))
        # A copy: neither the model nor the transform can then change the data in place.
        inputs = self.inputs[batch].clone(memory_format=torch.contiguous_format)
        if self.transform is not None:
            inputs = self.transform(inputs)
        if inputs.is_floating_point():
            inputs = inputs.to(w.dtype)
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=self._layout)
        outputs = self.model(inputs)
        if not isinstance(outputs, Tensor):
            raise InputError(f"model: returns {type(outputs).__name__} (allowed: one tensor)")
        targets = as_classes(self.targets[batch], self.criterion)
        dtype = w.dtype if targets.is_floating_point() else targets.dtype
        return outputs.to(w.dtype), targets.to(dtype, copy=True)

    def _loss(self, w: Tensor, start: int, size: int | None = None) -> Tensor:
        """The batch's mean loss, a scalar; to be called at w."""
        return self.criterion(*self._outputs(w, start, size)).reshape(())

    def _scores(self, w: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """The batch's mean loss, and how many predictions are right: float64 scalars; at w."""
        outputs, targets = self._outputs(w, start)
        count = right(outputs, targets, self.criterion)  # before a loss changes its arguments
        return self.criterion(outputs, targets).reshape(()).double(), count.double()

    @torch.enable_grad()
    def _gradient(
        self, w: Tensor, start: int, create_graph: bool, size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """One batch's gradient [P], and the copy of w [P] that it was taken at."""
        point = w.clone().detach().requires_grad_()

        def gradient() -> Tensor:
            return derivative(self._loss(point, start, size), point, create_graph=create_graph)

        return point, self.at(point, start, gradient)

    @torch.enable_grad()
    def _derivatives(self, point: Tensor, gradient: Tensor, rows: Tensor, start: int) -> Tensor:
        """d(gradient . v) / d(point) for every row v of rows [b, P], from a batch's `_gradient`."""

        def derivatives() -> Tensor:
            # A scalar, since passing v as grad_outputs makes PyTorch import SymPy: a second.
            return torch.stack([derivative(gradient @ v, point, retain_graph=True) for v in rows])

        return self.at(point, start, derivatives)

    def _arithmetic(self, twice: bool = False) -> AbstractContextManager[None]:
        return arithmetic(self.model, self.inputs.device, twice)


def _is_plain(model: nn.Module) -> bool:
    """Whether the model is a sequence of PLAIN layers, without hooks or methods of a user's."""
    return type(model) is nn.Sequential and all(
        (module is model or type(module) in PLAIN)
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        for module in model.modules()
    )


def _copied_loss(criterion: Loss) -> Loss:
    """A loss in eval mode, that keeps nothing in the caller's; InputError if it has no copy."""
    if not isinstance(criterion, nn.Module):
        return criterion
    try:
        return copy.deepcopy(criterion).eval()
    except Exception as error:  # whatever the attributes of a user's module raise
        raise InputError(f"loss: cannot be copied ({reason(error)})") from None
