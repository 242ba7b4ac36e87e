"""Flower's log, which `flwr log` shows: where the federation speaks, and says why it ends."""

import logging
from collections.abc import Sequence

from fedgloss.errors import InputError

LOG = logging.getLogger("flwr")
SHOWN = 3
"""So many of the reasons for which a run stops are named; the rest is counted."""


class Stopped(RuntimeError):
    """The federation cannot go on as it was asked to: one line that says why.

    The rounds before are in the checkpoint, if there is one.
    """


def in_short(reasons: Sequence[str]) -> str:
    """The first few of what may be as many reasons as clients, and how many more there are."""
    more = len(reasons) - SHOWN
    return "; ".join(reasons[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _without_traceback(record: logging.LogRecord) -> bool:
    """Of an error that is one line, leave that line.

    Flower logs whatever ends a ServerApp with its traceback, most of which are Flower's own frames.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, InputError | Stopped):
        record.msg, record.args = f"{record.getMessage()}: {error}", ()
        record.exc_info = None
    return True


LOG.addFilter(_without_traceback)
