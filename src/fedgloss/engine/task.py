"""What is learned, and how long: the two records that every run of a process shares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from fedgloss.engine.clients import Batching, Pipeline
from fedgloss.engine.losses import Loss

Metric = Callable[[Tensor, Tensor], Tensor | float]
"""(outputs [M, ...], targets [M, ...]) of all test samples -> a number."""
COLUMNS = (
    *("round", "accuracy", "loss", "w_norm", "pseudo_gradient_norm", "delta_epsilon"),
    *("bytes_down", "bytes_up", "cosine", "sharpness_pseudo_gradient", "sharpness_gradient"),
)
"""What a row of metrics may hold by itself."""
MEASUREMENTS = ("norms", "communication", "delta_epsilon", "consistency", "sharpness")
"""What `record` may ask for."""


@dataclass(frozen=True)
class Task:
    """A model, its loss, and how stored samples become its inputs."""

    model: nn.Module
    loss: Loss
    pipeline: Pipeline | None = None
    """None: samples are inputs as they are."""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """What else is evaluated on the test set, by name."""


@dataclass(frozen=True)
class Course:
    """How many rounds, the work in each, and what is kept of them."""

    rounds: int
    batching: Batching
    evaluate_every: int = 1
    last: int = 1
    """So many rounds at the end are all evaluated, and their models averaged."""
    record: tuple[str, ...] = ()
    """The measurements at evaluated rounds."""
    keep: tuple[int, ...] = ()
    """The rounds, 1 first, after which the parameters are kept."""
    keep_history: bool = False
    """Whether to keep them after every round."""

    def evaluates(self, t: int) -> bool:
        """Whether round t (1 first) is evaluated: at the cadence, and each of the last ones."""
        return t % self.evaluate_every == 0 or t > self.rounds - self.last
