"""One self-contained HTML page for a study: opens offline, prints, asks nothing of the network."""

import base64
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgloss.errors import InputError
from fedgloss.files import write_text
from fedgloss.report import definitions, formats, names, partitions, summary
from fedgloss.report.model import LOWER_IS_BETTER, Grid, Table
from fedgloss.report.results import Results, left_out, part
from fedgloss.report.tables import build
from fedgloss.report.writing import texts
from fedgloss.study.layout import CELL, HERE, Layout
from fedgloss.study.schema.shown import Condition

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study

WINNERS = {"accuracy": ("Most accurate", "{} %"), "lambda1": ("Smallest λ₁", "{}")}
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
    judged = summary.pairs(numeric)
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
    environment.filters["head"] = lambda text: text.replace(" = ", "\u00a0=\u00a0")
    figures = [_figure(study, name, folder) for name in study.figures]
    page = environment.get_template("report.html").render(
        study=study,
        title=(study.asked.title or study.name) + part(found, study.cells),
        note=study.asked.note,
        reading=list(_reading(found, numeric, judged)),
        outcomes=list(summary.OUTCOMES.values()),
        verdicts={
            "Table": list(summary.counted(judged, lambda pair: pair.table)),
            "Method": list(summary.counted(judged, lambda pair: pair.row)),
        },
        farthest=summary.farthest(judged),
        cuts=list(partitions.cuts(found)),
        tables=tables,
        figures=figures,
        plotly=interactive.script() if any(figure["turned"] for figure in figures) else None,
        grid=_grid(found),
        hyperparameters=_hyperparameters(found),
        training=_training(found),
        provenance=_provenance(found),
        rerun=_rerun(study),
        update=definitions.snakemake(study),
        names=names,
        formats=formats,
    )
    write_text(out_html, page)


def _code(found: re.Match[str]) -> str:
    short = len(found[1]) < 20  # such a piece must not break across lines, a command may
    return f"<code>{found[1].replace(' ', '&nbsp;') if short else found[1]}</code>"


def _table(study: "Study", name: str, folder: Path) -> Table | Grid:
    table = build(study, name, folder)
    file = Layout(folder).table(study.name, name)["md"]
    if file.exists() and file.read_bytes() != texts(table)["md"].encode():
        raise InputError(f"{file}: older than the runs it is about; make the table again first")
    return table


def _figure(study: "Study", name: str, folder: Path) -> dict[str, Any]:
    from fedgloss.report.figures import caption, turned

    file = Layout(folder).figure(study.name, name)["png"]
    shown = {"name": name, "caption": caption(study, name, folder), "source": None, "turned": None}
    if file.exists():
        png = file.read_bytes()
        if len(png) < 24 or not png.startswith(b"\x89PNG"):
            raise InputError(f"{file}: not a PNG file; draw the figure again first")
        width, height = struct.unpack(">II", png[16:24])  # of the header chunk, at 200 dpi
        shown |= {"width": width // 2, "height": height // 2}
        shown["turned"] = turned(study, name, folder)
        shown["source"] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return shown


def _reading(
    found: Results, tables: Iterable[Table], judged: Iterable[summary.Pair]
) -> Iterator[str]:
    """What was run and how it came out, in sentences."""
    cells = found.study.cells
    states = Counter(map(found.status, cells))
    labels = dict.fromkeys(names.algorithm(found.study, cell.algorithm) for cell in cells)
    data = dict.fromkeys(names.dataset(found.study, cell.dataset) for cell in cells)
    seeds = sorted({cell.seed for cell in cells})
    yield (
        f"{len(labels)} methods ({names.listed([*labels])}) on {names.listed([*data])},"
        f" {len(seeds)} seed{'s' * (len(seeds) > 1)} each."
    )
    done = states["completed"] + states["diverged"]
    yield (
        (f"All {done} runs are done" if done == len(cells) else f"{done} of {len(cells)} are done")
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
        counts = [f"{verdict.word} {count}" for verdict, count in verdicts.most_common()]
        yield f"Verdicts on {verdicts.total()} numbers of the paper: {', '.join(counts)}."
    else:
        yield "The paper has no numbers for what was run here."


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
            if len(means) < 2 or any(s.missing for s in ours.values()):
                continue
            winner = (min if column.metric in LOWER_IS_BETTER else max)(
                means, key=lambda label: means[label]
            )
            value = formats.number(ours[winner], column.metric)
            best[column.metric][column.condition] = (names.algorithm(study, winner), value)
    for metric, (what, unit) in WINNERS.items():
        found = best[metric]
        if 0 < len(found) <= 3:
            who = [
                f"{name} at {_heads(study)[column]} ({unit.format(value)})"
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
    heads = _heads(study)
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


def _heads(study: "Study") -> dict[Condition, str]:
    """The head of each column that a study could have; with the model if there are several."""
    columns = [*dict.fromkeys(cell.column for cell in study.cells)]
    return dict(zip(columns, names.columns(study, columns), strict=True))


def _grouped(
    found: Results, key: Callable[[Mapping[str, Any]], Any]
) -> list[tuple[dict[str, Any], list["Cell"]]]:
    """Cells that ran, under equal values of key(settings)."""
    groups: dict[str, tuple[dict[str, Any], list[Cell]]] = {}
    for cell in found.study.cells:
        manifest = found.manifest(cell)
        if manifest is not None:
            value = key(manifest["settings"])
            groups.setdefault(repr(value), (value, []))[1].append(cell)
    order = [*dict.fromkeys(cell.algorithm for cell in found.study.cells)]
    return sorted(groups.values(), key=lambda group: order.index(group[1][0].algorithm))


def _where(study: "Study", cells: Iterable["Cell"], everywhere: Iterable["Cell"]) -> str:
    """The columns that some cells are in, or "all"."""
    mine = dict.fromkeys(cell.column for cell in cells)
    return (
        "all"
        if mine.keys() == {cell.column for cell in everywhere}
        else "; ".join(_heads(study)[column] for column in mine)
    )


def _hyperparameters(found: Results) -> list[dict[str, str]]:
    """Method, hyperparameters and variants of each algorithm, one row per distinct setting."""
    keys = ("algorithm", "method", "hyperparameters", "variants")
    return [
        {
            "algorithm": names.algorithm(found.study, value["algorithm"]),
            "method": value["method"],
            "where": _where(found.study, cells, found.study.select(algorithm=value["algorithm"])),
            "hyperparameters": _pairs(value["hyperparameters"]),
            "variants": _pairs(value["variants"]),
        }
        for value, cells in _grouped(found, lambda s: {key: s[key] for key in keys})
    ]


def _training(found: Results) -> list[dict[str, str]]:
    """The training settings, one row per distinct set of values."""
    return [
        {
            "where": _where(found.study, cells, found.study.cells),
            "algorithms": names.listed(
                [*dict.fromkeys(names.algorithm(found.study, c.algorithm) for c in cells)]
            ),
            "settings": _pairs(value),
        }
        for value, cells in _grouped(found, lambda s: s["training"])
    ]


def _pairs(values: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        return "+".join(map(str, value)) if isinstance(value, list) else str(value)

    return ", ".join(f"{key} = {text(value)}" for key, value in values.items() if value != [])


def _provenance(found: Results) -> dict[str, Any]:
    """Where and with what the runs were made."""
    manifests = {cell: m for cell in found.study.cells if (m := found.manifest(cell))}
    facts: dict[str, Counter[str]] = {}
    for manifest in manifests.values():
        for name, version in manifest["versions"].items():
            facts.setdefault(name, Counter())[version] += 1
        for name in ("device", "threads", "precision", "backend", "code"):
            facts.setdefault(name, Counter())[str(manifest[name])] += 1
    inputs: dict[tuple[str, str], dict[str, None]] = {}
    for cell, manifest in manifests.items():
        for item in manifest["inputs"].items():
            inputs.setdefault(item, {})[f"{cell.dataset}/alpha-{cell.alpha}"] = None
    seconds = sum(m["wall_seconds"] for m in manifests.values())
    return {"cells": manifests, "facts": facts, "inputs": inputs, "seconds": seconds}


def _rerun(study: "Study") -> list[tuple[str, str]]:
    """(what, command) for a cell, a method, a table and a figure."""
    cell = study.cells[-1]
    method = names.algorithm(study, cell.algorithm)
    commands = [
        ("One cell", definitions.snakemake(study, HERE.metrics(study.name, cell))),
        (f"All of {method}", definitions.snakemake(study, *_targets(study, cell.algorithm))),
    ]
    for name in [*study.tables][:1]:
        target = HERE.table(study.name, name)["md"]
        commands.append(("One table", definitions.snakemake(study, target)))
    for name in [*study.figures][:1]:
        target = HERE.figure(study.name, name)["png"]
        commands.append(("One figure", definitions.snakemake(study, target)))
    return commands


def _targets(study: "Study", label: str) -> list[Path]:
    """The metrics of all cells of an algorithm, written with the shell's braces."""
    seeds_of: dict[tuple[str, str, str], list[int]] = {}
    for cell in study.select(algorithm=label):
        seeds_of.setdefault((cell.dataset, cell.model, cell.alpha), []).append(cell.seed)
    alphas_of: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
    for (dataset, model, alpha), seeds in seeds_of.items():
        alphas_of.setdefault((dataset, model, tuple(seeds)), []).append(alpha)
    return [
        HERE.metrics(
            study.name,
            CELL.format(
                dataset=dataset,
                alpha=_braces(alphas),
                model=model,
                algorithm=label,
                seed=_braces(seeds),
            ),
        )
        for (dataset, model, seeds), alphas in alphas_of.items()
    ]


def _braces(values: Iterable[object]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len(texts) == 1 else "{" + ",".join(texts) + "}"
