"""The gradients of K models at once, on [K, P] parameters, without autograd.

A sequential network of common layers is differentiated by hand: every layer has a forward and a
backward pass on stacked tensors, and writes its parameters' gradient straight into the flat [K, P]
result. Images are channels-last, [K, B, H, W, C], from the first layer to the last, so that nothing
is transposed in between.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedgloss.engine.backends.convolution import Convolution
from fedgloss.engine.backends.images import channels_first, channels_last
from fedgloss.engine.cohort import Cohort, Counts, Seeds
from fedgloss.engine.flat import parameter_shapes, unflatten
from fedgloss.engine.losses import is_cross_entropy
from fedgloss.errors import InputError

aten = torch.ops.aten
CACHED_BYTES = 16 * 2**20
"""Activations of one layer beyond this leave a processor's caches, and the memory allocator's too:
then fewer clients at once are faster."""


class Linear:
    """A fully connected layer."""

    def __init__(self, layer: nn.Linear, prefix: str) -> None:
        self.weight, self.bias = f"{prefix}.weight", layer.bias is not None and f"{prefix}.bias"

    def forward(self, x: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """[K, B, I] -> [K, B, O]."""
        weight = parameters[self.weight].transpose(1, 2)
        if self.bias:
            return torch.baddbmm(parameters[self.bias][:, None], x, weight), x
        return torch.bmm(x, weight), x

    def backward(self, d, x, parameters, gradients, need_input) -> Tensor | None:
        # A matrix product cannot write into the strided rows of the flat gradient of one layer.
        gradients[self.weight].copy_(torch.bmm(d.transpose(1, 2), x))
        if self.bias:
            torch.sum(d, 1, out=gradients[self.bias])
        return torch.bmm(d, parameters[self.weight]) if need_input else None


class MaxPool:
    """Non-overlapping max-pooling; the first of equal values takes the gradient, as in PyTorch."""

    def __init__(self, layer: nn.MaxPool2d, prefix: str) -> None:
        self.size = _pair(layer.kernel_size)

    def forward(self, x: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """[K, B, H, W, C] -> [K, B, H / size, W / size, C]."""
        flat = channels_first(x.flatten(0, 1))
        y, indices = aten.max_pool2d_with_indices(flat, self.size)
        return channels_last(y).unflatten(0, x.shape[:2]), (flat, indices)

    def backward(self, d, saved, parameters, gradients, need_input) -> Tensor | None:
        if not need_input:
            return None
        x, indices = saved
        d, stacked = channels_first(d.flatten(0, 1)), d.shape[:2]
        d = aten.max_pool2d_with_indices_backward(
            d, x, self.size, self.size, [0, 0], [1, 1], False, indices
        )
        return channels_last(d).unflatten(0, stacked)


class ReLU:
    """max(x, 0)."""

    def __init__(self, layer: nn.ReLU, prefix: str) -> None:
        pass

    def forward(self, x: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Any]:
        y = x.relu()
        return y, y

    def backward(self, d, y, parameters, gradients, need_input) -> Tensor | None:
        return aten.threshold_backward(d, y, 0) if need_input else None


class Flatten:
    """One row of features; an image's in the order channel, row, column, as PyTorch's."""

    def __init__(self, layer: nn.Flatten, prefix: str) -> None:
        pass

    def forward(self, x: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Any]:
        """[K, B, H, W, C] -> [K, B, C * H * W]."""
        return (x.permute(0, 1, 4, 2, 3) if x.ndim == 5 else x).flatten(2), x.shape

    def backward(self, d, shape, parameters, gradients, need_input) -> Tensor | None:
        if len(shape) < 5 or not need_input:
            return d.view(shape) if need_input else None
        K, B, H, W, C = shape
        return d.view(K, B, C, H, W).permute(0, 1, 3, 4, 2)


def _pair(size: int | Sequence[int]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


def _plain_linear(layer: nn.Linear) -> bool:
    return layer.weight.shape == (layer.out_features, layer.in_features) and layer.out_features > 0


def _plain_convolution(layer: nn.Conv2d) -> bool:
    k, p = layer.kernel_size, layer.padding
    return (
        isinstance(p, tuple)
        and layer.weight.shape == (layer.out_channels, layer.in_channels, *k)
        and k[0] == k[1]
        and p[0] == p[1]
        and layer.stride == (1, 1)
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
    )


def _plain_pooling(layer: nn.MaxPool2d) -> bool:
    return (
        _pair(layer.kernel_size) == _pair(layer.stride)
        and _pair(layer.padding) == [0, 0]
        and _pair(layer.dilation) == [1, 1]
        and not layer.ceil_mode
        and not layer.return_indices
    )


LAYERS: dict[type, tuple[type, Callable[[Any], bool]]] = {
    nn.Conv2d: (Convolution, _plain_convolution),
    nn.Linear: (Linear, _plain_linear),
    nn.MaxPool2d: (MaxPool, _plain_pooling),
    nn.ReLU: (ReLU, lambda layer: True),
    nn.Flatten: (Flatten, lambda layer: (layer.start_dim, layer.end_dim) == (1, -1)),
}
RANKS = {nn.Conv2d: 3, nn.MaxPool2d: 3, nn.Linear: 1}
"""The number of dimensions of a sample, where a layer here is written for one."""


def can_stack(model: nn.Module, sample: Sequence[int]) -> bool:
    """Whether this file certainly computes what the model does to samples of this shape."""
    rank = len(sample)
    for layer in (layers := plain_layers(model)):
        kind = type(layer)
        known = kind in LAYERS and LAYERS[kind][1](layer)
        if not known or rank != RANKS.get(kind, rank) or not 1 <= rank <= 3:
            return False
        rank = 1 if kind is nn.Flatten else rank
    return bool(layers)


def plain_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a sequence that types and numbers of layers say everything about, else [].

    Whatever else could change the computation rules a model out: a layer used twice, a weight in
    two layers or in none, hooks, a forward of its own.
    """
    if type(model) is not nn.Sequential:
        return []
    layers = list(model)
    used = [id(parameter) for layer in layers for parameter in layer.parameters()]
    own = {id(parameter) for parameter in model.parameters()}
    once = len({*map(id, layers)}) == len(layers) and len(used) == len(own) and {*used} == own
    return layers if once and all(map(_is_untouched, [model, *layers])) else []


def _is_untouched(module: nn.Module) -> bool:
    """Whether calling it runs what its class says, and no more."""
    every = torch.nn.modules.module
    hooks = (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
        every._global_forward_pre_hooks,
        every._global_forward_hooks,
        every._global_backward_pre_hooks,
        every._global_backward_hooks,
    )
    parts = module._modules if type(module) is not nn.Sequential else {}
    return not any(hooks) and not parts and "forward" not in vars(module)


class StackedGradients:
    """The gradients of K copies of a sequential model, each on its own mini-batch.

    dtype: the model computes in this type, where it is not that of the parameters. by_graph: its
    kernels are launched by a graph.
    """

    def __init__(
        self,
        model: nn.Sequential,
        loss: Callable[[Tensor, Tensor], Tensor],
        dtype: torch.dtype | None = None,
        by_graph: bool = False,
    ) -> None:
        self.loss, self.dtype, self.shapes = loss, dtype, parameter_shapes(model)
        self.widest: dict[torch.Size, int] = {}
        self.layers = [
            LAYERS[type(layer)][0](layer, prefix) for prefix, layer in model.named_children()
        ]
        for layer in self.layers:
            if isinstance(layer, Convolution):
                layer.launched_by_graph = by_graph

    @torch.no_grad()
    def __call__(
        self, W: Tensor, x: Tensor, y: Tensor, counts: Counts, seeds: Seeds = None
    ) -> Tensor:
        """As `cohort.Gradients` says."""
        if self.dtype:
            W, x, wanted = W.to(self.dtype), x.to(self.dtype), W.dtype
            return self._gradients(W, x, y, counts).to(wanted)
        return self._gradients(W, x, y, counts)

    def _gradients(self, W: Tensor, x: Tensor, y: Tensor, counts: Counts) -> Tensor:
        """Rows with mini-batches of one size together, whatever others there are.

        Filled up to the largest, a mini-batch would be summed in another order, and its gradient
        have other last digits than alone.
        """
        if isinstance(counts, Tensor) or set(counts) == {x.shape[1]}:
            return self._of_one_size(W, x, y, counts)
        result = torch.zeros_like(W)
        for size in sorted({count for count in counts if count}):
            rows = [k for k, count in enumerate(counts) if count == size]
            inputs, targets = x[rows, :size], y[rows, :size]
            result[rows] = self._of_one_size(W[rows], inputs, targets, [size] * len(rows))
        return result

    def _of_one_size(self, W: Tensor, x: Tensor, y: Tensor, counts: Counts) -> Tensor:
        result = torch.empty_like(W)
        together = self._rows_at_once(x)
        for k in range(0, len(W), together):
            part = slice(k, k + together)
            self._differentiate(W[part], x[part], y[part], counts[part], result[part])
        return result

    def clients_at_once(self, cohort: Cohort) -> int:
        """As many as fit the caches together; on a GPU all."""
        return self._rows_at_once(cohort.batch(0).inputs)

    def _rows_at_once(self, x: Tensor) -> int:
        if x.is_cuda:
            return len(x)
        if x.shape[2:] not in self.widest:
            self.widest[x.shape[2:]] = self._widest_layer(x[:1, :1])
        activations = x.shape[1] * self.widest[x.shape[2:]] * x.element_size()
        return max(1, CACHED_BYTES // activations)

    def _widest_layer(self, x: Tensor) -> int:
        """The largest number of activations between two layers, for one sample."""
        parameters = x.new_zeros(1, sum(shape.numel() for shape in self.shapes.values()))
        h, sizes = x.permute(0, 1, 3, 4, 2) if x.ndim == 5 else x, []
        for layer in self.layers:
            h, _ = layer.forward(h, unflatten(parameters, self.shapes))
            sizes.append(h.numel())
        return max(sizes)

    def _differentiate(
        self, W: Tensor, x: Tensor, y: Tensor, counts: Counts, result: Tensor
    ) -> None:
        parameters = unflatten(W, self.shapes)
        gradients = unflatten(result, self.shapes)
        h, saved = x.permute(0, 1, 3, 4, 2) if x.ndim == 5 else x, []
        for layer in self.layers:
            h, kept = layer.forward(h, parameters)
            saved.append(kept)
        z = h.float() if self.dtype else h  # the loss is never of less than single precision
        if z.ndim == 5:  # a network that ends in images: its loss sees channels first
            d = self._output_gradient(z.permute(0, 1, 4, 2, 3), y, counts).permute(0, 1, 3, 4, 2)
        else:
            d = self._output_gradient(z, y, counts)
        d = d.to(h.dtype)
        for i in reversed(range(len(self.layers))):
            d = self.layers[i].backward(d, saved[i], parameters, gradients, need_input=i > 0)

    def _output_gradient(self, z: Tensor, y: Tensor, counts: Counts) -> Tensor:
        """The gradient of each client's mean loss with respect to its outputs, zero past counts."""
        on_device = isinstance(counts, Tensor)
        full = not on_device and all(count == z.shape[1] for count in counts)
        if is_cross_entropy(self.loss) and z.ndim == 3 and y.dtype == torch.int64:
            d = torch.softmax(z, dim=-1)
            d.scatter_add_(-1, y[..., None], d.new_full((1,), -1.0).expand(*y.shape, 1))
            if full:
                return d.div_(z.shape[1])
            # Divided, not multiplied by the inverse: the bits of a mini-batch of this size alone.
            counts = torch.as_tensor(counts, device=d.device)[:, None]
            counts_here = torch.arange(z.shape[1], device=d.device) < counts
            divisor = torch.where(counts_here, counts.to(d.dtype), float("inf"))
            return d.div_(divisor[..., None])
        if on_device:
            raise InputError("backend: 'graph' takes the cross-entropy alone; use 'stacked'")
        with torch.enable_grad():
            z = z.requires_grad_()
            rows = z.clone()  # which a loss may change
            losses = [self.loss(rows[k, :n], y[k, :n]) for k, n in enumerate(counts) if n]
            return torch.autograd.grad(sum(losses[1:], losses[0]), z)[0]
