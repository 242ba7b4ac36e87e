"""From one configuration file to the cells of a study: what to run, with every number resolved.

A study names its grid; `config/methods.yaml` holds the constants of the paper with their sources;
the study's `algorithms` section overrides them, or adds methods and named variants of its own. All
of it is checked here, before any job starts.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedgloss import algorithms
from fedgloss.configuration import ROOT, read_yaml, validate
from fedgloss.errors import InputError, did_you_mean
from fedgloss.files import parse_json, sha256
from fedgloss.settings import TRAINING

METHODS_FILE = ROOT / "config" / "methods.yaml"
ALPHA = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?|iid|natural")
CELLS = 100_000
"""More cells no study has; a typing mistake in a range could."""


@dataclass(frozen=True, order=True)
class Cell:
    """One training run. `algorithm` is the label of the tables; its method may be another."""

    dataset: str
    alpha: str
    model: str
    algorithm: str
    seed: int

    @property
    def condition(self) -> str:
        """The cell's path without its seed."""
        return f"{self.dataset}/alpha-{self.alpha}/{self.model}/{self.algorithm}"

    def __str__(self) -> str:
        """The cell's path below the study's folders."""
        return f"{self.condition}/seed-{self.seed}"


@dataclass(frozen=True)
class Study:
    """A validated study."""

    name: str
    file: str
    config: Mapping[str, Any]
    methods: Mapping[str, Any]
    cells: tuple[Cell, ...]
    weights: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of each weights file, by the label of the model that starts from it."""

    @property
    def datasets(self) -> dict[str, dict[str, Any]]:
        """The definition of each data set by name: those of methods.yaml, then the study's own."""
        return {**self.methods["datasets"], **self.config.get("datasets", {})}

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """The study's tables by name."""
        return dict(self.config.get("tables", {}))

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """The study's figures by name."""
        return dict(self.config.get("figures", {}))

    def cell(self, text: str) -> Cell:
        """The cell with this path, e.g. digits/alpha-0/smallcnn/fedgloss/seed-0."""
        by_path = {str(cell): cell for cell in self.cells}
        if text.strip("/") not in by_path:
            hint = did_you_mean(text, [*by_path]).split("; allowed")[0]
            raise InputError(f"{self.file}: no cell {text!r} in this study{hint}")
        return by_path[text.strip("/")]

    def select(self, **wanted: str | int) -> list[Cell]:
        """The cells whose fields have these values, in the order of the grid."""
        return [
            cell
            for cell in self.cells
            if all(getattr(cell, name) == value for name, value in wanted.items())
        ]

    def cells_of(self, entry: Mapping[str, Any]) -> list[Cell]:
        """The cells that a table's or figure's columns and rows name."""
        wanted = {(c["dataset"], c["alpha"], c["model"]) for c in entry["columns"]}
        return [
            cell
            for cell in self.cells
            if (cell.dataset, cell.alpha, cell.model) in wanted
            and cell.algorithm in entry["rows"]
            and entry.get("seed", cell.seed) == cell.seed
        ]

    def definition(self, label: str) -> dict[str, Any]:
        """What the study says about an algorithm: method, variants, hyperparameters, training."""
        return {"method": label, **self.config.get("algorithms", {}).get(label, {})}

    def model(self, label: str) -> dict[str, Any]:
        """What the study says about a model: `model`, a name or import path, and `weights`."""
        return {"model": label, **self.config.get("models", {}).get(label, {})}

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Everything that decides a cell's numbers, resolved; the trainer's only configuration.

        Precedence, weakest first: constants for (data set, model), constants for the method there,
        the study's `training`, the study's `algorithms` entry.
        """
        where = f"{self.file}: {cell.condition}"
        constants = self._constants(cell)
        definition = self.definition(cell.algorithm)
        method = definition["method"]
        known = constants["algorithms"].get(method, {})
        training = {
            **_values(constants["training"], cell.alpha),
            **_values(known.get("training", {}), cell.alpha),
            **self.config.get("training", {}),
            **definition.get("training", {}),
        }
        missing = [name for name in TRAINING if name not in training]
        if missing:
            key = f"{self.datasets[cell.dataset]['source']}/{self.model(cell.model)['model']}"
            block = next(
                i
                for i, block in enumerate(self.config["grid"])
                if (block["dataset"], block["model"]) == (cell.dataset, cell.model)
            )
            raise InputError(
                f"{self.file}: grid[{block}].model: config/methods.yaml has no settings for {key!r}"
                f" and training.{missing[0]} is not given"
                f"{did_you_mean(key, [*self.methods['settings']])}"
            )
        if training["clients_per_round"] > training["clients"]:
            raise InputError(
                f"{where}: training.clients_per_round: {training['clients_per_round']} of only"
                f" {training['clients']} clients"
            )
        try:
            variants = algorithms.resolve_variants(method, self.config.get("preset", "recommended"))
            chosen = definition.get("variants", known.get("variants", {}))
            if isinstance(chosen, str) or chosen:
                given = algorithms.resolve_variants(method, chosen)
                variants = given if isinstance(chosen, str) else variants | dict(chosen)
            hyperparameters = algorithms.resolve_hyperparameters(
                algorithms.build_algorithm(method, variants),
                {
                    **_values(known.get("hyperparameters", {}), cell.alpha),
                    **definition.get("hyperparameters", {}),
                },
            )
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return {
            "dataset": cell.dataset,
            "alpha": cell.alpha,
            "model": self.model(cell.model)["model"],
            "weights": self.weights.get(cell.model),
            "algorithm": cell.algorithm,
            "method": method,
            "variants": variants,
            "hyperparameters": hyperparameters,
            "training": training,
            "precision": self.config.get("precision", "float32"),
            "seed": cell.seed,
        }

    def partition(self, dataset: str, alpha: str) -> dict[str, Any]:
        """The arguments of a data set's partition at this alpha."""
        definition = {**self.datasets[dataset]["partition"]}
        scheme = definition.pop("scheme")
        scheme = definition.pop("by_alpha", {}).get(alpha, scheme)
        if alpha in ("iid", "natural"):
            return {**definition, "scheme": alpha}
        return {**definition, "scheme": scheme, "alpha": alpha}

    def _constants(self, cell: Cell) -> dict[str, Any]:
        source = self.datasets[cell.dataset]["source"]
        key = f"{source}/{self.model(cell.model)['model']}"
        # A data set or model of one's own has none: the study then gives them all.
        return self.methods["settings"].get(key, {"training": {}, "algorithms": {}})


def load_study(file: Path | str) -> Study:
    """Read and check a study: a YAML file, or JSON text, as the workflow hands a changed one on.

    Raises InputError with the one line to show.
    """
    if str(file).lstrip().startswith("{"):
        try:
            config = parse_json(str(file))
        except ValueError as error:
            raise InputError(f"the study given as JSON text is not valid ({error})") from None
        return check_study(config, "--config")
    return check_study(read_yaml(file), str(file))


def check_study(config: Mapping[str, Any], file: str) -> Study:
    """Check a study that has been read already; `file` is the name to blame."""
    validate(config, "study", file)
    blocks = [len(block["alphas"]) * len(block["algorithms"]) for block in config["grid"]]
    if sum(blocks) * len(config["seeds"]) > CELLS:
        raise InputError(
            f"{file}: grid: {sum(blocks) * len(config['seeds']):,} cells; allowed: {CELLS:,}"
        )
    methods = read_yaml(METHODS_FILE)
    validate(methods, "methods", "config/methods.yaml")
    cells, weights = tuple(_cells(config, file)), dict(_weights(config, file))
    study = Study(config["study"], file, config, methods, cells, weights)
    for label, definition in config.get("algorithms", {}).items():
        try:
            algorithms.method(definition.get("method", label))
        except InputError as error:
            raise InputError(f"{file}: algorithms.{label}: {error}") from None
    for i, block in enumerate(config["grid"]):
        if block["dataset"] not in study.datasets:
            raise InputError(
                f"{file}: grid[{i}].dataset: unknown data set {block['dataset']!r}"
                f"{did_you_mean(block['dataset'], [*study.datasets])}"
            )
        known = [*algorithms.METHODS, *config.get("algorithms", {})]
        for j, label in enumerate(block["algorithms"]):
            if label not in known:
                raise InputError(
                    f"{file}: grid[{i}].algorithms[{j}]: unknown method {label!r}"
                    f"{did_you_mean(label, known)}"
                )
    for cell in study.cells:
        _check_clients(study, cell, study.settings(cell)["training"]["clients"])
    _check_reports(study)
    return study


def _cells(config: Mapping[str, Any], file: str) -> Iterator[Cell]:
    seen = set()
    for i, block in enumerate(config["grid"]):
        for alpha in block["alphas"]:
            if not ALPHA.fullmatch(alpha):
                raise InputError(
                    f"{file}: grid[{i}].alphas: {alpha!r} is not a number of at least 0"
                    " written as text, nor 'iid' or 'natural'"
                )
        for alpha in block["alphas"]:
            for label in block["algorithms"]:
                for seed in config["seeds"]:
                    cell = Cell(block["dataset"], alpha, block["model"], label, seed)
                    if cell not in seen:  # blocks may overlap: a table repeats another's cells
                        yield cell
                    seen.add(cell)


def _weights(config: Mapping[str, Any], file: str) -> Iterator[tuple[str, str]]:
    for label, definition in config.get("models", {}).items():
        if "weights" in definition:
            try:
                yield label, sha256(definition["weights"])
            except (OSError, ValueError) as error:  # ValueError: no file can have such a name
                raise InputError(
                    f"{file}: models.{label}.weights: {definition['weights']!r} cannot be read"
                    f" ({getattr(error, 'strerror', None) or error})"
                ) from None


def _check_clients(study: Study, cell: Cell, clients: int) -> None:
    """Training and partition must speak of the same number of clients."""
    cut = study.partition(cell.dataset, cell.alpha).get("clients", clients)
    if cut != clients:
        raise InputError(
            f"{study.file}: {cell.condition}: training.clients: {clients}, but"
            f" datasets.{cell.dataset}.partition.clients is {cut}"
        )


def _check_reports(study: Study) -> None:
    """Tables and figures may only name cells that the grid has."""
    seeds = sorted({cell.seed for cell in study.cells})
    conditions = {(cell.dataset, cell.alpha, cell.model) for cell in study.cells}
    labels = {cell.algorithm for cell in study.cells}
    for section in ("tables", "figures"):
        for name, entry in getattr(study, section).items():
            where = f"{study.file}: {section}.{name}"
            if entry.get("seed", seeds[0]) not in seeds:
                allowed = ", ".join(map(str, seeds))
                raise InputError(
                    f"{where}.seed: {entry['seed']} is not in the grid; allowed: {allowed}"
                )
            for column in entry["columns"]:
                condition = (column["dataset"], column["alpha"], column["model"])
                if condition not in conditions:
                    allowed = sorted("/".join(c) for c in conditions)
                    raise InputError(
                        f"{where}.columns: {'/'.join(condition)!r} is not in the grid"
                        f"{did_you_mean('/'.join(condition), allowed)}"
                    )
            for label in entry["rows"]:
                if label not in labels:
                    raise InputError(
                        f"{where}.rows: {label!r} is not in the grid"
                        f"{did_you_mean(label, sorted(labels))}"
                    )


def _values(entries: Mapping[str, Any], alpha: str) -> dict[str, Any]:
    """The values of {name: {value, by_alpha, source, ...}} entries at an alpha."""
    return {
        name: entry.get("by_alpha", {}).get(alpha, entry["value"])
        for name, entry in entries.items()
    }


def check_writable(folder: Path | str) -> None:
    """Refuse early if results cannot be written."""
    folder = Path(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: results cannot be written here ({existing} is not writable)")
