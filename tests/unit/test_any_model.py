"""Models that look odd, and work: right numbers whatever they are."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedgloss
from anyone import CLASSES, Model, federation, seeded, spectral, train
from zoo import ZOO


class Squeezes(Model):
    def forward(self, x):
        return super().forward(x)[:, None].squeeze()


class Shared(nn.Module):
    """One part under two names."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b, self.head = self.a, nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Tied(Model):
    def __init__(self):
        super().__init__(nn.Linear(8, 8))
        self.other = nn.Linear(8, 8)
        self.other.weight = self.inner.weight

    def hidden(self, h):
        return self.other(torch.tanh(self.inner(h)))


class Unused(Model):
    def __init__(self):
        super().__init__()
        self.nothing, self.scalar = nn.Linear(3, 3), nn.Parameter(torch.tensor(0.5))


class Views(Model):
    def forward(self, x):
        return super().forward(x.view(x.size(0), -1))


class Remembers(Model):
    def hidden(self, h):
        self.latest = torch.tanh(h)
        return self.latest


class Normalised(Model):
    def __init__(self):
        super().__init__(nn.BatchNorm1d(8, track_running_stats=False))


ODD = {
    "squeezes": Squeezes,
    "a part under two names": Shared,
    "tied weights": Tied,
    "unused and scalar parameters": Unused,
    "view": Views,
    "keeps its activations": Remembers,
    "batch statistics": Normalised,
    "weight norm": lambda: Model(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))),
    "spectral norm in eval mode": lambda: spectral().eval(),
    "a ModuleList": lambda: nn.Sequential(*nn.ModuleList([nn.Linear(6, CLASSES)])),
}


def descended(model, x, y, steps):
    """The model after plain gradient descent, by PyTorch's own optimiser."""
    plain = copy.deepcopy(model)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        optimiser.step()
    return plain


@pytest.mark.parametrize("name", ODD)
def test_a_model_trains_as_autograd_says(name):
    """Full batches of one client are plain gradient descent."""
    model = seeded(ODD[name]).double()
    clients = federation((6,))
    whole = {"local_steps": 1, "batch_size": None}
    result = train(model, clients=clients, schedule=[[0]] * 4, **whole)
    evaluated = train(model, clients=clients, schedule=[[0]] * 4, test=clients[0], **whole)
    assert torch.equal(result.history, evaluated.history)
    plain = descended(model, *clients[0], steps=4)
    expected = torch.cat([p.detach().flatten() for p in plain.parameters()])
    assert torch.allclose(result.w, expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(
        torch.cat([p.detach().flatten() for p in result.model.parameters()]), result.w
    )


class Loads(Model):
    """Its state comes and goes in another form."""

    def load_state_dict(self, state, strict=True):
        raise RuntimeError("not for us")


def test_the_result_is_a_model_whatever_loading_means_to_it():
    result = train(seeded(Loads).double())
    parameters = torch.cat([p.detach().flatten() for p in result.model.parameters()])
    assert torch.equal(parameters, result.w)


class Clamps(Model):
    def forward(self, x):
        return super().forward(x.clamp_(-1, 1) if not self.training and len(x) > 3 else x)


def test_the_programs_own_data_stay_as_they_are():
    clients, test = federation(), federation((9,))[0]
    kept = test[0].clone()
    train(seeded(Clamps).double(), clients=clients, test=test)
    assert torch.equal(test[0], kept)


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_the_mode_around_a_call_makes_no_difference(mode):
    model = seeded(Model).double()
    expected = train(model, test=federation()[0])
    with mode():
        found = train(model, test=federation()[0])
        inside = train(model, clients=[(x + 0, y) for x, y in federation()])
    assert torch.equal(found.history, expected.history)
    assert torch.equal(inside.history, expected.history)
    assert found.metrics == expected.metrics


REFUSED = {
    "inplace from the first": "model: its forward changes its inputs",
    "spectral norm": "model: its forward changes the buffer",
    "counting buffer": "model: its forward changes the buffer 'calls'",
}


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_model_trains_as_autograd_says_or_is_refused(name):
    model, (x, y) = ZOO[name].model().double(), ZOO[name].data()
    x = x.double() if x.is_floating_point() else x
    options = {"schedule": [[0]] * 2, "batch_size": None, "local_steps": 1, "test": (x, y)}
    if name in REFUSED:
        with pytest.raises(fedgloss.InputError) as caught:
            train(model, clients=[(x, y)], **options)
        assert str(caught.value).startswith(REFUSED[name])
        return
    result = train(model, clients=[(x, y)], **options)
    plain = descended(model, x, y, steps=2)
    if not ZOO[name].draws:
        expected = torch.cat([p.detach().flatten() for p in plain.parameters()])
        assert torch.allclose(result.w, expected, rtol=1e-10, atol=1e-12)
        loss = F.cross_entropy(plain.eval()(x), y).item()
        assert result.metrics[-1]["loss"] == pytest.approx(loss, rel=1e-9)
