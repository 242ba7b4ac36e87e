"""A partition as a picture: which client holds how much of which class."""

from pathlib import Path
from typing import Any

import numpy as np

from fedgloss.data.dataset import Dataset
from fedgloss.data.partition.partition import load_partition
from fedgloss.files import atomic


def plot_partition(path: Path, dataset: Dataset, png: Path) -> None:
    """Draw clients x classes as a heat map: the share of a client's images in each class."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    manifest = load_partition(path, dataset).manifest
    # A class may be called $x$, which is no formula.
    with plt.rc_context({"text.parse_math": False}):
        figure = _heat_map(manifest, dataset)
    # Without the date that matplotlib would add, the same partition gives the same file.
    with atomic(png) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    plt.close(figure)


def _heat_map(manifest: dict[str, Any], dataset: Dataset) -> Any:
    import matplotlib.pyplot as plt

    share = np.zeros((len(dataset.classes), len(manifest["labels"])))
    for client, row in enumerate(manifest["labels"]):
        for label, count in row.items():
            share[int(label), client] = count / manifest["sizes"][client]
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    image = axes.imshow(share, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
    figure.colorbar(image, label="share of the client's images")
    if len(dataset.classes) <= 20:
        axes.set_yticks(range(len(dataset.classes)), dataset.classes)
    statistics, alpha = manifest["statistics"], manifest["alpha"]
    drawn = "" if alpha in (None, "iid", "natural") else f", alpha {alpha}"
    smallest, largest = statistics["smallest"], statistics["largest"]
    sizes = f"{smallest} to {largest} images" if smallest < largest else f"{largest} images each"
    axes.set(
        xlabel="client",
        ylabel="class",
        title=f"{dataset.name}, {manifest['scheme']}{drawn}: "
        f"{statistics['classes_per_client']:.2f} classes per client, {sizes}",
    )
    return figure
