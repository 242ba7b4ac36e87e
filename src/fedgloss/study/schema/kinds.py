"""What all types of configuration files are made of: keys and values, and kinds of values."""

from typing import Annotated, Any, Literal, NoReturn, TypeVar

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

from fedgloss.records import TEXT, is_finite
from fedgloss.sharpness.auto import LEAST
from fedgloss.study.settings import check_alpha

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


def refuse_missing(*keys: str) -> NoReturn:
    """Of a validator: these keys, below where it is, are missing."""
    raise PydanticCustomError("missing_below", "missing", {"keys": list(keys)})


def _finite(value: Any) -> float:
    """JSON Schema has neither NaN nor infinity; Python's truth values are integers."""
    if type(value) not in (int, float) or not is_finite(value):
        raise PydanticCustomError("float_type", "must be a finite number")
    return float(value)


def _tuple(value: Any) -> tuple[Any, ...]:
    if type(value) not in (list, tuple):  # a tuple: what was validated before
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


def _none(value: Any) -> Any:
    return None if isinstance(value, Null) else value


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
Fingerprint = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", description="64 hexadecimal digits, in lower case")
]
Number = Annotated[float, BeforeValidator(_finite)]
NotNegative = Annotated[float, Field(ge=0), BeforeValidator(_finite)]
Positive = Annotated[float, Field(gt=0), BeforeValidator(_finite)]
Norm = Annotated[
    Positive | None,
    BeforeValidator(_none),
    Field(
        description="a norm, or null: nothing is clipped",
        json_schema_extra={"type": ["number", "null"]},
    ),
]
Share = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_finite)]
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
ChosenFile = Annotated[
    str, Field(min_length=1, pattern=r"^[^\x00]*$", description="a file that a sweep has written")
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
Choice = Literal["paper", "official_code"]
HessianData = Annotated[
    Annotated[Choice, Tag("one")] | Annotated[Several[Choice], Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, (list, tuple)) else "one"),
    Field(description="paper, official_code, or both: the first is reported"),
]
SampleSize = Annotated[
    Annotated[Literal["all", "auto"], Tag("by name")]
    | Annotated[int, Field(ge=LEAST, le=2**31 - 1), Tag("number")],
    Discriminator(lambda value: "by name" if isinstance(value, str) else "number"),
    Field(description="a number of images, all, or auto"),
]
Images = Annotated[
    Annotated[Literal["all", "auto"], Tag("by name")] | Annotated[Count, Tag("number")],
    Discriminator(lambda value: "by name" if isinstance(value, str) else "number"),
    Field(description="a number of images, all, or auto"),
]
Augmentation = Literal["none", "batch_aug", "image_aug"]
Records = Distinct[Literal["norms", "communication", "delta_epsilon", "consistency", "sharpness"]]
Round = Annotated[
    Annotated[int, Field(ge=1, le=2**31 - 1), Tag("from the first")]
    | Annotated[int, Field(ge=-(2**31) + 1, le=-1), Tag("from the last")],
    Discriminator(
        lambda value: "from the last" if str(value).startswith("-") else "from the first"
    ),
    Field(description="a round: 1 is the first, -1 the last but one, and so on"),
]
Rounds = Distinct[Round]
Scheme = Literal[
    "dirichlet", "dirichlet-per-class", "dirichlet-per-class-capped", "iid", "natural", "file"
]
