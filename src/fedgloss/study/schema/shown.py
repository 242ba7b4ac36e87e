"""What may stand in `tables` and `figures`: a class for each kind, with what it is made from.

A new kind is a class here, and one of `Table` or `Figure`; how it is made is in `KINDS` of
report/tables.py or report/figures.py.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedgloss.study.schema.kinds import Alpha, Count, Model, Name, Positive, Seed, Several, Text

CellFile = Literal["metrics", "hessian", "locals"]
"""A file that a job makes for a cell, as study/layout.py calls it."""


class Condition(Model):
    """A column of a table, or a panel of a figure."""

    dataset: Text
    alpha: Alpha
    model: Text

    def __str__(self) -> str:
        """As messages name it, e.g. digits/0/smallcnn."""
        return f"{self.dataset}/{self.alpha}/{self.model}"


class Shown(Model):
    """What is left out is filled in by a study: the name for a title, the whole grid."""

    against_fedavg: ClassVar[bool] = False
    """Whether FedAvg's cells are needed in every column, be it a row or not."""
    title: Text = ""
    columns: Several[Condition] = ()
    rows: Several[Name] = ()

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """The files of each of its cells that it is made from, beside the manifest."""
        return ("metrics",)

    @property
    def one_seed(self) -> int | None:
        """The seed that it is of; None if it is of all."""
        return getattr(self, "seed", None)


class MethodsTable(Shown):
    """Methods against columns, beside the published numbers."""

    kind: Literal["methods"]
    show: Several[Literal["accuracy", "accuracy_at_half", "lambda1", "lambda1_official"]] = (
        "accuracy",
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it shows of each column."""
        return self.show

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """With eigenvalues, if it shows them."""
        sharp = {"lambda1", "lambda1_official"}.intersection(self.show)
        return ("metrics", "hessian") if sharp else ("metrics",)


class CommunicationTable(Shown):
    """Rounds and bytes until FedAvg's accuracy is reached."""

    against_fedavg: ClassVar[bool] = True
    kind: Literal["communication"]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it shows of each column."""
        return ("rounds", "cost")


class LocalsTable(Shown):
    """The largest Hessian eigenvalue of the last round's local models, as the paper's Table 1."""

    kind: Literal["locals"]

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """The local models' eigenvalues alone."""
        return ("locals",)


class ClaimsTable(Shown):
    """Which of the paper's claims hold: of the cells that some claim is about."""

    kind: Literal["claims"]

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """Metrics; a study adds the eigenvalues that a claim compares."""
        return ("metrics",)


class CurvesFigure(Shown):
    """A quantity over the rounds."""

    RECORDED: ClassVar = {
        "w_norm": "norms",
        "pseudo_gradient_norm": "norms",
        "delta_epsilon": "delta_epsilon",
    }
    """What must be recorded in training for some metrics."""
    kind: Literal["curves"]
    metric: Literal["accuracy", "loss", "w_norm", "pseudo_gradient_norm", "delta_epsilon"] = (
        "accuracy"
    )
    seed: Seed | None = None

    @property
    def record(self) -> str | None:
        """What training must have recorded for its metric."""
        return self.RECORDED.get(self.metric)


class EigenvaluesFigure(Shown):
    """The largest Hessian eigenvalue of each method."""

    kind: Literal["eigenvalues"]
    seed: Seed | None = None

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """Eigenvalues alone."""
        return ("hessian",)


class LandscapeFigure(Shown):
    """Loss surfaces of one seed: in each column, or around participants' local models."""

    kind: Literal["landscape"]
    seed: Seed
    extent: Positive | None = None
    participants: Several[Count] = ()

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """None but what study/views.py names."""
        return ()


class LinesFigure(Shown):
    """Loss and accuracy on straight lines between the models of each row."""

    kind: Literal["lines"]
    between: Literal["seeds", "methods", "models"]
    seed: Seed | None = None

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """None but what study/views.py names."""
        return ()


TableOfMethods = MethodsTable | CommunicationTable
"""Whose rows are methods, and whose columns are conditions."""
Table = Annotated[TableOfMethods | LocalsTable | ClaimsTable, Field(discriminator="kind")]
Figure = Annotated[
    CurvesFigure | EigenvaluesFigure | LandscapeFigure | LinesFigure, Field(discriminator="kind")
]
