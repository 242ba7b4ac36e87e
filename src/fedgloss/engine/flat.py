"""A model's parameters as one flat vector, and back.

The order is that of `model.parameters()`. Buffers are not part of the vector: no method here
averages running statistics, so models that keep them are refused.
"""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedgloss.errors import InputError, reason

WRAPPERS = (
    "DataParallel",
    "DistributedDataParallel",
    "OptimizedModule",
    "FullyShardedDataParallel",
)
"""Classes around a model, which spread or compile what the engine here does itself."""


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
    check_parameters(model)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if frozen:
        raise InputError(f"model: parameter {frozen[0]!r} is frozen; all parameters are trained")
    for name, module in model.named_modules():
        if getattr(module, "track_running_stats", False):
            raise InputError(
                f"model: layer {name!r} ({type(module).__name__}) keeps running statistics,"
                " which cannot be averaged; use GroupNorm"
            )


def check_parameters(model: nn.Module) -> None:
    """Refuse models whose parameters are not one flat vector of numbers; raises InputError."""
    if isinstance(model, type):
        raise InputError(f"model: is a class; give an instance: {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise InputError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if type(model).__name__ in WRAPPERS or isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"model: is a {type(model).__name__}; give the plain module inside")
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        if nn.parameter.is_lazy(parameter):
            raise InputError(
                f"model: {name!r} of a lazy layer has no values yet; pass a mini-batch through"
                " the model first"
            )
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if not dtypes:
        raise InputError("model: has no parameters")
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise InputError(
            f"model: has parameters of type {found}; all must be float32, or all float64"
        )
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1 or "meta" in devices:
        raise InputError(f"model: has parameters on {', '.join(sorted(devices))}; use one device")
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter.detach()).all():  # one of the inference mode, too
            raise InputError(f"model: parameter {name!r} has NaN or infinite entries")
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise InputError(
                f"model: parameter {name!r} has a hook, which the gradients here do not pass by;"
                " hooks of modules are kept"
            )


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model; InputError for one that cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever the attributes of a user's module raise
        raise InputError(f"model: cannot be copied ({reason(error)})") from None


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What the block draws at random follows from `seed`, and moves no global generator."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
