"""What can be known of a loss function: PyTorch's cross-entropies, and the label they leave out."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> the mean loss of a mini-batch."""


def ignored_label(loss: Loss) -> int | None:
    """The label whose samples do not count (-100 unless set), None for a loss not known here."""
    if loss in (F.cross_entropy, F.nll_loss):
        return -100
    if isinstance(loss, partial) and loss.func in (F.cross_entropy, F.nll_loss):
        return loss.keywords.get("ignore_index", -100)
    return loss.ignore_index if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) else None


def counting(loss: Loss, targets: Tensor) -> Loss:
    """The loss for training on these targets: 0 and not NaN where no sample of a batch counts."""
    label = ignored_label(loss)
    if label is None or targets.is_floating_point() or not bool((targets == label).any()):
        return loss

    def counted(z: Tensor, y: Tensor) -> Tensor:
        return loss(z, y) if bool((y != label).any()) else z.sum() * 0

    return counted
