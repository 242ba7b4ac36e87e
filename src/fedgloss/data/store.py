"""A prepared dataset larger than memory: images are decoded straight into the file, resumably."""

import fcntl
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import torch

from fedgloss.errors import InputError
from fedgloss.files import read_json, write_json
from fedgloss.tensors import safetensors_layout

CHUNK = 256  # images between two records of progress
# Raised when `images.decode` changes: what an older version decoded is not gone on with.
DECODING = 2

Decode = Callable[[Path], np.ndarray]


def stream(
    path: Path,
    train: Sequence[Path],
    test: Sequence[Path],
    decode: Decode,
    shape: tuple[int, int, int],
    small: dict[str, torch.Tensor],
) -> None:
    """Write `path` as safetensors: train_images, test_images (uint8 [., *shape]) and `small`.

    `decode` gives one image as uint8 [C, H, W]; it runs in threads. The file grows under a
    temporary name beside `path`, with a record of how many images are done: after an interruption
    or a broken image the next call with the same files goes on from there.
    """
    layout = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in small.items()}
    layout |= {
        "train_images": (torch.uint8, (len(train), *shape)),
        "test_images": (torch.uint8, (len(test), *shape)),
    }
    header, places, size = safetensors_layout(layout)
    files = [*train, *test]
    row = math.prod(shape)
    partial = path.with_name(f".{path.name}.partial")
    record = path.with_name(f".{path.name}.progress.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as file:
        _lock(file, path)
        fingerprint = _fingerprint(header, small, files)
        done = _done(record, fingerprint)
        if done == 0:
            file.truncate(0)
            file.truncate(size)  # a hole, filled as the images come
            _write(file, 0, header)
            for key, tensor in small.items():
                _write(file, places[key], tensor.contiguous().view(torch.uint8).numpy().data)
        begin, started = done, time.monotonic()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for images, failure in _decoded(pool, decode, files[done:], shape):
                for image in images:
                    of_test = done - len(train)
                    key, index = ("train", done) if of_test < 0 else ("test", of_test)
                    _write(file, places[f"{key}_images"] + index * row, image.data)
                    done += 1
                os.fsync(file.fileno())
                write_json(record, {"fingerprint": fingerprint, "done": done})
                _show(done, len(files), (done - begin) / (time.monotonic() - started))
                if failure is not None:
                    raise failure
        os.replace(partial, path)
    record.unlink(missing_ok=True)


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: is being prepared by another process") from None


def _fingerprint(header: bytes, small: dict[str, torch.Tensor], files: Sequence[Path]) -> str:
    """Changes with anything that decides the finished file, but for the images' content."""
    digest = hashlib.sha256(header)
    digest.update(f"decoding {DECODING}".encode())
    for key in sorted(small):
        digest.update(small[key].contiguous().view(torch.uint8).numpy().data)
    digest.update("\n".join(map(str, files)).encode())
    return digest.hexdigest()


def _done(record: Path, fingerprint: str) -> int:
    """How many images an earlier, interrupted call has left in the file."""
    try:
        progress = read_json(record)
        return progress["done"] if progress["fingerprint"] == fingerprint else 0
    except (InputError, KeyError, TypeError):  # none, or one that is broken: begin anew
        return 0


def _write(file: IO[bytes], place: int, data: bytes | memoryview) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        written = os.pwrite(file.fileno(), rest, place)
        place, rest = place + written, rest[written:]


def _decoded(
    pool: ThreadPoolExecutor, decode: Decode, files: Sequence[Path], shape: tuple[int, ...]
) -> Iterator[tuple[list[np.ndarray], InputError | None]]:
    """Chunks of decoded images in order; a chunk cut short comes with the reason."""

    def attempt(file: Path) -> np.ndarray | InputError:
        try:
            image = decode(file)
        except InputError as error:
            return error
        except Exception as error:  # Pillow's plugins raise whatever they meet
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return InputError(f"{file}: cannot be decoded ({reason})")
        if image.shape != shape:
            return InputError(
                f"{file}: is {image.shape}, expected {shape} (channels, height, width)"
            )
        return np.ascontiguousarray(image)

    for start in range(0, len(files), CHUNK):
        images = list(pool.map(attempt, files[start : start + CHUNK]))
        good: list[np.ndarray] = []
        for image in images:
            if isinstance(image, InputError):
                yield good, image
                return
            good.append(image)
        yield good, None


def _show(done: int, total: int, rate: float) -> None:
    """Progress on stderr: one line that is rewritten on a terminal, ten lines in a log."""
    terminal = sys.stderr.isatty()
    if not terminal and done < total and done * 10 // total == max(done - CHUNK, 0) * 10 // total:
        return
    left = (total - done) / rate / 60 if rate else 0.0  # 0: the very first image is broken
    end = "\r" if terminal and done < total else "\n"
    text = f"decoded {done:,} of {total:,} images, {rate:,.0f} images/s, {left:.0f} min left   "
    print(text, end=end, file=sys.stderr, flush=True)
