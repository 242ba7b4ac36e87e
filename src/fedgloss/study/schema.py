"""What may stand in a study, in methods.yaml and in resources.yaml, and what holds if it does not.

Each file is checked against these types once, when it is read (`configuration.validate`). The JSON
schemas by which editors complete keys are written from them: `python -m fedgloss.study.schema`.
"""

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from fedgloss.files import write_text
from fedgloss.records import TEXT, is_finite
from fedgloss.study.settings import check_alpha

SCHEMAS = Path(__file__).parent / "schemas"
T = TypeVar("T")


class Null:
    """Stands for a key's null, which is of no kind: a key without a value has not been left out."""


class Model(BaseModel):
    """Keys and values: no key but these, values of exactly these kinds, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _keep_nulls(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {key: Null() if value is None else value for key, value in given.items()}
        return given

    def given(self) -> dict[str, Any]:
        """The keys that were given, and their values, without defaults."""
        return self.model_dump(exclude_unset=True)


def _refuse_missing(*keys: str) -> NoReturn:
    raise PydanticCustomError("missing_below", "missing", {"keys": list(keys)})


def _finite(value: Any) -> float:
    """JSON Schema has neither NaN nor infinity; Python's truth values are integers."""
    if type(value) not in (int, float) or not is_finite(value):
        raise PydanticCustomError("float_type", "must be a finite number")
    return float(value)


def _tuple(value: Any) -> tuple[Any, ...]:
    if type(value) is not list:
        raise PydanticCustomError("list_type", "must be a list")
    return tuple(value)


def _entries(value: Any) -> tuple[Any, ...]:
    """At least one, whether right or wrong: pydantic itself would count those that are right."""
    if not _tuple(value):
        raise PydanticCustomError("too_short", "must have an entry", {"min_length": 1})
    return tuple(value)


def _distinct(value: tuple[T, ...]) -> tuple[T, ...]:
    if len({*value}) < len(value):
        raise PydanticCustomError("repeated", "must have no entry twice")
    return value


def _text(value: str) -> str:
    if not TEXT.fits(value):  # half a character, which no file can hold
        raise PydanticCustomError("string_unicode", "must be text")
    return value


def _alpha(value: str) -> str:
    check_alpha(value)
    return value


# Kinds of values. A description is what a refusal says in brackets.

Listed = Annotated[
    tuple[T, ...], BeforeValidator(_entries), Field(json_schema_extra={"minItems": 1})
]
Distinct = Annotated[
    tuple[T, ...],
    BeforeValidator(_tuple),
    AfterValidator(_distinct),
    Field(json_schema_extra={"uniqueItems": True}),
]
Several = Annotated[
    tuple[T, ...],
    BeforeValidator(_entries),
    AfterValidator(_distinct),
    Field(json_schema_extra={"minItems": 1, "uniqueItems": True}),
]
Text = Annotated[str, AfterValidator(_text)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Size = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Number = Annotated[float, BeforeValidator(_finite)]
NotNegative = Annotated[float, Field(ge=0), BeforeValidator(_finite)]
Positive = Annotated[float, Field(gt=0), BeforeValidator(_finite)]
Factor = Annotated[float, Field(ge=1), BeforeValidator(_finite)]
Alpha = Annotated[
    str,
    AfterValidator(_alpha),
    Field(description='alpha is text: write "0", "0.05", "iid", "natural", or a split\'s name'),
]
Name = Annotated[
    str,
    Field(
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="letters, digits, '.', '_' and '-', beginning with a letter or digit",
    ),
]
Display = Annotated[
    str,
    Field(
        max_length=60,
        pattern=r"^[^\x00-\x1f\x7f|`]*[^\x00-\x20\x7f|`][^\x00-\x1f\x7f|`]*$",
        description="how tables and figures call it: one line, without | and `",
    ),
]
ModelName = Annotated[
    str,
    Field(
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$",
        description="a model's name, or package.module:function",
    ),
]
MethodName = Annotated[
    str,
    Field(
        max_length=200,
        pattern=r"^[A-Za-z0-9_.-]+(:[A-Za-z0-9_]+)?$",
        description="a method's name, or package.module:function",
    ),
]
Folder = Annotated[
    str,
    Field(min_length=1, pattern=r"^[^\x00]*$", description="folder with the original files"),
]
SplitFile = Annotated[
    str,
    Field(
        min_length=1,
        pattern=r"^[^\x00{}<>]*$",
        description="file: the split to import, or the folder of the authors' splits; Snakemake"
        " does not take { } < > in the path of an input",
    ),
]
WeightsFile = Annotated[
    str,
    Field(
        min_length=1,
        pattern=r"^[^{}<>]*$",
        description="a safetensors file; Snakemake does not take { } < > in the path of an input",
    ),
]
Variants = Annotated[
    Annotated[dict[str, Text], Tag("by name")] | Annotated[Text, Tag("combination")],
    Discriminator(lambda value: "combination" if isinstance(value, str) else "by name"),
    Field(description="variants by name, or the name of a combination"),
]
Augmentation = Literal["none", "batch_aug", "image_aug"]
Records = Distinct[Literal["norms", "communication", "delta_epsilon"]]
Scheme = Literal[
    "dirichlet", "dirichlet-per-class", "dirichlet-per-class-capped", "iid", "natural", "file"
]


# A study


class Partition(Model):
    """How a data set is cut into clients."""

    scheme: Scheme
    by_alpha: dict[Alpha, Scheme] = {}
    clients: Count | None = None
    seed: Seed | None = None
    file: SplitFile | None = None


class Dataset(Model):
    """A data set: where it comes from and how it is cut; without `source`, one that is known."""

    name: Display | None = None
    source: Literal["digits", "cifar10", "cifar100", "folder", "landmarks"] | None = None
    root: Folder | None = None
    download: bool | None = None
    images: Literal["clean", "official_overlap"] | None = None
    size: Count | None = None
    partition: Partition | None = None


class Training(Model):
    """Overrides of how cells are trained."""

    rounds: Count | None = None
    clients: Count | None = None
    clients_per_round: Count | None = None
    epochs: Count | None = None
    batch_size: Count | None = None
    lr: Positive | None = None
    weight_decay: NotNegative | None = None
    augmentation: Augmentation | None = None
    evaluate_every: Count | None = None
    last: Count | None = None
    record: Records | None = None


class Algorithm(Model):
    """A label of the grid: a method with settings of its own, or `like` another label's."""

    like: Name | None = None
    name: Display | None = None
    method: MethodName | None = None
    variants: Variants | None = None
    hyperparameters: dict[str, Number] = {}
    training: Training = Training()


class LabelledModel(Model):
    """A label of the grid: a model, and the weights that it starts from."""

    name: Display | None = None
    model: ModelName | None = None
    weights: WeightsFile | None = None


class Block(Model):
    """Cells: each algorithm at each alpha."""

    dataset: Text
    alphas: Several[Alpha]
    model: ModelName
    algorithms: Several[Name]


class Hessian(Model):
    """Which eigenvalues are computed: how many, of which model, on which data."""

    data: Literal["paper", "official_code"] = "paper"
    count: Annotated[int, Field(ge=1, le=50)] = 5
    models: Several[Literal["average", "final"]] = ("average", "final")


class Landscape(Model):
    """The square over which a loss surface is computed."""

    points: Annotated[int, Field(ge=3, le=201)] = 21
    extent: Positive = 1.0


class Condition(Model):
    """A column of a table, or a panel of a figure."""

    dataset: Text
    alpha: Alpha
    model: Text


class Table(Model):
    """A table; without columns or rows, of the whole grid."""

    kind: Literal["methods", "communication"]
    title: Text | None = None
    columns: Several[Condition] | None = None
    rows: Several[Name] | None = None
    show: Several[Literal["accuracy", "accuracy_at_half", "lambda1"]] | None = None


class Figure(Model):
    """A figure; without columns or rows, of the whole grid."""

    kind: Literal["curves", "eigenvalues", "landscape"]
    title: Text | None = None
    metric: (
        Literal["accuracy", "loss", "w_norm", "pseudo_gradient_norm", "delta_epsilon"] | None
    ) = None
    seed: Seed | None = None
    columns: Several[Condition] | None = None
    rows: Several[Name] | None = None


class Study(Model):
    """A study: what to run. config/README.md explains every key."""

    study: Annotated[Name, Field(description="the study's name: letters, digits, '.', '_', '-'")]
    title: Text | None = None
    note: Text | None = None
    preset: Literal["recommended", "paper", "official"] = "recommended"
    seeds: Several[Seed]
    datasets: dict[Name, Dataset] = {}
    training: Training = Training()
    precision: Literal["float32", "tf32", "tf32x3", "float16", "bfloat16"] = "float32"
    algorithms: dict[Name, Algorithm] = {}
    models: dict[Name, LabelledModel] = {}
    grid: Listed[Block]
    hessian: Hessian = Hessian()
    landscape: Landscape = Landscape()
    tables: dict[Name, Table] = {}
    figures: dict[Name, Figure] = {}


# The constants of the paper: methods.yaml


class Entry(Model, Generic[T]):
    """A constant with its source, and its other values at some alphas."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"source": {"const": "unknown"}}},
            "then": {"required": ["why"]},
        }
    )
    value: T
    by_alpha: dict[Alpha, T] = {}
    source: Text
    why: Text | None = None

    @model_validator(mode="after")
    def _explained(self) -> "Entry[T]":
        if self.source == "unknown" and self.why is None:
            _refuse_missing("why")
        return self

    def at(self, alpha: str) -> T:
        """The value at an alpha."""
        return self.by_alpha.get(alpha, self.value)


class TrainingConstants(Model):
    """Constants of training, in the order in which settings have them."""

    rounds: Entry[Count] | None = None
    clients: Entry[Count] | None = None
    clients_per_round: Entry[Count] | None = None
    epochs: Entry[Count] | None = None
    batch_size: Entry[Count] | None = None
    lr: Entry[NotNegative] | None = None
    weight_decay: Entry[NotNegative] | None = None
    augmentation: Entry[Augmentation] | None = None
    evaluate_every: Entry[Count] | None = None
    last: Entry[Count] | None = None
    record: Entry[Records] | None = None

    def at(self, alpha: str) -> dict[str, Any]:
        """The values at an alpha, of the constants that there are."""
        entries = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: entry.at(alpha) for name, entry in entries.items() if entry is not None}


class MethodConstants(Model):
    """Constants of a method on one data source and model."""

    training: TrainingConstants = TrainingConstants()
    variants: Variants | None = None
    hyperparameters: dict[str, Entry[NotNegative]] = {}


class Constants(Model):
    """Constants for one data source and model."""

    training: TrainingConstants
    algorithms: dict[str, MethodConstants]

    @model_validator(mode="after")
    def _whole(self) -> "Constants":
        fields = TrainingConstants.model_fields
        if missing := [key for key in fields if getattr(self.training, key) is None]:
            _refuse_missing(*(f"training.{key}" for key in missing))
        return self


class KnownDataset(Dataset):
    """A data set that all studies know."""

    source: Literal["digits", "cifar10", "cifar100", "folder", "landmarks"]
    partition: Partition


class Methods(Model):
    """The constants of the paper with their sources."""

    sources: dict[str, Text]
    datasets: dict[str, KnownDataset]
    settings: dict[str, Constants]


# What jobs need: resources.yaml


class Margin(Model):
    """How much longer than estimated a job may take, by how the estimate is known."""

    measured: Factor
    guessed: Factor


class Limits(Model):
    """From an estimate to a limit for the cluster."""

    margin: Margin
    start_seconds: NotNegative
    growth: Factor
    longest_minutes: Annotated[int, Field(ge=1)]


class Known(Model):
    """How a number is known: measured somewhere, or guessed for a reason."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"basis": {"const": "measured"}}},
            "then": {"required": ["where"]},
            "else": {"required": ["why"]},
        }
    )
    NEEDED: ClassVar = {"measured": "where", "guessed": "why"}
    basis: Literal["measured", "guessed"]
    where: Text | None = None
    why: Text | None = None

    @model_validator(mode="after")
    def _explained(self) -> "Known":
        if getattr(self, key := self.NEEDED[self.basis]) is None:
            _refuse_missing(key)
        return self


class TrainingOnCpu(Known):
    """The same work on one core of a processor: seconds for a participant's epoch."""

    seconds: Positive


class TrainingNeed(Known):
    """What training takes: seconds for a participant's epoch, GPUs, and MiB of memory."""

    seconds: Positive
    gpu: Size
    mem_mb: Annotated[int, Field(ge=1)]
    cell_mb: Size
    cpu: TrainingOnCpu | None = None


class Optimisers(Model):
    """By the clients' optimiser: one gradient a step, or two."""

    sgd: TrainingNeed
    sam: TrainingNeed


class AnalysisOnCpu(Known):
    """The same work on one core of a processor."""

    hessian: Positive
    landscape: Positive


class AnalysisNeed(Known):
    """What analyses take: seconds for a model's eigenvalues, for a surface's point; GPUs, MiB."""

    hessian: Positive
    landscape: Positive
    gpu: Size
    mem_mb: Annotated[int, Field(ge=1)]
    cpu: AnalysisOnCpu | None = None


class Resources(Model):
    """What jobs need: time, memory, a GPU; and how that is known."""

    limits: Limits
    training: dict[str, Optimisers]
    analysis: dict[str, AnalysisNeed]

    @model_validator(mode="after")
    def _with_defaults(self) -> "Resources":
        sections: dict[str, Any] = {"training": self.training, "analysis": self.analysis}
        if missing := [key for key, rows in sections.items() if "default" not in rows]:
            _refuse_missing(*(f"{key}.default" for key in missing))
        return self


# The JSON schemas for editors


def json_schemas() -> dict[str, str]:
    """The text of each JSON schema by the name of its file."""
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        """Without titles that repeat the keys, and without null for a key that is left out."""

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

        def nullable_schema(self, schema: Any) -> dict[str, Any]:
            return self.generate_inner(schema["schema"])

        def default_schema(self, schema: Any) -> dict[str, Any]:
            if isinstance(schema.get("default"), (str, int, float, tuple)):
                return super().default_schema(schema)
            return self.generate_inner(schema["schema"])

    found = {}
    for kind in (Study, Methods, Resources):
        schema = {"$schema": Generator.schema_dialect}
        schema |= kind.model_json_schema(schema_generator=Generator)
        found[f"{kind.__name__.lower()}.schema.json"] = f"{json.dumps(schema, indent=1)}\n"
    return found


if __name__ == "__main__":
    for name, text in json_schemas().items():
        write_text(SCHEMAS / name, text)
