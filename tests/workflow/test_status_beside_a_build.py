"""`fedgloss status` while jobs run: what it says is so when it says it."""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workflow.project import SMOKE, environment, files

pytestmark = pytest.mark.slow

LIMIT = 300
"""Seconds that a build may take on a machine with other work."""


@pytest.fixture
def longer(finished: Path) -> Path:
    """A copy with prepared data, of whose cells each trains for some seconds: none is done."""
    config = finished / "config" / "smoke.yaml"
    text = config.read_text(encoding="utf-8")
    rounds = "{rounds: 6, evaluate_every: 2, last: 2}"
    assert rounds in text
    config.write_text(
        text.replace(rounds, "{rounds: 400, evaluate_every: 100, last: 2}"), encoding="utf-8"
    )
    return finished


@contextmanager
def started(project: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, ended with the context."""
    process = subprocess.Popen(
        command,
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=60)


def status(project: Path) -> tuple[Counter[str], list[str]]:
    """How many cells there are of each state, and the lines on those that run."""
    shown = subprocess.run(
        ["fedgloss", "status", "config/smoke.yaml"],
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 0, shown.stderr
    (line,) = re.findall(r"^smoke: 4 cells: (.*)$", shown.stdout, re.M)
    counts = {word: int(count) for count, word in re.findall(r"(\d+) ([a-z ]+) \S", line)}
    return Counter(counts), re.findall(r"^running: .*$", shown.stdout, re.M)


def test_status_is_right_while_jobs_run_after_ctrl_c_and_when_all_is_done(longer: Path) -> None:
    runs = longer / "results" / "runs" / "smoke"

    def there() -> int:
        """How many runs of this length have ended."""
        manifests = files(runs, "manifest.json").values()
        return sum(b'"rounds": 400' in manifest for manifest in manifests)

    build = ("snakemake", "--cores", "2", "--nocolor", SMOKE)
    with started(longer, *build) as process:
        end, rounds, seen = time.monotonic() + LIMIT, dict[str, int](), 0
        while seen < 3:
            assert process.poll() is None and time.monotonic() < end
            before = there()
            counts, lines = status(longer)
            assert before <= counts["done"] <= there() and counts.total() == 4
            assert counts["running"] == len(lines) and not counts["interrupted"]
            seen += bool(lines)
            for line in lines:
                cell, _, said = line.removeprefix("running: ").partition(": ")
                at = re.match(r"round (\d+) of 400", said)
                t = int(at[1]) if at else 0
                assert rounds.get(cell, 0) <= t <= 400, "a round that was reached stays so"
                rounds[cell] = t
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    counts, lines = status(longer)
    assert (counts["running"], lines) == (0, []) and counts["done"] == there()
    assert counts["interrupted"] >= 1, "and what they had done is kept"

    watch = ("fedgloss", "status", "config/smoke.yaml", "--watch", "--every", "1")
    with started(longer, *watch) as watching, started(longer, *build) as process:
        process.communicate(timeout=LIMIT)
        assert process.returncode == 0
        shown, _ = watching.communicate(timeout=60)  # ends by itself: nothing is left to run
    assert watching.returncode == 0
    totals = re.findall(r"^smoke: 4 cells: (\d+) done", shown, re.M)
    assert [*map(int, totals)] == sorted(map(int, totals)) and totals[-1] == "4"
    assert "nothing left to run" not in shown and there() == 4
