"""What may stand in `tables` and `figures`: a class for each kind, with what it is made from.

A new kind is a class here, and one of `Table` or `Figure`; how it is made is in `KINDS` of
report/tables.py or report/figures.py.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedgloss.study.schema.kinds import (
    Alpha,
    Count,
    Model,
    Name,
    Positive,
    Round,
    Seed,
    Several,
    Text,
)

CellFile = Literal["metrics", "hessian", "locals"]
"""A file that a job makes for a cell, as study/layout.py calls it."""


Place = Literal[
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
    "table6",
    "table7",
    "table8",
    "figure1",
    "figure2",
    "figure4",
    "figure5",
    "figure6",
    "figure7",
    "figure8",
    "figure9",
    "appendix",
    "claims",
]
"""What of the paper a table or figure is; Figure 3 is a sketch."""


Estimate = Literal["trace", "density"]
"""What is computed of a Hessian where a study asks for it."""


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

    title: Text = ""
    paper: Place | None = None
    columns: Several[Condition] = ()
    rows: Several[Name] = ()

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """The files of each of its cells that it is made from, beside the manifest."""
        return ("metrics",)

    @property
    def baseline(self) -> str | None:
        """The method whose cells are needed in every column, be it a row or not."""
        return None

    @property
    def record(self) -> str | None:
        """What training must have recorded for it."""
        return None

    @property
    def estimate(self) -> Estimate | None:
        """What the section `hessian` must ask for beside eigenvalues."""
        return None

    @property
    def one_seed(self) -> int | None:
        """The seed that it is of; None if it is of all."""
        return getattr(self, "seed", None)


AGAINST = {
    "fedavg": ("rounds", "cost"),
    "fedgloss": ("rounds_to_fedgloss", "cost_vs_fedgloss"),
}
"""What counts rounds and bytes until a method's accuracy: the paper's Table 6, and 6.4.1."""


class MethodsTable(Shown):
    """Methods against columns, beside the published numbers."""

    kind: Literal["methods"]
    show: Several[
        Literal[
            "accuracy",
            "accuracy_gain",
            "accuracy_at_half",
            "lambda1",
            "lambda1_official",
            "trace",
            "lambda1_share",
        ]
    ] = ("accuracy",)

    @property
    def baseline(self) -> str | None:
        """Above whose accuracy a gain is."""
        return "fedavg" if "accuracy_gain" in self.show else None

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it shows of each column."""
        return self.show

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """With eigenvalues, if it shows them."""
        sharp = {"lambda1", "lambda1_official", "trace", "lambda1_share"}.intersection(self.show)
        return ("metrics", "hessian") if sharp else ("metrics",)

    @property
    def estimate(self) -> Estimate | None:
        """The trace, if it or a share of it is shown."""
        return "trace" if {"trace", "lambda1_share"}.intersection(self.show) else None


class CommunicationTable(Shown):
    """Rounds and bytes until the accuracy of one method is reached."""

    kind: Literal["communication"]
    against: Literal["fedavg", "fedgloss"] = "fedavg"

    @property
    def baseline(self) -> str | None:
        """Whose accuracy is to be reached."""
        return self.against

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it shows of each column."""
        return AGAINST[self.against]


class CostsTable(Shown):
    """What a method sends in a round and computes in a step, counted in its runs."""

    kind: Literal["costs"]

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it shows of each column."""
        return ("communication_cost", "gradients")


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
        "cosine": "consistency",
        "sharpness_pseudo_gradient": "sharpness",
        "sharpness_gradient": "sharpness",
    }
    """What must be recorded in training for some metrics."""
    kind: Literal["curves"]
    metric: Literal[
        "accuracy",
        "loss",
        "w_norm",
        "pseudo_gradient_norm",
        "delta_epsilon",
        "cosine",
        "sharpness_pseudo_gradient",
        "sharpness_gradient",
    ] = "accuracy"
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


class DensityFigure(Shown):
    """How the eigenvalues of each method's Hessian are distributed, with one seed."""

    kind: Literal["density"]
    seed: Seed

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """The Hessian alone."""
        return ("hessian",)

    @property
    def estimate(self) -> Estimate | None:
        """The spectral density."""
        return "density"


class GainFigure(Shown):
    """Accuracy gained over FedAvg against communication."""

    kind: Literal["gain"]

    @property
    def baseline(self) -> str | None:
        """Above whose accuracy a gain is."""
        return "fedavg"

    @property
    def record(self) -> str | None:
        """The bytes exchanged so far."""
        return "communication"


class FlatnessFigure(Shown):
    """Accuracy against a measure of flatness, and how they correlate."""

    kind: Literal["flatness"]
    measure: Literal["lambda1", "sharpness_gradient"] = "lambda1"

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """Eigenvalues, or what was recorded on the way."""
        return ("hessian",) if self.measure == "lambda1" else ("metrics",)

    @property
    def record(self) -> str | None:
        """What training must have recorded for its measure."""
        return None if self.measure == "lambda1" else "sharpness"


class ClassesFigure(Shown):
    """The final model's accuracy on each class."""

    kind: Literal["classes"]

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """The manifest has it."""
        return ()


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
    between: Literal["seeds", "methods", "models", "rounds"]
    round: Round | None = None
    seed: Seed | None = None

    @property
    def sources(self) -> tuple[CellFile, ...]:
        """None but what study/views.py names."""
        return ()


class SweepTable(Shown):
    """The trials of a sweep, label by label, and which was chosen."""

    kind: Literal["sweep"]


class SweepFigure(Shown):
    """How accuracy on held-out images follows the settings that were searched."""

    kind: Literal["sweep"]


TableOfMethods = MethodsTable | CommunicationTable | CostsTable
"""Whose rows are methods, and whose columns are conditions."""
Table = Annotated[
    TableOfMethods | LocalsTable | ClaimsTable | SweepTable, Field(discriminator="kind")
]
Figure = Annotated[
    CurvesFigure
    | EigenvaluesFigure
    | DensityFigure
    | GainFigure
    | FlatnessFigure
    | ClassesFigure
    | LandscapeFigure
    | LinesFigure
    | SweepFigure,
    Field(discriminator="kind"),
]
