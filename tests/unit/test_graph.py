"""A recorded round, replayed, is the round (see tape.py)."""

import gc
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fedgloss.algorithms import METHODS, build_algorithm, resolve_hyperparameters
from fedgloss.algorithms.core import Algorithm, Named, mean
from fedgloss.engine.arguments import choose_backend
from fedgloss.engine.assembly import build_gradients
from fedgloss.engine.backends.cudnn import SideBySide
from fedgloss.engine.backends.graph import WARM_UP, CannotRecord, CudaGraph, Replay
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.federation import Simulation, advance, federation
from fedgloss.engine.flat import flatten
from fedgloss.engine.rounds import Plan, Run, run_rounds
from fedgloss.engine.task import Course, Task
from fedgloss.errors import InputError
from fedgloss.models import build_model
from refusal import refused
from tape import Addresses, Tape

HYPERPARAMETERS = {"mu": 0.1, "alpha": 0.1, "beta": 10.0, "rho": 0.05, "rho_l": 0.1}
HYPERPARAMETERS |= {"lambda": 10.0, "T_s": 6}


OTHER_RATES = ((0.05, None), (0.02, None))


def simulations(
    methods, sizes=(12, 12, 12, 12), measure=(), rates=OTHER_RATES, model=None, **changes
):
    """One simulation for each method, by name or itself; two cells each, of other seeds.

    rates: their learning rates, and at which norm they are clipped. model: for images of 8 x 8.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (sum(sizes), 1, 8, 8), generator=generator).to(torch.uint8)
    y = torch.randint(0, 5, (sum(sizes),), generator=generator)
    data = ClientData(x, y, torch.arange(sum(sizes)).split(list(sizes)))
    model = (model or build_model("smallcnn", (1, 8, 8), 5)).double()
    gradients = build_gradients("stacked", model, F.cross_entropy)
    result = []
    for method in methods:
        algorithm = method if isinstance(method, Algorithm) else build_algorithm(method)
        known = {k: v for k, v in HYPERPARAMETERS.items() if k in algorithm.hyperparameters}
        cells = [
            federation(
                algorithm,
                resolve_hyperparameters(algorithm, known),
                flatten(model),
                data,
                lr=lr,
                weight_decay=1e-3,
                clip=clip,
                participants=2,
                seed=seed,
            )
            for seed, (lr, clip) in enumerate(rates)
        ]
        options = {"batching": Batching(5), "pipeline": Pipeline((0.5,), (0.3,), "image_aug", 1)}
        result.append(Simulation(cells, gradients, measure=measure, **options, **changes))
    return result


def states(simulation):
    found = {name: v for s in (0, 1) for name, v in simulation.state(s).items()}
    measured = simulation.measured
    found |= {f"measured {s} {k}": v for s in (0, 1) for k, v in measured[s].latest.items()}
    numbers = [(m.bytes_down, m.bytes_up, m.gradients_per_step) for m in measured]
    return {**found, "locals": simulation.locals[1]}, (simulation.t, simulation.locals[0], numbers)


def compare(recorded, plain):
    for one, other in zip(recorded, plain, strict=True):
        (tensors, numbers), (expected, expected_numbers) = states(one), states(other)
        assert numbers == expected_numbers
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("sizes", [(12, 12, 12, 12), (12, 3, 17, 8)], ids=["equal", "unequal"])
@pytest.mark.parametrize("method", METHODS)
def test_replayed_rounds_equal_rounds(method, sizes):
    torch.manual_seed(0)
    [one] = simulations([method], sizes)
    torch.manual_seed(0)
    [other] = simulations([method], sizes)
    recorded = Replay([one], Tape)
    for _ in range(WARM_UP + 5):  # the warm-up of T_s ends on the way: radii are not frozen
        recorded.advance()
        advance([other])
        compare([one], [other])
    assert recorded.graph is not None


def heavy_ball(w, down, up, s, h):
    """A server that keeps the model of the round before, and the one before that."""
    new = w - mean(down.w - up.w, h.p) + 0.5 * (h.t > 0) * (w - s.last)
    return new + 0.1 * (h.t > 1) * (s.last - s.older), s.replace(last=w, older=s.last)


def test_a_server_may_keep_tensors_of_earlier_rounds():
    """What the next round reads of them is what they were, not what was written there since."""
    method = Algorithm(
        "heavy-ball",
        lambda grad, W, down, c, h: (grad(W), c),
        heavy_ball,
        global_state=("last", "older"),
    )
    one, elsewhere, other = (simulations([method])[0] for _ in range(3))
    for simulation in (elsewhere, other):  # their network is one for all three
        simulation.load_state([one.state(s) for s in (0, 1)], 0)
    recorded, on_and_off = Replay([one], Tape), Replay([elsewhere], Tape)
    for t in range(WARM_UP + 5):
        recorded.advance()
        advance([elsewhere]) if t == WARM_UP + 2 else on_and_off.advance()
        advance([other])
        compare([one, elsewhere], [other, other])
    assert recorded.graph is not None


def test_convolutions_side_by_side_are_recorded_too(monkeypatch):
    """As a graph has them on a GPU."""
    torch.manual_seed(0)
    [other] = simulations(["fedgloss"], (12, 3, 17, 8))
    torch.manual_seed(0)
    [one] = simulations(["fedgloss"], (12, 3, 17, 8))
    for layer in one.gradients.layers:
        monkeypatch.setattr(layer, "_way", lambda x: SideBySide(1), raising=False)
    recorded = Replay([one], Tape)
    for _ in range(WARM_UP + 2):
        recorded.advance()
        advance([other])
        compare([one], [other])
    assert recorded.graph is not None


CLIPPED = {
    "alike": ((0.05, 0.3), (0.05, 0.3)),
    "at other norms": ((0.05, 0.3), (0.05, 0.1)),
    "one of two": ((0.05, 0.3), (0.05, None)),
}


@pytest.mark.parametrize("rates", CLIPPED)
@pytest.mark.parametrize("method", ["fedavg", "feddyn-sam", "fedsmoo", "fedgloss"])
def test_clipped_rounds_are_recorded_too(method, rates):
    some, others, unclipped = [], [], []
    for found, given in ((some, rates), (others, rates), (unclipped, None)):
        torch.manual_seed(0)
        given = CLIPPED[given] if given else ((0.05, None),) * 2
        found += simulations([method], (12, 3, 17, 8), rates=given)
    recorded = Replay(some, Tape)
    for _ in range(WARM_UP + 3):
        recorded.advance()
        advance(others)
        advance(unclipped)
        compare(some, others)
    assert recorded.graph is not None
    assert not torch.allclose(others[0].w[0], unclipped[0].w[0])


def test_methods_trained_together_are_recorded_together():
    methods = ["fedavg", "fedgloss", "naivefedgloss", "fedsmoo"]
    torch.manual_seed(0)
    some = simulations(methods, (12, 3, 17, 8), ("delta_epsilon",))
    torch.manual_seed(0)
    others = simulations(methods, (12, 3, 17, 8), ("delta_epsilon",))
    recorded = Replay(some, Tape)
    for _ in range(WARM_UP + 3):
        recorded.advance()
        advance(others)
        compare(some, others)


def test_rounds_with_and_without_a_measurement_are_two_recordings_of_one_simulation():
    """Each leaves models and measurements where it writes itself, whichever was recorded last."""
    options = {"measure": ("delta_epsilon", "consistency"), "evaluates": {1, 3, 5, 9}.__contains__}
    torch.manual_seed(0)
    [one] = simulations(["fedgloss"], **options)
    torch.manual_seed(0)
    [other] = simulations(["fedgloss"], **options)
    recorded = {measured: Replay([one], Tape) for measured in (True, False)}
    for _ in range(9):
        recorded[one.measures_perturbation].advance()
        advance([other])
        compare([one], [other])
    assert all(replay.graph is not None for replay in recorded.values())


def test_a_restored_simulation_goes_on_from_what_was_restored():
    torch.manual_seed(0)
    [one], [other] = simulations(["fedgloss"]), simulations(["fedgloss"])
    recorded = Replay([one], Tape)
    for _ in range(WARM_UP + 2):
        recorded.advance()
    kept = [{k: v.clone() for k, v in one.state(s).items()} for s in (0, 1)]
    recorded.advance()
    recorded.advance()
    one.load_state(kept, WARM_UP + 2)
    other.load_state(kept, WARM_UP + 2)
    recorded.advance()
    advance([other])
    for s in (0, 1):
        for name, tensor in one.state(s).items():
            torch.testing.assert_close(tensor, other.state(s)[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", [(12, 12, 12, 12), (12, 3, 17, 8)], ids=["equal", "unequal"])
def test_what_a_recording_reads_stays_where_it_is(sizes):
    """A CUDA graph goes on reading at an address after the memory there was given away."""
    some = simulations(
        ["fedgloss", "naivefedgloss", "fedsmoo", "scaffold"], sizes, ("consistency",)
    )
    recorded = Replay(some, Addresses)
    for t in range(WARM_UP + 4):
        recorded.advance()
        if t == WARM_UP + 1:
            for one in some:
                kept = [{k: v.clone() for k, v in one.state(s).items()} for s in (0, 1)]
                one.load_state(kept, t + 1)
        gc.collect()
    recorded.graph.replay()
    assert len(recorded.graph.given) > 20  # states, draws, images


def test_what_needs_the_host_cannot_be_recorded():
    [one] = simulations(["scaffold"])
    recorded = Replay([option1(one)], Tape, "fused")
    with refused("backend: 'fused' cannot record a gradient over all of a client's data;"):
        for _ in range(WARM_UP + 1):
            recorded.advance()


def option1(simulation):
    """The same with SCAFFOLD's other control variates, gradients over all of a client's data."""
    algorithm = build_algorithm("scaffold", {"control": "option1"})
    object.__setattr__(simulation.federations[0], "algorithm", algorithm)
    simulation.algorithm = algorithm
    return simulation


def test_where_no_backend_was_named_rounds_that_cannot_be_recorded_go_on_as_they_are():
    """Beside others, whose rounds are not played twice."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        one, scaffold = simulations(["fedgloss", "scaffold"])
        found.append([one, option1(scaffold)])
    some, others = found
    replay = Replay(some, Tape, named=None)
    for _ in range(2):
        replay.advance()
        for other in others:
            advance([other])
        compare(some, others)
    assert not replay.can_record


def test_so_do_rounds_of_varying_participants():
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        [one] = simulations(["feddyn"])
        for cell in one.federations:
            object.__setattr__(cell, "participants", [[0, 1], [2], [1, 3, 0], [2]])
        found.append(one)
    replay = Replay(found[:1], Tape, named=None)
    for _ in range(4):
        replay.advance()
        advance(found[1:])
        compare(found[:1], found[1:])


def asking_late(first):
    """FedAvg whose clients ask for a gradient over all of their data, from a round on."""

    def finish(W, down, c, h):
        return c, Named(w=W + 0 * h.full_gradient(down.w) if asked["round"] >= first else W)

    def aggregate(w, down, up, s, h):
        asked["round"] += 1
        return mean(up.w, h.p), s

    asked = {"round": 0}
    return Algorithm("late", lambda grad, W, down, c, h: (grad(W), c), aggregate, finish=finish)


def test_so_do_rounds_of_a_method_that_asks_what_cannot_be_recorded_in_a_later_one():
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(simulations(["fedgloss", asking_late(WARM_UP)], (12, 3, 17, 8)))
    some, others = found
    replay = Replay(some, Tape, named=None)
    for _ in range(WARM_UP + 2):
        replay.advance()
        for other in others:
            advance([other])
        compare(some, others)
    assert not replay.can_record


def test_it_is_refused_where_a_backend_was_named():
    replay = Replay(simulations([asking_late(WARM_UP)]), Tape, "graph")
    for _ in range(WARM_UP):
        replay.advance()
    with refused("backend: 'graph' cannot record a gradient over all of a client's data;"):
        replay.advance()


def test_a_recording_that_is_refused_is_ended_in_order(monkeypatch):
    """CUDA refuses to end one whose streams are not joined, and would hide why."""

    def refuses():
        raise CannotRecord("cannot")

    cuda = Cuda(monkeypatch)
    CudaGraph().record([lambda: None])
    with pytest.raises(CannotRecord):
        CudaGraph().record([lambda: None, refuses, lambda: None])
    assert len(cuda.forked) == 4


@pytest.mark.parametrize("fault", [RuntimeError, InputError])
def test_what_made_cuda_give_a_recording_up_is_said_in_one_line(monkeypatch, fault):
    """All that follows fails as well; the line is of what came first, or of the method's fault."""
    cuda = Cuda(monkeypatch)

    def waits():
        cuda.given_up = True
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nFor debugging")
        except RuntimeError as error:
            raise fault(f"direction fails: {str(error).splitlines()[0]}") from None

    first = "direction fails: " * (fault is InputError)
    with refused(f"CUDA graph ({first}operation not permitted when stream is capturing); use"):
        CudaGraph().record([waits])
    assert cuda.current == "before"  # CUDA leaves the recording's


class Cuda:
    """What torch.cuda has for recordings, and its complaints."""

    def __init__(self, monkeypatch):
        self.here, self.forked, self.given_up, self.current = Stream(self), [], False, "before"
        fakes = {"CUDAGraph": object, "Stream": self.new_stream, "graph": self.recording}
        fakes |= {"current_stream": self.current_stream, "stream": nullcontext}
        fakes |= {"set_stream": lambda stream: setattr(self, "current", stream)}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def current_stream(self):
        return self.current

    def new_stream(self):
        self.forked.append(Stream(self))
        return self.forked[-1]

    @contextmanager
    def recording(self, graph):
        self.current = here = self.here
        try:
            yield
        finally:
            if self.given_up:
                raise RuntimeError("capture_end failed")
            apart = any(here not in stream.waited_for for stream in self.forked)
            if apart or {*self.forked} - {*here.waited_for}:
                raise RuntimeError("CUDA error: capturing stream has unjoined work")
            self.current = "before"


class Stream:
    def __init__(self, cuda):
        self.cuda, self.waited_for = cuda, []

    def wait_stream(self, other):
        if self.cuda.given_up:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.waited_for.append(other)


def test_whole_runs_with_evaluation_are_the_same():
    def run(new_graph):
        torch.manual_seed(0)
        runs = []
        for simulation in simulations(["fedavg", "fedgloss"], (12, 3, 17, 8)):
            runs += [Run(f, (f.data.inputs, f.data.targets)) for f in simulation.federations]
        model = build_model("smallcnn", (1, 8, 8), 5).double()
        gradients = build_gradients("stacked", model, F.cross_entropy)
        pipeline = Pipeline((0.5,), (0.3,), "image_aug", 1)
        record = ("norms", "consistency", "delta_epsilon")
        course = Course(9, Batching(5), 2, 3, record, keep_history=True)
        task = Task(model, F.cross_entropy, pipeline)
        plan = Plan(task, course, gradients, "stacked", new_graph)
        run_rounds(runs, plan)
        return runs

    for one, other in zip(run(Tape), run(None), strict=True):
        assert one.participants == other.participants
        rows = [[row[key] for row in one.metrics for key in row] for one in (one, other)]
        assert rows[0] == pytest.approx(rows[1], rel=1e-9)
        for name in ("w", "average", "locals"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name))
        torch.testing.assert_close(torch.stack(one.history), torch.stack(other.history))
        torch.testing.assert_close(one.state, other.state)


def test_a_run_is_refused_what_cannot_be_recorded_where_its_backend_was_named():
    """And otherwise trained."""
    for named in (True, False):
        [simulation] = simulations(["fedavg"], rates=((0.05, None),))
        [cell] = simulation.federations
        run = Run(replace(cell, participants=[[0, 1], [2]]))
        model = build_model("smallcnn", (1, 8, 8), 5).double()
        task = Task(model, F.cross_entropy, Pipeline((0.5,), (0.3,), "image_aug", 1))
        course = Course(2, Batching(5))
        plan = Plan(task, course, simulation.gradients, "fused", Tape, named)
        if named:
            with refused("backend: 'fused' records rounds of as many clients", "1 to 2"):
                run_rounds([run], plan)
        else:
            run_rounds([run], plan)
            assert run.finished and run.participants == [2]


def test_graphs_are_refused_where_there_is_no_cuda():
    model = build_model("smallcnn", (1, 8, 8), 5)
    with pytest.raises(InputError, match="backend: 'graph' is for CUDA devices"):
        choose_backend("graph", model, F.cross_entropy, torch.zeros(1, 1, 8, 8))


def test_a_number_that_is_sent_to_all_is_counted_as_often_beside_another_cell():
    method = replace(
        build_algorithm("fedavg"), broadcast=lambda w, s, h: Named(w=w, beta=w.new_ones(()))
    )
    [together], [alone] = (
        simulations([method], rates=rates) for rates in (OTHER_RATES, OTHER_RATES[:1])
    )
    for _ in range(2):
        advance([together])
        advance([alone])
    model = 8 * together.w.shape[-1]
    for measured in (*together.measured, *alone.measured):
        assert measured.bytes_down == 2 * 2 * (model + 8)
        assert measured.bytes_up == 2 * 2 * model
