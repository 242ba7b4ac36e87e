"""Files that appear whole or not at all, JSON, and hashes."""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedgloss.errors import InputError


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success flush it to disk and rename it into place.

    A reader therefore sees the old file, or the whole new one. After an exception the temporary
    file is gone and `path` is as it was; what a killed process left is removed by the next writer.
    Raises OSError, which names `path` if it names nothing else.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, glob.escape(path.name))
    temporary, held = _temporary_beside(path)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk's error names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(held)


def _temporary_beside(path: Path) -> tuple[Path, int]:
    """A new file, and the descriptor whose lock says that its writer lives: the kernel frees it."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        held = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if temporary.exists():  # else it was taken for a leftover before it was locked
            return temporary, held
        os.close(held)


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove the temporary files of killed processes beside the files `name`, a glob pattern."""
    for path in folder.glob(f".{name}.*.tmp"):
        with contextlib.suppress(OSError), open(path, "rb+") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its writer lives
            path.unlink()


def check_folder(folder: Path | str) -> Path:
    """Refuse what is no folder and cannot become one; the nearest folder that is there, or it."""
    folder = Path(folder)
    places = (folder, *folder.absolute().parents)
    existing = next(path for path in places if os.path.lexists(path))
    what = "" if existing == folder else f"cannot be made here, {existing} "
    if not existing.exists():  # its target may be on a disk that is not mounted
        target = os.readlink(existing)
        raise InputError(f"{folder}: {what}is a link to {target}, which is not there")
    if not existing.is_dir():
        raise InputError(f"{folder}: {what}is not a folder")
    return existing


def check_writable(folder: Path | str) -> None:
    """Refuse early if results cannot be written."""
    existing = check_folder(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        what = "" if existing == Path(folder) else f"cannot be made here, {existing} "
        raise InputError(f"{folder}: {what}is not writable")


def write_text(path: Path | str, text: str) -> None:
    """Write `text` atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError if it is none, or gives a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"{next(k for k in keys if keys.count(k) > 1)!r} is given twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path | str) -> Any:
    """Read JSON; a missing or broken file is an InputError that names it."""
    try:
        # "-sig": editors on Windows write a byte-order mark, which is no part of the text.
        return parse_json(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
