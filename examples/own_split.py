"""Your own split of a data set: a JSON file that says which client holds which images.

Run:    python examples/own_split.py
        snakemake --configfile=examples/own_split.yaml
Leaves: the accuracy of two methods in results/tables/own-split/accuracy.md.

The first command writes data/own-split.json: {"clients": [[indices], [indices], ...]}, with indices
into the training images. Here client 0 holds the digits 0 to 4, client 1 the digits 5 to 9, and so
on. In the library nothing of this is needed: there a client is a pair of tensors.
"""

import json
from pathlib import Path

from fedgloss.data.dataset import load, prepare

FOLDER, CLIENTS = Path("results/data/digits"), 10

if not (FOLDER / "manifest.json").exists():
    prepare("digits", FOLDER)
labels = load(FOLDER).train_labels.tolist()
clients: list[list[int]] = [[] for _ in range(CLIENTS)]
for i, label in enumerate(labels):
    clients[(i // 10 % (CLIENTS // 2)) * 2 + (label >= 5)].append(i)

file = Path("data/own-split.json")
file.parent.mkdir(exist_ok=True)
file.write_text(json.dumps({"clients": clients}))
print(f"{file}: {[len(images) for images in clients]} images")
