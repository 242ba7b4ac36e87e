"""The state of a study's grid, read from its results folder."""

from pathlib import Path

from fedgloss.errors import InputError
from fedgloss.files import read_json
from fedgloss.study import Cell, Study

STATES = {"done": "✓", "diverged": "✗", "running": "…", "missing": "·"}


def state(study: Study, cell: Cell, results: Path) -> str:
    """done, diverged, running (a checkpoint is there), or missing."""
    manifest = results / "runs" / study.name / str(cell) / "manifest.json"
    if manifest.is_file():
        found = read_json(manifest)
        if not isinstance(found, dict) or found.get("status") not in ("completed", "diverged"):
            raise InputError(f"{manifest}: is not the manifest of a run")
        return "diverged" if found["status"] == "diverged" else "done"
    checkpoints = results / "checkpoints" / study.name / str(cell)
    return "running" if checkpoints.is_dir() else "missing"


def grid(study: Study, results: Path) -> str:
    """One line for each (data set, alpha, model, algorithm), one mark for each seed."""
    states = {cell: state(study, cell, results) for cell in study.cells}
    conditions = dict.fromkeys(cell.condition for cell in study.cells)
    width = max(map(len, conditions), default=0)
    lines = []
    for condition in conditions:
        cells = [cell for cell in study.cells if cell.condition == condition]
        marks = "  ".join(f"{cell.seed} {STATES[states[cell]]}" for cell in cells)
        lines.append(f"{condition:<{width}}  {marks}")
    found = list(states.values())
    totals = ", ".join(f"{found.count(name)} {name} {mark}" for name, mark in STATES.items())
    return "\n".join([*lines, "", f"{study.name}: {len(found)} cells: {totals}"])
