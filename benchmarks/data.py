"""Times and peak memory of the data work, each task in a fresh process.

    python benchmarks/data.py --cifar ROOT [--splits FOLDER] [--images 20000] [--work FOLDER]

ROOT holds cifar-10-batches-py, FOLDER the authors' CIFAR-10 split files. The Landmarks tasks run on
made-up data of the real shapes: 164,172 rows, 1,262 users, 2,028 classes; JPEG files of 800 x 600
pixels; a store of `--images` images of 224 x 224, of which a round of 50 clients reads 130 each.
Without an argument its tasks are left out. Prints a Markdown table.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fedgloss.data.dataset import Dataset, load, prepare
from fedgloss.data.partition.partition import load_partition, make_partition
from fedgloss.tensors import load_tensors, safetensors_layout

ROWS, USERS, CLASSES, SIZE = 164_172, 1_262, 2_028, 224
COHORT, IMAGES_PER_CLIENT = 50, 130


def nothing(work: Path) -> str:
    return "the imports alone"


def prepare_cifar(work: Path, root: str) -> str:
    prepare("cifar10", work / "cifar10", root=Path(root))
    return "60,000 images"


def dirichlet(work: Path) -> str:
    data = load(work / "cifar10")
    make_partition(data, work / "p.json", scheme="dirichlet", clients=100, alpha="0.05", seed=0)
    load_partition(work / "p.json", data)
    return "made, written, read back"


def official(work: Path, splits: str) -> str:
    data, file = load(work / "cifar10"), Path(splits)
    make_partition(
        data, work / "o.json", scheme="file", clients=100, alpha="0.05", seed=0, file=file
    )
    return "read by name, written"


def natural(work: Path) -> str:
    """A partition of Landmarks' size, by user; sizes vary as a heavy-tailed draw."""
    rng = np.random.default_rng(0)
    weights = rng.pareto(1.5, USERS) + 0.1
    users = np.sort(rng.choice(USERS, ROWS, p=weights / weights.sum()))
    users[:USERS] = np.arange(USERS)
    data = Dataset(
        name="landmarks",
        train_images=torch.zeros(1, dtype=torch.uint8).expand(ROWS, 3, SIZE, SIZE),
        train_labels=torch.from_numpy(rng.integers(0, CLASSES, ROWS)),
        test_images=torch.zeros(1, dtype=torch.uint8).expand(1, 3, SIZE, SIZE),
        test_labels=torch.zeros(1, dtype=torch.int64),
        classes=tuple(map(str, range(CLASSES))),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        train_users=torch.from_numpy(users),
        train_names=None,
        test_names=None,
        images="clean",
        sha256="",
    )
    start = time.perf_counter()
    make_partition(data, work / "n.json", scheme="natural", clients=None, alpha=None, seed=0)
    made = time.perf_counter()
    load_partition(work / "n.json", data)
    return f"made in {made - start:.2f} s, read back in {time.perf_counter() - made:.2f} s"


def decode(work: Path, count: int = 400) -> str:
    from PIL import Image

    root = work / "gld"
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 12, 16, 3), dtype=np.uint8)
    names = [f"{i:016x}" for i in rng.integers(0, 2**60, count)]
    for name, pixels in zip(names, small, strict=True):
        file = root / "train" / "/".join(name[:3]) / f"{name}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((800, 600)).save(file, quality=90)
    rows = [f"{i % 10},{name},{i % 10}" for i, name in enumerate(names[10:])]
    (root / "federated_train.csv").write_text("\n".join(["user_id,image_id,class", *rows]) + "\n")
    rows = [f"{name},{i}" for i, name in enumerate(names[:10])]
    (root / "test.csv").write_text("\n".join(["image_id,class", *rows]) + "\n")
    start = time.perf_counter()
    prepare("landmarks", work / "landmarks", root=root)
    rate = count / (time.perf_counter() - start)
    return f"{rate:,.0f} images/s on {os.cpu_count()} cores"


def stream(work: Path, images: int) -> str:
    """Rounds of clients gathered from a store, client by client: from disk, then from memory."""
    path, shape = work / "store.safetensors", (3, SIZE, SIZE)
    header = safetensors_layout({"train_images": (torch.uint8, (images, *shape))})[0]
    block = np.random.default_rng(0).integers(0, 256, (64, *shape), dtype=np.uint8)
    with open(path, "wb") as file:
        file.write(header)
        for start in range(0, images, 64):
            file.write(block[: images - start])
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    store = load_tensors(path)["train_images"]
    rng = np.random.default_rng(1)
    clients = [
        torch.from_numpy(np.sort(rng.choice(images, IMAGES_PER_CLIENT, replace=False)))
        for _ in range(COHORT)
    ]
    batch = torch.empty(IMAGES_PER_CLIENT, *shape, dtype=torch.uint8)
    own, rates = _status("RssAnon"), []
    for _ in ("disk", "memory"):
        start = time.perf_counter()
        for indices in clients:
            torch.index_select(store, 0, indices, out=batch)
        rates.append(COHORT * IMAGES_PER_CLIENT / (time.perf_counter() - start))
    return (
        f"{rates[0]:,.0f} images/s from disk, {rates[1]:,.0f} once in the page cache; "
        f"{(_status('RssAnon') - own) / 2**10:,.0f} MiB more of the process's own memory, "
        "the rest of the peak is the mapped file's cache"
    )


def _status(key: str) -> int:
    """An entry of /proc/self/status, in KiB."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def _child(task: Callable[..., str], arguments: tuple, results: multiprocessing.Queue) -> None:
    start = time.perf_counter()
    note = task(*arguments)
    seconds = time.perf_counter() - start
    results.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, note))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar", help="folder that holds cifar-10-batches-py")
    parser.add_argument("--splits", help="folder of the authors' CIFAR-10 split files")
    parser.add_argument("--images", type=int, default=20_000, help="images in the store")
    parser.add_argument("--work", help="folder for temporary files (3 GB per 20,000 images)")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    print("| task | seconds | peak MiB | |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        work = Path(name)
        tasks = [("start a process", nothing, (work,))]
        if options.cifar:
            tasks += [
                ("prepare CIFAR-10", prepare_cifar, (work, options.cifar)),
                ("100-client partition, alpha 0.05", dirichlet, (work,)),
            ]
            if options.splits:
                tasks += [("import an official split", official, (work, options.splits))]
        tasks += [
            ("partition of 164,172 rows, 1,262 users", natural, (work,)),
            ("decode JPEG to 224 x 224", decode, (work,)),
            (
                f"gather a round of 50 clients from {options.images:,} images",
                stream,
                (work, options.images),
            ),
        ]
        for label, task, arguments in tasks:
            results = spawn.Queue()
            process = spawn.Process(target=_child, args=(task, arguments, results))
            process.start()
            seconds, peak, note = results.get()
            process.join()
            print(f"| {label} | {seconds:.2f} | {peak:,.0f} | {note} |", flush=True)


if __name__ == "__main__":
    main()
