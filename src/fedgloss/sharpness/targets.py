"""Which labels of a data set count, what its batches weigh, and which predictions are right."""

from typing import NamedTuple

from torch import Tensor

from fedgloss.engine.losses import Loss, ignored_label, weight_of
from fedgloss.errors import InputError


class Batch(NamedTuple):
    """Samples that are passed together.

    Attributes
      start   the first one's index
      weight  of their loss in the mean
      labels  how many of their labels count
      share   of their accuracy in the mean
    """

    start: int
    weight: float
    labels: int
    share: float


def weighed(targets: Tensor, criterion: Loss, batch_size: int, equal: bool) -> list[Batch]:
    """The batches that weigh anything, in the order of the data.

    equal: each as much as any other. Raises InputError if no label counts.
    """
    pieces = targets.split(batch_size)
    weights = [weight_of(criterion, as_classes(piece, criterion)) for piece in pieces]
    labels = [_labels(piece, criterion) for piece in pieces]
    kept, total = [i for i, weight in enumerate(weights) if weight], sum(labels)
    if not kept:
        label = ignored_label(criterion)
        raise InputError(f"targets: are all {label}, or weigh nothing (allowed: at least one)")
    return [
        Batch(
            i * batch_size,
            1 / len(kept) if equal else weights[i] / sum(weights),
            labels[i],
            1 / len(kept) if equal else labels[i] / max(total, 1),
        )
        for i in kept
    ]


def check_classes(targets: Tensor, outputs: Tensor, criterion: Loss) -> None:
    """Refuse labels that outputs [N, classes, ...] have no class for, under a cross-entropy."""
    ignored = ignored_label(criterion)
    if ignored is None or targets.is_floating_point():
        return
    if outputs.dim() < 2:
        raise InputError(
            f"model: returns {described(outputs)} (allowed: a tensor [N, classes, ...])"
        )
    labels, classes = targets.long(), outputs.shape[1]
    counted = labels[labels != ignored]
    for label in (counted.min(), counted.max()) if len(counted) else ():
        if not 0 <= int(label) < classes:
            raise InputError(
                f"targets: {int(label)} is not a class of this model (allowed: 0 to"
                f" {classes - 1}, and {ignored} where there is none)"
            )


def as_classes(targets: Tensor, criterion: Loss) -> Tensor:
    """Targets as the loss takes them: a cross-entropy's are the same classes in any integers."""
    classes = ignored_label(criterion) is not None and not targets.is_floating_point()
    return targets.long() if classes else targets


def _labels(targets: Tensor, criterion: Loss) -> int:
    """How many labels count; a distribution over the classes is one."""
    if targets.is_floating_point():
        return targets[:, 0].numel() if targets.dim() > 1 else len(targets)
    return int(_counted(targets, criterion).sum())


def _counted(targets: Tensor, criterion: Loss) -> Tensor:
    """Which labels, integers, count."""
    label = ignored_label(criterion)
    return targets.long() >= 0 if label is None else targets.long() != label


def right(outputs: Tensor, targets: Tensor, criterion: Loss) -> Tensor:
    """How many predictions are right, an integer; NaN where targets are no classes."""
    if not targets.is_floating_point() and outputs.dim() == targets.dim() + 1:
        right = outputs.argmax(dim=1) == targets
        return (right & _counted(targets, criterion)).sum()
    if ignored_label(criterion) is not None and outputs.shape == targets.shape:
        return (outputs.argmax(dim=1) == targets.argmax(dim=1)).sum()
    return outputs.new_tensor(float("nan"))


def described(tensor: Tensor) -> str:
    """A tensor's type and shape, for an error's message."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
