"""A model's parameters as one flat vector, and back.

The order is that of `model.parameters()`. Buffers are not part of the vector: no method here
averages running statistics, so models that keep them are refused.
"""

import torch
from torch import Tensor, nn

from fedgloss.errors import InputError


def parameter_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """The shape of each parameter by name, in the order of the flat vector."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def flatten(model: nn.Module) -> Tensor:
    """All parameters as one new vector, shape [P]."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def unflatten(w: Tensor, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Views of a flat vector by parameter name: [..., P] -> {name: [..., *shape]}."""
    pieces = w.split([shape.numel() for shape in shapes.values()], dim=-1)
    return {
        name: piece.unflatten(-1, shape) if shape else piece.squeeze(-1)
        for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
    }


def check_model(model: nn.Module) -> None:
    """Refuse models that no method here can train; raises InputError."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if not dtypes:
        raise InputError("model: has no parameters")
    if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
        raise InputError("model: all parameters must have one floating-point type")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if frozen:
        raise InputError(f"model: parameter {frozen[0]!r} is frozen; all parameters are trained")
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p and module.training:
            raise InputError(
                f"model: layer {name!r} is active dropout, whose draws would depend on the order of"
                " the clients; set p=0 or call model.eval()"
            )
        if getattr(module, "track_running_stats", False):
            raise InputError(
                f"model: layer {name!r} ({type(module).__name__}) keeps running statistics,"
                " which cannot be averaged; use GroupNorm"
            )
