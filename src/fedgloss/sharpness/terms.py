"""The loss as other packages take one: a module that has parameters, batches, and a criterion."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedgloss.errors import InputError
from fedgloss.sharpness.krylov import Watch
from fedgloss.sharpness.objective import Objective


class Terms(nn.Module):
    """An objective as a module of one parameter, w [P]: from a batch's number to its loss.

    The mean over the batches is the objective's loss, however unequal they are, and `shift` adds
    to every eigenvalue of its Hessian. `criterion` is what such packages want beside a module.
    """

    def __init__(self, objective: Objective, w: Tensor) -> None:
        super().__init__()
        self.objective, self.shift = objective, 0.0
        self.w = nn.Parameter(w.detach().clone())

    def forward(self, number: Tensor) -> Tensor:
        """The loss of one batch, whose number is the one entry of a tensor [1]."""
        loss = len(self.objective) * self.objective.term(self.w, int(number))
        return loss + self.shift / 2 * (self.w @ self.w) if self.shift else loss


class Criterion(nn.Module):
    """The loss has been computed already."""

    reduction = "mean"

    def forward(self, loss: Tensor, _: Tensor) -> Tensor:
        return loss


class Batches:
    """The numbers of an objective's batches, [1] each, and how often they were gone through."""

    def __init__(self, objective: Objective, watch: Watch) -> None:
        self.count, self.watch, self.passes = len(objective), watch, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(self.count):
            yield torch.tensor([number]), torch.zeros(1)
        self.passes += 1
        self.watch(self.passes, "")


def require_second_derivatives(objective: Objective, method: str) -> None:
    """Raise InputError for a model that PyTorch differentiates once only, or wrongly."""
    if not objective.differentiable_twice:
        raise InputError(
            f"method: {method} cannot differentiate this model twice (allowed for it: lanczos)"
        )
