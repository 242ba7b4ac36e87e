"""A table of words as text: Markdown, LaTeX, CSV."""

import csv
import io
import math
import re

from fedgloss.report.latex import tex
from fedgloss.report.model import Grid

LETTERS = 100
"""Of the smallest print, in a line of a page."""
LONG = 60
"""Letters beyond which a text may as well take another line."""


def to_markdown(grid: Grid) -> str:
    """A pipe table with a title above and notes below."""
    from tabulate import tabulate

    lines = [[cell.replace("|", r"\|") for cell in line] for line in grid.lines]
    body = tabulate(lines, grid.heads, tablefmt="pipe", disable_numparse=True)
    notes = "\n".join(f"- {note}" for note in grid.notes)
    return f"**{grid.title}**\n\n{body}\n\n{notes}\n"


def to_latex(grid: Grid) -> str:
    """A long table over pages, whose columns share the width; needs array and longtable, too."""
    share = _shares([*zip(grid.heads, *grid.lines, strict=True)])
    spec = "".join(
        rf">{{\raggedright\arraybackslash}}p{{\dimexpr{part:.3f}\linewidth-2\tabcolsep\relax}}"
        for part in share
    )
    lines = [
        r"{\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\begin{{longtable}}{{{spec}}}",
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


def _shares(columns: list[tuple[str, ...]]) -> list[float]:
    """How much of the width each column gets: room for its longest word, and the rest by length."""
    words = [
        max(len(word) for text in column for word in re.split("[ –-]", text)) for column in columns
    ]
    rest = [
        min(max(map(len, column)), LONG) - word for column, word in zip(columns, words, strict=True)
    ]
    left = max(LETTERS - sum(words), 0) / max(sum(rest), 1)
    wanted = [word + left * max(more, 0) for word, more in zip(words, rest, strict=True)]
    # Rounded down: their sum, to three digits, must not be more than there is.
    return [math.floor(1000 * width / sum(wanted)) / 1000 for width in wanted]


def to_csv(grid: Grid) -> str:
    """The records."""
    out = io.StringIO()
    writer = csv.DictWriter(out, grid.fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(grid.records)
    return out.getvalue()
