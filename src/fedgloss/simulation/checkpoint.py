"""Checkpoints: a run killed anywhere goes on as if nothing had happened.

One safetensors file holds everything: the simulation's tensors, and as metadata the round, the
metrics so far and the identity of the run. Files appear whole or not at all, the last two are kept,
and one that cannot be read or belongs to another run is passed over with a message.

A folder of checkpoints has one owner, the process that took it up last. An earlier one that is
still alive (a workflow was killed, its jobs were not) finds out, and leaves its place.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fedgloss.errors import InputError
from fedgloss.files import remove_leftovers
from fedgloss.tensors import load_metadata, load_tensors, save_tensors

KEPT = 2
CHECKPOINT = "round-*.safetensors"


class Interrupted(Exception):
    """The run was asked to stop, its state is in a checkpoint; or another process took it over."""


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
    _last_look: float = field(default_factory=time.monotonic, repr=False)
    _passed_over: set[Path] = field(default_factory=set, repr=False)
    _owned: bool = field(default=False, repr=False)
    _made: list[Path] = field(default_factory=list, repr=False)
    _me: str = field(
        default_factory=lambda: f"{os.getpid()} on {platform.node()} ({secrets.token_hex(4)})",
        repr=False,
    )

    def due(self, t: int) -> bool:
        """Whether to write one after t completed rounds; raises Interrupted like `save`."""
        if time.monotonic() - self._last_look >= 1:  # a look costs a round trip on network disks
            self.leave_if_taken_over()
        return t % self.every_rounds == 0 or (
            time.monotonic() - self._last_time >= self.every_seconds
        )

    def save(self, t: int, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        """Write the state after t rounds, then remove all but this run's newest two.

        Raises Interrupted if another process owns the folder now.
        """
        self.leave_if_taken_over()
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        metadata = {
            "round": str(t),
            "identity": json.dumps(self.identity, sort_keys=True),
            "extra": json.dumps(extra),
        }
        metadata["sha256"] = _digest(tensors, metadata)
        newest = self.folder / f"round-{t:07d}.safetensors"
        save_tensors(newest, tensors, metadata)
        self._passed_over.discard(newest)
        own = [path for path in self._paths() if path not in self._passed_over]
        for path in [*own[KEPT:], *self._passed_over]:
            path.unlink(missing_ok=True)
        self._last_time = time.monotonic()

    def load(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Own the folder; the newest usable state, (rounds completed, tensors, extra), or None."""
        self._take_over()
        for path in self._paths():
            try:
                metadata, tensors = load_metadata(path), load_tensors(path)
                self._check_identity(path, json.loads(metadata["identity"]))
                if metadata.pop("sha256") != _digest(tensors, metadata):
                    raise InputError(f"{path}: the contents do not match their checksum")
                return int(metadata["round"]), tensors, json.loads(metadata["extra"])
            except InputError as error:
                self.say(f"checkpoint passed over: {error}")
            except (KeyError, TypeError, ValueError, RecursionError):
                self.say(f"checkpoint passed over: {path}: not a checkpoint")
            self._passed_over.add(path)
        return None

    def _check_identity(self, path: Path, theirs: Any) -> None:
        if not isinstance(theirs, dict):
            raise InputError(f"{path}: not a checkpoint")
        ours = json.loads(json.dumps(self.identity))
        changed = [k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k)]
        if ours != theirs:
            raise InputError(
                f"{path}: belongs to another run ({', '.join(sorted(changed))} differ)"
            )

    def clear(self) -> None:
        """Remove the checkpoints of a finished run."""
        if self._taken_over():
            return  # it goes on from them
        for path in [*reversed(self._paths()), self._owner]:  # the newest last
            path.unlink(missing_ok=True)
        remove_leftovers(self.folder, CHECKPOINT)
        for folder in [self.folder, *self._made]:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()

    def leave_if_taken_over(self) -> None:
        """Raise Interrupted if another process owns the folder now."""
        if self._taken_over():
            self.say(f"{self._owner}: another process has taken over this run")
            raise Interrupted

    @property
    def _owner(self) -> Path:
        """The file that names the folder's owner."""
        return self.folder.with_name(f"{self.folder.name}.owner")

    def _take_over(self) -> None:
        folders = self.folder.absolute().parents
        self._made = [folder for folder in folders if not folder.exists()]
        with contextlib.suppress(OSError):  # a protection less, but no reason not to train
            self._owner.parent.mkdir(parents=True, exist_ok=True)
            self._owner.write_text(self._me, encoding="utf-8")
            self._owned = True
        remove_leftovers(self.folder, CHECKPOINT)

    def _taken_over(self) -> bool:
        """Whether another process has owned the folder since, or even finished the run."""
        self._last_look = time.monotonic()
        try:
            return self._owned and self._owner.read_text(encoding="utf-8") != self._me
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return False

    def _paths(self) -> list[Path]:
        """The checkpoints at hand, newest first."""
        named = re.compile(r"round-\d{7,}\.safetensors")
        if not self.folder.is_dir():
            return []
        found = [p for p in self.folder.iterdir() if named.fullmatch(p.name) and p.is_file()]
        return sorted(found, key=lambda path: int(path.stem[6:]), reverse=True)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(memoryview(tensor.reshape(-1).numpy()).cast("B") if tensor.numel() else b"")
    return digest.hexdigest()
