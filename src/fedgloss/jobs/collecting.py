"""A study's finished runs in one small archive, to keep, send, or publish; and out of it again.

The archive is a zip file with the results folder's own paths, so that anything can open it. Its
first entry, archive.json, names the study and gives the SHA-256 of each other file. The same
results make the same bytes.
"""

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fedgloss.errors import InputError
from fedgloss.files import atomic, parse_json, sha256
from fedgloss.records import TEXT, check_record
from fedgloss.study.layout import MANIFEST, Layout, files_of
from fedgloss.study.outdated import Expectations, harm
from fedgloss.study.standings import Standings
from fedgloss.study.study import Cell, Study

INDEX = "archive.json"
SMALL = ("metrics.csv",)
"""The files of a run that an archive always holds, beside its manifest; models on request."""
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The one date of all entries: when a file was packed is none of its content."""


def collect(study: Study, results: Path, archive: Path, weights: bool = False) -> dict[Cell, str]:
    """Write a study's finished runs, what was measured on them, and what they were trained on.

    Of the data that is the manifest, of a partition the file. weights: the models, too. Returns
    what became of each cell: "collected", "missing", or the reason why its run was left out.
    Raises InputError if there is no run to collect.
    """
    layout, expected = Layout(results), Expectations(study, results)
    standings = Standings(study, results)
    files: dict[str, Path] = {}
    fates = {}
    for cell in study.cells:
        run = layout.run(study.name, cell)
        fates[cell], names = _fate(run, cell, expected, weights)
        if fates[cell] == "collected":
            measured = sorted(layout.hessian(study.name, cell).parent.glob("[!.]*"))
            found = [*(run / name for name in (MANIFEST, *names)), *filter(Path.is_file, measured)]
            found += filter(Path.is_file, expected.files(cell).values())
            files |= {file.relative_to(results).as_posix(): file for file in found}
    if files:  # trials that were dropped have left nothing else
        for cell, rounds in standings.pauses():
            if standings.paused(cell, rounds)[0]:
                file = layout.paused(study.name, cell, rounds)
                files[file.relative_to(results).as_posix()] = file
    if not files:
        whys = [f"{cell}: {fate}" for cell, fate in fates.items() if fate != "missing"]
        why = f"; {len(whys)} are left out, first {whys[0]}" if whys else ""
        raise InputError(f"{results}: has no finished run of the study {study.name!r}{why}")
    hashes = {name: sha256(file) for name, file in sorted(files.items())}
    index = {
        "study": study.name,
        "runs": [str(cell) for cell, fate in fates.items() if fate == "collected"],
        "files": hashes,
    }
    with atomic(archive) as temporary, zipfile.ZipFile(temporary, "w") as packed:
        _add(packed, INDEX, (json.dumps(index, indent=1) + "\n").encode())
        for name, file in sorted(files.items()):
            content = file.read_bytes()
            if hashlib.sha256(content).hexdigest() != hashes[name]:
                raise InputError(f"{file}: changed while it was collected")
            _add(packed, name, content)
    return fates


def _fate(
    run: Path, cell: Cell, expected: Expectations, weights: bool
) -> tuple[str, Sequence[str]]:
    """What becomes of a run, and which of its files are to be collected beside the manifest."""
    if not (run / MANIFEST).is_file():
        return "missing", ()
    try:
        manifest = parse_json((run / MANIFEST).read_bytes())
    except ValueError as error:
        return f"{MANIFEST} is not valid JSON ({error})", ()
    if not isinstance(manifest, dict):
        return f"{MANIFEST} is not the manifest of a run", ()
    names = files_of(manifest) if weights else SMALL
    return expected.fault(cell, manifest) or harm(run, manifest, names) or "collected", names


def _add(packed: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, EARLIEST)
    entry.external_attr = 0o644 << 16
    packed.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)


@contextmanager
def unpacked(archive: Path, study: Study, beside: Path) -> Iterator[Path]:
    """The results folder that an archive holds, verified, for as long as the context lasts.

    beside: the folder in whose file system it is unpacked. Raises InputError for what is no
    archive of this study, or not as it was collected.
    """
    try:
        with (
            zipfile.ZipFile(archive) as packed,
            tempfile.TemporaryDirectory(prefix=".archive-", dir=beside) as folder,
        ):
            _unpack(packed, archive, study, Path(folder))
            yield Path(folder)
    except zipfile.BadZipFile as error:
        raise InputError(f"{archive}: no archive of runs ({error})") from None


def _unpack(packed: zipfile.ZipFile, archive: Path, study: Study, folder: Path) -> None:
    names = packed.namelist()
    try:
        index = parse_json(packed.read(INDEX))
        check_record(archive, index, {"study": TEXT, "files": TEXT.by_name})
    except (KeyError, ValueError):
        raise InputError(f"{archive}: no archive of runs ({INDEX} is missing or damaged)") from None
    if index["study"] != study.name:
        raise InputError(
            f"{archive}: has runs of the study {index['study']!r}, not of {study.name!r}"
        )
    if sorted(names) != sorted([INDEX, *index["files"]]):
        raise InputError(f"{archive}: does not hold the files that {INDEX} lists")
    for name, digest in index["files"].items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise InputError(f"{archive}: {name}: not a path below a results folder")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with packed.open(name) as theirs, open(folder / path, "wb") as ours:
            shutil.copyfileobj(theirs, ours)
        if sha256(folder / path) != digest:
            raise InputError(f"{archive}: {name}: is not as it was collected (SHA-256)")
