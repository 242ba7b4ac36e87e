"""Checkpoints: a run killed anywhere goes on as if nothing had happened.

One safetensors file holds everything: the simulation's tensors, and as metadata the round, the
metrics so far and the identity of the run. Files appear whole or not at all, the last two are kept,
and one that cannot be read or belongs to another run is passed over with a message.

What only grows, the parameters after each round, would make every checkpoint longer than the last.
It lies beside them in pieces, history-FROM-TO.safetensors, each written once; a checkpoint names
its pieces and their hashes.

A folder of checkpoints has one owner, the process that took it up last. An earlier one that is
still alive (a workflow was killed, its jobs were not) finds out, and leaves its place.
"""

import contextlib
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedgloss.engine.folders import shown
from fedgloss.engine.owner import Owner
from fedgloss.errors import InputError
from fedgloss.files import remove_leftovers
from fedgloss.tensors import load_metadata, load_tensors, save_tensors

KEPT = 2
CHECKPOINT = "round-*.safetensors"
PIECE = "history-*.safetensors"


class Interrupted(Exception):
    """The run was asked to stop, its state is in a checkpoint; or another process took it over."""


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@dataclass
class Checkpoints:
    """Where a run keeps its checkpoints, and when it writes one.

    A checkpoint is taken up only if its identity equals this one's: whatever could change the
    numbers belongs in it (settings, fingerprint of the code, hashes of the data).

    for_calls: the folder serves a call of the library that is made again, not a job whose results
    are files. The end of the run is kept too, and another run's checkpoints are refused: training
    over them would lose them.
    """

    folder: Path
    identity: Mapping[str, Any]
    every_rounds: int = 1000
    every_seconds: float = 300.0
    say: Callable[[str], None] = _to_stderr
    for_calls: bool = False
    _last_time: float = field(default_factory=time.monotonic, repr=False)
    _passed_over: set[Path] = field(default_factory=set, repr=False)
    _pieces: list[tuple[int, str]] = field(default_factory=list, repr=False)
    """The history's pieces: the round each ends with, and its hash."""
    _owner: Owner = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._owner = Owner(self.folder)

    def due(self, t: int) -> bool:
        """Whether to write one after t completed rounds; raises Interrupted like `save`."""
        # Not every round: a look costs a round trip on network disks.
        if time.monotonic() - self._owner.last_look >= 1:
            self.leave_if_taken_over()
        return t % self.every_rounds == 0 or (
            time.monotonic() - self._last_time >= self.every_seconds
        )

    def save(
        self,
        t: int,
        tensors: Mapping[str, Tensor],
        extra: Mapping[str, Any],
        history: Sequence[Tensor] = (),
    ) -> None:
        """Write the state after t rounds, then remove all but this run's newest two.

        history: a tensor for each round so far, which later rounds only add to; those that no
        checkpoint has yet are written. Raises Interrupted if another process owns the folder now.
        """
        self.leave_if_taken_over()
        self._save_history(history)
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        metadata = {
            "round": str(t),
            "identity": json.dumps(self.identity, sort_keys=True),
            "extra": json.dumps(extra),
            "history": json.dumps(self._pieces),
        }
        metadata["sha256"] = _digest(tensors, metadata)
        newest = self.folder / f"round-{t:07d}.safetensors"
        save_tensors(newest, tensors, metadata)
        self._passed_over.discard(newest)
        own = [path for path in self._paths() if path not in self._passed_over]
        for path in [*own[KEPT:], *self._passed_over]:
            path.unlink(missing_ok=True)
        # The older one's pieces are among the newest's: what no checkpoint names can go.
        for path in self._history_paths() - {*self._named(self._pieces)}:
            path.unlink(missing_ok=True)
        self._last_time = time.monotonic()

    def load(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Own the folder; the newest usable state, (rounds completed, tensors, extra), or None.

        The history, where there is one, is among the tensors: `history`, [rounds completed, ...].
        With `for_calls`, raises InputError, and leaves the folder to its owner, if the newest is
        another run's.
        """
        if self.for_calls:
            self._refuse_others()
        self._owner.take()
        self._remove_leftovers()
        for path in self._paths():
            try:
                metadata, tensors = _read(path)
                if changed := self._differences(metadata):
                    raise InputError(f"{path}: belongs to another run ({changed} differ)")
                self._pieces = [(int(end), sha) for end, sha in json.loads(metadata["history"])]
                if self._pieces:
                    tensors["history"] = self._load_history()
                return int(metadata["round"]), tensors, json.loads(metadata["extra"])
            except InputError as error:
                self.say(f"checkpoint passed over: {error}")
            except (KeyError, TypeError, ValueError, RecursionError):
                self.say(f"checkpoint passed over: {path}: not a checkpoint")
            self._passed_over.add(path)
        self._pieces = []
        return None

    def _refuse_others(self) -> None:
        for path in self._paths():
            try:
                changed = self._differences(_read(path)[0])
            except (KeyError, TypeError, ValueError, RecursionError):
                continue  # it is damaged, whosever it is
            if changed:
                raise InputError(
                    f"resume: {shown(self.folder)} holds the checkpoints of another run ({changed}"
                    " differ); name another folder or remove it"
                )
            return

    def _differences(self, metadata: Mapping[str, str]) -> str:
        """In what a checkpoint's run is another than this one; empty if in nothing."""
        ours, theirs = json.loads(json.dumps(self.identity)), json.loads(metadata["identity"])
        if not isinstance(theirs, dict):
            return "identity"
        nothing = object()  # unlike whatever stands there
        names = sorted({*ours, *theirs})
        return ", ".join(k for k in names if ours.get(k, nothing) != theirs.get(k, nothing))

    def _save_history(self, history: Sequence[Tensor]) -> None:
        """Write the rounds that are in no piece yet as one more."""
        done = self._pieces[-1][0] if self._pieces else 0
        if len(history) > done:
            piece = {"history": torch.stack([*history[done:]]).detach().cpu()}
            pieces = [*self._pieces, (len(history), _digest(piece, {}))]
            save_tensors(self._named(pieces)[-1], piece)
            self._pieces = pieces

    def _load_history(self) -> Tensor:
        """All rounds of the pieces, [rounds, ...]. Raises InputError if one is not as written."""
        rounds = []
        for path, (_, sha256) in zip(self._named(self._pieces), self._pieces, strict=True):
            piece = load_tensors(path)
            if sha256 != _digest(piece, {}):
                raise InputError(f"{path}: the contents do not match their checksum")
            rounds.append(piece["history"])
        return torch.cat(rounds)

    def _named(self, pieces: Sequence[tuple[int, str]]) -> list[Path]:
        """The files of these pieces."""
        ends = [0, *(end for end, _ in pieces)]
        return [
            self.folder / f"history-{begin:07d}-{end:07d}.safetensors"
            for begin, end in pairwise(ends)
        ]

    def release(self) -> None:
        """Give up the folder, unless another process owns it now; its checkpoints stay."""
        self._owner.release()

    def clear(self) -> None:
        """Remove the checkpoints of a finished run."""
        if self._owner.replaced():
            return  # it goes on from them
        for path in [*reversed(self._paths()), *self._history_paths(), self._owner.file]:
            path.unlink(missing_ok=True)  # of the checkpoints, the newest last
        self._remove_leftovers()
        for folder in [self.folder, *self._owner.made]:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()

    def leave_if_taken_over(self) -> None:
        """Raise Interrupted if another process owns the folder now."""
        if self._owner.replaced():
            taken = f"{self._owner.file}: another process has taken over this run"
            self.say(taken)
            raise Interrupted(taken)

    def _remove_leftovers(self) -> None:
        for pattern in (CHECKPOINT, PIECE):
            remove_leftovers(self.folder, pattern)

    def _paths(self) -> list[Path]:
        """The checkpoints at hand, newest first."""
        named = re.compile(r"round-\d{7,}\.safetensors")
        if not self.folder.is_dir():
            return []
        found = [p for p in self.folder.iterdir() if named.fullmatch(p.name) and p.is_file()]
        return sorted(found, key=lambda path: int(path.stem[6:]), reverse=True)

    def _history_paths(self) -> set[Path]:
        """The pieces of history at hand, whichever checkpoint they belong to."""
        named = re.compile(r"history-\d{7,}-\d{7,}\.safetensors")
        return {p for p in self.folder.glob(PIECE) if named.fullmatch(p.name) and p.is_file()}


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A checkpoint's metadata and tensors; InputError, or KeyError, if it is not as written."""
    metadata, tensors = load_metadata(path), load_tensors(path)
    if metadata.pop("sha256") != _digest(tensors, metadata):
        raise InputError(f"{path}: the contents do not match their checksum")
    return metadata, tensors


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).numpy().data.cast("B") if tensor.numel() else b"")
    return digest.hexdigest()
