"""The mean loss of a model on a dataset, as a function of one flat parameter vector."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from fedgloss.engine import switches
from fedgloss.engine.flat import copied, flatten, parameter_shapes, seeded, unflatten
from fedgloss.errors import InputError, reason

T = TypeVar("T")

PLAIN = (nn.Conv2d, nn.MaxPool2d, nn.ReLU, nn.Flatten, nn.Linear)
"""Layers that are known to take images in any layout in memory."""
IGNORED = -100
"""The label that does not count: cross-entropy's `ignore_index`."""
STEP = 1e-7
"""Of a difference quotient in float64, relative to |w|: short, since ReLU has kinks; rounding then
is about 1e-8 of the result."""
ONCE_ONLY = ("::Error", "::NotImplemented", "WeightNormInterfaceBackward0")
"""Nodes of a gradient's graph whose own gradients are missing, which may pass in silence, or wrong:
PyTorch's second derivative of weight_norm takes the norms for constants."""


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """No TF32, no bfloat16 products, deterministic convolutions.

    PyTorch's default on CUDA, TF32 convolutions, has a relative error of 1e-3: curvature would
    drown in it, and no Lanczos residual could fall below it.
    """
    with switches.put_back():
        switches.multiply_float32("ieee")
        torch.backends.cudnn.deterministic = True
        yield


def require_finite(w: Tensor) -> None:
    """Raise InputError unless w is a tensor of which every entry is finite."""
    require_tensor(w)
    if not bool(torch.isfinite(w).all()):
        raise InputError("w: has NaN or infinite entries (allowed: finite parameters)")


def require_tensor(w: Tensor) -> None:
    """Raise InputError for a vector of another kind, NumPy's for example."""
    if not isinstance(w, Tensor):
        raise InputError(f"w: is a {type(w).__name__} (allowed: a tensor [P])")


def require_integer(name: str, value: int, least: int) -> None:
    """Raise InputError unless the named argument is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}: {value!r} (allowed: an integer, at least {least})")


def parameter_views(model: nn.Module, w: Tensor) -> dict[str, Tensor]:
    """w [P] as views by parameter name; InputError when the model has not P parameters."""
    shapes = parameter_shapes(model)
    count = sum(shape.numel() for shape in shapes.values())
    if w.shape != (count,):
        raise InputError(f"w: has shape {list(w.shape)} (allowed: [{count}], the model's size)")
    if not w.is_floating_point():
        raise InputError(f"w: is of type {_name(w)} (allowed: floats)")
    return unflatten(w, shapes)


@dataclass(frozen=True, eq=False)
class Objective:
    """Mean cross-entropy of `model` in eval mode over a dataset; all tensors on one device.

    Attributes
      model          any module that `fedgloss.train` takes; a copy is used, so the caller's is
                     never changed
      inputs         [N, ...], normalised; or anything with a `transform`
      targets        classes [N] or, for outputs [N, classes, ...], [N, ...], -100 where there is
                     none; or probabilities, floats of the outputs' shape
      batch_size     images per pass; bounds the memory, changes results by rounding only
      transform      applied to each batch of inputs (uint8 -> normalised floats, for example)
      equal_batches  weigh every batch equally, a smaller last one too. False is the mean over
                     labels; True is how the released code averages Hessians (hvp_operator.py)

    Floats are converted to the type of the parameter vector, buffers too: float64 parameters give a
    float64 loss. Integers, tokens for example, reach the model as they are. What a model draws at
    random is the same in every pass. Raises InputError when the data and the model do not fit.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    batch_size: int = 2000
    transform: Callable[[Tensor], Tensor] | None = None
    equal_batches: bool = False
    _batches: list[tuple[int, int, float]] = field(init=False, repr=False)
    """Of each batch that has labels: its first index, how many labels count, and its weight."""
    _layout: torch.memory_format = field(init=False, repr=False)
    _holder: "_Holder" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets) or len(self.targets) == 0:
            raise InputError(
                f"inputs, targets: have {len(self.inputs)} and {len(self.targets)} entries "
                "(allowed: as many of one as of the other, at least 1)"
            )
        require_integer("batch_size", self.batch_size, least=1)
        with torch.inference_mode(False):
            model = copied(self.model)
        model.eval()
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "_holder", _Holder(model))
        # The same numbers up to rounding. The paper's CNN is up to twice as fast with channels
        # last; residual networks are slower, and a user's `x.view(len(x), -1)` would be refused.
        last = self.inputs.device.type == "cpu" and _is_plain(model)
        layout = torch.channels_last if last else torch.contiguous_format
        object.__setattr__(self, "_layout", layout)
        self._try_out()
        object.__setattr__(self, "_batches", self._weighed())

    def loss(self, w: Tensor) -> tuple[float, float]:
        """Loss and accuracy in percent at w [P]; the loss can overflow to inf or NaN far out.

        Where targets are probabilities, a prediction is right if it is the most probable class.
        """
        require_tensor(w)
        with self._arithmetic():
            w = w.clone()  # a model may clamp its parameters
            total = torch.zeros(2, dtype=torch.float64, device=w.device)
            for start, count, weight in self._batches:
                logits, targets = self._at(w, start, partial(self._logits, w, start))
                wanted = targets.argmax(dim=1) if targets.is_floating_point() else targets
                accuracy = 100 * ((logits.argmax(dim=1) == wanted).sum().double() / count)
                total += weight * torch.stack([cross_entropy(logits, targets).double(), accuracy])
        return tuple(total.tolist())

    def gradient(self, w: Tensor) -> Tensor:
        """The loss' gradient at w, [P]."""
        require_tensor(w)
        with self._arithmetic():
            total = torch.zeros_like(w, memory_format=torch.contiguous_format)
            for start, _, weight in self._batches:
                total.add_(self._gradient(w, start, create_graph=False)[1], alpha=weight)
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
        kept, exact = None, self._differentiable_twice
        if exact and len(self._batches) == 1:
            with self._arithmetic(twice=True):
                kept = self._gradient(w, self._batches[0][0], create_graph=True)

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
            for start, _, weight in self._batches:
                # Nothing here names the graph: it is freed before the next batch's is built.
                Hv = self._derivatives(
                    *(kept or self._gradient(w, start, create_graph=True)), rows, start
                )
                total.add_(Hv, alpha=weight)
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
    def _differentiable_twice(self) -> bool:
        """Whether PyTorch has right second derivatives of the model, tried on two samples.

        Raises InputError where it has not, and the model does not compute in float64 either.
        """
        w = flatten(self.model)
        try:
            with self._arithmetic(twice=True):
                point, gradient = self._gradient(w, 0, create_graph=True, size=2)
                if not any(name.endswith(ONCE_ONLY) for name in _operations(gradient)):
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

    def batches(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """The data as the model gets them: inputs [B, ...], floats of this type, and targets."""
        for start in range(0, len(self.targets), self.batch_size):
            yield self._batch(start, self.batch_size, dtype)

    def _weighed(self) -> list[tuple[int, int, float]]:
        """`_batches`, in the order of the data."""
        found = [
            (start, _labels(self.targets[start : start + self.batch_size]))
            for start in range(0, len(self.targets), self.batch_size)
        ]
        found = [(start, count) for start, count in found if count]
        if not found:
            raise InputError(f"targets: are all {IGNORED} (allowed: at least one class)")
        total = sum(count for _, count in found)
        return [
            (start, count, 1 / len(found) if self.equal_batches else count / total)
            for start, count in found
        ]

    def _try_out(self) -> None:
        """Pass two samples through and back (batch normalisation refuses one sample), and look at
        all targets."""
        try:
            with self._arithmetic():
                w = flatten(self.model)
                logits, targets = self._at(w, 0, partial(self._logits, w, 0, 2))
                self._check_classes(logits.shape[1])
                cross_entropy(logits, targets)
        except InputError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            as_they_are = self.transform is None and not self.inputs.is_floating_point()
            hint = "; integers, without a transform, stay what they are" if as_they_are else ""
            raise InputError(
                f"inputs, targets: {_name(self.inputs)} and {_name(self.targets)} do not pass"
                f" through the model and the cross-entropy ({reason(error)}){hint}"
            ) from None
        try:
            with self._arithmetic(), _no_reentrant_checkpoints():
                self._gradient(w, 0, create_graph=False, size=2)
        except RuntimeError as error:
            raise InputError(f"model: cannot be differentiated ({reason(error)})") from None

    def _check_classes(self, classes: int) -> None:
        if self.targets.is_floating_point():
            return
        labels = self.targets.long()
        counted = labels[labels != IGNORED]
        for label in (counted.min(), counted.max()) if len(counted) else ():
            if not 0 <= int(label) < classes:
                raise InputError(
                    f"targets: {int(label)} is not a class of this model (allowed: 0 to"
                    f" {classes - 1}, and {IGNORED} where there is none)"
                )

    def _at(self, w: Tensor, seed: int, compute: Callable[[], T]) -> T:
        """What `compute` returns where the model's parameters are views of w [P].

        Not the forward pass alone has to run in here but each derivative too: what
        torch.utils.checkpoint computes again then would else be of the model's own parameters.
        """
        tensors = parameter_views(self.model, w)
        for name, buffer in self.model.named_buffers():  # copies here too
            dtype = w.dtype if buffer.is_floating_point() else buffer.dtype
            tensors[name] = buffer.to(dtype, copy=True)
        named = {f"model.{name}": tensor for name, tensor in tensors.items()}
        with seeded(seed, w.device):
            return functional_call(self._holder, named, (compute,))

    def _logits(self, w: Tensor, start: int, size: int | None = None) -> tuple[Tensor, Tensor]:
        """The outputs [B, classes, ...] and targets of the batch, or its first `size` samples.

        To be called at w: see `_at`.
        """
        inputs, targets = self._batch(start, size or self.batch_size, w.dtype)
        logits = self.model(inputs)
        if not isinstance(logits, Tensor) or logits.dim() < 2:
            found = _name(logits) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"model: returns {found} (allowed: a tensor [N, classes, ...])")
        return logits.to(w.dtype), targets

    def _batch(self, start: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Inputs and targets of `size` samples; what is float among them, of this type."""
        batch = slice(start, start + size)
        # A copy: neither the model nor the transform can then change the data in place.
        inputs = self.inputs[batch].clone(memory_format=torch.contiguous_format)
        if self.transform is not None:
            inputs = self.transform(inputs)
        if inputs.is_floating_point():
            inputs = inputs.to(dtype)
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=self._layout)
        targets = self.targets[batch]
        kind = dtype if targets.is_floating_point() else torch.int64
        return inputs, targets.to(kind, copy=True)

    @torch.enable_grad()
    def _gradient(
        self, w: Tensor, start: int, create_graph: bool, size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """One batch's gradient [P], and the copy of w [P] that it was taken at."""
        point = w.clone().detach().requires_grad_()

        def gradient() -> Tensor:
            loss = cross_entropy(*self._logits(point, start, size))
            return _derivative(loss, point, create_graph=create_graph)

        return point, self._at(point, start, gradient)

    @torch.enable_grad()
    def _derivatives(self, point: Tensor, gradient: Tensor, rows: Tensor, start: int) -> Tensor:
        """d(gradient . v) / d(point) for every row v of rows [b, P], from a batch's `_gradient`."""

        def derivatives() -> Tensor:
            # A scalar, since passing v as grad_outputs makes PyTorch import SymPy: a second.
            return torch.stack([_derivative(gradient @ v, point, retain_graph=True) for v in rows])

        return self._at(point, start, derivatives)

    @contextlib.contextmanager
    def _arithmetic(self, twice: bool = False) -> Iterator[None]:
        """Full precision, and operations with the derivatives that are needed: `twice`, second.

        Nothing is recorded for them but where it is asked for, whatever mode the caller is in. What
        is computed from must be made in here: a caller's tensors may be of the inference mode.
        """
        mha, cudnn = torch.backends.mha, torch.backends.cudnn
        before = mha.get_fastpath_enabled(), cudnn.enabled
        attention = sdpa_kernel(SDPBackend.MATH) if twice else contextlib.nullcontext()
        try:
            # The fast path has no derivatives, and other outputs where sequences are padded.
            mha.set_fastpath_enabled(False)
            if any(isinstance(module, nn.RNNBase) for module in self.model.modules()):
                cudnn.enabled = False  # it has no derivatives in eval mode, nor second ones
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                full_precision(),
                attention,
                torch.autocast(self.inputs.device.type, enabled=False),
            ):
                yield
        finally:
            mha.set_fastpath_enabled(before[0])
            cudnn.enabled = before[1]


class _Holder(nn.Module):
    """A model's owner: any computation runs where `functional_call` has lent the model tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()


@contextlib.contextmanager
def _no_reentrant_checkpoints() -> Iterator[None]:
    """Raise InputError where a gradient is taken through a checkpoint with use_reentrant=True.

    PyTorch refuses to, or, where a checkpoint's inputs need no gradient, gives zero and warns.
    """
    silent = "None of the inputs have requires_grad=True"
    loud = "When use_reentrant=True", "Checkpointing is not compatible"  # newer and older PyTorch
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=silent)
            yield
    except (UserWarning, RuntimeError) as error:
        if not str(error).startswith((silent, *loud)):
            raise
        raise InputError(
            "model: uses torch.utils.checkpoint with use_reentrant=True, which gives parameters no"
            " gradient here (allowed: use_reentrant=False)"
        ) from None


def _is_plain(model: nn.Module) -> bool:
    """Whether the model is a sequence of PLAIN layers, without hooks or methods of a user's."""
    return type(model) is nn.Sequential and all(
        (module is model or type(module) in PLAIN)
        and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
        for module in model.modules()
    )


def _derivative(value: Tensor, point: Tensor, **options: bool) -> Tensor:
    """d(value) / d(point); zero where the one does not depend on the other."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    return torch.autograd.grad(value, point, materialize_grads=True, **options)[0]


def _labels(targets: Tensor) -> int:
    """How many labels count; a distribution over the classes is one."""
    if targets.is_floating_point():
        return targets[:, 0].numel()
    return int((targets.long() != IGNORED).sum())


def _operations(value: Tensor) -> set[str]:
    """The names of all nodes of a tensor's graph."""
    found, ahead = set(), [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in found:
            found.add(node)
            ahead += [after for after, _ in node.next_functions]
    return {node.name() for node in found}


def _name(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
