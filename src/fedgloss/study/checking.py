"""What a study may not say, although each of its keys may have such a value: it would not go well.

Everything is looked at before any job starts; each refusal is one line with file and key.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fedgloss import algorithms, fingerprint
from fedgloss.errors import InputError, did_you_mean
from fedgloss.files import sha256
from fedgloss.study import inputs, resolving
from fedgloss.study.cells import Cell
from fedgloss.study.chosen import seeds_that_chose
from fedgloss.study.schema import study as schema
from fedgloss.study.settings import is_name
from fedgloss.study.sweep import base_of

if TYPE_CHECKING:
    from fedgloss.study.study import Study

MODELS = ("smallcnn", "cnn", "resnet18", "resnet18-cifar", "mobilenetv2")
"""As `fedgloss.models` has them, which cannot be asked without waiting for torch."""
ONLY = {
    "root": ("cifar10", "cifar100", "folder", "landmarks"),
    "download": ("cifar10", "cifar100"),
    "images": ("cifar10", "cifar100"),
    "size": ("folder", "landmarks"),
}
"""Keys of a data set that some sources alone know."""


def weights(asked: schema.Study, file: str) -> Iterator[tuple[str, str]]:
    """The labels of models that start from a file, and its SHA-256."""
    for label, definition in asked.models.items():
        if definition.weights is not None:
            try:
                yield label, sha256(definition.weights)
            except (OSError, ValueError) as error:  # ValueError: no file can have such a name
                raise InputError(
                    f"{file}: models.{label}.weights: {definition.weights!r} cannot be read"
                    f" ({getattr(error, 'strerror', None) or error})"
                ) from None


def check_names(study: "Study") -> None:
    """Methods, data sets and models must be known, or be there to be imported."""
    file, known = study.file, [*algorithms.METHODS, *study.asked.algorithms]
    for label, definition in study.asked.algorithms.items():
        if definition.like is not None and definition.like not in known:
            others = [name for name in known if name != label]
            raise InputError(
                f"{file}: algorithms.{label}.like: unknown method {definition.like!r}"
                f"{did_you_mean(definition.like, others)}"
            )
        method = study.definition(label).method
        if method == label and method not in algorithms.METHODS and definition.method is None:
            raise InputError(
                f"{file}: algorithms.{label}: {label!r} is no method, and neither its method nor"
                f" the label that it is like is given{did_you_mean(label, [*algorithms.METHODS])}"
            )
        try:
            algorithms.method(method)
        except InputError as error:
            raise InputError(f"{file}: algorithms.{label}: {error}") from None
    for i, block in enumerate(study.asked.grid):
        if block.dataset not in study.datasets:
            raise InputError(
                f"{file}: grid[{i}].dataset: unknown data set {block.dataset!r}"
                f"{did_you_mean(block.dataset, [*study.datasets])}"
            )
        for j, label in enumerate(block.algorithms):
            if label not in known:
                raise InputError(
                    f"{file}: grid[{i}].algorithms[{j}]: unknown method {label!r}"
                    f"{did_you_mean(label, known)}"
                )
        model = study.model(block.model).model
        module, _, function = model.partition(":")
        if function and not fingerprint.exists(module):
            raise InputError(
                f"{file}: grid[{i}].model: {model!r}: there is no module {module!r}; PYTHONPATH"
                " must name the folder that holds the file"
            )
        if not function and model not in MODELS:
            allowed = [*MODELS, "package.module:function"]
            raise InputError(
                f"{file}: grid[{i}].model: unknown model {model!r}{did_you_mean(model, allowed)}"
            )


def splits(study: "Study") -> Iterator[tuple[tuple[str, str], inputs.Split]]:
    """The splits that the grid imports; what cannot be cut is refused."""
    for dataset, alpha in dict.fromkeys((cell.dataset, cell.alpha) for cell in study.cells):
        definition = study.datasets[dataset]
        where = f"{study.file}: datasets.{dataset}"
        _check_source(where, definition)
        where += ".partition"
        arguments = inputs.partition_arguments(definition, alpha)
        if arguments["scheme"] != "file" and is_name(alpha):
            blocks = enumerate(study.asked.grid)
            i = next(i for i, b in blocks if b.dataset == dataset and alpha in b.alphas)
            raise InputError(
                f"{study.file}: grid[{i}].alphas: {alpha!r} is not a number, nor 'iid' or"
                f" 'natural', so it names a split, which {dataset} does not import: datasets."
                f"{dataset}.partition is scheme {arguments['scheme']}, not file"
            )
        if arguments["scheme"] == "natural" and definition.source != "landmarks":
            raise InputError(
                f"{where}: alpha {alpha!r} is scheme natural, and {definition.source} data have"
                " no users; allowed: landmarks"
            )
        for key in ("file", "sha256"):
            if getattr(definition.partition, key) and not _imports_a_file(definition):
                raise InputError(f"{where}.{key}: is given, but no scheme here is 'file'")
        if arguments["scheme"] == "file":
            yield (dataset, alpha), _split(where, arguments, alpha, definition.partition)


def _check_source(where: str, definition: schema.Dataset) -> None:
    source = definition.source
    for key, sources in ONLY.items():
        if getattr(definition, key) not in (None, False, "clean") and source not in sources:
            allowed = f"{', '.join(sources[:-1])} and {sources[-1]}"
            raise InputError(f"{where}.{key}: is for {allowed}, not for {source}")
    if source != "digits" and definition.root is None:
        raise InputError(f"{where}.root: missing, must be given for source {source}")


def _split(
    where: str, arguments: Mapping[str, Any], alpha: str, cut: schema.Partition
) -> inputs.Split:
    if "file" not in arguments:
        raise InputError(f"{where}.file: missing, must be given for scheme file")
    expected = None
    if alpha in cut.sha256:
        if cut.clients is None:
            raise InputError(f"{where}.clients: missing, must be given beside sha256")
        expected = inputs.Split(cut.sha256[alpha], cut.clients)
    try:
        return inputs.read_split(arguments["file"], alpha, expected)
    except (InputError, OSError) as error:
        hint = f" (by_alpha: {{{alpha}: {alpha}}} would draw one)"
        hint = hint if alpha in ("iid", "natural") else ""
        raise InputError(f"{where}.file: {error}{hint}") from None


def _imports_a_file(definition: schema.Dataset) -> bool:
    return "file" in (definition.partition.scheme, *definition.partition.by_alpha.values())


def check_nothing_missing(study: "Study") -> None:
    """All keys that the grid needs and nobody gives, in one line."""
    missing: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for cell in {cell.condition: cell for cell in study.cells}.values():
        try:
            training, hyperparameters = resolving.missing(study, cell)
        except InputError as error:
            raise InputError(f"{study.file}: {cell.condition}: {error}") from None
        missing |= dict.fromkeys([*training, *hyperparameters])
        key = resolving.constants_key(study, cell.dataset, cell.model)
        if (training or hyperparameters) and key not in study.methods.settings:
            unknown[key] = None
    if missing:
        why = ""
        if unknown:
            key = next(iter(unknown))
            why = f"constants/methods.yaml has no settings for {', '.join(map(repr, unknown))}"
            why += f"{did_you_mean(key, [*study.methods.settings])}; "
        raise InputError(f"{study.file}: {why}missing, must be given: {', '.join(missing)}")


def check_clients(study: "Study", cell: Cell) -> None:
    """Training and partition must speak of the same number of clients."""
    clients = study.settings(cell).training["clients"]
    arguments = study.partition(cell.dataset, cell.alpha)
    cut, where = arguments.get("clients", clients), f"datasets.{cell.dataset}.partition"
    split = study.splits.get((cell.dataset, cell.alpha))
    if split and cut != split.clients:
        raise InputError(
            f"{study.file}: {where}.clients: {cut}, but {arguments['file']} has {split.clients}"
            " (training.clients and partition.clients may be left out)"
        )
    if cut != clients:
        own = study.asked.datasets.get(cell.dataset)
        why = "" if own and own.partition else " (constants/methods.yaml)"
        raise InputError(
            f"{study.file}: {cell.condition}: training.clients: {clients}, but {where}.clients is"
            f" {cut}{why}; training is for all data sets: leave its clients out, or give"
            f" {where} as a whole"
        )


def check_halving(study: "Study") -> None:
    """A rung comes before the end, and there is something to go by."""
    halving = study.asked.sweep.halving if study.asked.sweep else None
    if halving is None:
        return
    where = f"{study.file}: sweep.halving"
    if halving.seeds and max(halving.seeds) >= len(study.asked.seeds):
        raise InputError(
            f"{where}.seeds: {max(halving.seeds)} of {len(study.asked.seeds)} seeds"
            " are all; allowed: fewer"
        )
    for cell in study.cells:
        training = study.settings(cell).training
        for rounds in halving.rounds if cell.algorithm in study.trials else ():
            if rounds >= training["rounds"]:
                raise InputError(
                    f"{where}.rounds: {rounds}, but {cell.condition} trains for"
                    f" {training['rounds']}; allowed: fewer"
                )
            begin, end = rounds - training["last"], training["rounds"] - training["last"]
            if rounds // training["evaluate_every"] * training["evaluate_every"] <= begin and (
                rounds <= end
            ):
                raise InputError(
                    f"{where}.rounds: {rounds}: nothing is evaluated in the last"
                    f" {training['last']} rounds before it; allowed: multiples of"
                    f" training.evaluate_every, {training['evaluate_every']}"
                )


def warnings(study: "Study") -> Iterator[str]:
    """What is allowed and can hardly be meant, a line each."""
    yield from _endless_warm_ups(study)
    if shared := sorted(seeds_that_chose(study.asked)):
        yield (
            f"{study.file}: seeds: with {', '.join(map(str, shared))} the settings in"
            f" {study.asked.chosen} were chosen, so results look better than they are; take others"
        )


def _endless_warm_ups(study: "Study") -> Iterator[str]:
    """A line for each method that never leaves its warm-up, on a data set with a model.

    One for all trials of a sweep: the file has the key for the label alone that they are of. Not
    where both numbers are constants: the authors' T_s for CIFAR-100 is for the CNN's 20,000 rounds,
    and what they had for the 10,000 of ResNet18 is unknown.
    """
    said: dict[tuple[str, str, str], tuple[float, int]] = {}
    for cell in study.cells:
        settings = study.settings(cell)
        rounds, hyper = settings.training["rounds"], {**settings.hyperparameters}
        schedule = study.algorithm(cell)[1].schedule
        T_s, ours = hyper.get("T_s", 0), study.definition(cell.algorithm)
        own = any("T_s" in given for given in ours.hyperparameters) or "rounds" in {
            **study.config.get("training", {}),
            **ours.training,
        }
        if own and T_s >= rounds and schedule(hyper, rounds - 1) != schedule(hyper, int(T_s) + 1):
            where = _key_of_warm_up(study, cell.algorithm)
            said.setdefault((cell.dataset, cell.model, where), (T_s, rounds))
    for (dataset, model, where), (T_s, rounds) in said.items():
        yield (
            f"{study.file}: {where}: {T_s}, but {dataset}/{model} trains for {rounds} rounds: the"
            " method never leaves its warm-up"
        )


def _key_of_warm_up(study: "Study", label: str) -> str:
    """Where a study says, or would say, the T_s of a label or of a trial."""
    trial, name = study.trials.get(label), ("hyperparameters", "T_s")
    if trial and study.asked.sweep and name in trial.point:
        spaces = enumerate(study.asked.sweep.search)
        i = next(i for i, space in spaces if trial.base in space.labels)
        return f"sweep.search[{i}].hyperparameters.T_s"
    return f"algorithms.{base_of(label)}.hyperparameters.T_s"
