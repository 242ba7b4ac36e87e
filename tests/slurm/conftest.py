"""One SLURM for all these tests, and one local run to compare with."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from slurm import cluster
from slurm.project import CELLS, CONFIG, STUDY, Run, target
from workflow.project import build, copy_project


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """A running cluster with accounting; in CI its packages are installed, elsewhere needed."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a SLURM of one's own needs Linux and root")
    if cluster.foreign():
        pytest.skip(f"this machine belongs to a SLURM already ({cluster.foreign()})")
    if cluster.missing():
        if os.environ.get("CI") != "true":
            pytest.skip(
                f"{', '.join(cluster.missing())} not installed:"
                " python tests/slurm/cluster.py install"
            )
        cluster.install()
    with FileLock("/tmp/fedgloss-slurm.lock"):
        try:
            cluster.up(accounting=True)
            yield
        finally:
            cluster.down()


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the cells have been trained without a cluster."""
    project = copy_project(tmp_path_factory.mktemp("local") / "project")
    (project / "slurm").symlink_to("profiles/slurm")
    (project / "config" / "faults.yaml").write_text(STUDY, encoding="utf-8")
    build(project, CONFIG, *target(*CELLS))
    return project


@pytest.fixture(scope="session")
def new_run(
    slurm: None, local: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Run]]:
    """Makes a run that is ready to start; none outlives the tests."""
    made: list[Run] = []

    def make(name: str) -> Run:
        made.append(Run(tmp_path_factory.mktemp(name) / "project", local))
        return made[-1]

    yield make
    for run in made:
        if run.process:
            run.process.kill()
            run.process.wait()
