"""The switches of the whole process: what they are, and how to put them back.

No test may leave one other than it found it (conftest.py sees to that), and no call of the library
may either (unit/test_switches.py). PyTorch has two ways to say how float32 is multiplied: a newer
one for each backend and operation, and an older one that cannot be read once the newer one has said
something else.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

Switch = tuple[Callable[[], Any], Callable[[Any], Any]]
"""How one is read, and how it is set."""

UNREADABLE = "cannot be read: both ways to set the precision were used"
COMPUTING = ("CUBLAS", "CUDA", "CUDNN", "FEDGLOSS", "MKL", "NVIDIA", "OMP", "PYTHON", "PYTORCH")
PRECISIONS = [
    *(("generic", "all"), ("cuda", "all"), ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn")),
    *(("mkldnn", "all"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn")),
]


def _attribute(holder: Any, name: str) -> Switch:
    return lambda: getattr(holder, name), lambda value: setattr(holder, name, value)


def _older(read: Callable[[], Any], write: Callable[[Any], Any]) -> Switch:
    def read_if_possible() -> Any:
        try:
            return read()
        except RuntimeError:
            return UNREADABLE

    return read_if_possible, lambda value: None if value == UNREADABLE else write(value)


def _newer(backend: str, operation: str) -> Switch:
    return (
        lambda: torch._C._get_fp32_precision_getter(backend, operation),
        lambda value: torch._C._set_fp32_precision_setter(backend, operation, value),
    )


def _handler(number: int) -> Switch:
    def write(handler: Any) -> None:
        if handler is not None:  # None: not Python's, so nothing of Python's can have set it
            signal.signal(number, handler)

    return lambda: signal.getsignal(number), write


def _environment() -> dict[str, str]:
    """What decides how a program computes; other packages leave notes of their own here."""
    return {name: value for name, value in os.environ.items() if name.startswith(COMPUTING)}


def _set_environment(values: dict[str, str]) -> None:
    for name in _environment().keys() - values.keys():
        del os.environ[name]
    os.environ.update(values)


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


def _attention(name: str) -> Switch:
    cuda = torch.backends.cuda
    return getattr(cuda, f"{name}_sdp_enabled"), getattr(cuda, f"enable_{name}_sdp")


# In the order in which they are put back: what the older way sets, the newer one then corrects.
SWITCHES: dict[str, Switch] = {
    "float32_matmul_precision": _older(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    "cuda.matmul.allow_tf32": _older(*_attribute(torch.backends.cuda.matmul, "allow_tf32")),
    "cudnn.allow_tf32": _older(*_attribute(torch.backends.cudnn, "allow_tf32")),
}
if hasattr(torch._C, "_get_fp32_precision_getter"):
    SWITCHES |= {f"fp32_precision of {b}, {o}": _newer(b, o) for b, o in PRECISIONS}
SWITCHES |= {
    f"cudnn.{name}": _attribute(torch.backends.cudnn, name)
    for name in ("enabled", "benchmark", "deterministic")
}
SWITCHES |= {
    f"attention by {name}": _attention(name)
    for name in ("flash", "mem_efficient", "math", "cudnn")
    if hasattr(torch.backends.cuda, f"enable_{name}_sdp")
}
if hasattr(torch.backends, "mha"):
    SWITCHES["attention's fast path"] = (
        torch.backends.mha.get_fastpath_enabled,
        torch.backends.mha.set_fastpath_enabled,
    )
SWITCHES |= {
    "mkldnn.enabled": (
        lambda: torch._C._get_mkldnn_enabled(),
        lambda value: torch._C._set_mkldnn_enabled(value),
    ),
    "inference mode": (torch.is_inference_mode_enabled, lambda value: None),
    "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda value: None),
    "deterministic algorithms": (
        _deterministic,
        lambda value: torch._C._set_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "fill_uninitialized_memory": _attribute(torch.utils.deterministic, "fill_uninitialized_memory"),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, torch.set_default_device),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "working directory": (os.getcwd, os.chdir),
    "environment": (_environment, _set_environment),
    **{f"handler of {s.name}": _handler(s) for s in sorted(signal.Signals)},
}


def read() -> dict[str, Any]:
    """The present value of every switch."""
    return {name: get() for name, (get, _) in SWITCHES.items()}


def differences(before: dict[str, Any]) -> list[str]:
    """What is no longer as it was, one text each."""
    now = read()
    return [
        f"{name}: {_shown(before[name], now[name])}"
        for name in SWITCHES
        if before[name] != now[name]
    ]


def put_back(before: dict[str, Any]) -> None:
    """Set every switch to what `read` found."""
    for name, (get, write) in SWITCHES.items():
        if get() != before[name]:
            write(before[name])


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Whatever the block does to the switches is undone after it."""
    before = read()
    try:
        yield
    finally:
        put_back(before)


def generators() -> list[Any]:
    """The states of the global random generators, to be compared."""
    import random

    numpy = np.random.get_state()
    return [random.getstate(), torch.get_rng_state().tolist(), numpy[1].tolist(), numpy[2:]]


def _shown(before: Any, now: Any) -> str:
    if isinstance(before, dict):
        names = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
        return ", ".join(f"{name}={before.get(name)} became {now.get(name)}" for name in names)
    return f"{before} became {now}"
