"""The round loop: one or more federations from round 0, or their checkpoints, to their results."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedgloss.engine.backends.graph import Graph, Replay
from fedgloss.engine.checkpoint import Checkpoints, Interrupted
from fedgloss.engine.cohort import Gradients
from fedgloss.engine.evaluate import evaluate, sharpness
from fedgloss.engine.federation import Federation, Simulation, advance
from fedgloss.engine.losses import hopeless_value
from fedgloss.engine.measured import Measured
from fedgloss.engine.server import Server
from fedgloss.engine.task import Course, Task

Row = dict[str, float] | None
"""A row of metrics, where the round was evaluated."""
OnRound = Callable[[int, Sequence[Row]], None]
KEPT = "kept."
"""How the names of models that are kept begin in a checkpoint; the round follows."""


@dataclass(frozen=True)
class Plan:
    """What the federations of one process have in common."""

    task: Task
    course: Course
    gradients: Gradients
    backend: str
    """What computes them, by name."""
    new_graph: Callable[[], Graph] | None = None
    """Where rounds are to be recorded and replayed: what records them."""
    named: bool = False
    """Whether the backend was asked for by name, not as "auto"."""


class Run:
    """One federation on its way through a plan, with what it leaves behind."""

    def __init__(
        self,
        federation: Federation,
        test: tuple[Tensor, Tensor] | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.federation, self.test, self.checkpoints = federation, test, checkpoints
        self.average = torch.zeros_like(federation.w, dtype=torch.float64)[None]
        self.metrics: list[dict[str, float]] = []
        self.history: list[Tensor] = []
        self.kept: dict[int, Tensor] = {}
        self.diverged_in: int | None = None
        self.finished = self.end_is_saved = False
        self.t = self.begun = 0
        """Rounds whose results are here, with an evaluation if it is due; `begun` is one more while
        those of another are written down."""
        # Filled in when the run is finished.
        self.w, self.state, self.measured = federation.w, dict[str, Tensor](), Measured()
        self.participants: list[int] = []
        self.locals = federation.w[None][:0]

    def after_round(self, plan: Plan, server: Server, s: int) -> Row:
        """Keep what a completed round adds; returns its row of metrics if it was evaluated.

        Nothing is changed where the evaluation fails. Where the run is over, `finish` must follow.
        """
        t, w, course = server.t, server.w[s, 0], plan.course
        evaluates, diverged_in = course.evaluates(t), None
        if evaluates or w.device.type == "cpu":
            broken = int(server.diverged_in[s])
            diverged_in = broken + 1 if broken >= 0 else None
        row: Row = None
        if evaluates and diverged_in is None:
            row = {"round": t}
            if self.test is not None:
                row |= evaluate(plan.task, w, *self.test)
            row |= server.measured[s].row(w, course.record)
            if "sharpness" in course.record and self.test is not None:
                row |= sharpness(plan.task, w, row["loss"], server.previous[s, 0], *self.test)
            if not row.get("loss", 0.0) < hopeless_value(plan.task.loss):
                diverged_in = t
        self.begun = t
        if course.keep_history:
            self.history.append(w.clone())
        if t in course.keep:
            self.kept[t] = w.clone()
        if t > course.rounds - course.last:
            self.average += w.double() / course.last
        if row is not None:
            self.metrics.append(row)
        self.diverged_in = diverged_in
        if diverged_in is not None:
            self.metrics = [row for row in self.metrics if row["round"] < diverged_in]
            self.kept = {t: w for t, w in self.kept.items() if t < diverged_in}
        elif t < course.rounds:
            self.t = t
        return row

    def finish(self, server: Server, s: int, course: Course) -> None:
        """Take the final state out of the server; what it does afterwards is not this run's."""
        self.w, self.measured = server.w[s, 0].clone(), replace(server.measured[s])
        summed = max(server.t - max(course.rounds - course.last, 0), 0)
        if not summed:  # it ended before the last rounds
            self.average = self.w.double()[None]
        elif summed < course.last:  # in the middle of them
            self.average *= course.last / summed
        self.state = {name: value[s, 0].clone() for name, value in server.s.items()}
        for name, state in server.clients.items():  # written in place, round after round
            vectors = state.values[s]
            self.state[name] = vectors if server.t == course.rounds else vectors.clone()
        self.participants = server.locals[0][s]
        self.locals = server.locals[1][s].clone()
        self.finished, self.t = True, server.t
        if self.checkpoints and self.checkpoints.for_calls:
            self.save(server, s)

    def save(self, server: Server, s: int) -> None:
        """Write a checkpoint, if there is a place for it; of a finished run its end, and once."""
        if self.checkpoints is None or self.end_is_saved:
            return
        measured = self.measured if self.finished else server.measured[s]
        extra: dict[str, Any] = {
            "finished": self.finished,
            "diverged_in": self.diverged_in,
            "metrics": self.metrics,
            "bytes": [measured.bytes_down, measured.bytes_up],
            "t": self.t,
        }
        if self.finished:
            extra |= {"gradients": measured.gradients_per_step, "participants": self.participants}
            extra["on_host"] = [name for name, value in self.state.items() if not value.is_cuda]
            state = {f"state.{name}": value for name, value in self.state.items()}
            tensors = {"w": self.w, "locals": self.locals, **state}
        else:
            tensors = server.state(s)
            if self.t < server.t:  # what is to be evaluated yet, and may be the last round
                latest = {name: float(value) for name, value in measured.latest.items()}
                extra |= {"gradients": measured.gradients_per_step, "latest": latest}
                extra["participants"] = server.locals[0][s]
                tensors["locals"] = server.locals[1][s]
        t = self.t if self.finished else server.t
        kept = {f"{KEPT}{t}": w for t, w in self.kept.items()}
        self.checkpoints.save(t, {**tensors, **kept, "average": self.average}, extra, self.history)
        self.end_is_saved = self.finished

    def restore(self, plan: Plan) -> tuple[int, dict[str, Tensor]] | None:
        """Take up the newest checkpoint: its round, and what a simulation needs to go on."""
        if self.checkpoints is None or (found := self.checkpoints.load()) is None:
            return None
        t, tensors, extra = found
        device = self.federation.w.device
        self.average = tensors.pop("average").to(device)
        for name in [name for name in tensors if name.startswith(KEPT)]:
            self.kept[int(name.removeprefix(KEPT))] = tensors.pop(name).to(device)
        if plan.course.keep_history:
            self.history = [*tensors.pop("history", self.w[None][:0]).to(device)]
        self.metrics, self.diverged_in = extra["metrics"], extra["diverged_in"]
        self.measured = Measured(*extra["bytes"])
        self.t = self.begun = extra["t"]
        if "locals" in tensors:
            self.participants, self.locals = extra["participants"], tensors.pop("locals").to(device)
            self.measured.gradients_per_step = extra["gradients"]
            self.measured.latest = {
                name: torch.tensor(value, dtype=torch.float64)
                for name, value in extra.get("latest", {}).items()
            }
        self.finished = self.end_is_saved = extra["finished"]
        if self.finished:
            self.w = tensors["w"].to(device)
            for name in (name for name in tensors if name.startswith("state.")):
                short = name.removeprefix("state.")
                place = "cpu" if short in extra["on_host"] else device
                self.state[short] = tensors[name].to(place)
        way = "was finished" if self.finished else "goes on"
        self.checkpoints.say(f"{way} after round {t} of {plan.course.rounds}")
        return t, tensors


def run_rounds(
    runs: Sequence[Run],
    plan: Plan,
    should_stop: Callable[[], bool] = lambda: False,
    on_round: OnRound = lambda t, rows: None,
) -> None:
    """Take all runs to the end of the plan.

    Runs of one method that stand at the same round become one simulation; all simulations at that
    round share their mini-batch gradients. `on_round` gets the round and a row for each run.
    Raises Interrupted, after writing checkpoints, if `should_stop` says so.
    """
    stacks, replays = _resume(runs, plan), dict[tuple[tuple[int, bool], ...], Replay]()
    while live := [stack for stack in stacks if stack.alive(plan)]:
        t = min(stack.t for stack in live)
        now = [stack for stack in live if stack.t == t]  # those behind catch up first
        # Others were interrupted in the evaluation of the round, which they have behind them.
        simulations = [stack.simulation for stack in now if stack.simulation.t == t]
        with _kept_if_it_fails(stacks):  # a caller's method, model, loss or metric may
            if plan.new_graph and simulations:
                # A round that is measured is another one to record.
                key = tuple((id(s), s.measures_perturbation) for s in simulations)
                if key not in replays:
                    replays[key] = Replay(
                        simulations, plan.new_graph, plan.backend if plan.named else None
                    )
                replays[key].advance()
            elif simulations:
                advance(simulations)
            rows = dict[int, Row]()
            for stack in now:
                for s, run in enumerate(stack.runs):
                    if not run.finished:
                        rows[id(run)] = run.after_round(plan, stack.simulation, s)
                        if run.diverged_in is not None or t + 1 == plan.course.rounds:
                            run.finish(stack.simulation, s, plan.course)
            on_round(t + 1, [rows.get(id(run)) for run in runs])
            stop = t + 1 < plan.course.rounds and should_stop()
        for stack in stacks if stop else now:
            stack.save(plan, stop)
        if stop:
            raise Interrupted(f"should_stop asked for it after round {t + 1}")
    for stack in stacks:
        for s, run in enumerate(stack.runs):
            if not run.finished:  # there was no round to run
                run.finish(stack.simulation, s, plan.course)


@dataclass
class _Stack:
    """Runs of one method at one round, and their simulation."""

    runs: list[Run]
    simulation: Simulation

    def alive(self, plan: Plan) -> bool:
        unfinished = not all(run.finished for run in self.runs)
        return unfinished and self.t < plan.course.rounds

    @property
    def t(self) -> int:
        """The rounds that all unfinished runs have taken in."""
        return min(run.t for run in self.runs if not run.finished)

    def save(self, plan: Plan, now: bool) -> None:
        t = self.simulation.t
        stores = [run.checkpoints for run in self.runs if run.checkpoints and not run.end_is_saved]
        if t < plan.course.rounds and (now or any(store.due(t) for store in stores)):
            for s, run in enumerate(self.runs):
                run.save(self.simulation, s)


@contextmanager
def _kept_if_it_fails(stacks: Sequence[_Stack]) -> Iterator[None]:
    """Whatever the block raises, Ctrl-C too, a library's run keeps the rounds that are done.

    A round may be done and not be evaluated yet; of one that is half written down nothing is kept.
    A job's is not saved here: it goes on from its last checkpoint.
    """
    try:
        yield
    except BaseException:
        for stack in stacks:
            server = stack.simulation
            for s, run in enumerate(stack.runs):
                whole = server.begun == server.t and run.begun == run.t
                if run.checkpoints and run.checkpoints.for_calls and server.t and whole:
                    run.save(server, s)
        raise


def _resume(runs: Sequence[Run], plan: Plan) -> list[_Stack]:
    """Each run from its newest checkpoint, those that can be stacked together."""
    stacks: dict[tuple[int, int, int], list[tuple[Run, dict[str, Tensor] | None]]] = {}
    for run in runs:
        t, tensors = run.restore(plan) or (0, None)
        if not run.finished:
            key = id(run.federation.algorithm), t, run.t
            stacks.setdefault(key, []).append((run, tensors))
    result = []
    for (_, t, _), members in stacks.items():
        simulation = Simulation(
            [run.federation for run, _ in members],
            plan.gradients,
            batching=plan.course.batching,
            pipeline=plan.task.pipeline,
            measure=plan.course.record,
            evaluates=plan.course.evaluates,
        )
        simulation.measured = [run.measured for run, _ in members]
        if t:
            simulation.load_state([tensors for _, tensors in members if tensors], t)
            of_last_round = torch.stack([run.locals for run, _ in members])
            simulation.locals = ([run.participants for run, _ in members], of_last_round)
        result.append(_Stack([run for run, _ in members], simulation))
    return result
