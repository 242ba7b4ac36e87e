"""What the runs of a study were trained on: which images, cut into which clients."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from fedgloss.files import read_json
from fedgloss.report import names
from fedgloss.report.results import Results
from fedgloss.study.layout import Layout

IMAGES = {
    "clean": "clean images",
    "official_overlap": "the released code's images, some of which are test images, too",
}


@dataclass(frozen=True)
class Cut:
    """A data set cut into clients, in words and as a picture."""

    name: str
    words: str
    picture: str | None
    """A data: address; None where it is not drawn."""


def cuts(found: Results) -> Iterator[Cut]:
    """Each partition of a study's cells that is there."""
    study, layout = found.study, Layout(found.folder)
    for dataset, alpha in dict.fromkeys((cell.dataset, cell.alpha) for cell in study.cells):
        file = layout.partition(study.partition_folder(dataset, alpha), alpha)
        if not file.is_file():
            continue
        record = read_json(file)
        about, counts = record["dataset"], record["statistics"]
        held = f"{counts['smallest']:,} to {counts['largest']:,}"
        if counts["smallest"] == counts["largest"]:
            held = f"{counts['largest']:,}"
        words = (
            f"{names.dataset(study, dataset)}, {names.alpha(alpha)}: {counts['clients']:,} clients"
            f" with {held} training images each, {counts['images']:,} in all"
            f" ({IMAGES.get(about['images'], about['images'])}); {about['test_images']:,} test"
            f" images; {_classes(counts['classes_per_client'])} a client on average; scheme"
            f" {record['scheme']}, seed {record['seed']}."
        )
        picture = file.with_suffix(".png")
        source = None
        if picture.is_file():
            source = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
        yield Cut(f"{dataset}-{alpha}", words, source)


def _classes(count: float) -> str:
    """How many classes, in words."""
    return f"{count:.3g} class{'es' * (count != 1)}"
