"""Convolutions of K models by cuDNN, each model's in a stream of its own.

These are many kernels, none of which fills a GPU: worth it where a graph launches them.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fedgloss.engine.backends.abreast import abreast
from fedgloss.engine.backends.images import channels_first, channels_last, convolution_backward

CHANNELS = 4
"""Tensor cores multiply float32 images whose channels are a multiple of this."""


class SideBySide:
    """What `OneByOne` computes. What can be done for all models by one kernel is."""

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """[K, B, H, W, C] -> [K, B, H', W', O], and what the backward pass needs."""
        weight = weight.permute(0, 1, 3, 4, 2)  # the images' order
        if extra := -weight.shape[-1] % CHANNELS:
            x, weight = F.pad(x, (0, extra)), F.pad(weight, (0, extra))
        x, weight = x.contiguous(), weight.contiguous().permute(0, 1, 4, 2, 3)
        K, B, H, W, _ = x.shape
        smaller = 2 * self.padding - weight.shape[-1] + 1
        y = x.new_empty(K, B, H + smaller, W + smaller, weight.shape[1])

        def convolve(k: int) -> None:
            outputs = F.conv2d(channels_first(x[k]), weight[k], padding=self.padding)
            torch.add(channels_last(outputs), bias[k], out=y[k])

        abreast([partial(convolve, k) for k in range(K)], x.device)
        return y, (x, weight)

    def backward(self, d, saved, weight, weight_gradient, bias_gradient, need_input):
        (x, weight), d = saved, d.contiguous()
        if bias_gradient is not None:
            torch.sum(d, (1, 2, 3), out=bias_gradient)
        C = weight_gradient.shape[2]
        of_inputs = torch.empty_like(x) if need_input else None

        def differentiate(k: int) -> None:
            of_input, of_weight, _ = convolution_backward(
                channels_first(d[k]), channels_first(x[k]), weight[k], self.padding, 1,
                [need_input, True, False],
            )  # fmt: skip
            weight_gradient[k] = of_weight[:, :C]
            if of_inputs is not None:
                of_inputs[k] = channels_last(of_input)

        abreast([partial(differentiate, k) for k in range(len(x))], x.device)
        return of_inputs[..., :C] if of_inputs is not None else None
