"""Pretrained weights from a safetensors file."""

from pathlib import Path

import torch
from torch import nn

from fedgloss.errors import InputError
from fedgloss.tensors import load_tensors


def read(model: nn.Module, file: Path) -> None:
    """Copy the file's tensors into the parameters of the same names.

    The last layer may differ in its number of classes; it then keeps its initial values, so that
    weights trained on other classes can be used. Anything else that is missing, unknown or of
    another shape is an InputError.
    """
    tensors = load_tensors(file)
    parameters = dict(model.named_parameters())
    head = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    for name in tensors:
        if name not in parameters:
            raise InputError(f"{file}: tensor {name!r} is not a parameter of the model")
    for name, parameter in parameters.items():
        if name not in tensors:
            raise InputError(f"{file}: has no tensor {name!r}")
        found, expected = tuple(tensors[name].shape), tuple(parameter.shape)
        if found == expected:
            with torch.no_grad():
                parameter.copy_(tensors[name])
        elif not (name.rpartition(".")[0] in head and found[1:] == expected[1:]):
            raise InputError(f"{file}: tensor {name!r} has shape {found}, expected {expected}")
