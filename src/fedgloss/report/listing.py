"""A table whose entries are text already, for what is no mean over seeds of one metric a column."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass

from fedgloss.report.latex import tex

Line = tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """A table as lines of text under headed groups, and the numbers behind them in full."""

    name: str
    title: str
    heads: Line
    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    """What stands above a group of lines, and the lines, each as long as the heads."""
    notes: tuple[str, ...]
    """What stands under the table."""
    fields: Line
    records: tuple[Mapping[str, object], ...]
    """The lines of the CSV, by its fields."""


def to_markdown(table: Listing) -> str:
    """A pipe table with a title above and notes below; its lines align in a terminal."""
    from tabulate import tabulate

    lines = []
    for group, rows in table.groups:
        lines += [[f"**{group}**", *[""] * (len(table.heads) - 1)], *map(list, rows)]
    alignment = ["left", "left", *["right"] * (len(table.heads) - 2)]
    body = tabulate(lines, table.heads, tablefmt="pipe", disable_numparse=True, colalign=alignment)
    notes = "\n".join(f"- {note}" for note in table.notes)
    return f"**{table.title}**\n\n{body}\n\n{notes}\n"


def to_latex(table: Listing) -> str:
    """A floating table that needs booktabs alone."""
    body = []
    for group, rows in table.groups:
        span = rf"\multicolumn{{{len(table.heads)}}}{{l}}{{\textbf{{{tex(group)}}}}} \\"
        body += [r"\midrule", span]
        body += [" & ".join(map(tex, row)) + r" \\" for row in rows]
    title = tex(table.title)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"\centering",
        rf"\caption[{{{title}}}]{{{title}. {tex(' '.join(table.notes))}}}",
        rf"\label{{tab:{table.name}}}",
        r"\scriptsize",
        rf"\begin{{tabular}}{{ll{'r' * (len(table.heads) - 2)}}}",
        r"\toprule",
        " & ".join(map(tex, table.heads)) + r" \\",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def to_csv(table: Listing) -> str:
    """The records, in full precision."""
    out = io.StringIO()
    writer = csv.DictWriter(out, table.fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records)
    return out.getvalue()
