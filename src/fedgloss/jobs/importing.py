"""Finished runs of another results folder, taken over instead of being trained again.

A run is taken over if it is what this study would run here, and whole: its settings, the
fingerprint of its code and the hashes of its inputs are those that training would have, and its
files have the hashes that its manifest gives.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedgloss.errors import InputError
from fedgloss.files import atomic, check_writable, read_json, sha256
from fedgloss.study.layout import MANIFEST, RUN_FILES, Layout
from fedgloss.study.outdated import Expectations, difference
from fedgloss.study.study import Cell, Study


def import_runs(study: Study, source: Path, results: Path) -> Iterator[tuple[Cell, str]]:
    """Copy the runs of `study` that the results folder `source` has into `results`.

    Yields each cell of the study with what became of it: "imported", "here", "missing" (there is no
    such run in `source`), or the reason why it was refused. A refused run leaves no trace here.
    """
    runs = Layout(source).runs(study.name)
    if not runs.is_dir():
        raise InputError(f"{source}: has no runs of the study {study.name!r} ({runs})")
    check_writable(results)
    expect = _expectations(study, results)
    for cell in study.cells:
        ours, theirs = Layout(results).run(study.name, cell), runs / str(cell)
        try:
            expected = expect(cell)
            if (ours / MANIFEST).is_file() and _fault(ours, expected) is None:
                yield cell, "here"
            elif not (theirs / MANIFEST).is_file():
                yield cell, "missing"
            else:
                reason = _fault(theirs, expected)
                if reason is None:
                    _copy(theirs, ours)
                yield cell, reason or "imported"
        except InputError as error:
            yield cell, str(error)


def _expectations(study: Study, results: Path) -> Callable[[Cell], dict[str, Any]]:
    """A function from a cell to the entries that the manifest of its run must have."""
    expected = Expectations(study, results)

    def expect(cell: Cell) -> dict[str, Any]:
        settings = expected.settings(cell)
        for file in expected.files(cell).values():
            if not file.is_file():
                raise InputError(f"{file} is not here yet, and a run's inputs must be the same")
        inputs = dict(expected.inputs(cell))
        if settings["weights"]:
            inputs["weights"] = settings["weights"]
        return {"settings": settings, "inputs": inputs, "code": expected.code(cell)}

    return expect


def _fault(run: Path, expected: Mapping[str, Any]) -> str | None:
    """Why a run is not whole, or not the one expected; None if it is."""
    manifest = read_json(run / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("outputs"), dict):
        return "its manifest is not the manifest of a run"
    for key, value in expected.items():
        found = difference(key, manifest.get(key), value)
        if found:
            return found
    if manifest.get("status") not in ("completed", "diverged"):
        return f"its status is {manifest.get('status')!r}"
    if set(manifest["outputs"]) != set(RUN_FILES):
        return "its manifest does not list the files of a run"
    for name in RUN_FILES:
        if not (run / name).is_file():
            return f"{name} is missing"
        if sha256(run / name) != manifest["outputs"][name]:
            return f"{name} is not the file that its manifest describes (SHA-256)"
    return None


def _copy(theirs: Path, ours: Path) -> None:
    """Copy a verified run, its manifest last; what arrives is verified again."""
    outputs = read_json(theirs / MANIFEST)["outputs"]
    (ours / MANIFEST).unlink(missing_ok=True)  # never beside files it does not describe
    for name in (*RUN_FILES, MANIFEST):
        with atomic(ours / name) as temporary:
            shutil.copyfile(theirs / name, temporary)
            if name in outputs and sha256(temporary) != outputs[name]:
                raise InputError(f"{theirs / name}: changed while it was copied")
