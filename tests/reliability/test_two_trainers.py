"""Two processes on one cell: an orphan of a killed workflow, and the job of the next one."""

import os
import signal
import time
from functools import partial

import pytest

from reliability import faults
from reliability.trainer import FINISHED, Cell, wait_until_stopped
from unit.cells import cell_settings


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """A cell, and its results when it trains alone."""
    cell = Cell(tmp_path_factory.mktemp("whole"), inputs, every=3)
    assert cell.run() == 0, cell.said()
    return cell, cell.results()


def start_slowly(cell, rounds, seconds=0.1):
    """A trainer that has finished a round, and goes on slowly."""
    process = cell.start(partial(faults.slow_rounds, seconds, rounds))
    while not (rounds.exists() and rounds.read_text()):
        assert process.exitcode is None
        time.sleep(0.005)
    return process


def test_the_newer_process_takes_over_and_the_older_one_leaves(whole, tmp_path):
    cell, expected = whole
    older = cell.but(tmp_path / "cell", log="log.older", settings=cell_settings(rounds=200))
    newer = cell.but(tmp_path / "cell")
    process = start_slowly(older, tmp_path / "rounds")
    assert newer.run() == 0
    assert newer.results() == expected
    process.join()
    assert process.exitcode == 75
    assert older.said()[-2].endswith("another process has taken over this run")
    assert newer.results() == expected, "the older one's other settings never reached the results"
    assert newer.everything() == FINISHED


def test_several_at_once_leave_one_whole_result(whole, tmp_path):
    """Five start within one run's time, two of them are killed: one finishes, nothing is mixed."""
    cell, expected = whole
    cells = [cell.but(tmp_path / "cell", log=f"log.{n}") for n in range(5)]
    processes = [start_slowly(c, tmp_path / f"rounds-{n}", 0.15) for n, c in enumerate(cells)]
    for process in processes[1:4:2]:
        process.kill()
    for process in processes:
        process.join()
    assert processes[-1].exitcode == 0
    assert {p.exitcode for p in processes[:-1]} <= {0, 75, -signal.SIGKILL}
    assert cells[-1].results() == expected
    assert cells[-1].everything() == FINISHED


STOPS = [
    (faults.LOAD, range(1, 4)),
    (faults.SAVE, range(1, 14, 4)),
    (faults.WRITE_RESULTS, range(1, 36, 7)),
    (faults.CLEAR, range(1, 5)),
]


@pytest.mark.parametrize(
    ("inside", "numbers"),
    [
        pytest.param(faults.SAVE, [5], id="once"),
        *(pytest.param(*stop, marks=pytest.mark.slow, id=stop[0]) for stop in STOPS),
    ],
)
def test_one_stands_still_anywhere_while_another_does_all_the_work(
    inside, numbers, whole, tmp_path
):
    """A machine that slept: the sleeper wakes when the run is done, and harms nothing."""
    cell, expected = whole
    for number in numbers:
        sleeper = cell.but(tmp_path / str(number), log="log.sleeper")
        process = sleeper.start(partial(faults.stop_at_call, inside, number))
        wait_until_stopped(process)
        worker = cell.but(tmp_path / str(number))
        assert worker.run() == 0, worker.said()
        os.kill(process.pid, signal.SIGCONT)
        process.join()
        assert process.exitcode in (0, 2, 75), sleeper.said()
        assert process.exitcode == 0 or len(sleeper.said()) <= 3, "a line, no traceback"
        assert worker.results() == expected
        assert not [*worker.folder.rglob("*.tmp")]


def test_without_locks_it_trains_all_the_same(whole, tmp_path):
    cell, expected = whole
    alone = cell.but(tmp_path / "cell")
    assert alone.run(faults.no_locks) == 0
    assert alone.results() == expected
    assert alone.everything() == FINISHED
