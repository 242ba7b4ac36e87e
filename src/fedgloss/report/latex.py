"""A table as LaTeX that fits a page, byte-stable; and any text as LaTeX."""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from fedgloss.report.formats import HEADS, cost, count, is_plain, number, paper_number, spans
from fedgloss.report.model import Column, Entry, Row, Table

PAGE = 480.0
"""Points of a line: A4 with margins of 2 cm. What is wider than half of it takes both columns."""


class Print(NamedTuple):
    """A size of print: its command, its quad, and half the space between columns, in points."""

    command: str
    quad: float
    gap: float


SIZES = (
    Print(r"\footnotesize", 8.5, 2.5),
    Print(r"\scriptsize", 8.0, 2.5),
    Print(r"\fontsize{6}{7.2}\selectfont", 7.4, 1.5),
)
TINY = 6.8
"""The quad of the counts of seeds."""
NARROW, WIDE = " .,:;!'|()[]-filjrt", "mwMW%=±×≈∼≠"
SIGN = 1.5
"""Quads of a verdict's sign between its spaces."""

Heads = list[tuple[str, list[Column]]]


def to_latex(table: Table) -> str:
    """A floating table that needs booktabs alone; verdicts stand as signs between the numbers.

    It is in the largest print that fits a page. What fits in none stands in parts, one below the
    other.
    """
    parts, size = _fitting(table)
    title = tex(table.title)
    kind = "table*" if _widest(table, parts, SIZES[0]) > PAGE / 2 else "table"
    lines = [
        rf"\begin{{{kind}}}",
        r"\centering",
        rf"\caption[{{{title}}}]{{{title}. {tex(' '.join(table.notes))}}}",
        rf"\label{{tab:{table.study}-{table.name}}}",
        size.command,
        rf"\setlength{{\tabcolsep}}{{{size.gap}pt}}",
        "\n\\par\\medskip\n".join(_tabular(table, part) for part in parts),
        rf"\end{{{kind}}}",
    ]
    return "\n".join(lines) + "\n"


def _fitting(table: Table) -> tuple[list[Heads], Print]:
    """A table in as few parts as fit a page, each of about as many conditions, and their print.

    A condition that is too wide by itself is divided into its metrics.
    """
    whole = spans(table.columns)
    single = [(head, [column]) for head, columns in whole for column in columns]
    for heads in (whole, single):
        for n in range(1, len(heads) + 1):
            across = math.ceil(len(heads) / n)
            parts = [heads[i : i + across] for i in range(0, len(heads), across)]
            for size in SIZES:
                if _widest(table, parts, size) <= PAGE:
                    return parts, size
    return parts, SIZES[-1]


def _widest(table: Table, parts: Sequence[Heads], size: Print) -> float:
    """How wide the widest of these parts is, in points."""
    return max(_side(table, size) + sum(_wide(table, *head, size) for head in p) for p in parts)


def _side(table: Table, size: Print) -> float:
    """How wide the columns are that each part begins with."""
    names = max(_quads(text) for text in ("Method", *(row.name for row in table.rows)))
    costs = _quads("Comm. cost") * size.quad + 2 * size.gap
    return names * size.quad + 2 * size.gap + costs * table.has_costs


def _wide(table: Table, head: str, columns: Sequence[Column], size: Print) -> float:
    """How wide the columns under a head are."""
    columns_wide = 0.0
    for i, column in enumerate(table.columns):
        if column in columns:
            entries = [row.entries[i] for row in table.rows]
            columns_wide += max(_ours(entry, column, size) for entry in entries) + 2 * size.gap
            if column.published:
                papers = [paper_number(entry.paper, column.metric) for entry in entries]
                columns_wide += max(map(_quads, ("paper", *papers))) * size.quad
                columns_wide += SIGN * size.quad if column.judged else 2 * size.gap
    return max(columns_wide, _quads(head) * size.quad + 2 * size.gap)


def _ours(entry: Entry, column: Column, size: Print) -> float:
    value = _quads(number(entry.ours, column.metric), entry.best) * size.quad
    seeds = "" if is_plain(entry.ours) else f" {count(entry.ours)}"
    return max(value + _quads(seeds) * TINY, _quads(HEADS[column.metric]) * size.quad)


def _quads(text: str, bold: bool = False) -> float:
    """How wide a text is, roughly, in quads of its print."""
    widths = (
        0.34 if c in NARROW else 0.8 if c in WIDE else 0.72 if c.isupper() else 0.53 for c in text
    )
    return sum(widths) * (1.15 if bold else 1)


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
    shown = [column for _, columns in heads for column in columns]
    body = []
    for group, rows in table.groups:
        body += [r"\midrule", rf"\multicolumn{{{at - 1}}}{{l}}{{\textbf{{{group}}}}} \\"]
        body += [_latex_row(table, row, shown) for row in rows]
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


def _latex_row(table: Table, row: Row, shown: Sequence[Column]) -> str:
    line = [tex(row.name), *[tex(cost(row))] * table.has_costs]
    for column, entry in zip(table.columns, row.entries, strict=True):
        if column not in shown:
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


_MATH = {"±": r"\pm", "×": r"\times", "≈": r"\approx", "∼": r"\sim", "≠": r"\neq"}
_MATH |= {"·": r"\cdot", "†": r"\dagger", "→": r"\to", "−": "-", "≤": r"\leq", "≥": r"\geq"}
_MATH |= {sign: sign for sign in "<>=|"} | {chr(ord("₀") + i): f"_{i}" for i in range(10)}
_GREEK = (
    *("alpha", "beta", "gamma", "delta", "varepsilon", "zeta", "eta", "theta", "iota", "kappa"),
    *("lambda", "mu", "nu", "xi", "", "pi", "rho", "varsigma", "sigma", "tau", "upsilon"),
    *("varphi", "chi", "psi", "omega"),
)
_MATH |= {chr(ord("α") + i): rf"\{name}" for i, name in enumerate(_GREEK) if name}
_CAPITALS = ("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi")
_MATH |= dict(zip("ΓΔΘΛΞΠΣΥΦΨΩ", (rf"\{name}" for name in (*_CAPITALS, "Omega")), strict=True))
TEX = {sign: f"${math}$" for sign, math in _MATH.items()}
TEX |= {sign: f"\\{sign}" for sign in "_%&#${}"}
TEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
TEX |= {"–": r"\textendash\allowbreak{}"}
TEX |= dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧο", "ABEZHIKMNOPTXo", strict=True))  # which look like Latin ones
TEX |= {"“": r"\textquotedblleft{}", "”": r"\textquotedblright{}"}  # backticks are for code
KNOWN = {*map(chr, range(0xA0, 0x180)), *"‘’—…"} - {*"«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ"}
"""Beyond ASCII and TEX, what pdfTeX sets without a package."""


def _letter(c: str) -> str:
    if c in TEX or c.isascii() or c in KNOWN:
        return TEX.get(c, c)
    parts = [TEX.get(p, p) for p in unicodedata.normalize("NFKD", c) if p in TEX or p.isascii()]
    return "".join(parts) or f"U+{ord(c):04X}"


def tex(text: str) -> str:
    """Plain text with `code` in backticks as LaTeX; what pdfTeX cannot set as U+4E2D, say."""
    escaped = "".join(map(_letter, unicodedata.normalize("NFC", text)))

    def code(found: re.Match[str]) -> str:
        # A line may break in paths and names, and two hyphens are not a dash.
        body = re.sub("[-/]", lambda sign: rf"{sign[0]}\allowbreak{{}}", found[1])
        return rf"\texttt{{{body}}}"

    return re.sub(r"`([^`]*)`", code, escaped)
