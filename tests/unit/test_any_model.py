"""Whatever a model, a loss or labels are: right numbers, or one line before round 1."""

import copy
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedgloss
import switches
from zoo import ZOO

CLASSES = 4


def seeded(build, *arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(*arguments)


class Model(nn.Module):
    """A layer between an embedding of [N, 6] and the classes, and what `forward` makes of it."""

    def __init__(self, inner=None):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.inner = inner or nn.Identity()

    def forward(self, x):
        return self.head(self.hidden(self.embed(x)))

    def hidden(self, h):
        return self.inner(h)


class Functional(Model):
    def hidden(self, h):
        return F.dropout(h, 0.4, training=self.training)


class Recurrent(Model):
    def __init__(self):
        super().__init__(nn.LSTM(8, 8, num_layers=2, dropout=0.4, batch_first=True))

    def hidden(self, h):
        return self.inner(torch.stack([h, h.flip(1)], dim=1))[0][:, -1]


class Attention(Model):
    def __init__(self):
        super().__init__(nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True))

    def hidden(self, h):
        h = torch.stack([h, h.flip(1), 2 * h], dim=1)
        return self.inner(h, h, h)[0].mean(dim=1)


class Transformer(Model):
    def __init__(self):
        super().__init__(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True))

    def hidden(self, h):
        return self.inner(torch.stack([h, h.flip(1)], dim=1)).mean(dim=1)


class Noisy(Model):
    def hidden(self, h):
        return h + 0.3 * torch.randn_like(h) if self.training else h


class DropsPaths(Model):
    """Stochastic depth: a layer is left out for some samples."""

    def hidden(self, h):
        kept = torch.rand(len(h), 1, dtype=h.dtype) < 0.5 if self.training else 0.5
        return h + kept * torch.tanh(h)


DRAWING = {
    "nn.Dropout": lambda: Model(nn.Dropout(0.4)),
    "nn.Dropout in place": lambda: Model(nn.Dropout(0.4, inplace=True)),
    "nn.AlphaDropout": lambda: Model(nn.AlphaDropout(0.3)),
    "nn.FeatureAlphaDropout": lambda: Model(nn.FeatureAlphaDropout(0.3)),
    "nn.RReLU": lambda: Model(nn.RReLU()),
    "a sequence with dropout": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES)
    ),
    "F.dropout": Functional,
    "LSTM(dropout=)": Recurrent,
    "MultiheadAttention(dropout=)": Attention,
    "TransformerEncoderLayer(dropout=)": Transformer,
    "noise": Noisy,
    "stochastic depth": DropsPaths,
}


def federation(sizes=(7, 4, 9), dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(n, 6, generator=generator, dtype=dtype),
            torch.randint(CLASSES, (n,), generator=generator),
        )
        for n in sizes
    ]


def train(model, method="fedavg", clients=None, **options):
    if "schedule" not in options:
        options = {"rounds": 3, "clients_per_round": 2, **options}
    options = {"lr": 0.1, "batch_size": 3, "local_steps": 3, **options}
    clients = federation() if clients is None else clients
    return fedgloss.train(model, clients, method, **options)


# Randomness inside a model


@pytest.mark.parametrize("name", DRAWING)
def test_a_models_own_draws_follow_from_the_seed(name):
    model = seeded(DRAWING[name]).double()
    torch.manual_seed(1)
    first = train(model, seed=5)
    torch.manual_seed(2)
    drawn = switches.generators()
    assert torch.equal(train(model, seed=5).history, first.history)
    assert switches.generators() == drawn, "the program's own generators are left alone"
    assert first.backend == "loop"
    schedule = [[0, 1]] * 3  # the same mini-batches, as a client is taken whole
    whole = {"schedule": schedule, "batch_size": None, "local_steps": 1}
    assert not torch.equal(train(model, seed=1, **whole).w, train(model, seed=2, **whole).w)


@pytest.mark.parametrize("name", DRAWING)
def test_the_draws_depend_on_the_client_and_not_on_who_came_before(name):
    model = seeded(DRAWING[name]).double()
    ours = train(model, schedule=[[0, 1, 2], [2, 0]], keep_history=True)
    theirs = train(model, schedule=[[2, 0, 1], [0, 2]], keep_history=True)
    assert torch.allclose(ours.history, theirs.history, rtol=1e-10, atol=1e-12)
    alone = train(model, schedule=[[1]])
    assert torch.equal(alone.locals[0], train(model, schedule=[[0, 1]]).locals[1])


@pytest.mark.parametrize("name", DRAWING)
def test_both_gradients_of_sam_are_of_one_function(name):
    """With no radius FedSAM is FedAvg, which it is only if both of its passes drop the same."""
    model = seeded(DRAWING[name]).double()
    sam = train(model, "fedsam", hyperparameters={"rho_l": 0.0})
    assert torch.allclose(sam.history, train(model).history, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", DRAWING)
def test_evaluation_is_in_eval_mode_and_leaves_the_mode_alone(name):
    model = seeded(DRAWING[name]).double()
    x, y = test = federation()[2]
    result = train(model, test=test)
    assert result.model.training and model.training
    outputs = copy.deepcopy(result.model).eval()(x)
    assert result.metrics[-1]["loss"] == pytest.approx(F.cross_entropy(outputs, y).item())
    assert result.metrics[-1]["accuracy"] == pytest.approx(
        100 * (outputs.argmax(1) == y).double().mean().item()
    )


class DrawsForSome(Model):
    """Dropout for large inputs alone, which no trial of a few samples meets."""

    def hidden(self, h):
        return F.dropout(h, 0.5, self.training and bool((h > 20).any()))


def test_draws_for_some_inputs_alone_are_seeded_too():
    clients = federation((12, 12))
    clients[1][0][11] *= 1000
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = switches.generators()
        model = seeded(DrawsForSome).double()
        runs.append(train(model, clients=clients, epochs=2, local_steps=None, test=clients[1]).w)
        assert switches.generators() == before
    assert torch.equal(*runs)


def test_trainings_in_threads_take_turns():
    model = seeded(DRAWING["nn.Dropout"]).double()
    alone = [train(model, seed=seed).w for seed in range(4)]
    before = switches.read()
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda seed: train(model, seed=seed).w, range(4))
    assert all(map(torch.equal, together, alone))
    assert switches.differences(before) == []


def test_a_model_given_in_eval_mode_is_trained_in_it():
    model = seeded(DRAWING["nn.Dropout"]).double().eval()
    ours, plain = train(model), train(seeded(Model).double())
    assert torch.allclose(ours.w, plain.w, rtol=1e-10, atol=1e-12)
    assert not ours.model.training


def test_modes_are_kept_part_by_part():
    model = seeded(DRAWING["a sequence with dropout"]).double()
    model[2].eval()
    result = train(model, test=federation()[0])
    assert [part.training for part in result.model] == [True, True, False, True]


# Models that cannot work


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


def spectral():
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, CLASSES)))


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
    "a class": (lambda: Model, "model: expected a torch.nn.Module, got type"),
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


# Models that look odd, and work


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


@pytest.mark.parametrize("name", ODD)
def test_a_model_trains_as_autograd_says(name):
    """Full batches of one client: plain gradient descent, here by PyTorch's own optimiser."""
    model = seeded(ODD[name]).double()
    clients = federation((6,))
    whole = {"local_steps": 1, "batch_size": None}
    result = train(model, clients=clients, schedule=[[0]] * 4, **whole)
    evaluated = train(model, clients=clients, schedule=[[0]] * 4, test=clients[0], **whole)
    assert torch.equal(result.history, evaluated.history)
    plain = copy.deepcopy(model)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(4):
        optimiser.zero_grad()
        F.cross_entropy(plain(clients[0][0]), clients[0][1]).backward()
        optimiser.step()
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
    plain = copy.deepcopy(model)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        optimiser.step()
    if not ZOO[name].draws:
        expected = torch.cat([p.detach().flatten() for p in plain.parameters()])
        assert torch.allclose(result.w, expected, rtol=1e-10, atol=1e-12)
        loss = F.cross_entropy(plain.eval()(x), y).item()
        assert result.metrics[-1]["loss"] == pytest.approx(loss, rel=1e-9)
