"""A table as text: Markdown for people, LaTeX for papers, CSV for programs; byte-stable."""

import csv
import io
import math
import re

from fedgloss.report.model import DECIMALS, Column, Entry, Row, Table
from fedgloss.report.published import Published
from fedgloss.report.results import Summary

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
    *("status", "verdict", "note", "line"),
)


def number(ours: Summary, metric: str) -> str:
    """Ours as the tables print it, without the count of seeds: "83.9 ± 0.4", "×", "–", or ""."""
    if ours.mean is None:
        return "×" if ours.diverged else "–" if ours.unreached else ""
    digits = f",.{DECIMALS[metric]}f"
    spread = "" if ours.std is None else f" ± {ours.std:{digits}}"
    return f"{ours.mean:{digits}}{spread}"


def count(ours: Summary) -> str:
    """The seeds behind a number: "n=3"; "n=2/3" if one is missing, "n=2, × 1/3" if one diverged."""
    some = f"n={ours.n}/{ours.planned}"
    if ours.missing == ours.planned:
        return some if ours.planned else ""
    parts = []
    if ours.n and ours.unreached:
        parts.append(f"{ours.n}/{ours.planned} reached")
    elif ours.n:
        parts.append(some if ours.missing else f"n={ours.n}")
    if ours.diverged:
        parts.append(f"{'× ' if ours.n else ''}{ours.diverged}/{ours.planned}")
    if ours.unreached and not ours.n and not is_plain(ours):
        parts.append(f"{ours.unreached} not reached")
    if ours.missing and (ours.unreached or not ours.n):
        parts.append(f"{ours.missing} not run")
    return ", ".join(parts)


def is_plain(ours: Summary) -> bool:
    """Whether all seeds fared alike, so that a count would say nothing the notes do not."""
    return ours.planned in (ours.n, ours.diverged, ours.unreached)


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


NAME, COST, OURS, SIGN, PAPER = 4, 2, 4, 1, 2
"""How wide columns of a LaTeX table are, roughly."""
SIZES = {16: r"\footnotesize", 24: r"\scriptsize", 30: r"\fontsize{6}{7.2}\selectfont"}
"""In which print a page has room for how much of that."""


def to_latex(table: Table) -> str:
    """A floating table that needs booktabs alone; verdicts stand as signs between the numbers.

    What a page is too narrow for stands in parts, one below the other.
    """
    parts = _parts(table)
    wide = _side(table) + max(sum(_wide(columns) for _, columns in part) for part in parts)
    size = next((size for room, size in SIZES.items() if wide <= room), [*SIZES.values()][-1])
    title = tex(table.title)
    kind = "table*" if wide > 12 else "table"
    lines = [
        rf"\begin{{{kind}}}",
        r"\centering",
        rf"\caption[{{{title}}}]{{{title}. {tex(' '.join(table.notes))}}}",
        rf"\label{{tab:{table.name}}}",
        size,
        rf"\setlength{{\tabcolsep}}{{{2.5 if wide <= 24 else 1.5}pt}}",
        "\n\\par\\medskip\n".join(_tabular(table, part) for part in parts),
        rf"\end{{{kind}}}",
    ]
    return "\n".join(lines) + "\n"


Heads = list[tuple[str, list[Column]]]


def _parts(table: Table) -> list[Heads]:
    """The conditions of a table in as few parts as fit a page, each of about as many."""
    heads = spans(table.columns)
    widest = max(_wide(columns) for _, columns in heads)
    fitting = max((max(SIZES) - _side(table)) // widest, 1)
    across = math.ceil(len(heads) / math.ceil(len(heads) / fitting))
    return [heads[i : i + across] for i in range(0, len(heads), across)]


def _side(table: Table) -> int:
    return NAME + COST * table.has_costs


def _wide(columns: list[Column]) -> int:
    return sum(OURS + PAPER * column.published + SIGN * column.judged for column in columns)


def _tabular(table: Table, heads: Heads) -> str:
    """The part of a table that stands under some of its heads."""
    costs = int(table.has_costs)
    spec, top, rules = "l" + "r" * costs, [""] * (1 + costs), []
    names, at = ["Method", *["Comm. cost"] * costs], 2 + costs
    for head, columns in heads:
        width = sum(1 + column.published + column.judged for column in columns)
        top.append(rf"\multicolumn{{{width}}}{{c}}{{{tex(head)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
        for c in columns:
            spec += "r" + r"@{\ }c@{\ }" * c.judged + "l" * c.published
            names += [tex(HEADS[c.metric]), *[""] * c.judged, *["paper"] * c.published]
    body = []
    for group, rows in table.groups:
        body += [r"\midrule", rf"\multicolumn{{{at - 1}}}{{l}}{{\textbf{{{group}}}}} \\"]
        body += [_latex_row(table, row, {head for head, _ in heads}) for row in rows]
    lines = [
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        " & ".join(top) + r" \\",
        " ".join(rules),
        " & ".join(names) + r" \\",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _latex_row(table: Table, row: Row, heads: set[str]) -> str:
    line = [tex(row.name), *[tex(cost(row))] * table.has_costs]
    for column, entry in zip(table.columns, row.entries, strict=True):
        if column.head not in heads:
            continue
        value = tex(number(entry.ours, column.metric))
        value = rf"\textbf{{{value}}}" if entry.best else value
        if not is_plain(entry.ours):
            seeds = rf"{{\tiny {tex(count(entry.ours))}}}"
            value = f"{value} {seeds}" if value else seeds
        line.append(value)
        if column.judged:
            line.append(tex(entry.verdict.sign) if entry.verdict else "")
        if column.published:
            line.append(tex(paper_number(entry.paper, column.metric)))
    return " & ".join(line) + r" \\"


def spans(columns: tuple[Column, ...]) -> list[tuple[str, list[Column]]]:
    """Neighbouring columns under their common head."""
    heads = dict.fromkeys(column.head for column in columns)
    return [(head, [c for c in columns if c.head == head]) for head in heads]


_MATH = {"±": r"\pm", "×": r"\times", "≈": r"\approx", "∼": r"\sim", "≠": r"\neq"}
_MATH |= {"α": r"\alpha", "λ": r"\lambda", "₁": "_1", "·": r"\cdot", "†": r"\dagger"}
_MATH |= {"δ": r"\delta", "ε": r"\varepsilon", "→": r"\to"}
_MATH |= {sign: sign for sign in "<>=|"}
TEX = {sign: f"${math}$" for sign, math in _MATH.items()}
TEX |= {sign: f"\\{sign}" for sign in "_%&#${}"}
TEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
TEX |= {
    "–": r"\textendash\allowbreak{}",
    "“": "``",
    "”": "''",
    "ε": r"$\varepsilon$",
    "δ": r"$\delta$",
    "→": r"$\to$",
}


def tex(text: str) -> str:
    """Plain text with `code` in backticks as LaTeX."""
    escaped = "".join(TEX.get(c, c) for c in text)

    def code(found: re.Match[str]) -> str:
        # A line may break in paths and names, and two hyphens are not a dash.
        body = re.sub("[-/]", lambda sign: rf"{sign[0]}\allowbreak{{}}", found[1])
        return rf"\texttt{{{body}}}"

    return re.sub(r"`([^`]*)`", code, escaped)


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
    rows: list[dict[str, object]] = [
        {"source": "seed", "seed": seed, "mean": value, "n": 1}
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
                "line": paper.line,  # of published.csv, as a seed's run is known by its cell
            }
        )
    return rows
