"""How sharpness is computed: in full precision, and with operations that have the derivatives."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedgloss.engine import switches
from fedgloss.errors import InputError

T = TypeVar("T")

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


@contextlib.contextmanager
def arithmetic(model: nn.Module, device: torch.device, twice: bool) -> Iterator[None]:
    """Full precision, and operations with the derivatives that are needed: `twice`, second.

    Nothing is recorded for them but where it is asked for, whatever mode the caller is in. What is
    computed from must be made in here: a caller's tensors may be of the inference mode.
    """
    mha, cudnn = torch.backends.mha, torch.backends.cudnn
    before = mha.get_fastpath_enabled(), cudnn.enabled
    attention = sdpa_kernel(SDPBackend.MATH) if twice else contextlib.nullcontext()
    try:
        # The fast path has no derivatives, and other outputs where sequences are padded.
        mha.set_fastpath_enabled(False)
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            cudnn.enabled = False  # it has no derivatives in eval mode, nor second ones
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            full_precision(),
            attention,
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        mha.set_fastpath_enabled(before[0])
        cudnn.enabled = before[1]


class Holder(nn.Module):
    """A model's and a loss' owner: computes where `functional_call` has lent them its tensors."""

    def __init__(self, model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()


@contextlib.contextmanager
def no_reentrant_checkpoints() -> Iterator[None]:
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


def derivative(
    value: Tensor, point: Tensor, create_graph: bool = False, retain_graph: bool | None = None
) -> Tensor:
    """d(value) / d(point); zero where the one does not depend on the other."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    return torch.autograd.grad(
        value,
        point,
        create_graph=create_graph,
        retain_graph=retain_graph,
        materialize_grads=True,
    )[0]


def differentiable_once_only(value: Tensor) -> bool:
    """Whether a gradient's graph has an operation without a right derivative of its own."""
    found, ahead = set(), [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in found:
            found.add(node)
            ahead += [after for after, _ in node.next_functions]
    return any(node.name().endswith(ONCE_ONLY) for node in found)
