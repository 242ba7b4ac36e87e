"""What may stand in a study."""

from typing import Annotated, Literal

from pydantic import Field

from fedgloss.study.schema.kinds import (
    Alpha,
    Augmentation,
    ChosenFile,
    Count,
    Display,
    Fingerprint,
    Folder,
    HessianData,
    Images,
    Listed,
    MethodName,
    Model,
    ModelName,
    Name,
    Norm,
    NotNegative,
    Number,
    Positive,
    Records,
    Rounds,
    SampleSize,
    Scheme,
    Seed,
    Several,
    SplitFile,
    Text,
    Variants,
    WeightsFile,
)
from fedgloss.study.schema.shown import Figure, Table
from fedgloss.study.schema.sweep import Sweep


class Partition(Model):
    """How a data set is cut into clients."""

    scheme: Scheme
    by_alpha: dict[Alpha, Scheme] = Field(default_factory=dict)
    clients: Count | None = None
    seed: Seed = 0
    file: SplitFile | None = None
    sha256: dict[Alpha, Several[Fingerprint]] = Field(default_factory=dict)


Source = Literal["digits", "cifar10", "cifar100", "folder", "landmarks"]


class DatasetChange(Model):
    """A data set: where it comes from and how it is cut; without `source`, one that is known."""

    name: Display | None = None
    source: Source | None = None
    root: Folder | None = None
    download: bool = False
    images: Literal["clean", "official_overlap"] = "clean"
    size: Count | None = None
    partition: Partition | None = None


class Dataset(DatasetChange):
    """A data set as a whole."""

    source: Source
    partition: Partition


class Training(Model):
    """Overrides of how cells are trained."""

    rounds: Count | None = None
    clients: Count | None = None
    clients_per_round: Count | None = None
    epochs: Count | None = None
    batch_size: Count | None = None
    lr: Positive | None = None
    weight_decay: NotNegative | None = None
    clip: Norm = None
    augmentation: Augmentation | None = None
    evaluate_every: Count | None = None
    last: Count | None = None
    record: Records | None = None
    keep: Rounds | None = None


class Algorithm(Model):
    """A label of the grid: a method with settings of its own, or `like` another label's."""

    like: Name | None = None
    name: Display | None = None
    method: MethodName | None = None
    variants: Variants | None = None
    hyperparameters: dict[str, Number] = Field(default_factory=dict)
    training: Training = Training()


class LabelledModel(Model):
    """A label of the grid: a model, by default of that name, and the weights it starts from."""

    name: Display | None = None
    model: ModelName = ""
    weights: WeightsFile | None = None


class Block(Model):
    """Cells: each algorithm at each alpha."""

    dataset: Text
    alphas: Several[Alpha]
    model: ModelName
    algorithms: Several[Name]


class Trace(Model):
    """That the trace is computed, from so many products of the Hessian."""

    products: Annotated[int, Field(ge=6, le=100_000)] = 90


class Density(Model):
    """That the spectral density is computed: random starts, and steps of Lanczos from each."""

    starts: Annotated[int, Field(ge=2, le=1000)] = 10
    steps: Annotated[int, Field(ge=1, le=1000)] = 80


class Hessian(Model):
    """Which eigenvalues are computed: how many, of which model, on which data, by what method."""

    data: HessianData = "paper"
    count: Annotated[int, Field(ge=1, le=50)] = 5
    models: Several[Literal["average", "final"]] = ("average", "final")
    method: Literal["lanczos", "pyhessian", "eigsh"] = "lanczos"
    images: SampleSize = "auto"
    trace: Trace | None = None
    density: Density | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The choices of data: the one reported, then any other beside it."""
        return (self.data,) if isinstance(self.data, str) else self.data


class Landscape(Model):
    """How loss surfaces are computed, and lines: how finely, how far, over which images."""

    points: Annotated[int, Field(ge=3, le=201)] = 25
    extent: Positive = 1.0
    images: Images = "auto"


class Study(Model):
    """A study: what to run. config/README.md explains every key."""

    study: Name
    title: Text = ""
    note: Text = ""
    preset: Literal["recommended", "paper", "official"] = "recommended"
    seeds: Several[Seed]
    datasets: dict[Name, DatasetChange] = Field(default_factory=dict)
    training: Training = Training()
    precision: Literal["float32", "tf32", "tf32x3", "float16", "bfloat16"] = "float32"
    algorithms: dict[Name, Algorithm] = Field(default_factory=dict)
    chosen: ChosenFile | None = None
    models: dict[Name, LabelledModel] = Field(default_factory=dict)
    sweep: Sweep | None = None
    grid: Listed[Block]
    same_code: dict[Fingerprint, Text] = Field(default_factory=dict)
    hessian: Hessian = Hessian()
    landscape: Landscape = Landscape()
    tables: dict[Name, Table] = Field(default_factory=dict)
    figures: dict[Name, Figure] = Field(default_factory=dict)
