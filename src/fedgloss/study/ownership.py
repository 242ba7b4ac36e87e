"""Whose results a study's name stands for: two studies of one name would overwrite each other's.

The workflow notes the file of each study that it builds, and the folder that it is built in.
Another file with that name is refused, as long as the first is still there, still bears the name,
and says something else. The folder counts only while its results are the ones here, as through a
link: a project may have been moved, copied with its results, or be mounted elsewhere on a cluster.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from fedgloss.errors import InputError
from fedgloss.files import read_json, write_json
from fedgloss.study.configuration import PROJECT, read_yaml
from fedgloss.study.layout import HERE, Layout
from fedgloss.study.study import Study


def check_owner(study: Study, layout: Layout = HERE) -> None:
    """InputError if a study's results are those of another file's study of the same name."""
    if not Path(study.file).is_file():  # it has come as text
        return
    for other in _others(study.name, layout):
        if not os.path.isfile(other) or other.samefile(study.file):
            continue
        try:
            theirs = read_yaml(other)
        except InputError:
            continue
        if theirs.get("study") == study.name and theirs != read_yaml(study.file):
            raise InputError(
                f"{study.file}: study: {study.name!r} is the name of the study in {other} too, and"
                f" both would leave their results in {layout.runs(study.name)}; give"
                " one of them another name"
            )


def note_owner(study: Study, layout: Layout = HERE) -> None:
    """Note whose results these are, for the next study of that name."""
    if Path(study.file).is_file():
        record = layout.owner_of(study.name)
        content = {"file": study.file, "folder": str(Path.cwd())}
        if not record.is_file() or read_json(record) != content:
            write_json(record, content)


def _others(name: str, layout: Layout) -> Iterator[Path]:
    """The files that the name may belong to: of the study built before, of the project's own."""
    noted = _noted(layout.owner_of(name))
    if "file" in noted:
        folder = Path(noted.get("folder", ""))
        elsewhere = layout == HERE and not _is_same(folder, Path())
        shared = elsewhere and _is_same(folder / HERE.results, HERE.results)
        yield folder / noted["file"] if shared else Path(noted["file"])
    own = PROJECT / "config" / f"{name}.yaml"
    yield Path(os.path.relpath(own)) if own.is_relative_to(Path.cwd()) else own


def _noted(record: Path) -> dict[str, str]:
    """What note_owner has written, as far as it can be paths; nothing if there is no note."""
    content = read_json(record) if record.is_file() else None
    entries = content.items() if isinstance(content, dict) else ()
    return {key: value.replace("\0", "") for key, value in entries if isinstance(value, str)}


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # not there, or not for us
        return False
