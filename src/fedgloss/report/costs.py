"""Tables of kind costs, the paper's Table 2: what a round sends and a local step computes."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fedgloss.report import values
from fedgloss.report.model import Column
from fedgloss.report.results import DIVERGED, Results
from fedgloss.report.seeds import Summary, summarize
from fedgloss.study.schema.shown import CostsTable

if TYPE_CHECKING:
    from fedgloss.study.study import Cell


def measure(found: Results, cells: Sequence["Cell"], column: Column) -> Summary:
    """A column's cost over the seeds that run to the end: no other has sent or computed it all.

    The others are left out, unless all diverged.
    """

    def cost(cell: "Cell") -> float | None:
        if column.metric == "gradients":
            return values.gradients(found, cell)
        return values.communication_cost(found, [cell])

    return summarize(found, [c for c in cells if found.status(c) != DIVERGED] or cells, cost)


def notes(found: Results, asked: CostsTable, cells: Sequence["Cell"]) -> Iterator[str]:
    """What its numbers mean."""
    yield (
        "Communication: the bytes of all messages that crossed the network, counted in the runs"
        " that went to the end, relative to FedAvg's two models per client and round; centralized"
        " training sends none."
    )
    yield (
        "Gradients: mini-batch gradients per local step, counted in the last round, all exchanges"
        " of the round together. The paper's: the local computation cost of its Table 2."
    )
