"""What a prepared data set was made from, by its manifest; nothing here waits for torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedgloss.errors import InputError
from fedgloss.files import read_json

OWN = "one folder per class"
"""What the manifest of a data set of source `folder` names as its source; it has any name."""
LANDMARKS_SIZE = 224
"""The size of `landmarks` where a definition gives none."""


def check_prepared(folder: Path, wanted: Mapping[str, Any], where: str, then: str) -> None:
    """InputError if a folder holds a data set of another definition; if none, it is fine.

    wanted: the `source`, and of images, size and name those that decide. where: what has asked for
    them. then: what to do.
    """
    try:
        manifest = read_json(folder / "manifest.json")
    except InputError:
        return
    found = _definition(manifest) if isinstance(manifest, dict) else {}
    for key, value in wanted.items():
        if key == "size" and value is None and found.get("source") == "landmarks":
            value = LANDMARKS_SIZE
        if found.get(key, value) != value:
            raise InputError(
                f"{folder}: holds a data set with {key} {found[key]!r:.60}, but {where}{key} is"
                f" {value!r:.60}; {then}"
            )


def _definition(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The name, source, images and size of a data set, as far as its manifest has them."""
    found = {key: manifest[key] for key in ("name", "images", "size") if key in manifest}
    if "source" in manifest and "name" in manifest:
        found["source"] = "folder" if manifest["source"] == OWN else manifest["name"]
    return found
