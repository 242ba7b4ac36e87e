"""What chance decides of a round, or a schedule: the host's part of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fedgloss.algorithms.core import Named
from fedgloss.engine.cohort import Cohort


@dataclass(frozen=True)
class Draw:
    """What is drawn for a round before it begins."""

    ids: list[list[int]]
    """The participants of each federation."""
    rows: Tensor
    """The same as rows of the clients' state, int64 [S * K]."""
    cohort: Cohort
    probe: Cohort | None
    """The mini-batches of the extra exchange, where there is one."""
    h: Named
    """Hyperparameters and facts of the round."""

    def tensors(self) -> list[Tensor]:
        """What differs between two rounds, in a fixed order."""
        cohorts = [cohort for cohort in (self.cohort, self.probe) if cohort]
        facts = [value for value in self.h.values() if isinstance(value, Tensor)]
        return [self.rows, *(t for cohort in cohorts for t in cohort.tensors()), *facts]

    def placed(self, tensors: Iterator[Tensor], **facts: Any) -> "Draw":
        """The same with other tensors, in the order of `tensors`, and some other facts."""
        return replace(
            self,
            rows=next(tensors),
            cohort=self.cohort.placed(tensors),
            probe=self.probe and self.probe.placed(tensors),
            h=Named(
                **{k: next(tensors) if isinstance(v, Tensor) else v for k, v in self.h.items()}
            ).replace(**facts),
        )
