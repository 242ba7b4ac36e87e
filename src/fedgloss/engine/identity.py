"""What a run is: whatever decides its numbers, by name, to tell whether a checkpoint is its own.

Settings stand as they are; code and objects are hashed (digest.py).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fedgloss.engine.checkpoint import Checkpoints
from fedgloss.engine.digest import identify
from fedgloss.engine.rounds import Plan, Run
from fedgloss.engine.task import Task
from fedgloss.fingerprint import fingerprint

ENGINE = "fedgloss.engine.assembly"


def of_task(task: Task) -> dict[str, str]:
    """What of a run's identity is in its task. To be taken before any of it is called: model, loss
    and metrics may note in themselves what passes through them."""
    return {
        "model": identify(task.model, without_values=task.model.parameters()),
        "pipeline": identify(task.pipeline),
        "loss": identify(task.loss),
        "metrics": identify(dict(task.metrics)),
    }


def of_run(run: Run, plan: Plan, task: dict[str, str]) -> dict[str, Any]:
    """The identity of a run of `fedgloss.train`, by the names of its arguments; task: `of_task`."""
    federation, course = run.federation, plan.course
    drawn = isinstance(federation.participants, int)
    clip = {} if federation.clip is None else {"clip": float(federation.clip)}
    return {
        "algorithm or variants": identify(federation.algorithm),
        "hyperparameters": {
            name: float(value) for name, value in federation.hyperparameters.items()
        },
        **task,
        "initial parameters": identify(federation.w),
        "clients": identify(
            (federation.data.inputs, federation.data.targets, federation.data.indices)
        ),
        "test": identify(run.test),
        "lr": float(federation.lr),
        "weight_decay": float(federation.weight_decay),
        **clip,
        "batch_size": course.batching.size and int(course.batching.size),
        "epochs": int(course.batching.epochs),
        "local_steps": course.batching.steps and int(course.batching.steps),
        "rounds": course.rounds,
        "clients_per_round": federation.participants if drawn else None,
        "schedule": None if drawn else identify(federation.participants),
        "sizes": identify(federation.sizes),
        "seed": int(federation.seed),
        "evaluate_every": int(course.evaluate_every),
        "last": int(course.last),
        "record": sorted({*course.record}),
        "keep": list(course.keep),
        "keep_history": course.keep_history,
        "device": federation.w.device.type,
        "backend": plan.backend,
        "fedgloss": fingerprint(ENGINE),
        "torch": torch.__version__,
        "python": "{}.{}".format(*sys.version_info),  # bytecode is another in another version
    }


@contextmanager
def kept(
    run: Run, plan: Plan, task: dict[str, str], folder: Path | None, every_seconds: float
) -> Iterator[None]:
    """Let a run of `fedgloss.train` keep its checkpoints in a folder, if there is one.

    task: `of_task`, needed with a folder only.
    """
    if folder is None:
        yield
        return
    run.checkpoints = Checkpoints(
        folder, of_run(run, plan, task), sys.maxsize, every_seconds, for_calls=True
    )
    try:
        yield
    finally:
        run.checkpoints.release()
