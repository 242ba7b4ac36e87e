"""A table's files."""

from pathlib import Path

from fedgloss.files import write_text
from fedgloss.report import formats, grids, latex
from fedgloss.report.model import Grid, Table

BEFORE = r"""% Part of a document with \usepackage{array,booktabs}, or one by itself.
\expandafter\ifx\csname @twoclasseserror\endcsname\documentclass\else
  \documentclass{article}
  \usepackage[a4paper,landscape,margin=1cm]{geometry}
  \usepackage{array,booktabs}
  \newcommand{\onlythistable}{\end{document}}
  \begin{document}
\fi
"""
"""After \\documentclass, LaTeX has made a second one this error: there is a document already."""
AFTER = r"""\csname onlythistable\endcsname
"""


def texts(table: Table | Grid) -> dict[str, str]:
    """A table as CSV, Markdown and LaTeX, by the suffix of its file."""
    if isinstance(table, Grid):
        csv, md, tex = grids.to_csv(table), grids.to_markdown(table), grids.to_latex(table)
    else:
        csv, md, tex = formats.to_csv(table), formats.to_markdown(table), latex.to_latex(table)
    return {"csv": csv, "md": md, "tex": BEFORE + tex + AFTER}


def write(table: Table | Grid, folder: Path) -> None:
    """Write {name}.csv, .md and .tex into a folder, each whole or not at all."""
    for suffix, text in texts(table).items():
        write_text(Path(folder) / f"{table.name}.{suffix}", text)
