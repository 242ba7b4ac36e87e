"""One self-contained HTML page for a study: opens offline, prints, asks nothing of the network."""

import base64
import hashlib
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgloss.errors import InputError
from fedgloss.files import write_text
from fedgloss.report import (
    definitions,
    formats,
    names,
    partitions,
    recorded,
    rerun,
    summary,
)
from fedgloss.report.model import LOWER_IS_BETTER, Grid, Table, decimals
from fedgloss.report.results import Results, left_out, part
from fedgloss.report.tables import build
from fedgloss.report.verdict import RULE
from fedgloss.report.writing import texts
from fedgloss.study.layout import Layout
from fedgloss.study.schema.shown import ClaimsTable, Condition
from fedgloss.study.standings import Standings

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study

WINNERS = {"accuracy": ("Most accurate", "{} %"), "lambda1": ("Smallest λ₁", "{}")}
NAMED = 8
"""Up to so many methods are named in a sentence; of all of them the grid tells."""
MARKS = {"completed": "●", "diverged": "×", "outdated": "≠", "missing": "○"}


def write_report(study: "Study", results_folder: Path, out_html: Path) -> None:
    """Write the page from the results folder: tables from the cells, figures from their PNG files.

    Raises InputError where a table's file says something else than the cells do: the page must not
    disagree with the tables beside it.
    """
    import jinja2
    import markupsafe

    from fedgloss.report import interactive

    folder = Path(results_folder)
    found = Results(study, folder)
    tables = [_table(study, name, folder) for name in study.tables]
    numeric = [table for table in tables if isinstance(table, Table)]
    claims = [table for table in tables if isinstance(study.tables[table.name], ClaimsTable)]
    judged = summary.pairs(study, numeric)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["code"] = lambda text: markupsafe.Markup(
        re.sub(r"`([^`]*)`", _code, str(markupsafe.escape(text)))
    )
    # Some spaces are no place for a line to break.
    environment.filters["head"] = lambda text: re.sub(
        r" = |(?<=\bSec\.) |(?<=\bTab\.) |(?<=\bFig\.) ",
        lambda found: found[0].replace(" ", "\u00a0"),
        text,
    )
    environment.filters["sha256"] = lambda text: base64.b64encode(
        hashlib.sha256(text.encode()).digest()
    ).decode()
    figures = [_figure(study, name, folder) for name in study.figures]
    is_live = any(figure["live"] for figure in figures)
    style, ours = (_beside(name) for name in ("report.css", "report.js"))
    page = environment.get_template("report.html").render(
        study=study,
        title=(study.asked.title or study.name) + part(found, _needed(found)),
        note=study.asked.note,
        reading=[*_reading(found, numeric, judged), *(table.notes[0] for table in claims)],
        claims=[table.name for table in claims],
        outcomes=list(summary.OUTCOMES.values()),
        counted=summary.COUNTED,
        verdicts={
            "Table": list(summary.counted(judged, lambda pair: pair.table)),
            "Method": list(summary.counted(judged, lambda pair: pair.row)),
        },
        farthest=summary.farthest(judged),
        undecided=summary.undecided(judged),
        cuts=list(partitions.cuts(found)),
        tables=tables,
        figures=figures,
        style=style,
        rule=RULE,
        scripts=[*([interactive.script()] if is_live else []), ours],
        grid=_grid(found),
        hyperparameters=recorded.hyperparameters(found),
        training=recorded.training(found),
        provenance=recorded.provenance(found),
        rerun=rerun.commands(study),
        update=definitions.snakemake(study),
        names=names,
        formats=formats,
    )
    write_text(out_html, page)


def _beside(name: str) -> str:
    """What the page is made of beside its template."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _code(found: re.Match[str]) -> str:
    short = len(found[1]) < 20  # such a piece must not break across lines, a command may
    return f"<code>{found[1].replace(' ', '&nbsp;') if short else found[1]}</code>"


def _table(study: "Study", name: str, folder: Path) -> Table | Grid:
    table = build(study, name, folder)
    file = Layout(folder).table(study.name, name)["md"]
    if file.exists() and file.read_bytes() != texts(table)["md"].encode():
        said = "not what the study and its runs give now; make the table again first"
        raise InputError(f"{file}: {said}")
    return table


def _figure(study: "Study", name: str, folder: Path) -> dict[str, Any]:
    from fedgloss.report.figures import caption, live

    file = Layout(folder).figure(study.name, name)["png"]
    shown: dict[str, Any] = {
        "name": name,
        "caption": caption(study, name, folder),
        "source": None,
        "live": None,
    }
    if file.exists():
        png = file.read_bytes()
        if len(png) < 24 or not png.startswith(b"\x89PNG"):
            raise InputError(f"{file}: not a PNG file; draw the figure again first")
        width, height = struct.unpack(">II", png[16:24])  # of the header chunk, at 200 dpi
        shown |= {"width": width // 2, "height": height // 2}
        shown["live"] = live(study, name, folder)
        shown["source"] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return shown


def _reading(
    found: Results, tables: Iterable[Table], judged: Iterable[summary.Pair]
) -> Iterator[str]:
    """What was run and how it came out, in sentences."""
    study, cells = found.study, _needed(found)
    states = Counter(map(found.status, cells))
    bases = {label: trial.base for label, trial in study.trials.items()}
    searched = dict.fromkeys(bases.get(cell.algorithm, cell.algorithm) for cell in study.cells)
    labels = dict.fromkeys(names.algorithm(study, label) for label in searched)
    data = dict.fromkeys(names.dataset(found.study, cell.dataset) for cell in cells)
    seeds = sorted({cell.seed for cell in cells})
    told = f" ({names.listed([*labels])})" if len(labels) <= NAMED else ""
    yield (
        f"{f'{len(study.trials)} trials of ' if study.trials else ''}"
        f"{len(labels)} method{'s' * (len(labels) > 1)}{told} on {names.listed([*data])},"
        f" {len(seeds)} seed{'s' * (len(seeds) > 1)} each."
    )
    if len(cells) < len(study.cells):
        yield f"{len(study.cells) - len(cells)} runs of trials that were dropped need not be done."
    done = states["completed"] + states["diverged"]
    yield (
        (
            f"All {done} runs are done"
            if done == len(cells)
            else f"{done} of {len(cells)} runs are done"
        )
        + (
            f", {states['diverged']} of them diverged."
            if states["diverged"]
            else "; none diverged."
        )
    )
    yield from left_out(found, cells)
    yield from _winners(found.study, tables)
    verdicts = Counter(pair.entry.verdict for pair in judged if pair.entry.verdict)
    if verdicts:
        counts = [f"{verdict.word} ({count})" for verdict, count in verdicts.most_common()]
        yield f"Verdicts on {verdicts.total()} numbers of the paper: {', '.join(counts)}."
    else:
        yield "The paper has no numbers for what was run here."


def _needed(found: Results) -> list["Cell"]:
    """The cells that are to be trained to their end: all but those of a sweep's dropped trials."""
    standings = Standings(found.study, found.folder)
    return [cell for cell in found.study.cells if not standings.is_dropped(cell)]


def _winners(study: "Study", tables: Iterable[Table]) -> Iterator[str]:
    """Who has the best mean accuracy and lambda_1 in each column, or in how many of them.

    Columns that still miss runs name nobody, and methods that diverged do not compete.
    """
    best: dict[str, dict[Condition, tuple[str, str]]] = {metric: {} for metric in WINNERS}
    for table in tables:
        for i, column in enumerate(table.columns):
            ours = {row.label: row.entries[i].ours for row in table.rows}
            means = {
                label: s.mean for label, s in ours.items() if s.mean is not None and not s.diverged
            }
            if column.metric not in WINNERS or column.condition in best[column.metric]:
                continue
            printed = {round(mean, decimals(column.metric, mean)) for mean in means.values()}
            if len(printed) < 2 or any(s.missing or s.against for s in ours.values()):
                continue  # where all are alike, as models at chance, none is the best
            winner = (min if column.metric in LOWER_IS_BETTER else max)(
                means, key=lambda label: means[label]
            )
            value = formats.number(ours[winner], column.metric)
            best[column.metric][column.condition] = (names.algorithm(study, winner), value)
    for metric, (what, unit) in WINNERS.items():
        found = best[metric]
        if 0 < len(found) <= 3:
            who = [
                f"{name} at {names.every_head(study)[column]} ({unit.format(value)})"
                for column, (name, value) in found.items()
            ]
            yield f"{what}: {names.listed(who)}."
        elif found:
            wins = Counter(name for name, _ in found.values()).most_common()
            who = [f"{name} in {count} of {len(found)} complete columns" for name, count in wins]
            yield f"{what}: {names.listed(who)}."


def _grid(found: Results) -> dict[str, Any]:
    """The state of every cell: {heads, rows: [(algorithm, [[{mark, state, path}]])], counts}."""
    study = found.study
    heads = names.every_head(study)
    rows = []
    for label in dict.fromkeys(cell.algorithm for cell in study.cells):
        line = []
        for column in heads:
            cells = study.select(column, algorithm=label)
            states = [(str(cell), found.status(cell)) for cell in cells]
            line.append([{"mark": MARKS[s], "state": s, "path": path} for path, s in states])
        rows.append((names.algorithm(study, label), line))
    counts = Counter(map(found.status, study.cells))
    return {"heads": list(heads.values()), "rows": rows, "counts": counts, "marks": MARKS}
