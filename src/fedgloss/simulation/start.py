"""How every computation starts: the device, its arithmetic, and the model before round 0."""

import ctypes
from pathlib import Path

import torch

from fedgloss.data.datasets import Dataset
from fedgloss.errors import InputError
from fedgloss.models import build_model
from fedgloss.simulation.devices import claim


def initial_model(
    name: str, dataset: Dataset, seed: int, weights: Path | None = None
) -> torch.nn.Module:
    """The model before round 0: PyTorch's default initialisation, a function of the seed alone.

    With `weights`, those of the file; a last layer for other classes is initialised from the seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = tuple(dataset.train_images.shape[1:])
        return build_model(name, shape, len(dataset.classes), weights)


PRECISIONS = ("float32", "tf32", "tf32x3", "float16", "bfloat16")


def prepare_torch(device: str, threads: int, precision: str = "float32") -> torch.device:
    """Pick the device and make its arithmetic repeatable, TF32 off unless it is asked for."""
    if precision not in PRECISIONS:
        raise InputError(f"precision: {precision!r} is unknown; allowed: {', '.join(PRECISIONS)}")
    torch.set_num_threads(threads)
    _keep_freed_memory()
    # The switch of use_deterministic_algorithms, without importing the compiler (2 s). A warning,
    # not an error: CUDA's max-pooling counts as unrepeatable, though it only is where windows
    # overlap, and ours do not.
    # On a GPU what the mode replaces is slower, and deterministic here anyway: rows are distinct.
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    torch.set_deterministic_debug_mode("default" if cuda else "warn")
    torch.backends.cudnn.deterministic = cuda
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads such memory
    torch.backends.cudnn.benchmark = False
    tf32 = precision in ("tf32", "float16")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and torch.cuda.device_count() > 1:
            device = f"cuda:{claim(torch.cuda.device_count())}"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(
            f"device: {device!r} is unknown; allowed: auto, cpu, cuda, cuda:N"
        ) from None
    if chosen.type not in ("cpu", "cuda"):
        raise InputError(f"device: {device!r} is not supported; allowed: auto, cpu, cuda, cuda:N")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device: no CUDA device is at hand; allowed here: auto, cpu")
    if tf32 and chosen.type != "cuda":
        raise InputError(
            f"precision: {precision!r} is for CUDA devices, this is {chosen}; allowed here:"
            " float32, bfloat16"
        )
    if chosen.type == "cuda" and chosen.index is not None:
        if chosen.index >= torch.cuda.device_count():
            last = torch.cuda.device_count() - 1
            raise InputError(f"device: {device!r} is not at hand; the last one here is cuda:{last}")
        torch.cuda.set_device(chosen)  # streams and graphs are made on the current device
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
