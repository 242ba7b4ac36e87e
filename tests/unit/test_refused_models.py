"""Models that cannot work are refused in one line before round 1."""

import random
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedgloss
import switches
from anyone import CLASSES, Model, seeded, spectral, train


class Random(Model):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def hidden(self, h):
        return h * self.draw()


class Counts(Model):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def hidden(self, h):
        self.calls += 1
        return h * self.calls


class OwnGenerator(Model):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator()

    def hidden(self, h):
        return h * torch.rand(1, generator=self.generator, dtype=h.dtype)


class WritesBuffer(Model):
    def __init__(self, replace):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.replace = replace

    def hidden(self, h):
        if self.replace:
            self.mean = h.detach().mean(0)
        else:
            self.mean.add_(h.detach().mean(0))
        return h - self.mean.to(h.dtype)


class ChangesParameters(Model):
    def hidden(self, h):
        with torch.no_grad():
            self.head.weight.clamp_(-0.01, 0.01)
        return h


class Returns(Model):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return self.what(super().forward(x))


class Raises(Model):
    def hidden(self, h):
        raise KeyError("no such thing\nand more")


class Constant(Model):
    def forward(self, x):
        return torch.zeros(len(x), CLASSES, dtype=x.dtype)


class OnlyPairs(Model):
    def hidden(self, h):
        return h.view(-1, 2, 8).mean(1)


def tracking():
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, affine=False))


def half():
    return Model().half()


def mixed():
    model = Model()
    model.head.double()
    return model


def frozen():
    model = Model()
    model.embed.weight.requires_grad_(False)
    return model


class Aliased(Model):
    def __init__(self):
        super().__init__()
        self.others = [self.embed.weight]

    def hidden(self, h):
        return h + F.linear(h[:, :6], self.others[0])


def hooked_parameter():
    model = Model()
    model.embed.weight.register_hook(lambda gradient: gradient * 0)
    return model


def with_nan():
    model = Model()
    with torch.no_grad():
        model.head.bias[1] = float("nan")
    return model


class Locked(Model):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Sparse(Model):
    def __init__(self):
        super().__init__(nn.Embedding(10, 8, sparse=True))

    def hidden(self, h):
        return h + self.inner(torch.zeros(len(h), dtype=torch.long))


BROKEN = {
    "F.dropout without training=": (
        lambda: Random(lambda: F.dropout(torch.ones(8).double())),
        "model: draws random numbers in eval mode too",
    ),
    "noise always": (
        lambda: Random(lambda: torch.randn(8).double()),
        "model: draws random numbers in eval mode too",
    ),
    "Python's random": (
        lambda: Random(lambda: 1 + 1e-9 * random.random()),
        "model: draws random numbers from Python's or NumPy's generator",
    ),
    "NumPy's random": (
        lambda: Random(lambda: 1 + 1e-9 * np.random.rand()),
        "model: draws random numbers from Python's or NumPy's generator",
    ),
    "a large draw of NumPy's": (
        lambda: Random(lambda: float(np.random.rand())),
        "model: two passes over one mini-batch differ",
    ),
    "a generator of its own": (OwnGenerator, "model: two passes over one mini-batch differ"),
    "a count of its calls": (Counts, "model: two passes over one mini-batch differ"),
    "a buffer written to": (
        lambda: WritesBuffer(False),
        "model: its forward changes the buffer 'mean'",
    ),
    "a buffer replaced": (lambda: WritesBuffer(True), "model: its forward changes the buffer"),
    "spectral norm": (spectral, "model: its forward changes the buffer"),
    "parameters clamped": (ChangesParameters, "model: its forward changes its parameters"),
    "an in-place first layer": (
        lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, CLASSES)),
        "model: its forward changes its inputs",
    ),
    "a tuple": (lambda: Returns(lambda z: (z, z)), "model: returns tuple, must return one tensor"),
    "a dictionary": (lambda: Returns(lambda z: {"logits": z}), "model: returns dict"),
    "a list": (lambda: Returns(lambda z: [z]), "model: returns list"),
    "nothing": (lambda: Returns(lambda z: None), "model: returns NoneType"),
    "a number": (lambda: Returns(lambda z: 0.5), "model: returns float"),
    "outputs detached": (lambda: Returns(lambda z: z.detach()), "clients: inputs [6]"),
    "outputs that are classes": (
        lambda: Returns(lambda z: z.argmax(1)),
        "model: returns torch.int64, must return real numbers",
    ),
    "complex outputs": (
        lambda: Returns(lambda z: torch.complex(z, z)),
        "model: returns torch.complex",
    ),
    "a parameter read from elsewhere": (
        Aliased,
        "model: its forward reads parameter 'embed.weight' from elsewhere",
    ),
    "a hook on a parameter": (
        hooked_parameter,
        "model: parameter 'embed.weight' has a hook",
    ),
    "parameters that are not numbers": (
        with_nan,
        "model: parameter 'head.bias' has NaN or infinite entries",
    ),
    "an error": (Raises, "clients: inputs [6] and targets [] do not pass through the model"),
    "no use of its parameters": (Constant, "clients: inputs [6]"),
    "pairs only": (OnlyPairs, "clients: inputs [6] and targets [] do not pass"),
    "running statistics": (tracking, "model: layer '1' (BatchNorm1d) keeps running statistics"),
    "sparse gradients": (Sparse, "clients: inputs [6]"),
    "float16": (half, "model: has parameters of type float16; all must be float32"),
    "bfloat16": (lambda: Model().bfloat16(), "model: has parameters of type bfloat16"),
    "two types": (mixed, "model: has parameters of type float32, float64"),
    "a frozen parameter": (frozen, "model: parameter 'embed.weight' is frozen"),
    "lazy": (lambda: Model(nn.LazyLinear(8)), "model: 'inner.weight' of a lazy layer has no value"),
    "traced": (
        lambda: torch.jit.trace(Model(), torch.zeros(2, 6)),
        "model: is a TopLevelTracedModule; give the plain module",
    ),
    "scripted": (
        lambda: torch.jit.script(nn.Sequential(nn.Linear(6, CLASSES))),
        "model: is a RecursiveScriptModule; give the plain module",
    ),
    "DataParallel": (lambda: nn.DataParallel(Model()), "model: is a DataParallel; give the plain"),
    "compiled": (lambda: torch.compile(Model()), "model: is a OptimizedModule; give the plain"),
    "what cannot be copied": (
        lambda: Model(nn.utils.weight_norm(nn.Linear(8, 8))),
        "model: cannot be copied (Only Tensors created explicitly by the user",
    ),
    "a lock": (Locked, "model: cannot be copied (cannot pickle '_thread.lock' object)"),
    "on meta": (lambda: Model().to("meta"), "model: has parameters on meta"),
    "a class": (lambda: Model, "model: is a class; give an instance: Model(...)"),
    "a function": (lambda: F.relu, "model: expected a torch.nn.Module, got function"),
    "none": (lambda: None, "model: expected a torch.nn.Module, got NoneType"),
    "no parameters": (nn.Identity, "model: has no parameters"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_work_is_refused_in_one_line_before_round_1(name):
    build, message = BROKEN[name]
    model = seeded(build)
    if isinstance(model, nn.Module) and message.startswith(("clients", "model: its", "model: d")):
        model = model.double()
    rounds = []
    before = switches.generators()
    with pytest.raises(fedgloss.InputError) as caught:
        train(model, on_round=lambda t, row: rounds.append(t))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert rounds == []
    assert switches.generators() == before
