"""`fedgloss.train`: any method of the paper on your own model, loss and clients."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedgloss import algorithms
from fedgloss.algorithms.core import Algorithm
from fedgloss.errors import InputError
from fedgloss.simulation.checkpoint import Checkpoints, Interrupted
from fedgloss.simulation.clients import Batching, ClientData, Pipeline
from fedgloss.simulation.evaluate import evaluate
from fedgloss.simulation.flat import check_model, flatten, parameter_shapes, unflatten
from fedgloss.simulation.loop import LoopGradients
from fedgloss.simulation.rounds import Simulation
from fedgloss.simulation.stacked import StackedGradients, can_stack

RECORDS = ("norms", "communication", "delta_epsilon")
BACKENDS = ("auto", "loop", "stacked")
HOPELESS_LOSS = 1e4
"""An evaluated loss beyond this is divergence: chance is ln(classes), about 2 to 8."""


@dataclass(frozen=True)
class Training:
    """What `train` returns."""

    status: str
    """`completed`, or `diverged`."""
    diverged_in: int | None
    """The round (1 first) after which the model was no longer finite, or its loss hopeless."""
    w: Tensor
    """The final global parameters, [P], in the order of `model.parameters()`."""
    history: Tensor | None
    """The global parameters after each round, [rounds, P], if `keep_history`."""
    average: Tensor
    """The mean of the global parameters over the last `last` rounds, [P]."""
    state: dict[str, Tensor]
    """The method's final state by name: server [P], clients [C, P]."""
    metrics: list[dict[str, float]]
    """One row for each evaluated round: round, accuracy and loss on `test`, what `record` asks."""
    participants: list[int]
    """The clients of the last round."""
    locals: Tensor
    """Their models at the end of local training, [K, P]."""
    bytes_down: int
    bytes_up: int
    """Bytes that crossed the network in all rounds."""
    gradients_per_step: float
    """Mini-batch gradients per local step, counted in the last round."""
    backend: str
    model: nn.Module
    """A copy of the model with the final parameters."""


def train(
    model: nn.Module,
    clients: Sequence[tuple[Tensor, Tensor]] | ClientData,
    algorithm: str | Algorithm = "fedgloss",
    *,
    rounds: int | None = None,
    clients_per_round: int | None = None,
    schedule: Sequence[Sequence[int]] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    lr: float = 0.01,
    weight_decay: float = 0.0,
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
    device: torch.device | str | None = None,
    backend: str = "auto",
    keep_history: bool = True,
    pipeline: Pipeline | None = None,
    checkpoints: Checkpoints | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_round: Callable[[int, dict[str, float] | None], None] = lambda t, row: None,
) -> Training:
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
        print(result.metrics[-1]["accuracy"], result.state["sigma"].norm())

    model: any `torch.nn.Module` without running statistics; its present parameters are the start
    and their type (float32 or float64) that of the computation.
    clients: one (inputs [N_k, ...], targets [N_k, ...]) pair each.
    algorithm: a name of `fedgloss.METHODS`, "package.module:function", or an `Algorithm`.
    rounds and clients_per_round: participants are drawn uniformly from `seed`; or give `schedule`,
    the client numbers of each round.
    loss: (outputs, targets) -> the mean loss of a mini-batch.
    batch_size, epochs, local_steps: local work; batch_size None is the whole client, local_steps
    replaces epochs.
    hyperparameters: by the names of docs/methods.md (rho, rho_l, beta, ...).
    variants: by name, or the name of a combination ("paper", "official", "recommended", ...).
    sizes: N_k for averaging, where it is not the number of samples.
    test, evaluate_every, last: evaluated every so many rounds and in each of the last `last`.
    record: any of "norms", "communication", "delta_epsilon" (Eq. 6; trains each cohort twice), at
    the evaluated rounds. Recording changes no number of the run.
    backend: "loop" (client after client), "stacked" (together; sequential models of common
    layers), or "auto", which picks and reports in `Training.backend`.
    keep_history: keep the parameters after every round ([rounds, P] in memory).

    Raises InputError, a ValueError, naming the argument that is wrong.
    """
    check_model(model)
    algorithm, hyper = _resolve_algorithm(algorithm, variants, hyperparameters)
    data = clients if isinstance(clients, ClientData) else ClientData.from_list(clients)
    data = data.checked()
    m = len(data.indices)
    rounds, participants = _resolve_participation(rounds, clients_per_round, schedule, m, algorithm)
    _check_numbers(lr, weight_decay, batch_size, epochs, local_steps, evaluate_every, last, seed)
    for name in record:
        _check_choice("record", name, RECORDS)
    _check_choice("backend", backend, BACKENDS)
    if backend == "stacked" and not can_stack(model):
        raise InputError(
            "backend: 'stacked' takes a torch.nn.Sequential of Conv2d (stride 1), MaxPool2d, ReLU,"
            " Flatten and Linear; use 'loop'"
        )

    model = copy.deepcopy(model)
    if device is not None:
        model = model.to(device)
    w = flatten(model)
    data = _placed(data, w, pipeline)
    if test is not None:
        test = _placed_test(test, data, w, pipeline)
    chosen = ("stacked" if can_stack(model) else "loop") if backend == "auto" else backend
    gradients = (StackedGradients if chosen == "stacked" else LoopGradients)(model, loss)
    _try_out(model, loss, w, data, pipeline)

    simulation = Simulation(
        algorithm,
        hyper,
        w,
        data,
        gradients,
        lr=lr,
        weight_decay=weight_decay,
        batching=Batching(batch_size, epochs, local_steps),
        participants=participants,
        seed=seed,
        pipeline=pipeline,
        sizes=_resolve_sizes(sizes, m, algorithm),
        measure=record,
    )
    average = torch.zeros_like(simulation.w, dtype=torch.float64)
    metrics: list[dict[str, float]] = []
    history = []
    resumed = checkpoints.load() if checkpoints else None
    if resumed:
        t, tensors, extra = resumed
        average = tensors.pop("average").to(average.device)
        simulation.load_state(tensors, t)
        metrics = extra["metrics"]
        simulation.measured.bytes_down, simulation.measured.bytes_up = extra["bytes"]
        on_round(t, metrics[-1] if metrics else None)

    def save() -> None:
        if checkpoints:
            measured = simulation.measured
            extra = {"metrics": metrics, "bytes": [measured.bytes_down, measured.bytes_up]}
            checkpoints.save(simulation.t, {**simulation.state(), "average": average}, extra)

    diverged_in = None
    while simulation.t < rounds:
        simulation.round()
        t = simulation.t
        if keep_history:
            history.append(simulation.w[0].clone())
        if t > rounds - last:
            average += simulation.w.double() / min(last, rounds)
        row = None
        if t % evaluate_every == 0 or t > rounds - last or simulation.w.device.type == "cpu":
            broken = int(simulation.diverged_in)
            diverged_in = broken + 1 if broken >= 0 else None
        if diverged_in is None and (t % evaluate_every == 0 or t > rounds - last):
            row = {"round": t}
            if test is not None:
                row |= evaluate(model, loss, simulation.w[0], *test, pipeline)
            row |= _recorded(simulation, record)
            metrics.append(row)
            if not row.get("loss", 0.0) < HOPELESS_LOSS:
                diverged_in = t
        if diverged_in is not None:
            metrics = [row for row in metrics if row["round"] < diverged_in]
            break
        on_round(t, row)
        if t < rounds and should_stop():
            save()
            raise Interrupted
        if t < rounds and checkpoints and checkpoints.due(t):
            save()

    final = simulation.w[0]
    ids, W = simulation.locals or ([], simulation.w[:0])
    parameters = unflatten(final, parameter_shapes(model))
    model.load_state_dict(parameters, strict=False)
    return Training(
        status="completed" if diverged_in is None else "diverged",
        diverged_in=diverged_in,
        w=final,
        history=torch.stack(history) if history else None,
        average=average[0].to(final.dtype),
        state={name: value[0] for name, value in simulation.s.items()} | simulation.clients,
        metrics=metrics,
        participants=ids,
        locals=W,
        bytes_down=simulation.measured.bytes_down,
        bytes_up=simulation.measured.bytes_up,
        gradients_per_step=simulation.measured.gradients_per_step,
        backend=chosen,
        model=model,
    )


def _recorded(simulation: Simulation, record: Sequence[str]) -> dict[str, float]:
    row: dict[str, float] = {}
    measured = simulation.measured
    if "norms" in record:
        row["w_norm"] = float(torch.linalg.vector_norm(simulation.w))
        row["pseudo_gradient_norm"] = float(measured.latest["pseudo_gradient_norm"])
    if "delta_epsilon" in record:
        row["delta_epsilon"] = float(measured.latest["delta_epsilon"])
    if "communication" in record:
        row["bytes_down"], row["bytes_up"] = measured.bytes_down, measured.bytes_up
    return row


def _resolve_algorithm(
    algorithm: str | Algorithm, variants: Mapping[str, str] | str, given: Mapping[str, float]
) -> tuple[Algorithm, dict[str, float]]:
    if isinstance(algorithm, Algorithm):
        if variants not in ({}, "recommended"):
            raise InputError("variants: give the method's name for these, not an Algorithm")
    elif isinstance(algorithm, str):
        algorithm = algorithms.build_algorithm(algorithm, variants)
    else:
        raise InputError("algorithm: expected a method's name or an Algorithm")
    return algorithm, algorithms.resolve_hyperparameters(algorithm, given)


def _resolve_participation(
    rounds: int | None,
    clients_per_round: int | None,
    schedule: Sequence[Sequence[int]] | None,
    m: int,
    algorithm: Algorithm,
) -> tuple[int, int | list[list[int]]]:
    if schedule is not None:
        if clients_per_round is not None:
            raise InputError("clients_per_round: not used together with schedule")
        for t, ids in enumerate(schedule):
            if not len(ids):
                raise InputError(f"schedule[{t}]: names no client")
            for k in ids:
                if isinstance(k, bool) or int(k) != k or not 0 <= k < m:
                    raise InputError(f"schedule[{t}]: client {k} does not exist (0 to {m - 1})")
            if len(set(ids)) < len(ids):
                raise InputError(f"schedule[{t}]: names a client twice")
        if rounds is not None and rounds > len(schedule):
            raise InputError(f"rounds: {rounds}, but the schedule has {len(schedule)}")
        count = len(schedule) if rounds is None else rounds
        return _integer("rounds", count, 0), [[int(k) for k in ids] for ids in schedule]
    if rounds is None:
        raise InputError("rounds: must be given, unless schedule is")
    if clients_per_round is None or algorithm.pooled:
        clients_per_round = m
    if _integer("clients_per_round", clients_per_round, 1) > m:
        raise InputError(f"clients_per_round: {clients_per_round} of only {m} clients")
    return _integer("rounds", rounds, 0), clients_per_round


def _check_numbers(
    lr: float,
    weight_decay: float,
    batch_size: int | None,
    epochs: int,
    local_steps: int | None,
    evaluate_every: int,
    last: int,
    seed: int,
) -> None:
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise InputError(f"{name}: {value!r} is not a finite number of at least 0")
    for name, value in (("batch_size", batch_size), ("local_steps", local_steps)):
        if value is not None:
            _integer(name, value, 1)
    for name, value in (("epochs", epochs), ("evaluate_every", evaluate_every), ("last", last)):
        _integer(name, value, 1)
    _integer("seed", seed, 0)


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}: {value!r} is not an integer of at least {least}")
    return value


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(
            f"{name}: {value!r} is unknown{algorithms.did_you_mean(value, list(allowed))}"
        )


def _resolve_sizes(sizes: Sequence[float] | None, m: int, algorithm: Algorithm) -> Tensor | None:
    if sizes is None:
        return None
    if algorithm.pooled:
        raise InputError("sizes: centralized training pools the samples, it weighs no clients")
    sizes = torch.as_tensor(sizes, dtype=torch.float64)
    if sizes.shape != (m,) or not torch.isfinite(sizes).all() or not (sizes > 0).all():
        raise InputError(f"sizes: expected {m} positive numbers, one for each client")
    return sizes


def _placed(data: ClientData, w: Tensor, pipeline: Pipeline | None) -> ClientData:
    """The data on the model's device, floats in the model's type."""
    return ClientData(
        _like(data.inputs, w, pipeline is None), _like(data.targets, w, True), data.indices
    )


def _placed_test(
    test: tuple[Tensor, Tensor], data: ClientData, w: Tensor, pipeline: Pipeline | None
) -> tuple[Tensor, Tensor]:
    if not (isinstance(test, Sequence) and len(test) == 2 and len(test[0]) == len(test[1])):
        raise InputError("test: expected a pair of tensors (inputs, targets) of equal length")
    if not len(test[0]):
        raise InputError("test: has no samples")
    for what, given, seen in zip(
        ("inputs", "targets"), test, (data.inputs, data.targets), strict=True
    ):
        if given.shape[1:] != seen.shape[1:]:
            raise InputError(
                f"test: {what} have shape {list(given.shape)}, the clients' {list(seen.shape)}"
            )
    return _like(test[0], w, pipeline is None), _like(test[1], w, True)


def _like(tensor: Tensor, w: Tensor, cast: bool) -> Tensor:
    return tensor.to(w.device, w.dtype if cast and tensor.is_floating_point() else None)


def _try_out(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    w: Tensor,
    data: ClientData,
    pipeline: Pipeline | None,
) -> None:
    """Pass one sample through, so that shapes that do not fit are named before the first round."""
    x, y = data.inputs[:1], data.targets[:1]
    x = x if pipeline is None else pipeline(x, None, w.dtype)
    try:
        with torch.no_grad():
            value = loss(model(x), y)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"clients: inputs {list(data.inputs.shape[1:])} and targets"
            f" {list(data.targets.shape[1:])} do not pass through the model and the loss ({reason})"
        ) from None
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise InputError("loss: must return the mean loss of a mini-batch, a scalar tensor")
