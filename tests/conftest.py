"""What all tests share: their order, their randomness, and that none disturbs another."""

import os
import random
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores

import hypothesis
import numpy as np
import pytest
import torch

import switches

ROOT = Path(__file__).resolve().parents[1]

# The same examples everywhere and every time; `make test-all` tries more of them.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


def find_shared() -> Path | None:
    """The folder with the genuine CIFAR-10 sheets, the authors' splits and the test vectors."""
    folder = Path(os.environ.get("FEDGLOSS_SHARED", ROOT.parent / "shared"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """`find_shared`, or skip."""
    folder = find_shared()
    if folder is None:
        pytest.skip("needs the genuine data and splits in ../shared (or FEDGLOSS_SHARED)")
    return folder


@pytest.fixture(scope="session")
def worker_id() -> str:
    """As pytest-xdist names this process, also where there is no pytest-xdist."""
    return os.environ.get("PYTEST_XDIST_WORKER", "master")


@pytest.fixture(scope="session")
def shared_by_all(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A temporary folder that all test processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


# No test depends on another


@pytest.fixture
def switches_put_back() -> Iterator[None]:
    """For tests that change the process's switches on purpose (see `switches`)."""
    with switches.kept():
        yield


BEFORE = pytest.StashKey[dict]()
LOADED = pytest.StashKey[set]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Random numbers that depend on the test alone, not on those before it."""
    item.stash[BEFORE], item.stash[LOADED] = switches.read(), {*sys.modules}
    seed = zlib.crc32(item.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """The test that leaves a switch changed fails, and no other: they are put back.

    A hook and not a fixture: it also sees what fixtures of a module or a session do.
    """
    try:
        return (yield)
    finally:
        _forget_modules_of(item)
        changed = switches.differences(item.stash[BEFORE])
        if changed:
            switches.put_back(item.stash[BEFORE])
            pytest.fail(f"left changed: {'; '.join(changed)}", pytrace=False)


def _forget_modules_of(item: pytest.Item) -> None:
    """A module that a test wrote itself is not there for the next one, which may write another."""
    for name in {*sys.modules} - item.stash[LOADED]:
        spec = getattr(sys.modules[name], "__spec__", None)
        if not isinstance(spec, ModuleSpec):
            continue
        places = [spec.origin, *(spec.submodule_search_locations or [])]
        for place in map(Path, filter(None, places)):
            if place.is_relative_to(tempfile.gettempdir()) and not place.is_relative_to(ROOT):
                sys.modules.pop(name, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shuffle",
        metavar="SEED",
        help="run the files, and the tests of each file, in another order",
    )


# Handed out first: a long file that begins last keeps one process busy and leaves the others idle.
# Those that mostly wait, for a cluster or a federation, come before those that compute.
LONG = (
    *("slurm/test_faults.py", "flower/test_flower_federation.py"),
    *("reliability/test_workflow_kills.py", "workflow/test_reruns.py", "workflow/test_rules.py"),
    *("reliability/test_checkpoint_kills.py", "reliability/test_trainer_kills.py"),
    *("workflow/test_what_is_said.py", "workflow/test_sharing.py", "workflow/test_sweeps.py"),
    *("unit/test_fused.py", "unit/test_resume.py", "unit/test_cells_together.py"),
    *("unit/test_checkpoint.py", "unit/test_study.py", "unit/test_partition_generators.py"),
    *("unit/test_spectrum.py", "unit/test_backends.py", "unit/test_stackable.py"),
    *("reliability/test_fuzz_training.py", "reliability/test_security_shell.py"),
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files stay whole: what their fixtures build would be built again and again."""
    if seed := config.getoption("shuffle"):
        chance = random.Random(seed)
        files = {item.path: chance.random() for item in items}
        items.sort(key=lambda item: (files[item.path], chance.random()))
    else:
        first = {ROOT / "tests" / name: place for place, name in enumerate(LONG)}
        items.sort(key=lambda item: first.get(item.path, len(first)))


# What was left out is said


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Skipped tests by reason."""
    skipped = terminalreporter.getreports("skipped")
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if reasons:
        terminalreporter.section("left out here")
        for reason, count in sorted(reasons.items()):
            terminalreporter.write_line(f"{count:5d}  {reason}")
    if terminalreporter.config.option.markexpr == "not slow":
        terminalreporter.write_line("The slow tests wait for `make test-all`.")
