"""What makes two calls of `fedgloss.train` the same run (engine/digest.py)."""

import functools
import importlib
import json
import os
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedgloss.algorithms.core import Named
from fedgloss.engine.digest import identify
from test_resume import double, halve, network

HELPERS = '''
"""A user's module."""
FACTOR = 0.5

def twice(x):
    return 2 * x
'''
METHODS = """
import functools, json, random, sys, threading
import torch, torch.nn.functional as F
from torch import nn
import fedgloss, helpers
from fedgloss.algorithms import build_algorithm
from fedgloss.algorithms.core import Algorithm, mean
from fedgloss.engine.digest import identify

STEP = 1.0
NAMES = {"b", "a", "c", "dd", "ee"}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.names = nn.Linear(4, 3), NAMES

    def forward(self, x):
        return helpers.twice(self.layer(x))

class Focal:
    def __init__(self, gamma):
        self.gamma, self.lock, self.file = gamma, threading.Lock(), open(__file__)

    def __call__(self, output, target):
        return (1 - F.softmax(output, 1)).pow(self.gamma).mean()

def hooked(kwargs_first):
    layer = nn.ReLU()
    for _ in range(random.randrange(5)):  # the handles are numbered through all models
        nn.ReLU().register_forward_hook(print)
    layer.register_forward_hook(print, with_kwargs=kwargs_first)
    layer.handle = layer.register_forward_hook(print, with_kwargs=not kwargs_first)
    return layer

# Each is found to be something else from within the other, and a set begins anywhere.
def even(n):
    return n == 0 or odd(n - 1)

def odd(n):
    return n != 0 and even(n - 1)

class Names(set):
    pass

@functools.cache
def table():
    return STEP

@torch.no_grad()
def decorated(x):
    return x * STEP

def mine(factor):
    def aggregate(w, down, up, s, h):
        return w - STEP * factor * helpers.FACTOR * mean(down.w - up.w, h.p), s
    return Algorithm("mine", lambda grad, W, down, c, h: (grad(W), c), aggregate)

handle, thing = open(__file__), object()
VALUES = {
    "built-in": build_algorithm("fedgloss", "recommended"),
    "other built-in": build_algorithm("fedgloss", "paper"),
    "mine": mine(0.1),
    "lambda": lambda output, target: STEP * F.mse_loss(output, target),
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])),
    "partial": functools.partial(F.cross_entropy, label_smoothing=0.1),
    "object": Focal(2.0),
    "bound": Focal(2.0).__call__,
    "model": Net(),
    "open file": lambda output, target: (handle, thing, F.mse_loss(output, target)),
    "set": NAMES,
    "cached": table,
    "decorated": decorated,
    "function": F.cross_entropy,
    "operator": torch.relu,
    "dict": {"a": 1, "b": 2},
    "other dict": {"b": 2, "a": 1},
    "modules": nn.ModuleDict({"a": nn.ReLU(), "b": nn.Tanh()}),
    "other modules": nn.ModuleDict({"b": nn.Tanh(), "a": nn.ReLU()}),
    "hooks": hooked(True),
    "other hooks": hooked(False),
    "recursive": lambda n: (even(n), odd(n)),
    "set of functions": {even, odd},
    "own set": Names(NAMES),
}

if __name__ == "__main__":
    print(json.dumps({name: identify(value) for name, value in VALUES.items()}))
"""


@pytest.fixture
def identities(tmp_path):
    """The identities that a process of its own finds; first in the text of its files."""

    def identities(old="", new="", as_module=True):
        for name, text in (("helpers", HELPERS), ("methods", METHODS)):
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if old else text)
        code = "import methods as m, json; print(json.dumps({n: m.identify(v) for n, v in"
        call = ["-c", f"{code} m.VALUES.items()}}))"] if as_module else [tmp_path / "methods.py"]
        path = os.pathsep.join([str(tmp_path), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "random"}
        found = subprocess.run(
            [sys.executable, *call], env=environment, capture_output=True, text=True, check=True
        )
        return json.loads(found.stdout)

    return identities


@pytest.mark.parametrize("as_module", [True, False], ids=["module", "script"])
def test_identities_are_equal_in_every_process(identities, as_module):
    first = identities(as_module=as_module)
    assert len({*first.values()}) == len(first), "all of them differ"
    assert identities(as_module=as_module) == first
    assert identities("STEP = 1.0", "\n\n# A comment.\nSTEP = 1.0", as_module=as_module) == first


@pytest.mark.parametrize(
    ("old", "new", "differ"),
    [
        ("mine(0.1)", "mine(0.2)", {"mine"}),
        ("STEP = 1.0", "STEP = 1.5", {"mine", "lambda", "cached", "decorated"}),
        ("FACTOR = 0.5", "FACTOR = 0.6", {"mine", "model"}),
        ("2 * x", "3 * x", {"mine", "model"}),
        ("return w - STEP", "return w + STEP", {"mine"}),
        ("(grad(W), c)", "(2 * grad(W), c)", {"mine"}),
        ("2.0, 3.0]", "2.0, 3.5]", {"weighted"}),
        ("label_smoothing=0.1", "label_smoothing=0.2", {"partial"}),
        ("Focal(2.0)", "Focal(3.0)", {"object", "bound"}),
        ("(1 - F", "(2 - F", {"object", "bound"}),
        ("manual_seed(0)", "manual_seed(1)", {"model"}),
        ('"ee"}', '"ef"}', {"set", "model", "own set"}),
        ("n != 0", "n > 0", {"recursive", "set of functions"}),
        ("F.mse_loss", "F.l1_loss", {"lambda", "open file"}),
    ],
)
def test_what_changes_a_number_changes_the_identity(identities, old, new, differ):
    before, after = identities(), identities(old, new)
    assert {name for name in before if before[name] != after[name]} == differ


def test_an_identity_has_the_bytes_of_tensors_and_arrays():
    x = torch.arange(12.0).reshape(3, 4)
    assert identify(x) == identify(x.clone()) == identify(x.T.contiguous().T)
    assert identify(x) != identify(x.reshape(4, 3)) != identify(x.double().reshape(4, 3))
    array = x.numpy()
    assert identify(array) == identify(np.asfortranarray(array)) != identify(array.T)
    for odd in (torch.zeros(0, 3), torch.tensor(1.0), torch.zeros(3, dtype=torch.complex64)):
        assert identify(odd) == identify(odd.clone())
    assert identify(torch.eye(3).to_sparse()) == identify(torch.eye(3))


def test_values_alike_are_told_apart():
    values = [0, 0.0, -0.0, False, None, "", b"", (), [], {}, set(), "0", (0,), [0], [[0]], ([0],)]
    assert len({identify(value) for value in values}) == len(values)


def test_what_contains_itself_is_identified():
    def loop():
        ring: list = [1]
        ring.append(ring)
        return Named(ring=ring)

    assert identify(loop()) == identify(loop())


def test_functions_typed_into_a_console_have_identities():
    def typed(factor, constant):
        names = {"F": F, "factor": factor}
        exec(f"def loss(a, b):\n return factor * F.mse_loss(a, b) + {constant}", names)
        return names["loss"]

    assert identify(typed(1, 2)) == identify(typed(1, 2))
    assert len({identify(typed(*numbers)) for numbers in ((1, 2), (2, 2), (1, 3))}) == 3


def test_what_a_script_sets_in_a_module_of_its_own_counts(tmp_path, monkeypatch):
    """And what a reload of it, as in a notebook, changes; another attribute does not."""
    (tmp_path / "settings.py").write_text("import settings_too as too\nrate, other = 1.0, 0\n")
    (tmp_path / "settings_too.py").write_text("def scaled(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = importlib.import_module("settings")

    def loss(a, b):
        return settings.too.scaled(F.mse_loss(a, b)) / settings.rate

    def imports(a, b):
        import settings

        return F.mse_loss(a, b) / settings.rate

    before = identify(loss), identify(imports)
    settings.other = 1
    assert (identify(loss), identify(imports)) == before
    settings.rate = 5.0
    changed = identify(loss), identify(imports)
    assert changed[0] != before[0] and changed[1] != before[1]
    (tmp_path / "settings_too.py").write_text("def scaled(x):\n    return 3 * x  # now\n")
    importlib.reload(settings.too)
    assert identify(loss) != changed[0] and identify(imports) == changed[1]


def test_defaults_and_partials_count():
    def loss(a, b, scale=1.0, *, power=2):
        return scale * (a - b).pow(power).mean()

    def other(a, b, scale=1.0, *, power=3):
        return scale * (a - b).pow(power).mean()

    losses = [loss, other, *(functools.partial(loss, scale=scale) for scale in (2.0, 3.0))]
    assert len({*map(identify, losses)}) == 4


def test_the_order_of_a_dict_counts_and_that_of_a_set_does_not():
    for kind in (dict, OrderedDict, lambda pairs: Named(**dict(pairs))):
        one, other = kind([("a", 1), ("b", 2)]), kind([("b", 2), ("a", 1)])
        assert identify(one) == identify(kind([("a", 1), ("b", 2)])) != identify(other)
    # 0 and 8 lie in the same place of a small set: the first that comes takes it.
    assert list({0, 8}) != list({8, 0})
    assert identify({0, 8}) == identify({8, 0}) != identify(frozenset({0, 8}))


def test_the_order_of_what_a_class_defines_does_not_count():
    def made(*names):
        return type("Made", (), {name: {"a": 1, "b": 2}[name] for name in names})

    assert identify(made("a", "b")) == identify(made("b", "a")) != identify(made("a"))


KINDS = {
    "forward": lambda module, hook: module.register_forward_hook(hook),
    "forward, with kwargs": lambda module, hook: module.register_forward_hook(
        hook, with_kwargs=True
    ),
    "forward, always": lambda module, hook: module.register_forward_hook(hook, always_call=True),
    "before": lambda module, hook: module.register_forward_pre_hook(hook),
    "before, with kwargs": lambda module, hook: module.register_forward_pre_hook(
        hook, with_kwargs=True
    ),
    "backward": lambda module, hook: module.register_full_backward_hook(hook),
    "before backward": lambda module, hook: module.register_full_backward_pre_hook(hook),
    "state": lambda module, hook: module.register_state_dict_post_hook(hook),
    "before state": lambda module, hook: module.register_state_dict_pre_hook(hook),
    "load": lambda module, hook: module.register_load_state_dict_post_hook(hook),
    "before load": lambda module, hook: module.register_load_state_dict_pre_hook(hook),
}


def registered(kind, *hooks):
    module = nn.ReLU()
    module.handles = [KINDS[kind](module, hook) for hook in hooks]
    return module


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_is_what_it_does_and_not_its_number(kind):
    one = registered(kind, halve, double)
    assert identify(one) == identify(registered(kind, halve, double))
    others = [one, *(registered(kind, *hooks) for hooks in ((double, halve), (halve,), ()))]
    assert len({*map(identify, others)}) == 4


def test_every_kind_of_hook_is_another():
    assert len({identify(registered(kind, halve)) for kind in KINDS}) == len(KINDS)


def test_which_of_two_hooks_gets_the_keywords_counts():
    def model(first):
        module = nn.ReLU()
        module.register_forward_hook(halve, with_kwargs=first)
        module.register_forward_hook(double, with_kwargs=not first)
        return module

    assert identify(model(True)) == identify(model(True)) != identify(model(False))


def test_a_hook_that_was_removed_leaves_nothing():
    model = network()
    before = identify(model)
    model[1].register_forward_hook(halve).remove()
    assert identify(model) == before
