"""What the tests of the federation share."""

import logging
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """The lines that were logged so far."""
    logger = logging.getLogger("flwr")
    propagates, logger.propagate = logger.propagate, True
    caplog.set_level(logging.INFO, logger="flwr")
    yield lambda: "\n".join(caplog.messages)
    logger.propagate = propagates
