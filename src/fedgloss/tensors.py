"""Tensors in safetensors files, with torch alone.

A node that trains may have nothing else installed. The format is a table of contents and the raw
bytes: loading a file can never run code.
"""

import json
import math
import mmap
import operator
import os
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fedgloss.errors import InputError
from fedgloss.files import atomic, parse_json

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Linux's MAP_NORESERVE, which Python's mmap names from 3.13 on.
NO_RESERVE = 0x4000 if sys.platform == "linux" else 0
HEADER_LIMIT = 100 * 2**20  # the limit of the format's reference implementation


def safetensors_layout(
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str] = {}
) -> tuple[bytes, dict[str, int], int]:
    """The bytes before the first tensor, every tensor's place in the file, and the file's size.

    The places come in increasing order.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    # Largest alignment first, as the format's own writer does, so that every tensor is aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name))
    offset = 0
    for name in names:
        dtype, shape = tensors[name]
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    places = {name: start + header[name]["data_offsets"][0] for name in names}
    return struct.pack("<Q", len(text)) + text, places, start + offset


def save_tensors(
    path: Path | str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] = {}
) -> None:
    """Write tensors (any device) and text metadata as one safetensors file, atomically."""
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    header, places, _ = safetensors_layout(specs, metadata)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(header)
        for name in places:
            file.write(_bytes(tensors[name].detach().cpu()))


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def load_metadata(path: Path | str) -> dict[str, str]:
    """The text metadata of a safetensors file."""
    return _header(path)[0].get("__metadata__", {})


def load_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Map a safetensors file into memory: pages are read when touched, and writes stay private.

    Raises InputError when the file is missing, truncated, or is not a safetensors file.
    """
    header, start, size = _header(path)
    with open(path, "rb") as file:
        # Private pages reserved ahead would count against the machine's memory, and a file larger
        # than that could not be mapped at all (torch's own from_file reserves them).
        flags, access = mmap.MAP_PRIVATE | NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        mapped = mmap.mmap(file.fileno(), size, flags=flags, prot=access)
    content = torch.frombuffer(mapped, dtype=torch.uint8)
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = DTYPES[entry["dtype"]], [operator.index(n) for n in entry["shape"]]
            begin, end = (operator.index(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{path}: broken table of contents at tensor {name!r}") from None
        count = math.prod(shape)
        if min([begin, *shape], default=0) < 0 or end - begin != count * dtype.itemsize:
            raise InputError(f"{path}: tensor {name!r} has the wrong size")
        if start + end > size:
            raise InputError(f"{path}: truncated, tensor {name!r} is missing bytes")
        raw = content[start + begin : start + end]
        if (start + begin) % dtype.itemsize:
            raw = raw.clone()
        try:
            tensors[name] = raw.view(dtype).reshape(shape)
        except (RuntimeError, TypeError):  # without elements, but of an impossible shape
            raise InputError(f"{path}: tensor {name!r} has an impossible shape") from None
    return tensors


def _header(path: Path | str) -> tuple[dict[str, Any], int, int]:
    """The table of contents, the offset of the first tensor, and the file's size in bytes."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else HEADER_LIMIT
            if length > min(size - 8, HEADER_LIMIT):
                raise InputError(f"{path}: not a safetensors file, or truncated")
            header = parse_json(file.read(length))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None
    if not isinstance(header, dict) or not all(isinstance(v, dict) for v in header.values()):
        raise InputError(f"{path}: not a safetensors file")
    if not all(isinstance(text, str) for text in header.get("__metadata__", {}).values()):
        raise InputError(f"{path}: not a safetensors file (its metadata is not text)")
    return header, 8 + length, size
