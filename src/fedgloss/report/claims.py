"""Tables of kind claims: which of the paper's claims hold here, and in the paper's own numbers."""

import functools
import math
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedgloss.report import communication, local_models, names, results, values
from fedgloss.report.judging import RULE, SOME_SEEDS, Judgement, Number, decided_by, judge
from fedgloss.report.methods import VALUES, measured
from fedgloss.report.model import Grid
from fedgloss.report.published import Published, lookup, lookup_locals
from fedgloss.report.results import Results
from fedgloss.report.seeds import Summary, summarize
from fedgloss.study.claims import claims
from fedgloss.study.schema.claims import Claim
from fedgloss.study.schema.shown import ClaimsTable, Condition

if TYPE_CHECKING:
    from fedgloss.study.study import Cell

LOCAL = {"lambda1_local": "local", "lambda1_global": "global"}
LAST = ("delta_epsilon", "w_norm")
"""Columns of a run's metrics of which the last evaluated round counts."""
HEADS = ("Claim", "The paper says", "Decided by", "Here", "In the paper's numbers", "Where")
NUMBERS = ("first", "second", "difference", "half_interval")
FIELDS = (
    *("id", "where", "quote", "decided_by", "ours", "early", "paper"),
    *("comparison", "ours_verdict", *(f"ours_{name}" for name in NUMBERS)),
    *("paper_comparison", "paper_verdict", *(f"paper_{name}" for name in NUMBERS)),
)


@dataclass(frozen=True)
class Judged:
    """A claim with what came of it in our runs, and in the numbers that the paper prints."""

    claim: Claim
    ours: Judgement
    paper: Judgement


def judged(found: Results) -> list[Judged]:
    """Each claim of the paper."""
    ours = functools.cache(functools.partial(_ours, found))
    return [Judged(c, judge(c, ours), judge(c, _printed, "not printed")) for c in claims()]


def build(found: Results, name: str, asked: ClaimsTable) -> Grid:
    """The table of all claims: a line each, and in the CSV a line for each comparison."""
    every = judged(found)
    lines = tuple(
        (
            f"`{one.claim.id}`",
            f"“{' '.join(one.claim.quote.split())}”",
            decided_by(one.claim),
            _word(one.ours),
            _word(one.paper),
            one.claim.where,
        )
        for one in every
    )
    records = tuple(_record(one, i) for one in every for i in range(len(one.ours.comparisons)))
    title = " ".join(asked.title.split()) + results.part(found, found.study.cells_behind(asked))
    notes = tuple(_notes(found, asked, every))
    return Grid(found.study.name, name, title, HEADS, lines, notes, FIELDS, records)


def _word(judgement: Judgement) -> str:
    made, count = judgement.judged, len(judgement.comparisons)
    some = f" ({made} of {count})" if 0 < made < count else ""
    early = f", {judgement.early}" if judgement.early else ""
    return f"{judgement.verdict}{some}{early}"


def _record(one: Judged, i: int) -> dict[str, object]:
    ours, paper = one.ours.comparisons[i], one.paper.comparisons[i]
    return {
        "id": one.claim.id,
        "where": one.claim.where,
        "quote": " ".join(one.claim.quote.split()),
        "decided_by": decided_by(one.claim),
        "ours": one.ours.verdict,
        "early": ours.early,
        "paper": one.paper.verdict,
        "comparison": ours.text,
        "ours_verdict": ours.verdict,
        "paper_comparison": paper.text,
        "paper_verdict": paper.verdict,
        **{f"ours_{name}": value for name, value in zip(NUMBERS, ours.numbers, strict=True)},
        **{f"paper_{name}": value for name, value in zip(NUMBERS, paper.numbers, strict=True)},
    }


def _notes(found: Results, asked: ClaimsTable, every: list[Judged]) -> Iterator[str]:
    for whose, verdicts in (
        ("Here", Counter(one.ours.verdict for one in every)),
        ("In the paper's own tables", Counter(one.paper.verdict for one in every)),
    ):
        counts = names.listed([f"{count} {word}" for word, count in verdicts.most_common()])
        yield f"{whose}, of {len(every)} claims: {counts}."
    yield RULE
    yield "Each comparison with its numbers is in the CSV file."
    yield from results.left_out(found, found.study.cells_behind(asked))


def _ours(found: Results, condition: Condition, method: str, metric: str) -> Number | None:
    """A number of our runs, or why there is none; None if the study has no such cells."""
    label = found.study.stands_for(method, condition)
    if label is None:
        return None
    cells = found.study.select(condition, algorithm=label)
    if metric == "communication_cost":
        cost = values.communication_cost(found, cells)
        return None if cost is None else Number(cost)
    summary = _summary(found, cells, condition, metric)
    if summary is None:
        return None
    if summary.nothing:
        return Number(absent=summary.nothing)
    if (summary.missing or summary.against) and not summary.diverged:
        return Number(absent=SOME_SEEDS)
    return Number(
        summary.mean,
        summary.std,
        summary.n,
        summary.values,
        bool(summary.diverged),
        bool(summary.unreached),
        _early(found, cells, condition, method),
    )


def _summary(
    found: Results, cells: list["Cell"], condition: Condition, metric: str
) -> Summary | None:
    if metric in VALUES:
        return measured(found, cells, metric)
    if metric in LOCAL:
        return summarize(
            found, cells, lambda cell: local_models.median(found, cell, LOCAL[metric]), "locals"
        )
    if metric in LAST:
        return summarize(found, cells, lambda cell: _last(found, cell, metric))
    if not found.study.baselines(condition):
        return None
    return communication.reached(found, cells, condition, metric)


def _last(found: Results, cell: "Cell", metric: str) -> float | None:
    values = (found.metrics(cell) or {}).get(metric)
    return values[-1] if values and math.isfinite(values[-1]) else None


def _early(found: Results, cells: list["Cell"], condition: Condition, method: str) -> str:
    """How long the runs are, where that is less than the paper's."""
    paper = _printed_as(condition, method, "accuracy")
    rounds = {m["settings"]["training"]["rounds"] for m in map(found.manifest, cells) if m}
    if paper and paper.rounds and rounds and max(rounds) < paper.rounds:
        return f"after {max(rounds):,} of {paper.rounds:,} rounds"
    return ""


def _printed(condition: Condition, method: str, metric: str) -> Number | None:
    """A number of the paper's tables."""
    if metric in LOCAL:
        local = lookup_locals(condition.dataset, condition, method)
        if local is None:
            return None
        pairs = {client: pair[LOCAL[metric]] for client, pair in local.by_client.items()}
        mean = statistics.fmean(pairs.values()) if pairs else None
        return Number(mean, None, len(pairs), pairs, diverged=local.diverged)
    found = _printed_as(condition, method, metric)
    if found is None:
        return None
    return Number(
        found.mean,
        found.std,
        found.n,
        diverged=found.status == "diverged",
        unreached=found.status == "not_reached",
    )


def _printed_as(condition: Condition, method: str, metric: str) -> Published | None:
    return lookup(condition.dataset, condition, method, metric)
