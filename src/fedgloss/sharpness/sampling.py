"""How many images a Hessian is of, and how many at a time: a sample, its error, its batches."""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedgloss.errors import InputError
from fedgloss.sharpness.arithmetic import arithmetic, derivative
from fedgloss.sharpness.krylov import dot, finite
from fedgloss.sharpness.objective import Objective

GROUPS = 50
"""Parts of a sample whose spread is its error, which is then known to a tenth of itself."""
BUDGET = {"cpu": 2**28, "cuda": 2**33}
"""Bytes that a batch's intermediate results may take, by the device's type."""


def sampling_error(objective: Objective, w: Tensor, v: Tensor, population: int) -> float:
    """The standard error of v' H v as an estimate for the population that a sample was drawn from.

    v [P] is a unit vector, the eigenvector of lambda_1 for instance, whose spread this is to first
    order; not its bias: a sample's own direction is on average sharper than any is for all. From
    the spread among `GROUPS` parts of the sample, classes spread over them evenly; none if it is
    the population. targets: classes [N].
    """
    count = len(objective.targets)
    if count >= population:
        return 0.0
    size = math.ceil(count / GROUPS)
    order, curvatures = _in_turns(objective.targets), []
    for start in range(0, count - size + 1, size):
        part = order[start : start + size]
        group = replace(objective, inputs=objective.inputs[part], targets=objective.targets[part])
        curvatures.append(dot(v, finite(group.hessian_vector(w, v))))
    if len(curvatures) < 2:
        raise InputError(f"images: {count} (allowed: at least 2, for their sampling error)")
    spread = float(np.std(curvatures, ddof=1)) / math.sqrt(len(curvatures))
    return spread * math.sqrt(1 - count / population)


def _in_turns(classes: Tensor) -> Tensor:
    """Indices [N] of classes [N] in an order in which each class comes once, then each again."""
    found = classes.cpu().numpy()
    by_class = np.argsort(found, kind="stable")
    _, starts, sizes = np.unique(found[by_class], return_index=True, return_counts=True)
    turn = np.empty(len(found))
    # Of a class' n-th: how far through the class it is, so that small ones are spread out, too.
    turn[by_class] = (np.arange(len(found)) - np.repeat(starts, sizes)) / np.repeat(sizes, sizes)
    return torch.from_numpy(np.argsort(turn, kind="stable")).to(classes.device)


def fitting(objective: Objective, w: Tensor) -> Objective:
    """The same objective, in batches that are no larger than the device's `BUDGET` allows.

    Measured on two samples at w [P]: the results that PyTorch keeps until a second derivative.
    """
    few = replace(objective, inputs=objective.inputs[:2], targets=objective.targets[:2])
    twice = objective.differentiable_twice
    with arithmetic(objective.model, w.device, twice=twice), torch.enable_grad():
        point = w.clone().requires_grad_()
        kept: dict[int, int] = {point.untyped_storage().data_ptr(): 0}  # each storage once

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept.setdefault(storage.data_ptr(), storage.nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            derivative(few.term(point, 0), point, create_graph=twice)
    each = max(sum(kept.values()) / len(few.targets), 1.0)
    most = max(int(BUDGET[w.device.type] / each), 1)
    return replace(objective, batch_size=min(objective.batch_size, most))
