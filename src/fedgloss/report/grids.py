"""A table of words as text: Markdown, LaTeX, CSV."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence

from fedgloss.report.latex import tex
from fedgloss.report.model import Grid

LETTERS = 100
"""Of the smallest print, in a line of a page."""
PAGE, CAPTION = 56, 1.5
"""Lines of the smallest print on a page, beside the heads; and of these, a line of the caption."""
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
    """A floating table over both columns, if there are two, that needs array and booktabs.

    What is longer than a page goes on in further floats with the same number.
    """
    share = _shares([*zip(grid.heads, *grid.lines, strict=True)])
    caption = f"{grid.title}. {' '.join(grid.notes)}"
    floats: list[str] = []
    for lines in _parts(grid.lines, share, PAGE - CAPTION * math.ceil(len(caption) / LETTERS)):
        above = r"\tablename~\thetable, continued\par\medskip"
        if not floats:
            above = rf"\caption[{{{tex(grid.title)}}}]{{{tex(caption)}}}"
            above += f"\n\\label{{tab:{grid.study}-{grid.name}}}"
        floats += [
            r"\begin{table*}",
            r"\centering",
            above,
            r"\scriptsize",
            r"\setlength{\tabcolsep}{3pt}",
            _tabular(grid.heads, lines, share),
            r"\end{table*}",
        ]
    return "\n".join(floats) + "\n"


def _parts(
    lines: Sequence[tuple[str, ...]], share: Sequence[float], first: float
) -> Iterator[list[tuple[str, ...]]]:
    """The lines in parts, each of which fits a page; the first has less of it."""
    part: list[tuple[str, ...]] = []
    room = first
    for line in lines:
        widths = zip(line, share, strict=True)
        tall = max(math.ceil(len(text) / (LETTERS * width)) for text, width in widths)
        if part and tall > room:
            yield part
            part, room = [], PAGE
        part.append(line)
        room -= tall
    yield part


def _tabular(heads: Sequence[str], lines: Sequence[tuple[str, ...]], share: Sequence[float]) -> str:
    """Some of the lines under the heads; the columns share the width."""
    spec = "".join(
        rf">{{\raggedright\arraybackslash}}p{{\dimexpr{part:.3f}\linewidth-2\tabcolsep\relax}}"
        for part in share
    )
    text = [
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        " & ".join(map(tex, heads)) + r" \\",
        r"\midrule",
        *(" & ".join(map(tex, line)) + r" \\" for line in lines),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(text)


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
