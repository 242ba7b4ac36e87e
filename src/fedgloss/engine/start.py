"""How every computation starts: the device, its arithmetic, and the model before round 0."""

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from fedgloss.data.dataset import Dataset
from fedgloss.engine import switches
from fedgloss.engine.devices import claim
from fedgloss.errors import InputError
from fedgloss.models import build_model


def initial_model(
    name: str, dataset: Dataset, seed: int, weights: Path | None = None
) -> torch.nn.Module:
    """The model before round 0: PyTorch's default initialisation, a function of the seed alone.

    With `weights`, those of the file; a last layer for other classes is initialised from the seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels, height, width = dataset.train_images.shape[1:]
        return build_model(name, (channels, height, width), len(dataset.classes), weights)


ONE_AT_A_TIME = threading.RLock()
PRECISIONS = ("float32", "tf32", "tf32x3", "float16", "bfloat16")


@contextlib.contextmanager
def prepared(
    device: str | torch.device, threads: int | None = None, precision: str = "float32"
) -> Iterator[torch.device]:
    """The device, its arithmetic made repeatable, for as long as the block lasts.

    TF32 is off unless `precision` asks for it, and so is what surrounds the call: autocast, and
    modes without gradients. threads: None leaves their number as it is. All of PyTorch's switches
    are put back afterwards. Raises InputError before any is touched. The switches are the whole
    process's, and so are random generators: other threads wait.
    """
    chosen = find_device(device, precision)
    with ONE_AT_A_TIME, switches.put_back():
        if threads is not None:
            torch.set_num_threads(threads)
        _keep_freed_memory()
        switches.compute_alike(chosen.type == "cuda")
        switches.multiply_float32("tf32" if precision in ("tf32", "float16") else "ieee")
        on_gpu = chosen.index is not None and chosen.type == "cuda"
        # Streams and graphs are made on the current device.
        current = torch.cuda.device(chosen) if on_gpu else contextlib.nullcontext()
        with current, torch.inference_mode(False), torch.autocast(chosen.type, enabled=False):
            yield chosen


def find_device(device: str | torch.device, precision: str = "float32") -> torch.device:
    """The device by name, or the one at hand; InputError where it or the precision is not."""
    if precision not in PRECISIONS:
        raise InputError(f"precision: {precision!r} is unknown; allowed: {', '.join(PRECISIONS)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and torch.cuda.device_count() > 1:
            device = f"cuda:{claim(torch.cuda.device_count())}"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(
            f"device: {device!r} is unknown; allowed: auto, cpu, cuda, cuda:N"
        ) from None
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device: {device!r} is not supported; allowed: auto, cpu, cuda, cuda:N")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device: no CUDA device is at hand; allowed here: auto, cpu")
    if precision in ("tf32", "tf32x3", "float16") and chosen.type != "cuda":
        raise InputError(
            f"precision: {precision!r} is for CUDA devices, this is {chosen}; allowed here:"
            " float32, bfloat16"
        )
    if (chosen.index or 0) >= max(torch.cuda.device_count(), 1) and chosen.type == "cuda":
        last = torch.cuda.device_count() - 1
        raise InputError(f"device: {device!r} is not at hand; the last one here is cuda:{last}")
    return chosen


def _keep_freed_memory() -> None:
    """Let glibc reuse the memory of large tensors instead of returning it after each operation.

    By default every block over 128 KiB is mapped afresh, and the kernel zeroes its pages each time:
    a tenth of a small model's training, more for larger ones. Other C libraries go without.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its maximum
    mallopt(-1, 2**30)  # M_TRIM_THRESHOLD


def device_name(device: torch.device) -> str:
    """What the manifest calls a device: the GPU's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
