"""Where a study looks at the loss: the surfaces around its models, and the lines between two.

A view belongs to a cell; its name is in that of its file, among those of the cell's analysis.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from fedgloss.study.settings import kept, round_of

if TYPE_CHECKING:  # a job reads its file where nothing of what a study needs is installed
    from fedgloss.study.cells import Cell
    from fedgloss.study.schema.shown import Figure, LandscapeFigure, LinesFigure, Table
    from fedgloss.study.study import Study


@dataclass(frozen=True)
class Surface:
    """The loss around one of a cell's models.

    Attributes
      kind    of the job that computes it
      extent  half-width of the square, in lengths of the filters
      model   average; or local-1, local-2, ...: of the last round's participants
      on      all: the training images of all clients; own: those of the local model's client
    """

    kind: ClassVar = "landscape"
    extent: float
    model: str = "average"
    on: str = "all"

    @property
    def name(self) -> str:
        """E.g. local-1-own-within-0.5."""
        return f"{self.model}-{self.on}-within-{str(float(self.extent)).removesuffix('.0')}"


@dataclass(frozen=True)
class Line:
    """The loss between one of a cell's models and another.

    Attributes
      kind   of the job that computes it
      other  the cell that the other is of
      model  which of its models: average or final
      start  the cell's own: average, or round-75, say, which it has kept
    """

    kind: ClassVar = "line"
    other: "Cell"
    model: str = "average"
    start: str = "average"

    @property
    def name(self) -> str:
        """What it is called among a cell's lines, e.g. to-final-of-fedsam-seed-42."""
        start = "" if self.start == "average" else f"from-{self.start}-"
        return f"{start}to-{self.model}-of-{self.other.algorithm}-seed-{self.other.seed}"

    def of(self, cell: "Cell") -> "Line":
        """The same from another cell: to one of its own data set, alpha and model."""
        other = replace(cell, algorithm=self.other.algorithm, seed=self.other.seed)
        return replace(self, other=other)


View = Surface | Line


def surfaces(study: "Study", figure: "LandscapeFigure") -> list[list[tuple["Cell", Surface]]]:
    """What each panel of a landscape shows, the one that is drawn as a net last.

    A panel for each column: the averaged models of the rows, on all data. With participants, one
    for each: the first row's local model on its client's data and on all data; then the second
    row's, or if there is none the first row's averaged model, on all data.
    """
    extent = figure.extent or study.landscape.extent
    by_column = [
        [cell for row in figure.rows for cell in study.select(column, algorithm=row)]
        for column in figure.columns
    ]
    panels = [[cell for cell in cells if cell.seed == figure.seed] for cells in by_column]
    if not figure.participants or not panels[0]:
        return [[(cell, Surface(extent)) for cell in cells] for cells in panels]
    first, *others = panels[0]
    return [
        [
            (first, Surface(extent, f"local-{place}", "own")),
            (first, Surface(extent, f"local-{place}")),
            *((cell, Surface(extent, f"local-{place}")) for cell in others),
            *([] if others else [(first, Surface(extent))]),
        ]
        for place in figure.participants
    ]


def lines(study: "Study", figure: "LinesFigure") -> list[list[tuple["Cell", Line]]]:
    """What each panel of a figure of lines shows: a panel for each column, a line for each row."""
    one, other = [*study.asked.seeds, *study.asked.seeds][:2]
    seed = one if figure.seed is None else figure.seed
    panels = []
    for column in figure.columns:
        cells = [
            cell
            for row in figure.rows
            for cell in study.select(column, algorithm=row)
            if cell.seed == seed
        ]
        if figure.between == "seeds":
            panels.append([(cell, Line(replace(cell, seed=other))) for cell in cells])
        elif figure.between == "methods":
            panels.append([(cells[0], Line(cell)) for cell in cells[1:]])
        elif figure.round is not None:
            rounds = [round_of(figure.round, study.settings(cell).training) for cell in cells]
            pairs = zip(cells, rounds, strict=True)
            panels.append([(cell, Line(cell, "final", kept(t))) for cell, t in pairs])
        else:
            panels.append([(cell, Line(cell, "final")) for cell in cells])
    return panels


def views(study: "Study", shown: "Table | Figure") -> Iterator[tuple["Cell", View]]:
    """All that a table or figure shows of this, each with the cell that it starts from."""
    if shown.kind == "landscape":
        for seen in surfaces(study, shown):
            yield from seen
    elif shown.kind == "lines":
        for drawn in lines(study, shown):
            yield from drawn


def cells_in(cell: "Cell", view: View) -> tuple["Cell", ...]:
    """The cells that a view needs the runs of."""
    return (cell, view.other) if isinstance(view, Line) else (cell,)
