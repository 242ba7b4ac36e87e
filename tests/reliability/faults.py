"""What happens to a trainer: prepared inside its process, before the command runs.

Each dies by a signal of the kernel's, so nothing of Python's runs after it.
"""

import builtins
import importlib
import os
import resource
import signal
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path

CALLS = ("mkdir", "open", "fsync", "replace", "close", "unlink", "rmdir")
SAVE = "fedgloss.engine.checkpoint:Checkpoints.save"
LOAD = "fedgloss.engine.checkpoint:Checkpoints.load"
CLEAR = "fedgloss.engine.checkpoint:Checkpoints.clear"
WRITE_RESULTS = "fedgloss.jobs.train:write_results"


def die() -> None:
    """SIGKILL: no handler, no `finally`, no flushing of buffers."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def kill_after_round(k: int) -> None:
    """SIGKILL after round k, before anything is written about it."""
    on_each_round(lambda t: die() if t == k else None)


def stop_after_round(k: int) -> None:
    """SIGSTOP after round k: the process stands still until SIGCONT."""
    on_each_round(lambda t: os.kill(os.getpid(), signal.SIGSTOP) if t == k else None)


def log_rounds(file: Path) -> None:
    """Write each round's number into `file`, as soon as it is done."""
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    on_each_round(lambda t: os.write(log, f"{t}\n".encode()))


def slow_rounds(seconds: float, file: Path) -> None:
    """As on a slower machine; and `log_rounds`."""
    import time

    log_rounds(file)
    on_each_round(lambda t: time.sleep(seconds))


def on_each_round(action: Callable[[int], object]) -> None:
    """Do something after each round."""
    from fedgloss.progress import Progress

    shown = Progress.__call__

    def then(self, t, row):
        shown(self, t, row)
        action(t)

    Progress.__call__ = then


def kill_at_call(inside: str, number: int, after: bool, nth: int = 1) -> None:
    """SIGKILL before or after the number-th operation on files during the nth call of a function.

    `inside`: "module:name", or "module:class.name". Operations: `CALLS`.
    """
    count = 0

    def each(call: str, before: bool) -> None:
        nonlocal count
        count += before
        if count == number and before != bool(after):
            die()

    _during(inside, nth, partial(_watch_calls, each))


def kill_at_byte(inside: str, byte: int, nth: int = 1) -> None:
    """End the process in the middle of a write: when a file would grow beyond so many bytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (byte, resource.RLIM_INFINITY))

    _during(inside, nth, limit)


def stop_at_call(inside: str, number: int, nth: int = 1) -> None:
    """SIGSTOP before the number-th operation: the process stands still until SIGCONT."""
    count = 0

    def each(call: str, before: bool) -> None:
        nonlocal count
        count += before
        if before and count == number:
            os.kill(os.getpid(), signal.SIGSTOP)

    _during(inside, nth, partial(_watch_calls, each), survives=True)


def count_calls(inside: str, file: Path, nth: int = 1) -> None:
    """Write the names of a function's operations on files into `file`, one a line."""
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def each(call: str, before: bool) -> None:
        if before:
            os.write(log, f"{call}\n".encode())

    _during(inside, nth, partial(_watch_calls, each))


def _watch_calls(each: Callable[[str, bool], None]) -> None:
    def watched(name: str, call: Callable) -> Callable:
        @wraps(call)
        def wrapper(*args, **kwargs):
            each(name, True)
            try:
                return call(*args, **kwargs)
            finally:
                each(name, False)

        return wrapper

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    builtins.open = watched("open", builtins.open)


def _during(inside: str, nth: int, begin: Callable[[], None], survives: bool = False) -> None:
    """Call `begin` when the function is entered for the nth time; the process ends in there."""
    module, name = inside.split(":")
    holder = importlib.import_module(module)
    *classes, name = name.split(".")
    for part in classes:
        holder = getattr(holder, part)
    function = getattr(holder, name)
    entered = 0

    @wraps(function)
    def wrapper(*args, **kwargs):
        nonlocal entered
        entered += 1
        if entered == nth:
            begin()
        result = function(*args, **kwargs)
        if entered == nth and not survives:
            os._exit(0)
        return result

    setattr(holder, name, wrapper)


def jumping_clock() -> None:
    """Each look at the wall clock is years before or after the last."""
    import time

    state = {"n": 0}

    def jump() -> float:
        state["n"] += 1
        return 1e9 * (-1) ** state["n"]

    time.time, time.time_ns = jump, lambda: int(jump() * 1e9)


def no_locks() -> None:
    """A file system without locks, as some network disks are."""
    import errno
    import fcntl

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl.flock = flock
