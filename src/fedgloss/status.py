"""The state of a study's grid, read from its results folder."""

import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path

from fedgloss.errors import InputError
from fedgloss.files import read_json
from fedgloss.outdated import Expectations
from fedgloss.study import Cell, Study

STATES = {
    "done": "✓",
    "diverged": "✗",
    "outdated": "≠",
    "running": "…",
    "interrupted": "!",
    "missing": "·",
}
SILENT = 900
"""Seconds after which a run on another machine counts as ended: it writes every 300."""


class States:
    """What has become of each cell of a study."""

    def __init__(self, study: Study, results: Path) -> None:
        self.study, self.results = study, results
        self.expected = Expectations(study, results)

    def of(self, cell: Cell) -> str:
        """done, diverged, outdated (made with other settings or data), or how far it got."""
        manifest = self._manifest(cell)
        if manifest is None:
            return self._begun(cell)
        if self.expected.fault(cell, manifest):
            return "outdated"
        return "diverged" if manifest["status"] == "diverged" else "done"

    def why_outdated(self, cell: Cell) -> str | None:
        """What differs between a run and what the study asks for."""
        manifest = self._manifest(cell)
        return manifest and self.expected.fault(cell, manifest)

    def _manifest(self, cell: Cell) -> dict | None:
        file = self.results / "runs" / self.study.name / str(cell) / "manifest.json"
        if not file.is_file():
            return None
        found = read_json(file)
        if not isinstance(found, dict) or found.get("status") not in ("completed", "diverged"):
            raise InputError(f"{file}: is not the manifest of a run")
        return found

    def _begun(self, cell: Cell) -> str:
        """running if its trainer lives, interrupted if only its checkpoints do; else missing."""
        folder = self.results / "checkpoints" / self.study.name / str(cell)
        owner = folder.with_name(f"{folder.name}.owner")  # its first words: 4711 on node17
        written = [file for file in (owner, *folder.glob("*")) if file.is_file()]
        try:
            number, host = re.match(r"(\d+) on (\S+)", owner.read_text(encoding="utf-8")).groups()
        except (OSError, ValueError, AttributeError):
            number, host = "", ""
        if number and host == platform.node():
            lives = _lives(int(number))
        else:
            lives = any(time.time() - file.stat().st_mtime < SILENT for file in written)
        if lives:
            return "running"
        return "interrupted" if folder.is_dir() else "missing"


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
    totals = ", ".join(f"{counts.count(name)} {name} {mark}" for name, mark in STATES.items())
    return "\n".join(
        [*lines, "", f"{study.name}: {len(found)} cells: {totals}", *_reasons(states, found)]
    )


def _reasons(states: States, found: dict[Cell, str]) -> Iterator[str]:
    """Why the first of the outdated cells is so."""
    outdated = [cell for cell, state in found.items() if state == "outdated"]
    if outdated:
        more = f" (and {len(outdated) - 1} more)" if len(outdated) > 1 else ""
        yield f"outdated: {outdated[0]}: {states.why_outdated(outdated[0])}{more}"
