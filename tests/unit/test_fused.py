"""The fused kernels, their arithmetic and their graphs, in Triton's interpreter on a CPU.

bfloat16 is left out: the interpreter computes nonsense in it.
"""

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are defined

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import test_graph
from refusal import refused

pytest.importorskip("triton", reason="Triton is not installed")

from fedgloss.algorithms import METHODS, build_algorithm, resolve_hyperparameters
from fedgloss.algorithms.core import Algorithm, mean
from fedgloss.engine import arguments
from fedgloss.engine.arguments import choose_backend
from fedgloss.engine.assembly import build_gradients
from fedgloss.engine.backends.autograd import AutogradGradients
from fedgloss.engine.backends.blocks import blocks_of, can_fuse, outputs_fit
from fedgloss.engine.backends.fused import FusedGradients
from fedgloss.engine.backends.graph import WARM_UP, Handover, Replay, room_of
from fedgloss.engine.backends.kernels import convolution
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.cohort import Source
from fedgloss.engine.elementwise import Lazy, _kernel, computed
from fedgloss.engine.federation import Simulation, advance, federation
from fedgloss.engine.flat import flatten
from fedgloss.engine.rehearsal import rehearse
from fedgloss.errors import InputError
from fedgloss.models import build_model

if type(convolution.gather_images).__name__ != "InterpretedFunction":
    pytest.skip("Triton was imported before TRITON_INTERPRET was set", allow_module_level=True)


def deep():
    """Odd sizes, both orders of pooling and ReLU."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(5, 7, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(7 * 2 * 3, 20), nn.ReLU(), nn.Linear(20, 10),
    )  # fmt: skip


def unpooled():
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(5, 6, 3, bias=False),
        nn.ReLU(), nn.Flatten(), nn.Linear(6 * 5 * 4, 10, bias=False),
    )  # fmt: skip


def pooled_by_four():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(6 * 2 * 2, 10)
    )


NETWORKS = {
    "smallcnn": (lambda: build_model("smallcnn", (1, 8, 8), 10), (1, 8, 8), [3, 2]),
    "5x5 and 3x3, odd sizes": (deep, (3, 13, 17), [3, 2]),
    "no pooling, no bias": (unpooled, (1, 7, 6), [2, 3]),
    "pooling by 4": (pooled_by_four, (4, 11, 12), [3, 3]),
    "one linear layer": (lambda: nn.Sequential(nn.Linear(17, 10)), (17,), [3, 1]),
    "flatten first": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(27, 10)), (3, 3, 3), [2, 3]),
    "counts of 0 and 1": (deep, (3, 13, 17), [3, 0, 1]),
    "more images than are turned at once": (
        lambda: headed(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 8, 2)),
        (1, 6, 7),
        [70, 0, 69],
    ),
    "more than a tile": (
        lambda: nn.Sequential(nn.Linear(17, 33), nn.ReLU(), nn.Linear(33, 10, bias=False)),
        (17,),
        [150, 0, 149],
    ),
}


def inputs(model, shape, counts):
    """Different models, images [R, B, ...] and labels."""
    R, B = len(counts), max(counts)
    W = flatten(model).repeat(R, 1)
    W += 0.01 * torch.randn_like(W)
    return W, torch.randn(R, B, *shape), torch.randint(0, 10, (R, B)), counts


def exact(model, W, x, y, counts):
    double = AutogradGradients(model.double(), F.cross_entropy)
    gradients = double(W.double(), x.double(), y, counts)
    model.float()
    return gradients


def relative_errors(found, expected):
    return (found - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-30)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("precision", "bound"), [("float32", 2e-6), ("float16", 5e-2)])
def test_gradients_are_those_of_autograd(name, precision, bound):
    torch.manual_seed(0)
    build, shape, counts = NETWORKS[name]
    model = build()
    assert can_fuse(model, F.cross_entropy, shape)
    given = inputs(model, shape, counts)
    gradients = FusedGradients(model, F.cross_entropy, precision)
    found = gradients(*given)
    assert found.dtype == torch.float32
    assert relative_errors(found, exact(model, *given)).max() < bound
    for row, count in enumerate(counts):
        assert count or not found[row].any()
    assert torch.equal(found, gradients(*given))


def any_network(rng):
    """Up to three convolutions of any size, with what may follow them; the shape of an image."""
    shape = C, H, W = rng.choice([1, 3, 4, 5, 17]), rng.randint(5, 12), rng.randint(5, 12)
    layers = []
    for _ in range(rng.randint(1, 3)):
        k = rng.randint(1, min(5, H, W))
        p, O = rng.randint(0, k - 1), rng.choice([1, 3, 4, 16, 33, 65])  # noqa: E741
        layers.append(nn.Conv2d(C, O, k, padding=p, bias=rng.random() < 0.8))
        C, H, W = O, H + 2 * p - k + 1, W + 2 * p - k + 1
        pool = rng.choice([2, 4])
        after = [nn.ReLU(), nn.MaxPool2d(pool)][: 2 if min(H, W) >= pool else 1]
        chosen = rng.sample(after, rng.randint(0, len(after)))
        layers += chosen
        if any(isinstance(layer, nn.MaxPool2d) for layer in chosen):
            H, W = H // pool, W // pool
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(C * H * W, 7)), shape


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_gradients_of_any_network_are_those_of_autograd(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model, shape = any_network(rng)
    assert can_fuse(model, F.cross_entropy, shape)
    counts = [rng.choice([1, 4, 7, 16, 20]), *rng.sample([0, 1, 2, 5, 16], rng.randint(0, 2))]
    W, x, y, _ = inputs(model, shape, counts)
    found = FusedGradients(model, F.cross_entropy, "float32")(W, x, y % 7, counts)
    assert relative_errors(found, exact(model, W, x, y % 7, counts)).max() < 5e-6


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_nothing_is_read_that_was_not_written(name, precision, monkeypatch):
    """Whatever new memory holds, the gradients are the same."""
    torch.manual_seed(0)
    build, shape, counts = NETWORKS[name]
    gradients = FusedGradients(build(), F.cross_entropy, precision)
    given, found = inputs(build(), shape, counts), []
    for garbage in (0, 7, float("nan")):
        for new in (torch.empty, torch.empty_like):
            monkeypatch.setattr(torch, new.__name__, filled(new, garbage))
        found.append(gradients(*given))
        monkeypatch.undo()
    assert all(torch.equal(found[0], other) for other in found[1:])


def filled(new, garbage):
    def made(*args, **kwargs):
        tensor = new(*args, **kwargs)
        return tensor.fill_(garbage if tensor.is_floating_point() or garbage == garbage else 200)

    return made


def test_tiny_gradients_keep_their_digits_in_float16():
    torch.manual_seed(0)
    model = deep()
    with torch.no_grad():
        model[-1].bias[0] += 17  # confident
    W, x, y, counts = inputs(model, (3, 13, 17), [3, 2])
    y = torch.zeros_like(y)  # and right
    expected = exact(model, W, x, y, counts)
    assert expected.norm(dim=1).max() < 1e-5
    found = FusedGradients(model, F.cross_entropy, "float16")(W, x, y, counts)
    assert relative_errors(found, expected).max() < 5e-2


COMPILED = ("cnn tf32 64", "cnn float16 64", "cnn tf32 64 2", "linear tf32 150")


@pytest.fixture(scope="module")
def seen_in_compiled(tmp_path_factory):
    """What `compiled.py` prints of all cases."""
    script, folder = Path(__file__).with_name("compiled.py"), tmp_path_factory.mktemp("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, script, *COMPILED], env=environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return [line.split(": ", 1) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("case", COMPILED)
def test_no_product_reads_what_is_being_overwritten(case, seen_in_compiled):
    """As compiled for an H100: else a result would depend on timing (see kernels/__init__.py)."""
    *lines, summary = (text for of, text in seen_in_compiled if of == case)
    assert not [line for line in lines if "room for" in line or "used again" in line]
    assert int(summary.split()[0]) > 0  # asynchronous products, or nothing was looked at


def test_a_convolutions_operands_in_tf32_are_loaded_as_they_lie_in_memory(seen_in_compiled):
    """Else number by number: with operands that had to be turned on the way, the weights' gradients
    took five times as long as in float16, and the inputs' nearly four times."""
    lines = [text for case, text in seen_in_compiled if case == "cnn tf32 64"]
    scattered = {line.split()[0] for line in lines if line.endswith("number by number")}
    assert scattered == {"linear_input_gradient"}  # whose weights are small, and come as they are


@pytest.mark.parametrize("augmented", [True, False], ids=["augmented", "plain"])
@pytest.mark.parametrize("C", [1, 3])
def test_images_are_read_as_the_pipeline_makes_them(augmented, C):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(C, 4, 3), nn.Flatten(), nn.Linear(4 * 9 * 10, 10))
    images = torch.randint(0, 256, (20, C, 11, 12)).to(torch.uint8)
    index = torch.randint(0, 20, (3, 2, 4))[:, 0]  # rows that do not follow one another
    crops = torch.randint(0, 9, (3, 2, 4, 2))
    draws = torch.cat([crops, torch.randint(0, 2, (3, 2, 4, 1))], -1)[:, 1]
    draws = draws if augmented else None
    pipeline = Pipeline((0.4, 0.5, 0.45)[:C], (0.2, 0.25, 0.22)[:C], "image_aug", 4)
    gradients = FusedGradients(model, F.cross_entropy, "float32")
    found = gradients.read_images(images, index, draws, pipeline)
    assert torch.equal(found[:, :, :C], pipeline(images[index], draws, torch.float32))
    assert not found[:, :, C:].any()


class Again:
    """A graph that asks its branches again."""

    def record(self, branches):
        self.branches = branches

    def replay(self):
        for branch in self.branches:
            branch()


def rounds_of(backend, methods, participants=2, sizes=(22,) * 4):
    torch.manual_seed(0)
    x = torch.randint(0, 256, (sum(sizes), 1, 8, 8)).to(torch.uint8)
    y = torch.randint(0, 10, (sum(sizes),))
    data = ClientData(x, y, torch.arange(sum(sizes)).split(list(sizes)))
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 3, 10)
    )
    gradients = build_gradients(backend, model, F.cross_entropy)
    options = {"batching": Batching(8), "pipeline": Pipeline((0.5,), (0.3,), "image_aug", 1)}
    options["measure"] = ("consistency",)
    found = []
    for method in methods:
        algorithm = build_algorithm(method)
        known = test_graph.HYPERPARAMETERS
        known = {k: v for k, v in known.items() if k in algorithm.hyperparameters}
        hyper = resolve_hyperparameters(algorithm, known)
        cell = federation(
            algorithm, hyper, flatten(model), data,
            lr=0.05, weight_decay=1e-3, participants=participants, seed=0,
        )  # fmt: skip
        found.append(Simulation([cell], gradients, **options))
    return found


def test_recorded_rounds_end_with_smaller_mini_batches():
    """Steps of 8, 8 and 6 samples: their sizes are a strided view of the round's."""
    some, others = rounds_of("fused", ["fedavg"]), rounds_of("autograd", ["fedavg"])
    start = [other.w.clone() for other in others]
    recorded = Replay(some, Again)
    for _ in range(WARM_UP + 1):
        recorded.advance()
        for other in others:
            advance([other])
    assert recorded.graph is not None
    for one, other, w in zip(some, others, start, strict=True):
        assert (one.w - other.w).norm() < 1e-4 * (other.w - w).norm()
        for name, expected in other.measured[0].latest.items():
            assert one.measured[0].latest[name].item() == pytest.approx(expected.item(), rel=1e-3)


def two_rounds(method, lazy, rates=test_graph.OTHER_RATES):
    """The states of two federations, of other seeds, after two rounds.

    Lines of a model are computed in blocks of 1024 values: this one has a block and part of one.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 5))
    [simulation] = test_graph.simulations([method], (7, 3, 5, 5), rates=rates, model=model)
    simulation.gradients.lazy = lazy
    for _ in range(2):
        advance([simulation])
    return {(name, s): value for s in (0, 1) for name, value in simulation.state(s).items()}


@pytest.mark.parametrize("method", METHODS)
def test_lazy_arithmetic_is_the_methods(method):
    found, plain = (two_rounds(method, lazy) for lazy in (True, False))
    for name, expected in plain.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-12)


def clipped_rounds(method, clip, lazy):
    """Of federations alike but for their seeds."""
    return two_rounds(method, lazy, rates=((0.05, clip),) * 2)


@pytest.mark.parametrize("method", ["fedavg", "feddyn", "fedsmoo", "fedgloss"])
def test_lazy_arithmetic_is_clipped(method):
    lazy, plain = (clipped_rounds(method, 0.3, lazy) for lazy in (True, False))
    assert not torch.allclose(plain["w", 0], clipped_rounds(method, None, lazy=False)["w", 0])
    for name, expected in plain.items():
        torch.testing.assert_close(lazy[name], expected, rtol=1e-12, atol=1e-12)
    unreached, without = (clipped_rounds(method, clip, lazy=True) for clip in (1e30, None))
    assert all(torch.equal(unreached[name], without[name]) for name in without)


def lines():
    """Lines with lazy operands, or with the same tensors."""

    def direction(of, W, g, rho, n):
        return of(W) - 0.1 * (of(g) + (of(W) - g) / rho + rho / n * of(g) + 4e-4 * of(W))

    return {
        "direction": direction,
        "mirrored": lambda of, W, g, rho, n: 1 - 2 / (3 - of(W)) * of(g),
        "negative": lambda of, W, g, rho, n: -of(W) + g,
        "tensor first": lambda of, W, g, rho, n: (W + of(g)) * n,
    }


@pytest.mark.parametrize("line", lines())
@pytest.mark.parametrize("P", [36, 37, 1030])
def test_lines_of_whatever_strides(line, P):
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    g, rho = torch.randn(2, 1, P, **double), torch.tensor(0.3, **double)
    n = torch.rand(2, 3, 1, **double) + 1
    whole = torch.randn(2, 3, P, **double)
    part = torch.randn(2, 5, P, **double)[:, 1:4]
    across = torch.randn(2, P, 3, **double).transpose(1, 2)
    for W in (whole, part, across):
        found = computed(lines()[line](Lazy.of, W, g, rho, n))
        expected = lines()[line](lambda tensor: tensor, W, g, rho, n)
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_no_line_is_forgotten():
    """A recorded round goes on launching its kernels, whatever has been compiled since."""
    lines = [(f"(v0 * {i}.0)", (True,)) for i in range(300)]
    kernels = [_kernel(*line) for line in lines]
    assert all(_kernel(*line) is kernel for line, kernel in zip(lines, kernels, strict=True))


def test_lazy_tensors_of_mixed_types_and_under_other_functions():
    torch.manual_seed(0)
    W, whole = torch.randn(2, 3, 8), torch.randint(0, 5, (2, 3, 1))
    for other in (whole, W.double()):
        found, expected = computed(Lazy.of(W) * other), W * other
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    lazy = Lazy.of(W) + 1
    assert torch.equal(torch.linalg.vector_norm(lazy, dim=-1), (W + 1).norm(dim=-1))
    assert torch.equal(lazy.norm(dim=-1, keepdim=True), (W + 1).norm(dim=-1, keepdim=True))
    assert torch.equal(torch.where(W > 0, lazy, W), torch.where(W > 0, W + 1, W))
    assert torch.equal(torch.stack([lazy, lazy]), torch.stack([W + 1, W + 1]))
    assert torch.equal(lazy[0], W[0] + 1)
    assert torch.equal(computed({"a": (lazy, 1)})["a"][0], W + 1)


OTHER_OPERATORS = {
    "powers": lambda v, g: g**2 + 2.0**v,
    "abs": lambda v, g: g + abs(v),
    "comparisons": lambda v, g: torch.where((v > 0) & (g <= v), g, 2 * g) + (v < 0) + (v >= g),
    "equality": lambda v, g: g * (1 + (v == v + 0)) + (v != g),
    "remainders": lambda v, g: g % 0.3 + 5.0 % (v + 9) + g // 0.2 + 3 // (v + 9),
}


@pytest.mark.parametrize("what", OTHER_OPERATORS)
def test_other_operators_are_done_at_once(what):
    torch.manual_seed(0)
    line, W, g = OTHER_OPERATORS[what], torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    torch.testing.assert_close(computed(line(Lazy.of(W), Lazy.of(g))), line(W, g), rtol=0, atol=0)


def method(line):
    """One whose direction is this line of the models and their gradients."""
    return Algorithm(
        "mine",
        lambda grad, W, down, c, h: (line(W, grad(W)), c),
        lambda w, down, up, s, h: (mean(up.w, h.p), s),
    )


def test_a_method_that_lazy_arithmetic_changes_is_named_before_the_first_round():
    [simulation] = rounds_of("autograd", ["fedavg"])
    lines = {**OTHER_OPERATORS, "sign": lambda W, g: torch.sign(g) + W / (1 + W * W)}
    for line in lines.values():
        rehearse([replace(simulation.federations[0], algorithm=method(line))], lazy=True)
    other = method(lambda W, g: g if isinstance(W, torch.Tensor) else 2 * g)
    with refused("method 'mine': direction", "gives other numbers", "'fused'", "'graph'"):
        rehearse([replace(simulation.federations[0], algorithm=other)], lazy=True)


def headed(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 10))


def with_shared_layer():
    layer = nn.Linear(10, 10)
    return nn.Sequential(layer, nn.ReLU(), layer)


def with_shared_weights():
    model = nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10))
    model[2].weight = model[0].weight
    return model


def hooked(kind, on_layer):
    model = headed(nn.Conv2d(3, 8, 3))
    getattr(model[0] if on_layer else model, kind)(lambda *_: None)
    return model


REFUSED = {
    "a shared layer": with_shared_layer,
    "shared weights": with_shared_weights,
    "dilation": lambda: headed(nn.Conv2d(3, 8, 3, dilation=2)),
    "stride": lambda: headed(nn.Conv2d(3, 8, 3, stride=2)),
    "groups": lambda: headed(nn.Conv2d(4, 8, 3, groups=2)),
    "circular padding": lambda: headed(nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")),
    "pooling that rounds up": lambda: headed(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2, ceil_mode=True)),
    "overlapping pooling": lambda: headed(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2, stride=1)),
    "pooling by 3": lambda: headed(nn.Conv2d(3, 8, 3), nn.MaxPool2d(3)),
    "a ReLU at the end": lambda: nn.Sequential(nn.Linear(8, 10), nn.ReLU()),
    "no linear layer": lambda: nn.Sequential(nn.Conv2d(3, 10, 3), nn.Flatten()),
    "another layer": lambda: headed(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)),
    "not a sequence": lambda: nn.Linear(8, 10),
}
for _kind in ("forward", "forward_pre", "full_backward", "full_backward_pre"):
    for _where in ("layer", "model"):
        REFUSED[f"a {_kind} hook on the {_where}"] = lambda k=_kind, w=_where: hooked(
            f"register_{k}_hook", w == "layer"
        )


@pytest.mark.parametrize("what", REFUSED)
def test_other_networks_are_not_fused(what):
    model = REFUSED[what]()
    assert blocks_of(model) is None
    assert not can_fuse(model, F.cross_entropy, (3, 9, 9))
    with refused("backend", "'stacked'"):
        FusedGradients(model, F.cross_entropy)


def test_other_types_losses_and_devices_are_not_fused():
    model = headed(nn.Conv2d(3, 8, 3))
    shape = (3, 9, 9)
    assert can_fuse(model, F.cross_entropy, shape)
    assert not can_fuse(model, F.cross_entropy, (9, 9))
    assert not can_fuse(model, F.mse_loss, shape)
    assert not can_fuse(model.double(), F.cross_entropy, shape)
    with refused("backend: 'fused'", "CUDA"):
        choose_backend("fused", model.float(), F.cross_entropy, torch.zeros(1, *shape))


def test_mini_batches_with_too_many_outputs_are_refused():
    model = nn.Sequential(nn.Linear(2, 300))
    W, x, y, counts = inputs(model, (2,), [129])
    with refused("backend", "outputs of a mini-batch"):
        FusedGradients(model, F.cross_entropy, "float32")(W, x, y, counts)


class OnCuda(nn.Linear):
    """As far as the choice of a backend can tell."""

    def parameters(self, recurse=True):
        yield type("Parameter", (), {"is_cuda": True})


def test_a_gpu_fuses_mini_batches_that_fit_and_records_others(monkeypatch):
    """256 outputs each: 128 samples of them are as many as a program can hold."""
    network = nn.Sequential(nn.Linear(2, 200))
    monkeypatch.setattr(arguments, "can_fuse", lambda *_: True)
    monkeypatch.setattr(arguments, "outputs_fit", lambda _, n: outputs_fit(network, n))

    def choose(backend, largest):
        given = OnCuda(2, 200), F.cross_entropy, torch.zeros(1, 2)
        return choose_backend(backend, *given, largest=largest)

    assert [choose("auto", n) for n in (1, 128, 129)] == ["fused", "fused", "recorded"]
    assert choose("fused", 128) == "fused"
    with refused("backend: 'fused'", "129 samples", "'recorded'"):
        choose("fused", 129)


def test_gradients_over_all_of_a_clients_data_are_of_as_many_samples_as_fit():
    model = nn.Sequential(nn.Linear(2, 3000))
    assert FusedGradients(model, F.cross_entropy).most_samples == 8

    class EightAtOnce(AutogradGradients):
        most_samples = 8

        def __call__(self, W, x, y, counts, seeds=None):
            asked.extend(counts)
            return super().__call__(W, x, y, counts, seeds)

    asked: list[int] = []
    data = ClientData(torch.randn(20, 2), torch.arange(20), (torch.arange(20),))
    w, found = flatten(model)[None, None], []
    for kind in (AutogradGradients, EightAtOnce):
        compute = kind(model, F.cross_entropy)
        source = Source((data,), (0,), Batching(4), None, w[..., :0], compute)
        found.append(source.cohort([[0]], "batches", 0).full_gradient(compute, w))
    torch.testing.assert_close(*found)
    assert asked == [8, 8, 4]


def test_draws_are_handed_over_as_they_are():
    [simulation] = test_graph.simulations(["naivefedgloss"], (12, 3, 17, 8))
    room = room_of([simulation])
    draws = [simulation.draw(room)]
    handover = Handover(draws, torch.device("cpu"))
    views = list(handover.views(draws))
    for _ in range(3):
        handover.fill(draws)
        for view, tensor in zip(views, draws[0].tensors(), strict=True):
            assert (view.dtype, view.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(view, tensor)
        simulation.t += 1
        draws = [simulation.draw(room)]


def test_what_lies_elsewhere_is_not_recorded():
    [simulation] = rounds_of("autograd", ["feddyn"])
    [name] = simulation.clients
    simulation.clients[name].values = simulation.clients[name].values.to("meta")
    with refused("backend", f"the clients' state {name}", "'stacked'"):
        Replay([simulation], Again)


def test_rounds_of_varying_participants_are_not_recorded():
    with refused("backend", "the schedule has 1 to 2"):
        Replay(rounds_of("autograd", ["fedavg"], [[0, 1], [2]]), Again)
    Replay(rounds_of("autograd", ["fedavg"], [[0, 1], [2, 3]]), Again)


@pytest.mark.parametrize("precision", ["float16", "tf32x3"])
def test_other_backends_refuse_a_precision_that_they_lack(precision):
    """They would compute in another one, and the manifest would name the wrong one."""
    model = build_model("smallcnn", (1, 8, 8), 10)
    with pytest.raises(InputError, match=f"precision: '{precision}' is the fused backend's"):
        build_gradients("stacked", model, F.cross_entropy, precision)
