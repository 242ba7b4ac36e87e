"""Fixtures shared by the tests of faults; the built studies are those of the workflow's tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reliability.toy import make_project
from unit.cells import prepare_inputs
from workflow.conftest import built, finished, fresh, source

__all__ = ["built", "finished", "fresh", "source"]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The digits and a partition of theirs, as `fedgloss train` takes them."""
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained and analysed project; only to be read."""
    return make_project(tmp_path_factory.mktemp("made"))


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may damage, and be in."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture(
    params=[
        pytest.param(11, id="one-in-eleven"),
        pytest.param(1, id="all", marks=pytest.mark.slow),
    ]
)
def every(request: pytest.FixtureRequest) -> int:
    """Of a flood of damaged inputs, one in so many is tried."""
    return request.param


@pytest.fixture
def nothing_is_run(tmp_path: Path) -> Iterator[None]:
    """Every hostile value would leave a file `pwned...` in some working directory."""
    yield
    assert not [*tmp_path.rglob("pwned*")] and not [*Path.cwd().glob("pwned*")]
