"""Clients' state is the same state wherever it lives."""

import mmap

import pytest
import torch

from cells import cell_settings, contents, prepare_inputs, train_cell
from fedgloss.simulation import rounds, state
from fedgloss.simulation.checkpoint import Interrupted
from fedgloss.simulation.state import ClientState, available_memory, choose_place

CPU = torch.device("cpu")
PLACES = ("device", "host", "file")


def rows(ids, m=7):
    return torch.tensor([s * m + k for s, some in enumerate(ids) for k in some])


@pytest.mark.parametrize("place", PLACES)
def test_what_is_scattered_is_gathered_and_nothing_else_changes(place):
    like = torch.zeros(1, 1, 2048, dtype=torch.float64)  # rows of four pages, and of any number
    kept = ClientState(2, 7, like, place)
    assert not kept.values.any()
    ids = [[6, 0, 3], [1, 2, 6]]
    values = torch.rand(2, 3, 2048, dtype=torch.float64)
    kept.scatter(rows(ids), values)
    assert torch.equal(kept.gather(rows(ids), 2), values)
    assert torch.equal(
        kept.gather(rows([[3], [1]]), 2), torch.stack([values[0, 2:], values[1, :1]])
    )
    touched = {(s, k) for s, row in enumerate(ids) for k in row}
    for s in range(2):
        for k in range(7):
            assert bool(kept.values[s, k].any()) == ((s, k) in touched)
    kept.prefetch([[6, 5], [6, 0]])  # the last row ends where the file ends
    kept.prefetch([[], []])
    assert torch.equal(kept.gather(rows(ids), 2), values)


@pytest.mark.parametrize("size", [1, 3, 1000, 1025])
def test_rows_need_not_fill_pages(size):
    kept = ClientState(1, 5, torch.zeros(1, 1, size), "file")
    for k in range(5):
        kept.scatter(torch.tensor([k]), torch.full((1, 1, size), float(k)))
        kept.prefetch([[k, 4]])
    assert torch.equal(kept.values[0], torch.arange(5.0)[:, None].expand(5, size))


def test_a_file_takes_no_space_before_it_is_written(tmp_path, monkeypatch):
    """A terabyte of zeros: more than the disk has."""
    monkeypatch.setattr(state.tempfile, "tempdir", str(tmp_path))
    kept = ClientState(1, 250_000, torch.zeros(1, 1, 2**20), "file")
    kept.scatter(torch.tensor([249_999]), torch.ones(1, 1, 2**20))
    assert float(kept.gather(torch.tensor([249_999]), 1).sum()) == 2**20
    assert not list(tmp_path.iterdir())  # it has no name, so a kill leaves nothing behind


def test_the_place_is_chosen_by_size(monkeypatch):
    monkeypatch.setattr(state, "available_memory", lambda: 1000.0)
    assert choose_place(400, CPU) == "device"
    assert choose_place(401, CPU) == "file"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500, 800))
    cuda = torch.device("cuda")
    assert [choose_place(n, cuda) for n in (200, 201, 400, 401)] == [
        "device",
        "host",
        "host",
        "file",
    ]


def test_the_memory_at_hand_is_a_number_of_bytes():
    assert mmap.PAGESIZE < available_memory() < 2**50


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("method", ["fedgloss", "fedsmoo"])
def test_a_run_with_its_state_in_a_file_is_the_same_run(inputs, tmp_path, monkeypatch, method):
    def run(out, **options):
        settings = cell_settings(method, rounds=8)
        train_cell(settings, **inputs, out=tmp_path / out, code="c", device="cpu", **options)
        return contents(tmp_path / out)

    expected = run("memory")
    monkeypatch.setattr(rounds, "choose_place", lambda nbytes, device: "file")
    assert run("file") == expected

    def watch(label, rounds, images):
        def stop(t, row):
            if t == 5:
                raise KeyboardInterrupt  # a kill, after the checkpoint of round 4

        return stop

    store = {"checkpoints": tmp_path / "checkpoints", "checkpoint_rounds": 2}
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        run("resumed", watch=watch, **store)
    assert run("resumed", **store) == expected
