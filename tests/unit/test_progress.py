"""What a run shows while it goes: lines in a log, scalars for TensorBoard."""

import sys

import pytest
import torch

from cells import cell_settings, job_file, prepare_inputs
from fedgloss.algorithms import build_algorithm
from fedgloss.cli import main
from fedgloss.engine.clients import Batching, ClientData
from fedgloss.engine.federation import federation
from fedgloss.errors import InputError
from fedgloss.progress import Progress, Scalars


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


def scalars_of(folder):
    """{name: [(round, value), ...]} as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_gets_the_metrics_of_every_cell(inputs, tmp_path):
    settings = [{**cell_settings("fedavg"), "seed": seed} for seed in (0, 1)]
    outs = [str(tmp_path / str(s["seed"])) for s in settings]
    jobs = [
        job_file(tmp_path / f"{i}.json", settings=settings[i], **inputs, run=outs[i])
        for i in (0, 1)
    ]
    assert main(["train", *jobs, "--tensorboard", str(tmp_path / "board")]) == 0
    for seed, out in zip((0, 1), outs, strict=True):
        header, *lines = (tmp_path / out / "metrics.csv").read_text().splitlines()
        rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
        seen = scalars_of(tmp_path / f"board/digits/alpha-0/smallcnn/fedavg/seed-{seed}")
        assert {"round", *seen} == {*rows[0]}
        for name, values in seen.items():
            assert [step for step, _ in values] == [int(row["round"]) for row in rows]
            assert [v for _, v in values] == pytest.approx([float(row[name]) for row in rows])


def test_a_resumed_run_takes_the_place_of_what_it_does_again(tmp_path):
    for rounds, value in (([2, 4, 6], 1.0), ([4, 6, 8], 2.0)):
        scalars = Scalars(tmp_path)
        for t in rounds:
            scalars("cell", {"round": t, "accuracy": value})
    assert scalars_of(tmp_path / "cell") == {"accuracy": [(2, 1.0), (4, 2.0), (6, 2.0), (8, 2.0)]}


@pytest.mark.parametrize(
    ("participants", "images"),
    [(5, 500), ([[0, 1, 2, 3, 4]] * 3, 250), ([[0], [0, 1, 9]], 120), ([], 0)],
)
def test_the_images_a_round_are_those_of_its_clients(participants, images):
    """Of a schedule, in the mean over its rounds; client k has 10 + 20 k images."""
    sizes = [10 + 20 * k for k in range(10)]
    data = ClientData(torch.zeros(1000, 2), torch.zeros(1000), torch.arange(1000).split(sizes))
    own = federation(
        build_algorithm("fedavg"),
        {},
        torch.zeros(3),
        data,
        lr=0.1,
        weight_decay=0.0,
        participants=participants,
        seed=0,
    )
    assert own.images_a_round(Batching(10)) == images
    assert own.images_a_round(Batching(10, epochs=2)) == 2 * images


def test_without_the_package_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="--tensorboard: needs the package tensorboard"):
        Scalars(tmp_path)


def test_a_log_gets_a_line_now_and_then_and_the_last(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress("cell", 100, images_per_round=50)
    for t in range(1, 101):
        now += 1.0
        progress(t, {"accuracy": float(t)} if t % 10 == 0 else None)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        f"cell: round {t} of 100" for t in (30, 60, 90, 100)
    ]
    assert lines[1] == (
        "cell: round 60 of 100  1.0 rounds/s  50 images/s  accuracy 60.00 %  0:40 left"
    )
