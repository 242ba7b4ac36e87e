"""Records that one job leaves for another, checked when they are read: a file may be damaged."""

from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from fedgloss.errors import InputError
from fedgloss.files import read_json

LARGEST = 3.4028234663852886e38
"""Of float32, which numbers go into and come out of: torch refuses larger ones."""


def is_finite(value: object) -> bool:
    """Whether a value is a number, no truth value, and finite as float32."""
    number: Any = value  # an integer beyond the range of floats is compared, not converted
    return isinstance(value, Real) and not isinstance(value, bool) and abs(number) <= LARGEST


class Kind(NamedTuple):
    """What an entry must be: in words, and as a test."""

    words: str
    fits: Callable[[Any], bool]

    @property
    def or_null(self) -> "Kind":
        """The same, or null."""
        return Kind(f"{self.words} or null", lambda value: value is None or self.fits(value))

    @property
    def by_name(self) -> "Kind":
        """Entries of this kind by name."""
        return Kind(
            f"keys and values, each {self.words}",
            lambda value: isinstance(value, dict) and all(map(self.fits, value.values())),
        )

    @property
    def listed(self) -> "Kind":
        """A list of this kind."""
        return Kind(
            f"a list, each entry {self.words}",
            lambda value: isinstance(value, list) and all(map(self.fits, value)),
        )


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # JSON and YAML can write half a character
        return False


TEXT = Kind("text", _is_text)
NUMBER = Kind("a finite number", is_finite)
COUNT = Kind("an integer of at least 0", lambda value: type(value) is int and 0 <= value < 2**63)
POSITIVE = Kind("an integer of at least 1", lambda value: type(value) is int and 1 <= value < 2**63)
PERCENTAGE = Kind("a percentage", lambda value: is_finite(value) and 0 <= value <= 100)
STATUS = Kind("completed or diverged", lambda value: value in ("completed", "diverged"))


def read_record(file: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON file whose entries are as wanted; InputError names the first that is not."""
    record = read_json(file)
    check_record(file, record, wanted)
    return record


def check_record(file: Path, record: Any, wanted: Mapping[str, Any], where: str = "") -> None:
    """InputError for the first entry that is missing or not of its `Kind`; others are ignored.

    wanted: by key a `Kind`, or the same mapping for a record within.
    """
    if not isinstance(record, dict):
        raise InputError(f"{file}: {where or 'top level'}: expected keys and values")
    for key, kind in wanted.items():
        name = f"{where}.{key}" if where else key
        if key not in record:
            raise InputError(f"{file}: {name}: missing, must be given")
        if isinstance(kind, Mapping):
            check_record(file, record[key], kind, name)
        elif not kind.fits(record[key]):
            raise InputError(f"{file}: {name}: {record[key]!r:.60} is not {kind.words}")
