"""Your own images as a study: one folder for each class, and one short file.

Run:    python examples/own_images.py
        snakemake --configfile=examples/own_images.yaml
Leaves: the accuracy of two methods in results/tables/own-images/accuracy.md, and a report in
        results/report/own-images.html.

The first command only makes images to try this with, 300 PNGs of the digits 0, 1 and 2 in
data/own-images: train/CLASS/*.png and test/CLASS/*.png. Put your own there instead.
"""

from pathlib import Path

from matplotlib.image import imsave
from sklearn.datasets import load_digits

FOLDER = Path("data/own-images")

pixels, labels = load_digits(n_class=3, return_X_y=True)
for i, (image, label) in enumerate(zip(pixels[:300], labels, strict=False)):
    part = "test" if i % 5 == 0 else "train"
    name = ("zero", "one", "two")[label]
    file = FOLDER / part / name / f"{i:03}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    imsave(file, image.reshape(8, 8), cmap="gray")
print(f"{len(list(FOLDER.glob('*/*/*.png')))} images in {FOLDER}")
