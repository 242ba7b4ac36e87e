"""A copy of the project with the smoke study built once, shared by all test processes."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from workflow.project import SMOKE, build, copy_project


@pytest.fixture(scope="session")
def source(shared_by_all: Path) -> Path:
    """One copy of the project for all these tests; only to be read."""
    project = shared_by_all / "source"
    with FileLock(f"{project}.lock"):
        if not project.exists():
            copy_project(project)
    return project


@pytest.fixture(scope="session")
def built(source: Path, shared_by_all: Path) -> Path:
    """A copy in which the smoke study is built; only to be read."""
    project = shared_by_all / "built"
    with FileLock(f"{project}.lock"):
        if not (project / "log").exists():
            shutil.rmtree(project, ignore_errors=True)
            text = build(copy_project(project, source), SMOKE)
            (project / "log").write_text(text, encoding="utf-8")
    return project


@pytest.fixture
def fresh(source: Path, tmp_path: Path) -> Path:
    """A copy of the project without results."""
    return copy_project(tmp_path / "project", source)


@pytest.fixture
def finished(built: Path, tmp_path: Path) -> Path:
    """A copy of the project with the finished smoke study, elsewhere, free to be changed."""
    shutil.copytree(built, tmp_path / "project", symlinks=True)
    return tmp_path / "project"
