"""Values that a job has computed already, kept beside its output until that is whole.

A job that was killed goes on behind the last one. The file is none that the workflow knows of,
since it deletes a job's outputs before the job and after its failure.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fedgloss.files import write_text

T = TypeVar("T")
Values = tuple[float, float]
"""What a job computes at a point."""
Through = Callable[[Callable[[T], Values], Iterable[T]], Iterator[Values]]


@contextmanager
def kept(
    out: Path, identity: Mapping[str, Any], then: Callable[[int], None] = lambda count: None
) -> Iterator[Through[Any]]:
    """A stand-in for `map` that looks values up, or computes and keeps them, for a job's `out`.

    identity: all that decides the values, as JSON; what was kept under another is not used.
    then: called with the number of values there are, after each that had to be computed. When the
    block ends without an exception, `out` has been written and what was kept is removed.
    """
    file = out.with_name(f".{out.name}.kept")
    head = json.dumps(identity, sort_keys=True, allow_nan=False)
    known = _read(file, head)

    def through(compute: Callable[[T], Values], points: Iterable[T]) -> Iterator[Values]:
        # What was half written goes; the rest is what it was.
        whole = [head, *(_line(index, values) for index, values in enumerate(known))]
        write_text(file, "".join(f"{line}\n" for line in whole))
        with open(file, "a", encoding="utf-8") as lines:
            for index, point in enumerate(points):
                if index < len(known):
                    yield known[index]
                    continue
                values = compute(point)
                lines.write(f"{_line(index, values)}\n")
                lines.flush()
                then(index + 1)
                yield values

    yield through
    file.unlink(missing_ok=True)


def _line(index: int, values: Values) -> str:
    """A line of the file; the shortest digits that are read back as the same numbers."""
    return json.dumps([index, *values])


def _read(file: Path, head: str) -> list[Values]:
    """The values of the lines that are whole and in their place, up to the first that is not."""
    try:
        found, *lines = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except (OSError, ValueError):
        return []
    values: list[Values] = []
    for line in lines if found == head else ():
        try:
            index, first, second = json.loads(line)
        except (ValueError, TypeError):
            break
        if index != len(values) or not (isinstance(first, float) and isinstance(second, float)):
            break
        values.append((first, second))
    return values
