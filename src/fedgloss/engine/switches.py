"""PyTorch's process-wide switches: set for the time of a computation, then put back.

PyTorch says in two ways how float32 numbers are multiplied: an older one, which cannot be read any
more once a program has used the newer one, and a newer one for each backend and operation. Whatever
the program around us has used, it finds all of it as it left it.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

OPERATIONS = [
    *(("generic", "all"), ("cuda", "all"), ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn")),
    *(("mkldnn", "all"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn")),
]
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_NEWER = hasattr(torch._C, "_set_fp32_precision_setter")


def _setter(holder: Any, name: str) -> Callable[[Any], None]:
    return lambda value: setattr(holder, name, value)


def _read() -> list[tuple[Callable[[Any], None], Any]]:
    """How each switch is set, and its present value; the order is that of putting back."""
    cuda, cudnn, deterministic = (
        torch.backends.cuda.matmul,
        torch.backends.cudnn,
        torch.utils.deterministic,
    )
    found: list[tuple[Callable[[Any], None], Any]] = []
    older: list[tuple[Callable[[Any], None], Callable[[], Any]]] = [
        (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision),
        (_setter(cuda, "allow_tf32"), lambda: cuda.allow_tf32),
        (_setter(cudnn, "allow_tf32"), lambda: cudnn.allow_tf32),
    ]
    for write, read in older:
        with contextlib.suppress(RuntimeError):  # the newer way was used
            found.append((write, read()))
    if _NEWER:
        setter: Callable[..., Any] = torch._C._set_fp32_precision_setter
        for where in OPERATIONS:
            value = torch._C._get_fp32_precision_getter(*where)
            found.append((partial(setter, *where), value))
    for name in ("benchmark", "deterministic"):
        found.append((_setter(cudnn, name), getattr(cudnn, name)))
    mode = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    found.append((lambda m: torch._C._set_deterministic_algorithms(m[0], warn_only=m[1]), mode))
    fill = "fill_uninitialized_memory"
    found.append((_setter(deterministic, fill), getattr(deterministic, fill)))
    mha = torch.backends.mha
    found.append((mha.set_fastpath_enabled, mha.get_fastpath_enabled()))
    found.append((torch.set_num_threads, torch.get_num_threads()))
    found.append((_set_workspace, os.environ.get(WORKSPACE)))
    return found


def _set_workspace(value: str | None) -> None:
    if value is None:
        os.environ.pop(WORKSPACE, None)
    else:
        os.environ[WORKSPACE] = value


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Whatever the block does to the switches is undone after it."""
    before = _read()
    try:
        yield
    finally:
        for write, value in before:
            write(value)


def multiply_float32(as_: str) -> None:
    """Matrix products and convolutions of float32 numbers as "ieee" or "tf32"."""
    if _NEWER:
        for operation in ("matmul", "conv", "rnn"):
            torch._C._set_fp32_precision_setter("cuda", operation, as_)
            torch._C._set_fp32_precision_setter("mkldnn", operation, "ieee")
    else:
        tf32 = as_ == "tf32"
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32


def compute_alike(cuda: bool) -> None:
    """The same bits in every run on this device."""
    # A warning, not an error: CUDA's max-pooling counts as unrepeatable, though it only is where
    # windows overlap. On a GPU what the mode replaces is slower, and deterministic here anyway:
    # rows are distinct. This is use_deterministic_algorithms without importing the compiler (2 s).
    torch._C._set_deterministic_algorithms(not cuda, warn_only=not cuda)
    # Nothing here reads such memory.
    _setter(torch.utils.deterministic, "fill_uninitialized_memory")(False)
    # Without gradients it computes padded sequences otherwise than training does.
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = cuda
    if cuda:  # read by cuBLAS when CUDA starts
        os.environ.setdefault(WORKSPACE, ":4096:8")
