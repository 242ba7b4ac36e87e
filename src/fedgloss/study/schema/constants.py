"""What may stand in methods.yaml: the constants of the paper, each with its source."""

from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, Field, model_validator

from fedgloss.study.schema.kinds import (
    Alpha,
    Augmentation,
    Count,
    Model,
    NotNegative,
    Records,
    Text,
    Variants,
    refuse_missing,
)
from fedgloss.study.schema.study import Dataset

T = TypeVar("T")


class Entry(Model, Generic[T]):
    """A constant with its source, and its other values at some alphas."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"source": {"const": "unknown"}}},
            "then": {"required": ["why"]},
        }
    )
    value: T
    by_alpha: dict[Alpha, T] = Field(default_factory=dict)
    source: Text
    why: Text | None = None

    @model_validator(mode="after")
    def _explained(self) -> "Entry[T]":
        if self.source == "unknown" and self.why is None:
            refuse_missing("why")
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
    hyperparameters: dict[str, Entry[NotNegative]] = Field(default_factory=dict)


class Constants(Model):
    """Constants for one data source and model."""

    training: TrainingConstants
    algorithms: dict[str, MethodConstants]

    @model_validator(mode="after")
    def _whole(self) -> "Constants":
        fields = TrainingConstants.model_fields
        if missing := [key for key in fields if getattr(self.training, key) is None]:
            refuse_missing(*(f"training.{key}" for key in missing))
        return self


class Methods(Model):
    """The constants of the paper with their sources."""

    sources: dict[str, Text]
    datasets: dict[str, Dataset]
    settings: dict[str, Constants]
