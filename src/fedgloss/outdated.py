"""Whether a finished run is still the one that its study asks for.

A study may have been edited since, its data prepared again, or another study of the same name may
have left the run: such a run is no result of this study, and is neither called done nor counted.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgloss.files import read_json, sha256

if TYPE_CHECKING:
    from fedgloss.study import Cell, Study


class Expectations:
    """What the manifests of a study's runs must say, by its settings and a results folder."""

    def __init__(self, study: "Study", results: Path) -> None:
        self.study, self.results = study, Path(results)
        # Each once, however many cells a file serves, and however often a cell is asked for.
        self._hash, self._read = cache(sha256), cache(read_json)
        self.settings = cache(lambda cell: as_json(study.settings(cell)))
        self.inputs = cache(self._inputs)

    def files(self, cell: "Cell") -> dict[str, Path]:
        """The files that say what a cell is trained on: `data`, the manifest, and `partition`."""
        data = self.study.data_folder(cell.dataset)
        partition = f"{self.study.partition_folder(cell.dataset, cell.alpha)}/alpha-{cell.alpha}"
        return {
            "data": self.results / "data" / data / "manifest.json",
            "partition": self.results / "partitions" / partition / "partition.json",
        }

    def _inputs(self, cell: "Cell") -> dict[str, Any]:
        """The SHA-256 of what a cell is trained on, as far as it is in the results folder."""
        files = self.files(cell)
        found: dict[str, Any] = {}
        if files["data"].is_file():
            manifest = self._read(files["data"])
            found["data"] = manifest.get("sha256") if isinstance(manifest, dict) else None
        if files["partition"].is_file():
            found["partition"] = self._hash(files["partition"])
        return found

    def fault(self, cell: "Cell", manifest: Mapping[str, Any]) -> str | None:
        """Why a run with this manifest is outdated, in words; None if it is not."""
        inputs, expected = manifest.get("inputs"), self.inputs(cell)
        inputs = inputs if isinstance(inputs, dict) else {}
        return difference("settings", manifest.get("settings"), self.settings(cell)) or difference(
            "inputs", {key: inputs.get(key) for key in expected}, expected
        )


def as_json(value: Any) -> Any:
    """A value as it is read back from JSON."""
    return json.loads(json.dumps(value))


def difference(where: str, theirs: Any, ours: Any) -> str | None:
    """The first place at which two JSON values differ, in words; None if they are equal."""
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return None if theirs == ours else f"{where} is {theirs!r} in the run, {ours!r} here"
    for key in {**ours, **theirs}:
        if key not in theirs or key not in ours:
            return f"{where}.{key} is given {'here' if key in ours else 'in the run'} alone"
        found = difference(f"{where}.{key}", theirs[key], ours[key])
        if found:
            return found
    return None
