"""Where figures look at the loss: the surfaces and lines of a study, see fedgloss.study.views.

REQUIRES  STUDY, LAYOUT (study.smk), cells_of (cells.smk), by the time a job is known
PROVIDES  the wildcard `view`; view_of, the one that a job computes; the input viewed_files
"""

import re

from fedgloss.study.views import cells_in

# By the kind of job and the name in the file's, of whichever cell.
VIEWS = {
    (view.kind, view.name): view
    for figure in STUDY.figures.values()
    for _, view in STUDY.views(figure)
}


wildcard_constraints:
    view="|".join(re.escape(name) for _, name in VIEWS) or "none",


def view_of(kind, wildcards):
    """The surface or line that a job computes; None of any other job."""
    view = VIEWS.get((kind, wildcards.get("view")))
    return view.of(cells_of(wildcards)[0]) if kind == "line" else view


def viewed_files(kind, name):
    """A rule's input: a file of the run of each cell that its surface or line is of."""

    def files(wildcards):
        cells = cells_in(cells_of(wildcards)[0], view_of(kind, wildcards))
        return [LAYOUT.run(STUDY.name, cell) / name for cell in dict.fromkeys(cells)]

    return files
