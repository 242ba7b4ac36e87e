"""Tables and figures: their files, and the cells and files that they are made from.

REQUIRES  STUDY, PART, LAYOUT (study.smk), wanted (targets.smk), is_unnoted (notes.smk), EXPECTED
          (packing.smk), going_on (sweep.smk)
PROVIDES  shown, table_files, figure_files; inputs and parameters of report.smk's rules; lost_files;
          PLACES, the parts of the paper that the study shows, and place_files
"""

import json
from typing import get_args

from fedgloss.study.layout import MANIFEST
from fedgloss.study.outdated import whole
from fedgloss.study.schema.shown import Place
from fedgloss.study.views import cells_in

ENTRIES = (*STUDY.tables.values(), *STUDY.figures.values())
PLACES = [place for place in get_args(Place) if any(entry.paper == place for entry in ENTRIES)]


def shown(entries):
    """The names of these tables or figures that show a cell of the wanted part."""
    return [name for name, entry in entries.items() if wanted(STUDY.cells_of(entry))]


def table_files(name):
    """What building a table makes."""
    return [*LAYOUT.table(STUDY.name, name).values()]


def figure_files(name):
    """What drawing a figure makes."""
    return [*LAYOUT.figure(STUDY.name, name).values()]


def place_files(places, wildcards):
    """What is made for parts of the paper: what shows a wanted cell, or else all, without runs."""
    tables, figures = (
        {name: entry for name, entry in entries.items() if entry.paper in places}
        for entries in (STUDY.tables, STUDY.figures)
    )
    some = shown(tables), shown(figures)
    tables, figures = some if any(some) else (tables, figures)
    return [
        *(file for name in tables for file in table_files(name)),
        *(file for name in figures for file in figure_files(name)),
    ]


def entry_of(wildcards):
    """What the study says about a table or figure, the whole of it."""
    if "table" in wildcards.keys():
        return STUDY.tables[wildcards.table]
    return STUDY.figures[wildcards.figure]


def files_behind(entry):
    """What a table or figure is made from, of its wanted cells."""
    yield from promoted_files() if entry.kind == "sweep" else ()
    for cell in going_on(wanted(STUDY.cells_behind(entry))):
        yield LAYOUT.run(STUDY.name, cell) / MANIFEST
        for kind in STUDY.sources(entry, cell):
            yield getattr(LAYOUT, kind)(STUDY.name, cell)
    for cell, view in STUDY.views(entry):
        cells = {*cells_in(cell, view)}
        if cells == {*wanted(cells)}:
            yield LAYOUT.view(STUDY.name, cell, view.kind, view.name)


def entry_files(wildcards):
    """A rule's input: what its table or figure is made from."""
    return [*files_behind(entry_of(wildcards))]


def entry_cells(wildcards):
    """A rule's parameter: the wanted cells that its table or figure is made from."""
    return [*map(str, wanted(STUDY.cells_behind(entry_of(wildcards))))]


def left_out(wildcards):
    """A rule's parameter: those of them that it leaves out, and that no job is to make anew: they are
    outdated, and Snakemake has not made them."""
    cells = wanted(STUDY.cells_behind(entry_of(wildcards)))
    return [str(cell) for cell in cells if is_unnoted(cell) and not EXPECTED.is_there(cell)]


def entry_text(wildcards):
    """A rule's parameter: what the study says about its table or figure, as JSON.

    With what it calls the methods, data sets and models that are shown there.
    """
    entry = entry_of(wildcards)
    cells = STUDY.cells_behind(entry)
    bases = {label: trial.base for label, trial in STUDY.trials.items()}
    labels = {
        "algorithms": {bases.get(cell.algorithm, cell.algorithm) for cell in cells},
        "datasets": {cell.dataset for cell in cells},
        "models": {cell.model for cell in cells},
    }
    names = {
        section: {label: STUDY.display(section, label) for label in sorted(some)}
        for section, some in labels.items()
    }
    return json.dumps({**entry.given(), "names": names})


def run_files_of_part(wildcards):
    """A rule's input: what the wanted cells' runs leave for the report."""
    runs = [LAYOUT.run(STUDY.name, cell) for cell in going_on(PART)]
    return [*(run / "metrics.csv" for run in runs), *(run / MANIFEST for run in runs)]


def lost_files(wildcards):
    """What was deleted since the report was made, which Snakemake by itself would not miss."""
    if not LAYOUT.report(STUDY.name).is_file():
        return []
    files = [file for name in shown(STUDY.tables) for file in table_files(name)]
    files += [file for name in shown(STUDY.figures) for file in figure_files(name)]
    for name in shown(STUDY.tables):
        files += files_behind(STUDY.tables[name])
    for name in shown(STUDY.figures):
        files += files_behind(STUDY.figures[name])
    for cell in going_on(PART):
        run = LAYOUT.run(STUDY.name, cell)
        files += [run / name for name in (MANIFEST, *whole(run, {}))]
    return [file for file in dict.fromkeys(files) if not file.is_file()]
