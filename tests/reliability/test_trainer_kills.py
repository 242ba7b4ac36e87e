"""A trainer killed at any moment, started again until done, equals one never killed."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from fedgloss.files import read_json, sha256
from reliability import faults
from reliability.trainer import FINISHED, Cell
from unit.cells import OUTPUTS, cell_settings

# Methods with much state, and both ways to compute gradients.
RUNS = [
    ("fedsmoo", "stacked"),
    ("scaffold", "autograd"),
    ("fedgloss", "stacked"),
    ("fedgamma", "stacked"),
    ("fedspeed", "autograd"),
]
RECORDED = {"record": ["norms", "communication", "delta_epsilon", "consistency"]}


def whole(inputs, folder, method, backend, **training):
    """A cell, and its results when nothing happens to it."""
    settings = cell_settings(method, **RECORDED, **training)
    cell = Cell(folder / "whole", inputs, settings, backend=backend)
    assert cell.run() == 0, cell.said()
    return cell, cell.results()


@pytest.mark.parametrize(
    ("method", "backend", "rounds"),
    [
        pytest.param(*RUNS[0], (1, 6, 12), id="three rounds"),
        *(pytest.param(*run, range(1, 13), marks=pytest.mark.slow) for run in RUNS[:2]),
    ],
)
def test_sigkill_after_each_of_twelve_rounds(method, backend, rounds, inputs, tmp_path):
    """A checkpoint every second round; the twelfth kill is before the first byte of the results."""
    cell, expected = whole(inputs, tmp_path, method, backend)
    for k in rounds:
        killed = cell.but(tmp_path / str(k))
        assert killed.run(partial(faults.kill_after_round, k)) == -signal.SIGKILL
        assert not killed.out.exists()
        assert killed.run() == 0
        last = (k - 1) // 2 * 2
        assert killed.said() == ([f"goes on after round {last} of 12"] if last else [])
        assert killed.results() == expected
        assert killed.everything() == FINISHED


@pytest.mark.slow
@pytest.mark.parametrize(("method", "backend"), RUNS)
def test_sigkill_at_ten_random_times(method, backend, inputs, tmp_path):
    """From the start of the command to its end; no kill costs more than a checkpoint's interval."""
    cell, expected = whole(inputs, tmp_path, method, backend, rounds=16)
    begun = time.monotonic()
    assert cell.but(tmp_path / "timed").run() == 0
    duration = time.monotonic() - begun
    moments = random.Random(f"{method} {backend}")
    kills = runs = 0
    while kills < 10:
        runs += 1
        rounds = tmp_path / f"rounds-{runs}"
        killed = cell.but(tmp_path / f"killed-{runs}")
        while True:
            done = 0 if (killed.out / "manifest.json").exists() else _last(rounds)
            process = killed.start(partial(faults.log_rounds, rounds))
            process.join(timeout=moments.uniform(0, duration) if kills < 10 else None)
            if process.exitcode is None:
                process.kill()
                process.join()
            resumed = [line for line in killed.said() if line.startswith("goes on after round")]
            if done and (resumed or process.exitcode == 0):
                assert done - (int(resumed[0].split()[4]) if resumed else 0) <= killed.every
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
        assert killed.results() == expected
        assert killed.everything() == FINISHED


def _last(rounds):
    """The last round that a killed process finished."""
    lines = rounds.read_text().split() if rounds.exists() else []
    return int(lines[-1]) if lines else 0


@pytest.mark.slow
def test_sigkill_at_every_operation_on_the_results(inputs, tmp_path):
    """A manifest is there only if all it describes is; the next run puts everything right."""
    cell, expected = whole(inputs, tmp_path, "fedgloss", "stacked", rounds=3)
    recorded = cell.but(tmp_path / "recorded")
    calls = tmp_path / "calls"
    assert recorded.run(partial(faults.count_calls, faults.WRITE_RESULTS, calls)) == 0
    number = len(calls.read_text().split())
    assert number > 25
    killed, left = cell.but(tmp_path / "killed"), 0
    for n in range(1, number + 1):
        code = killed.run(partial(faults.kill_at_call, faults.WRITE_RESULTS, n, after=n % 2))
        assert code == -signal.SIGKILL, (n, killed.said())
        left += any(path.name.endswith(".tmp") for path in killed.out.glob(".*"))
        if (killed.out / "manifest.json").exists():
            outputs = read_json(killed.out / "manifest.json")["outputs"]
            assert outputs == {name: sha256(killed.out / name) for name in OUTPUTS}
    assert left > number / 4, "kills left temporary files"
    assert killed.run() == 0
    assert killed.results() == expected
    assert killed.everything() == FINISHED


def test_sigkill_of_a_cold_process_during_its_start(inputs, tmp_path):
    """Before and while Python and PyTorch load: nothing has been written."""
    cell, expected = whole(inputs, tmp_path, "fedgloss", "stacked", rounds=3)
    moments, started = random.Random(0), cell.but(tmp_path / "started")
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-m", "fedgloss", *started.command()])
        time.sleep(moments.uniform(0, 0.8))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not started.folder.exists()
    assert started.run() == 0
    assert started.results() == expected


# Signals that ask


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_asked_to_end_at_random_times_it_exits_with_75_and_a_checkpoint(number, inputs, tmp_path):
    """Seven times in its rounds, and once more with a second signal on the heels of the first."""
    cell, expected = whole(inputs, tmp_path, "fedsmoo", "stacked", rounds=40)
    asked = cell.but(tmp_path / "asked", every=1000)
    moments, before = random.Random(number), 0
    for n in range(8):
        rounds = tmp_path / f"rounds-{n}"
        process = asked.start(partial(faults.slow_rounds, 0.02, rounds))
        while not _last(rounds):
            assert process.exitcode is None
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        os.kill(process.pid, number)
        if n == 7:
            os.kill(process.pid, signal.SIGTERM)
        process.join()
        assert process.exitcode == 75, asked.said()
        assert asked.said()[-1] == "interrupted; run the same command again to go on"
        assert not asked.out.exists()
        (path, *_) = sorted(asked.checkpoints.iterdir(), reverse=True)
        assert path.name == f"round-{_last(rounds):07d}.safetensors", "no round is lost"
        assert before < _last(rounds) < 40
        before = _last(rounds)
    assert asked.run() == 0
    assert asked.results() == expected
    assert asked.everything() == FINISHED


def test_the_wall_clock_decides_nothing(inputs, tmp_path):
    """Set back and forth while it trains, the clock changes neither numbers nor checkpoints."""
    cell, expected = whole(inputs, tmp_path, "fedgloss", "stacked")
    jumping = cell.but(tmp_path / "jumping")
    assert jumping.run(faults.jumping_clock) == 0
    assert jumping.results() == expected
    assert 0 < read_json(jumping.out / "manifest.json")["wall_seconds"] < 1000
