"""Whose results are in results/runs/NAME: two studies of one name would overwrite each other's.

The workflow notes the file of each study that it builds. Another file with that name is refused, as
long as the first is still there, still bears the name, and says something else.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from fedgloss.errors import InputError
from fedgloss.files import read_json, write_json
from fedgloss.study.configuration import PROJECT, read_yaml
from fedgloss.study.study import Study


def check_claim(study: Study, results: Path | str = "results") -> None:
    """InputError if a study's results are those of another file's study of the same name."""
    if not Path(study.file).is_file():  # it has come as text
        return
    for other in _others(study.name, Path(results)):
        if not other.is_file() or other.samefile(study.file):
            continue
        try:
            theirs = read_yaml(other)
        except InputError:
            continue
        if theirs.get("study") == study.name and theirs != read_yaml(study.file):
            raise InputError(
                f"{study.file}: study: {study.name!r} is the name of the study in {other} too, and"
                f" both would leave their results in {Path(results) / 'runs' / study.name}; give"
                " one of them another name"
            )


def claim(study: Study, results: Path | str = "results") -> None:
    """Note whose results these are, for the next study of that name."""
    if Path(study.file).is_file():
        record, content = _record(study.name, Path(results)), {"file": study.file}
        if not record.is_file() or read_json(record) != content:
            write_json(record, content)


def _record(name: str, results: Path) -> Path:
    return results / "studies" / f"{name}.json"


def _others(name: str, results: Path) -> Iterator[Path]:
    """The files that the name may belong to: of the study built before, of the project's own."""
    if _record(name, results).is_file():
        content = read_json(_record(name, results))
        if isinstance(content, dict) and isinstance(content.get("file"), str):
            yield Path(content["file"].replace("\0", ""))
    own = PROJECT / "config" / f"{name}.yaml"
    yield Path(os.path.relpath(own)) if own.is_relative_to(Path.cwd()) else own
