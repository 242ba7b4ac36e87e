"""Tables of kind methods: how accurate each method is, and how flat its minimum."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from fedgloss.report import definitions, values
from fedgloss.report.model import Column
from fedgloss.report.results import Measured, Results
from fedgloss.report.seeds import Summary, summarize
from fedgloss.study.schema.shown import MethodsTable

if TYPE_CHECKING:
    from fedgloss.study.study import Cell

VALUES: dict[str, Callable[[Results, "Cell"], float | str | None]] = {
    "accuracy": values.accuracy,
    "accuracy_gain": values.accuracy_gain,
    "accuracy_at_half": values.accuracy_at_half,
    "lambda1": values.lambda1,
    "lambda1_official": values.lambda1_official,
    "trace": values.trace,
    "lambda1_share": values.lambda1_share,
}
OF_HESSIAN = ("lambda1", "lambda1_official", "trace", "lambda1_share")


def measure(found: Results, cells: Sequence["Cell"], column: Column) -> Summary:
    """A column's metric over the seeds."""
    return measured(found, cells, column.metric)


def measured(found: Results, cells: Sequence["Cell"], metric: str) -> Summary:
    """A metric of VALUES over the seeds."""
    of: Measured | None = "hessian" if metric in OF_HESSIAN else None
    return summarize(found, cells, lambda cell: VALUES[metric](found, cell), of)


def notes(found: Results, asked: MethodsTable, cells: Sequence["Cell"]) -> Iterator[str]:
    """What its numbers mean."""
    manifests = [m for m in map(found.manifest, cells) if m]
    yield (
        "Comm. cost: bytes that crossed the network, counted in the runs that went to the end,"
        " relative to FedAvg's two models per client and round."
    )
    if "accuracy" in asked.metrics:
        yield f"Accuracy: {definitions.accuracy(manifests)}."
    if "accuracy_gain" in asked.metrics:
        yield "Gain: accuracy minus that of FedAvg's run with the same seed."
    if "accuracy_at_half" in asked.metrics:
        yield f"Accuracy at T/2: {definitions.accuracy_at_half(manifests)}."
    if asked.estimate or "lambda1" in asked.metrics:
        yield f"λ₁: {definitions.lambda1(found, cells)}; lower is flatter."
    if asked.estimate:
        yield f"Trace: {definitions.trace(found, cells)}. λ₁ / trace: the part in one direction."
    if "lambda1_official" in asked.metrics:
        yield (
            "λ₁, official code: of the same models, estimated as the released code does, by at most"
            f" 20 steps of power iteration, over {definitions.HESSIAN_DATA['official_code']}."
        )
