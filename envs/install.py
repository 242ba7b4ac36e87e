"""Run pip and say how far it is: one line on a terminal, a line for each half minute elsewhere.

    python envs/install.py ARGUMENTS OF PIP INSTALL

pip's warnings about package indexes, a hundred of them with some, are shown only if it fails.
Exit code: pip's.
"""

import re
import subprocess
import sys
import threading
import time

SEEN = re.compile(r"(?:Collecting|Processing|Requirement already satisfied:) (\S+)")
FETCHED = re.compile(r"Downloading (\S+) \((.+)\)")


class Screen:
    """The one line: what pip does, for how long."""

    def __init__(self) -> None:
        self.begun, self.live = time.monotonic(), sys.stdout.isatty()
        self.doing, self.ended = "looking for what is needed", threading.Event()

    def show(self) -> None:
        """Say it again, every second on a terminal, or now and then."""
        while not self.ended.wait(0.5 if self.live else 30):
            self.say("\r\x1b[K", "")

    def say(self, before: str, after: str) -> None:
        minutes, seconds = divmod(round(time.monotonic() - self.begun), 60)
        line = f"  {minutes}:{seconds:02}  {self.doing}"[:78]
        print(before + line if self.live else line, end=after if self.live else "\n", flush=True)


def stage(line: str, packages: set[str]) -> str | None:
    """What a line of pip's says it is doing, in words; None if it says nothing new.

    packages: the names found so far, to which it adds.
    """
    if line.startswith("Installing collected packages:"):
        return f"installing {line.count(',') + 1} packages, a minute or two"
    what = ""
    if fetched := FETCHED.search(line):
        what = f"fetching {short(fetched[1])} ({fetched[2]})"
    elif seen := SEEN.match(line):
        what = short(seen[1])
        packages.add(re.split(r"[-=<>!~;\[]", what)[0])
    return f"packages found: {len(packages)}; {what}" if what else None


def short(name: str) -> str:
    """A requirement, or of a file the name and the version."""
    return re.sub(r"-(py|cp)\d.*|\.tar\.gz$", "", name.rpartition("/")[2])


def main(arguments: list[str]) -> int:
    """Run `pip install` with these arguments; returns its exit code."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    screen = Screen()
    packages: set[str] = set()
    lines: list[str] = []
    watch = threading.Thread(target=screen.show, daemon=True)
    watch.start()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        for line in pip.stdout or ():
            lines.append(line)
            screen.doing = stage(line.strip(), packages) or screen.doing
    screen.ended.set()
    watch.join()
    screen.doing = "done" if pip.returncode == 0 else "pip has failed"
    screen.say("\r\x1b[K", "\n")
    if pip.returncode:
        sys.stderr.writelines(line for line in lines if not line.startswith("WARNING: Location"))
    return pip.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
