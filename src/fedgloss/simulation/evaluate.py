"""The loss and the accuracy of a flat model on a data set."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedgloss.simulation.clients import Pipeline
from fedgloss.simulation.flat import parameter_shapes, unflatten


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    w: Tensor,
    inputs: Tensor,
    targets: Tensor,
    pipeline: Pipeline | None = None,
    batch_size: int = 2000,
) -> dict[str, float]:
    """`loss` (mean over samples) and, where targets are class indices, `accuracy` in percent."""
    parameters = unflatten(w, parameter_shapes(model))
    classes = not targets.is_floating_point() and targets.ndim == 1
    total_loss = torch.zeros((), dtype=torch.float64, device=w.device)
    correct = torch.zeros((), dtype=torch.int64, device=w.device)
    for x, y in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
        x = x.to(w.device, non_blocking=True)
        y = y.to(w.device, non_blocking=True)
        x = x if pipeline is None else pipeline(x, None, w.dtype)
        output = functional_call(model, parameters, (x,))
        total_loss += loss(output, y).double() * len(x)
        if classes and output.ndim == 2:
            correct += (output.argmax(dim=1) == y).sum()
    result = {"loss": float(total_loss) / len(inputs)}
    if classes and output.ndim == 2:
        result = {"accuracy": 100 * int(correct) / len(inputs), **result}
    return result
