"""Our safetensors reader and writer against the format's reference library, and hostile files."""

import json
import math
import os
import pickle
import resource
import struct

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedgloss.errors import InputError
from fedgloss.tensors import DTYPES, load_metadata, load_tensors, safetensors_layout, save_tensors
from refusal import refused

fuzz = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (2, 3, 5)]


def values(dtype, shape):
    """Values that use every byte: random bits (a byte of a bool is 0 or 1)."""
    generator = torch.Generator().manual_seed(0)
    size, limit = math.prod(shape) * dtype.itemsize, 2 if dtype == torch.bool else 256
    raw = torch.randint(limit, (size,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def same(a, b):
    """Equal type, shape and bytes (NaN included)."""
    a, b = a.contiguous().reshape(-1), b.contiguous().reshape(-1)
    return a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


ALL = {
    f"{name}{list(shape)}": values(dtype, shape)
    for name, dtype in DTYPES.items()
    for shape in SHAPES
}


def test_the_reference_library_reads_what_we_write(tmp_path):
    save_tensors(tmp_path / "x.safetensors", ALL, {"round": "7", "text": "Übung ✓"})
    theirs = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert theirs.keys() == ALL.keys()
    for name, tensor in ALL.items():
        assert same(theirs[name], tensor) and theirs[name].shape == tensor.shape, name
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"round": "7", "text": "Übung ✓"}


def test_we_read_what_the_reference_library_writes(tmp_path):
    safetensors.torch.save_file(ALL, tmp_path / "x.safetensors", {"round": "7"})
    ours = load_tensors(tmp_path / "x.safetensors")
    assert ours.keys() == ALL.keys()
    for name, tensor in ALL.items():
        assert same(ours[name], tensor) and ours[name].shape == tensor.shape, name
    assert load_metadata(tmp_path / "x.safetensors") == {"round": "7"}


def test_the_same_tensors_give_the_same_bytes_in_any_order(tmp_path):
    save_tensors(tmp_path / "a", ALL)
    save_tensors(tmp_path / "b", dict(reversed(ALL.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_non_contiguous_expanded_and_gradient_carrying_tensors_are_written_by_value(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.T,
        "strided": base[::2, 1::3],
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "gradient": base.clone().requires_grad_(),
        "model": torch.nn.Linear(2, 3).weight,
    }
    save_tensors(tmp_path / "x", tensors)
    for name, tensor in safetensors.torch.load_file(tmp_path / "x").items():
        assert torch.equal(tensor, tensors[name]), name


def test_no_tensors_at_all_is_a_file_too(tmp_path):
    save_tensors(tmp_path / "x", {}, {"a": "b"})
    assert load_tensors(tmp_path / "x") == {}
    assert load_metadata(tmp_path / "x") == {"a": "b"}
    assert safetensors.torch.load_file(tmp_path / "x") == {}


def test_writing_into_a_loaded_tensor_does_not_write_into_the_file(tmp_path):
    save_tensors(tmp_path / "x", {"a": torch.zeros(5)})
    load_tensors(tmp_path / "x")["a"] += 1
    assert torch.equal(load_tensors(tmp_path / "x")["a"], torch.zeros(5))


def test_loading_maps_the_file_and_reads_only_what_is_touched(tmp_path):
    """4 GiB, nearly all a hole: reading it would take as much memory."""
    size = 2**32
    header, _, total = safetensors_layout({"a": (torch.uint8, (size,))})
    with open(tmp_path / "x", "wb") as file:
        file.write(header)
        file.truncate(total)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tensor = load_tensors(tmp_path / "x")["a"]
    assert tensor.shape == (size,) and tensor[-1] == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 2**10  # KiB


def test_the_layout_gives_every_tensor_an_aligned_place(tmp_path):
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in ALL.items()}
    header, places, size = safetensors_layout(specs, {"a": "b"})
    assert len(header) % 8 == 0
    assert list(places.values()) == sorted(places.values())
    for name, place in places.items():
        assert place % ALL[name].dtype.itemsize == 0
    assert size == len(header) + sum(t.numel() * t.element_size() for t in ALL.values())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    save_tensors(tmp_path / "x", {"a": torch.ones(3)})
    with pytest.raises(KeyError):  # complex numbers are not part of the format
        save_tensors(tmp_path / "x", {"a": torch.ones(3, dtype=torch.complex64)})
    assert torch.equal(load_tensors(tmp_path / "x")["a"], torch.ones(3))
    assert os.listdir(tmp_path) == ["x"]


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.arange(6.0), "b": torch.tensor(True)}, {"round": "1"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with refused(path):
            load_tensors(path)


def load(path, content):
    """Load these bytes: the tensors, or None if they are refused as they should be."""
    path.write_bytes(content)
    try:
        load_metadata(path)
        return load_tensors(path)
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None


@fuzz
@given(st.binary(max_size=200))
@example(b"")
@example(b"\0" * 8)
@example(b"\xff" * 8)
@example(b"\xff" * 300)
def test_random_bytes_are_refused(tmp_path, content):
    assert load(tmp_path / "x", content) in (None, {})


@fuzz
@given(st.data())
def test_flipped_bytes_give_other_numbers_or_a_refusal(tmp_path, data):
    save_tensors(tmp_path / "good", {"a": torch.arange(6.0), "b": torch.ones(2, 2)}, {"r": "1"})
    content = bytearray((tmp_path / "good").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    for tensor in (load(tmp_path / "x", bytes(content)) or {}).values():
        assert tensor.numel() * tensor.element_size() <= len(content)


def framed(header: bytes, content: bytes = bytes(64)) -> bytes:
    return struct.pack("<Q", len(header)) + header + content


numbers = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63), 10**40]),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
)
entries = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.one_of(st.sampled_from([*DTYPES, "F8_E4M3", "f32", ""]), numbers),
            "shape": st.one_of(st.lists(numbers, max_size=5), numbers),
            "data_offsets": st.one_of(st.lists(numbers, max_size=3), numbers),
        },
    ),
    numbers,
    st.lists(numbers, max_size=2),
)


@fuzz
@given(st.one_of(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), entries), entries))
@example({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, float("inf")]}})
@example({"a": {"dtype": "F32", "shape": [float("nan")], "data_offsets": [0, 16]}})
@example({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}})
@example({"a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}})
@example({"a": {"dtype": "F32", "shape": [0, 2**70], "data_offsets": [0, 0]}})
@example({"a": {"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}})
@example({"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}})
@example({"a": {"dtype": "F32", "shape": [4], "data_offsets": [56, 72]}})
@example({"a": {"dtype": [], "shape": [4], "data_offsets": [0, 16]}})
@example({"a": {"dtype": "F32", "shape": "4", "data_offsets": [0, 16]}})
@example({"a": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}})
@example({"__metadata__": {"round": 5}})
def test_hostile_headers_are_refused(tmp_path, header):
    tensors = load(tmp_path / "x", framed(json.dumps(header).encode()))
    for tensor in (tensors or {}).values():
        assert tensor.numel() * tensor.element_size() <= 64


@pytest.mark.parametrize(
    "content",
    [
        framed(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        framed(b"[" * 100_000),
        framed(b'{"a": ' + b"9" * 10_000 + b"}"),
        framed(b"\xff\xfe{}"),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 90 * 2**20) + b"{}",
    ],
    ids=["deep object", "deep list", "long number", "not UTF-8", "2**63", "90 MiB"],
)
def test_headers_made_to_exhaust_a_reader_are_refused(tmp_path, content):
    assert load(tmp_path / "x", content) is None


def test_headers_beyond_the_formats_limit_are_refused_unread(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        file.write(struct.pack("<Q", 2**40))
        file.truncate(2**40 + 8)  # a hole: the length is true, and still too long
    with refused(tmp_path / "x", "not a safetensors file"):
        load_tensors(tmp_path / "x")


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_named_safetensors_is_refused_and_never_run(tmp_path, protocol):
    marker = tmp_path / "exploded"
    content = pickle.dumps(Bomb(marker), protocol)
    pickle.loads(content).close()
    assert marker.exists(), "the bomb works"
    marker.unlink()
    assert load(tmp_path / "x.safetensors", content) is None
    assert load(tmp_path / "y.safetensors", framed(content)) is None
    torch.save({"w": torch.ones(3), "bomb": Bomb(marker)}, tmp_path / "z.safetensors")
    with refused(tmp_path / "z.safetensors"):
        load_tensors(tmp_path / "z.safetensors")
    assert not marker.exists()


def test_missing_files_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with refused(path, "cannot be read"):
            load_tensors(path)
