"""Cells trained together leave what each leaves alone.

On a processor they leave the same bytes: the products of each client are computed by themselves,
however many are computed in one call. That holds for mini-batches of one size. One of 8 samples
that is filled up to 20 is multiplied in other blocks, and its sums round differently (on some
machines and not on others), so mini-batches of different sizes must not share a product.
"""

import json
import os
import signal

import pytest

from cells import cell_settings, contents, prepare_inputs, train_cell
from fedgloss.algorithms import METHODS
from fedgloss.data.dataset import load
from fedgloss.data.partition.partition import make_partition
from fedgloss.engine.checkpoint import Interrupted
from fedgloss.errors import InputError
from fedgloss.jobs.results import write_results
from fedgloss.jobs.train import CellFiles, train_cells
from fedgloss.study.settings import Settings

SIX = ("fedavg", "fedgloss", "fedsmoo", "fedgamma", "naivefedgloss", "centralized-sam-previous")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The prepared digits, and a partition for each alpha; that of 0.5 has unequal clients."""
    folder = tmp_path_factory.mktemp("inputs")
    made = prepare_inputs(folder)
    uneven = folder / "uneven.json"
    make_partition(
        load(folder / "data"), uneven, scheme="dirichlet-per-class", clients=50, alpha="5", seed=0
    )
    return {"data": made["data"], "0": made["partition"], "5": uneven}


def grid(other="0"):
    """Twelve cells of other methods, seeds, learning rates and radii; half have alpha `other`."""
    for method in SIX:
        for seed, alpha, lr in ((0, "0", 0.05), (1, other, 0.02)):
            settings = cell_settings(method, lr=lr, record=["norms", "delta_epsilon"])
            hyperparameters = {**settings["hyperparameters"]}
            if seed and "rho" in hyperparameters:
                hyperparameters["rho"] *= 2
            changed = {"seed": seed, "alpha": alpha, "hyperparameters": hyperparameters}
            yield {**settings, **changed}


def cell_files(settings, inputs, folder, checkpoints=None):
    name = f"{settings['method']}-{settings['seed']}"
    store = checkpoints and checkpoints / name
    return CellFiles(
        Settings.from_json(settings), inputs[settings["alpha"]], folder / name, "code", store
    )


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    """The folder of each of the twelve, trained alone."""
    folder = tmp_path_factory.mktemp("alone")
    cells = [cell_files(settings, inputs, folder) for settings in grid()]
    for cell in cells:
        train_cell(
            cell.settings.to_json(),
            inputs["data"],
            cell.partition,
            cell.out,
            code="code",
            device="cpu",
        )
    return [cell.out for cell in cells]


def test_twelve_cells_together_leave_the_files_of_twelve_cells_alone(inputs, alone, tmp_path):
    cells = [cell_files(settings, inputs, tmp_path) for settings in grid()]
    train_cells(cells, inputs["data"], device="cpu")
    for cell, other in zip(cells, alone, strict=True):
        assert contents(cell.out) == contents(other), cell.out.name
        ours, theirs = (json.loads((f / "manifest.json").read_text()) for f in (cell.out, other))
        assert (ours["cells_together"], theirs["cells_together"]) == (12, 1)
        changing = ("cells_together", "wall_seconds", "images_per_second")
        assert all(ours[key] == theirs[key] for key in ours if key not in changing)


@pytest.mark.parametrize("backend", ["stacked", pytest.param("autograd", marks=pytest.mark.slow)])
def test_cells_with_clients_of_other_sizes_leave_the_same_files_too(inputs, tmp_path, backend):
    options = {"device": "cpu", "backend": backend}
    short = {"rounds": 3, "last": 3}
    settings = [{**cell, "training": {**cell["training"], **short}} for cell in grid(other="5")]
    cells = [cell_files(cell, inputs, tmp_path) for cell in settings]
    train_cells(cells, inputs["data"], **options)
    for cell in cells:
        out = tmp_path / "alone" / cell.out.name
        train_cell(
            cell.settings.to_json(), inputs["data"], cell.partition, out, code="code", **options
        )
        assert contents(cell.out) == contents(out), cell.out.name


def stopping(after):
    def watch(label, rounds, images):
        return lambda t, row: os.kill(os.getpid(), signal.SIGTERM) if t == after else None

    return watch


@pytest.mark.slow
def test_stopped_together_they_go_on_together_or_alone(inputs, alone, tmp_path):
    cells = [cell_files(s, inputs, tmp_path, tmp_path / "checkpoints") for s in grid()]
    with pytest.raises(Interrupted):
        train_cells(cells, inputs["data"], device="cpu", watch=stopping(5))
    assert not any((cell.out / "manifest.json").exists() for cell in cells)
    with pytest.raises(Interrupted):  # half of them get ahead of the others
        train_cells(cells[::2], inputs["data"], device="cpu", watch=stopping(8))
    train_cells(cells[:1], inputs["data"], device="cpu")
    train_cells(cells[1:], inputs["data"], device="cpu")
    for cell, other in zip(cells, alone, strict=True):
        assert contents(cell.out) == contents(other), cell.out.name
        assert not cell.checkpoints.exists()


def test_checkpoints_of_all_stay_until_the_results_of_all_are_written(
    inputs, tmp_path, monkeypatch
):
    """Of a job that fails, the workflow removes the results of all its cells."""
    settings = [{**cell_settings("fedavg"), "seed": seed} for seed in (0, 1)]
    cells = [cell_files(s, inputs, tmp_path, tmp_path / "checkpoints") for s in settings]

    def failing(out, *rest):
        if out == cells[1].out:
            raise OSError("no space left on device")
        write_results(out, *rest)

    monkeypatch.setattr("fedgloss.jobs.train.write_results", failing)
    with pytest.raises(OSError, match="no space"):
        train_cells(cells, inputs["data"], device="cpu", checkpoint_rounds=2)
    assert (cells[0].out / "manifest.json").exists()
    assert all([*cell.checkpoints.glob("round-*.safetensors")] for cell in cells)


def test_a_cell_that_diverges_leaves_the_others_alone(inputs, alone, tmp_path):
    twelve = list(grid())
    hopeless = {**twelve[2], "training": {**twelve[2]["training"], "lr": 1e12}, "seed": 7}
    cells = [cell_files(settings, inputs, tmp_path) for settings in (hopeless, *twelve[2:4])]
    results = train_cells(cells, inputs["data"], device="cpu")
    assert [result.status for result in results] == ["diverged", "completed", "completed"]
    train_cell(
        hopeless, inputs["data"], cells[0].partition, tmp_path / "x", code="code", device="cpu"
    )
    assert contents(cells[0].out) == contents(tmp_path / "x")
    assert [contents(c.out) for c in cells[1:]] == [contents(f) for f in alone[2:4]]


def test_a_cell_that_diverged_before_a_stop_leaves_the_same_files(inputs, tmp_path):
    """The others went on for a few rounds, and so did the tensors that it shared with them."""
    _, _, ours, other, *_ = grid()
    hopeless = {**ours, "training": {**ours["training"], "lr": 40.0}}
    settings = [hopeless, other]
    cells = [cell_files(s, inputs, tmp_path / "a", tmp_path / "checkpoints") for s in settings]
    with pytest.raises(Interrupted):
        train_cells(cells, inputs["data"], device="cpu", watch=stopping(8))
    results = train_cells(cells, inputs["data"], device="cpu")
    assert results[0].diverged_in < 7 and results[1].status == "completed"
    for cell in cells:
        alone = tmp_path / "alone" / cell.out.name
        train_cell(
            cell.settings.to_json(),
            inputs["data"],
            cell.partition,
            alone,
            code="code",
            device="cpu",
        )
        assert contents(cell.out) == contents(alone), cell.out.name
        ours, theirs = (json.loads((f / "manifest.json").read_text()) for f in (cell.out, alone))
        for key in ("status", "diverged_in", "bytes_down", "bytes_up", "gradients_per_step"):
            assert ours[key] == theirs[key], key


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 13}, "settings.training.rounds: cells trained together must agree"),
        ({"batch_size": 10}, "settings.training.batch_size: "),
        ({"augmentation": "image_aug"}, "settings.training.augmentation: "),
    ],
)
def test_cells_of_other_shapes_are_refused(inputs, tmp_path, change, words):
    settings = [cell_settings("fedavg"), cell_settings("fedsam", **change)]
    cells = [
        CellFiles(Settings.from_json(s), inputs["0"], tmp_path / s["method"], "code")
        for s in settings
    ]
    with pytest.raises(InputError, match=words):
        train_cells(cells, inputs["data"], device="cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_trained_beside_itself(inputs, tmp_path, method):
    settings = [{**cell_settings(method, rounds=2), "seed": seed} for seed in (0, 1)]
    cells = [cell_files(s, inputs, tmp_path / "both") for s in settings]
    train_cells(cells, inputs["data"], device="cpu")
    for cell in cells:
        out = tmp_path / cell.out.name
        train_cell(
            cell.settings.to_json(), inputs["data"], cell.partition, out, code="code", device="cpu"
        )
        assert contents(cell.out) == contents(out)
