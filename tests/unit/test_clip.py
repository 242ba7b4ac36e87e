"""Clipping: in each local step, a client's direction is scaled down to a norm, and only then."""

import json

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

import fedgloss
from cells import cell_settings, contents, prepare_inputs, train_cell
from fedgloss.algorithms import METHODS
from fedgloss.algorithms.core import unit
from fedgloss.engine.local import clipped
from fedgloss.errors import InputError
from fedgloss.jobs.train import CellFiles, train_cells
from fedgloss.study.settings import Settings
from refusal import refused
from test_core import TYPES, exponents, vector
from test_train import TOLERANCE, federation, network, run

HUGE = 1e30
"""A norm that no direction here has."""


# What it does to a direction


@pytest.mark.parametrize("dtype", TYPES)
@hypothesis.given(data=st.data())
def test_a_direction_keeps_its_course_and_is_no_longer_than_asked(dtype, data):
    x = vector(dtype, data.draw(st.integers(*exponents(dtype))), data.draw(st.integers(0, 99)), 50)
    clip = data.draw(st.sampled_from([1e-3, 1.0, 10.0, 1e20]))
    found, scale = clipped(x, clip), float(x.abs().max()) or 1.0
    length = (x.double() / scale).norm(dim=-1) * scale
    exact = 8 * torch.finfo(dtype).eps
    asked = (length / clip).clamp_max(1)
    assert torch.allclose((found.double() / clip).norm(dim=-1), asked, rtol=exact, atol=exact)
    assert torch.allclose(unit(found), unit(x), rtol=exact, atol=exact)


@pytest.mark.parametrize("dtype", TYPES)
def test_each_client_is_clipped_by_itself(dtype):
    x = torch.tensor([[[0.0, 0.0], [0.3, 0.4], [30.0, 40.0]]], dtype=dtype)
    found = clipped(x, 5.0)
    assert torch.equal(found[0, :2], x[0, :2])
    assert found[0, 2].tolist() == pytest.approx([3.0, 4.0])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_and_leaves_the_others_alone(dtype, broken):
    found = clipped(torch.tensor([[[1.0, broken], [6.0, 8.0]]], dtype=dtype), 5.0)
    assert not torch.isfinite(found[0, 0]).all()
    assert found[0, 1].tolist() == pytest.approx([3.0, 4.0])


# What it does to a training


@pytest.mark.parametrize("steps", [1, 3])
def test_it_is_torchs_clipping_before_sgd(steps):
    """Weight decay comes after. A steep loss, since torch divides by the norm plus 1e-6."""
    x, y = federation((12,))[0]

    def steep(z, y):
        return 1e6 * F.cross_entropy(z, y)

    given = {"lr": 0.7, "weight_decay": 0.3}
    ours = fedgloss.train(
        network(), [(x, y)], "fedavg",
        rounds=1, loss=steep, clip=2.0, batch_size=None, local_steps=steps, **given,
    )  # fmt: skip
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **given)
    for _ in range(steps):
        optimizer.zero_grad()
        steep(model(x), y).backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0) > 1e4
        optimizer.step()
    for mine, theirs in zip(ours.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_cohorts_are_clipped_as_one_client_after_another(method):
    together, one_by_one = (
        run(method, clip=0.05, backend=backend) for backend in ("stacked", "autograd")
    )
    assert not torch.equal(one_by_one.w, run(method, backend="autograd").w)
    assert torch.allclose(together.history, one_by_one.history, **TOLERANCE)
    for name, value in one_by_one.state.items():
        assert torch.allclose(together.state[name], value, **TOLERANCE), name


@pytest.mark.parametrize("backend", ["stacked", "autograd"])
@pytest.mark.parametrize("method", METHODS)
def test_a_norm_that_is_never_reached_changes_no_bit(method, backend):
    one, other = run(method, backend=backend, clip=HUGE), run(method, backend=backend)
    assert torch.equal(one.history, other.history)
    assert all(torch.equal(one.state[name], other.state[name]) for name in other.state)


def test_a_training_that_would_run_away_does_not():
    """Twenty rounds with a learning rate that is a thousand times too large."""
    steep = {"lr": 300.0, "schedule": [[0, 1, 2]] * 20, "weight_decay": 0.0}
    assert run("feddyn", **steep).status == "diverged"
    result = run("feddyn", **steep, clip=1e-4)
    assert result.status == "completed"
    assert result.w.isfinite().all()


def test_a_loss_that_is_not_finite_is_still_a_run_that_diverged():
    def broken(z, y):
        return F.cross_entropy(z, y) * torch.where(z.abs().max() > 20, torch.nan, 1.0)

    options = {"clip": 10.0, "schedule": [[0, 1]] * 50, "lr": 10.0}
    assert run("fedavg", **options).status == "completed"
    assert run("fedavg", loss=broken, **options).status == "diverged"


@pytest.mark.parametrize("clip", [0, -1, "ten", True, float("nan"), float("inf")])
def test_what_is_no_norm_is_refused(clip):
    with refused(f"clip: {clip!r} is not a finite number greater than 0, nor None"):
        run(clip=clip)


# Cells of a study


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


def cells():
    """Of three methods; each is clipped at one norm, at another, and not at all."""
    for method in ("fedavg", "fedgloss", "fedsmoo"):
        for seed, clip in enumerate(({"clip": 0.4}, {"clip": 1.5}, {})):
            settings = cell_settings(method, rounds=4, **clip)
            yield f"{method}-{seed}", {**settings, "seed": seed}


def test_clipped_together_and_alone_they_leave_the_same_bytes(inputs, tmp_path):
    files = [
        CellFiles(Settings.from_json(given), inputs["partition"], tmp_path / name, "code")
        for name, given in cells()
    ]
    train_cells(files, inputs["data"], device="cpu")
    seen = set()
    for name, given in cells():
        alone = tmp_path / "alone" / name
        train_cell(given, **inputs, out=alone, code="code", device="cpu")
        assert contents(tmp_path / name) == contents(alone), name
        manifest = json.loads((alone / "manifest.json").read_text())
        assert manifest["settings"] == given
        seen.add(contents(alone)["final.safetensors"])
    assert len(seen) == 9


def test_without_the_key_settings_are_what_they_were():
    assert "clip" not in cell_settings()["training"]
    assert cell_settings(clip=10.0)["training"]["clip"] == 10
    for wrong, word in (("ten", "'ten' is not a number"), (True, "True is not a number")):
        given = cell_settings()
        given["training"]["clip"] = wrong
        with refused(f"settings.training.clip: {word}"):
            Settings.from_json(given)


def test_a_job_refuses_what_is_no_norm(inputs, tmp_path):
    given = cell_settings()
    given["training"]["clip"] = 0
    with pytest.raises(InputError, match="clip: 0 is not a finite number greater than 0"):
        train_cell(given, **inputs, out=tmp_path / "out", code="code", device="cpu")
    assert not (tmp_path / "out").exists()
