"""A table's files."""

from pathlib import Path

from fedgloss.files import write_text
from fedgloss.report import formats, grids
from fedgloss.report.model import Grid, Table


def texts(table: Table | Grid) -> dict[str, str]:
    """A table as CSV, Markdown and LaTeX, by the suffix of its file."""
    if isinstance(table, Grid):
        return {
            "csv": grids.to_csv(table),
            "md": grids.to_markdown(table),
            "tex": grids.to_latex(table),
        }
    return {
        "csv": formats.to_csv(table),
        "md": formats.to_markdown(table),
        "tex": formats.to_latex(table),
    }


def write(table: Table | Grid, folder: Path) -> None:
    """Write {name}.csv, .md and .tex into a folder, each whole or not at all."""
    for suffix, text in texts(table).items():
        write_text(Path(folder) / f"{table.name}.{suffix}", text)
