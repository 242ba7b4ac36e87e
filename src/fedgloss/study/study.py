"""A study: what is asked for, checked, and what follows for each of its cells."""

import difflib
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from fedgloss import fingerprint
from fedgloss.algorithms.core import Algorithm
from fedgloss.errors import InputError, did_you_mean
from fedgloss.files import parse_json, read_json
from fedgloss.study import checking, chosen, inputs, resolving, sweep, views
from fedgloss.study.cells import Cell, cells_of_grid
from fedgloss.study.checking_shown import check_shown
from fedgloss.study.claims import measured_in
from fedgloss.study.configuration import CONSTANTS, read_yaml, studies_at_hand, validate
from fedgloss.study.resolving import Definition
from fedgloss.study.schema import study as schema
from fedgloss.study.schema.constants import Methods
from fedgloss.study.schema.shown import CellFile, ClaimsTable, Condition, Figure, Shown, Table
from fedgloss.study.settings import Settings
from fedgloss.study.views import View, cells_in

E = TypeVar("E", bound=Shown)
METHODS_FILE = CONSTANTS / "methods.yaml"


@dataclass(frozen=True)
class Study:
    """A validated study."""

    name: str
    file: str
    config: Mapping[str, Any]
    """What the file says, as it was read."""
    methods: Methods
    cells: tuple[Cell, ...]
    weights: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of each weights file, by the label of the model that starts from it."""
    splits: Mapping[tuple[str, str], inputs.Split] = field(default_factory=dict)
    """What is known of each imported split, by data set and alpha."""
    given: str = ""
    """How Snakemake was told of it, where that is more than the file."""

    @cached_property
    def asked(self) -> schema.Study:
        """The same as types, with defaults, and with the trials of its sweep as labels."""
        return sweep.spelled_out(self._written, self.trials)

    @cached_property
    def trials(self) -> dict[str, sweep.Trial]:
        """The trials of its sweep, if it has one, by the labels of their cells."""
        return sweep.trials(self._written, self.file)

    @cached_property
    def _written(self) -> schema.Study:
        return chosen.included(validate(self.config, schema.Study, self.file), self.file)

    @property
    def hessian(self) -> schema.Hessian:
        """Which eigenvalues are computed."""
        return self.asked.hessian

    @property
    def landscape(self) -> schema.Landscape:
        """Over which square loss surfaces are computed."""
        return self.asked.landscape

    @cached_property
    def datasets(self) -> dict[str, schema.Dataset]:
        """The definition of each data set by name: those of methods.yaml, and the study's own.

        One without `source` changes the known one of its name. InputError where that is none.
        """
        found, missing = dict(self.methods.datasets), []
        for name, own in self.asked.datasets.items():
            base = found.get(name) if own.source is None else None
            entry = (base.given() if base else {}) | own.given()
            absent = [key for key in ("source", "partition") if key not in entry]
            missing += [f"datasets.{name}.{key}" for key in absent]
            if not absent:
                found[name] = schema.Dataset.model_validate(entry)
        if missing:
            raise InputError(f"{self.file}: {', '.join(missing)}: missing, must be given")
        return found

    @property
    def arguments(self) -> str:
        """How to tell Snakemake of it, as words for a shell."""
        return self.given or f"--configfile={shlex.quote(self.file)}"

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The study's tables by name, each with its title, columns and rows."""
        return {name: self._filled(name, entry) for name, entry in self.asked.tables.items()}

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The study's figures by name, each with its title, columns and rows."""
        return {name: self._filled(name, entry) for name, entry in self.asked.figures.items()}

    def _filled(self, name: str, entry: E) -> E:
        """A table or figure that says everything: without columns or rows, of the whole grid."""
        return entry.model_copy(
            update={
                "title": entry.title or name,
                "columns": entry.columns or tuple(dict.fromkeys(c.column for c in self.cells)),
                "rows": entry.rows or tuple(dict.fromkeys(c.algorithm for c in self.cells)),
            }
        )

    def cell(self, text: str) -> Cell:
        """The cell with this path, e.g. digits/alpha-0/smallcnn/fedgloss/seed-0."""
        if text.strip("/") not in self._by_path:
            hint = did_you_mean(text, [*self._by_path]).split("; allowed")[0]
            raise InputError(f"{self.file}: no cell {text!r} in this study{hint}")
        return self._by_path[text.strip("/")]

    @cached_property
    def _by_path(self) -> dict[str, Cell]:
        """For a large study's workflow, which asks for a cell thousands of times."""
        return {str(cell): cell for cell in self.cells}

    def select(self, column: Condition | None = None, **wanted: str | int) -> list[Cell]:
        """The cells of a column whose fields have these values, in the order of the grid."""
        if column is not None:
            wanted |= dict(column)
        return [
            cell
            for cell in self.cells
            if all(getattr(cell, name) == value for name, value in wanted.items())
        ]

    def cells_of(self, entry: Shown) -> list[Cell]:
        """The cells that a table's or figure's columns and rows name."""
        columns, rows = {*entry.columns}, {*entry.rows}
        return [
            cell
            for cell in self.cells
            if cell.algorithm in rows
            and cell.column in columns
            and entry.one_seed in (None, cell.seed)
        ]

    def cells_behind(self, entry: Table | Figure) -> list[Cell]:
        """The cells that a table or figure is made from: a baseline need not be a row."""
        if isinstance(entry, ClaimsTable):
            return [cell for cell in self.cells_of(entry) if self._claimed(cell)]
        seen = [behind for cell, view in self.views(entry) for behind in cells_in(cell, view)]
        cells = seen or self.cells_of(entry)
        if entry.baseline:
            for column in entry.columns:
                cells += self.baselines(column, entry.baseline)
        return list(dict.fromkeys(cells))

    def views(self, entry: Table | Figure) -> list[tuple[Cell, View]]:
        """The surfaces and lines that a figure shows, each with the cell that it starts from."""
        return list(views.views(self, entry))

    def sources(self, entry: Shown, cell: Cell) -> tuple[CellFile, ...]:
        """The files of a cell that a table or figure is made from, beside the manifest."""
        if not isinstance(entry, ClaimsTable):
            return entry.sources
        claimed = self._claimed(cell)
        hessian = ("hessian",) if "lambda1" in claimed else ()
        locals_ = ("locals",) if claimed & {"lambda1_local", "lambda1_global"} else ()
        return (*entry.sources, *hessian, *locals_)

    def _claimed(self, cell: Cell) -> frozenset[str]:
        """The metrics of a cell that the paper's claims are about."""
        method = self.definition(cell.algorithm).method
        known = {cell.algorithm, method}
        names = [name for name in known if self.stands_for(name, cell.column) == cell.algorithm]
        return frozenset[str]().union(*(measured_in(cell.column, name) for name in names))

    def stands_for(self, method: str, column: Condition) -> str | None:
        """The label of a method in a column: that of its name, or else its only one."""
        labels = self._labels.get(column, ())
        if method in labels:
            return method
        same = [label for label in labels if self.definition(label).method == method]
        return same[0] if len(same) == 1 else None

    @cached_property
    def _labels(self) -> dict[Condition, list[str]]:
        """The algorithms of each column."""
        found: dict[Condition, dict[str, None]] = {}
        for cell in self.cells:
            found.setdefault(cell.column, {})[cell.algorithm] = None
        return {column: [*labels] for column, labels in found.items()}

    def baselines(self, column: Condition, method: str = "fedavg") -> list[Cell]:
        """A method's cells in a column, whatever its label: its own name, or else the first."""
        labels = dict.fromkeys(cell.algorithm for cell in self.select(column))
        for label in sorted(labels, key=lambda label: label != method):
            if self.definition(label).method == method:
                return self.select(column, algorithm=label)
        return []

    def definition(self, label: str) -> Definition:
        """What the study says about an algorithm: method, variants, hyperparameters, training."""
        return self._definition(label)

    def model(self, label: str) -> schema.LabelledModel:
        """What the study says about a model, its name or import path included."""
        entry = self.asked.models.get(label, schema.LabelledModel())
        return entry.model_copy(update={"model": entry.model or label})

    def display(self, section: Literal["algorithms", "datasets", "models"], label: str) -> str:
        """The `name` that a label has been given; "" if it has none."""
        entry = getattr(self.asked, section).get(label)
        return entry.name if entry and entry.name else ""

    def settings(self, cell: Cell) -> Settings:
        """Everything that decides a cell's numbers, resolved; the trainer's only configuration."""
        return self._settings(cell)

    def algorithm(self, cell: Cell) -> tuple[dict[str, str], Algorithm]:
        """A cell's variants by name, and the method that they make."""
        variants, built = self._algorithm(cell.dataset, cell.model, cell.algorithm)
        return dict(variants), built

    def code(self, algorithm: str, model: str) -> str:
        """The fingerprint of the code that decides the numbers of a method on a model, by label."""
        method = self.definition(algorithm).method
        pretrained = model in self.weights
        return fingerprint.of_training(method, self.model(model).model, pretrained)

    def partition(self, dataset: str, alpha: str) -> dict[str, Any]:
        """The arguments of a data set's partition at this alpha."""
        return resolving.partition(self, dataset, alpha)

    def data_folder(self, dataset: str) -> str:
        """The folder of a data set below results/data, of the study's own if its definition is."""
        shared = self.methods.datasets.get(dataset)
        return inputs.data_folder(dataset, self.datasets[dataset], shared)

    def partition_folder(self, dataset: str, alpha: str) -> str:
        """The folder below results/partitions that holds a data set's partition at this alpha."""
        shared, arguments = self.methods.datasets.get(dataset), self.partition(dataset, alpha)
        return inputs.partition_folder(dataset, self.datasets[dataset], shared, arguments)

    def warnings(self) -> Iterator[str]:
        """What is allowed and can hardly be meant, a line each."""
        return checking.warnings(self)

    # Asked for again and again, of each of hundreds of cells; what a study says never changes.

    @cached_property
    def _definition(self) -> Callable[[str], Definition]:
        return cache(partial(resolving.definition, self))

    @cached_property
    def _settings(self) -> Callable[[Cell], Settings]:
        return cache(partial(resolving.settings, self))

    @cached_property
    def _algorithm(self) -> Callable[[str, str, str], tuple[dict[str, str], Algorithm]]:
        return cache(partial(resolving.algorithm, self))


def load_study(file: Path | str) -> Study:
    """Read and check a study: a YAML file, or JSON text.

    Where the command line changed what a study's file says, the workflow tells its jobs in a JSON
    file of the study, the name of its own file and what was `given`.
    Raises InputError with the one line to show.
    """
    if str(file).lstrip().startswith("{"):
        try:
            config = parse_json(str(file))
        except ValueError as error:
            raise InputError(f"the study given as JSON text is not valid ({error})") from None
        return check_study(config, "--config")
    near = difflib.get_close_matches(str(file), studies_at_hand(file), n=1)
    if near and not os.path.lexists(file):
        raise InputError(f"{file}: there is no such file (did you mean {near[0]!r}?)")
    told = read_json(file) if str(file).endswith(".json") else None
    if isinstance(told, dict) and told.keys() == {"file", "given", "config"}:
        return check_study(told["config"], told["file"], told["given"])
    return check_study(read_yaml(file), str(file))


def check_study(config: Mapping[str, Any], file: str, given: str = "") -> Study:
    """Check a study that has been read already; `file` is the name to blame."""
    name = validate(config, schema.Study, file).study
    study = Study(name, file, config, constants(), (), given=given)
    cells, weights = cells_of_grid(study.asked, file), dict(checking.weights(study.asked, file))
    study = replace(study, cells=cells, weights=weights)
    checking.check_names(study)
    study = replace(study, splits=dict(checking.splits(study)))
    checking.check_nothing_missing(study)
    for cell in study.cells:
        checking.check_clients(study, cell)
    checking.check_halving(study)
    check_shown(study)
    return study


def constants() -> Methods:
    """The constants of the paper."""
    return _constants(METHODS_FILE, METHODS_FILE.read_bytes())


@cache
def _constants(file: Path, content: bytes) -> Methods:
    """The same of this file, which is read again when its `content` has changed."""
    return validate(read_yaml(file, ours=True), Methods, "constants/methods.yaml")
