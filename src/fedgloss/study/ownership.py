"""Whose results a study's name stands for: two studies of one name would overwrite each other's.

The workflow notes the file of each study that it builds. Another file with that name is refused, as
long as the first is still there, still bears the name, and says something else.
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
        if not other.is_file() or other.samefile(study.file):
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
        record, content = layout.owner_of(study.name), {"file": study.file}
        if not record.is_file() or read_json(record) != content:
            write_json(record, content)


def _others(name: str, layout: Layout) -> Iterator[Path]:
    """The files that the name may belong to: of the study built before, of the project's own."""
    if layout.owner_of(name).is_file():
        content = read_json(layout.owner_of(name))
        if isinstance(content, dict) and isinstance(content.get("file"), str):
            yield Path(content["file"].replace("\0", ""))
    own = PROJECT / "config" / f"{name}.yaml"
    yield Path(os.path.relpath(own)) if own.is_relative_to(Path.cwd()) else own
