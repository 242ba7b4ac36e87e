"""The folder of `fedgloss.train(resume=...)`: whether checkpoints can be written there."""

import contextlib
import os
import tempfile
from pathlib import Path

from fedgloss.errors import InputError
from fedgloss.records import is_finite

LONGEST_NAME = ".history-0000000-0000000.safetensors.00000000.tmp"
"""Of what is written into a folder (files.py), as long as the longest file's name."""
OWN, OWN_END = ("round-", "history-"), ".safetensors"
"""How the files of checkpoints are named (checkpoint.py)."""


def resume_folder(resume: Path | str | None, seconds: float) -> Path | None:
    """The folder of `fedgloss.train(resume=...)`, absolute, if checkpoints can be written there.

    Nothing is left there yet. Raises InputError naming the argument.
    """
    if isinstance(seconds, bool) or not is_finite(seconds) or seconds < 0:
        raise InputError(
            f"checkpoint_seconds: {seconds!r:.60} is not a finite number of at least 0"
        )
    if resume is None:
        return None
    if not isinstance(resume, (str, os.PathLike)) or not str(resume):
        raise InputError(f"resume: {resume!r:.60} is not a folder: give its path (a str or a Path)")
    try:
        folder = Path(resume).expanduser().resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(folder / LONGEST_NAME)  # it may be too long, or behind a closed door
        there = next(place for place in (folder, *folder.parents) if place.exists())
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error  # a file's name is in the whole of it
        raise InputError(
            f"resume: {shown(str(resume))!r} cannot be used as a folder ({why!s:.60})"
        ) from None
    if not there.is_dir():
        raise InputError(f"resume: {shown(folder)} cannot be a folder: {shown(there)} is a file")
    if there == folder and not _is_ours(folder):
        raise InputError(
            f"resume: {shown(folder)} holds other files and no checkpoint; give a folder of its own"
        )
    if not folder.name or not _takes_folders(there):
        raise InputError(f"resume: {shown(folder)} is not writable; give a folder for checkpoints")
    return folder


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds a checkpoint, damaged or not, or nothing that is not hidden."""
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    return not names or any(name.startswith(OWN) and name.endswith(OWN_END) for name in names)


def _takes_folders(folder: Path) -> bool:
    """Whether something can be made in a folder: what is asked of /proc says yes to root."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".fedgloss-", dir=folder))
    except OSError:
        return False
    return True


def shown(path: Path | str) -> str:
    """A path for a message: whole, so that it is found again, unless it is far too long to read."""
    return str(path) if len(str(path)) <= 255 else f"{str(path)[:60]}..."
