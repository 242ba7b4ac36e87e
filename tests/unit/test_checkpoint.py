"""A run stopped anywhere and started again equals one never stopped, to the last bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cells import cell_settings, contents, job_file, prepare_inputs, train_cell
from fedgloss.engine.checkpoint import Checkpoints, Interrupted
from fedgloss.tensors import load_tensors, save_tensors

METHODS = ("fedgloss", "scaffold", "fedsmoo")
ROUNDS = 12


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


def settings_of(method):
    return cell_settings(
        method, rounds=ROUNDS, record=["norms", "communication", "delta_epsilon", "consistency"]
    )


class Crash(Exception):
    """Stands for a kill that nothing could answer."""


@pytest.fixture(scope="module")
def run(inputs):
    """Train a cell; stop after round `stop_after` by a signal, or crash after `crash_after`."""

    def run(out, settings, stop_after=None, crash_after=None, code="code", **options):
        def watch(label, rounds, images):
            def on_round(t, row):
                seen.append(t)
                if t == stop_after:
                    os.kill(os.getpid(), signal.SIGTERM)
                if t == crash_after:
                    raise Crash

            return on_round

        seen: list[int] = []
        try:
            where = {**inputs, **options}
            train_cell(settings, **where, out=out, code=code, device="cpu", watch=watch)
        except (Interrupted, Crash):
            assert stop_after or crash_after
        return seen

    return run


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory):
    """The bytes of a run that was never stopped, without and with checkpoints."""
    made = {}
    for method in METHODS:
        out = tmp_path_factory.mktemp(method)
        run(out, settings_of(method))
        made[method] = contents(out)
    return made


@pytest.mark.parametrize("method", METHODS)
def test_writing_checkpoints_changes_nothing(method, run, uninterrupted, tmp_path):
    run(tmp_path / "out", settings_of(method), checkpoints=tmp_path / "c", checkpoint_rounds=1)
    assert contents(tmp_path / "out") == uninterrupted[method]


# Every round with one method; with the others three, since only their states differ from its.
STOPS = [("fedgloss", k) for k in range(1, ROUNDS)]
STOPS += [(method, k) for method in METHODS[1:] for k in (1, 6, ROUNDS - 1)]


@pytest.mark.parametrize(("method", "k"), STOPS)
def test_resuming_after_any_round_is_bit_equal(method, k, run, uninterrupted, tmp_path):
    out, options = tmp_path / "out", {"checkpoints": tmp_path / "checkpoints"}
    assert run(out, settings_of(method), stop_after=k, **options)[-1] == k
    assert not out.exists(), "no results before the end"
    rounds = run(out, settings_of(method), **options)
    assert rounds == [*range(k + 1, ROUNDS + 1)]
    assert contents(out) == uninterrupted[method]


def test_stopping_after_every_single_round_is_bit_equal(run, uninterrupted, tmp_path):
    options = {"checkpoints": tmp_path / "checkpoints"}
    for k in range(1, ROUNDS):
        run(tmp_path / "out", settings_of("fedgloss"), stop_after=k, **options)
    run(tmp_path / "out", settings_of("fedgloss"), **options)
    assert contents(tmp_path / "out") == uninterrupted["fedgloss"]


def test_a_crash_goes_on_from_the_last_checkpoint(run, uninterrupted, tmp_path):
    options = {"checkpoints": tmp_path / "checkpoints", "checkpoint_rounds": 3}
    run(tmp_path / "out", settings_of("fedgloss"), crash_after=8, **options)
    rounds = run(tmp_path / "out", settings_of("fedgloss"), **options)
    assert rounds[0] == 7
    assert contents(tmp_path / "out") == uninterrupted["fedgloss"]


def test_checkpoints_are_written_on_a_timer_too(run, tmp_path):
    options = {"checkpoints": tmp_path / "c", "checkpoint_seconds": 0.0}
    run(tmp_path / "out", settings_of("fedgloss"), crash_after=5, **options)
    assert sorted(os.listdir(tmp_path / "c")) == [f"round-000000{t}.safetensors" for t in (3, 4)]


def test_two_are_kept_and_none_after_the_end(run, tmp_path):
    options = {"checkpoints": tmp_path / "c", "checkpoint_rounds": 2}
    run(tmp_path / "out", settings_of("fedgloss"), stop_after=9, **options)
    assert sorted(os.listdir(tmp_path / "c")) == [f"round-000000{t}.safetensors" for t in (8, 9)]
    run(tmp_path / "out", settings_of("fedgloss"), **options)
    assert not (tmp_path / "c").exists()


def test_other_files_beside_the_checkpoints_stay(run, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "notes.txt").write_text("mine")
    options = {"checkpoints": tmp_path / "c", "checkpoint_rounds": 2}
    run(tmp_path / "out", settings_of("fedgloss"), **options)
    assert os.listdir(tmp_path / "c") == ["notes.txt"]


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def other_metrics(path):
    """One digit of the metrics so far: the tensors are as they were."""
    content = path.read_bytes()
    place = content.index(b'accuracy\\": ') + len(b'accuracy\\": ')
    digit = b"8" if content[place : place + 1] != b"8" else b"9"
    path.write_bytes(content[:place] + digit + content[place + 1 :])


def other_round(path):
    content = path.read_bytes()
    assert content.count(b'"round":"') == 1
    place = content.index(b'"round":"') + len(b'"round":"')
    path.write_bytes(content[:place] + b"5" + content[place + 1 :])


def foreign_file(path):
    save_tensors(path, {"w": torch.zeros(3)})


def no_checkpoint(path):
    path.write_text("no checkpoint")


DAMAGE = (truncate, empty, flip, other_metrics, other_round, foreign_file, no_checkpoint)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
def test_damaged_checkpoints_are_passed_over(damage, run, uninterrupted, tmp_path, capsys):
    out, options = tmp_path / "out", {"checkpoints": tmp_path / "c", "checkpoint_rounds": 3}
    run(out, settings_of("fedgloss"), stop_after=8, **options)
    newest, previous = (tmp_path / "c" / f"round-000000{t}.safetensors" for t in (8, 6))
    damage(newest)
    kept = previous.read_bytes()

    rounds = run(out, settings_of("fedgloss"), **options)
    assert rounds[0] == 7, "the previous one is taken"
    messages = capsys.readouterr().err.splitlines()
    assert "passed over" in messages[0] and str(newest) in messages[0]
    assert messages[1:] == ["goes on after round 6 of 12"]
    assert contents(out) == uninterrupted["fedgloss"]

    (tmp_path / "c").mkdir()
    previous.write_bytes(kept)
    damage(previous)
    rounds = run(out, settings_of("fedgloss"), **options)
    assert rounds[0] == 1, "a fresh start"
    assert "passed over" in capsys.readouterr().err
    assert contents(out) == uninterrupted["fedgloss"]
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("foreign", ["settings", "code", "data", "backend"])
def test_checkpoints_of_another_run_are_passed_over(
    foreign, run, inputs, uninterrupted, tmp_path, capsys
):
    """Other settings, other code, other data: each says what differs, and starts afresh."""
    other = {"checkpoints": tmp_path / "c", "checkpoint_rounds": 3}
    settings = settings_of("fedgloss")
    if foreign == "settings":
        settings = settings | {"hyperparameters": settings["hyperparameters"] | {"rho": 0.123}}
    elif foreign == "code":
        other["code"] = "other code"
    elif foreign == "data":
        record = json.loads(inputs["partition"].read_text())
        other["partition"] = tmp_path / "other.json"
        other["partition"].write_text(json.dumps(record))  # the same split, other bytes
    else:
        other["backend"] = "autograd"
    run(tmp_path / "out", settings, stop_after=8, **other)
    rounds = run(tmp_path / "out", settings_of("fedgloss"), checkpoints=tmp_path / "c")
    assert rounds[0] == 1
    messages = capsys.readouterr().err.splitlines()
    named = "partition" if foreign == "data" else foreign
    assert len(messages) == 2
    assert all("another run" in line and f"({named} differ" in line for line in messages)
    assert contents(tmp_path / "out") == uninterrupted["fedgloss"]


# The file itself


@pytest.fixture
def store(tmp_path):
    said: list[str] = []
    store = Checkpoints(tmp_path / "c", {"code": "abc", "n": 1}, say=said.append)
    store.said = said
    return store


def unlink_and_crash(path, missing_ok=False):
    os.unlink(path)
    raise Crash


STATE = {"w": torch.arange(6.0).reshape(1, 6), "t": torch.tensor(3), "empty": torch.zeros(0, 2)}
EXTRA = {"metrics": [{"round": 3, "loss": 0.1 + 0.2}], "bytes": [1, 2**40]}


def test_what_is_saved_is_what_is_loaded(store):
    store.save(3, STATE, EXTRA)
    t, tensors, extra = store.load()
    assert (t, extra) == (3, EXTRA)
    assert tensors.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype
    tensors["w"] += 1
    assert torch.equal(store.load()[1]["w"], STATE["w"])


def test_no_flip_of_any_bit_goes_unnoticed(store):
    store.save(3, STATE, EXTRA)
    (path,) = store.folder.iterdir()
    good = path.read_bytes()
    for position in range(len(good)):
        for bit in (1, 2, 8, 64):
            path.write_bytes(good[:position] + bytes([good[position] ^ bit]) + good[position + 1 :])
            store.said.clear()
            loaded = store.load()
            if loaded is None:
                assert len(store.said) == 1 and "\n" not in store.said[0]
            else:  # white space or an escape of the header that says the same
                assert (loaded[0], loaded[2]) == (3, EXTRA), position
                assert all(torch.equal(loaded[1][name], STATE[name]) for name in STATE)


def test_the_newest_of_the_usable_ones_is_taken_by_number(store):
    for t in (999_999, 10_000_001, 9_999_999):
        store.save(t, STATE, {"t": t})
    assert store.load()[0] == 10_000_001
    assert len(list(store.folder.iterdir())) == 2


def test_what_was_passed_over_goes_when_another_is_written(store):
    for t in (7, 8):
        store.save(t, STATE, EXTRA)
    for path in store.folder.iterdir():
        flip(path)
    assert store.load() is None
    for t in (2, 7):  # of one number with a damaged one, too
        store.save(t, STATE, EXTRA)
        assert store.load()[0] == t
    assert len(list(store.folder.iterdir())) == 2


def test_of_a_finished_runs_the_newest_goes_last(store, monkeypatch):
    """A kill in between leaves the one to go on from."""
    for t in (1, 2):
        store.save(t, STATE, EXTRA)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Path, "unlink", unlink_and_crash)
        store.clear()
    assert store.load()[0] == 2


def test_a_failed_save_leaves_the_earlier_ones(store, monkeypatch):
    store.save(1, STATE, EXTRA)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        store.save(2, STATE, EXTRA)
    assert store.load()[0] == 1
    assert len(os.listdir(store.folder)) == 1


def test_nothing_to_load_is_none_without_a_word(store):
    assert store.load() is None
    store.folder.mkdir()
    assert store.load() is None
    assert store.said == []


def test_a_checkpoint_is_due_by_rounds_or_by_time(tmp_path):
    store = Checkpoints(tmp_path, {}, every_rounds=10, every_seconds=1e9)
    assert [t for t in range(1, 41) if store.due(t)] == [10, 20, 30, 40]
    assert Checkpoints(tmp_path, {}, every_rounds=10, every_seconds=0).due(1)


def test_the_time_counts_from_the_last_one_that_was_written(store, monkeypatch):
    late = time.monotonic() + store.every_seconds
    monkeypatch.setattr(time, "monotonic", lambda: late)
    assert store.due(1)
    store.save(1, STATE, EXTRA)
    assert not store.due(2)


# The command, and real signals


def command(inputs, folder, settings):
    where = {**inputs, "run": folder / "out", "checkpoints": folder / "c"}
    job = job_file(folder / "job.json", settings=settings, **where)
    return [sys.executable, "-m", "fedgloss", "train", job, "--device", "cpu"]


def test_sigterm_ends_the_command_with_75_and_the_next_call_goes_on(inputs, run, tmp_path):
    settings = cell_settings("fedgloss", rounds=150, last=20, evaluate_every=50)
    whole = [*command(inputs, tmp_path, settings), "--checkpoint-rounds", "10"]
    process = subprocess.Popen(whole, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "c").exists():  # it trains
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert errors.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path / "c")

    again = subprocess.run(whole, capture_output=True, text=True)
    assert again.returncode == 0
    assert "goes on after round" in again.stderr
    run(tmp_path / "uninterrupted", settings)
    assert contents(tmp_path / "out") == contents(tmp_path / "uninterrupted")
    assert not (tmp_path / "c").exists()


def test_the_handlers_of_the_caller_are_restored(run, tmp_path):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    run(tmp_path / "out", settings_of("scaffold"), stop_after=2, checkpoints=tmp_path / "c")
    assert {n: signal.getsignal(n) for n in before} == before


def test_a_checkpoint_is_an_ordinary_safetensors_file(run, tmp_path):
    import safetensors.torch

    run(tmp_path / "out", settings_of("scaffold"), stop_after=2, checkpoints=tmp_path / "c")
    (path,) = (tmp_path / "c").iterdir()
    theirs, ours = safetensors.torch.load_file(path), load_tensors(path)
    assert theirs.keys() == ours.keys() and "clients.c_k" in ours
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_run_taken_over_in_its_last_round_leaves_the_results_to_the_other(inputs, tmp_path):
    def watch(label, rounds, images):
        return lambda t, row: t == ROUNDS and owner.write_text("another process")

    checkpoints, owner = tmp_path / "c", tmp_path / "c.owner"
    where = {**inputs, "out": tmp_path / "out", "code": "code", "device": "cpu"}
    with pytest.raises(Interrupted):
        train_cell(settings_of("fedgloss"), **where, checkpoints=checkpoints, watch=watch)
    assert not (tmp_path / "out").exists()
    assert owner.read_text() == "another process"
