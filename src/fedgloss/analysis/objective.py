"""The mean loss of a model on a dataset, as a function of one flat parameter vector."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from fedgloss.errors import InputError
from fedgloss.simulation import switches
from fedgloss.simulation.flat import parameter_shapes, unflatten


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
    """Raise InputError unless every entry of w is finite."""
    if not bool(torch.isfinite(w).all()):
        raise InputError("w: has NaN or infinite entries (allowed: finite parameters)")


def parameter_views(model: nn.Module, w: Tensor) -> dict[str, Tensor]:
    """w [P] as views by parameter name; InputError when the model has not P parameters."""
    shapes = parameter_shapes(model)
    count = sum(shape.numel() for shape in shapes.values())
    if w.shape != (count,):
        raise InputError(f"w: has shape {list(w.shape)} (allowed: [{count}], the model's size)")
    return unflatten(w, shapes)


@dataclass(frozen=True, eq=False)
class Objective:
    """Mean cross-entropy of `model` in eval mode over a dataset; all tensors on one device.

    Attributes
      model          any module; a copy is used, so the caller's is never changed
      inputs         [N, ...]: floating point, normalised; or anything else with a `transform`
      targets        int64 [N]
      batch_size     images per pass; bounds the memory, changes results by rounding only
      transform      applied to each batch of inputs (uint8 -> normalised floats, for example)
      equal_batches  weigh every batch equally, a smaller last one too. False is the mean over
                     images; True is how the released code averages Hessians (hvp_operator.py)

    Data are converted to the dtype of the parameter vector: float64 parameters give a float64 loss.
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    batch_size: int = 2000
    transform: Callable[[Tensor], Tensor] | None = None
    equal_batches: bool = False

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets) or len(self.targets) == 0:
            raise InputError(
                f"inputs, targets: have {len(self.inputs)} and {len(self.targets)} entries "
                "(allowed: as many of one as of the other, at least 1)"
            )
        if self.batch_size < 1:
            raise InputError(f"batch_size: {self.batch_size} (allowed: at least 1)")
        if self.transform is None and not self.inputs.is_floating_point():
            raise InputError(f"inputs: {self.inputs.dtype} needs a transform (allowed: floats)")
        object.__setattr__(self, "model", copy.deepcopy(self.model).eval())

    @full_precision()
    @torch.no_grad()
    def loss(self, w: Tensor) -> tuple[float, float]:
        """Loss and accuracy in percent at w [P]; the loss can overflow to inf or NaN far out."""
        total = torch.zeros(2, dtype=torch.float64, device=w.device)
        for start, weight in self._batches():
            logits, targets = self._logits(w, start)
            accuracy = 100 * (logits.argmax(dim=1) == targets).double().mean()
            total += weight * torch.stack([cross_entropy(logits, targets).double(), accuracy])
        return tuple(total.tolist())

    @full_precision()
    def gradient(self, w: Tensor) -> Tensor:
        """The loss' gradient at w, [P]."""
        total = torch.zeros_like(w)
        for start, weight in self._batches():
            total.add_(self._gradient(w, start, create_graph=False)[1], alpha=weight)
        return total

    def hessian_vector(self, w: Tensor, V: Tensor) -> Tensor:
        """The loss' Hessian at w times V, for V [P] or a block of rows [b, P]."""
        return self.hessian(w)(V)

    @full_precision()
    def hessian(self, w: Tensor) -> Callable[[Tensor], Tensor]:
        """The map V -> H V at w, exact, for V [P] or a block of rows [b, P].

        A product differentiates the gradient once more, backwards: right for max-pooling and ReLU
        networks (the Hessian of the piece w lies on), and measured faster than, or as fast as,
        forward over backward and its vmap.
        """
        # With a single batch the gradient's graph, which a product needs in memory anyway, is
        # built once and kept: a product then takes half the time.
        kept = None
        if len(self.targets) <= self.batch_size:
            kept = self._gradient(w, 0, create_graph=True)

        @full_precision()
        def product(V: Tensor) -> Tensor:
            rows = V.reshape(-1, len(w))
            total = torch.zeros_like(rows)
            for start, weight in self._batches():
                # Nothing here names the graph: it is freed before the next batch's is built.
                Hv = _derivatives(*(kept or self._gradient(w, start, create_graph=True)), rows)
                total.add_(Hv, alpha=weight)
            return total.view_as(V)

        return product

    def _batches(self) -> Iterator[tuple[int, float]]:
        """The first index and the weight of each batch, in the order of the data."""
        size = len(self.targets)
        starts = range(0, size, self.batch_size)
        for start in starts:
            share = min(self.batch_size, size - start) / size
            yield start, 1 / len(starts) if self.equal_batches else share

    def _logits(self, w: Tensor, start: int) -> tuple[Tensor, Tensor]:
        batch = slice(start, start + self.batch_size)
        inputs = self.inputs[batch]
        if self.transform is not None:
            inputs = self.transform(inputs)
        if inputs.dim() == 4 and inputs.device.type == "cpu":
            # The same numbers up to rounding; the paper's CNN is up to twice as fast this way.
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        logits = functional_call(self.model, parameter_views(self.model, w), inputs.to(w.dtype))
        return logits, self.targets[batch]

    def _gradient(self, w: Tensor, start: int, create_graph: bool) -> tuple[Tensor, Tensor]:
        """One batch's gradient [P], and the copy of w [P] that it was taken at."""
        point = w.detach().clone().requires_grad_()
        loss = cross_entropy(*self._logits(point, start))
        (gradient,) = torch.autograd.grad(loss, point, create_graph=create_graph)
        return point, gradient


def _derivatives(point: Tensor, gradient: Tensor, rows: Tensor) -> Tensor:
    """d(gradient . v) / d(point) for every row v of rows [b, P]."""
    # A scalar, since passing v as grad_outputs makes PyTorch import SymPy, which takes a second.
    return torch.stack(
        [torch.autograd.grad(gradient @ v, point, retain_graph=True)[0] for v in rows]
    )
