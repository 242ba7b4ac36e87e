"""Why does a run stop being finite? Its last rounds again, from the same state, in every precision.

A stage of benchmarks/gpu.py. The cells of DATA/plan.json, `divergence`, are trained as they are
until a model is no longer finite. From a state a few rounds before, each precision then trains the
same rounds: where only coarse ones break, arithmetic is to blame, else the method with its numbers.
Of the round that breaks, the largest number of each kernel is noted. If GOES_ON survives, it goes
on to the last round.
"""

import contextlib
import time
from typing import Any

import torch
import torch.nn.functional as F
from bench import Bench, NotMeasured
from torch import Tensor

from cells import job_of, read_plan
from fedgloss.data.dataset import load
from fedgloss.data.partition.partition import load_partition
from fedgloss.engine.assembly import assemble
from fedgloss.engine.backends.graph import Replay
from fedgloss.engine.clients import Pipeline
from fedgloss.engine.evaluate import evaluate
from fedgloss.engine.federation import Simulation, advance
from fedgloss.engine.flat import flatten
from fedgloss.engine.rounds import Run
from fedgloss.engine.start import initial_model
from fedgloss.engine.task import Task
from fedgloss.jobs.cells import CellFiles, cell_course, cell_federation, cell_test, is_trial, placed
from fedgloss.jobs.measured import chosen, training_objective, union_of
from fedgloss.jobs.spectrum import SUBSET_SEED
from fedgloss.sharpness.eigenvalues import top_eigenvalues
from fedgloss.study.jobfile import TrainingJob

EVERY = 10
"""Rounds from one kept state to the next."""
AGAIN = 40
"""Rounds that are trained again in every precision."""
PRECISIONS = {"cuda": ("float16", "bfloat16", "tf32", "float32"), "cpu": ("bfloat16", "float32")}
GOES_ON = {"cuda": "tf32", "cpu": "float32"}
UNFINISHED = ("add_weight_gradients", "linear_weight_gradient")
"""Kernels that write a part of the gradient, of which the other parts are not yet written."""


class Trained:
    """A cell in the middle of its rounds, outside of a job."""

    def __init__(self, content: dict[str, Any], device: torch.device, precision: str) -> None:
        job = job_of(content, TrainingJob)
        self.dataset = placed(load(job.data, test=not is_trial(job.settings)), device)
        self.partition = load_partition(job.partition, self.dataset)
        self.settings = job.settings
        model = initial_model(job.settings.model, self.dataset, job.settings.seed).to(device)
        augmentation = job.settings.training["augmentation"]
        pipeline = Pipeline(self.dataset.mean, self.dataset.std, augmentation)
        self.course = cell_course(job.settings)
        cell = CellFiles(job.settings, job.partition, job.run, job.code)
        own = cell_federation(cell, flatten(model), self.dataset, self.partition, {})
        self.test = cell_test(cell, self.dataset, self.partition)
        task = Task(model, F.cross_entropy, pipeline)
        plan = assemble(
            task, [Run(own, self.test)], self.course,
            backend="fused" if device.type == "cuda" else "auto", precision=precision,
        )  # fmt: skip
        self.task, self.gradients = plan.task, plan.gradients
        self.simulation = Simulation(
            [own], plan.gradients, batching=self.course.batching, pipeline=pipeline,
            evaluates=lambda t: False,
        )  # fmt: skip
        self.replay = Replay([self.simulation], plan.new_graph) if plan.new_graph else None

    def advance(self) -> None:
        if self.replay:
            self.replay.advance()
        else:
            advance([self.simulation])

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.simulation.state(0).items()}

    @property
    def finite(self) -> bool:
        return int(self.simulation.diverged_in[0]) < 0

    @property
    def w(self) -> Tensor:
        return self.simulation.w[0, 0]

    def accuracy(self) -> float:
        return evaluate(self.task, self.w, *self.test)["accuracy"]


def divergence(bench: Bench) -> dict:
    """See above; DATA/plan.json says which cells, and in how many seconds at most."""
    plan = read_plan(bench).get("divergence")
    if plan is None:
        raise NotMeasured("needs cells to look into, which this plan has none of")
    with contextlib.chdir(bench.options.data):
        return looked_into(bench, plan)


def looked_into(bench: Bench, plan: dict[str, Any]) -> dict:
    """The same, from the folder of the cells' files."""
    found: dict[str, Any] = {}
    bench.found["divergence"] = found
    until = time.monotonic() + plan["seconds"]
    for cell in plan["cells"]:
        content, name = cell["train"], cell["name"]
        begun = time.monotonic()
        trained = Trained(content, bench.device, content["settings"]["precision"])
        kept = [(0, trained.state())]
        rounds = trained.course.rounds
        while trained.simulation.t < rounds and trained.finite and time.monotonic() < until:
            for _ in range(EVERY):
                trained.advance()
            if trained.finite:
                kept = [*kept[-1:], (trained.simulation.t, trained.state())]
        t, state = kept[0]
        here: dict[str, Any] = {
            "seconds": time.monotonic() - begun,
            "trained": trained.simulation.t,
        }
        found[name] = here
        print(f"{name}: {here}", flush=True)
        if trained.finite:
            here["accuracy"] = trained.accuracy()
            continue
        here["diverged_in"] = 1 + int(trained.simulation.diverged_in[0])
        here["state_after"] = t
        del trained
        for precision in PRECISIONS[bench.device.type]:
            here[precision], before = again(bench, content, precision, state, t)
            print(precision, here[precision], flush=True)
            if before:
                for other in (precision, "float32"):
                    here[f"the round before the end of {precision}, in {other}"] = watched(
                        Trained(content, bench.device, other), *before
                    )
            bench.write()
        if here[GOES_ON[bench.device.type]]["finite"] and time.monotonic() < until:
            here["went on"] = to_the_end(bench, content, state, t)
            print("went on", here["went on"], flush=True)
        bench.write()
    return found


def again(
    bench: Bench, content: dict, precision: str, state: dict[str, Tensor], t: int
) -> tuple[dict[str, Any], tuple | None]:
    """AGAIN rounds from this state; and the state and round before they broke, if they did."""
    trained = Trained(content, bench.device, precision)
    trained.simulation.load_state([state], t)
    norms: list[float] = []
    while trained.finite and len(norms) < AGAIN:
        before = trained.state(), trained.simulation.t
        trained.advance()
        norms.append(round(float(torch.linalg.vector_norm(trained.w)), 3))
    found = {"rounds": len(norms), "finite": trained.finite, "norms": norms}
    if not trained.finite:
        return found, before
    return found | {"accuracy": trained.accuracy()}, None


def watched(trained: Trained, state: dict[str, Tensor], t: int) -> dict[str, Any]:
    """One round as it comes: what of each gradient's kernels is largest, and what is not finite."""
    trained.simulation.load_state([state], t)
    gradients, lines, calls = trained.gradients, [], [0]
    run = getattr(gradients, "_run", lambda *arguments, **constants: None)
    worst: dict[str, float] = {}

    def looked_at(name: str, grid: Any, *arguments: Any, **constants: Any) -> None:
        run(name, grid, *arguments, **constants)
        for place, x in enumerate(arguments):
            unfinished = name in UNFINISHED and place == 3
            if isinstance(x, Tensor) and x.is_floating_point() and not unfinished:
                key, value = f"{name} {place}", float(x.detach().abs().float().amax())
                if not torch.isfinite(x).all():
                    value = float("inf")
                    if len(lines) < 12:
                        finite = x[torch.isfinite(x)].abs().float()
                        top = float(finite.amax()) if len(finite) else 0.0
                        lines.append(
                            f"call {calls[0]}: {key} {tuple(x.shape)} {x.dtype} is not finite,"
                            f" {int((~torch.isfinite(x)).sum())} of {x.numel()}, else {top:.3g}"
                        )
                worst[key] = max(worst.get(key, 0.0), value)
        calls[0] += name == "cross_entropy_gradient"

    gradients._run = looked_at
    trained.advance()  # the first round of a replay is not a replay
    found = {"finite": trained.finite, "norm": float(torch.linalg.vector_norm(trained.w))}
    found |= {"not finite": lines}
    found["largest"] = {n: v for n, v in sorted(worst.items(), key=lambda i: -i[1])[:14]}
    print(found, flush=True)
    return found


def to_the_end(bench: Bench, content: dict, state: dict[str, Tensor], t: int) -> dict[str, Any]:
    """The remaining rounds in GOES_ON: accuracy over the last ones, lambda_1 of their average."""
    begun = time.monotonic()
    trained = Trained(content, bench.device, GOES_ON[bench.device.type])
    trained.simulation.load_state([state], t)
    rounds, last = trained.course.rounds, trained.course.last
    accuracies, average = {}, torch.zeros_like(trained.w)
    while trained.simulation.t < rounds and bench.left() > 20:
        trained.advance()
        now = trained.simulation.t
        if now % 100 == 0 or now > rounds - last:
            if not trained.finite:
                break
            accuracies[now] = trained.accuracy()
        if now > rounds - last:
            average += trained.w / last
    found: dict[str, Any] = {"round": trained.simulation.t, "finite": trained.finite}
    found["accuracies"] = {n: round(a, 3) for n, a in accuracies.items() if n % 100 == 0}
    if trained.finite and trained.simulation.t == rounds:
        tail = [a for n, a in accuracies.items() if n > rounds - last]
        found["accuracy"] = sum(tail) / len(tail)
        union = union_of(trained.partition)
        index = chosen(trained.dataset, union, 10_000, SUBSET_SEED, bench.device)
        objective = training_objective(trained.dataset, trained.task.model, index, bench.device)
        spectrum = top_eigenvalues(objective, average, count=1)
        found |= {"lambda1": spectrum.eigenvalues[0], "converged": spectrum.converged[0]}
    found["seconds"] = time.monotonic() - begun
    return found
