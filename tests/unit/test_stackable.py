"""`auto` trains the network it was given: what it hands to the stacked backend, it can prove."""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from torch import nn

import fedgloss

CLASSES = 3
SAMPLES = [(2, 6, 6), (1, 7, 5), (6, 6), (4, 5), (9,), (2, 3, 2, 2)]
"""Images, rows of features, features."""


class Leaky(nn.ReLU):
    """Its class says ReLU's name, and computes something else."""

    def forward(self, x):
        return nn.functional.leaky_relu(x, 0.3)


def usually(draw, usual, *rare):
    return draw(st.sampled_from([usual] * 9 + list(rare)))


def convolution(draw, shape):
    channels = shape[0] if shape else 1
    return nn.Conv2d(
        channels,
        draw(st.sampled_from([2, 4])),
        draw(st.sampled_from([1, 2, 3, 5])) if usually(draw, True, False) else (1, 3),
        stride=usually(draw, 1, 2),
        padding=usually(draw, draw(st.sampled_from([0, 1, 2])), (0, 1), "same"),
        dilation=usually(draw, 1, 2),
        groups=usually(draw, 1, channels),
        bias=draw(st.booleans()),
        padding_mode=usually(draw, "zeros", "circular"),
    )


def pooling(draw, shape):
    return nn.MaxPool2d(
        draw(st.sampled_from([2, 2, 3, (2, 1)])),
        stride=usually(draw, None, 1),
        padding=usually(draw, 0, 1),
        ceil_mode=usually(draw, False, True),
        return_indices=usually(draw, False, True),
    )


def linear(draw, shape):
    width = shape[-1] if shape else 1
    return nn.Linear(width, draw(st.sampled_from([3, 5])), bias=draw(st.booleans()))


def other(draw, shape):
    return draw(
        st.sampled_from(
            [nn.Tanh(), nn.Identity(), nn.Dropout(0.0), nn.AvgPool2d(2), nn.Sequential(nn.ReLU())]
        )
    )


KINDS = {
    "convolution": convolution,
    "pooling": pooling,
    "linear": linear,
    "relu": lambda draw, shape: nn.ReLU(inplace=draw(st.booleans())),
    "flatten": lambda draw, shape: nn.Flatten(*usually(draw, (), (2,), (1, 2))),
    "leaky": lambda draw, shape: Leaky(),
    "other": other,
}


def output_shape(layers, sample):
    """Of one sample, None where the layers do not fit."""
    shapes = set()
    for batch in (1, 2, 5):
        try:
            with torch.no_grad():
                output = nn.Sequential(*layers)(torch.zeros(batch, *sample))
        except Exception:  # whatever a layer says to shapes it does not take
            return None
        if not isinstance(output, torch.Tensor):
            return None
        shapes.add(tuple(output.shape[1:]))
    return shapes.pop() if len(shapes) == 1 else None


@st.composite
def networks(draw):
    """A sequence of layers that fit their inputs, most often one that could be stacked, but for
    one thing: a layer used twice, a hook, a tied weight, a parameter of no layer."""
    sample = draw(st.sampled_from(SAMPLES))
    common = ["convolution", "pooling", "linear", "relu", "relu", "flatten"]
    wanted = draw(st.lists(st.sampled_from(common * 6 + ["leaky", "other"]), max_size=6))
    torch.manual_seed(draw(st.integers(0, 99)))
    layers = []
    for kind in wanted:
        try:
            layer = KINDS[kind](draw, output_shape(layers, sample))
        except ValueError:  # convolutions that cannot be
            continue
        if output_shape([*layers, layer], sample):
            layers.append(layer)
        if layers and draw(st.integers(0, 19)) == 0:
            again = draw(st.sampled_from(layers))
            if output_shape([*layers, again], sample):
                layers.append(again)
    shape = output_shape(layers, sample) if layers else sample
    if len(shape) > 1 and usually(draw, True, False):
        layers.append(nn.Flatten())
        shape = (math.prod(shape),)
    layers.append(
        nn.Conv2d(shape[0], CLASSES, 1) if len(shape) == 3 else nn.Linear(shape[-1], CLASSES)
    )
    assume(output_shape(layers, sample)[0] == CLASSES)
    model = nn.Sequential(*layers)
    draw(st.sampled_from([lambda model, draw: None] * 4 + TWISTS))(model, draw)
    return model.double(), sample


def hook(model, draw):
    where = draw(st.sampled_from([model, *model]))
    kind = draw(st.sampled_from(["forward", "forward_pre", "full_backward"]))
    changed = {
        "forward": lambda module, given, output: 1.5 * output,
        "forward_pre": lambda module, given: (0.5 * given[0],),
        "full_backward": lambda module, given, output: tuple(
            None if g is None else 2 * g for g in given
        ),
    }
    getattr(where, f"register_{kind}_hook")(changed[kind])


def own_forward(model, draw):
    layer = draw(st.sampled_from(list(model)))
    layer.forward = lambda x, before=layer.forward: 1.5 * before(x)


def extra_parameter(model, draw):
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))


def tied(model, draw):
    linears = [layer for layer in model if type(layer) is nn.Linear]
    for a in linears:
        for b in linears:
            if a.weight.shape == b.weight.shape:
                b.weight = a.weight


def inner_part(model, draw):
    """A part that no forward uses."""
    model[0].add_module("inner", nn.Linear(2, 2))


TWISTS = [hook, own_forward, extra_parameter, tied, inner_part]


@dataclass
class Problem:
    clients: list
    test: tuple


def problem(model, sample, integers):
    generator = torch.Generator().manual_seed(5)

    def some(n):
        x = torch.randn(n, *sample, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            shape = copy.deepcopy(model)(x).shape
        y = torch.randint(CLASSES, (n, *shape[2:]), generator=generator)
        return x, y.to(integers)

    return Problem([some(5), some(3), some(4)], some(6))


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(networks(), st.sampled_from([torch.int64, torch.int64, torch.uint8, torch.int32]))
def test_auto_is_the_reference_loop_for_every_sequence_of_layers(network, integers):
    model, sample = network
    given = problem(model, sample, integers)
    options = {"rounds": 2, "clients_per_round": 2, "lr": 0.1, "batch_size": 2, "test": given.test}
    options["hyperparameters"] = {"rho_l": 0.1}
    try:
        expected = fedgloss.train(model, given.clients, "fedsam", backend="autograd", **options)
    except fedgloss.InputError as refused:
        event("refused")
        with pytest.raises(fedgloss.InputError) as again:
            fedgloss.train(model, given.clients, "fedsam", **options)
        assert str(again.value) == str(refused)
        return
    found = fedgloss.train(model, given.clients, "fedsam", **options)
    event(found.backend)
    assert torch.allclose(found.history, expected.history, rtol=1e-10, atol=1e-12)
    assert found.metrics == [pytest.approx(row, rel=1e-9) for row in expected.metrics]
