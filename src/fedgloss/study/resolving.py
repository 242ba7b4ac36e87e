"""From what a study says, and the constants of the paper, to the settings of a cell.

Each number comes from the strongest place that gives it. Weakest first: the constants for the data
source and model, those of the method there, the clients of the partition, the study's `training`,
and its `algorithms` entry (after that of the label which the entry is `like`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fedgloss import algorithms
from fedgloss.algorithms.core import Algorithm
from fedgloss.errors import InputError
from fedgloss.study import inputs
from fedgloss.study.cells import Cell
from fedgloss.study.schema import study as schema
from fedgloss.study.schema.constants import MethodConstants
from fedgloss.study.settings import Settings, Training, check_keep, check_last, one_text, round_of
from fedgloss.study.sweep import base_of

if TYPE_CHECKING:
    from fedgloss.study.study import Study

Variants = Mapping[str, str] | str
DIAGNOSTICS = ["norms", "communication"]
"""What is recorded where nothing is said: it changes no number."""


@dataclass(frozen=True)
class Definition:
    """What a study says about a label of its grid, that of the labels it is `like` included."""

    method: str
    variants: tuple[Variants | None, ...]
    """Weakest first, each laid over those before it; where the first is None, the constants' own
    come first."""
    hyperparameters: tuple[Mapping[str, float], ...]
    """Weakest first, each laid over those before it."""
    training: Mapping[str, Any]


def definition(study: "Study", label: str) -> Definition:
    """The definition of an algorithm's label; InputError if it is `like` itself."""
    entries, chain, nothing = study.asked.algorithms, [label], schema.Algorithm()
    while (base := entries.get(chain[-1], nothing).like) is not None:
        if base in chain:
            raise InputError(f"{study.file}: algorithms.{chain[-1]}.like: {base!r} is like itself")
        chain.append(base)
    method = chain[-1]
    variants: list[Variants | None] = []
    hyperparameters: list[Mapping[str, float]] = []
    training: dict[str, Any] = {}
    for entry in (entries.get(name, nothing) for name in reversed(chain)):
        method = entry.method or method
        training |= entry.training.given()
        hyperparameters.append(entry.hyperparameters)
        variants.append(entry.variants)
    return Definition(method, tuple(variants), tuple(hyperparameters), training)


def settings(study: "Study", cell: Cell) -> Settings:
    """Everything that decides a cell's numbers; InputError for what does not go together."""
    where = f"{study.file}: {cell.condition}"
    method, training = study.definition(cell.algorithm).method, training_of(study, cell)
    if training["clients_per_round"] > training["clients"]:
        raise InputError(
            f"{where}: training.clients_per_round: {training['clients_per_round']} of only"
            f" {training['clients']} clients"
        )
    try:
        check_last("training", training)
        check_keep("training", training)
        variants, algorithm = study.algorithm(cell)
        given = _hyperparameters(study, cell)
        hyperparameters = algorithms.resolve_hyperparameters(algorithm, given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    for name in ("lr", "weight_decay", "clip"):
        if name in training:
            training[name] = one_text(training[name])
    return Settings(
        dataset=cell.dataset,
        alpha=cell.alpha,
        data=content(study.datasets[cell.dataset]),
        partition=_cut(study, cell.dataset, cell.alpha),
        model=study.model(cell.model).model,
        weights=study.weights.get(cell.model),
        algorithm=cell.algorithm,
        method=method,
        variants=variants,
        hyperparameters={k: one_text(v) for k, v in hyperparameters.items()},
        training=cast(Training, training),
        precision=study.asked.precision,
        seed=cell.seed,
    )


def missing(study: "Study", cell: Cell) -> tuple[list[str], list[str]]:
    """The keys that nothing gives a cell: of `training`, and of its hyperparameters.

    InputError for a hyperparameter that the method has not: a misspelt one is not missing.
    """
    training, (_, algorithm) = training_of(study, cell), study.algorithm(cell)
    given = algorithms.known_hyperparameters(algorithm, _hyperparameters(study, cell))
    below = f"algorithms.{base_of(cell.algorithm)}.hyperparameters"
    needed = [name for name in Training.__annotations__ if name in Training.__required_keys__]
    return [f"training.{name}" for name in needed if name not in training], [
        f"{below}.{name}"
        for name, default in algorithm.hyperparameters.items()
        if default is None and name not in given
    ]


def constants_key(study: "Study", dataset: str, model: str) -> str:
    """Where methods.yaml has the constants for a data set and model, if it has any."""
    return f"{study.datasets[dataset].source}/{study.model(model).model}"


def training_of(study: "Study", cell: Cell) -> dict[str, Any]:
    """The training settings that are given for a cell; what is null in the end is not given."""
    ours, split = study.definition(cell.algorithm), study.splits.get((cell.dataset, cell.alpha))
    clients = study.datasets[cell.dataset].partition.clients
    known = study.methods.settings.get(constants_key(study, cell.dataset, cell.model))
    of_method = _of_method(study, cell.dataset, cell.model, cell.algorithm)
    training: dict[str, Any] = {"record": DIAGNOSTICS}
    training |= {"clients": split.clients} if split else {}
    training |= known.training.at(cell.alpha) if known else {}
    training |= of_method.training.at(cell.alpha)
    training |= {"clients": clients} if clients else {}
    training |= study.asked.training.given()
    training |= ours.training
    training = {key: value for key, value in training.items() if value is not None}
    keep = sorted({round_of(t, training) for t in training.pop("keep", ())})
    training |= {"keep": keep} if keep else {}
    return {**training, "record": [*training["record"]]}


def algorithm(
    study: "Study", dataset: str, model: str, label: str
) -> tuple[dict[str, str], Algorithm]:
    """The variants of a label's method on a data set and model, and the method that they make."""
    ours, known = study.definition(label), _of_method(study, dataset, model, label)
    variants = algorithms.resolve_variants(ours.method, study.asked.preset)
    first, *others = ours.variants
    for chosen in (known.variants if first is None else first, *others):
        if isinstance(chosen, str):
            variants = algorithms.resolve_variants(ours.method, chosen)
        elif chosen:
            algorithms.resolve_variants(ours.method, chosen)  # refuses what the method has not
            variants |= chosen
    return variants, algorithms.build_algorithm(ours.method, variants)


def partition(study: "Study", dataset: str, alpha: str) -> dict[str, Any]:
    """The arguments of a data set's partition at an alpha; it has the clients that are trained."""
    arguments = inputs.partition_arguments(study.datasets[dataset], alpha)
    if arguments["scheme"] not in ("file", "natural") and "clients" not in arguments:
        cell = study.select(dataset=dataset, alpha=alpha)[0]
        arguments["clients"] = training_of(study, cell)["clients"]
    if study.asked.sweep:
        arguments["held_out"] = study.asked.sweep.held_out.model_dump()
    return arguments


def _hyperparameters(study: "Study", cell: Cell) -> dict[str, float]:
    """The hyperparameters that are given for a cell."""
    of_method = _of_method(study, cell.dataset, cell.model, cell.algorithm)
    known = {name: entry.at(cell.alpha) for name, entry in of_method.hyperparameters.items()}
    reciprocals = study.algorithm(cell)[1].reciprocals
    aliases = {**reciprocals, **{theirs: ours for ours, theirs in reciprocals.items()}}
    for stronger in study.definition(cell.algorithm).hyperparameters:
        # A `beta` replaces a weaker `alpha`.
        kept = {key: value for key, value in known.items() if aliases.get(key) not in stronger}
        known = {**kept, **stronger}
    return known


def _of_method(study: "Study", dataset: str, model: str, label: str) -> MethodConstants:
    """The constants of a label's method; a data set or model of one's own has none."""
    known = study.methods.settings.get(constants_key(study, dataset, model))
    method = study.definition(label).method
    found = known.algorithms.get(method) if known else None
    return found or MethodConstants()


def content(definition: schema.Dataset) -> dict[str, Any]:
    """What decides a data set's content, wherever its originals lie."""
    return {
        "source": definition.source,
        "images": definition.images,
        "size": definition.size,
    }


def _cut(study: "Study", dataset: str, alpha: str) -> dict[str, Any]:
    """What decides a partition, wherever its file lies."""
    arguments = partition(study, dataset, alpha)
    drawn = arguments["scheme"] not in ("file", "natural")
    keys = ("scheme", "clients", "seed") if drawn else ("scheme",)
    cut = {key: arguments[key] for key in keys}
    if arguments["scheme"] == "file":
        cut["sha256"] = [*study.splits[dataset, alpha].sha256]
    if "held_out" in arguments:
        cut["held_out"] = arguments["held_out"]
    return cut
