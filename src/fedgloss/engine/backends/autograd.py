"""The reference: one client after another, autograd on the user's own module."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedgloss.engine.cohort import Cohort, Counts, Seeds
from fedgloss.engine.flat import parameter_shapes, seeded, unflatten


class AutogradGradients:
    """The gradient of each client's mean loss, for any module and any loss.

    dtype: the model computes in this type, where it is not that of the parameters.
    What model or loss draw at random follows from the rows' seeds.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        dtype: torch.dtype | None = None,
    ) -> None:
        self.differentiated, self.loss, self.dtype = _Differentiated(model, loss), loss, dtype
        self.shapes = parameter_shapes(model)

    draws = True

    def __call__(
        self, W: Tensor, x: Tensor, y: Tensor, counts: Counts, seeds: Seeds = None
    ) -> Tensor:
        """As `cohort.Gradients` says."""
        gradients = torch.zeros_like(W)
        for k, count in enumerate(counts):
            if count:
                with contextlib.nullcontext() if seeds is None else seeded(seeds[k], W.device):
                    gradients[k] = self.gradient(W[k], x[k, :count], y[k, :count])
        return gradients

    @torch.enable_grad()
    def gradient(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Of one client: its parameters w [P] and mini-batch x [B, ...], y [B, ...] -> [P]."""
        w = w.detach().requires_grad_()
        parameters = unflatten(w.to(self.dtype or w.dtype), self.shapes)
        named = {f"model.{name}": parameter for name, parameter in parameters.items()}
        x = x.to(self.dtype) if self.dtype and x.is_floating_point() else x
        return functional_call(self.differentiated, named, (w, x, y))

    def clients_at_once(self, cohort: Cohort) -> int:
        """One: its parameters and gradients then stay in the processor's caches."""
        return 1


class _Differentiated(nn.Module):
    """A model's gradient as a module: what it computes again while it is differentiated, as
    torch.utils.checkpoint does, it then computes with the same parameters."""

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, [loss]  # in a list: the parameters of a loss are not trained

    def forward(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The gradient [P] at w [P], of which the model's parameters now are views."""
        output = self.model(x).to(w.dtype)
        return torch.autograd.grad(self.loss[0](output, y), w)[0]
