"""Snakemake without the seconds of its start: a call is forked from a process that has imported it.

Each call is still a process of its own, with its own folder, environment and output, and imports
this project's code anew, which may be a copy's. Only installed packages are there already.
"""

import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

# What a run of Snakemake imports, also where it does so late.
PACKAGES = (
    *("snakemake.cli", "snakemake.report", "snakemake_logger_plugin_rich", "yte", "jinja2"),
    *("docutils.core", "requests", "rich.markdown", "smart_open", "platformdirs", "statistics"),
)


def snakemake(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """What `snakemake ARGUMENTS` says in a folder; it is ended (SIGALRM) after so many seconds."""
    server = _server()
    with tempfile.NamedTemporaryFile("r") as output, tempfile.NamedTemporaryFile("r") as errors:
        call = [[*arguments], str(folder), {**environment}, math.ceil(seconds)]
        server.stdin.write(json.dumps([*call, output.name, errors.name]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, output.read(), errors.read())


@cache
def _server() -> subprocess.Popen[str]:
    """One for each process of tests; it ends when that does."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)


def _serve() -> None:
    """Answer each line of calls with the exit code, or minus the signal that ended it."""
    for package in PACKAGES:
        import_module(package)
    assert "fedgloss" not in sys.modules
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(*json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    seconds: int,
    output: str,
    errors: str,
) -> None:
    """Be the command; does not return."""
    signal.alarm(seconds)
    for number, file in enumerate((os.devnull, output, errors)):
        os.dup2(os.open(file, os.O_RDWR), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    command = shutil.which("snakemake")
    assert command
    sys.argv = [command, *arguments]
    sys.path[:1] = [str(Path(command).parent), *environment["PYTHONPATH"].split(os.pathsep)]
    sys.exit(import_module("snakemake.cli").main())


if __name__ == "__main__":
    _serve()
