"""One self-contained HTML page for a study: opens offline, prints, asks nothing of the network."""

import base64
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgloss.errors import InputError
from fedgloss.files import write_text
from fedgloss.report import definitions, formats, names
from fedgloss.report.results import Results
from fedgloss.report.tables import LOWER_IS_BETTER, Table, build

if TYPE_CHECKING:
    from fedgloss.study import Cell, Study

MARKS = {"completed": "●", "diverged": "×", "missing": "○"}


def write_report(study: "Study", results_folder: Path, out_html: Path) -> None:
    """Write the page from the results folder: tables from the cells, figures from their PNG files.

    Raises InputError where a table's file says something else than the cells do: the page must not
    disagree with the tables beside it.
    """
    import jinja2
    import markupsafe

    folder = Path(results_folder)
    found = Results(study, folder)
    tables = [_table(study, name, folder) for name in study.tables]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["code"] = lambda text: markupsafe.Markup(
        re.sub(r"`([^`]*)`", r"<code>\1</code>", str(markupsafe.escape(text)))
    )
    page = environment.get_template("report.html").render(
        study=study,
        title=study.config.get("title", study.name),
        note=study.config.get("note"),
        reading=list(_reading(found, tables)),
        tables=tables,
        figures=[_figure(study, name, folder) for name in study.figures],
        grid=_grid(found),
        hyperparameters=_hyperparameters(found),
        training=_training(found),
        provenance=_provenance(found),
        rerun=_rerun(study),
        names=names,
        formats=formats,
    )
    write_text(out_html, page)


def _table(study: "Study", name: str, folder: Path) -> Table:
    table = build(study, name, folder)
    file = folder / "tables" / study.name / f"{name}.md"
    if file.exists() and file.read_text(encoding="utf-8") != formats.to_markdown(table):
        raise InputError(f"{file}: older than the runs it is about; make the table again first")
    return table


def _figure(study: "Study", name: str, folder: Path) -> dict[str, Any]:
    from fedgloss.report.figures import caption

    file = folder / "figures" / study.name / f"{name}.png"
    shown = {"name": name, "caption": caption(study, name, folder), "source": None}
    if file.exists():
        png = file.read_bytes()
        width, height = struct.unpack(">II", png[16:24])  # of the header chunk, at 200 dpi
        shown |= {"width": width // 2, "height": height // 2}
        shown["source"] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return shown


def _reading(found: Results, tables: Iterable[Table]) -> Iterator[str]:
    """What was run and how it came out, in sentences."""
    study, cells = found.study, found.study.cells
    states = Counter(map(found.status, cells))
    labels = dict.fromkeys(names.algorithm(cell.algorithm) for cell in cells)
    data = dict.fromkeys(names.dataset(cell.dataset) for cell in cells)
    seeds = sorted({cell.seed for cell in cells})
    yield (
        f"{len(labels)} algorithms ({names.listed([*labels])}) on {names.listed([*data])},"
        f" {len(seeds)} seed{'s' * (len(seeds) > 1)}: {states['completed'] + states['diverged']} of"
        f" {len(cells)} training runs are done, {states['diverged']} of them diverged"
        f", {states['missing']} are missing."
    )
    winners = [w for table in tables for w in _winners(table)]
    yield from dict.fromkeys(winners)
    verdicts = Counter(
        entry.verdict.word
        for table in tables
        for row in table.rows
        for entry in row.entries
        if entry.verdict
    )
    if verdicts:
        counts = [f"{count} {word}" for word, count in verdicts.most_common()]
        yield f"Beside the paper's {verdicts.total()} numbers in these tables: {', '.join(counts)}."
    else:
        yield f"The paper prints no numbers for what the study {study.name} runs."


def _winners(table: Table) -> Iterator[str]:
    """For each accuracy and lambda_1 column, who is best of all rows."""
    words = {"accuracy": "the most accurate", "lambda1": "the flattest"}
    for i, column in enumerate(table.columns):
        means = {
            row.label: row.entries[i].ours
            for row in table.rows
            if row.entries[i].ours.n and not row.entries[i].ours.diverged
        }
        if column.metric not in words or len(means) < 2:
            continue
        choose = min if column.metric in LOWER_IS_BETTER else max
        best = choose(means, key=lambda label: means[label].mean)
        unit = " %" if column.metric == "accuracy" else ""
        sign = "" if column.metric == "accuracy" else "λ₁ = "
        yield (
            f"{column.head}: {names.algorithm(best)} is {words[column.metric]}"
            f" ({sign}{formats.number(means[best], column.metric)}{unit})."
        )


def _grid(found: Results) -> dict[str, Any]:
    """The state of every cell: {heads, rows: [(algorithm, [[{mark, state, path}]])], counts}."""
    study = found.study
    conditions = _conditions(study.cells)
    rows = []
    for label in dict.fromkeys(cell.algorithm for cell in study.cells):
        line = []
        for condition in conditions:
            states = [
                (cell, found.status(cell)) for cell in study.select(algorithm=label, **condition)
            ]
            line.append([{"mark": MARKS[s], "state": s, "path": str(c)} for c, s in states])
        rows.append((names.algorithm(label), line))
    counts = Counter(map(found.status, study.cells))
    return {"heads": names.columns(conditions), "rows": rows, "counts": counts, "marks": MARKS}


def _conditions(cells: Iterable["Cell"]) -> list[dict[str, str]]:
    keys = dict.fromkeys((cell.dataset, cell.alpha, cell.model) for cell in cells)
    return [dict(zip(("dataset", "alpha", "model"), key, strict=True)) for key in keys]


def _grouped(found: Results, key: Any) -> list[tuple[dict[str, Any], list["Cell"]]]:
    """Cells that ran, under equal values of key(settings)."""
    groups: dict[str, tuple[dict[str, Any], list[Cell]]] = {}
    for cell in found.study.cells:
        manifest = found.manifest(cell)
        if manifest:
            value = key(manifest["settings"])
            groups.setdefault(repr(value), (value, []))[1].append(cell)
    return list(groups.values())


def _where(study: "Study", cells: list["Cell"], everywhere: Iterable["Cell"]) -> str:
    """The columns some cells are in, or "all"."""
    mine, all_of_them = _conditions(cells), _conditions(everywhere)
    return "all" if len(mine) == len(all_of_them) else "; ".join(names.columns(mine))


def _hyperparameters(found: Results) -> list[dict[str, str]]:
    """Method, hyperparameters and variants of each algorithm, one row per distinct setting."""
    keys = ("algorithm", "method", "hyperparameters", "variants")
    return [
        {
            "algorithm": names.algorithm(value["algorithm"]),
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
                [*dict.fromkeys(names.algorithm(c.algorithm) for c in cells)]
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
        for name in ("device", "threads", "backend", "code"):
            facts.setdefault(name, Counter())[str(manifest[name])] += 1
    inputs = sorted({item for m in manifests.values() for item in m["inputs"].items()})
    seconds = sum(m["wall_seconds"] for m in manifests.values())
    return {"cells": manifests, "facts": facts, "inputs": inputs, "seconds": seconds}


def _rerun(study: "Study") -> list[tuple[str, str]]:
    """(what, command) for a cell, a method, a table and a figure."""
    cell = study.cells[-1]
    method = names.algorithm(cell.algorithm)
    commands = [
        ("One cell", definitions.snakemake(study, f"runs/{study.name}/{cell}/metrics.csv")),
        (f"All of {method}", definitions.snakemake(study, *_targets(study, cell.algorithm))),
    ]
    for kind, section, suffix in (("table", study.tables, "md"), ("figure", study.figures, "png")):
        if section:
            target = f"{kind}s/{study.name}/{next(iter(section))}.{suffix}"
            commands.append((f"One {kind}", definitions.snakemake(study, target)))
    return commands


def _targets(study: "Study", label: str) -> list[str]:
    """The metrics of all cells of an algorithm, written with the shell's braces."""
    seeds_of: dict[tuple[str, str, str], list[int]] = {}
    for cell in study.select(algorithm=label):
        seeds_of.setdefault((cell.dataset, cell.model, cell.alpha), []).append(cell.seed)
    alphas_of: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
    for (dataset, model, alpha), seeds in seeds_of.items():
        alphas_of.setdefault((dataset, model, tuple(seeds)), []).append(alpha)
    return [
        f"runs/{study.name}/{dataset}/alpha-{_braces(alphas)}/{model}/{label}/"
        f"seed-{_braces(seeds)}/metrics.csv"
        for (dataset, model, seeds), alphas in alphas_of.items()
    ]


def _braces(values: Iterable[object]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len(texts) == 1 else "{" + ",".join(texts) + "}"
