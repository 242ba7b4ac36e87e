"""A table as text: Markdown for people, CSV for programs; byte-stable. LaTeX: see latex.py."""

import csv
import io

from fedgloss.report import recorded
from fedgloss.report.model import Column, Entry, Row, Table, decimals
from fedgloss.report.published import Published
from fedgloss.report.results import NOT_RUN
from fedgloss.report.seeds import Summary

HEADS = {
    "accuracy": "accuracy (%)",
    "accuracy_gain": "gain (points)",
    "accuracy_at_half": "acc. at T/2 (%)",
    "lambda1": "λ₁",
    "lambda1_official": "λ₁, official code",
    "trace": "trace",
    "lambda1_share": "λ₁ / trace (%)",
    "rounds": "rounds",
    "cost": "cost (B)",
    "rounds_to_fedgloss": "rounds",
    "cost_vs_fedgloss": "cost (B)",
    "communication_cost": "communication (×)",
    "gradients": "gradients",
}
FIELDS = (
    *("table", "client", "algorithm", "method", "dataset", "alpha", "model", "metric"),
    *("source", "seed", "mean", "std", "n", "planned", "diverged", "not_reached"),
    *("status", "verdict", "note", "line", *recorded.RUN),
)


def number(ours: Summary, metric: str) -> str:
    """Ours as the tables print it, without the count of seeds: "83.9 ± 0.4", "×", "–", or ""."""
    if ours.mean is None:
        return "×" if ours.diverged else "–" if ours.unreached else ""
    digits = f",.{decimals(metric, ours.mean)}f"
    spread = "" if ours.std is None else f" ± {ours.std:{digits}}"
    return f"{ours.mean:{digits}}{spread}"


def count(ours: Summary) -> str:
    """The seeds behind a number: "n=3"; "n=2/3" if one is missing, "n=2, × 1/3" if one diverged.

    Of those that are missing also why, where it is not that they are not run.
    """
    parts = []
    counted = not ours.unreached and (ours.n or (ours.missing and not ours.diverged))
    if counted:
        parts.append(f"n={ours.n}/{ours.planned}" if ours.missing else f"n={ours.n}")
    elif ours.n:
        parts.append(f"{ours.n}/{ours.planned} reached")
    if ours.diverged:
        parts.append(f"{'× ' if ours.n else ''}{ours.diverged}/{ours.planned}")
    if ours.unreached and not ours.n and not is_plain(ours):
        parts.append(f"{ours.unreached} not reached")
    if counted and len(ours.reasons) == 1:
        parts += [why for why in ours.reasons if why != NOT_RUN]
    else:
        parts += [f"{seeds} {why}" for why, seeds in ours.reasons.items()]
    return ", ".join([*parts, *[ours.against] * bool(ours.against)])


def is_plain(ours: Summary) -> bool:
    """Whether all seeds fared alike, so that a count would say nothing the notes do not."""
    return not ours.against and ours.planned in (ours.n, ours.diverged, ours.unreached)


def paper_number(paper: Published | None, metric: str) -> str:
    """The paper's number as it prints it."""
    if paper is None:
        return ""
    if paper.mean is None:
        return "×" if paper.status == "diverged" else "–"
    if metric == "rounds":
        return f"{paper.mean:,.0f}"
    return f"{paper.mean} ± {paper.std}" if paper.std is not None else f"{paper.mean}"


def cost(row: Row) -> str:
    """The communication cost of a row, e.g. "2×"."""
    return "–" if row.cost is None else f"{row.cost:.2g}×"


def to_markdown(table: Table) -> str:
    """A pipe table with a title above and notes below; its lines align in a terminal."""
    from tabulate import tabulate

    heads = ["Method", *["Comm. cost"] * table.has_costs]
    alignment = ["left", *["right"] * table.has_costs]
    for column in table.columns:
        heads += [f"{column.head}: {HEADS[column.metric]}"]
        heads += ["paper"] * column.published + ["verdict"] * column.judged
        alignment += ["right", *["right"] * column.published, *["left"] * column.judged]
    lines = []
    for group, rows in table.groups:
        lines.append([f"**{group}**", *[""] * (len(heads) - 1)])
        lines += [_markdown_row(table, row) for row in rows]
    body = tabulate(lines, heads, tablefmt="pipe", disable_numparse=True, colalign=alignment)
    notes = "\n".join(f"- {note}" for note in table.notes)
    return f"**{table.title}**\n\n{body}\n\n{notes}\n"


def _markdown_row(table: Table, row: Row) -> list[str]:
    line = [row.name, *[cost(row)] * table.has_costs]
    for column, entry in zip(table.columns, row.entries, strict=True):
        value, seeds = number(entry.ours, column.metric), count(entry.ours)
        value = f"**{value}**" if entry.best else value
        line.append(f"{value} ({seeds})" if value and seeds else value or seeds)
        if column.published:
            line.append(paper_number(entry.paper, column.metric))
        if column.judged:
            line.append(f"{entry.verdict.sign} {entry.verdict.word}" if entry.verdict else "")
    return line


def spans(columns: tuple[Column, ...]) -> list[tuple[str, list[Column]]]:
    """Neighbouring columns under their common head."""
    heads = dict.fromkeys(column.head for column in columns)
    return [(head, [c for c in columns if c.head == head]) for head in heads]


def to_csv(table: Table) -> str:
    """Long format, full precision: for each entry a row for every seed, ours, and the paper's."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        base = {"table": table.name, "client": row.client, "algorithm": row.label}
        base["method"] = row.method
        if row.cost is not None:
            writer.writerow(
                {**base, "metric": "communication_cost", "source": "ours", "mean": row.cost}
            )
        for column, entry in zip(table.columns, row.entries, strict=True):
            where = {**base, **dict(column.condition), "metric": column.metric}
            writer.writerows({**where, **values} for values in _csv_rows(entry))
    return out.getvalue()


def _csv_rows(entry: Entry) -> list[dict[str, object]]:
    ours, paper = entry.ours, entry.paper
    why = [f"seed {seed} {why}" for seed, why in ours.absent.items()]
    why += [ours.against] * bool(ours.against)
    rows: list[dict[str, object]] = [
        {"source": "seed", "seed": seed, "mean": value, "n": 1, **entry.runs.get(seed, {})}
        for seed, value in ours.values.items()
    ]
    rows.append(
        {
            "source": "ours",
            "mean": ours.mean,
            "std": ours.std,
            "n": ours.n,
            "planned": ours.planned,
            "diverged": ours.diverged,
            "not_reached": ours.unreached,
            "verdict": entry.verdict.word if entry.verdict else "",
            "note": "; ".join(why),
        }
    )
    if paper:
        rows.append(
            {
                "source": f"paper table {paper.table}",
                "mean": paper.mean,
                "std": paper.std,
                "n": paper.n,
                "status": paper.status,
                "note": paper.note,
                "line": paper.line,  # of published.csv
            }
        )
    return rows
