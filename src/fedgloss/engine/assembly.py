"""How runs are put together, by `fedgloss.train` and the training jobs; and what they leave."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from fedgloss.engine.arguments import choose_backend
from fedgloss.engine.backends.autograd import AutogradGradients
from fedgloss.engine.backends.fused import FusedGradients
from fedgloss.engine.backends.graph import CudaGraph
from fedgloss.engine.backends.recorded import RecordedGradients
from fedgloss.engine.backends.stacked import StackedGradients
from fedgloss.engine.cohort import Gradients
from fedgloss.engine.flat import copied, parameter_shapes, unflatten
from fedgloss.engine.losses import Loss, counting
from fedgloss.engine.rehearsal import rehearse
from fedgloss.engine.rounds import Plan, Run
from fedgloss.engine.task import Course, Task
from fedgloss.engine.trial import try_out
from fedgloss.errors import InputError


@dataclass(frozen=True, repr=False)
class Result:
    """What `train` returns."""

    status: str
    """`completed`, or `diverged`."""
    diverged_in: int | None
    """The round (1 first) after which the model was no longer finite, or its loss hopeless."""
    w: Tensor
    """The final global parameters, [P], in the order of `model.parameters()`."""
    history: Tensor | None
    """The global parameters after each round, [rounds, P], if `keep_history`."""
    kept: dict[int, Tensor]
    """The global parameters, [P], after each round of `keep` before it diverged."""
    average: Tensor
    """The mean of the global parameters over the last `last` rounds, or of those of them that a run
    which diverged came to; the final ones where it came to none. [P]."""
    state: dict[str, Tensor]
    """The method's final state by name: server [P], clients [C, P]."""
    metrics: list[dict[str, float]]
    """One row for each evaluated round: round, accuracy and loss on `test`, what `record` asks.

    None from the round in which the run diverged, so there may be none at all."""
    participants: list[int]
    """The clients of the last round."""
    locals: Tensor
    """Their models at the end of local training, [K, P]."""
    bytes_down: int
    """Bytes that the server sent, in all rounds."""
    bytes_up: int
    """Bytes that the clients sent, in all rounds."""
    gradients_per_step: float
    """Mini-batch gradients per local step, counted in the last round."""
    backend: str
    """What trained the clients, where "auto" was asked for."""
    model: nn.Module
    """A copy of the model with the final parameters."""

    def __repr__(self) -> str:
        row = self.metrics[-1] if self.metrics else {}
        shown = [f"{name} {value:.5g}" for name, value in row.items() if name != "round"]
        at = f" in round {self.diverged_in}" if self.diverged_in is not None else ""
        last = f"; round {row['round']:g}: {', '.join(shown)}" if shown else ""
        return f"Result({self.status}{at}{last}; {len(self.w)} parameters, {self.backend})"


def assemble(
    task: Task,
    runs: Sequence[Run],
    course: Course,
    *,
    backend: str,
    precision: str = "float32",
) -> Plan:
    """The plan of these runs, after everything in it was tried out (trial.py, rehearsal.py).

    task: its model is on the device of the runs' data, which are of one data set, and stays as it
    is: the plan has a copy. backend: as asked for. Raises InputError for what would not work.
    """
    task = replace(
        task, model=copied(task.model)
    )  # a forward may leave in its module what it likes
    draws = False
    for run in runs:
        own = run.federation
        draws |= try_out(task, own.w, own.data, course.batching, run.test)
    data = runs[0].federation.data
    counted = counting(task.loss, data.targets)
    sizes = {len(index) for run in runs for index in run.federation.data.indices}
    largest = max(max(course.batching.sizes(size)) for size in sizes)
    chosen = choose_backend(backend, task.model, counted, data.inputs, draws, largest)
    gradients = build_gradients(chosen, task.model, counted, precision)
    rehearse([run.federation for run in runs], getattr(gradients, "lazy", False), course.rounds)
    new_graph = CudaGraph if chosen in ("graph", "fused") else None
    return Plan(task, course, gradients, chosen, new_graph, named=backend != "auto")


def build_gradients(
    backend: str, model: nn.Module, loss: Loss, precision: str = "float32"
) -> Gradients:
    """The backend by name; "graph" replays what is stacked. InputError for a precision it lacks."""
    if backend == "fused":
        return FusedGradients(model, loss, precision)
    if precision in ("float16", "tf32x3"):
        raise InputError(
            f"precision: {precision!r} is the fused backend's, which does not train this model"
            " here; allowed: float32, tf32, bfloat16"
        )
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    if backend == "autograd":
        return AutogradGradients(model, loss, dtype)
    if backend == "recorded":
        return RecordedGradients(model, loss, dtype)
    by_graph = backend == "graph"
    return StackedGradients(cast(nn.Sequential, model), loss, dtype, by_graph)


def summary(run: Run, plan: Plan, model: nn.Module) -> Result:
    """What a finished run leaves; model: as it was given, and never run."""
    model = copied(model)
    with torch.no_grad():  # not load_state_dict, which a module may have changed
        for parameter, values in zip(
            model.parameters(), unflatten(run.w, parameter_shapes(model)).values(), strict=True
        ):
            parameter.copy_(values)
    return Result(
        status="completed" if run.diverged_in is None else "diverged",
        diverged_in=run.diverged_in,
        w=run.w,
        history=torch.stack(run.history) if run.history else None,
        kept=run.kept,
        average=run.average[0].to(run.w.dtype),
        state=run.state,
        metrics=run.metrics,
        participants=run.participants,
        locals=run.locals,
        bytes_down=run.measured.bytes_down,
        bytes_up=run.measured.bytes_up,
        gradients_per_step=run.measured.gradients_per_step,
        backend=plan.backend,
        model=model,
    )
