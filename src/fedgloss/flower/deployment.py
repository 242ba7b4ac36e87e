"""What the server and the clients of a federation agree on, and how each side reads it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from flwr.app import Context
from torch import Tensor, nn

from fedgloss.algorithms import resolve_variants
from fedgloss.algorithms.core import Algorithm
from fedgloss.engine.arguments import check_loss, check_pipeline, resolve_algorithm
from fedgloss.engine.clients import Batching, ClientData, Pipeline
from fedgloss.engine.digest import content_of, identify
from fedgloss.engine.federation import Federation
from fedgloss.engine.flat import check_model, copied, flatten
from fedgloss.engine.numbers import check_choice, check_integer, check_rates, resolve_course
from fedgloss.engine.start import find_device
from fedgloss.engine.task import Task
from fedgloss.errors import InputError

WIRES = ("exact", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A method, its numbers and the model it trains; each argument as of `fedgloss.train`.

    It has no data: each client loads its own, and the server has none but its test set.
    """

    model: nn.Module
    """Its parameters are the start; those of the server's count."""
    clients: int
    """How many clients there are in all, m. They are numbered from 0."""
    algorithm: str | Algorithm = "fedgloss"
    """A name of `fedgloss.METHODS`, "package.module:function", or an `Algorithm`."""
    hyperparameters: Mapping[str, float] = field(default_factory=dict)
    """By the names of docs/methods.md."""
    variants: Mapping[str, str] | str = "recommended"
    """By name, or the name of a combination."""
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    """(outputs, targets) -> the mean loss of a mini-batch."""
    lr: float = 0.01
    """Of the local steps."""
    weight_decay: float = 0.0
    """Of the local steps."""
    clip: float | None = None
    """The largest L2 norm of a client's direction in a local step; None: any."""
    batch_size: int | None = 64
    """None: all samples of the client."""
    epochs: int = 1
    """Local epochs a round."""
    local_steps: int | None = None
    """In place of `epochs`."""
    seed: int = 0
    """What participants, mini-batches and the model's own draws follow from."""
    pipeline: Pipeline | None = None
    """How stored images become inputs; None: samples are inputs as they are."""
    device: torch.device | str | None = None
    """Where this side computes; None: where the model is."""
    backend: str = "auto"
    """What trains a client."""
    wire: str = "exact"
    """How messages are sent: as they are, or `bfloat16`: vectors of the model's type are rounded,
    at half the bytes."""


Deploying = Deployment | Callable[[Context], Deployment]
"""A deployment, or how Flower's context (its run configuration) becomes one."""


@dataclass(frozen=True)
class Settled:
    """A deployment, checked, as the engine takes it."""

    federation: Federation
    """Of clients that are all elsewhere."""
    task: Task
    batching: Batching
    backend: str
    wire: str
    terms: dict[str, str]
    """What must be the same on both sides, by name, as text."""


def deployed(deployment: Deploying, context: Context) -> Deployment:
    """The deployment itself, or what a function makes of the context."""
    return deployment if isinstance(deployment, Deployment) else deployment(context)


def settle(given: Deployment) -> Settled:
    """Check a deployment. Raises InputError naming the argument that is wrong."""
    if not isinstance(given, Deployment):
        raise InputError(f"deployment: expected a Deployment, not {given!r:.40}")
    check_model(given.model)
    algorithm, hyper = resolve_algorithm(given.algorithm, given.variants, given.hyperparameters)
    if algorithm.pooled:
        raise InputError(
            f"algorithm: {algorithm.name} pools all samples, there is nothing to federate"
        )
    m = check_integer("clients", given.clients, 1)
    check_rates(given.lr, given.weight_decay, given.clip, given.seed)
    course = resolve_course(
        0,
        batch_size=given.batch_size,
        epochs=given.epochs,
        local_steps=given.local_steps,
        evaluate_every=1,
        last=1,
        record=(),
    )
    check_loss(given.loss)
    check_pipeline(given.pipeline)
    check_choice("wire", given.wire, WIRES)
    model = copied(given.model)
    if given.device is not None:
        model = model.to(find_device(given.device))
    w = flatten(model)
    nothing = torch.arange(0, device="cpu")
    federation = Federation(
        algorithm,
        hyper,
        w,
        ClientData(nothing, nothing, (nothing,) * m),
        given.lr,
        given.weight_decay,
        given.clip,
        m,
        given.seed,
        torch.zeros(m, dtype=torch.float64, device="cpu"),
    )
    variants: Mapping[str, str] = {}
    if isinstance(given.algorithm, str):
        variants = resolve_variants(given.algorithm, given.variants)
    pipeline = vars(given.pipeline) if given.pipeline else {}
    terms = {
        "algorithm": algorithm.name,
        **{f"variants.{name}": str(value) for name, value in variants.items()},
        **{f"hyperparameters.{name}": repr(float(value)) for name, value in hyper.items()},
        "model": _described(model, w),
        "loss": _loss(given.loss),
        **{f"pipeline.{name}": repr(value) for name, value in pipeline.items()},
        "clients": str(m),
        "lr": repr(float(given.lr)),
        "weight_decay": repr(float(given.weight_decay)),
        "clip": repr(given.clip and float(given.clip)),
        "batch_size": str(given.batch_size),
        "epochs": str(given.epochs),
        "local_steps": str(given.local_steps),
        "seed": str(given.seed),
        "wire": given.wire,
    }
    task = Task(model, given.loss, given.pipeline)
    return Settled(federation, task, course.batching, given.backend, given.wire, terms)


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """In what two sides' terms differ, in words; empty if in nothing."""
    absent = "nothing"
    return "; ".join(
        f"{name}: {theirs.get(name, absent)} on the server, {ours.get(name, absent)} here"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    )


def _described(model: nn.Module, w: Tensor) -> str:
    shapes = [list(parameter.shape) for parameter in model.parameters()]
    kind = str(w.dtype).removeprefix("torch.")
    mark = hashlib.sha256(str(shapes).encode()).hexdigest()[:8]
    return f"{w.numel()} parameters of {kind} in {len(shapes)} tensors ({mark})"


def _loss(loss: Any) -> str:
    """A loss by its name and what it was made with, which is alike under any version of Python."""
    mark: Any = None
    if isinstance(loss, nn.Module):
        public = {
            name: [type(part).__qualname__, {k: v for k, v in vars(part).items() if k[0] != "_"}]
            for name, part in loss.named_modules()
        }
        loss, mark = type(loss), [public, dict(loss.state_dict())]
    elif isinstance(loss, partial):
        loss, mark = loss.func, [loss.args, loss.keywords]
    elif closure := getattr(loss, "__closure__", None):
        contents = map(content_of, closure)
        mark = [_loss(value) if callable(value) else value for value in contents]
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    name = f"{named.__module__}.{named.__qualname__}"
    return name if mark is None else f"{name} ({identify(mark)[:8]})"
