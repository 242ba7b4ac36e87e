"""What the tables and figures of a study may not ask for: what its cells will not have.

Each refusal is one line with file and key, before any job starts.
"""

from typing import TYPE_CHECKING

from fedgloss.errors import InputError, did_you_mean
from fedgloss.study.schema.shown import (
    ClaimsTable,
    CurvesFigure,
    Figure,
    LandscapeFigure,
    LinesFigure,
    LocalsTable,
    MethodsTable,
    Table,
)
from fedgloss.study.settings import round_of

if TYPE_CHECKING:
    from fedgloss.study.study import Study


def check_shown(study: "Study") -> None:
    """Tables and figures may only name cells that the grid has."""
    seeds, columns = {cell.seed for cell in study.cells}, {cell.column for cell in study.cells}
    labels = {cell.algorithm for cell in study.cells}
    for section, entries in (("tables", study.tables), ("figures", study.figures)):
        for name, entry in entries.items():
            where = f"{study.file}: {section}.{name}"
            if entry.one_seed is not None and entry.one_seed not in seeds:
                allowed = ", ".join(map(str, sorted(seeds)))
                raise InputError(
                    f"{where}.seed: {entry.one_seed} is not in the grid; allowed: {allowed}"
                )
            for column in entry.columns:
                if column not in columns:
                    raise InputError(
                        f"{where}.columns: {str(column)!r} is not in the grid"
                        f"{did_you_mean(str(column), sorted(map(str, columns)))}"
                    )
            for label in entry.rows:
                if label not in labels:
                    raise InputError(
                        f"{where}.rows: {label!r} is not in the grid"
                        f"{did_you_mean(label, sorted(labels))}"
                    )
            _check_kind(study, where, entry)


def _check_kind(study: "Study", where: str, entry: Table | Figure) -> None:
    """A table or figure may only show what its cells will have."""
    if (entry.kind == "sweep") != bool(study.asked.sweep):
        allowed = "sweep" if study.asked.sweep else "a study with the section sweep"
        why = "trials see no test images" if study.asked.sweep else "nothing is searched here"
        raise InputError(f"{where}.kind: {entry.kind}: {why}; allowed: {allowed}")
    if entry.kind in ("sweep", "claims") and len(study.cells_of(entry)) < len(study.cells):
        raise InputError(
            f"{where}: kind {entry.kind} is of the whole grid; leave out columns and rows"
        )
    for column in entry.columns if entry.baseline else ():
        if not study.baselines(column, entry.baseline or ""):
            raise InputError(
                f"{where}: kind {entry.kind} counts against {entry.baseline}, which the grid lacks"
                f" at {column}"
            )
    if isinstance(entry, ClaimsTable) and not study.cells_behind(entry):
        raise InputError(
            f"{where}: none of the paper's claims is about a cell of this study (they are about the"
            " data sets, alphas and models of config/paper.yaml)"
        )
    if isinstance(entry, CurvesFigure) and entry.metric == "delta_epsilon":
        for label in dict.fromkeys(cell.algorithm for cell in study.cells_of(entry)):
            if study.algorithm(study.select(algorithm=label)[0])[1].radius is None:
                raise InputError(
                    f"{where}.rows: {label} perturbs no global model and has no delta_epsilon"
                    " (allowed: fedgloss and its like)"
                )
    if isinstance(entry, LocalsTable):
        for cell in study.cells_of(entry):
            if study.algorithm(cell)[1].pooled:
                raise InputError(
                    f"{where}.rows: {cell.algorithm} is centralized and has no local models"
                    " (allowed: federated methods)"
                )
    if (
        isinstance(entry, MethodsTable)
        and "lambda1_official" in entry.show
        and "official_code" not in study.hessian.choices
    ):
        raise InputError(
            f"{where}.show: lambda1_official is not computed: put official_code into hessian.data"
        )
    if entry.estimate and (
        getattr(study.hessian, entry.estimate) is None or study.hessian.choices[0] != "paper"
    ):
        raise InputError(
            f"{where}: needs the {entry.estimate} of the Hessian of `data: paper`: put"
            f" `{entry.estimate}: {{}}` into hessian, and paper first in hessian.data"
        )
    if isinstance(entry, LandscapeFigure) and entry.participants:
        _check_participants(study, where, entry)
    if isinstance(entry, LinesFigure):
        _check_lines(study, where, entry)
    for cell in study.cells_of(entry) if entry.record else ():
        if entry.record not in study.settings(cell).training["record"]:
            key = next((key for key in ("metric", "measure") if hasattr(entry, key)), "kind")
            raise InputError(
                f"{where}.{key}: {getattr(entry, key)} needs what {cell.condition} does not record:"
                f" put {entry.record} into its training.record"
            )


def _check_participants(study: "Study", where: str, entry: LandscapeFigure) -> None:
    """Local models are of one column, and of so many participants as the last round has."""
    if len(entry.columns) > 1:
        raise InputError(
            f"{where}.columns: local models are of one column; allowed: one of"
            f" {', '.join(map(str, entry.columns))}"
        )
    if len(entry.rows) > 2:
        raise InputError(
            f"{where}.rows: {len(entry.rows)} rows (allowed: the method whose local models are"
            " shown, and one to compare them with)"
        )
    for label in entry.rows:
        cells = study.select(entry.columns[0], algorithm=label)
        if not cells:
            raise InputError(f"{where}.rows: {label} is not in the grid at {entry.columns[0]}")
        there = study.settings(cells[0]).training["clients_per_round"]
        if (last := max(entry.participants)) > there:
            raise InputError(
                f"{where}.participants: {last}, but a round of {cells[0].condition} has {there}"
            )


def _check_lines(study: "Study", where: str, entry: LinesFigure) -> None:
    """A line needs two models."""
    if entry.between == "seeds" and len(study.asked.seeds) < 2:
        raise InputError(
            f"{where}.between: seeds, but the study has one; allowed: methods, models, rounds"
        )
    if entry.between == "seeds" and entry.seed is not None:
        raise InputError(f"{where}.seed: is not for lines between seeds, the study's first two")
    if (entry.between == "rounds") != (entry.round is not None):
        raise InputError(
            f"{where}.round: must be given for lines between rounds, and for no others"
        )
    for cell in study.cells_of(entry) if entry.round is not None else ():
        training = study.settings(cell).training
        t = round_of(entry.round or 0, training)
        if t not in training.get("keep", ()):
            raise InputError(
                f"{where}.round: {cell.condition} does not keep its model after round {t}: put"
                f" {entry.round} into its training.keep"
            )
    if entry.between == "methods" and len(entry.rows) < 2:
        raise InputError(f"{where}.rows: lines between methods need two rows")
