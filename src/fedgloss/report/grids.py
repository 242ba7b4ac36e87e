"""A table of words as text: Markdown, LaTeX, CSV."""

import csv
import io

from fedgloss.report.formats import tex
from fedgloss.report.model import Grid


def to_markdown(grid: Grid) -> str:
    """A pipe table with a title above and notes below."""
    from tabulate import tabulate

    lines = [[cell.replace("|", r"\|") for cell in line] for line in grid.lines]
    body = tabulate(lines, grid.heads, tablefmt="pipe", disable_numparse=True)
    notes = "\n".join(f"- {note}" for note in grid.notes)
    return f"**{grid.title}**\n\n{body}\n\n{notes}\n"


def to_latex(grid: Grid) -> str:
    """A long table over pages, whose columns share the width; needs booktabs and longtable."""
    longest = [max(map(len, column)) for column in zip(grid.heads, *grid.lines, strict=True)]
    share = [min(length, 60) / sum(min(n, 60) for n in longest) for length in longest]
    spec = "".join(
        rf">{{\raggedright\arraybackslash}}p{{{0.9 * part:.3f}\linewidth}}" for part in share
    )
    lines = [
        r"% needs \usepackage{array,booktabs,longtable}",
        rf"{{\scriptsize\begin{{longtable}}{{{spec}}}",
        rf"\caption[{{{tex(grid.title)}}}]{{{tex(grid.title)}. {tex(' '.join(grid.notes))}}}"
        rf"\label{{tab:{grid.name}}} \\",
        r"\toprule",
        " & ".join(map(tex, grid.heads)) + r" \\",
        r"\midrule",
        r"\endhead",
        *(" & ".join(map(tex, line)) + r" \\" for line in grid.lines),
        r"\bottomrule",
        r"\end{longtable}}",
    ]
    return "\n".join(lines) + "\n"


def to_csv(grid: Grid) -> str:
    """The records."""
    out = io.StringIO()
    writer = csv.DictWriter(out, grid.fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(grid.records)
    return out.getvalue()
