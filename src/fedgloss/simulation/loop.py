"""The reference: one client after another, autograd on the user's own module."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedgloss.simulation.cohort import Cohort, Counts
from fedgloss.simulation.flat import parameter_shapes, unflatten


class LoopGradients:
    """The gradient of each client's mean loss, for any module and any loss.

    dtype: the model computes in this type, where it is not that of the parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.loss, self.dtype = model, loss, dtype
        self.shapes = parameter_shapes(model)

    def __call__(self, W: Tensor, x: Tensor, y: Tensor, counts: Counts) -> Tensor:
        """As `cohort.Gradients` says."""
        gradients = torch.zeros_like(W)
        for k, count in enumerate(counts):
            if count:
                w = W[k].detach().requires_grad_()
                parameters = unflatten(w.to(self.dtype or w.dtype), self.shapes)
                inputs = x[k, :count].to(self.dtype or x.dtype)
                output = functional_call(self.model, parameters, (inputs,)).to(W.dtype)
                gradients[k] = torch.autograd.grad(self.loss(output, y[k, :count]), w)[0]
        return gradients

    def clients_at_once(self, cohort: Cohort) -> int:
        """One: its parameters and gradients then stay in the processor's caches."""
        return 1
