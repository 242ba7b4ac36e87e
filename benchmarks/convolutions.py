"""The ways to convolve the images of K clients, each with its own kernel, against each other."""

import torch
import torch.nn.functional as F
from measure import best, table
from torch import Tensor

from fedgloss.engine.backends.convolution import Filtered, OneByOne, Patches
from fedgloss.engine.backends.cudnn import SideBySide

K, B = 5, 64
LAYERS = {
    "cnn, 3 -> 64, 32 x 32": (3, 64, 32, 5, 0),
    "cnn, 64 -> 64, 14 x 14": (64, 64, 14, 5, 0),
    "smallcnn, 1 -> 16, 8 x 8": (1, 16, 8, 3, 1),
    "smallcnn, 16 -> 32, 4 x 4": (16, 32, 4, 3, 1),
}


class Grouped:
    """One convolution with a group for each client."""

    def __init__(self, padding: int) -> None:
        self.padding = [padding] * 2

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        x = x.permute(1, 0, 4, 2, 3).flatten(1, 2)
        y = F.conv2d(
            x, weight.flatten(0, 1), bias.flatten(), padding=self.padding, groups=len(weight)
        )
        return y.unflatten(1, weight.shape[:2]).permute(1, 0, 3, 4, 2), x

    def backward(self, d, x, weight, weight_gradient, bias_gradient, need_input):
        d = d.permute(1, 0, 4, 2, 3).flatten(1, 2)
        w, one, none = weight.flatten(0, 1), [1, 1], [0, 0]
        x_gradient, w_gradient, b_gradient = torch.ops.aten.convolution_backward(
            d, x, w, [len(w)], one, self.padding, one, False, none, len(weight),
            [need_input, True, True],
        )  # fmt: skip
        weight_gradient.copy_(w_gradient.view_as(weight))
        bias_gradient.copy_(b_gradient.view_as(bias_gradient))
        if need_input:
            return x_gradient.unflatten(1, (len(weight), -1)).permute(1, 0, 3, 4, 2)
        return None


def convolutions(device, repeats: int) -> dict[str, float]:
    """Forward and backward passes of each layer by each way; 5 clients, batch 64."""
    rows, seconds = [], {}
    for layer, (C, O, side, kernel, padding) in LAYERS.items():  # noqa: E741
        x = torch.randn(K, B, side, side, C, device=device)
        weight = torch.randn(K, O, C, kernel, kernel, device=device)
        bias = torch.randn(K, O, device=device)
        gradients = torch.empty_like(weight), torch.empty_like(bias)
        ways = {
            "one by one": OneByOne(padding),
            "side by side": SideBySide(padding),
            "patches": Patches(kernel, padding),
            "grouped": Grouped(padding),
        }
        if min(C, O) >= 32:
            ways["filtered"] = Filtered(kernel, padding, 5)

        def run(way, inputs=(x, weight, bias), gradients=gradients, need_input=C > 3):
            y, saved = way.forward(*inputs)
            way.backward(y, saved, inputs[1], *gradients, need_input)

        tasks = {name: lambda way=way, run=run: run(way) for name, way in ways.items()}
        found = best(tasks, 2 * repeats)
        for name, value in found.items():
            rows.append([layer, name, f"{1e3 * value:.2f}", f"{value / found['one by one']:.2f}"])
            seconds[f"{layer}, {name}"] = value
    table("Convolutions of 5 clients", ["layer", "way", "ms", "to one by one"], rows)
    return seconds
