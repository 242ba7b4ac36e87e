"""The paper's models by name, and a user's own by import path.

No model has BatchNorm: the federated state is the parameters alone, and running statistics would
be neither averaged nor perturbed.
"""

import inspect
from collections.abc import Callable
from pathlib import Path

from torch import nn

from fedgloss.errors import OWN_ERRORS, InputError, cause, from_path

Shape = tuple[int, int, int]  # channels, height, width of one image
MODELS = ("smallcnn", "cnn", "resnet18", "resnet18-cifar", "mobilenetv2")


def build_model(name: str, shape: Shape, classes: int, weights: Path | None = None) -> nn.Module:
    """A model for images of `shape` and `classes` classes, initialised from torch's generator.

    name     one of MODELS, or "package.module:function", called as function(shape, classes)
    weights  a safetensors file of this model's parameters by name (see `weights.read`)
    Raises InputError for an unknown name, images too small for the model, or wrong weights.
    """
    construct = constructor(name)
    try:
        model = construct(shape, classes)
    except InputError as error:
        raise InputError(f"model {name}: {error}") from None
    except OWN_ERRORS as error:
        raise InputError(
            f"model {name}: cannot be built for images of shape {shape} and {classes} classes"
            f" ({cause(error)})"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model {name}: returned {type(model).__name__}, not a torch.nn.Module")
    buffers = [key for key, _ in model.named_buffers()]
    if buffers:
        raise InputError(
            f"model {name}: has the buffer {buffers[0]!r}; only parameters are federated, "
            "so use GroupNorm in place of BatchNorm"
        )
    if weights is not None:
        from fedgloss.models.weights import read

        read(model, Path(weights))
    return model


def constructor(name: str) -> Callable[[Shape, int], nn.Module]:
    """The function behind a model's name or import path; InputError if there is none."""
    # Imported one by one: the small models must not pay for importing torchvision.
    if name in ("smallcnn", "cnn"):
        from fedgloss.models import cnn

        return getattr(cnn, name)
    if name in MODELS:
        from fedgloss.models import torchvision_models

        return getattr(torchvision_models, name.replace("-", "_"))
    if not name.partition(":")[2]:
        allowed = ", ".join(MODELS)
        raise InputError(
            f"model: {name!r} is unknown (allowed: {allowed}, package.module:function)"
        )
    try:
        found = from_path(name)
    except OWN_ERRORS as error:
        raise InputError(f"model {name}: cannot be imported ({cause(error)})") from None
    try:
        inspect.signature(found).bind((), 0)
    except (TypeError, ValueError):
        raise InputError(f"model {name}: is not a function of (shape, classes)") from None
    return found
