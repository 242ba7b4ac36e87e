"""Seeing a run: a bar on a terminal, a plain line now and then in a log, TensorBoard on request."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from fedgloss.errors import InputError


class Progress:
    """Reports rounds per second, images per second, the last accuracy, and the time left.

    unit: what is counted, where it is not rounds: points of a surface, for example.
    """

    def __init__(
        self, label: str, rounds: int, images_per_round: float, unit: str = "round"
    ) -> None:
        self.label, self.rounds, self.images = label, rounds, images_per_round
        self.unit = unit
        self.live = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.begun = self.reported = time.monotonic()
        self.first: int | None = None
        self.accuracy: float | None = None

    def __call__(self, t: int, row: Mapping[str, float] | None) -> None:
        """After round t, with the row of metrics if the round was evaluated."""
        if self.first is None:  # the round before the first of this process
            self.first = t - 1
        self.accuracy = (row or {}).get("accuracy", self.accuracy)
        now = time.monotonic()
        if t < self.rounds and now - self.reported < (0.1 if self.live else 30):
            return
        self.reported = now
        speed = (t - self.first) / max(now - self.begun, 1e-9)
        left = (self.rounds - t) / speed if speed else 0.0
        accuracy = "" if self.accuracy is None else f"  accuracy {self.accuracy:5.2f} %"
        facts = f"{speed:.1f} {self.unit}s/s  {speed * self.images:,.0f} images/s{accuracy}"
        if not self.live:
            self._say(
                f"{self.label}: {self.unit} {t} of {self.rounds}  {facts}  {clock(left)} left"
            )
            return
        filled = 24 * t // max(self.rounds, 1)
        bar = "█" * filled + "░" * (24 - filled)
        line = f"\r{self.label} {bar} {t}/{self.rounds}  {facts}  {clock(left)} left\x1b[K"
        print(line, end="\n" if t == self.rounds else "", file=sys.stderr, flush=True)

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Products:
    """Reports how far a spectrum is: products of the Hessian done, the residual, the time left."""

    def __init__(self, label: str, most: int) -> None:
        """most: products after which it ends at the latest."""
        self.label, self.most = label, most
        self.live = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.begun = self.reported = time.monotonic()
        if not self.live:  # a product may take minutes
            print(f"{label}: begun", file=sys.stderr, flush=True)

    def __call__(self, products: int, found: str) -> None:
        """After so many products, with what has been found so far, in words."""
        now = time.monotonic()
        if now - self.reported < (0.1 if self.live else 30):
            return
        self.reported = now
        left = clock(max(self.most - products, 0) * (now - self.begun) / products)
        said = "  ".join(filter(None, [f"product {products} of {self.most} at most", found]))
        line = f"{self.label}: {said}  {left} left at most"
        print(
            f"\r{line}\x1b[K" if self.live else line,
            end="\r" if self.live else "\n",
            file=sys.stderr,
            flush=True,
        )


class Scalars:
    """Writes the metrics of cells for TensorBoard, a folder for each cell, as they come."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError if the package `tensorboard` is missing."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError(
                "--tensorboard: needs the package tensorboard; pip install tensorboard"
            ) from None
        self.folder, self.new_writer = folder, SummaryWriter
        self.writers: dict[str, SummaryWriter] = {}

    def __call__(self, cell: str, row: Mapping[str, float]) -> None:
        """The row of metrics of an evaluated round of a cell, named by its path."""
        t = int(row["round"])
        if cell not in self.writers:  # a resumed run takes the place of what was written beyond it
            self.writers[cell] = self.new_writer(str(self.folder / cell), purge_step=t)
        for name, value in row.items():
            if name != "round":
                self.writers[cell].add_scalar(name, value, t)
        self.writers[cell].flush()


def clock(seconds: float) -> str:
    """A time left: 0:41, 12:05, 3:20:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
