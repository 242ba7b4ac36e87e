"""The reference: one client after another, autograd on the user's own module."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedgloss.simulation.cohort import Cohort, Counts, Seeds
from fedgloss.simulation.flat import parameter_shapes, unflatten


class LoopGradients:
    """The gradient of each client's mean loss, for any module and any loss.

    dtype: the model computes in this type, where it is not that of the parameters.
    draws: the model draws random numbers itself; each row's then follow from its seed.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        dtype: torch.dtype | None = None,
        draws: bool = False,
    ) -> None:
        self.model, self.loss, self.dtype, self.draws = model, loss, dtype, draws
        self.shapes = parameter_shapes(model)

    def __call__(
        self, W: Tensor, x: Tensor, y: Tensor, counts: Counts, seeds: Seeds = None
    ) -> Tensor:
        """As `cohort.Gradients` says."""
        gradients = torch.zeros_like(W)
        for k, count in enumerate(counts):
            if count:
                with contextlib.nullcontext() if seeds is None else seeded(seeds[k], W.device):
                    gradients[k] = self._gradient(W[k], x[k, :count], y[k, :count])
        return gradients

    @torch.enable_grad()
    def _gradient(self, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
        w = w.detach().requires_grad_()
        parameters = unflatten(w.to(self.dtype or w.dtype), self.shapes)
        x = x.to(self.dtype) if self.dtype and x.is_floating_point() else x
        output = functional_call(self.model, parameters, (x,)).to(w.dtype)
        return torch.autograd.grad(self.loss(output, y), w)[0]

    def clients_at_once(self, cohort: Cohort) -> int:
        """One: its parameters and gradients then stay in the processor's caches."""
        return 1


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's random numbers follow from `seed` in the block, and are unaffected by it after."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
