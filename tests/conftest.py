"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the genuine CIFAR-10 sheets, the authors' splits and the test vectors."""
    folder = Path(os.environ.get("FEDGLOSS_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the shared reference folder is not at hand ({folder}; set FEDGLOSS_SHARED)")
    return folder
