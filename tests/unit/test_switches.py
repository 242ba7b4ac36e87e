"""The library leaves the process as it found it, whatever the program around it has set before."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import fedgloss
import switches
from cells import cell_settings, job_file, prepare_inputs, train_cell
from fedgloss.algorithms import build_algorithm
from fedgloss.algorithms.core import mean
from fedgloss.cli import main
from refusal import refused

pytestmark = pytest.mark.usefixtures("switches_put_back")


def nothing():
    pass


def older_way():
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = False


def newer_way():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "ieee"


def both_ways():
    """After which the older one can no longer be read."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def other_switches():
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = True
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_num_threads(2)


PROGRAMS = [nothing, older_way, other_switches]
if hasattr(torch.backends, "fp32_precision"):
    PROGRAMS += [newer_way, both_ways]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(params=PROGRAMS, ids=lambda program: program.__name__)
def unchanged(request):
    """A program that has set something; nothing may differ after the test from before it."""
    request.param()
    before, drawn = switches.read(), switches.generators()
    yield
    assert switches.differences(before) == []
    assert switches.generators() == drawn, "global random generators are not the library's"


SETTINGS = cell_settings("fedgloss", rounds=2, last=1, evaluate_every=1)


CLIENTS = [(torch.linspace(-1, 1, 60).view(20, 3) * sign, torch.arange(20) % 2) for sign in (1, -1)]


def linear():
    """A model whose initial values leave the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        return torch.nn.Linear(3, 2)


def test_the_library_trains(unchanged):
    for backend in ("autograd", "auto"):
        fedgloss.train(linear(), CLIENTS, "fedavg", rounds=2, backend=backend)


def test_a_cell_is_trained(unchanged, inputs, tmp_path):
    train_cell(SETTINGS, **inputs, out=tmp_path / "run", code="code", device="cpu")


def test_the_command_trains_and_measures(unchanged, inputs, tmp_path):
    told = {**inputs, "run": tmp_path / "run"}
    jobs = {
        "train": {"settings": SETTINGS, **told},
        "hessian": {**told, "out": tmp_path / "h.json"},
        "landscape": {**told, "out": tmp_path / "l.csv"},
        "line": {**told, "other_run": tmp_path / "run", "out": tmp_path / "b.csv"},
    }
    for kind, entries in jobs.items():
        assert main([kind, job_file(tmp_path / kind, kind, **entries), "--device", "cpu"]) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "tf32"},
        {"precision": "half"},
        {"training": {**SETTINGS["training"], "lr": -1}},
    ],
    ids=["tf32", "half", "lr"],
)
def test_a_run_is_refused(change, unchanged, inputs, tmp_path):
    with refused():
        train_cell(SETTINGS | change, **inputs, out=tmp_path / "run", code="code", device="cpu")


def test_a_device_is_refused(unchanged, inputs, tmp_path):
    with refused("device"):
        train_cell(SETTINGS, **inputs, out=tmp_path / "run", code="code", device="gpu")


def test_the_library_refuses(unchanged):
    with refused("lr"):
        fedgloss.train(linear(), CLIENTS, "fedavg", rounds=1, lr=-1)


@pytest.mark.parametrize("backend", ["autograd", "stacked"])
@pytest.mark.parametrize("kind", ["own method", "images", "resumed"])
def test_the_programs_default_device_changes_nothing(kind, backend, tmp_path):
    def trained(folder):
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(20, 1, 4, 4, generator=generator, device="cpu")
        y = torch.arange(20, device="cpu") % 3
        options = {"algorithm": "scaffold", "test": (x, y)}
        if kind == "own method":
            options["algorithm"] = replace(build_algorithm("scaffold"), aggregate=plain_mean)
        if kind == "images":
            x = (255 * x).to(torch.uint8)
            options["pipeline"] = fedgloss.Pipeline((0.5,), (0.3,), "image_aug", 1)
            options["test"] = (x, y)
        if kind == "resumed":
            options["resume"] = folder
            with pytest.raises(fedgloss.Interrupted):
                fedgloss.train(
                    model, split(x, y), **FEW, **options, backend=backend, should_stop=lambda: True
                )
        return fedgloss.train(model, split(x, y), **FEW, **options, backend=backend)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten())
        model.append(nn.Linear(32, 3))
    expected = trained(tmp_path / "expected")
    torch.set_default_device("meta")
    try:
        found = trained(tmp_path / "found")
    finally:
        torch.set_default_device(None)
    assert torch.equal(found.history, expected.history) and found.metrics == expected.metrics


FEW = {"rounds": 3, "clients_per_round": 2, "lr": 0.1, "batch_size": 3}


def split(x, y):
    return list(zip(x.split([7, 4, 9]), y.split([7, 4, 9]), strict=True))


def plain_mean(w, down, up, s, h):
    return mean(up.w, h.p), s
