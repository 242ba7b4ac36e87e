"""Several jobs on a machine with several GPUs: each takes the one with the fewest others on it.

A claim is a locked file, so it ends with the process, however that ends. Only jobs of this program
and this user see each other's claims; a cluster's scheduler shows each job its own GPU alone, and
then there is nothing to choose.
"""

import fcntl
import itertools
import os
import tempfile
from pathlib import Path
from typing import IO

_held: dict[tuple[str, ...], tuple[int, IO[str]]] = {}  # the file stays open, and so locked


def claim(count: int, folder: Path | None = None) -> int:
    """The index of the GPU that this process is to use, out of `count` visible ones.

    Asked again, a process gets the same answer. folder: where the locks are (default: a folder of
    this user's below the system's temporary one).
    """
    names = tuple(_names(count))
    folder = folder or Path(tempfile.gettempdir()) / f"fedgloss-gpus-{os.getuid()}"
    if names not in _held:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The first job on each GPU locks its place 0; when all are taken, the next ones place 1.
        places = ((place, index) for place in itertools.count() for index in range(count))
        _held[names] = next(
            (index, file)
            for place, index in places
            if (file := _lock(folder / f"{names[index]}-{place}"))
        )
    return _held[names][0]


def _lock(path: Path) -> IO[str] | None:
    """The file, locked; None if another process has locked it."""
    file = open(path, "w")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _names(count: int) -> list[str]:
    """What the visible GPUs are called by all processes alike, whatever each of them may see."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return visible if len(visible) == count else [str(index) for index in range(count)]
