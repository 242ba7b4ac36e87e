"""Finished runs of another results folder or an archive, taken over, not trained again.

A run is taken over if it is what this study would run here, and whole: its settings, the
fingerprint of its code and the hashes of its inputs are those that training would have, and its
files have the hashes that its manifest gives. An archive may be without models: its runs are whole
for tables and the report, and trained again where a model is needed.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedgloss.errors import InputError
from fedgloss.files import atomic, check_writable, read_json, sha256
from fedgloss.jobs.collecting import SMALL, unpacked
from fedgloss.study.layout import MANIFEST, RUN_FILES, Layout, files_of
from fedgloss.study.outdated import (
    Expectations,
    difference,
    measured_elsewhere,
    measured_otherwise,
)
from fedgloss.study.remaining import is_measured
from fedgloss.study.standings import Standings
from fedgloss.study.study import Cell, Study

REPLACED = "replaced: "
"""How a fate begins that is followed by what was wrong with the run that was here."""


def import_runs(study: Study, source: Path, results: Path) -> Iterator[tuple[Cell, str]]:
    """Copy the runs of `study` that `source`, a results folder or an archive, has into `results`.

    Of an archive also what was measured on them, and the inputs that are not here. Yields each cell
    of the study with what became of it: "imported", "here", "missing" (there is no such run in
    `source`), "replaced: " and why the run that was here is none of this study's, or the reason why
    it was refused. A refused run leaves no trace here.
    """
    check_writable(results)
    if not source.is_file():
        yield from _import(study, source, results, whole=True)
        return
    results.mkdir(parents=True, exist_ok=True)
    with unpacked(source, study, results) as folder:
        _add_inputs(study, folder, results)
        whole = any(folder.rglob(RUN_FILES[-1]))
        there = []
        for cell, fate in _import(study, folder, results, whole):
            there += [cell] if is_taken(fate) or fate == "here" else []
            yield cell, fate
        # Only now: a line between two runs must be younger than both, for Snakemake.
        for cell in there:
            _add_measured(study, cell, folder, results)
        _add_pauses(study, folder, results)


def is_taken(fate: str) -> bool:
    """Whether a run was copied, be it in another's place."""
    return fate == "imported" or fate.startswith(REPLACED)


def measured_on(layout: Layout, study: Study, cell: Cell) -> Iterator[Path]:
    """What was measured on an imported cell and stands for a job, once all have been imported.

    Not what was measured for a figure that the study has no more: there is no job for it.
    """
    measured = {layout.hessian(study.name, cell), layout.locals(study.name, cell)}
    for figure in study.figures.values():
        for start, view in study.views(figure):
            if start == cell:
                file = layout.view(study.name, cell, view.kind, view.name)
                measured |= {file, file.with_suffix(".json")}
    yield from sorted(filter(Path.is_file, measured))


def _import(study: Study, source: Path, results: Path, whole: bool) -> Iterator[tuple[Cell, str]]:
    """The same from a folder whose runs are whole, or have no models.

    A run that is here and outdated gives way, as it would to training. One that was edited by hand
    is what nobody has elsewhere: it stays.
    """
    runs = Layout(source).runs(study.name)
    if not source.exists():
        raise InputError(f"{source}: there is no such archive or results folder")
    if not runs.is_dir():
        raise InputError(f"{source}: has no runs of the study {study.name!r} ({runs})")
    expect = _expectations(study, results)
    for cell in study.cells:
        ours, theirs = Layout(results).run(study.name, cell), runs / str(cell)
        there, offered = ((run / MANIFEST).is_file() for run in (ours, theirs))
        if not there and not offered:  # nor need its data be here
            yield cell, "missing"
            continue
        try:
            expected = expect(cell)
            outdated = _fault(ours, expected, whole) if there else None
            here = there and outdated is None
            if not offered:
                yield cell, "here" if here else "missing"
                continue
            reason = _fault(theirs, expected, whole)
            if here and not reason and not _equal(ours, theirs):
                reason = "another run of this cell is here, with other results; remove one of them"
            elif here:
                reason = "here"
            elif there and not reason and (edited := _edited(ours)):
                reason = f"a run of this cell is here whose {edited} was edited; remove it first"
            elif reason is None:
                if not _equal(ours, theirs):  # what was measured here is of another run
                    measured = Layout(results).hessian(study.name, cell).parent
                    shutil.rmtree(measured, ignore_errors=True)
                _copy(theirs, ours, whole)
                reason = f"{REPLACED}{outdated}" if outdated else "imported"
            yield cell, reason
        except InputError as error:
            yield cell, str(error)


def _edited(run: Path) -> str | None:
    """The first file of a run that is there and not the one that its manifest describes."""
    outputs = _outputs(run)
    written = [name for name in files_of({"outputs": outputs}) if name in outputs]
    return next((n for n in written if (run / n).is_file() and sha256(run / n) != outputs[n]), None)


def _equal(ours: Path, theirs: Path) -> bool:
    """Whether two runs of a cell left the same files; theirs is whole, ours need not be there."""
    return _outputs(ours) == _outputs(theirs)


def _outputs(run: Path) -> dict[str, Any]:
    """A run's files with their hashes, as its manifest has them; none if there is no such thing."""
    outputs = _read(run / MANIFEST).get("outputs")
    return outputs if isinstance(outputs, dict) else {}


def _add_inputs(study: Study, source: Path, results: Path) -> None:
    """Copy the manifests of data and the partitions that are not here."""
    there, here = (Expectations(study, folder) for folder in (source, results))
    for cell in study.cells:
        for name, file in here.files(cell).items():
            if not file.exists() and there.files(cell)[name].is_file():
                _copy_file(there.files(cell)[name], file)


def _add_measured(study: Study, cell: Cell, source: Path, results: Path) -> None:
    """Copy what was measured on a run, where it is not here.

    Eigenvalues of another run, or that the study no longer asks for, stay behind: Snakemake would
    take them for made.
    """
    there, here = Layout(source), Layout(results)
    ours, theirs = (layout.hessian(study.name, cell).parent for layout in (here, there))
    run = _read(here.run(study.name, cell) / MANIFEST)
    asked: dict[Path, Callable[[dict[str, Any]], bool]] = {
        there.hessian(study.name, cell): partial(is_measured, study),
        there.locals(study.name, cell): lambda found: not measured_otherwise(found, study.hessian),
    }
    for file in sorted(theirs.glob("[!.]*")):  # not what a killed job has kept
        if (ours / file.name).exists():
            continue
        if file in asked:
            found = _read(file)
            if measured_elsewhere(found, [run]) or not asked[file](found):
                continue
        _copy_file(file, ours / file.name)


def _add_pauses(study: Study, source: Path, results: Path) -> None:
    """Copy what trials were worth as they paused, where this study would have paused them, too."""
    standings, expected = Standings(study, source), Expectations(study, results)
    for cell, rounds in standings.pauses():
        there, ours = (Layout(one).paused(study.name, cell, rounds) for one in (source, results))
        if there.is_file() and not ours.exists() and not expected.fault(cell, _read(there)):
            _copy_file(there, ours)


def _read(file: Path) -> dict[str, Any]:
    """A file's entries; none if it has none to speak of."""
    try:
        found = read_json(file)
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def _expectations(study: Study, results: Path) -> Callable[[Cell], dict[str, Any]]:
    """A function from a cell to the entries that the manifest of its run must have.

    `code` is a function of the manifest.
    """
    expected = Expectations(study, results)

    def expect(cell: Cell) -> dict[str, Any]:
        settings = expected.settings(cell)
        for file in expected.files(cell).values():
            if not file.is_file():
                raise InputError(f"{file} is not here yet, and a run's inputs must be the same")
        inputs = dict(expected.inputs(cell))
        if settings["weights"]:
            inputs["weights"] = settings["weights"]
        return {"settings": settings, "inputs": inputs, "code": partial(expected.code, cell)}

    return expect


def _fault(run: Path, expected: Mapping[str, Any], whole: bool) -> str | None:
    """Why a run lacks one of its files, or is not the one expected; None if all is well."""
    try:
        manifest = read_json(run / MANIFEST)
    except InputError as error:
        return str(error)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("outputs"), dict):
        return "its manifest is not the manifest of a run"
    for key, value in expected.items():  # which code counts is a question to the run
        found = difference(key, manifest.get(key), value(manifest) if callable(value) else value)
        if found:
            return found
    if manifest.get("status") not in ("completed", "diverged"):
        return f"its status is {manifest.get('status')!r}"
    if set(manifest["outputs"]) != set(files_of(manifest)):
        return "its manifest does not list the files of a run"
    for name in _names(manifest, whole):
        if not (run / name).is_file():
            return f"{name} is missing"
        if sha256(run / name) != manifest["outputs"][name]:
            return f"{name} is not the file that its manifest describes (SHA-256)"
    return None


def _names(manifest: Mapping[str, Any], whole: bool) -> Sequence[str]:
    """The files of a run beside its manifest; without its models unless it is whole."""
    return files_of(manifest) if whole else SMALL


def _copy(theirs: Path, ours: Path, whole: bool) -> None:
    """Copy a verified run, its manifest last; what arrives is verified again.

    Models that are here stay only if they are this run's.
    """
    manifest = read_json(theirs / MANIFEST)
    (ours / MANIFEST).unlink(missing_ok=True)  # never beside files it does not describe
    for model in ours.glob("*.safetensors"):
        if sha256(model) != manifest["outputs"].get(model.name):
            model.unlink()
    for name in (*_names(manifest, whole), MANIFEST):
        _copy_file(theirs / name, ours / name, manifest["outputs"].get(name))


def _copy_file(theirs: Path, ours: Path, digest: str | None = None) -> None:
    with atomic(ours) as temporary:
        shutil.copyfile(theirs, temporary)
        if digest and sha256(temporary) != digest:
            raise InputError(f"{theirs}: changed while it was copied")
