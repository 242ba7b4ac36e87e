"""`fedgloss.train(resume=FOLDER)`: a call made again goes on, whole, and only with its own run."""

import functools
import os
import random
import time
from collections import OrderedDict
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedgloss
from fedgloss.algorithms import build_algorithm
from fedgloss.algorithms.core import Algorithm, mean
from fedgloss.engine import assembly, rounds
from fedgloss.engine.clients import ClientData
from fedgloss.engine.federation import Simulation
from fedgloss.engine.folders import resume_folder
from fedgloss.engine.rounds import Run
from fedgloss.engine.server import Server
from fedgloss.engine.state import ClientState
from refusal import refused

SIZES = (7, 4, 9, 5)
RECORD = ("norms", "communication", "delta_epsilon", "consistency", "sharpness")
SHARP = {"rho": 0.05, "rho_l": 0.1, "beta": 10.0}


def samples(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, 1, 4, 4, generator=generator),
        torch.randint(3, (n,), generator=generator),
    )


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))


DRAWN = {"rounds": 9, "clients_per_round": 2}
PLANNED = {"schedule": [[0, 1, 2], [1, 3], [2], [3, 0], [0], [1, 2, 3], [2, 0], [1]]}
RUNS = {
    "fedgloss": DRAWN | {"algorithm": "fedgloss", "hyperparameters": SHARP, "keep": [7, 2, 2, 9]},
    "a schedule": PLANNED | {"algorithm": "fedgloss", "hyperparameters": SHARP},
    "scaffold": DRAWN | {"algorithm": "scaffold", "sizes": [3.0, 1.0, 2.0, 5.0], "local_steps": 3},
    "fedsmoo": DRAWN | {"algorithm": "fedsmoo", "hyperparameters": {"rho": 0.1, "beta": 10.0}},
    "a hopeless loss": DRAWN
    | {"algorithm": "scaffold", "lr": 10.0, "evaluate_every": 6, "keep": [1, 6]},
    "not finite": DRAWN | {"algorithm": "scaffold", "lr": 1e3, "evaluate_every": 9},
    "clipped": DRAWN | {"algorithm": "fedgloss", "hyperparameters": SHARP, "clip": 0.2},
    "pooled": DRAWN | {"algorithm": "centralized-sgd"},
}


def train(model=None, clients=None, **options):
    given = {
        "lr": 0.1,
        "batch_size": 3,
        "weight_decay": 0.01,
        "test": samples(12, seed=9),
        "record": RECORD,
        "last": 3,
        **DRAWN,
        "algorithm": "fedavg",
        **options,
    }
    if "schedule" in options:
        del given["rounds"], given["clients_per_round"]
    clients = [samples(n, seed=k) for k, n in enumerate(SIZES)] if clients is None else clients
    return fedgloss.train(model or network(), clients, **given)


def stop_after(k):
    """Asks a run to end after k more rounds."""
    rounds = iter(range(1, 10**6))
    return lambda: next(rounds) == k


def interrupt(k, **options):
    with pytest.raises(fedgloss.Interrupted, match=r"should_stop asked for it after round \d"):
        train(should_stop=stop_after(k), **options)


def assert_equal(one, other):
    """Two results, to the last bit of everything in them."""
    for name in (field.name for field in fields(fedgloss.Result)):
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, nn.Module):
            a, b = a.state_dict(), b.state_dict()
        if isinstance(a, dict):
            assert a.keys() == b.keys(), name
            assert all(same_bits(a[key], b[key]) for key in a), name
        elif isinstance(a, torch.Tensor):
            assert same_bits(a, b), name
        else:
            assert repr(a) == repr(b), name


def same_bits(a, b):
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))
    )


# The result is whole


@pytest.mark.parametrize("backend", ["autograd", "stacked"])
@pytest.mark.parametrize("name", RUNS)
def test_stopped_at_random_rounds_it_is_bit_equal(name, backend, tmp_path, capsys):
    options = RUNS[name] | {"backend": backend}
    whole = train(**options)
    expected = {"a hopeless loss": 6, "not finite": 3}.get(name)
    assert whole.diverged_in == expected
    options["resume"] = tmp_path / "kept"
    chance, stops = random.Random(f"{name} {backend}"), 0
    while True:
        try:
            resumed = train(
                should_stop=stop_after(chance.randint(1, 2 if expected else 3)), **options
            )
            break
        except fedgloss.Interrupted:
            stops += 1
    assert stops >= (1 if expected else 2)
    assert_equal(whole, resumed)
    assert "goes on after round" in capsys.readouterr().err


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_gives_its_result_again_at_once(name, tmp_path):
    options = RUNS[name] | {"resume": tmp_path / "kept"}
    first, seen = train(**options), []
    again = train(on_round=lambda t, row: seen.append(t), **options)
    assert_equal(first, again)
    assert seen == []


def test_a_run_of_no_rounds_may_be_resumed_too(tmp_path):
    first, again = (train(rounds=0, resume=tmp_path / "kept") for _ in range(2))
    assert_equal(first, again)


def test_a_caller_that_fails_loses_no_round(tmp_path):
    options = {"resume": tmp_path / "kept"}

    def crash(t, row):
        if t == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(on_round=crash, **options)
    assert names(tmp_path) == ["kept"], "the folder has no owner any more"
    seen = []
    result = train(on_round=lambda t, row: seen.append(t), **options)
    assert seen == [7, 8, 9]
    assert_equal(result, train())


def failing(function):
    """NaiveFedGloSS, of which one function fails in round 4 while FAIL is set."""
    method = build_algorithm("naivefedgloss")
    inner = getattr(method, function)

    def maybe(*arguments):
        if os.environ.get("FAIL") and int(arguments[-1].t) == 3:
            raise RuntimeError("late")
        return inner(*arguments)

    return replace(method, **{function: maybe})


@pytest.mark.parametrize("function", ["broadcast", "direction", "finish", "aggregate"])
def test_a_method_that_fails_late_loses_no_round(function, tmp_path, monkeypatch):
    monkeypatch.setattr(assembly, "rehearse", lambda *_: None)  # which would refuse it
    options = DRAWN | {"algorithm": failing(function), "hyperparameters": SHARP}
    expected = train(**options)
    monkeypatch.setenv("FAIL", "1")
    with refused(f"{function} fails in round 4: RuntimeError: late"):
        train(resume=tmp_path / "kept", checkpoint_seconds=1e9, **options)
    monkeypatch.delenv("FAIL")
    done = []
    result = train(resume=tmp_path / "kept", on_round=lambda t, row: done.append(t), **options)
    assert done[0] == 4, "rounds 1 to 3 are kept"
    assert_equal(result, expected)


def interrupting(monkeypatch, owner, function, call, after):
    """Ctrl-C in this call of the function, before or after what it does."""
    inner, calls = getattr(owner, function), iter(range(1, 10**6))

    def interrupted(*arguments, **options):
        hit = next(calls) == call
        if hit and not after:
            raise KeyboardInterrupt
        result = inner(*arguments, **options)
        if hit:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(owner, function, interrupted)


SHORT = RUNS["fedgloss"] | {"rounds": 4, "last": 2, "keep": [2]}
INSIDE = {
    (ClientState, "gather"): (2, 4),
    (Server, "aggregate"): (2, 4),
    (Simulation, "_count"): (2, 4),
    (ClientState, "scatter"): (2, 4),
    (Simulation, "note_round"): (2, 4),
    (rounds, "advance"): (2, 4),
    (rounds, "evaluate"): (2, 4),
    (rounds, "sharpness"): (2, 4),
    (Run, "after_round"): (2, 4),
    (Run, "finish"): (1,),
    (Run, "save"): (1,),
}
"""Where Ctrl-C may come, and in which calls."""


@pytest.fixture(scope="module")
def short():
    return train(**SHORT)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "function"), INSIDE, ids=[name for _, name in INSIDE])
def test_interrupted_inside_a_round_it_is_bit_equal(
    owner, function, after, short, tmp_path, monkeypatch
):
    """A round half written down is not kept; one that is done is, evaluated or not."""
    for call in INSIDE[owner, function]:
        options = SHORT | {"resume": tmp_path / str(call)}
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupting(patch, owner, function, call, after)
            train(**options)
        assert_equal(train(**options), short)


@pytest.mark.parametrize(
    ("name", "calls"), {"fedgloss": (1, 9), "a hopeless loss": (1,), "pooled": (9,)}.items()
)
def test_an_evaluation_that_fails_loses_no_round(name, calls, tmp_path, monkeypatch, capsys):
    """It is made again, that of the last round too."""
    whole = train(**RUNS[name])
    for call in calls:
        options, told = RUNS[name] | {"resume": tmp_path / str(call)}, []
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupting(patch, rounds, "evaluate", call, after=False)
            train(**options)
        t = call * options.get("evaluate_every", 1)
        assert f"round-{t:07d}.safetensors" in names(tmp_path / str(call))
        result = train(on_round=lambda t, row, told=told: told.append(t), **options)
        assert told == [*range(t, 10 if whole.diverged_in is None else t + 1)]
        assert f"goes on after round {t} of 9" in capsys.readouterr().err
        assert_equal(result, whole)


def test_nor_one_that_fails_in_the_first_round_of_a_call(tmp_path, monkeypatch):
    interrupt(3, resume=tmp_path / "kept")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupting(patch, rounds, "evaluate", 1, after=False)
        train(resume=tmp_path / "kept")
    assert "round-0000004.safetensors" in names(tmp_path / "kept")


def test_a_metric_that_fails_late_loses_no_round(tmp_path, monkeypatch):
    def late(outputs, targets):
        calls.append(1)
        if os.environ.get("FAIL") and len(calls) == 6:
            raise ValueError("late")
        return len(outputs)

    calls: list[int] = []
    monkeypatch.setenv("FAIL", "1")
    with refused("metrics: 'mine': ValueError: late"):
        train(metrics={"mine": late}, resume=tmp_path / "kept")
    monkeypatch.delenv("FAIL")
    assert "round-0000005.safetensors" in names(tmp_path / "kept")


def test_the_last_stop_may_be_in_the_round_that_diverges(tmp_path):
    options = RUNS["not finite"] | {"resume": tmp_path / "kept"}
    whole = train(**RUNS["not finite"])
    interrupt(whole.diverged_in, **options)
    assert_equal(whole, train(**options))


def test_asked_to_stop_in_its_last_round_it_ends():
    assert_equal(train(should_stop=stop_after(9)), train())


# The history lies in pieces


def names(folder):
    return sorted(os.listdir(folder))


def test_each_round_of_the_history_is_written_once(tmp_path):
    for k in (2, 3):
        interrupt(k, resume=tmp_path / "kept")
    assert names(tmp_path / "kept") == [
        "history-0000000-0000002.safetensors",
        "history-0000002-0000005.safetensors",
        "round-0000002.safetensors",
        "round-0000005.safetensors",
    ]


def test_without_a_history_there_are_no_pieces(tmp_path):
    options = {"resume": tmp_path / "kept", "keep_history": False}
    interrupt(2, **options)
    assert names(tmp_path / "kept") == ["round-0000002.safetensors"]
    assert train(**options).history is None


@pytest.mark.parametrize("damaged", ["round-0000005", "history-0000002-0000005"])
def test_pieces_after_the_checkpoint_that_is_taken_are_ignored(damaged, tmp_path, capsys):
    options = {"resume": tmp_path / "kept"}
    interrupt(2, **options)
    interrupt(3, **options)
    path = tmp_path / "kept" / f"{damaged}.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    interrupt(4, **options)
    said = capsys.readouterr().err
    assert f"passed over: {path}: the contents do not match" in said
    assert "goes on after round 2 of 9" in said
    assert [name for name in names(tmp_path / "kept") if "history" in name] == [
        "history-0000000-0000002.safetensors",
        "history-0000002-0000006.safetensors",
    ]
    assert_equal(train(**options), train())


def test_a_piece_that_is_gone_costs_its_checkpoints_and_no_more(tmp_path, capsys):
    interrupt(4, resume=tmp_path / "kept")
    (tmp_path / "kept" / "history-0000000-0000004.safetensors").unlink()
    assert_equal(train(resume=tmp_path / "kept"), train())
    assert "history-0000000-0000004.safetensors: cannot be read" in capsys.readouterr().err
    train(resume=tmp_path / "kept")
    assert capsys.readouterr().err == "was finished after round 9 of 9\n"


# Another run is refused


def scaled(factor):
    return lambda output, target: factor * F.cross_entropy(output, target)


def other_clients():
    clients = [samples(n, seed=k) for k, n in enumerate(SIZES)]
    clients[2][0][1, 0, 3, 3] += 1e-6
    return clients


def method(constant):
    """A method of the user's own."""

    def aggregate(w, down, up, s, h):
        return w - constant * mean(down.w - up.w, h.p), s

    return Algorithm("mine", lambda grad, W, down, c, h: (grad(W), c), aggregate)


OTHER = {
    "algorithm or variants": {"algorithm": method(0.6)},
    "lr": {"lr": 0.2},
    "weight_decay": {"weight_decay": 0.0},
    "clip": {"clip": 10.0},
    "seed": {"seed": 1},
    "rounds": {"rounds": 10},
    "clients_per_round": {"clients_per_round": 3},
    "batch_size": {"batch_size": None},
    "epochs": {"epochs": 2},
    "local_steps": {"local_steps": 1},
    "sizes": {"sizes": [1.0, 1.0, 1.0, 2.0]},
    "evaluate_every": {"evaluate_every": 2},
    "last": {"last": 1},
    "record": {"record": ["norms"]},
    "test": {"test": samples(12, seed=10)},
    "keep": {"keep": [5]},
    "keep_history": {"keep_history": False},
    "backend": {"backend": "autograd"},
    "loss": {"loss": scaled(3.0)},
    "initial parameters": {"model": network(seed=1)},
    "clients": {"clients": other_clients()},
}


@pytest.mark.parametrize("differs", OTHER)
def test_the_checkpoints_of_another_run_are_refused_and_stay(differs, tmp_path):
    ours = {"algorithm": method(0.5), "loss": scaled(2.0), "resume": tmp_path / "kept"}
    interrupt(4, **ours)
    before = {path: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    whole = f"resume: {tmp_path / 'kept'} holds the checkpoints of another run ({differs} differ)"
    with refused(whole, "name another folder or remove it"):
        train(**ours | OTHER[differs])
    assert {path: path.read_bytes() for path in (tmp_path / "kept").iterdir()} == before
    assert names(tmp_path) == ["kept"]


class Timed(nn.Module):
    """It notes in itself when it was called, as a loss and a metric of the same kind do."""

    def __init__(self, call, *parts):
        super().__init__()
        self.call, self.parts, self.times = call, nn.ModuleList(parts), []

    def forward(self, *arguments):
        self.times.append(time.perf_counter())
        return self.call(self.parts, *arguments)


def test_what_is_noted_while_a_run_is_tried_out_and_trained_makes_it_no_other(tmp_path):
    model = Timed(lambda parts, x: parts[0](x), network())
    loss = functools.partial(Timed, lambda parts, z, y: F.cross_entropy(z, y))
    ours = {"model": model, "backend": "autograd"}
    kept = {"resume": tmp_path / "kept", **ours}
    interrupt(4, **kept, loss=loss(), metrics={"mine": loss()})
    resumed = train(**kept, loss=loss(), metrics={"mine": loss()})
    whole = train(**ours, loss=loss(), metrics={"mine": loss()})
    assert torch.equal(resumed.w, whole.w)


def test_a_damaged_one_hides_no_others_of_another_run(tmp_path):
    for k in (2, 3):
        interrupt(k, resume=tmp_path / "kept")
    os.truncate(tmp_path / "kept" / "round-0000005.safetensors", 100)
    with refused("another run (seed differ)"):
        train(resume=tmp_path / "kept", seed=1)


def test_hyperparameters_and_variants_and_the_schedule_tell_runs_apart(tmp_path):
    ours = RUNS["a schedule"] | {"resume": tmp_path / "kept", "backend": "autograd"}
    interrupt(4, **ours)
    with refused("another run (hyperparameters differ)"):
        train(**ours | {"hyperparameters": SHARP | {"rho": 0.06}})
    with refused("another run (algorithm or variants differ)"):
        train(**ours | {"variants": "paper"})
    with refused("another run (schedule differ)"):
        train(**ours | {"schedule": [*PLANNED["schedule"][:-1], [2]]})
    with refused("another run (model differ)"):
        train(nn.Sequential(*network()[:2], nn.Tanh(), network()[3]), **ours)


def test_a_checkpoint_says_nothing_of_clipping_where_there_is_none(tmp_path):
    for name, clip in (("plain", {}), ("clipped", {"clip": 10})):
        train(rounds=2, last=1, resume=tmp_path / name, **clip)
        [checkpoint] = (tmp_path / name).glob("round-*")
        assert (b"clip\\" in checkpoint.read_bytes()) == bool(clip)
    for other in ({"clip": 9}, {}):
        with refused("another run (clip differ)"):
            train(rounds=2, last=1, resume=tmp_path / "clipped", **other)


def test_the_same_run_may_be_said_in_other_words(tmp_path):
    interrupt(4, resume=tmp_path / "kept", **RUNS["fedgloss"])
    x, y = (torch.cat(parts) for parts in zip(*map(samples, SIZES, range(4)), strict=True))
    clients = ClientData(x, y, torch.arange(len(x)).split(SIZES))
    words = {
        "seed": np.int64(0),
        "lr": np.float64(0.1),
        "hyperparameters": {"beta": 10, "rho_l": 0.1, "rho": 0.05},
        "record": RECORD[::-1],
        "variants": {},
    }
    result = train(clients=clients, resume=str(tmp_path / "kept"), **RUNS["fedgloss"] | words)
    assert_equal(result, train(**RUNS["fedgloss"]))


class Parts(nn.Module):
    """Calls its parts, and those that it keeps in a plain dict, one after the other."""

    def __init__(self, parts, more=None):
        super().__init__()
        self.parts, self.more = parts, more or {}

    def forward(self, x):
        for part in (*self.parts.values(), *self.more.values()):
            x = part(x)
        return x


def layers(names):
    flat, linear, *_, last = network()
    made = {"flat": flat, "linear": linear, "relu": nn.ReLU(), "tanh": nn.Tanh(), "last": last}
    return {name: made[name] for name in names.split()}


MODELS = {
    "OrderedDict": lambda a, b: nn.Sequential(OrderedDict(layers(f"flat linear {a} {b} last"))),
    "ModuleDict": lambda a, b: Parts(nn.ModuleDict(layers(f"flat linear {a} {b} last"))),
    "dict": lambda a, b: Parts(nn.ModuleDict(layers("flat linear last")), layers(f"{a} {b}")),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_of_the_same_parts_in_another_order_is_another(kind, tmp_path):
    model, options = MODELS[kind], {"resume": tmp_path / "kept", "rounds": 3}
    result = train(model("relu", "tanh"), **options)
    with refused("another run (model differ)"):
        train(model("tanh", "relu"), **options)
    assert_equal(result, train(model("relu", "tanh"), **options))


def halve(module, args, output):
    return output / 2


def double(module, args, output):
    return output * 2 + 1


def hooked(*hooks):
    model = network()
    for hook in hooks:
        model[1].register_forward_hook(hook)
    return model


def test_a_model_with_hooks_may_be_made_again(tmp_path):
    options = {"resume": tmp_path / "kept", "rounds": 3, "backend": "autograd"}
    result = train(hooked(halve, double), **options)
    assert_equal(result, train(hooked(halve, double), **options))
    for other in (hooked(), hooked(halve), hooked(double, halve)):
        with refused("another run (model differ)"):
            train(other, **options)


def test_a_run_of_another_folder_is_not_disturbed_by_a_refusal(tmp_path):
    """It would end at its next look if the refused call had made the folder its own."""

    def intrude(t, row):
        if t == 5:
            with refused("seed differ"):
                train(resume=tmp_path / "kept", seed=1)

    options = {"resume": tmp_path / "kept", "checkpoint_seconds": 0}
    assert_equal(train(on_round=intrude, **options), train())


def test_a_run_taken_up_by_another_call_leaves_its_place(tmp_path, capsys):
    results = []

    def intrude(t, row):
        if t == 5:
            results.append(train(resume=tmp_path / "kept"))

    with pytest.raises(fedgloss.Interrupted, match=r"kept\.owner: another process has taken over"):
        train(on_round=intrude, resume=tmp_path / "kept", checkpoint_seconds=0)
    assert "another process has taken over" in capsys.readouterr().err
    assert_equal(results[0], train())
    assert_equal(train(resume=tmp_path / "kept"), train())


# What cannot be used


@pytest.mark.parametrize("resume", [7, True, "", b"kept", ["kept"], "a\0b"])
def test_what_is_no_folder_is_refused(resume):
    with refused("resume:"):
        train(resume=resume)


def test_files_and_places_under_files_are_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for resume in (file, file / "kept", file / "a" / "b"):
        with refused("resume:", resume, f"{file} is a file"):
            train(resume=resume)
    with refused("resume: /"):
        train(resume="/")


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="there is no /proc")
def test_a_place_where_nothing_can_be_made_is_refused_even_to_root():
    with refused("resume: /proc/xx/y is not writable"):
        train(resume="/proc/xx/y")


def test_a_folder_of_other_things_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with refused(f"resume: {tmp_path} holds other files and no checkpoint"):
        train(resume=tmp_path)
    assert names(tmp_path) == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".gitkeep").touch()
    assert_equal(train(resume=tmp_path / "empty"), train())
    (tmp_path / "empty" / "notes.txt").write_text("beside checkpoints it may lie")
    assert_equal(train(resume=tmp_path / "empty"), train())


def test_a_look_at_a_folder_leaves_nothing_there(tmp_path):
    assert resume_folder(tmp_path / "a" / "b", 1.0) == tmp_path / "a" / "b"
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["n" * 5000, "n/" * 2500, b"n" * 5000], ids=["one name", "many", "bytes"]
)
def test_a_path_that_is_far_too_long_is_refused_in_a_short_line(name):
    with pytest.raises(fedgloss.InputError, match=r"resume: .*n") as caught:
        train(resume=name)
    assert len(str(caught.value)) < 200


def test_a_folder_in_which_no_file_could_be_named_is_refused(tmp_path):
    longest = os.pathconf(tmp_path, "PC_PATH_MAX")
    deep = f"{tmp_path}{'/n' * ((longest - len(str(tmp_path))) // 2 - 10)}"
    with refused("resume:", "cannot be used as a folder"):
        train(resume=deep)


@pytest.mark.parametrize("value", [-1, float("nan"), "5", None, True])
def test_seconds_that_are_none_are_refused(value, tmp_path):
    with refused("checkpoint_seconds:", repr(value)):
        train(resume=tmp_path / "kept", checkpoint_seconds=value)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_keep_history_is_a_truth_value(value):
    with refused("keep_history:", repr(value), "True, False"):
        train(keep_history=value)
