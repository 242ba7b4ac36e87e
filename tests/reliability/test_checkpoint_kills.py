"""Kills aimed at the writing of a checkpoint: none leaves one that cannot be read."""

import json
import random
import signal
from functools import partial

import pytest

from fedgloss.engine.checkpoint import Checkpoints
from fedgloss.tensors import load_metadata
from reliability import faults
from reliability.trainer import FINISHED, Cell
from unit.cells import cell_settings


@pytest.mark.parametrize("kills", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_while_a_checkpoint_is_written(kills, inputs, tmp_path):
    """Before and after each operation on files, and in the middle of writes, at random bytes.

    One run, killed over and over while it writes its next checkpoint or the one after; every
    process goes on from what the last one left.
    """
    settings = cell_settings("fedgloss", rounds=max(kills, 20), evaluate_every=20)
    cell = Cell(tmp_path / "whole", inputs, settings, every=1)
    calls = tmp_path / "calls"
    assert cell.run(partial(faults.count_calls, faults.SAVE, calls, nth=3)) == 0
    number = len(calls.read_text().split())
    (*_, newest) = sorted(cell.checkpoints.iterdir())
    size, identity = newest.stat().st_size, json.loads(load_metadata(newest)["identity"])
    assert cell.run() == 0, cell.said()
    expected = cell.results()

    aims = [
        partial(faults.kill_at_call, faults.SAVE, n, after)
        for n in range(1, number + 1)
        for after in (False, True)
    ]
    moments = random.Random(0)
    aims += [
        partial(faults.kill_at_byte, faults.SAVE, moments.randrange(size))
        for _ in range(100 - len(aims))
    ]
    moments.shuffle(aims)
    assert len(aims) == 100
    killed, said = cell.but(tmp_path / "killed"), []
    store = Checkpoints(killed.checkpoints, identity, say=said.append)
    before, left = 0, 0
    for i, aim in enumerate(aims[:kills]):
        nth = 1 + (i % 3 == 0)
        assert killed.run(partial(aim, nth=nth)) in (-signal.SIGKILL, -signal.SIGXFSZ)
        assert not any("passed over" in line for line in killed.said())
        leftovers = [*killed.checkpoints.glob(".*")]
        assert len(leftovers) <= 1, "the next run removes what a kill left"
        left += len(leftovers)
        found = store.load()
        after = found[0] if found else 0
        assert after in (before + nth, before + nth - 1), "the last one, or the one before"
        before = after
    assert said == []
    assert left > kills / 2, "most kills left half a checkpoint"
    assert before < settings["training"]["rounds"]
    assert killed.run() == 0
    assert killed.results() == expected
    assert killed.everything() == FINISHED
