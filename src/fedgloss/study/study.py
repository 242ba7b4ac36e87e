"""From one configuration file to the cells of a study: what to run, with every number resolved.

A study names its grid; `constants/methods.yaml` holds the constants of the paper with their
sources; the study's `algorithms` section overrides them, or adds methods and named variants of its
own. All of it is checked here, before any job starts.
"""

import difflib
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedgloss import algorithms, fingerprint
from fedgloss.algorithms.core import Algorithm
from fedgloss.algorithms.declared import check_declared
from fedgloss.errors import InputError, did_you_mean
from fedgloss.files import parse_json, sha256
from fedgloss.study import inputs
from fedgloss.study.configuration import CONSTANTS, read_yaml, studies_at_hand, validate
from fedgloss.study.settings import TRAINING, check_alpha, check_last

METHODS_FILE = CONSTANTS / "methods.yaml"
CELLS = 100_000
"""More cells no study has; a typing mistake in a range could."""
MODELS = ("smallcnn", "cnn", "resnet18", "resnet18-cifar", "mobilenetv2")
"""As `fedgloss.models` has them, which cannot be asked without waiting for torch."""
DIAGNOSTICS = ["norms", "communication"]
"""What is recorded where nothing is said: it changes no number."""
ONLY = {"images": ("cifar10", "cifar100"), "size": ("folder", "landmarks")}
"""Keys of a data set that some sources alone know."""
RECORD_OF = {"w_norm": "norms", "pseudo_gradient_norm": "norms", "delta_epsilon": "delta_epsilon"}
"""What must be recorded for a metric that a figure draws."""
ALIASES = {"alpha": "beta", "beta": "alpha"}
"""Hyperparameters that may be given by another name (see `resolve_hyperparameters`)."""


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
    splits: Mapping[tuple[str, str], inputs.Split] = field(default_factory=dict)
    """What is known of each imported split, by data set and alpha."""
    given: str = ""
    """How Snakemake was told of it, where that is more than the file."""

    @property
    def datasets(self) -> dict[str, dict[str, Any]]:
        """The definition of each data set by name: those of methods.yaml, then the study's own."""
        return {**self.methods["datasets"], **self.config.get("datasets", {})}

    @property
    def arguments(self) -> str:
        """How to tell Snakemake of it, as words for a shell."""
        return self.given or f"--configfile={shlex.quote(self.file)}"

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

    def baselines(self, column: Mapping[str, str]) -> list[Cell]:
        """FedAvg's cells in a column, whatever its label: fedavg itself, or else the first."""
        labels = dict.fromkeys(cell.algorithm for cell in self.select(**column))
        for label in sorted(labels, key=lambda label: label != "fedavg"):
            if self.definition(label)["method"] == "fedavg":
                return self.select(algorithm=label, **column)
        return []

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
        method, training = self.definition(cell.algorithm)["method"], self._training(cell)
        if training["clients_per_round"] > training["clients"]:
            raise InputError(
                f"{where}: training.clients_per_round: {training['clients_per_round']} of only"
                f" {training['clients']} clients"
            )
        try:
            check_last("training", training)
            variants, algorithm = self._algorithm(cell)
            check_declared(method, algorithm)
            hyperparameters = algorithms.resolve_hyperparameters(algorithm, self._given(cell))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        for name in ("lr", "weight_decay"):
            training[name] = _one_text(training[name])
        return {
            "dataset": cell.dataset,
            "alpha": cell.alpha,
            "data": self._data(cell.dataset),
            "partition": self._cut(cell.dataset, cell.alpha),
            "model": self.model(cell.model)["model"],
            "weights": self.weights.get(cell.model),
            "algorithm": cell.algorithm,
            "method": method,
            "variants": variants,
            "hyperparameters": {k: _one_text(v) for k, v in hyperparameters.items()},
            "training": training,
            "precision": self.config.get("precision", "float32"),
            "seed": cell.seed,
        }

    def code(self, algorithm: str, model: str) -> str:
        """The fingerprint of the code that decides the numbers of a method on a model, by label."""
        method = self.definition(algorithm)["method"]
        pretrained = model in self.weights
        return fingerprint.of_training(method, self.model(model)["model"], pretrained)

    def missing(self, cell: Cell) -> tuple[list[str], list[str]]:
        """The keys that nothing gives this cell: of `training`, and of its hyperparameters."""
        training, given = self._training(cell), self._given(cell)
        _, algorithm = self._algorithm(cell)
        below = f"algorithms.{cell.algorithm}.hyperparameters"
        return [f"training.{name}" for name in TRAINING if name not in training], [
            f"{below}.{name}"
            for name, default in algorithm.hyperparameters.items()
            if default is None and name not in given and ALIASES.get(name) not in given
        ]

    def warnings(self) -> Iterator[str]:
        """What is allowed and can hardly be meant: a line for each method and its settings."""
        said: dict[tuple[str, str, str], tuple[float, int]] = {}
        for cell in self.cells:
            settings, schedule = self.settings(cell), self._algorithm(cell)[1].schedule
            rounds, hyper = settings["training"]["rounds"], settings["hyperparameters"]
            T_s = hyper.get("T_s", 0)
            if T_s >= rounds and schedule(hyper, rounds - 1) != schedule(hyper, int(T_s) + 1):
                said[cell.dataset, cell.model, cell.algorithm] = T_s, rounds
        for (dataset, model, label), (T_s, rounds) in said.items():
            yield (
                f"{self.file}: algorithms.{label}.hyperparameters.T_s: {T_s}, but {dataset}/{model}"
                f" trains for {rounds} rounds: the method never leaves its warm-up"
            )

    def partition(self, dataset: str, alpha: str) -> dict[str, Any]:
        """The arguments of a data set's partition at this alpha."""
        arguments = inputs.partition_arguments(self.datasets[dataset], alpha)
        if arguments["scheme"] not in ("file", "natural") and "clients" not in arguments:
            cell = self.select(dataset=dataset, alpha=alpha)[0]
            arguments["clients"] = self._training(cell)["clients"]
        return arguments

    def data_folder(self, dataset: str) -> str:
        """The folder of a data set below results/data, of the study's own if its definition is."""
        shared = self.methods["datasets"].get(dataset)
        return inputs.data_folder(dataset, self.datasets[dataset], shared)

    def partition_folder(self, dataset: str, alpha: str) -> str:
        """The folder below results/partitions that holds a data set's partition at this alpha."""
        shared, arguments = self.methods["datasets"].get(dataset), self.partition(dataset, alpha)
        return inputs.partition_folder(dataset, self.datasets[dataset], shared, arguments)

    def _data(self, dataset: str) -> dict[str, Any]:
        """What decides a data set's content, wherever its originals lie."""
        definition = self.datasets[dataset]
        return {
            "source": definition["source"],
            "images": definition.get("images", "clean"),
            "size": definition.get("size"),
        }

    def _cut(self, dataset: str, alpha: str) -> dict[str, Any]:
        """What decides a partition, wherever its file lies."""
        arguments = self.partition(dataset, alpha)
        if arguments["scheme"] == "file":
            return {"scheme": "file", "sha256": [*self.splits[dataset, alpha].sha256]}
        if arguments["scheme"] == "natural":
            return {"scheme": "natural"}
        return {key: arguments[key] for key in ("scheme", "clients", "seed")}

    def _training(self, cell: Cell) -> dict[str, Any]:
        """The training settings that are given for a cell, each from the strongest place."""
        known, definition = self._constants(cell), self.definition(cell.algorithm)
        of_method = known["algorithms"].get(definition["method"], {})
        split = self.splits.get((cell.dataset, cell.alpha))
        return {
            "record": DIAGNOSTICS,
            **({"clients": split.clients} if split else {}),
            **_values(known["training"], cell.alpha),
            **_values(of_method.get("training", {}), cell.alpha),
            **self.config.get("training", {}),
            **definition.get("training", {}),
        }

    def _algorithm(self, cell: Cell) -> tuple[dict[str, str], Algorithm]:
        """A cell's variants by name, and the method they make."""
        definition = self.definition(cell.algorithm)
        method = definition["method"]
        known = self._constants(cell)["algorithms"].get(method, {})
        variants = algorithms.resolve_variants(method, self.config.get("preset", "recommended"))
        chosen = definition.get("variants", known.get("variants", {}))
        if isinstance(chosen, str) or chosen:
            given = algorithms.resolve_variants(method, chosen)
            variants = given if isinstance(chosen, str) else variants | dict(chosen)
        return variants, algorithms.build_algorithm(method, variants)

    def _given(self, cell: Cell) -> dict[str, float]:
        """The hyperparameters that are given for a cell; a `beta` replaces a weaker `alpha`."""
        definition = self.definition(cell.algorithm)
        known = self._constants(cell)["algorithms"].get(definition["method"], {})
        values = _values(known.get("hyperparameters", {}), cell.alpha)
        given = definition.get("hyperparameters", {})
        return {k: v for k, v in values.items() if ALIASES.get(k) not in given} | given

    def _constants(self, cell: Cell) -> dict[str, Any]:
        source = self.datasets[cell.dataset]["source"]
        key = f"{source}/{self.model(cell.model)['model']}"
        # A data set or model of one's own has none: the study then gives them all.
        return self.methods["settings"].get(key, {"training": {}, "algorithms": {}})


def load_study(file: Path | str) -> Study:
    """Read and check a study: a YAML file, or JSON text.

    The workflow hands a study on as JSON where the command line changed what its file says, with
    the file's name and what was `given`.
    Raises InputError with the one line to show.
    """
    if not str(file).lstrip().startswith("{"):
        near = difflib.get_close_matches(str(file), studies_at_hand(file), n=1)
        if near and not os.path.lexists(file):
            raise InputError(f"{file}: there is no such file (did you mean {near[0]!r}?)")
        return check_study(read_yaml(file), str(file))
    try:
        config = parse_json(str(file))
    except ValueError as error:
        raise InputError(f"the study given as JSON text is not valid ({error})") from None
    if config.keys() == {"file", "given", "config"}:
        return check_study(config["config"], config["file"], config["given"])
    return check_study(config, "--config")


def check_study(config: Mapping[str, Any], file: str, given: str = "") -> Study:
    """Check a study that has been read already; `file` is the name to blame."""
    validate(config, "study", file)
    blocks = [len(block["alphas"]) * len(block["algorithms"]) for block in config["grid"]]
    if sum(blocks) * len(config["seeds"]) > CELLS:
        raise InputError(
            f"{file}: grid: {sum(blocks) * len(config['seeds']):,} cells; allowed: {CELLS:,}"
        )
    methods = read_yaml(METHODS_FILE)
    validate(methods, "methods", "constants/methods.yaml")
    _check_alphas(methods, "constants/methods.yaml")
    _check_alphas(config, file)
    cells, weights = tuple(_cells(config)), dict(_weights(config, file))
    study = Study(config["study"], file, config, methods, cells, weights, given=given)
    _check_names_of_grid(study)
    study = replace(study, splits=dict(_splits(study)))
    _check_nothing_missing(study)
    for cell in study.cells:
        _check_clients(study, cell, study.settings(cell)["training"]["clients"])
    _check_reports(study)
    return study


def _check_names_of_grid(study: Study) -> None:
    """Methods, data sets and models must be known, or be there to be imported."""
    file, config = study.file, study.config
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
        model = study.model(block["model"])["model"]
        module, _, function = model.partition(":")
        if function and not fingerprint.exists(module):
            raise InputError(f"{file}: grid[{i}].model: {model!r}: there is no module {module!r}")
        if not function and model not in MODELS:
            allowed = [*MODELS, "package.module:function"]
            raise InputError(
                f"{file}: grid[{i}].model: unknown model {model!r}{did_you_mean(model, allowed)}"
            )


def _check_alphas(config: Mapping[str, Any], file: str) -> None:
    """Every alpha is written in its one way, wherever it stands."""

    def check(where: str, alphas: Iterable[str]) -> None:
        for alpha in alphas:
            try:
                check_alpha(alpha)
            except InputError as error:
                raise InputError(f"{file}: {where}: {error}") from None

    for i, block in enumerate(config.get("grid", [])):
        check(f"grid[{i}].alphas", block["alphas"])
    for name, dataset in config.get("datasets", {}).items():
        check(f"datasets.{name}.partition.by_alpha", dataset["partition"].get("by_alpha", {}))
    for section in ("tables", "figures"):
        for name, entry in config.get(section, {}).items():
            check(f"{section}.{name}.columns", (c["alpha"] for c in entry["columns"]))
    for key, constants in config.get("settings", {}).items():
        methods = constants["algorithms"].items()
        groups = {"training": constants["training"]}
        groups |= {f"{m}.training": entry.get("training", {}) for m, entry in methods}
        groups |= {f"{m}.hyperparameters": e.get("hyperparameters", {}) for m, e in methods}
        for group, entries in groups.items():
            for name, entry in entries.items():
                where = f"settings.{key}.{group}.{name}.by_alpha"
                check(where, entry.get("by_alpha", {}))


def _cells(config: Mapping[str, Any]) -> Iterator[Cell]:
    seen = set()
    for block in config["grid"]:
        for alpha in block["alphas"]:
            for label in block["algorithms"]:
                for seed in config["seeds"]:
                    cell = Cell(block["dataset"], alpha, block["model"], label, seed)
                    if cell not in seen:  # blocks may overlap: a table repeats another's cells
                        yield cell
                    seen.add(cell)


def _splits(study: Study) -> Iterator[tuple[tuple[str, str], inputs.Split]]:
    """The splits that the grid imports; what cannot be cut is refused."""
    for dataset, alpha in dict.fromkeys((cell.dataset, cell.alpha) for cell in study.cells):
        definition = study.datasets[dataset]
        where = f"{study.file}: datasets.{dataset}"
        for key, sources in ONLY.items():
            if definition.get(key, "clean") != "clean" and definition["source"] not in sources:
                raise InputError(
                    f"{where}.{key}: is for {' and '.join(sources)}, not for {definition['source']}"
                )
        if definition["source"] != "digits" and "root" not in definition:
            raise InputError(
                f"{where}.root: missing, must be given for source {definition['source']}"
            )
        where += ".partition"
        arguments = inputs.partition_arguments(definition, alpha)
        if arguments["scheme"] == "natural" and definition["source"] != "landmarks":
            raise InputError(
                f"{where}: alpha {alpha!r} is scheme natural, and {definition['source']} data have"
                " no users; allowed: landmarks"
            )
        if arguments["scheme"] == "file":
            if "file" not in arguments:
                raise InputError(f"{where}.file: missing, must be given for scheme file")
            try:
                yield (dataset, alpha), inputs.read_split(arguments["file"], alpha)
            except (InputError, OSError) as error:
                hint = f" (by_alpha: {{{alpha}: {alpha}}} would draw one)"
                hint = hint if alpha in ("iid", "natural") else ""
                raise InputError(f"{where}.file: {error}{hint}") from None
        elif "file" in definition["partition"] and not _imports_a_file(definition):
            raise InputError(f"{where}.file: is given, but no scheme here is 'file'")


def _imports_a_file(definition: Mapping[str, Any]) -> bool:
    partition = definition["partition"]
    return "file" in (partition["scheme"], *partition.get("by_alpha", {}).values())


def _check_nothing_missing(study: Study) -> None:
    """All keys that the grid needs and nobody gives, in one line."""
    missing: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for cell in {cell.condition: cell for cell in study.cells}.values():
        try:
            training, hyperparameters = study.missing(cell)
        except InputError as error:
            raise InputError(f"{study.file}: {cell.condition}: {error}") from None
        missing |= dict.fromkeys([*training, *hyperparameters])
        key = f"{study.datasets[cell.dataset]['source']}/{study.model(cell.model)['model']}"
        if (training or hyperparameters) and key not in study.methods["settings"]:
            unknown[key] = None
    if missing:
        why = ""
        if unknown:
            key = next(iter(unknown))
            why = f"constants/methods.yaml has no settings for {', '.join(map(repr, unknown))}"
            why += f"{did_you_mean(key, [*study.methods['settings']])}; "
        raise InputError(f"{study.file}: {why}missing, must be given: {', '.join(missing)}")


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
    arguments = study.partition(cell.dataset, cell.alpha)
    cut, where = arguments.get("clients", clients), f"datasets.{cell.dataset}.partition"
    split = study.splits.get((cell.dataset, cell.alpha))
    if split and cut != split.clients:
        raise InputError(
            f"{study.file}: {where}.clients: {cut}, but {arguments['file']} has {split.clients}"
            " (training.clients and partition.clients may be left out)"
        )
    if cut != clients:
        raise InputError(
            f"{study.file}: {cell.condition}: training.clients: {clients}, but {where}.clients is"
            f" {cut}"
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
            _check_kind(study, where, entry)


def _check_kind(study: Study, where: str, entry: Mapping[str, Any]) -> None:
    """A table or figure may only show what its cells will have."""
    if entry["kind"] == "communication":
        for column in entry["columns"]:
            if not study.baselines(column):
                raise InputError(
                    f"{where}: kind communication counts against fedavg, which the grid lacks at"
                    f" {'/'.join(column.values())}"
                )
    if entry["kind"] == "landscape" and "seed" not in entry:
        raise InputError(f"{where}.seed: missing, must be given: a landscape is of one seed")
    record = RECORD_OF.get(entry.get("metric", ""))
    for cell in study.cells_of(entry) if record else ():
        if record not in study.settings(cell)["training"]["record"]:
            raise InputError(
                f"{where}.metric: {entry['metric']} is not recorded by {cell.condition}: put"
                f" {record} into its training.record"
            )


def _values(entries: Mapping[str, Any], alpha: str) -> dict[str, Any]:
    """The values of {name: {value, by_alpha, source, ...}} entries at an alpha."""
    return {
        name: entry.get("by_alpha", {}).get(alpha, entry["value"])
        for name, entry in entries.items()
    }


def _one_text(number: float) -> float:
    """1.0 and 1 are one number: let them be one text, too, in settings and manifests."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def check_writable(folder: Path | str) -> None:
    """Refuse early if results cannot be written."""
    folder = Path(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: results cannot be written here ({existing} is not writable)")
