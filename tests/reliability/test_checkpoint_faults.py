"""Checkpoints that are not what they seem: a message, and the run goes on without them."""

import hashlib
import json
import os
import pickle
import signal
import struct
from functools import partial

import pytest

from fedgloss.tensors import load_metadata, load_tensors, save_tensors
from reliability import faults
from reliability.trainer import FINISHED, Cell
from unit.cells import cell_settings


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """A cell, and its results when nothing happens to it."""
    cell = Cell(tmp_path_factory.mktemp("whole"), inputs, every=3)
    assert cell.run() == 0, cell.said()
    return cell, cell.results()


@pytest.fixture
def killed(whole, tmp_path):
    """The cell killed after round 8: its checkpoints are those of rounds 3 and 6."""
    killed = whole[0].but(tmp_path / "cell")
    assert killed.run(partial(faults.kill_after_round, 8)) == -signal.SIGKILL
    return killed


class Bomb:
    """Unpickled, it writes the file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def header(text, tail=b""):
    return struct.pack("<Q", len(text)) + text + tail


def with_metadata(genuine, **changes):
    """A genuine checkpoint with other metadata, and the checksum that fits them."""
    metadata, tensors = load_metadata(genuine), load_tensors(genuine)
    del metadata["sha256"]
    metadata |= changes
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    copy = genuine.with_name("forged")
    save_tensors(copy, tensors, metadata | {"sha256": digest.hexdigest()})
    content = copy.read_bytes()
    copy.unlink()
    return content


def tensors_at(*offsets):
    entries = {
        f"t{i}": {"dtype": "U8", "shape": [max(end - begin, 0)], "data_offsets": [begin, end]}
        for i, (begin, end) in enumerate(offsets)
    }
    metadata = {"round": "9", "identity": "{}", "extra": "{}", "sha256": "0"}
    return header(json.dumps({"__metadata__": metadata, **entries}).encode(), bytes(64))


HOSTILE = {
    "a pickle bomb": lambda genuine: pickle.dumps(Bomb(genuine.parent / "bomb-went-off")),
    "a pickle bomb with a header": lambda genuine: header(
        b"{}", pickle.dumps(Bomb(genuine.parent / "bomb-went-off"))
    ),
    "a header of 2^63 bytes": lambda genuine: struct.pack("<Q", 2**63) + bytes(100),
    "a header longer than the file": lambda genuine: struct.pack("<Q", 10**6) + bytes(100),
    "a tensor longer than the file": lambda genuine: tensors_at((0, 2**62)),
    "overlapping tensors": lambda genuine: tensors_at((0, 64), (0, 64), (32, 64)),
    "a negative offset": lambda genuine: tensors_at((-64, 0)),
    "an end before its beginning": lambda genuine: tensors_at((64, 0)),
    "deep JSON": lambda genuine: header(b"[" * 1_000_000),
    "a deep identity": lambda genuine: with_metadata(genuine, identity="[" * 1_000_000),
    "a deep extra": lambda genuine: with_metadata(genuine, extra="[" * 1_000_000),
    "a long number": lambda genuine: with_metadata(genuine, round="9" * 10_000),
    **{
        f"the identity {text}": partial(
            lambda text, genuine: with_metadata(genuine, identity=text), text
        )
        for text in ("null", "[]", '"text"', "5", "{}", "")
    },
}


FEW = ("a pickle bomb", "a header of 2^63 bytes", "a deep extra")


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k in FEW else pytest.mark.slow) for k in HOSTILE]
)
def test_a_hostile_checkpoint_is_a_message(kind, killed, whole):
    """Named as the newest one; the one below it is taken instead."""
    content = HOSTILE[kind](killed.checkpoints / "round-0000006.safetensors")
    path = killed.checkpoints / "round-0000009.safetensors"
    path.write_bytes(content)
    assert killed.run() == 0
    first, *others = killed.said()
    assert first.startswith(f"checkpoint passed over: {path}: ") and len(first) < 500
    assert others == ["goes on after round 6 of 12"]
    assert killed.results() == whole[1]
    assert killed.everything() == FINISHED, "and no bomb-went-off"


def test_the_bomb_is_one(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "bomb-went-off")))
    assert (tmp_path / "bomb-went-off").exists()


def test_a_checkpoint_that_is_no_file_is_left_alone(killed, whole):
    """A pipe that nobody writes to would hold up its reader for ever."""
    os.mkfifo(killed.checkpoints / "round-0000009.safetensors")
    (killed.checkpoints / "round-0000010.safetensors").mkdir()
    assert killed.run() == 0
    assert killed.said() == ["goes on after round 6 of 12"]
    assert killed.results() == whole[1]


FOREIGN = {
    "settings": {"settings": cell_settings(lr=0.05)},
    "backend": {"backend": "autograd"},
}


@pytest.mark.parametrize("what", ["settings", pytest.param("backend", marks=pytest.mark.slow)])
def test_later_checkpoints_of_another_run_never_cost_this_one_its_own(what, killed, tmp_path):
    """They are passed over, and gone as soon as there is a checkpoint to keep in their place."""
    changed = killed.but(killed.folder, every=1, **FOREIGN[what])
    undisturbed = changed.but(tmp_path / "undisturbed")
    assert undisturbed.run() == 0
    assert changed.run(partial(faults.kill_after_round, 3)) == -signal.SIGKILL
    messages = changed.said()
    assert len(messages) == 2 and all(f"({what} differ)" in line for line in messages)
    kept = sorted(path.name for path in changed.checkpoints.iterdir())
    assert kept == ["round-0000001.safetensors", "round-0000002.safetensors"]
    assert changed.run() == 0
    assert changed.said() == ["goes on after round 2 of 12"]
    assert changed.results() == undisturbed.results()


def test_a_checkpoint_of_other_data_is_passed_over(killed, tmp_path):
    """The same settings and code; one training image has another pixel."""
    from fedgloss.data.dataset import load
    from fedgloss.data.partition.partition import make_partition
    from fedgloss.files import sha256, write_json

    other = tmp_path / "other"
    other.mkdir()
    tensors = load_tensors(killed.inputs["data"] / "data.safetensors")
    tensors["train_images"][0] ^= 1
    save_tensors(other / "data.safetensors", tensors)
    manifest = json.loads((killed.inputs["data"] / "manifest.json").read_text())
    digest = sha256(other / "data.safetensors")
    before = sha256(killed.inputs["data"] / "data.safetensors")
    write_json(other / "manifest.json", json.loads(json.dumps(manifest).replace(before, digest)))
    partition = tmp_path / "other.json"
    make_partition(load(other), partition, scheme="dirichlet", clients=50, alpha="0", seed=0)
    changed = killed.but(killed.folder, inputs={"data": other, "partition": partition})
    assert changed.run() == 0
    messages = changed.said()
    assert len(messages) == 2
    assert all("another run (data, partition differ)" in line for line in messages)
    undisturbed = changed.but(tmp_path / "undisturbed")
    assert undisturbed.run() == 0
    assert changed.results() == undisturbed.results()
