"""Fixtures shared by the tests of faults; the built studies are those of the workflow's tests."""

from pathlib import Path

import pytest

from unit.cells import prepare_inputs
from workflow.conftest import built, finished, fresh, shared_by_all, source

__all__ = ["built", "finished", "fresh", "shared_by_all", "source"]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The digits and a partition of theirs, as `fedgloss train` takes them."""
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))
