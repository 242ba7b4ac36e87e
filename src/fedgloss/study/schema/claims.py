"""What may stand in claims.yaml: the paper's sentences that can turn out to be wrong."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from fedgloss.study.schema.kinds import (
    Alpha,
    Listed,
    Model,
    Name,
    NotNegative,
    Positive,
    Several,
    Text,
)
from fedgloss.study.schema.shown import Condition

Metric = Literal[
    "accuracy",
    "accuracy_at_half",
    "lambda1",
    "lambda1_local",
    "lambda1_global",
    "communication_cost",
    "rounds",
    "cost",
    "delta_epsilon",
    "w_norm",
]


class Side(Model):
    """A method, and what of the condition or of the metric is another for it."""

    algorithm: Name
    dataset: Name | None = None
    alpha: Alpha | None = None
    model: Name | None = None
    metric: Metric | None = None

    def at(self, place: Condition) -> Condition:
        """The condition of this side where the claim's is `place`."""
        own = {key: getattr(self, key) for key in Condition.model_fields}
        return place.model_copy(update={key: value for key, value in own.items() if value})


class Claim(Model):
    """A sentence of the paper and the comparison that decides it."""

    model_config = ConfigDict(populate_by_name=True)
    id: Name
    where: Text
    quote: Text
    places: Listed[Condition] = Field(alias="in")
    metric: Metric | None = None
    more: Listed[Side] = ()
    less: Listed[Side] = ()
    by: Positive | None = None
    least: Positive | None = None
    times: Positive | None = None
    same: Literal[True] | None = None
    margin: NotNegative = 0.0
    diverges: Several[Name] | None = None

    @model_validator(mode="after")
    def _one_comparison(self) -> "Claim":
        sides = bool(self.more) and bool(self.less) and self.metric is not None
        sizes = [key for key in ("by", "least", "times", "same") if getattr(self, key)]
        if sides == (self.diverges is not None) or len(sizes) > 1 or (sizes and not sides):
            raise PydanticCustomError(
                "comparison",
                "must compare a metric of `more` and `less`, with at most one of by, least, times"
                " and same, or say what diverges",
            )
        return self


class Claims(Model):
    """The claims of the paper, in its order."""

    claims: Listed[Claim]
