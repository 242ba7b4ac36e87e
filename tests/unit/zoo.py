"""Small models of the kinds that users have, with data that fit them: `from zoo import ZOO`.

Each is a few hundred parameters, built from a fixed seed, and differentiable in a few milliseconds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Animal:
    """A model and what it eats.

    Attributes
      build      the constructor
      shape      of one sample
      tokens     samples are integers below this; 0: they are floats
      positions  the targets' dimensions after the first: the outputs are [N, classes, *positions]
      twice      PyTorch has right second derivatives of all its operations
      slope      its gradient is the slope of its loss; not where a gradient is stopped
      alone      its output for one sample does not depend on the others of a mini-batch
      draws      its outputs are random in training mode (dropout)
      buffers    it has tensors that are not parameters
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    tokens: int = 0
    positions: tuple[int, ...] = ()
    twice: bool = True
    slope: bool = True
    alone: bool = True
    draws: bool = False
    buffers: bool = False
    classes: int = 3

    def model(self) -> nn.Module:
        """A new model, in training mode and float32; always with the same parameters."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return self.build()

    def data(self, count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Inputs [count, *shape], float32 or int64, and targets int64 [count, *positions]."""
        generator = torch.Generator().manual_seed(seed)
        if self.tokens:
            inputs = torch.randint(self.tokens, (count, *self.shape), generator=generator)
        else:
            inputs = torch.randn(count, *self.shape, generator=generator)
        size = (count, *self.positions)
        return inputs, torch.randint(self.classes, size, generator=generator)


ZOO: dict[str, Animal] = {}
VECTOR, SEQUENCE, IMAGE = (5,), (6, 4), (2, 6, 6)  # of four features; channels, height and width


def animal(name: str, shape: tuple[int, ...], **facts: object) -> Callable[[type], type]:
    """Put what the decorated class or function builds into the zoo."""

    def put(build: type) -> type:
        assert name not in ZOO
        ZOO[name] = Animal(build, shape, **facts)
        return build

    return put


def sequential(name: str, shape: tuple[int, ...], *layers: Callable[[], nn.Module], **facts):
    """Put a sequence of layers into the zoo, given what builds each."""
    animal(name, shape, **facts)(lambda: nn.Sequential(*(layer() for layer in layers)))


class Apply(nn.Module):
    """A function of a tensor as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def linear(inputs: int, outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(inputs, outputs)


def conv(inputs: int, outputs: int, kernel: int = 3, **options) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(inputs, outputs, kernel, **options)


def apply(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Apply(function)


def viewed(x: Tensor) -> Tensor:
    """As many users flatten; not allowed for every layout in memory."""
    return x.view(x.size(0), -1)


# Vectors: layers and activations

sequential("linear", VECTOR, linear(5, 3))
sequential("linear without bias", VECTOR, lambda: nn.Linear(5, 3, bias=False))
sequential("perceptron", VECTOR, linear(5, 6), nn.Tanh, linear(6, 3))
sequential("inplace from the first", VECTOR, lambda: nn.ReLU(True), linear(5, 3))
sequential("prelu", VECTOR, linear(5, 6), nn.PReLU, linear(6, 3))
sequential("prelu by channel", VECTOR, linear(5, 6), lambda: nn.PReLU(6), linear(6, 3))
sequential(
    *("smooth activations", VECTOR, linear(5, 6), nn.GELU, linear(6, 6), nn.SiLU, linear(6, 6)),
    *(nn.Mish, linear(6, 6), nn.Softplus, linear(6, 6), nn.LogSigmoid, linear(6, 3)),
)
sequential(
    *("kinked activations", VECTOR, linear(5, 6), nn.LeakyReLU, linear(6, 6), nn.ELU),
    *(linear(6, 6), nn.Hardswish, linear(6, 6), nn.ReLU6, linear(6, 6), nn.SELU, linear(6, 3)),
)
sequential("hardsigmoid", VECTOR, linear(5, 6), nn.Hardsigmoid, linear(6, 3), twice=False)
sequential("gated linear unit", VECTOR, linear(5, 12), nn.GLU, linear(6, 3))
sequential("layer norm", VECTOR, linear(5, 6), lambda: nn.LayerNorm(6), nn.GELU, linear(6, 3))
sequential("rms norm", VECTOR, linear(5, 6), lambda: nn.RMSNorm(6), nn.GELU, linear(6, 3))
sequential("dropout", VECTOR, linear(5, 6), nn.Tanh, nn.Dropout, linear(6, 3), draws=True)
sequential(
    "alpha dropout", VECTOR, linear(5, 6), nn.Tanh, nn.AlphaDropout, linear(6, 3), draws=True
)
sequential(
    "maxout",
    VECTOR,
    linear(5, 12),
    apply(lambda x: x.view(-1, 6, 2).amax(-1)),
    linear(6, 3),
)
sequential(
    "sines", VECTOR, linear(5, 6), apply(lambda x: torch.cat([x.sin(), x.cos()], 1)), linear(12, 3)
)
sequential(
    "cosine classifier", VECTOR, linear(5, 6), apply(lambda x: 3 * F.normalize(x)), linear(6, 3)
)
sequential(
    "stopped gradient",
    VECTOR,
    linear(5, 6),
    apply(lambda x: x * x.detach().sigmoid()),
    linear(6, 3),
    slope=False,
)
sequential(
    *("batch norm of the batch", VECTOR, linear(5, 6)),
    *(lambda: nn.BatchNorm1d(6, track_running_stats=False), nn.Tanh, linear(6, 3)),
    alone=False,
)


@animal("bilinear", VECTOR)
class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(5, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x.tanh())


# Vectors: parameters of all kinds


@animal("weight norm", VECTOR, twice=False)
def weight_norm() -> nn.Module:
    first, last = nn.Linear(5, 6), nn.Linear(6, 3)
    return nn.Sequential(parametrizations.weight_norm(first), nn.Tanh(), last)


@animal("spectral norm", VECTOR, buffers=True)
def spectral_norm() -> nn.Module:
    first, last = nn.Linear(5, 6), nn.Linear(6, 3)
    return nn.Sequential(parametrizations.spectral_norm(first), nn.Tanh(), last)


@animal("orthogonal weights", VECTOR, buffers=True)
def orthogonal() -> nn.Module:
    first = parametrizations.orthogonal(nn.Linear(5, 5), orthogonal_map="matrix_exp")
    return nn.Sequential(first, nn.Tanh(), nn.Linear(5, 3))


@animal("positive weights", VECTOR)
def positive() -> nn.Module:
    layer = nn.Linear(5, 3)
    parametrize.register_parametrization(layer, "weight", nn.Softplus())
    return layer


@animal("scalar parameter", VECTOR)
class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.temperature = nn.Linear(5, 3), nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) / self.temperature


@animal("unused parameter", VECTOR)
class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.forgotten, self.layer = nn.Linear(4, 4), nn.Linear(5, 3)
        self.more, self.none = nn.Parameter(torch.ones(2)), nn.Parameter(torch.empty(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@animal("tied parameter", VECTOR)
class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.last = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.decoder(self.encoder(x).tanh()).tanh())


@animal("layer under two names", VECTOR)
class TwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(5, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).tanh()).tanh())


@animal("layer used three times", VECTOR)
class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + 0.5 * self.step(x).tanh()
        return self.last(x)


@animal("lists of parameters", VECTOR)
class Lists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(5, 5) / 3) for _ in range(2))
        self.heads = nn.ParameterDict({"a": torch.randn(5, 3), "b": torch.randn(3)})

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = (x @ weight).tanh()
        return x @ self.heads["a"] + self.heads["b"]


@animal("transposed parameter", VECTOR)
class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5).t())  # not contiguous

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).tanh() * 2


@animal("clamped parameter", VECTOR)
class Clamped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(5, 3), nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        self.scale.data.clamp_(0, 1)  # changes nothing yet
        return self.layer(x) * self.scale


# Vectors: tensors that are not parameters


@animal("low rank update", VECTOR, buffers=True)
class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("base", torch.randn(3, 5))
        self.down = nn.Parameter(torch.randn(2, 5))
        self.up = nn.Parameter(torch.randn(3, 2) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.base + self.up @ self.down)


@animal("integer buffer", VECTOR, buffers=True)
class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([4, 2, 0, 1, 3]), persistent=False)
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, self.order].tanh())


@animal("counting buffer", VECTOR, buffers=True)
class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x)


@animal("graph convolution", (4, 3), buffers=True)
class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        ring = torch.eye(4) + torch.eye(4).roll(1, 0) + torch.eye(4).roll(-1, 0)
        self.register_buffer("adjacency", ring / 3)
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("uv,nvf->nuf", self.adjacency, self.first(x)).tanh()
        return self.last(x.mean(1))


# Vectors: unusual computations


@animal("mixture of experts", VECTOR)
class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(5, 3)
        self.experts = nn.ModuleList(nn.Linear(5, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).softmax(1).max(1)
        result = torch.zeros_like(x[:, :3])
        for k, expert in enumerate(self.experts):
            rows = (chosen == k).nonzero()[:, 0]
            if len(rows):
                result = result.index_add(0, rows, expert(x[rows]))
        return result * weight[:, None]


@animal("branches on the data", VECTOR, alone=False)
class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(5, 5) for name in ("even", "odd")})
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for depth in range(2 + int(x.sum() > 0)):
            x = self.layers["odd" if depth % 2 else "even"](x).tanh()
        return self.last(x)


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, d: Tensor) -> Tensor:
        return 3 * d * ctx.saved_tensors[0] ** 2


class CubeOnce(Cube):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d: Tensor) -> Tensor:
        return 3 * d * ctx.saved_tensors[0] ** 2


sequential("own function", VECTOR, linear(5, 6), apply(Cube.apply), linear(6, 3))
sequential(
    "own function, once", VECTOR, linear(5, 6), apply(CubeOnce.apply), linear(6, 3), twice=False
)


@animal("checkpointed", VECTOR)
class Checkpointed(nn.Module):
    reentrant: bool | None = False  # the kind of checkpoint; None: no checkpoints

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(2))
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.reentrant is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.last(x)


@animal("prototypes", VECTOR, twice=False)
class Prototypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.centres = nn.Linear(5, 4), nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.layer(x), self.centres)


@animal("hypernetwork", VECTOR)
class Hypernetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.randn(2))
        self.maker, self.inner = nn.Linear(2, 18), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        made = self.maker(self.code)
        parameters = {"weight": made[:15].view(3, 5), "bias": made[15:]}
        return torch.func.functional_call(self.inner, parameters, x) + self.inner(x)


@animal("ensemble by vmap", VECTOR)
class Ensemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(4, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda weight: F.linear(x, weight).tanh())(self.weights).mean(0) * 2


@animal("gradient of an energy", VECTOR)
class Energy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.energy, self.last = nn.Linear(5, 6), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.energy(x).sin().sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return self.last(force)


@animal("linear algebra", VECTOR)
class Solving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.last = nn.Parameter(torch.randn(5, 5) / 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        A = torch.matrix_exp(self.matrix)
        return self.last(torch.linalg.solve(A @ A.T + torch.eye(5, dtype=x.dtype), x.T).T)


@animal("with hooks", VECTOR)
def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3))
    model[0].register_forward_hook(doubled)
    return model


def doubled(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return 2 * output.tanh()


# Plain sequences that are not as plain as they look


@animal("one layer twice in a sequence", VECTOR)
def twice_in_a_sequence() -> nn.Module:
    layer = nn.Linear(5, 5)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(5, 3))


@animal("one parameter twice in a sequence", VECTOR)
def tied_in_a_sequence() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))
    model[2].weight = model[0].weight
    return model


@animal("own forward in a sequence", VECTOR)
def own_forward() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    model[1].forward = torch.tanh
    return model


@animal("own parameter in a sequence", VECTOR)
def own_parameter() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    return model


@animal("hook of a sequence", VECTOR)
def hooked_sequence() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    model.register_forward_pre_hook(halved)
    return model


def halved(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[0] / 2


@animal("hook that views", IMAGE)
def viewing_hook() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Linear(64, 3))
    model[2].register_forward_pre_hook(flattened)
    return model


def flattened(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return viewed(inputs[0])


sequential("linear on steps", SEQUENCE, linear(4, 5), nn.ReLU, nn.Flatten, linear(30, 3))
sequential("linear on rows", IMAGE, conv(2, 3), linear(4, 5), nn.ReLU, nn.Flatten, linear(60, 3))
sequential("outputs in rows", SEQUENCE, linear(4, 5), positions=(5,), classes=6)
sequential("outputs as images", IMAGE, conv(2, 3), nn.ReLU, conv(3, 3), positions=(2, 2))
sequential("pooled at the end", IMAGE, conv(2, 3), lambda: nn.MaxPool2d(4), nn.Flatten)


# Images

sequential("convolutions", IMAGE, conv(2, 4), nn.ReLU, nn.Flatten, linear(64, 3))
sequential(
    *("pooled", IMAGE, conv(2, 4), lambda: nn.MaxPool2d(2), nn.ReLU, nn.Flatten, linear(16, 3)),
)
sequential("flattened by view", IMAGE, conv(2, 4), nn.Tanh, apply(viewed), linear(64, 3))
sequential(
    *("unflattened", (72,), lambda: nn.Unflatten(1, (2, 6, 6)), conv(2, 4), nn.Tanh),
    *(nn.Flatten, linear(64, 3)),
)
sequential(
    *("strides, dilation and groups", IMAGE, conv(2, 4, stride=2, padding=1), nn.Tanh),
    *(conv(4, 4, 2, dilation=2, groups=2), apply(viewed), linear(4, 3)),
)
sequential(
    *("padding modes", IMAGE, conv(2, 3, padding=1, padding_mode="reflect"), nn.Tanh),
    *(conv(3, 3, padding="same", padding_mode="circular"), nn.Flatten, linear(108, 3)),
)
sequential(
    *("separable", IMAGE, conv(2, 4, groups=2), nn.ReLU6, conv(4, 6, 1)),
    *(lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten, linear(6, 3)),
)
sequential(
    *("transposed convolution", IMAGE, conv(2, 4, stride=2), nn.Tanh),
    *(lambda: nn.ConvTranspose2d(4, 3, 2, stride=2), apply(lambda x: x.mean((2, 3)))),
)
sequential(
    *("group norm", IMAGE, conv(2, 4), lambda: nn.GroupNorm(2, 4), nn.SiLU, nn.Flatten),
    linear(64, 3),
)
sequential(
    *("instance norm", IMAGE, conv(2, 4), lambda: nn.InstanceNorm2d(4, affine=True)),
    *(nn.SiLU, nn.Flatten, linear(64, 3)),
)
sequential(
    *("batch norm of images", IMAGE, conv(2, 4)),
    *(lambda: nn.BatchNorm2d(4, track_running_stats=False), nn.SiLU, nn.Flatten, linear(64, 3)),
    alone=False,
)
sequential(
    *("layer norm of images", IMAGE, conv(2, 4), lambda: nn.LayerNorm((4, 4, 4)), nn.SiLU),
    *(apply(viewed), linear(64, 3)),
)
sequential(
    *("local response norm", IMAGE, conv(2, 4), lambda: nn.LocalResponseNorm(2), nn.Flatten),
    linear(64, 3),
)
sequential(
    *("adaptive pooling", IMAGE, conv(2, 4), lambda: nn.AdaptiveMaxPool2d((2, 3)), nn.Flatten),
    *(linear(24, 3),),
)
sequential(
    *("lp pooling", IMAGE, conv(2, 4), nn.Softplus, lambda: nn.LPPool2d(2, 2), nn.Flatten),
    linear(16, 3),
)
sequential(
    *("upsampled", IMAGE, conv(2, 3), lambda: nn.Upsample(scale_factor=2, mode="bilinear")),
    *(nn.Tanh, conv(3, 3), apply(lambda x: x.mean((2, 3)))),
)
sequential(
    *("pixel shuffle", IMAGE, conv(2, 12), lambda: nn.PixelShuffle(2), nn.Tanh),
    apply(lambda x: x.mean((2, 3))),
)
sequential(
    *("channel dropout", IMAGE, conv(2, 4), nn.Tanh, nn.Dropout2d, nn.Flatten, linear(64, 3)),
    draws=True,
)
sequential("unfolded", IMAGE, lambda: nn.Unfold(3, stride=3), apply(viewed), linear(72, 3))
sequential(
    "one dimension", (2, 9), lambda: nn.Conv1d(2, 4, 3), nn.Tanh, apply(viewed), linear(28, 3)
)
sequential(
    *("three dimensions", (1, 3, 4, 4), lambda: nn.Conv3d(1, 2, 2), nn.Tanh, apply(viewed)),
    linear(36, 3),
)
sequential("segmentation", IMAGE, conv(2, 4, padding=1), nn.Tanh, conv(4, 3, 1), positions=(6, 6))


@animal("residual, in place", IMAGE)
class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, bias=False)
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.GroupNorm(2, 4) for _ in range(4))
        self.relu, self.last = nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            y = norm(block(x))
            y += x
            x = self.relu(y)
        return self.last(x.mean((2, 3)))


@animal("dense blocks", IMAGE)
class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2 + 2 * k, 2, 3, padding=1) for k in range(3))
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x).tanh()], 1)
        return self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))


@animal("convnext block", IMAGE)
class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(2, 4, 2, 2), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm, self.wide, self.narrow = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)
        self.scale, self.last = nn.Parameter(torch.full((4,), 0.5)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.wide(y)))
        return self.last((x + y.permute(0, 3, 1, 2)).mean((-2, -1)))


@animal("squeeze and excitation", IMAGE, twice=False)
class Squeeze(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.conv(x))
        s = F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.last((x * s).mean((2, 3)))


@animal("channel shuffle", IMAGE)
class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 1, groups=2), nn.Conv2d(4, 4, 3, groups=2)
        self.last = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        N, C, H, W = x.shape
        x = x.view(N, 2, C // 2, H, W).transpose(1, 2).contiguous().view(N, C, H, W)
        return self.last(self.second(x).view(N, -1))


@animal("u-net", IMAGE, positions=(6, 6))
class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(4, 3, 2, 2), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x).tanh()
        y = self.up(self.deep(F.avg_pool2d(x, 2)).tanh())
        return self.last(torch.cat([x, y], 1))


@animal("spatial transformer", IMAGE)
class Spatial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.where, self.last = nn.Linear(72, 6), nn.Linear(72, 3)
        nn.init.normal_(self.where.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        theta = torch.eye(2, 3, dtype=x.dtype) + self.where(x.flatten(1)).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return self.last(F.grid_sample(x, grid, align_corners=False).flatten(1).tanh())


@animal("fourier mixing", IMAGE)
class Fourier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.real, self.imaginary = (nn.Parameter(torch.randn(2, 6, 4) / 3) for _ in range(2))
        self.last = nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        filters = torch.complex(self.real, self.imaginary)
        return self.last(torch.fft.irfft2(torch.fft.rfft2(x) * filters, s=(6, 6)).flatten(1).tanh())


@animal("mlp-mixer", IMAGE)
class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(2, 4, 2, 2), nn.LayerNorm(4)
        self.tokens, self.channels, self.last = nn.Linear(9, 9), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + F.gelu(self.tokens(self.norm(x).transpose(1, 2))).transpose(1, 2)
        return self.last((x + F.gelu(self.channels(x))).mean(1))


@animal("vision transformer", IMAGE)
class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.first = nn.Conv2d(2, 4, 3, 3), nn.Parameter(torch.zeros(1, 1, 4))
        self.places = nn.Parameter(torch.randn(1, 5, 4) / 3)
        self.block = nn.TransformerEncoderLayer(
            4, 2, 8, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.places
        return self.last(self.block(x)[:, 0])


# Sequences of features


class Reader(nn.Module):
    """A recurrent layer, and a linear one on what it says last."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.last = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x)[0][:, -1])


def reader(name: str, kind: type, width: int, **options) -> None:
    animal(name, SEQUENCE)(lambda: Reader(kind(4, 5, batch_first=True, **options), width))


reader("rnn", nn.RNN, 5)
reader("lstm", nn.LSTM, 5)
reader("lstm, deep and both ways", nn.LSTM, 10, num_layers=2, bidirectional=True)
reader("lstm, projected", nn.LSTM, 3, proj_size=3)
reader("gru", nn.GRU, 5)
reader("gru, without bias", nn.GRU, 5, bias=False)


@animal("lstm cell", SEQUENCE)
class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.LSTMCell(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.last(state[0])


@animal("packed sequences", SEQUENCE)
class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = 1 + (2 * x[:, 0, 0].abs()).long().clamp(max=5)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.last(self.layer(packed)[1][0])


@animal("multi-head attention", SEQUENCE)
class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(x, x, x, need_weights=False)[0].mean(1))


@animal("attention weights", SEQUENCE)
class Weighted(Attention):
    def forward(self, x: Tensor) -> Tensor:
        values, weights = self.attention(x, x, x)
        return self.last((weights @ values).mean(1))


@animal("causal attention", SEQUENCE)
class Causal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.last = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).view(len(x), 6, 3, 2, 2).permute(2, 0, 3, 1, 4)
        values = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.last(values.transpose(1, 2).flatten(2)[:, -1])


@animal("linear attention", SEQUENCE)
class LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.last = nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.last(torch.einsum("ntd,nsd,nse->nte", F.elu(q) + 1, F.elu(k) + 1, v).mean(1))


@animal("transformer encoder", SEQUENCE)
class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.layers, self.last = nn.TransformerEncoder(layer, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x).mean(1))


@animal("transformer with dropout", SEQUENCE, draws=True)
class EncoderWithDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(x.transpose(0, 1)).mean(0))


@animal("padded sequences", SEQUENCE)
class Padded(Encoder):
    def forward(self, x: Tensor) -> Tensor:
        padding = torch.arange(6) > 2 + 2 * (x[:, :1, 0] > 0)
        return self.last(self.layers(x, src_key_padding_mask=padding).mean(1))


@animal("transformer decoder", SEQUENCE)
class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(4, 2, 8, 0.0, F.gelu, batch_first=True)
        self.queries, self.last = nn.Parameter(torch.randn(2, 4)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.queries.expand(len(x), 2, 4), x).flatten(1))


@animal("state space", SEQUENCE)
class StateSpace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decay, self.last = nn.Parameter(torch.randn(4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        powers = torch.arange(5, -1, -1, dtype=x.dtype)[:, None] * F.logsigmoid(self.decay)
        return self.last((x * powers.exp()).sum(1))


@animal("deep set", SEQUENCE)
class DeepSet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each, self.score, self.last = nn.Linear(4, 5), nn.Linear(5, 1), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.each(x).tanh()
        attended = (self.score(x).softmax(1) * x).sum(1)
        return self.last(torch.cat([attended, x.logsumexp(1)], 1))


@animal("temporal convolution", SEQUENCE)
class Temporal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 2, dilation=2**k) for k in range(2))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for k, layer in enumerate(self.layers):
            x = x + layer(F.pad(x, (2**k, 0))).tanh()
        return self.last(x[..., -1])


@animal("rows and columns", (6, 4))
class BothWays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nrc,ncs->n", self.rows(x).tanh(), self.columns(x.mT)[:, :3].tanh())[
            :, None
        ] * torch.arange(3, dtype=x.dtype) + self.rows(x).mean(1)


# Tokens


@animal("embedding", (6,), tokens=7, slope=False)
class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.embedding(x).mean(1).tanh())


@animal("embedding of single tokens", (), tokens=7)
def lookup() -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 4), nn.Tanh(), nn.Linear(4, 3))


@animal("embedding bag", (6,), tokens=7, twice=False)
def embedding_bag() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(7, 4), nn.Tanh(), nn.Linear(4, 3))


@animal("one-hot tokens", (6,), tokens=7)
class OneHot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(7, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(F.one_hot(x, 7).to(self.layer.weight.dtype)).sum(1).tanh())


@animal("language model", (6,), tokens=7, positions=(6,), classes=7)
class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(7, 4), nn.LSTM(4, 4, batch_first=True)
        self.last = nn.Linear(4, 7, bias=False)
        self.last.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.embedding(x))[0]).transpose(1, 2)


@animal("text transformer", (6,), tokens=7, buffers=True)
class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(7, 4), nn.Linear(4, 3)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, F.gelu, batch_first=True)
        angles = torch.arange(6)[:, None] / 100 ** (torch.arange(2) / 2) + math.pi / 4
        self.register_buffer("places", torch.cat([angles.sin(), angles.cos()], 1))

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(6, dtype=self.places.dtype)
        x = self.embedding(x) + self.places
        return self.last(self.layer(x, src_mask=mask, is_causal=True)[:, -1])


@animal("text convolution", (6,), tokens=7)
class TextConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(nn.Conv1d(4, 2, size) for size in (2, 3))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x).transpose(1, 2)
        return self.last(torch.cat([layer(x).amax(2) for layer in self.layers], 1))
