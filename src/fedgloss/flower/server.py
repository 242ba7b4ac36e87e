"""The server of the federation: the rounds, over whichever clients answer."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic

import torch
from flwr.serverapp import Grid
from torch import Tensor

from fedgloss.engine.arguments import check_callable, check_metrics, checked_test, placed_test
from fedgloss.engine.assembly import Result, build_gradients, summary
from fedgloss.engine.federation import Federation
from fedgloss.engine.flat import copied
from fedgloss.engine.folders import resume_folder
from fedgloss.engine.identity import kept, of_task
from fedgloss.engine.numbers import (
    check_choice,
    check_integer,
    resolve_course,
    resolve_participation,
)
from fedgloss.engine.rehearsal import rehearse
from fedgloss.engine.rounds import Plan, Run
from fedgloss.engine.start import prepared
from fedgloss.engine.task import Metric
from fedgloss.engine.trial import try_out_test
from fedgloss.errors import InputError
from fedgloss.flower.deployment import Deployment, settle
from fedgloss.flower.exchange import Clients
from fedgloss.flower.log import LOG, Stopped, in_short
from fedgloss.flower.remote import RemoteServer
from fedgloss.records import is_finite

SAMPLINGS = ("seeded", "flower")
FAILURES = ("continue", "stop")
MEASURED_HERE = ("norms", "communication", "consistency", "sharpness")
"""What `record` may ask for: the rest trains the cohort once more."""


@torch.inference_mode(False)
def serve(
    grid: Grid,
    deployment: Deployment,
    *,
    rounds: int | None = None,
    clients_per_round: int | None = None,
    schedule: Iterable[Iterable[int]] | None = None,
    sampling: str = "seeded",
    min_available: int | None = None,
    connect_timeout: float | None = 600.0,
    timeout: float | None = 3600.0,
    failures: str = "continue",
    test: tuple[Tensor, Tensor] | None = None,
    evaluate_every: int = 1,
    last: int = 1,
    record: Sequence[str] = (),
    metrics: Mapping[str, Metric] = {},
    keep_history: bool = False,
    resume: Path | str | None = None,
    on_round: Callable[[int, dict[str, float] | None], None] = lambda t, row: None,
) -> Result:
    """Train with the clients that Flower's grid reaches; in the main function of a ServerApp.

        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            result = fedgloss.flower.serve(grid, deployment, rounds=50, clients_per_round=10)
            print(result)

    What is not said here is as of `fedgloss.train`, and so is what is returned, where `state` is
    the server's alone and `locals` are the models that the clients sent.

    sampling: `seeded` draws the clients that `fedgloss.train` draws, connected or not; `flower`
    draws among those who are connected, at random, as Flower's strategies do.
    min_available: so many nodes must be connected before round 1; None: as many as clients.
    connect_timeout: seconds to wait for them; None: as long as it takes.
    timeout: seconds to wait for the answers of an exchange; None: as long as it takes.
    failures: where a client is not connected, fails, is late, or has lost what it kept, the round
    goes on with what there is (`continue`) or the run stops (`stop`). It stops in any case if
    nobody answers, or if a method with two exchanges in a round gets fewer answers in the second.
    resume: a folder for checkpoints, one after each round. Called again, the server goes on from
    there, and so do the clients in the same run of Flower. In another one their nodes begin from
    an empty record, as after a restart: a client whose method keeps something begins from zero.

    Raises InputError naming the argument that is wrong, and Stopped.
    """
    folder = resume_folder(resume, 0.0)
    settled = settle(deployment)
    m = len(settled.federation.data.indices)
    rounds, participants = resolve_participation(rounds, clients_per_round, schedule, m)
    course = resolve_course(
        rounds,
        batch_size=deployment.batch_size,
        epochs=deployment.epochs,
        local_steps=deployment.local_steps,
        evaluate_every=evaluate_every,
        last=last,
        record=record,
        keep_history=keep_history,
    )
    for name in course.record:
        check_choice("record", name, MEASURED_HERE)
    check_choice("sampling", sampling, SAMPLINGS)
    check_choice("failures", failures, FAILURES)
    if sampling == "flower" and not isinstance(participants, int):
        raise InputError("sampling: 'flower' draws participants; not used together with schedule")
    nodes = m if min_available is None else check_integer("min_available", min_available, 1)
    if nodes > m:
        raise InputError(f"min_available: {nodes} of only {m} clients")
    for name, limit in (("connect_timeout", connect_timeout), ("timeout", timeout)):
        if limit is not None and not (is_finite(limit) and limit > 0):
            raise InputError(f"{name}: {limit!r:.40} is not a number of seconds, nor None")
    check_metrics(metrics)
    check_callable("on_round", on_round)
    task = replace(settled.task, metrics=metrics)
    federation = replace(settled.federation, participants=participants)
    w = federation.w
    marks = of_task(task) if folder else {}
    if test is not None:
        test = placed_test(checked_test(test, None), w, task)
        with prepared(w.device):
            try_out_test(replace(task, model=copied(task.model)), w, test)
    elif "sharpness" in course.record:
        raise InputError("record: 'sharpness' is measured on the test set; give test, too")
    rehearse([federation], rounds=rounds)

    run = Run(federation, test)
    plan = Plan(task, course, build_gradients("autograd", task.model, task.loss), "flower")
    server = RemoteServer(settled, course.record)
    with kept(run, plan, marks, folder, 0.0):
        if (found := run.restore(plan)) and not run.finished:
            server.load_state([found[1]], found[0])
            server.measured = [run.measured]
        if not run.finished and server.t < rounds:
            clients = Clients(grid, settled.terms, timeout)
            clients.wait_for(nodes, connect_timeout, server.t)
            if clients.faults and (failures == "stop" or not clients.nodes):
                raise Stopped(f"before round {server.t + 1}: {in_short(clients.faults)}")
        while not run.finished:
            if server.t < rounds:
                began = monotonic()
                ids = _draw(sampling, federation, clients, server.t)
                answered = server.play(clients, ids, failures == "stop")
                with prepared(w.device):
                    row = run.after_round(plan, server, 0)
                if row is not None and settled.wire == "bfloat16":
                    row["wire_bits"] = 16
                shown = [f"{name} {value:.4g}" for name, value in (row or {}).items()][1:]
                LOG.info(
                    "fedgloss: round %d of %d, %d of %d answered in %.1f s%s",
                    *(server.t, rounds, answered, len(ids), monotonic() - began),
                    "".join(f", {entry}" for entry in shown),
                )
                on_round(server.t, None if row is None else dict(row))
            if run.diverged_in is not None or server.t == rounds:
                run.finish(server, 0, course)
            else:
                run.save(server, 0)
    return summary(run, plan, task.model)


def _draw(sampling: str, federation: Federation, clients: Clients, t: int) -> list[int]:
    """The clients of round t."""
    clients.look()
    if sampling == "seeded":
        return federation.draw_participants(t)
    here, wanted = sorted(clients.nodes), federation.participants
    if not here:
        raise Stopped(f"round {t + 1}: no client is connected")
    count = min(wanted, len(here)) if isinstance(wanted, int) else len(here)
    return sorted(random.sample(here, count))
