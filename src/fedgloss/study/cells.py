"""The cells of a study: the training runs that its grid spells out."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from fedgloss.errors import InputError
from fedgloss.study.schema.shown import Condition
from fedgloss.study.schema.study import Study

CELLS = 100_000
"""More cells no study has; a typing mistake in a range could."""


@dataclass(frozen=True, order=True)
class Cell:
    """One training run. `algorithm` is the label of the tables; its method may be another."""

    dataset: str
    alpha: str
    model: str
    algorithm: str
    seed: int

    @property
    def setting(self) -> str:
        """The cell's path without its algorithm and seed."""
        return f"{self.dataset}/alpha-{self.alpha}/{self.model}"

    @property
    def condition(self) -> str:
        """The cell's path without its seed."""
        return f"{self.setting}/{self.algorithm}"

    @property
    def column(self) -> Condition:
        """What tables and figures have a column for: everything but algorithm and seed."""
        return _column(self.dataset, self.alpha, self.model)

    def __str__(self) -> str:
        """The cell's path below the study's folders."""
        return f"{self.condition}/seed-{self.seed}"


@cache
def _column(dataset: str, alpha: str, model: str) -> Condition:
    return Condition(dataset=dataset, alpha=alpha, model=model)


def cells_of_grid(asked: Study, file: str) -> tuple[Cell, ...]:
    """Every cell once, in the order of the grid: blocks may overlap.

    Raises InputError for a grid of more than CELLS.
    """
    blocks = [len(block.alphas) * len(block.algorithms) for block in asked.grid]
    count = sum(blocks) * len(asked.seeds)
    if count > CELLS:
        raise InputError(f"{file}: grid: {count:,} cells; allowed: {CELLS:,}")
    return tuple(dict.fromkeys(_cells(asked)))


def _cells(asked: Study) -> Iterator[Cell]:
    for block in asked.grid:
        for alpha in block.alphas:
            for label in block.algorithms:
                for seed in asked.seeds:
                    yield Cell(block.dataset, alpha, block.model, label, seed)
