"""Whether a finished run is still the one that its study asks for.

A study, or the code, may have been edited since, its data prepared again, or another study of the
same name may have left the run: such a run is no result of this study, and is neither called done
nor counted. Nor is a run done whose files are gone, or not those that it wrote.
"""

import json
import os.path
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgloss.errors import InputError
from fedgloss.files import read_json, sha256
from fedgloss.records import read_record
from fedgloss.study.layout import MANIFEST, Layout, files_of

if TYPE_CHECKING:
    from fedgloss.study.schema.study import Hessian
    from fedgloss.study.study import Cell, Study

AGAIN = "delete its folder, or run the cell again with snakemake --force"
"""What to do with a run that counts in no table, for a text that names it and says why."""


class Expectations:
    """What the manifests of a study's runs must say, by its settings and a results folder."""

    def __init__(self, study: "Study", results: Path) -> None:
        self.study, self.layout = study, Layout(Path(results))
        # Each once, however many cells a file serves, and however often a cell is asked for.
        self._hash, self._read = cache(sha256), cache(read_json)
        self.settings = cache(lambda cell: as_json(study.settings(cell).to_json()))
        self.inputs = cache(self._inputs)
        self._code = cache(study.code)

    def files(self, cell: "Cell") -> dict[str, Path]:
        """The files that say what a cell is trained on: `data`, the manifest, and `partition`."""
        study = self.study
        cut = study.partition_folder(cell.dataset, cell.alpha)
        return {
            "data": self.layout.data(study.data_folder(cell.dataset)) / MANIFEST,
            "partition": self.layout.partition(cut, cell.alpha),
        }

    def check_data(self) -> None:
        """InputError if the manifest of one of the study's data sets is there and cannot be read.

        Nothing could be said of any run of that data set, whatever the run's own manifest says.
        """
        for name in dict.fromkeys(cell.dataset for cell in self.study.cells):
            manifest = self.layout.data(self.study.data_folder(name)) / MANIFEST
            if manifest.is_file():
                self._read(manifest)

    def code(self, cell: "Cell", manifest: Mapping[str, Any]) -> Any:
        """The fingerprint of the code that a run with this manifest must have been trained with.

        That of today's, or its own where the study says that this gives the same numbers.
        """
        own = manifest.get("code")
        accepted = isinstance(own, str) and own in self.study.asked.same_code
        return own if accepted else self._code(cell.algorithm, cell.model)

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

    def is_there(self, cell: "Cell") -> bool:
        """Whether a cell's run is the one asked for, and none of its files is missing.

        Nor is any where all models are: numbers are made from the metrics.
        """
        run = self.layout.run(self.study.name, cell)
        try:
            manifest = read_manifest(run / MANIFEST, {})
        except InputError:
            return False
        if manifest is None or self.fault(cell, manifest) is not None:
            return False
        return all((run / name).is_file() for name in whole(run, manifest))

    def fault(self, cell: "Cell", manifest: Mapping[str, Any]) -> str | None:
        """Why a run with this manifest is outdated, in words; None if it is not."""
        inputs, expected = manifest.get("inputs"), self.inputs(cell)
        inputs = inputs if isinstance(inputs, dict) else {}
        found = difference("settings", manifest.get("settings"), self.settings(cell)) or difference(
            "inputs", {key: inputs.get(key) for key in expected}, expected
        )
        if not found and manifest.get("code") != self.code(cell, manifest):
            found = "its code differs: it has been edited since the run"
        return found

    def read(
        self, cell: "Cell", wanted: Mapping[str, Any]
    ) -> tuple[dict[str, Any] | None, str | None]:
        """The manifest of a cell's run, and why the run counts in no table; None for either.

        A manifest that is broken, or not as `wanted`, is none, and the reason says so. A run counts
        without its models, which are large and may have been deleted.
        """
        run = self.layout.run(self.study.name, cell)
        try:
            manifest = read_manifest(run / MANIFEST, wanted)
        except InputError as error:
            return None, str(error).removeprefix(f"{run}/")
        if manifest is None:
            return None, None
        return manifest, self.fault(cell, manifest) or harm(run, manifest, ("metrics.csv",))


def read_manifest(file: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of a run, None if there is none; InputError if it is not as `wanted`."""
    return read_record(file, wanted) if file.is_file() else None


def whole(run: Path, manifest: Mapping[str, Any]) -> Sequence[str]:
    """The files that a run must have: its models, too, unless it has none, as from an archive.

    One that lost some of them is not whole.
    """
    metrics, *models = files = files_of(manifest)
    return files if any((run / name).exists() for name in models) else (metrics,)


def harm(run: Path, manifest: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Which of these files of a run is not there, or not as it was written; None if all are.

    Of the tensors, which are large, only whether they are there.
    """
    outputs = manifest.get("outputs")
    written = outputs if isinstance(outputs, dict) else {}
    for name in names:
        if not os.path.isfile(run / name):
            return f"{name} is gone"
        if name == "metrics.csv" and sha256(run / name) != written.get(name):
            return f"{name} has changed since it was written (SHA-256)"
    return None


def measured_otherwise(found: Mapping[str, Any], asked: "Hessian") -> str | None:
    """What of lambda_1, in words, is not as a study names it: model, data, method or images.

    None if all is.
    """
    wanted: dict[str, Any] = {"data": asked.choices[0], "model": asked.models[0]}
    wanted |= {"method": asked.method, "images": asked.images}
    for key, value in wanted.items():
        if found.get(key, value) != value:
            return f"`{key}` is {found[key]} there, {value} in the study"
    return None


def measured_elsewhere(
    found: Mapping[str, Any], manifests: Iterable[Mapping[str, Any] | None]
) -> str | None:
    """Why what was measured is not of the runs with these manifests, in words; None if it is.

    It has the SHA-256 of the models that it is of, unless it was made before they were noted: then
    it is taken for these runs'.
    """
    written: list[Any] = []
    for manifest in manifests:
        outputs = manifest.get("outputs") if isinstance(manifest, dict) else None
        written += outputs.values() if isinstance(outputs, dict) else ()
    of = found.get("sha256", [])
    if isinstance(of, list) and all(digest in written for digest in of):
        return None
    return "is not of the models that are there now (SHA-256)"


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
