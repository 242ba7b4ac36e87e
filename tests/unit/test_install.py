"""What setting up shows of pip, which is silent for minutes or says too much."""

import importlib.util
import subprocess
import sys

import pytest

from studies import ROOT

FILE = ROOT / "envs" / "install.py"


@pytest.fixture(scope="module")
def install():
    spec = importlib.util.spec_from_file_location("install", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pips_lines_become_stages(install):
    packages = set()
    said = [
        install.stage(line, packages)
        for line in (
            "Looking in indexes: https://pypi.org/simple",
            "Processing /wheels/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl (from fedgloss)",
            "Collecting numpy>=1.26 (from fedgloss==0.1.0)",
            "Collecting numpy>=1.25 (from scipy)",
            "Downloading snakemake-9.27.1-py3-none-any.whl (1.2 MB)",
            "Installing collected packages: a, b, c",
        )
    ]
    assert said == [
        None,
        "packages found: 1; torch-2.13.0+cpu",
        "packages found: 2; numpy>=1.26",
        "packages found: 2; numpy>=1.25",
        "packages found: 2; fetching snakemake-9.27.1 (1.2 MB)",
        "installing 3 packages, a minute or two",
    ]


def test_when_pip_fails_its_words_are_shown_but_for_missing_indexes(tmp_path):
    arguments = ["--no-index", "--find-links", "gone", "no-such-package-at-all"]
    shown = subprocess.run(
        [sys.executable, FILE, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert shown.returncode == 1
    assert "ERROR: No matching distribution found for no-such-package-at-all" in shown.stderr
    assert "WARNING: Location" not in shown.stderr
    assert shown.stdout.endswith("  pip has failed\n") and "\x1b" not in shown.stdout
