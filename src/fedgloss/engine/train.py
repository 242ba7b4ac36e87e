"""`fedgloss.train`: any method of the paper on your own model, loss and clients."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedgloss.algorithms.core import Algorithm
from fedgloss.engine.arguments import (
    check_callable,
    check_loss,
    check_metrics,
    checked_test,
    placed,
    placed_test,
    resolve_algorithm,
    resolve_sizes,
)
from fedgloss.engine.assembly import Result, assemble, summary
from fedgloss.engine.clients import ClientData, Pipeline
from fedgloss.engine.federation import federation
from fedgloss.engine.flat import check_model, copied, flatten
from fedgloss.engine.folders import resume_folder
from fedgloss.engine.identity import kept, of_task
from fedgloss.engine.numbers import check_truth, resolve_course, resolve_participation
from fedgloss.engine.rounds import Row, Run, run_rounds
from fedgloss.engine.start import find_device, prepared
from fedgloss.engine.task import Metric, Task
from fedgloss.errors import InputError
from fedgloss.progress import Progress


@torch.inference_mode(False)
def train(
    model: nn.Module,
    clients: Sequence[tuple[Tensor, Tensor]] | ClientData,
    algorithm: str | Algorithm = "fedgloss",
    *,
    rounds: int | None = None,
    clients_per_round: int | None = None,
    schedule: Iterable[Iterable[int]] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    lr: float = 0.01,
    weight_decay: float = 0.0,
    clip: float | None = None,
    batch_size: int | None = 64,
    epochs: int = 1,
    local_steps: int | None = None,
    hyperparameters: Mapping[str, float] = {},
    variants: Mapping[str, str] | str = "recommended",
    sizes: Sequence[float] | None = None,
    seed: int = 0,
    test: tuple[Tensor, Tensor] | None = None,
    evaluate_every: int = 1,
    last: int = 1,
    record: Sequence[str] = (),
    metrics: Mapping[str, Metric] = {},
    device: torch.device | str | None = None,
    backend: str = "auto",
    keep: Iterable[int] = (),
    keep_history: bool = True,
    pipeline: Pipeline | None = None,
    resume: Path | str | None = None,
    checkpoint_seconds: float = 300.0,
    should_stop: Callable[[], bool] = lambda: False,
    on_round: Callable[[int, dict[str, float] | None], None] = lambda t, row: None,
    progress: bool = False,
) -> Result:
    """Train `model` on `clients` with a federated method; the model itself is left as it is.

        import torch, fedgloss

        clients = [(x_k, y_k) for x_k, y_k in my_federated_dataset]  # one pair of tensors each
        result = fedgloss.train(
            my_model, clients, "fedgloss",
            rounds=200, clients_per_round=5, lr=0.05, batch_size=8,
            hyperparameters={"rho": 0.05, "rho_l": 0.15, "beta": 10},
            variants={"sigma_scaling": "paper"},
            test=(x_test, y_test),
        )
        print(result.status, result.metrics[-1:], result.state["sigma"].norm())

    model: any `torch.nn.Module` without running statistics; its present parameters are the start
    and their type (float32 or float64) that of the computation. It is trained in the mode it is in
    and evaluated in eval mode; what it draws itself, like dropout, follows from the seed.
    clients: one (inputs [N_k, ...], targets [N_k, ...]) pair each.
    algorithm: a name of `fedgloss.METHODS`, "package.module:function", or an `Algorithm`.
    rounds and clients_per_round: participants are drawn uniformly from `seed`; or give `schedule`,
    the client numbers of each round.
    loss: (outputs, targets) -> the mean loss of a mini-batch. Samples that a cross-entropy leaves
    out (label -100, or its ignore_index) count in no mean; they do count in N_k, see `sizes`.
    clip: the largest L2 norm, over all parameters, of a client's direction in a local step. What is
    longer is scaled down to it; weight decay comes on top. None: nothing is clipped.
    batch_size, epochs, local_steps: local work; batch_size None is the whole client, local_steps
    replaces epochs.
    hyperparameters: by the names of docs/methods.md (rho, rho_l, beta, ...).
    variants: by name, or the name of a combination ("paper", "official", "recommended", ...).
    sizes: N_k for averaging, where it is not the number of samples.
    test, evaluate_every, last: evaluated every so many rounds and in each of the last `last`.
    record: any of "norms", "communication", "consistency" (`cosine`, of the angle between the
    pseudo-gradients of this round and the last; 0 in round 1), "sharpness" (by how much the loss on
    `test` is higher at 0.1 from the model, along the pseudo-gradient and along the loss's own
    gradient), and "delta_epsilon" (Eq. 6; trains the cohort twice), at the evaluated rounds.
    Recording changes no number of the run.
    metrics: by name, functions of the outputs and targets of all test samples, whose numbers join
    the rows of `Result.metrics`; one that is not finite is left out.
    backend: "autograd" (client after client), "stacked" (together; sequential models of common
    layers), on a GPU also "recorded" (any model that draws nothing, each client's gradient replayed
    as a CUDA graph), "graph" (stacked, each round replayed as one) and "fused" (plain CNNs, by
    kernels of this package's own), or "auto", which picks and reports in `Result.backend`.
    keep: the rounds, 1 first, after which the parameters are kept, in `Result.kept`.
    keep_history: keep them after every round ([rounds, P] in memory).
    resume: a folder for checkpoints, which is empty, or not there, at first. A run killed or
    interrupted goes on from there when called again with the same arguments, and one that was
    finished gives its result again at once; remove the folder to train anew. The result is bit for
    bit that of a run never stopped, on the same kind of machine with as many threads. A checkpoint
    is written every `checkpoint_seconds`, and after the last round. Whatever decides the numbers
    must be the same (engine/identity.py): the values of all arguments down to the clients' samples
    (a quarter of a second for 180 MB), the code of method, model and loss with what it reads, the
    versions of this package, of torch and of Python. InputError says what differs.
    should_stop: asked after each round; where it says True, `fedgloss.Interrupted` is raised, after
    a checkpoint if there is `resume`. Without it, what was trained is lost.
    on_round: gets the number of each round (1 first) and its row of metrics if it was evaluated.
    progress: show a bar on standard error, in a terminal or a notebook; elsewhere a line now and
    then.

    Raises InputError, a ValueError, naming the argument that is wrong.
    """
    folder = resume_folder(resume, checkpoint_seconds)
    check_model(model)
    algorithm, hyper = resolve_algorithm(algorithm, variants, hyperparameters)
    data = clients if isinstance(clients, ClientData) else ClientData.from_list(clients)
    m = len(data.indices)
    rounds, participants = resolve_participation(rounds, clients_per_round, schedule, m)
    course = resolve_course(
        rounds,
        batch_size=batch_size,
        epochs=epochs,
        local_steps=local_steps,
        evaluate_every=evaluate_every,
        last=last,
        record=record,
        keep=keep,
        keep_history=keep_history,
    )
    check_metrics(metrics)
    check_truth("progress", progress)
    for name, function in (("should_stop", should_stop), ("on_round", on_round)):
        check_callable(name, function)
    check_loss(loss)
    if test is not None:
        test = checked_test(test, data)
    elif "sharpness" in course.record:
        raise InputError("record: 'sharpness' is measured on the test set; give test, too")
    model = copied(model)
    if device is not None:
        model = model.to(find_device(device))
    task, w = Task(model, loss, pipeline, metrics), flatten(model)
    own = federation(
        algorithm,
        hyper,
        w,
        placed(data, w, task),
        lr=lr,
        weight_decay=weight_decay,
        clip=clip,
        participants=participants,
        seed=seed,
        sizes=resolve_sizes(sizes, m),
    )
    run = Run(own, None if test is None else placed_test(test, w, task))
    with prepared(w.device):
        marks = of_task(task) if folder else {}
        plan = assemble(task, [run], course, backend=backend)
        bar = Progress(own.algorithm.name, course.rounds, own.images_a_round(course.batching))

        def after_round(t: int, rows: Sequence[Row]) -> None:
            on_round(t, _copy(rows[0]))
            if progress:
                bar(t, rows[0])

        with kept(run, plan, marks, folder, checkpoint_seconds):
            run_rounds([run], plan, should_stop, after_round)
    return summary(run, plan, model)


def _copy(row: Row) -> Row:
    """Another's to change; the run's own is saved and returned."""
    return None if row is None else dict(row)
