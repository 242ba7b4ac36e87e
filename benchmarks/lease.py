"""Cells of a study to a GPU that is lent for minutes, in parcels that its machine takes.

    python benchmarks/lease.py pack --out DIR STUDY GROUP ... [STUDY GROUP ...]
    python benchmarks/lease.py unpack PARCEL TO

`pack` writes DIR/1, DIR/2, ..., with the data that are needed, the partitions and a plan (plan.py
says what a GROUP is), and prints what to call on that machine. `unpack` needs torch and torchvision
alone: it adds a parcel to the folder TO; with the last one, cells can be trained there (cells.py).
docs/lent-gpu.md has the whole way.
"""

import argparse
import hashlib
import lzma
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

import numpy as np
import torch
from torch import Tensor

from fedgloss.errors import InputError
from fedgloss.files import read_json, sha256, write_json
from fedgloss.study.layout import IMAGES_FILE, MANIFEST
from fedgloss.tensors import load_tensors, save_tensors

PLAN, PARCEL = "plan.json", "parcel.json"
SHEET, SIDE = 10_000, 100
"""Images on a sheet, and in a row of it."""
REST = "rest.safetensors"
"""What of a data set is not on sheets; compressed, in a parcel."""


def pack(options: argparse.Namespace) -> None:
    """Write the parcels, unpack them once to see that they are whole, and say what to call."""
    from plan import jobs_of, plan_of

    out: Path = options.out
    if out.exists() and not (out / "1" / PARCEL).is_file():
        raise InputError(f"--out: {out} is there and holds no parcels (allowed: a new folder)")
    plan = plan_of(
        options.words, unit=options.unit, bring=options.bring, locals_of=options.locals,
        divergence=options.divergence, seconds=options.seconds,
    )  # fmt: skip
    jobs = jobs_of(plan)
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        staged = Path(name, "staged")
        for data in sorted({job["data"] for job in jobs}):
            pack_data(Path(data), staged / data)
        for partition in sorted({job["partition"] for job in jobs}):
            copy(Path(partition), staged / partition)
        write_json(staged / PLAN, plan)
        parcels = split(staged, out, options.most * 2**20)
        for parcel in parcels:
            unpack(parcel, Path(name, "unpacked"))
    for number, group in enumerate(plan["groups"]):
        print(f"group {number}, {sum(cell['units'] for cell in group)} units:")
        print(*(f"  {cell['name']}" for cell in group), sep="\n")
    precisions = ",".join(sorted({job["settings"]["precision"] for job in jobs}))
    print("\nOn the machine, from this checkout, each with its parcel:")
    for parcel in parcels:
        unpacks = f"python3 benchmarks/lease.py unpack {parcel} /tmp/lease"
        stages = f"--stages agreement,warm --warm {shlex.quote(stacks_of(plan))} --minutes 3"
        if parcel == parcels[-1]:
            last = "divergence,cells" if "divergence" in plan else "cells"
            stages = f"--stages {last} --data /tmp/lease --minutes {options.minutes}"
        run = f"python3 benchmarks/gpu.py --out $OUT --precisions {precisions} {stages}"
        print(f"  {unpacks} && {run}")


def stacks_of(plan: dict[str, Any]) -> str:
    """What is recorded for the groups, METHOD=CELLS,...: cells of one method are one stack."""
    found: dict[str, None] = {}
    for group in plan["groups"]:
        stacks = Counter(stack_of(cell["train"]["settings"]) for cell in group)
        found |= dict.fromkeys(f"{name}={count}" for (name, _), count in stacks.items())
    return ",".join(found)


def stack_of(settings: dict[str, Any]) -> tuple[str, str]:
    """A cell's method, as gpu.py calls it, and its variants."""
    clip = settings["training"].get("clip")
    name = settings["method"] + (f" clipped at {clip:g}" if clip else "")
    return name, str(settings["variants"])


def split(staged: Path, out: Path, most: float) -> list[Path]:
    """The files below `staged` in parcels of at most so many bytes; sheets first."""
    files = [file for file in staged.rglob("*") if file.is_file()]
    parts: list[list[Path]] = [[]]
    for file in sorted(files, key=lambda file: (file.suffix != ".webp", file)):
        if (size := file.stat().st_size) > most:
            raise InputError(f"--most: {file.name} alone has {size / 2**20:.1f} MiB")
        if sum(other.stat().st_size for other in parts[-1]) + size > most:
            parts.append([])
        parts[-1].append(file)
    parcels = [out / str(number) for number in range(1, len(parts) + 1)]
    for parcel, part in zip(parcels, parts, strict=True):
        names = [str(file.relative_to(staged)) for file in part]
        for file, name in zip(part, names, strict=True):
            copy(file, parcel / name)
        hashes = {name: sha256(parcel / name) for name in names}
        facts = {"name": parcel.name, "of": len(parts), "code": code_here(), "files": hashes}
        write_json(parcel / PARCEL, facts)
    return parcels


def copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)


def code_here() -> str:
    """The SHA-256 of the package in this checkout."""
    files = sorted((ROOT / "src" / "fedgloss").rglob("*.py"))
    lines = [f"{file.relative_to(ROOT)} {sha256(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def unpack(parcel: Path, to: Path) -> str:
    """Add a parcel to a folder; with the last one, its data sets become what they were.

    One that has come before is left alone. Returns what has come, in words. Raises InputError for a
    file that is not as it was packed, and where the checkout is another: runs would name code that
    has not trained them.
    """
    facts = read_json(parcel / PARCEL)
    if facts["code"] != code_here():
        raise InputError(f"{parcel}: was packed by other code than this checkout's; pack it again")
    here = to / "parcels" / facts["name"]
    if not here.is_file() or read_json(here) != facts:
        for name, digest in facts["files"].items():
            copy(parcel / name, to / name)
            check(to / name, digest)
        write_json(here, facts)
    come = len([*(to / "parcels").iterdir()])
    if come == facts["of"]:
        for file in sorted(to.rglob(f"{REST}.xz")):
            unpack_data(file.parent)
    return f"{to}: {come} of {facts['of']} parcels"


def check(file: Path, digest: str) -> None:
    if sha256(file) != digest:
        raise InputError(f"{file}: is not the file that was packed (SHA-256)")


# A data set, small: its images on sheets without loss, everything else compressed


def pack_data(folder: Path, to: Path) -> None:
    """A prepared data set as sheets, `REST` and its manifest."""
    copy(folder / MANIFEST, to / MANIFEST)
    rest = {}
    for name, tensor in load_tensors(folder / IMAGES_FILE).items():
        if has_sheets(tensor.shape):
            for number, images in enumerate(tensor.split(SHEET)):
                file = to / f"{name}-{number:03}.webp"
                sheet_of(images).save(file, lossless=True, quality=60, method=4)
        else:
            rest[name] = tensor
    save_tensors(to / REST, rest)
    (to / f"{REST}.xz").write_bytes(lzma.compress((to / REST).read_bytes()))
    (to / REST).unlink()


def unpack_data(folder: Path) -> None:
    """Make the images' file of a prepared data set again; InputError if it is another one."""
    manifest, packed = read_json(folder / MANIFEST), folder / f"{REST}.xz"
    (folder / REST).write_bytes(lzma.decompress(packed.read_bytes()))
    tensors = load_tensors(folder / REST)
    for name, (_, *shape) in manifest["tensors"].items():
        if has_sheets(shape):
            sheets = [images_of(file, shape) for file in sorted(folder.glob(f"{name}-*.webp"))]
            tensors[name] = torch.cat(sheets)[: shape[0]]
    save_tensors(folder / IMAGES_FILE, tensors)
    check(folder / IMAGES_FILE, manifest["sha256"])
    for file in [packed, folder / REST, *folder.glob("*.webp")]:  # as long as `packed` is there,
        file.unlink()  # all are: a call that is killed can be made again


def has_sheets(shape: Sequence[int]) -> bool:
    """Whether a tensor is of images that a WebP file can hold, SIDE of them in a row."""
    return len(shape) == 4 and shape[1] in (1, 3) and SIDE * max(shape[2:]) < 2**14


def sheet_of(images: Tensor) -> Any:
    """uint8 images [n, C, H, W] as a picture, SIDE in a row; the last row ends in black."""
    from PIL import Image

    n, _, H, W = images.shape
    rows = -(-n // SIDE)
    tiles = np.zeros((rows * SIDE, 3, H, W), np.uint8)
    tiles[:n] = images.numpy()  # one channel becomes three
    tiles = tiles.reshape(rows, SIDE, 3, H, W).transpose(0, 3, 1, 4, 2)
    return Image.fromarray(tiles.reshape(rows * H, SIDE * W, 3))


def images_of(file: Path, shape: Sequence[int]) -> Tensor:
    """What is on a sheet, uint8 [up to SHEET, C, H, W]; shape: of all images, [N, C, H, W]."""
    from PIL import Image

    _, C, H, W = shape
    tiles = np.asarray(Image.open(file).convert("RGB")).reshape(-1, H, SIDE, W, 3)
    tiles = tiles.transpose(0, 2, 4, 1, 3).reshape(-1, 3, H, W)
    return torch.from_numpy(tiles[:, :C].copy())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack", help="write parcels")
    packing.add_argument("words", nargs="+", metavar="STUDY GROUP ...")
    packing.add_argument("--out", type=Path, required=True)
    packing.add_argument("--most", type=float, default=56, help="MiB that a parcel may have")
    packing.add_argument("--minutes", type=float, default=9.5, help="of the last call")
    packing.add_argument("--unit", type=float, default=18, help="seconds for SGD clients' 1 run")
    labels = {"type": lambda text: text.split(","), "default": (), "metavar": "LABEL,..."}
    packing.add_argument("--locals", **labels, help="whose local models to measure")
    packing.add_argument("--bring", **labels, help="whose models to bring home")
    packing.add_argument("--divergence", default="", help="GROUP of the first study to look into")
    packing.add_argument("--seconds", type=float, default=150, help="at most for these")
    packing.set_defaults(run=pack)
    unpacking = commands.add_parser("unpack", help="add one to a folder")
    unpacking.add_argument("parcel", type=Path)
    unpacking.add_argument("to", type=Path)
    unpacking.set_defaults(run=lambda options: print(unpack(options.parcel, options.to)))
    options = parser.parse_args()
    try:
        options.run(options)
    except InputError as error:
        print(f"lease: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
