"""Checkpoints: a run killed anywhere goes on as if nothing had happened.

One safetensors file holds everything: the simulation's tensors, and as metadata the round, the
metrics so far and the identity of the run. Files appear whole or not at all, the last two are kept,
and one that cannot be read or belongs to another run is passed over with a message.
"""

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fedgloss.errors import InputError
from fedgloss.tensors import load_metadata, load_tensors, save_tensors

KEPT = 2


class Interrupted(Exception):
    """The run was asked to stop; its state is in a checkpoint."""


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@dataclass
class Checkpoints:
    """Where a run keeps its checkpoints, and when it writes one.

    A checkpoint is taken up only if its identity equals this one's: whatever could change the
    numbers belongs in it (settings, fingerprint of the code, hashes of the data).
    """

    folder: Path
    identity: Mapping[str, Any]
    every_rounds: int = 1000
    every_seconds: float = 300.0
    say: Callable[[str], None] = _to_stderr
    _last_time: float = field(default_factory=time.monotonic, repr=False)

    def due(self, t: int) -> bool:
        """Whether to write one after t completed rounds."""
        return t % self.every_rounds == 0 or (
            time.monotonic() - self._last_time >= self.every_seconds
        )

    def save(self, t: int, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        """Write the state after t rounds, then remove all but the newest two."""
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        metadata = {
            "round": str(t),
            "identity": json.dumps(self.identity, sort_keys=True),
            "extra": json.dumps(extra),
        }
        metadata["sha256"] = _digest(tensors, metadata)
        save_tensors(self.folder / f"round-{t:07d}.safetensors", tensors, metadata)
        for path in self._paths()[KEPT:]:
            path.unlink(missing_ok=True)
        self._last_time = time.monotonic()

    def load(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """The newest usable state, (rounds completed, tensors, extra), or None."""
        for path in self._paths():
            try:
                metadata, tensors = load_metadata(path), load_tensors(path)
                tensors = {name: tensor.clone() for name, tensor in tensors.items()}
                if metadata.pop("sha256") != _digest(tensors, metadata):
                    raise InputError(f"{path}: the contents do not match their checksum")
                ours, theirs = self.identity, json.loads(metadata["identity"])
                if json.loads(json.dumps(ours)) != theirs:
                    changed = [k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k)]
                    raise InputError(
                        f"{path}: belongs to another run ({', '.join(sorted(changed))} differ)"
                    )
                return int(metadata["round"]), tensors, json.loads(metadata["extra"])
            except InputError as error:
                self.say(f"checkpoint passed over: {error}")
            except (KeyError, TypeError, ValueError):
                self.say(f"checkpoint passed over: {path}: not a checkpoint")
        return None

    def clear(self) -> None:
        """Remove the checkpoints of a finished run."""
        for path in self._paths():
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _paths(self) -> list[Path]:
        """The checkpoints at hand, newest first."""
        named = re.compile(r"round-\d{7,}\.safetensors")
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if named.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.stem[6:]), reverse=True)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(memoryview(tensor.reshape(-1).numpy()).cast("B") if tensor.numel() else b"")
    return digest.hexdigest()
