"""Tables of kind locals: how sharp the last round's local models are, as the paper's Table 1."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fedgloss.report import definitions, names, results
from fedgloss.report.model import Grid
from fedgloss.report.published import PublishedLocals, local_models
from fedgloss.report.results import Results
from fedgloss.study.layout import HERE
from fedgloss.study.schema.shown import LocalsTable

if TYPE_CHECKING:
    from fedgloss.study.study import Cell

HEADS = (
    *("Data", "Method", "Clients", "λ₁ local", "paper", "λ₁ global", "paper"),
    *("λ₁ local / global", "paper"),
)
Line = tuple[str, ...]
FIELDS = (
    *("table", "dataset", "alpha", "model", "algorithm", "method", "source", "seed", "client"),
    *("class", "name", "share", "images", "lambda1_local", "lambda1_global", "ratio"),
    *("residual_local", "residual_global", "sampling_error_global", "samples", "converged"),
)
UNCONVERGED = "†"


class Local(NamedTuple):
    """A local model of a run's last round.

    Attributes
      seed   of the run
      name   its client's class and number in the run, e.g. airplane-1, airplane-2, cat-1
      row    what was measured
    """

    seed: int
    name: str
    row: Mapping[str, Any]

    def value(self, metric: str) -> float:
        """lambda_1 on `local` or `global` data, or the `ratio` of the first to the second."""
        if metric == "ratio":
            return ratio(self.value("local"), self.value("global"))
        return float(self.row[metric]["lambda1"])

    @property
    def converged(self) -> bool:
        """Whether both eigenvalues met their tolerance."""
        return bool(self.row["local"]["converged"] and self.row["global"]["converged"])


def build(found: Results, name: str, asked: LocalsTable) -> Grid:
    """The table from what the results folder has."""
    study = found.study
    lines: list[Line] = []
    records = []
    for column, head in zip(asked.columns, names.columns(study, asked.columns), strict=True):
        for label in asked.rows:
            cells = study.select(column, algorithm=label)
            if not cells:
                continue
            ours, paper = _locals(found, cells), local_models(study, column, label)
            first, *others = _lines(found, label, cells, ours, paper)
            lines += [(head, *first), *(("", *line) for line in others)]
            where = {"table": name, **column.model_dump(), "algorithm": label}
            where["method"] = study.definition(label).method
            records += [{**where, **record} for record in _records(found, cells, ours, paper)]
    cells = study.cells_of(asked)
    title = " ".join(asked.title.split()) + results.part(found, cells)
    notes = tuple(_notes(found, asked, cells))
    used = [i for i, head in enumerate(HEADS) if head != "paper" or any(row[i] for row in lines)]
    heads, *shown = (tuple(row[i] for i in used) for row in (HEADS, *lines))
    return Grid(found.study.name, name, title, heads, tuple(shown), notes, FIELDS, tuple(records))


def _locals(found: Results, cells: Sequence["Cell"]) -> list[Local]:
    """The local models of these cells, of each run in the order of the clients."""
    listed = []
    for cell in cells:
        seen: Counter[str] = Counter()
        rows = (found.locals(cell) or {"locals": []})["locals"]
        for row in sorted(rows, key=lambda row: row["client"]):
            seen[row["class"]] += 1
            listed.append(Local(cell.seed, f"{row['class']}-{seen[row['class']]}", row))
    return listed


def median(found: Results, cell: "Cell", metric: str) -> float | None:
    """The middle one of a run's local models in `local` or `global`; None if not measured."""
    values = [local.value(metric) for local in _locals(found, [cell])]
    return statistics.median(values) if values else None


def _lines(
    found: Results,
    label: str,
    cells: Sequence["Cell"],
    ours: Sequence[Local],
    paper: PublishedLocals | None,
) -> Iterator[Line]:
    """A method's line on all participants, and one for each client of the paper's that we have."""
    printed = dict(paper.by_client) if paper else {}
    diverged = sum(found.status(cell) == "diverged" for cell in cells)
    measured = len({local.seed for local in ours})
    who = f"all {len(ours)}"
    if measured + diverged < len(cells):
        who += f", {measured}/{len(cells)} seeds"
    if diverged:
        who += f", × {diverged}/{len(cells)}"
    crossed = "×" if paper and paper.diverged else ""
    line = [names.algorithm(found.study, label), who]
    for metric in ("local", "global", "ratio"):
        values = [local.value(metric) for local in ours]
        mark = "" if all(local.converged for local in ours) else UNCONVERGED
        line.append(spread(values) + mark if values else "×" if diverged == len(cells) else "")
        line.append(spread([_printed(pair, metric) for pair in printed.values()]) or crossed)
    yield tuple(line)
    for client, pair in printed.items():
        own = [local for local in ours if local.name == numbered(client, printed)]
        if not own:
            continue
        line = ["", f"{client} ({len(own)})"]
        for metric in ("local", "global", "ratio"):
            mark = "" if all(local.converged for local in own) else UNCONVERGED
            line += [spread([local.value(metric) for local in own]) + mark]
            line += [spread([_printed(pair, metric)])]
        yield tuple(line)


def numbered(client: str, printed: Mapping[str, object]) -> str:
    """A client's class and number where the paper numbers it, airplane-2, or not: cat is cat-1."""
    base = re.sub(r"-\d+$", "", client)
    several = sum(re.sub(r"-\d+$", "", other) == base for other in printed) > 1
    return client if several else f"{client}-1"


def spread(values: Sequence[float]) -> str:
    """The median and the range: "31.4 (16.5–36.4)"; one value as it is; "" for none."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ""
    middle = _short(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({_short(min(values))}–{_short(max(values))})"


def _short(value: float) -> str:
    """With one decimal, as the paper prints it, and enough digits of what is small."""
    return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.2g}"


def _printed(pair: Mapping[str, float], metric: str) -> float:
    return ratio(pair["local"], pair["global"]) if metric == "ratio" else pair[metric]


def ratio(local: float, everyone: float) -> float:
    """How much sharper a model is on its client's own data; NaN where it is flat on all."""
    return local / everyone if everyone else math.nan


def _records(
    found: Results, cells: Sequence["Cell"], ours: Sequence[Local], paper: PublishedLocals | None
) -> Iterator[dict[str, object]]:
    samples = {cell.seed: (found.locals(cell) or {}).get("samples") for cell in cells}
    for local in ours:
        row = local.row
        yield {
            **{"source": "ours", "seed": local.seed, "client": row["client"], "name": local.name},
            **{key: row[key] for key in ("class", "share", "images")},
            **{f"lambda1_{key}": local.value(key) for key in ("local", "global")},
            "ratio": local.value("ratio"),
            **{f"residual_{key}": row[key]["residual"] for key in ("local", "global")},
            "sampling_error_global": row["global"]["sampling_error"],
            "samples": samples[local.seed],
            "converged": local.converged,
        }
    for client, pair in (paper.by_client if paper else {}).items():
        yield {
            **{"source": "paper table 1", "class": re.sub(r"-\d+$", "", client), "name": client},
            **{f"lambda1_{key}": pair[key] for key in ("local", "global")},
            "ratio": _printed(pair, "ratio"),
        }


def _notes(found: Results, asked: LocalsTable, cells: Sequence["Cell"]) -> Iterator[str]:
    """What the numbers mean."""
    measured = [record for cell in cells if (record := found.locals(cell)) and record["locals"]]
    yield (
        "Local models: those of the last round's participants, before the server averages them."
        " λ₁ local: largest eigenvalue of the Hessian of the mean loss over the client's own"
        f" training images; λ₁ global: over {definitions.of_images(measured)}"
        f"{definitions.by_method(measured)}. Lower is flatter."
    )
    yield (
        "Each method's first line: median (smallest–largest) over all participants of all seeds,"
        " and their number."
    )
    if any(
        local_models(found.study, column, label) for column in asked.columns for label in asked.rows
    ):
        yield (
            "Paper: as printed in Tab. 1, of one run; it names its five clients by their class."
            " Below each method's first line are those whose class most images of a client of ours"
            " have, too, and in how many seeds: airplane-2 is a run's second client of that class."
            " Its clients are a draw, and so are ours: there are no verdicts; compare the"
            " distributions."
        )
    rows = [
        row[key] for record in measured for row in record["locals"] for key in ("local", "global")
    ]
    open_ = sum(not row["converged"] for row in rows)
    if open_:
        yield (
            f"{UNCONVERGED}: among these are eigenvalues that did not converge"
            f" ({open_} of {len(rows)})."
        )
    if unlike := results.measured_unlike(found, cells, "locals"):
        yield f"{unlike}."
    yield from results.left_out(found, cells)
    if cells:
        target = HERE.locals(found.study.name, cells[0])
        yield f"One cell again: `{definitions.snakemake(found.study, target)}`"
