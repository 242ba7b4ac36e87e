"""Hostile inputs: damage to files, first key by key, then at random; and what a refusal must be.

Every case is a function of a seed, so a failure repeats; a failed assertion says which case it was.
The guards of `bounded` are far from any honest need: they turn a hang, or memory without end, into
a failure with the case that caused it.
"""

import contextlib
import copy
import io
import itertools
import json
import math
import os
import random
import resource
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedgloss.cli import main

SECONDS, BYTES = 60, 3 * 2**30  # what one command may take beyond what the process has already

# One value of every kind that is nearly always wrong, and some that are nearly right.
WRONG: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, -0.0, math.nan, math.inf, -math.inf, 1e308, 5e-324),
    *(2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**25, 10**400),
    *("", "x", "0", "1", "nan", "None", "a\nb", "nul\0", "\ud800", "\x1b[2J\r", "é\u2028ü", "🦊"),
    *("../../x", "/etc/passwd", "-x", "$(touch pwned)", "x" * 5000, "9" * 5000, ":f", ".a:b"),
    *([], {}, [[]], [None], [-1], [math.nan], ["x"], {"x": 1}, {"": {}}, [[[[[]]]]]),
)
# Text that takes the place of a piece of a text file.
PIECES: tuple[bytes, ...] = (
    *(
        b"",
        b"NaN",
        b"Infinity",
        b"-1",
        b"1e400",
        b"9" * 400,
        b"9" * 5000,
        b"0x10",
        b"1_000",
        b"null",
    ),
    *(b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\x1b[2J", b"\x85"),
    *(
        b'"',
        b"'",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\",
        b"[" * 3000,
        b'{"a":' * 3000,
        b"x" * 70000,
    ),
    *(
        b"&a ",
        b"*a",
        b"!!python/object/apply:os.system [touch pwned]",
        b"<<: ",
        b"? ",
        b"- ",
        b"---\n",
    ),
)


class Case(NamedTuple):
    """A damaged value or text: what was done, the key it was done to ("" at random), the result."""

    what: str
    key: str
    value: Any


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every entry of a nested structure."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in entries:
        yield (*path, key)
        if isinstance(child, (dict, list)):
            yield from places(child, (*path, key))


def at(value: Any, path: Sequence) -> Any:
    """What lies at a path."""
    for key in path:
        value = value[key]
    return value


def key_by_key(good: Any, seed: str, wrong: int = 6) -> Iterator[Case]:
    """Every entry dropped; renamed; given `wrong` values of other kinds."""
    for path in places(good):
        key = next((str(k) for k in reversed(path) if isinstance(k, str)), "")
        where = ".".join(map(str, path))
        damaged = copy.deepcopy(good)
        del at(damaged, path[:-1])[path[-1]]
        yield Case(f"{where} dropped", key, damaged)
        if isinstance(at(good, path[:-1]), dict):
            damaged = copy.deepcopy(good)
            holder = at(damaged, path[:-1])
            holder[f"{path[-1]}x"] = holder.pop(path[-1])
            yield Case(f"{where} renamed", key, damaged)
        for value in random.Random(f"{seed} {where}").sample(WRONG, wrong):
            damaged = copy.deepcopy(good)
            at(damaged, path[:-1])[path[-1]] = copy.deepcopy(value)
            yield Case(f"{where} = {value!r:.60}", key, damaged)


def at_random(good: Any, seed: str, count: int) -> Iterator[Case]:
    """One to four random changes of the structure: moved, repeated, nested, replaced, added."""
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        damaged, said = copy.deepcopy(good), []
        for _ in range(chance.randint(1, 4)):
            said.append(_change(damaged, chance))
        yield Case(f"{seed} {number}: {'; '.join(said)}", "", damaged)


def _change(damaged: Any, chance: random.Random) -> str:
    path = chance.choice([*places(damaged)] or [()])
    if not path:
        return "nothing left"
    where, holder, key = ".".join(map(str, path))[:60], at(damaged, path[:-1]), path[-1]
    how = chance.choice(["move", "repeat", "nest", "replace", "number", "add", "drop", "shuffle"])
    if how == "move":
        holder[key] = copy.deepcopy(at(damaged, chance.choice([*places(damaged)])))
    elif how == "repeat" and isinstance(holder, list):
        holder.extend(copy.deepcopy(holder[key]) for _ in range(chance.choice([1, 2, 50])))
    elif how == "nest":
        depth = chance.choice([1, 2, 90])
        for _ in range(depth):
            holder[key] = [holder[key]] if chance.random() < 0.5 else {"x": holder[key]}
    elif how == "number" and type(holder[key]) in (int, float):
        factor = chance.choice([-1, 0, 2, 1e-300, 1e300, math.inf, math.nan])
        holder[key] = factor * holder[key]
    elif how == "add" and isinstance(holder, dict):
        holder[chance.choice([f"{key} ", "", "x\n", "\ud800", "__proto__", "0"])] = copy.deepcopy(
            chance.choice(WRONG)
        )
    elif how == "drop":
        del holder[key]
    elif how == "shuffle" and isinstance(holder, list):
        chance.shuffle(holder)
    else:
        holder[key] = copy.deepcopy(chance.choice(WRONG))
    return f"{how} {where}"


def bytes_at_random(good: bytes, seed: str, count: int) -> Iterator[Case]:
    """One to three random changes of the bytes: flipped, cut, doubled, replaced."""
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        damaged, said = good, []
        for _ in range(chance.randint(1, 3)):
            how = chance.choice(["flip", "cut", "double", "remove", "replace", "replace", "insert"])
            i, j = sorted(chance.randrange(len(damaged) + 1) for _ in range(2))
            if chance.random() < 0.7:
                j = min(j, i + chance.choice([1, 4, 20]))
            piece = chance.choice(PIECES)
            if how == "flip" and i < len(damaged):
                damaged = (
                    damaged[:i] + bytes([damaged[i] ^ 1 << chance.randrange(8)]) + damaged[i + 1 :]
                )
            elif how == "cut":
                damaged = damaged[:i]
            elif how == "double":
                damaged = damaged[:j] + damaged[i:j] + damaged[j:]
            elif how == "remove":
                damaged = damaged[:i] + damaged[j:]
            elif how == "replace":
                damaged = damaged[:i] + piece + damaged[j:]
            else:
                damaged = damaged[:i] + piece + damaged[i:]
            said.append(f"{how} {i}:{j} {piece[:12]!r}")
        yield Case(f"{seed} {number}: {'; '.join(said)}", "", damaged)


def as_json(value: Any) -> bytes:
    """JSON as Python writes it, NaN and half surrogates included."""
    return json.dumps(value).encode()


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """More memory than BYTES is a MemoryError inside, more time than SECONDS a TimeoutError."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, before[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


def fedgloss(*arguments: object) -> tuple[int, list[str]]:
    """Run a command in this process: its exit code, and the lines on standard error."""
    shown = io.StringIO()
    with bounded(), contextlib.redirect_stderr(shown), contextlib.redirect_stdout(io.StringIO()):
        code = main([str(argument) for argument in arguments])
    # How far the decoding of images got is told before the reason why it stopped.
    return code, [line for line in shown.getvalue().splitlines() if not line.startswith("decoded")]


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below a folder: inode, size and time of change of each entry.

    Decoded images that wait for the next attempt at a data set are no output (see `data.store`).
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith(".data.safetensors"):
            facts = os.lstat(path)
            changed = 0 if path.is_dir() else facts.st_mtime_ns
            found[str(path)] = (facts.st_ino, facts.st_size, changed)
    return found


def accepted(what: str, arguments: Sequence[object], out: Path, words: Sequence = ()) -> bool:
    """Run a command: False if it refuses, with exit code 2 and one line that has one of `words`.

    A refusal leaves everything below the folder `out` as it was.
    """
    before = snapshot(out)
    try:
        code, lines = fedgloss(*arguments)
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    if code == 0:
        return True
    assert (code, len(lines)) == (2, 1), f"{what}: {code} {lines}"
    assert lines[0].startswith("fedgloss: error: ") and lines[0].isprintable(), f"{what}: {lines}"
    assert any(str(word) in lines[0] for word in words or [""]), f"{what}: {lines[0]}: no {words}"
    assert snapshot(out) == before, f"{what}: the refusal left something behind"
    return False


class Damage:
    """One file of a project, damaged case by case, while a command that reads it is run."""

    def __init__(
        self,
        file: Path,
        command: Sequence[object],
        out: Path,
        good: Any = None,
        every: int = 1,
    ) -> None:
        """good: a value to be written as JSON, instead of what the file holds; it must be taken.

        every: of the cases, one in so many is run.
        """
        self.file, self.command, self.out, self.every = file, command, out, every
        if good is not None:
            file.write_bytes(good if isinstance(good, bytes) else as_json(good))
        self.good = file.read_bytes()
        out.mkdir(exist_ok=True)
        assert accepted("undamaged", command, out)
        self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self.out)
        self.out.mkdir()

    def __call__(self, cases: Iterable[Case], words: Sequence[str] = (), keys: bool = True) -> None:
        """Run all cases; a refusal says the key that was damaged (if `keys`), or one of `words`."""
        counts = {True: 0, False: 0}
        try:
            for case in itertools.islice(cases, 0, None, self.every):
                content = case.value if isinstance(case.value, bytes) else as_json(case.value)
                self.file.write_bytes(content)
                said = [case.key] if keys and case.key else [self.file.name]
                fate = accepted(case.what, self.command, self.out, [*said, *words])
                counts[fate] += 1
                if fate:
                    self._clear()
        finally:
            self.file.write_bytes(self.good)
        assert counts[False] > counts[True] / 10, f"hardly anything is refused: {counts}"
