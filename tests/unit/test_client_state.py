"""Clients' state is the same state wherever it lives."""

from pathlib import Path

import psutil
import pytest
import torch

from cells import cell_settings, contents, prepare_inputs, train_cell
from fedgloss.engine import federation as rounds
from fedgloss.engine import state
from fedgloss.engine.state import ClientState, available_memory, choose_place

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
    values = 1 + torch.rand(2, 3, 2048, dtype=torch.float64)
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
    """On a machine of a thousand bytes."""
    monkeypatch.setattr(state, "available_memory", lambda: 1000.0)
    assert [choose_place(n, CPU) for n in (0, 400, 401)] == ["device", "device", "file"]


def test_two_fifths_of_the_memory_at_hand_and_no_more():
    """The real memory of this machine, which changes a little between two looks at it."""
    assert choose_place(int(0.3 * available_memory()), CPU) == "device"
    assert choose_place(int(0.6 * available_memory()), CPU) == "file"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_does_not_fit_the_gpu_lives_in_pinned_memory():
    cuda = torch.device("cuda")
    free = torch.cuda.mem_get_info(cuda)[0]
    assert choose_place(int(0.3 * free), cuda) == "device"
    on_host = min(int(0.6 * free), int(0.3 * available_memory()))
    assert choose_place(on_host, cuda) == ("host" if on_host > 0.4 * free else "device")
    assert choose_place(int(0.6 * max(free, available_memory())), cuda) == "file"
    kept = ClientState(1, 3, torch.zeros(1, 1, 8, device="cuda"), "host")
    assert kept.values.is_pinned() and kept.gather(torch.tensor([1]), 1).is_cuda


def test_the_memory_at_hand_is_what_the_kernel_says():
    """The machine's, or less where a control group has a limit."""
    machine = psutil.virtual_memory().available
    assert 0 < available_memory() < 1.3 * machine


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("method", ["fedgloss", "fedsmoo"])
def test_a_run_with_its_state_in_a_file_is_the_same_run(inputs, tmp_path, monkeypatch, method):
    made, rounds_done = [], []

    class Watched(ClientState):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(rounds, "ClientState", Watched)

    def run(out, stop_after=None, **options):
        def watch(label, rounds, images):
            def on_round(t, row):
                rounds_done.append(t)
                if t == stop_after:
                    raise Killed

            return on_round

        made.clear()
        rounds_done.clear()
        settings, where = cell_settings(method, rounds=8), {**inputs, "out": tmp_path / out}
        train_cell(settings, **where, code="c", device="cpu", watch=watch, **options)
        return contents(tmp_path / out)

    expected = run("memory")
    assert made and not any(in_a_file(kept) for kept in made)
    monkeypatch.setattr(rounds, "choose_place", lambda nbytes, device: "file")
    assert run("file") == expected
    assert made and all(in_a_file(kept) for kept in made)
    assert any(kept.values.any() for kept in made)

    store = {"checkpoints": tmp_path / "checkpoints", "checkpoint_rounds": 2}
    with pytest.raises(Killed):
        run("resumed", stop_after=5, **store)
    assert run("resumed", **store) == expected
    assert rounds_done == [5, 6, 7, 8], "after the checkpoint of round 4"


class Killed(Exception):
    """Stands for a kill that nothing could answer."""


def in_a_file(kept):
    """Whether this process has its vectors mapped from a file, as the kernel says."""
    begin = kept.values.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, _, _, inode, *_ = line.split()
        low, high = (int(address, 16) for address in addresses.split("-"))
        if low <= begin < high:
            return inode != "0"
    raise AssertionError("not mapped at all")


def machine(root, cgroup, **files):
    """/proc and /sys of a machine with 64 GB available, on which this process is in `cgroup`."""
    files = {"proc/meminfo": "MemAvailable: 62500000 kB\n", "proc/self/cgroup": cgroup, **files}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


def group(folder, limit, used):
    names = ("max", "current") if folder.startswith(V2) else ()
    names = ("limit_in_bytes", "usage_in_bytes") if folder.startswith(V1) else names
    texts = (limit, used)
    return {f"{folder}/memory.{n}": f"{text}\n" for n, text in zip(names, texts, strict=True)}


@pytest.mark.parametrize(
    ("cgroup", "files", "left"),
    [
        ("0::/\n", {}, 64e9),
        ("0::/\n", group(V2, 9_000, 1_000), 8_000),  # a container with a namespace of its own
        ("0::/job/step\n", group(f"{V2}/job/step", 9_000, 1_000), 8_000),
        (
            "0::/job/step\n",
            group(f"{V2}/job/step", "max", 500) | group(f"{V2}/job", 7_000, 1_000),
            6_000,
        ),
        (
            "0::/job/step\n",
            group(f"{V2}/job/step", 5_000, 0) | group(f"{V2}/job", 7_000, 3_000),
            4_000,
        ),
        (
            "5:cpu,memory:/job\n1:name=systemd:/other\n0::/else\n",
            group(f"{V1}/job", 9_000, 1_000) | group(V1, 2**63 - 4096, 50),
            8_000,
        ),
        ("5:memory:/docker/1a\n", group(V1, 9_000, 1_000), 8_000),  # seen from within
        ("5:cpu:/job\n", group(f"{V1}/job", 9_000, 1_000), 64e9),
    ],
)
def test_a_jobs_limit_is_that_of_its_control_group_and_of_those_around_it(
    cgroup, files, left, tmp_path
):
    """SLURM's jobs see the whole machine's tree; /proc/self/cgroup says where they are in it."""
    assert available_memory(machine(tmp_path, cgroup, **files)) == left


def test_without_any_of_these_files_memory_has_no_known_end(tmp_path):
    assert available_memory(tmp_path) == float("inf")
