"""What may stand in resources.yaml: what jobs need, and how that is known."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from fedgloss.study.schema.kinds import (
    Factor,
    Model,
    NotNegative,
    Positive,
    Size,
    Text,
    refuse_missing,
)


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
            refuse_missing(key)
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
    half: Annotated[float, Field(gt=0, le=1)] = 1
    """The share of `seconds` that it takes with float16 or bfloat16 operands."""
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

    images: Annotated[int, Field(ge=1)]
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
            refuse_missing(*(f"{key}.default" for key in missing))
        return self
