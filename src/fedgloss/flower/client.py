"""A client of the federation as a Flower ClientApp: it answers messages from its own data."""

from collections.abc import Callable
from dataclasses import replace

import torch
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fedgloss.algorithms.core import Named
from fedgloss.engine.arguments import placed
from fedgloss.engine.assembly import assemble, build_gradients
from fedgloss.engine.client import Call, alone, answer
from fedgloss.engine.clients import ClientData
from fedgloss.engine.cohort import Gradients
from fedgloss.engine.losses import counting
from fedgloss.engine.rounds import Run
from fedgloss.engine.start import prepared
from fedgloss.engine.task import Course
from fedgloss.errors import InputError, cause
from fedgloss.flower.deployment import Deploying, Settled, deployed, differences, settle
from fedgloss.flower.log import LOG
from fedgloss.flower.records import FACTS, MESSAGE, Kept, number, pack, unpack

TRIED = "fedgloss.trial"
"""The record of what the trial before round 1 has found."""
REFUSED = 2
"""Flower's code for an error in the app."""
Load = Callable[[Context], tuple[Tensor, Tensor]]
"""A client's own samples: (inputs [N_k, ...], targets [N_k, ...])."""


def client_app(deployment: Deploying, load: Load) -> ClientApp:
    """A ClientApp that trains as `deployment` says, on what `load` returns.

        client = client_app(deployment, load)  # pyproject.toml: clientapp = "my_app:client"

    load: from Flower's context to this client's own samples. A client's number, from 0, is the
    `partition-id` of its node's configuration: the simulation engine gives it, a SuperNode is
    started with --node-config "partition-id=3". What a method keeps from round to round lies in
    Flower's own record of the node's state.

    What is wrong here (no samples, another model, settings that differ from the server's) goes to
    the server in one line, as an error that answers its message.
    """
    app = ClientApp()

    @app.query()
    @torch.inference_mode(False)
    def greet(message: Message, context: Context) -> Message:
        return _refusing(_greet, message, context, deployment, load)

    @app.train()
    @torch.inference_mode(False)
    def train(message: Message, context: Context) -> Message:
        return _refusing(_train, message, context, deployment, load)

    return app


def _refusing(
    handle: Callable[[Message, Context, Settled, int, ClientData], RecordDict],
    message: Message,
    context: Context,
    deployment: Deploying,
    load: Load,
) -> Message:
    """Answer with what `handle` makes of the message, or with one line that says what is wrong."""
    try:
        settled = settle(deployed(deployment, context))
        k = _client_number(context, len(settled.federation.data.indices))
        data = _own(_loaded(load, context), k, settled)
        with prepared(settled.federation.w.device):
            content = handle(message, context, settled, k, data)
        return Message(content, reply_to=message)
    except InputError as error:
        return Message(Error(REFUSED, str(error)), reply_to=message)


def _loaded(load: Load, context: Context) -> tuple[Tensor, Tensor]:
    """The client's data; what its own code raises is one line for the server, and whole here."""
    try:
        return load(context)
    except InputError:
        raise
    except Exception as error:  # whatever a user's code raises
        LOG.exception("fedgloss: load failed")
        raise InputError(f"load: {cause(error)}") from None


def _greet(
    message: Message, context: Context, settled: Settled, k: int, data: ClientData
) -> RecordDict:
    """Say who this is and how many samples it has, if both sides agree on everything.

    What could not train is said here, before round 1: model, loss and data are tried out.
    """
    terms = {name: str(value) for name, value in message.content.config_records[FACTS].items()}
    if differ := differences(settled.terms, terms):
        raise InputError(differ)
    context.state[TRIED] = ConfigRecord({"backend": _try_out(settled, data)})
    return RecordDict({FACTS: MetricRecord({"client": k, "samples": len(data.inputs)})})


def _train(
    message: Message, context: Context, settled: Settled, k: int, data: ClientData
) -> RecordDict:
    """Train from the message received, and keep the state that this leaves."""
    federation = settled.federation
    algorithm, like = federation.algorithm, federation.w[None, None]
    facts = message.content.config_records[FACTS]
    down = unpack(message.content.array_records[MESSAGE], like, settled.wire)
    if down.w.shape != like.shape:
        raise InputError(f"model: {down.w.numel()} parameters on the server, {like.numel()} here")
    call = Call(
        int(number(facts["round"])),
        str(facts["purpose"]),
        int(number(facts["n"])),
        number(facts["p"]),
        number(facts["share"]),
    )
    kept, counted = Kept(context.state, str(facts["run"]), like), int(number(facts["counted"]))
    before, probe = f"{counted}", f"{call.t}/probe"
    keeps_probe = algorithm.probe is not None and algorithm.probe.clients_keep
    start = probe if call.purpose == "batches" and keeps_probe else before
    names = algorithm.client_state
    c = kept.load(start, names) if start == probe or counted >= 0 else None
    lost = bool(names) and c is None and (counted >= 0 or start == probe)
    if c is None:
        c = Named(**{name: torch.zeros_like(like) for name in names})

    c, up, evaluations = answer(
        replace(federation, data=alone(data, k, len(federation.data.indices))),
        k,
        down,
        c,
        call,
        gradients=_gradients(settled, data, context.state),
        batching=settled.batching,
        pipeline=settled.task.pipeline,
    )
    if names and (call.purpose == "batches" or keeps_probe):
        c = Named(**{name: c[name] for name in names})
        kept.save(f"{call.t}" if call.purpose == "batches" else probe, c, before)
    told = MetricRecord(
        {"client": k, "samples": len(data.inputs), "gradients": evaluations, "lost": int(lost)}
    )
    return RecordDict({MESSAGE: pack(up, like, settled.wire), FACTS: told})


def _client_number(context: Context, m: int) -> int:
    """Which of the m clients this is."""
    k = context.node_config.get("partition-id")
    if not isinstance(k, int) or isinstance(k, bool) or not 0 <= k < m:
        raise InputError(
            f"node-config: partition-id is {k!r:.40}; allowed: the client's number, 0 to {m - 1}"
        )
    return k


def _own(samples: tuple[Tensor, Tensor], k: int, settled: Settled) -> ClientData:
    """This client's samples, on its device."""
    try:
        data = placed(ClientData.from_list([samples]), settled.federation.w, settled.task)
        return data.checked()
    except InputError as error:  # there it is the only one
        raise InputError(str(error).replace("clients[0]", f"clients[{k}]")) from None


def _try_out(settled: Settled, data: ClientData) -> str:
    """The backend that trains this client, after a try on its smallest and largest mini-batch."""
    here = Run(replace(settled.federation, data=data))
    course = Course(1, settled.batching)
    return assemble(settled.task, [here], course, backend=settled.backend).backend


def _gradients(settled: Settled, data: ClientData, state: RecordDict) -> Gradients:
    """What computes this client's gradients; tried out again only by a node that was restarted."""
    tried = state.config_records.get(TRIED)
    backend = str(tried["backend"]) if tried else _try_out(settled, data)
    loss = counting(settled.task.loss, data.targets)
    return build_gradients(backend, settled.task.model, loss)
