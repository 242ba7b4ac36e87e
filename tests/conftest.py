"""Fixtures shared by all tests."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "spec")]


def find_shared() -> Path | None:
    """The folder with the genuine CIFAR-10 sheets, the authors' splits and the test vectors."""
    folder = Path(os.environ.get("FEDGLOSS_SHARED", ROOT.parent / "shared"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """`find_shared`, or skip."""
    folder = find_shared()
    if folder is None:
        pytest.skip("the shared reference folder is not at hand (set FEDGLOSS_SHARED)")
    return folder
