"""How the paper writes what the configuration spells: methods, data sets, models, columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedgloss.errors import InputError
from fedgloss.study.schema.shown import Condition
from fedgloss.study.settings import is_name

if TYPE_CHECKING:
    from fedgloss.study.study import Study


@dataclass(frozen=True)
class Method:
    """A method of the paper: its display name and its key in study/constants/published.csv."""

    display: str
    client: str
    """The client optimiser that the tables group by: sgd, sam or none (centralized)."""
    published: tuple[str, str]
    """(client_opt, algorithm) in published.csv."""


METHODS = {
    "fedavg": Method("FedAvg", "sgd", ("sgd", "fedavg")),
    "fedprox": Method("FedProx", "sgd", ("sgd", "fedprox")),
    "feddyn": Method("FedDyn", "sgd", ("sgd", "feddyn")),
    "scaffold": Method("SCAFFOLD", "sgd", ("sgd", "scaffold")),
    "fedgloss-sgd": Method("FedGloSS (SGD)", "sgd", ("sgd", "fedgloss")),
    "fedopt": Method("FedOpt", "sgd", ("sgd", "fedopt")),
    "fedsam": Method("FedSAM", "sam", ("sam", "fedsam")),
    "feddyn-sam": Method("FedDyn + SAM", "sam", ("sam", "feddyn")),
    "fedspeed": Method("FedSpeed", "sam", ("sam", "fedspeed")),
    "fedgamma": Method("FedGamma", "sam", ("sam", "fedgamma")),
    "fedsmoo": Method("FedSMOO", "sam", ("sam", "fedsmoo")),
    "fedgloss": Method("FedGloSS", "sam", ("sam", "fedgloss")),
    "naivefedgloss": Method("NaiveFedGloSS", "sam", ("sam", "naivefedgloss")),
    "centralized-sgd": Method("Centralized SGD", "none", ("sgd", "centralized")),
    "centralized-sam": Method("Centralized SAM", "none", ("sam", "centralized")),
    "centralized-sam-previous": Method(
        "Centralized S~AM", "none", ("sam_previous_gradient", "centralized")
    ),
}

CLIENTS = {
    "sgd": "Client SGD",
    "sam": "Client SAM",
    "none": "Centralized",
    "other": "Other methods",
}
DATASETS = {
    "cifar10": "CIFAR-10",
    "cifar10-official-overlap": "CIFAR-10 (official overlap)",
    "cifar100": "CIFAR-100",
    "digits": "Digits",
    "landmarks-user-160k": "Landmarks-User-160K",
}
MODELS = {
    "smallcnn": "small CNN",
    "cnn": "CNN",
    "resnet18": "ResNet18",
    "mobilenetv2": "MobileNetV2",
}


def algorithm(study: "Study", label: str) -> str:
    """The display name of an algorithm's label: the study's, the paper's, or the label itself.

    A method's name with a word after it is a variant of it: fedgloss-printed, FedGloSS (printed).
    """
    if given := study.display("algorithms", label):
        return given
    if label in METHODS:
        return METHODS[label].display
    base, _, variant = label.rpartition("-")
    return f"{METHODS[base].display} ({variant})" if base in METHODS and variant else label


Shown = Callable[["Study", str], str]
"""The display name of a label."""


def check_distinct(study: "Study") -> None:
    """InputError if two labels would be shown under one name: rows could not be told apart."""
    sections: dict[Literal["algorithms", "datasets", "models"], tuple[str, Shown]] = {
        "algorithms": ("algorithm", algorithm),
        "datasets": ("dataset", dataset),
        "models": ("model", model),
    }
    for section, (field, shown) in sections.items():
        labels: dict[str, str] = {}
        for label in dict.fromkeys(getattr(cell, field) for cell in study.cells):
            name = shown(study, label)
            first = labels.setdefault(name, label)
            if first != label:
                named = label if study.display(section, label) else first
                other = first if named == label else label
                raise InputError(
                    f"{study.file}: {section}.{named}.name: {name!r} is what {other} is called in"
                    " tables and figures; give another name"
                )


def client(study: "Study", label: str) -> str:
    """The key in CLIENTS of the group that a label's row belongs to."""
    method = METHODS.get(study.definition(label).method)
    return method.client if method else "other"


def dataset(study: "Study", name: str) -> str:
    """The display name of a data set."""
    return study.display("datasets", name) or DATASETS.get(name, name)


def model(study: "Study", label: str) -> str:
    """The display name of a model."""
    return study.display("models", label) or MODELS.get(label, label)


def columns(study: "Study", conditions: Sequence[Condition]) -> list[str]:
    """The heads of columns, e.g. "CIFAR-10, α = 0", and the model where they differ in it."""
    several = len({column.model for column in conditions}) > 1
    return [
        f"{dataset(study, column.dataset)}, {alpha(column.alpha)}"
        + (f", {model(study, column.model)}" if several else "")
        for column in conditions
    ]


def every_head(study: "Study") -> dict[Condition, str]:
    """The head of each column that a study could have; with the model if there are several."""
    conditions = [*dict.fromkeys(cell.column for cell in study.cells)]
    return dict(zip(conditions, columns(study, conditions), strict=True))


def alpha(value: str) -> str:
    """How a column's head says which partition it is about."""
    if value == "iid":
        return "IID"
    return f"{value} split" if value == "natural" or is_name(value) else f"α = {value}"


def listed(words: list[str]) -> str:
    """Words as an English list: "a", "a and b", "a, b and c"; "a, x; and b" if one has a comma."""
    if any("," in word for word in words) and len(words) > 1:
        return f"{'; '.join(words[:-1])}; and {words[-1]}"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
