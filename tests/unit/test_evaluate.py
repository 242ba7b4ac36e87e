"""Evaluation computes what the model computes, to the last bit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedgloss.engine.evaluate import evaluate
from fedgloss.engine.flat import flatten
from fedgloss.engine.task import Task
from fedgloss.models import build_model

MODELS = {
    "smallcnn": lambda: build_model("smallcnn", (3, 16, 16), 10),
    "cnn": lambda: build_model("cnn", (3, 16, 16), 10),
    "overlapping windows": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), nn.Flatten(),
        nn.Linear(6 * 8 * 8, 10),
    ),
    "a sequence in a sequence": lambda: nn.Sequential(
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 10, 3)), nn.AvgPool2d(6), nn.Flatten()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_loss_is_that_of_calling_the_model(name, layout):
    """Where images lie otherwise in memory, a convolution's last digits are others."""
    model = MODELS[name]()
    x, y = torch.randn(50, 3, 16, 16).contiguous(memory_format=layout), torch.arange(50) % 10
    found = evaluate(Task(model, F.cross_entropy), flatten(model), x, y)
    with torch.no_grad():
        z = model(x)
    assert found["loss"] == float(F.cross_entropy(z, y))
    assert found["accuracy"] == 100 * int((z.argmax(1) == y).sum()) / 50


def test_a_model_with_a_hook_is_called_as_it_is():
    model, seen = MODELS["smallcnn"](), []
    model[1].register_forward_hook(lambda layer, args, out: seen.append(args[0].is_contiguous()))
    x, y = torch.randn(20, 3, 16, 16), torch.arange(20) % 10
    evaluate(Task(model, F.cross_entropy), flatten(model), x, y)
    assert seen == [True]
