"""What may stand in a study's `sweep`: which settings are searched, how, and on which images."""

from math import prod
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from fedgloss.errors import InputError
from fedgloss.study.schema.kinds import (
    Count,
    Listed,
    Model,
    Name,
    Number,
    Seed,
    Several,
    Share,
    Text,
)

MOST = 10_000
"""No label is given more trials."""


class Range(Model):
    """From where to where numbers are drawn: evenly, or evenly in their logarithm; whole ones."""

    low: Number
    high: Number
    log: bool = False
    integer: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> "Range":
        if not self.low < self.high:
            raise InputError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise InputError(f"low {self.low:g} has no logarithm; log takes numbers above 0")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise InputError("low and high must be integers, as integer is true")
        return self


Axis = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Several[Number], Tag("list")],
    Discriminator(lambda value: "range" if isinstance(value, (dict, Range)) else "list"),
    Field(description="a list of numbers, or {low, high} with log: true or integer: true"),
]
"""Along what a setting is searched."""


class SearchedTraining(Model):
    """The training settings that may be searched: those that are numbers, but for the length."""

    lr: Axis | None = None
    weight_decay: Axis | None = None
    clip: Axis | None = None
    epochs: Axis | None = None
    batch_size: Axis | None = None
    clients_per_round: Axis | None = None


class Space(Model):
    """What is searched for some labels, for each of them by itself."""

    labels: Several[Name]
    training: SearchedTraining = SearchedTraining()
    hyperparameters: dict[str, Axis] = Field(default_factory=dict)
    variants: dict[str, Several[Text]] = Field(default_factory=dict)

    def axes(self) -> dict[tuple[str, str], Range | tuple[Any, ...]]:
        """What is searched, by section and name."""
        training = {name: getattr(self.training, name) for name in self.training.given()}
        sections = {
            "training": training,
            "hyperparameters": self.hyperparameters,
            "variants": self.variants,
        }
        return {(section, key): own[key] for section, own in sections.items() for key in own}

    @model_validator(mode="after")
    def _searches_something(self) -> "Space":
        names = [name for _, name in self.axes()]
        if not names:
            raise InputError("searches nothing; give training, hyperparameters or variants")
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{name} is given in two sections")
        lists = [axis for axis in self.axes().values() if not isinstance(axis, Range)]
        if (count := prod(map(len, lists))) > MOST:
            raise InputError(f"{count:,} combinations; allowed: {MOST:,}")
        return self


class HeldOut(Model):
    """Which of every client's training images it does not train on: a trial is tested on them."""

    share: Share
    seed: Seed = 0


class Halving(Model):
    """That not every trial is trained to its end: after each rung, the best part goes on."""

    keep: Annotated[
        str, Field(pattern=r"^1/[1-9][0-9]{0,3}$", description="the part that goes on, as 1/3")
    ]
    rounds: Several[Count] = ()
    seeds: Several[Count] = ()

    @property
    def rungs(self) -> tuple[int, ...]:
        """After how many rounds, or seeds, the best go on; smallest first."""
        return self.rounds or self.seeds

    def kept(self, trials: int) -> int:
        """How many of so many trials go on: their part, rounded up."""
        return -(-trials // int(self.keep.partition("/")[2]))

    @model_validator(mode="after")
    def _has_rungs(self) -> "Halving":
        if bool(self.rounds) == bool(self.seeds):
            raise InputError(
                "must have rounds or seeds, one of them: after how many the best go on"
            )
        if [*self.rungs] != sorted(self.rungs):
            raise InputError("rungs must be given smallest first")
        return self


class Sweep(Model):
    """A search: its space, its budget, what the trials are tested on, and who wins."""

    held_out: HeldOut
    choose: Literal["best-mean"]
    trials: Annotated[int, Field(ge=1, le=MOST)] | None = None
    seed: Seed = 0
    halving: Halving | None = None
    search: Listed[Space]
