"""What the clients keep between rounds, wherever it fits.

A dual variable for each client is as large as that many models: 0.3 GB for the CNN's 100 clients,
4.5 GB for ResNet18's, 24 GB for the 1,262 users of Landmarks. A round reads and writes only its
participants' rows, so what does not fit the GPU lives in pinned host memory, and what does not fit
that in a memory-mapped file, read ahead while the round before is trained.
"""

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

SHARE = 0.4
"""Of the free memory of a GPU or a host, what clients' state may take."""
LIMITS = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""The files of a control group with its limit and what it uses, in versions 2 and 1."""


class ClientState:
    """One vector for each of m clients of S federations: `values` [S, m, P], zero at first."""

    def __init__(self, S: int, m: int, like: Tensor, place: str) -> None:
        """like: a tensor [..., P] of the models' type and device. place: what `choose_place` says.

        A file is an unnamed one in $TMPDIR: it is gone when the process is, however that ends.
        """
        self.m, self.device, self._map = m, like.device, None
        shape, dtype = (S, m, like.shape[-1]), like.dtype
        if place == "device":
            self.values = like.new_zeros(shape)
        elif place == "host":
            self.values = torch.zeros(shape, dtype=dtype, device="cpu", pin_memory=like.is_cuda)
        else:
            size = S * m * like.shape[-1] * like.element_size()
            with tempfile.TemporaryFile() as file:
                os.truncate(file.fileno(), max(size, 1))
                self._map = mmap.mmap(file.fileno(), max(size, 1))
            self.values = torch.frombuffer(self._map, dtype=dtype, count=size // dtype.itemsize)
            self.values = self.values.view(shape)

    def gather(self, rows: Tensor, S: int) -> Tensor:
        """Some rows of [S * m, P], on the models' device, as [S, K, P]."""
        vectors = self.values.flatten(0, 1).index_select(0, rows)
        return vectors.to(self.device, non_blocking=True).unflatten(0, (S, -1))

    def scatter(self, rows: Tensor, vectors: Tensor) -> None:
        """Replace these rows of [S * m, P] by [S, K, P]."""
        vectors = vectors.flatten(0, 1).to(self.values.device)
        self.values.flatten(0, 1).index_copy_(0, rows, vectors)

    def prefetch(self, ids: Sequence[Sequence[int]]) -> None:
        """Begin to read the vectors of a later round from the file, if they are in one."""
        if self._map is not None and hasattr(mmap, "MADV_WILLNEED"):
            length, page = self.values[0, 0].nbytes, mmap.PAGESIZE
            for row in (s * self.m + k for s, some in enumerate(ids) for k in some):
                begin = row * length // page * page
                self._map.madvise(mmap.MADV_WILLNEED, begin, row * length + length - begin)


def choose_place(nbytes: int, device: torch.device) -> str:
    """ "device", "host" or "file": the first that has room for all clients' state."""
    if device.type == "cuda" and nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    fits = nbytes <= SHARE * available_memory()
    return ("host" if device.type == "cuda" else "device") if fits else "file"


def available_memory(root: Path = Path("/")) -> float:
    """Bytes of host memory that this process may still use: the machine's, or its job's limit.

    root: below which /proc and /sys are.
    """
    left = float("inf")
    meminfo = root / "proc/meminfo"
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        left = int(fields["MemAvailable"].split()[0]) * 1024.0
    for folder in _control_groups(root):
        for limit, used in LIMITS:
            with contextlib.suppress(OSError, ValueError):  # not there, or "max": none
                limit_left = int((folder / limit).read_text()) - int((folder / used).read_text())
                left = min(left, limit_left)
    return left


def _control_groups(root: Path) -> Iterator[Path]:
    """The control groups that may limit this process's memory: its own and those around it.

    A container may not see its own by the name that the machine has for it, but at the top.
    """
    top = root / "sys/fs/cgroup"
    tops = {"": top, "memory": top / "memory"}  # in version 2, all controllers are in one tree
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for name in {*controllers.split(",")} & {*tops}:
                parts = [part for part in path.split("/") if part]
                for n in range(len(parts), -1, -1):
                    yield tops[name].joinpath(*parts[:n])
