"""What can be known of a loss function: PyTorch's cross-entropies, and the label they leave out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> the mean loss of a mini-batch."""
HOPELESS = 1e4
"""A cross-entropy beyond this is divergence: chance is ln(classes), about 2 to 8."""


def is_cross_entropy(loss: Loss) -> bool:
    """Whether a loss is `F.cross_entropy` itself, which is known here down to its derivative."""
    return loss is F.cross_entropy


def hopeless_value(loss: Loss) -> float:
    """A value from which no training comes back; of unknown losses only infinity and NaN are."""
    return HOPELESS if is_cross_entropy(loss) else float("inf")


@dataclass(frozen=True)
class Counting:
    """A loss that is 0 and not NaN for a mini-batch in which no sample counts."""

    loss: Loss
    label: int

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        return self.loss(z, y) if bool((y != self.label).any()) else z.sum() * 0


def counting(loss: Loss, targets: Tensor) -> Loss:
    """The loss for training on these targets, whether or not a sample of a batch counts."""
    label = ignored_label(loss)
    if label is None or targets.is_floating_point() or not bool((targets == label).any()):
        return loss
    return Counting(loss, label)


def ignored_label(loss: Loss | None) -> int | None:
    """The label whose samples do not count (-100 unless set), None for a loss not known here."""
    if isinstance(loss, Counting):
        return loss.label
    if loss in (F.cross_entropy, F.nll_loss):
        return -100
    if isinstance(loss, partial) and loss.func in (F.cross_entropy, F.nll_loss):
        return loss.keywords.get("ignore_index", -100)
    return loss.ignore_index if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) else None


def weight_of(loss: Loss | None, y: Tensor) -> float:
    """What the mean over these samples weighs in a mean over more of them."""
    label = ignored_label(loss)
    if label is None or y.is_floating_point():
        return float(len(y))
    if isinstance(loss, Counting):
        loss = loss.loss
    of_class = None
    if isinstance(loss, partial):
        of_class = loss.keywords.get("weight")
    elif isinstance(loss, nn.Module):
        of_class = loss.weight
    counted = y[y != label].long()
    return float(len(counted) if of_class is None else of_class[counted].sum())
