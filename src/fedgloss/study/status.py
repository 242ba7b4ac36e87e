"""The state of a study's grid, read from its results folder."""

import os
import platform
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedgloss.errors import printable
from fedgloss.files import parse_json
from fedgloss.records import STATUS
from fedgloss.study.layout import Layout
from fedgloss.study.outdated import AGAIN, Expectations, harm, whole
from fedgloss.study.standings import Standings
from fedgloss.study.study import Cell, Study

STATES = {
    "done": "✓",
    "diverged": "✗",
    "outdated": "≠",
    "running": "…",
    "interrupted": "!",
    "missing": "·",
    "without models": "○",
    "dropped": "–",
}
SILENT = 900
"""Seconds after which a run on another machine counts as ended: it writes every 300."""
HEADER_LIMIT = 100 * 2**20
"""The longest header that the safetensors format allows."""
LOG_END = 4096
"""Bytes at the end of a log in which its last line of progress is looked for."""


class States:
    """What has become of each cell of a study."""

    def __init__(self, study: Study, results: Path) -> None:
        self.study, self.layout = study, Layout(results)
        self.expected = Expectations(study, results)
        self.standings = Standings(study, results)

    def of(self, cell: Cell) -> str:
        """What has become of a cell, a key of STATES.

        done; diverged; without models (imported so: done for tables and curves); outdated (no
        longer the study's, or not whole); dropped (its trial need not go on); or how far it got.
        """
        manifest, why = self._read(cell)
        if why:
            return "outdated"
        if manifest is None:
            begun = self._begun(cell)
            stays = begun != "running" and self.standings.is_dropped(cell)
            return "dropped" if stays else begun
        if manifest["status"] == "diverged":
            return "diverged"
        return "done" if len(whole(self._run(cell), manifest)) > 1 else "without models"

    def why_outdated(self, cell: Cell) -> tuple[str | None, bool]:
        """What differs between a run and what the study asks for, or what became of its files; and
        whether its manifest is broken, of which Snakemake knows nothing."""
        manifest, why = self._read(cell)
        return why, manifest is None

    def rounds(self, cell: Cell) -> int:
        """The rounds that a cell's newest usable checkpoint spares; 0 if there is none."""
        return max(map(_round, self._usable(cell)), default=0)

    def said(self, cell: Cell) -> str | None:
        """The last line of progress in a cell's log: the round, the accuracy, the time left."""
        for job in (str(cell), f"{cell.condition}/seed-all"):
            try:
                with open(self.layout.log("train", f"{self.study.name}/{job}"), "rb") as file:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_END))
                    lines = file.read().decode("utf-8", "replace").splitlines()
            except OSError:
                continue
            found = [line for line in lines if ": round " in line]
            if found:
                return printable(found[-1].split(": ", 1)[1])
        return None

    def _run(self, cell: Cell) -> Path:
        return self.layout.run(self.study.name, cell)

    def _checkpoints(self, cell: Cell) -> Path:
        return self.layout.checkpoints(self.study.name, cell)

    def _read(self, cell: Cell) -> tuple[dict[str, Any] | None, str | None]:
        """A run's manifest, and why the run is outdated: it must have its models, too."""
        manifest, why = self.expected.read(cell, {"status": STATUS})
        if manifest and not why:
            run = self._run(cell)
            why = harm(run, manifest, whole(run, manifest)[1:])
        return manifest, why

    def _usable(self, cell: Cell) -> list[Path]:
        """A cell's checkpoints, but for those that say they are of a run the study has not."""
        found = []
        for file in self._checkpoints(cell).glob("round-*.safetensors"):
            identity = _identity(file)
            if _round(file) and (identity is None or not self._is_foreign(cell, identity)):
                found.append(file)
        return found

    def _is_foreign(self, cell: Cell, identity: Mapping[str, Any]) -> bool:
        """Whether a run with this identity is another one; a manifest has the same, less flat."""
        inputs = {key: identity.get(key) for key in ("data", "partition")}
        return self.expected.fault(cell, {**identity, "inputs": inputs}) is not None

    def _begun(self, cell: Cell) -> str:
        """running if its trainer lives, interrupted if only its checkpoints do; else missing.

        Checkpoints of other settings, data or code do not count: training passes them over.
        """
        folder = self._checkpoints(cell)
        owner = self.layout.owner(self.study.name, cell)  # its first words: 4711 on node17
        written = [file for file in (owner, *folder.glob("*")) if file.is_file()]
        try:
            said = re.match(r"(\d+) on (\S+)", owner.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            said = None
        number, host = said.groups() if said else ("", "")
        if number and host == platform.node():
            lives = _lives(int(number))
        else:
            lives = any(time.time() - file.stat().st_mtime < SILENT for file in written)
        if lives:
            return "running"
        kept = self._usable(cell) or not any(folder.glob("round-*.safetensors"))
        return "interrupted" if folder.is_dir() and kept else "missing"


def _round(checkpoint: Path) -> int:
    number = checkpoint.stem.partition("-")[2]
    return int(number) if re.fullmatch(r"[0-9]{7,18}", number) else 0


def _identity(checkpoint: Path) -> dict[str, Any] | None:
    """Of which run a checkpoint is; None if that cannot be read.

    From the beginning of the file, a safetensors header: reading it as such would import torch.
    """
    try:
        with open(checkpoint, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(length)) if length < HEADER_LIMIT else {}
        identity = parse_json(header["__metadata__"]["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return identity if isinstance(identity, dict) else None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def grid(study: Study, results: Path) -> str:
    """One line for each (data set, alpha, model, algorithm), one mark for each seed."""
    states = States(study, results)
    found = {cell: states.of(cell) for cell in study.cells}
    conditions: dict[str, list[str]] = {}
    for cell, state in found.items():
        conditions.setdefault(cell.condition, []).append(f"{cell.seed} {STATES[state]}")
    width = max(map(len, conditions), default=0)
    lines = [f"{condition:<{width}}  {'  '.join(marks)}" for condition, marks in conditions.items()]
    counts = [*found.values()]
    shown = {n: mark for n, mark in STATES.items() if n in counts or n != "dropped"}
    totals = ", ".join(f"{counts.count(name)} {name} {mark}" for name, mark in shown.items())
    return "\n".join(
        [
            *lines,
            "",
            *_running(states, found),
            f"{study.name}: {len(found)} cells: {totals}",
            *_reasons(states, found),
        ]
    )


def _running(states: States, found: Mapping[Cell, str]) -> Iterator[str]:
    """How far the cells are that run now, as their logs have it."""
    for cell, state in found.items():
        if state == "running":
            yield f"running: {cell}: {states.said(cell) or 'begun'}"


def _reasons(states: States, found: dict[Cell, str]) -> Iterator[str]:
    """Why the first of the outdated cells is so, and what a run without models is good for."""
    if "without models" in found.values():
        yield (
            "without models: done for tables and curves; a cell is trained again only where"
            " something new needs its model"
        )
    outdated = [cell for cell, state in found.items() if state == "outdated"]
    if outdated:
        more = f" (and {len(outdated) - 1} more)" if len(outdated) > 1 else ""
        why, broken = states.why_outdated(outdated[0])
        yield f"outdated: {outdated[0]}: {why}{more}{f'; {AGAIN}' if broken else ''}"
