"""A recorded gradient, replayed, is autograd's: here on a CPU, from a tape of its operations."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedgloss
from fedgloss.engine.arguments import choose_backend
from fedgloss.engine.assembly import build_gradients
from fedgloss.engine.backends.autograd import AutogradGradients
from fedgloss.engine.backends.recorded import (
    MOST_KINDS,
    MOST_LANES,
    WARM_UP,
    CudaLane,
    RecordedGradients,
)
from fedgloss.engine.flat import flatten
from fedgloss.engine.losses import Counting
from fedgloss.models import build_model
from refusal import refused
from tape import Tape


class TapeLane:
    """A lane that records tapes, and notes what is asked of it."""

    def __init__(self, memory=None):
        """memory: the bytes that are free, in a list; each recording takes 10 of them."""
        self.memory, self.open, self.begun = memory, False, 0
        self.recorded = self.replayed = 0

    def begin(self):
        self.begun += 1

    def end(self):
        assert not self.open, "what was asked of a lane is all there when it is joined"
        self.begun -= 1

    @contextlib.contextmanager
    def opened(self):
        assert self.begun == 1, "a lane waits for the caller's tensors"
        self.open = True
        try:
            yield
        finally:
            self.open = False

    def record(self, work):
        assert self.open
        for _ in range(WARM_UP):
            work()
        tape = Tape()
        tape.record([work])
        self.recorded += 1
        if self.memory:
            self.memory[0] -= 10

        def replay():
            assert self.open
            self.replayed += 1
            tape.replay()

        return replay

    def free_memory(self):
        return self.memory[0] if self.memory else 1e9


class Residual(nn.Module):
    """Two branches that meet again, and a view."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Linear(3 * 5 * 5, 4)

    def forward(self, x):
        x = x + self.second(F.relu(self.first(x), inplace=True))
        return self.last(x.view(len(x), -1))


MODELS = {
    "resnet18": (lambda: build_model("resnet18", (3, 32, 32), 10), (3, 32, 32), 10),
    "mobilenetv2": (lambda: build_model("mobilenetv2", (3, 32, 32), 10), (3, 32, 32), 10),
    "residual": (Residual, (3, 5, 5), 4),
}


def recorded(model, loss=F.cross_entropy, dtype=None, memory=None):
    """The backend with lanes of tapes, and those lanes."""
    lanes = []

    def new_lane():
        lanes.append(TapeLane(memory))
        return lanes[-1]

    return RecordedGradients(model, loss, dtype, new_lane), lanes


def cohort(model, shape, classes, counts, seed=0):
    """Different models, inputs and targets; what lies past a mini-batch's size is NaN."""
    generator = torch.Generator().manual_seed(seed)
    W = flatten(model).repeat(len(counts), 1)
    W += 0.01 * torch.randn(W.shape, generator=generator)
    x = torch.randn(len(counts), max(counts), *shape, generator=generator)
    for row, count in zip(x, counts, strict=True):
        row[count:] = torch.nan
    return W, x, torch.randint(classes, x.shape[:2], generator=generator), counts


def residual(**options):
    """The small model's backend, its lanes, autograd, and what a cohort is made of."""
    torch.manual_seed(0)
    model = Residual()
    gradients, lanes = recorded(model, **options)
    return gradients, lanes, AutogradGradients(model, F.cross_entropy), (model, (3, 5, 5), 4)


def each_alone(plain, W, x, y, sizes):
    """Autograd's gradients, each client's of tensors of its own.

    Some processors take another path, a rounding apart, for a row that begins at an odd address.
    """
    return torch.cat(
        [
            plain(W[k : k + 1].clone(), x[k : k + 1].clone(), y[k : k + 1], sizes[k : k + 1])
            for k in range(len(W))
        ]
    )


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_replayed_gradients_have_the_bits_of_autograd(name, dtype):
    """In the first call, which records, and in the next one, on other models and samples."""
    torch.manual_seed(0)
    build, shape, classes = MODELS[name]
    model = build()
    gradients, lanes = recorded(model, dtype=dtype)
    gradients.most_lanes = 1  # one recording serves both clients
    plain = AutogradGradients(model, F.cross_entropy, dtype)
    for seed in (0, 1):
        given = cohort(model, shape, classes, [2, 2], seed)
        found = gradients(*given)
        assert torch.equal(found, each_alone(plain, *given))
        assert torch.equal(found, gradients(*given))
    assert [(lane.recorded, lane.replayed) for lane in lanes] == [(1, 8)]


@pytest.mark.parametrize("changed", ["W", "x", "y"])
def test_a_replay_sees_what_has_changed(changed):
    gradients, _, plain, kind = residual()
    given, others = cohort(*kind, [3, 3]), cohort(*kind, [3, 3], seed=1)
    before = gradients(*given)
    i = "Wxy".index(changed)
    given[i].copy_(others[i])  # in place: it is the values that count
    after = gradients(*given)
    assert torch.equal(after, plain(*given))
    assert (after != before).any(dim=1).all()


def test_rows_of_different_sizes_and_of_none():
    gradients, lanes, plain, kind = residual()
    for counts in ([3, 0, 2, 3, 0, 2], [2, 2, 0, 2, 3, 0], [0, 0, 0, 0, 0, 3]):
        given = cohort(*kind, counts)
        found = gradients(*given)
        assert torch.equal(found, plain(*given))
        for row, count in zip(found, counts, strict=True):
            assert bool(row.any()) == bool(count)
    assert all(lane.recorded <= 2 for lane in lanes)


def test_no_row_counts():
    gradients, lanes, _, kind = residual()
    W, x, y, _ = cohort(*kind, [2, 2])
    assert not gradients(W, x, y, [0, 0]).any()
    assert not lanes


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, 1), (5, 5), (8, 8), (10, 5), (12, 6), (20, 7), (50, 8)]
)
def test_rows_are_spread_over_lanes_that_have_as_much_to_do(rows, expected):
    gradients, lanes, plain, kind = residual()
    given = cohort(*kind, [1] * rows)
    assert torch.equal(gradients(*given), plain(*given))
    assert len(lanes) == expected <= MOST_LANES
    turns = [lane.replayed for lane in lanes]
    assert sum(turns) == rows
    assert max(turns) - min(turns) <= 1
    assert not any(lane.begun for lane in lanes), "all are joined"


@pytest.mark.parametrize(("memory", "expected"), [(1e6, 5), (60, 3), (15, 1)])
def test_lanes_hold_at_most_half_of_the_memory(memory, expected):
    gradients, lanes, plain, kind = residual(memory=[memory])
    for seed in range(2):
        given = cohort(*kind, [2] * 10, seed)
        assert torch.equal(gradients(*given), plain(*given))
    assert len(lanes) == expected
    assert sum(lane.replayed for lane in lanes) == 20


def test_of_many_sizes_the_commonest_are_recorded():
    """And the largest of those that are as common."""
    gradients, lanes, plain, kind = residual()
    counts = [1, 2, 3, 4, 5, 5, 6]
    for seed in range(3):
        given = cohort(*kind, counts, seed)
        assert torch.equal(gradients(*given), plain(*given))
    assert [kind.size for kind in gradients.kinds] == [5, 6, 4, 3]
    assert sum(lane.recorded for lane in lanes) == MOST_KINDS + 1, "5 in two lanes"
    assert sum(lane.replayed for lane in lanes) == 3 * 5


def test_results_belong_to_the_caller():
    gradients, _, _, kind = residual()
    first = gradients(*cohort(*kind, [2, 2]))
    kept = first.clone()
    gradients(*cohort(*kind, [2, 2], seed=1))
    assert torch.equal(first, kept)


class Asking(Residual):
    """A forward that looks at its numbers."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


def test_a_model_that_cannot_be_recorded_goes_through_autograd_and_says_so_once(capsys):
    model = Asking()
    gradients, lanes = recorded(model)
    for seed in range(3):
        given = cohort(model, (3, 5, 5), 4, [3, 3], seed)
        assert torch.equal(gradients(*given), AutogradGradients(model, F.cross_entropy)(*given))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("fedgloss: warning: backend: the model's gradient cannot be recorded")
    assert "cannot be in a graph" in said[0]
    assert len(lanes) == 1
    assert not lanes[0].begun


def test_a_model_that_fails_by_itself_fails_as_with_autograd(capsys):
    gradients, _, _, kind = residual()
    W, x, y, counts = cohort(*kind, [2])
    with pytest.raises(RuntimeError, match="expected input"):
        gradients(W, x[:, :, :2], y, counts)


def test_whole_runs_are_those_of_autograd(monkeypatch):
    """With clients of unequal sizes, SAM's two gradients, and the ADMM state."""
    generator = torch.Generator().manual_seed(0)
    clients = [
        (torch.randn(n, 3, 5, 5, generator=generator), torch.randint(4, (n,), generator=generator))
        for n in (7, 4, 9)
    ]
    torch.manual_seed(0)
    model = Residual()
    options = {"rounds": 3, "clients_per_round": 2, "batch_size": 4}
    options["hyperparameters"] = {"rho": 0.05, "rho_l": 0.1, "beta": 10.0}
    plain = fedgloss.train(model, clients, "fedgloss", backend="autograd", **options)

    def build(backend, model, *given):
        return recorded(model)[0]

    monkeypatch.setattr("fedgloss.engine.assembly.build_gradients", build)
    ours = fedgloss.train(model, clients, "fedgloss", backend="autograd", **options)
    assert torch.equal(ours.history, plain.history)


def fake_cuda(said):
    """As much of torch.cuda as a lane asks for when it records; what it asks goes to `said`."""

    @contextlib.contextmanager
    def graph(graph, pool=None, stream=None, capture_error_mode="global"):
        said.append(f"record from {stream} in {pool}, {capture_error_mode}")
        yield
        said.append("recorded")

    return SimpleNamespace(
        Stream=lambda priority: f"its stream of priority {priority}",
        graph_pool_handle=lambda: "its memory",
        get_sync_debug_mode=lambda: 0,
        set_sync_debug_mode=lambda mode: said.append(f"waiting: {mode}"),
        CUDAGraph=lambda: SimpleNamespace(replay="a replay"),
        graph=graph,
    )


def test_a_lane_of_a_gpu_warms_up_then_forbids_waiting_then_records(monkeypatch):
    said = []
    monkeypatch.setattr(torch, "cuda", fake_cuda(said))
    assert CudaLane().record(lambda: said.append("work")) == "a replay"
    assert said == [
        *("work", "work", "waiting: error", "work", "waiting: 0"),
        *("record from its stream of priority -1 in its memory, thread_local", "work", "recorded"),
    ]


def test_work_that_waits_for_a_gpu_fails_before_anything_is_recorded(monkeypatch):
    def work():
        said.append("work")
        if said[-2:] == ["waiting: error", "work"]:
            raise RuntimeError("called a synchronizing CUDA operation")

    said = []
    monkeypatch.setattr(torch, "cuda", fake_cuda(said))
    with pytest.raises(RuntimeError, match="synchronizing"):
        CudaLane().record(work)
    assert said == ["work", "work", "waiting: error", "work", "waiting: 0"]


def test_recorded_gradients_are_refused_where_there_is_no_cuda():
    with refused("backend: 'recorded'", "CUDA", "autograd"):
        choose_backend("recorded", Residual(), F.cross_entropy, torch.zeros(1, 3, 5, 5))


class OnCuda(Residual):
    """As far as the choice of a backend can tell."""

    def parameters(self, recurse=True):
        yield type("Parameter", (), {"is_cuda": True, "dtype": torch.float32})


def hooked(kind):
    model = OnCuda()
    getattr(model.first, f"register_{kind}_hook")(lambda *_: None)
    return model


def test_arithmetic_is_done_line_by_line_on_a_gpu_alone():
    assert not RecordedGradients(Residual(), F.cross_entropy).lazy
    pytest.importorskip("triton", reason="Triton is not installed")
    assert RecordedGradients(OnCuda(), F.cross_entropy).lazy


def test_a_gpu_records_what_it_can():
    x = torch.zeros(1, 3, 5, 5)
    assert choose_backend("auto", OnCuda(), F.cross_entropy, x) == "recorded"
    assert choose_backend("auto", OnCuda(), F.mse_loss, x) == "recorded"
    assert choose_backend("recorded", OnCuda(), F.cross_entropy, x) == "recorded"
    assert choose_backend("auto", OnCuda(), F.cross_entropy, x, draws=True) == "autograd"
    with refused("backend: 'recorded'", "seeds", "'autograd'"):
        choose_backend("recorded", OnCuda(), F.cross_entropy, x, draws=True)


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_run_each_time_so_their_models_are_not_recorded(kind):
    x = torch.zeros(1, 3, 5, 5)
    assert choose_backend("auto", hooked(kind), F.cross_entropy, x) == "autograd"
    with refused("backend: 'recorded'", "hooks", "'autograd'"):
        choose_backend("recorded", hooked(kind), F.cross_entropy, x)


def test_a_loss_that_looks_whether_a_sample_counts_is_not_recorded():
    x, loss = torch.zeros(1, 3, 5, 5), Counting(F.cross_entropy, -100)
    assert choose_backend("auto", OnCuda(), loss, x) == "autograd"
    with refused("backend: 'recorded'", "leaves out", "'autograd'"):
        choose_backend("recorded", OnCuda(), loss, x)


def test_the_backend_is_built_by_its_name():
    gradients = build_gradients("recorded", Residual(), F.cross_entropy, "bfloat16")
    assert isinstance(gradients, RecordedGradients)
    assert gradients.eager.dtype == torch.bfloat16
    with refused("precision: 'float16'", "the fused backend's"):
        build_gradients("recorded", Residual(), F.cross_entropy, "float16")
