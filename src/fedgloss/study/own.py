"""What a study needs from outside, looked for before any job: methods, models, images of its own.

A job that fails takes the finished outputs of its cells with it, so what can fail is tried first.
Reading a study does not do this: trying them waits for torch, and each job reads the study.
"""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from fedgloss.data.definition import check_prepared
from fedgloss.errors import OWN_ERRORS, InputError, reason
from fedgloss.records import Kind, read_record
from fedgloss.study import resolving
from fedgloss.study.cells import Cell
from fedgloss.study.inputs import is_split_there
from fedgloss.study.layout import HERE, IMAGES_FILE, Layout
from fedgloss.study.layout import MANIFEST as MANIFEST_FILE
from fedgloss.study.settings import Settings
from fedgloss.study.study import Study
from fedgloss.study.sweep import base_of

Shape = tuple[int, int, int]

KNOWN: dict[str, tuple[Shape, int]] = {
    "digits": ((1, 8, 8), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
}
"""Images and classes of the sources that are the same everywhere."""
ORIGINALS = {
    "cifar10": ("cifar-10-batches-py",),
    "cifar100": ("cifar-100-python",),
    "landmarks": ("federated_train.csv", "test.csv"),
    "folder": ("train", "test"),
}
"""What a source reads below its root, as far as its absence can be seen at a glance."""
IMAGES = Kind(
    "a type and four sizes",
    lambda found: isinstance(found, list) and [type(n) for n in found] == [str, *[int] * 4],
)
PACKAGES = {"lanczos": (), "pyhessian": ("pyhessian",), "eigsh": ("curvlinops", "scipy")}
"""What a method for eigenvalues needs besides torch."""
MANIFEST = {
    "tensors": {"train_images": IMAGES},
    "classes": Kind("a list", lambda found: isinstance(found, list)),
}


def check_own(study: Study, results: Path = HERE.results) -> None:
    """InputError, in one line with file and key, for a method, model or folder that cannot be used.

    A method is rehearsed. A model of one's own, or one that starts from a file, is built once for
    each data set in the grid, if the images' shape is known already, and given two of them; a
    folder is looked at unless its images have been prepared.
    """
    check_data(study, results)
    for package in PACKAGES[study.hessian.method]:
        if find_spec(package) is None:
            raise InputError(
                f"{study.file}: hessian.method: {study.hessian.method} needs the package {package},"
                " which is not installed (pip install pyhessian, or curvlinops-for-pytorch scipy)"
            )
    for i, block in enumerate(study.asked.grid):
        _check_root(study, block.dataset, results)
        name, weights = study.model(block.model).model, study.model(block.model).weights
        if ":" in name or weights:
            entry = f"models.{block.model}"
            where = f"{entry}.model" if name != block.model else f"grid[{i}].model"
            try:
                _check_model(name, [*_images(study, block.dataset, results)], weights)
            except InputError as error:
                if weights and str(error).startswith(weights):
                    where = f"{entry}.weights"
                raise InputError(f"{study.file}: {where}: {error}") from None
    _check_methods(study)


def _check_methods(study: Study) -> None:
    """Rehearse each method of one's own once, with at most two of the settings that it has."""
    settings: dict[str, list[tuple[Cell, Settings]]] = {}
    for cell in {cell.condition: cell for cell in study.cells}.values():
        if ":" in study.definition(cell.algorithm).method:
            found = study.settings(cell)
            settings.setdefault(f"{found.method} {found.variants}", []).append((cell, found))
    for (first, found), *others in settings.values():
        from fedgloss.engine.rehearsal import rehearse_beforehand

        numbers = [
            (dict(one.hyperparameters), one.training["lr"], one.training["weight_decay"])
            for one in (found, *(other for _, other in others))
        ]
        second = next((other for other in numbers if other != numbers[0]), numbers[0])
        try:
            rehearse_beforehand(
                study.algorithm(first)[1], [numbers[0], second], found.training["rounds"]
            )
        except InputError as error:
            label = base_of(first.algorithm)
            raise InputError(f"{study.file}: algorithms.{label}: {error}") from None


def check_data(study: Study, results: Path = HERE.results) -> None:
    """InputError if a folder of the study's data sets holds another, as one prepared by hand."""
    for name in dict.fromkeys(cell.dataset for cell in study.cells):
        folder, wanted = study.data_folder(name), resolving.content(study.datasets[name])
        where = f"datasets.{name}."
        then = f"delete the folder, and {study.file} has it prepared again"
        check_prepared(Layout(results).data(folder), wanted, where, then)


def missing_data(
    study: Study, datasets: Iterable[str], results: Path = HERE.results
) -> Iterator[str]:
    """A line for each folder that must hold originals of these data sets, and does not.

    Data sets that are prepared already need none; that their manifest is there does not say so.
    """
    missing: dict[str, list[str]] = {}
    for name in datasets:
        definition = study.datasets[name]
        if definition.root is None or _is_prepared(study, name, results):
            continue
        root = Path(definition.root)
        absent = [
            file for file in ORIGINALS.get(definition.source, ()) if not (root / file).exists()
        ]
        if definition.source == "cifar100" and (root / "train").is_dir():
            absent = []  # as class folders
        if absent:
            what = f"must hold {' and '.join(absent)}, see docs/data.md"
            what = "will be downloaded" if definition.download else what
            missing.setdefault(f"{root}: missing, {what}", []).append(name)
    for line, names in missing.items():
        yield f"{line} ({', '.join(names)})"


def missing_splits(
    study: Study, cuts: Iterable[tuple[str, str]], results: Path = HERE.results
) -> Iterator[str]:
    """A line for each folder or file that must hold splits that these cuts, of data sets at alphas,
    import, and that does not.

    Those that are in the results folder already need none.
    """
    missing: dict[str, list[tuple[str, str]]] = {}
    for dataset, alpha in cuts:
        arguments = study.partition(dataset, alpha)
        imported = Layout(results).partition(study.partition_folder(dataset, alpha), alpha)
        if arguments["scheme"] != "file" or imported.is_file():
            continue
        if not is_split_there(arguments["file"], alpha):
            missing.setdefault(arguments["file"], []).append((alpha, dataset))
    for file, wanted in missing.items():
        alphas, datasets = (dict.fromkeys(kind) for kind in zip(*wanted, strict=True))
        what = f"missing, must hold the split at alpha {', '.join(alphas)}, see docs/data.md"
        yield f"{file}: {what} ({', '.join(datasets)})"


def _is_prepared(study: Study, dataset: str, results: Path) -> bool:
    return (Layout(results).data(study.data_folder(dataset)) / IMAGES_FILE).is_file()


def _check_model(name: str, images: list[tuple[Shape, int]], weights: str | None) -> None:
    import torch

    from fedgloss.models import build_model, constructor

    constructor(name)
    with torch.random.fork_rng(devices=[]):
        for shape, classes in images:
            model = build_model(name, shape, classes, Path(weights) if weights else None)
            kind = next((parameter.dtype for parameter in model.parameters()), None)
            try:
                with torch.no_grad():
                    found = model(torch.zeros(2, *shape, dtype=kind))
            except OWN_ERRORS as error:
                raise InputError(
                    f"model {name}: two images of shape {shape} do not pass through it"
                    f" ({type(error).__name__}: {reason(error)})"
                ) from None
            given = [*found.shape] if isinstance(found, torch.Tensor) else type(found).__name__
            if not isinstance(given, list) or len(given) != 2 or given[1] < classes:
                raise InputError(
                    f"model {name}: returns {given} for two images, expected [2, {classes}]"
                )


def _images(study: Study, dataset: str, results: Path) -> Iterator[tuple[Shape, int]]:
    """The shape of a data set's images and the number of its classes, where they are known."""
    source = study.datasets[dataset].source
    manifest_file = Layout(results).data(study.data_folder(dataset)) / MANIFEST_FILE
    if source in KNOWN:
        yield KNOWN[source]
    elif manifest_file.is_file():
        manifest = read_record(manifest_file, MANIFEST)
        yield tuple(manifest["tensors"]["train_images"][2:]), len(manifest["classes"])


def _check_root(study: Study, dataset: str, results: Path) -> None:
    definition = study.datasets[dataset]
    if definition.source != "folder" or definition.root is None:
        return
    if _is_prepared(study, dataset, results):
        return
    where, root = f"{study.file}: datasets.{dataset}.root", Path(definition.root)
    try:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "there is no such folder"
            raise InputError(f"{where}: {definition.root!r:.80}: {what}")
        for part in ("train", "test"):
            if not (root / part).is_dir():
                raise InputError(f"{where}: {definition.root!r:.80}: has no folder {part}/")
    except OSError as error:  # a name that no file can have, a folder that is not for us
        raise InputError(f"{where}: {definition.root!r:.80}: {error.strerror}") from None
