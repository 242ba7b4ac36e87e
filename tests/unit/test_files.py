"""Files appear whole or not at all."""

import json
import multiprocessing
import os
import threading

import pytest

from fedgloss.files import atomic, read_json, sha256, write_json, write_text
from refusal import refused


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.csv"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic(path) as temporary:
        temporary.write_text("half of the new")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_a_failed_first_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a" / "manifest.json", {"loss": float("nan")})
    with pytest.raises(ValueError), atomic(tmp_path / "a" / "final") as temporary:
        temporary.write_bytes(b"half")
        raise ValueError
    assert os.listdir(tmp_path / "a") == []


def test_until_the_end_readers_see_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_concurrent_readers_see_whole_files_only(tmp_path):
    path, size = tmp_path / "file", 1 << 20
    write_text(path, "a" * size)
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            text = path.read_text()
            seen.add((text[0], text == text[0] * size))

    reader = threading.Thread(target=read)
    reader.start()
    for letter in "bcdefghijkabcdefghijk":
        write_text(path, letter * size)
    done.set()
    reader.join()
    assert len(seen) > 1 and all(whole for _, whole in seen)


def _write_often(path, letter):
    for _ in range(25):
        write_text(path, letter * (1 << 18))


def test_processes_that_write_the_same_file_do_not_mix(tmp_path):
    path = tmp_path / "file"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_often, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert path.read_text() in ("a" * (1 << 18), "b" * (1 << 18))
    assert os.listdir(tmp_path) == ["file"]


def test_writing_makes_the_folders_above_and_keeps_the_permissions_of_new_files(tmp_path):
    write_text(tmp_path / "a" / "b" / "c", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "a/b/c").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_keeps_numbers_exactly(tmp_path):
    value = {"loss": 0.1 + 0.2, "n": 2**60, "text": "Übung ✓", "none": None, "list": [1.0, 1]}
    write_json(tmp_path / "x.json", value)
    read = read_json(tmp_path / "x.json")
    assert read == value
    assert [type(n) for n in read["list"]] == [float, int]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_that_other_programs_cannot_read_is_never_written(tmp_path, number):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": number})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"a": 1}}', b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000]
)
def test_broken_json_is_refused_by_name(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with refused(path, "not valid JSON"):
        read_json(path)


def test_missing_files_and_folders_are_refused_by_name(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path):
        with refused(path, "cannot be read"):
            read_json(path)


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert sha256(tmp_path / "abc") == expected


def test_write_json_ends_with_a_newline_and_is_sorted_as_given(tmp_path):
    write_json(tmp_path / "x.json", {"b": 1, "a": 2})
    text = (tmp_path / "x.json").read_text()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["b", "a"]
