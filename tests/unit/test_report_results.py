"""The results folder as the report reads it."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from fedgloss.errors import InputError
from fedgloss.files import sha256
from fedgloss.report import definitions, results, values
from fedgloss.report.results import DIVERGED, NOT_REACHED, NOT_RUN, Results
from fedgloss.report.seeds import Summary, summarize
from toy_results import AROUND, TRAINING, cell, edit_manifest, make_study, write_results


def test_reads_what_the_jobs_wrote(tmp_path: Path) -> None:
    found = Results(make_study(), write_results(tmp_path))
    done = cell("cifar10", "fedavg", 0)
    assert found.metrics(done)["round"][0] == 1000
    assert found.metrics(done)["accuracy"][-1] == 59.0
    assert found.manifest(done)["accuracy"] == 59.0
    assert found.hessian(done)["lambda1"] == 20.0
    seen = found.view(done, AROUND)
    assert len(seen.columns["loss"]) == 49 and seen.facts["images"] == 5000
    assert found.status(done) == "completed"
    assert found.status(cell("cifar10", "scaffold", 42)) == "diverged"


def test_what_is_missing_is_none(tmp_path: Path) -> None:
    found = Results(make_study(), tmp_path / "nowhere")
    missing = cell("cifar10", "fedavg", 0)
    readers = (found.metrics, found.manifest, found.hessian, partial(found.view, view=AROUND))
    assert [read(missing) for read in readers] == [None] * 4
    assert found.status(missing) == "missing"


def test_a_diverged_run_may_have_no_rows(tmp_path: Path) -> None:
    found = Results(make_study(), write_results(tmp_path))
    assert found.metrics(cell("cifar10", "scaffold", 42)) == {
        "round": [],
        "accuracy": [],
        "loss": [],
    }


def test_a_broken_csv_is_named_with_its_line(tmp_path: Path) -> None:
    found = Results(make_study(), write_results(tmp_path))
    file = found.run(cell("cifar10", "fedavg", 0)) / "metrics.csv"
    file.write_text("round,accuracy\n1,50\n2\n")
    edit_manifest(file.parent, lambda m: m["outputs"].update({file.name: sha256(file)}))
    with pytest.raises(InputError, match=r"metrics\.csv: line 3: accuracy is not a number"):
        found.metrics(cell("cifar10", "fedavg", 0))


OUTDATED = {
    "training": {"training": {**TRAINING, "lr": 0.5}},
    "a hyperparameter": {"algorithms": {"fedavg": {"training": {"weight_decay": 0.1}}}},
    "a variant": {"algorithms": {"fedavg": {"variants": {"average": "unweighted"}}}},
    "the precision": {"precision": "tf32"},
    "the images": {
        "datasets": {
            "cifar10": {
                "source": "cifar10",
                "images": "official_overlap",
                "partition": {"scheme": "dirichlet", "clients": 100},
            }
        }
    },
    "the partition": {
        "datasets": {
            "cifar10": {"source": "cifar10", "partition": {"scheme": "iid", "clients": 100}}
        }
    },
}


@pytest.mark.parametrize("what", OUTDATED)
def test_what_a_study_no_longer_asks_for_is_none_of_its_results(what, tmp_path: Path) -> None:
    found = Results(make_study(**OUTDATED[what]), write_results(tmp_path))
    old = cell("cifar10", "fedavg", 0)
    assert found.status(old) == "outdated" and found.why_absent(old).detail
    readers = (found.metrics, found.manifest, found.hessian, partial(found.view, view=AROUND))
    assert [read(old) for read in readers] == [None] * 4
    cells = found.study.select(dataset="cifar10", algorithm="fedavg")
    summary = summarize(found, cells, lambda one: values.accuracy(found, one))
    assert (summary.n, summary.missing) == (0, 3)
    (sentence,) = results.left_out(found, cells)
    assert "3 runs are outdated" in sentence and "in the run" in sentence


def test_neither_are_results_of_code_that_was_edited_since(tmp_path: Path) -> None:
    found, old = Results(make_study(), write_results(tmp_path)), cell("cifar10", "fedavg", 0)
    edit_manifest(found.run(old), lambda m: m.update(code="c0de" * 16))
    assert found.status(old) == "outdated" and found.manifest(old) is None
    (sentence,) = results.left_out(found, found.study.cells)
    assert "1 run is outdated" in sentence and "its code differs" in sentence
    assert found.status(cell("cifar10", "fedavg", 42)) == "completed"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.unlink(), "is gone"),
        (lambda file: file.write_text("\n".join(file.read_text().split()[:3])), "has changed"),
    ],
)
def test_metrics_that_are_not_those_of_the_run_make_it_outdated(
    damage, reason, tmp_path: Path
) -> None:
    found, harmed = Results(make_study(), write_results(tmp_path)), cell("cifar10", "fedavg", 0)
    damage(found.run(harmed) / "metrics.csv")
    assert found.metrics(harmed) is None and values.accuracy(found, harmed) is None
    assert found.status(harmed) == "outdated"
    (sentence,) = results.left_out(found, found.study.cells)
    assert (
        f"1 run is outdated and left out, as if not run: {harmed}, metrics.csv {reason}" in sentence
    )
    assert sentence.endswith("; delete its folder, or run the cell again with snakemake --force.")


def test_models_that_were_deleted_to_save_space_leave_the_numbers(tmp_path: Path) -> None:
    found, slim = Results(make_study(), write_results(tmp_path)), cell("cifar10", "fedavg", 0)
    (found.run(slim) / "final.safetensors").unlink()
    assert found.metrics(slim) and found.manifest(slim)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"status": "running"}'])
def test_a_run_whose_manifest_is_broken_is_left_out_and_named_with_what_to_do(
    text: str, tmp_path: Path
) -> None:
    found, broken = Results(make_study(), write_results(tmp_path)), cell("cifar10", "fedavg", 0)
    (found.run(broken) / "manifest.json").write_text(text)
    readers = (found.metrics, found.manifest, found.hessian, partial(found.view, view=AROUND))
    assert found.status(broken) == "outdated" and [r(broken) for r in readers] == [None] * 4
    cells = found.study.select(dataset="cifar10", algorithm="fedavg")
    ours = summarize(found, cells, lambda one: values.accuracy(found, one))
    assert ours == Summary({42: 60.0, 200299: 62.0}, {0: "outdated"})
    (sentence,) = results.left_out(found, found.study.cells)
    said = f"1 run is outdated and left out, as if not run: {broken}, manifest.json: "
    assert sentence.startswith(said) and "; delete its folder, or run the cell again" in sentence


@pytest.mark.parametrize("text", ["", "[]", '{"data": "paper", "lambda1": NaN}', '{"lambda1": 2}'])
def test_eigenvalues_that_cannot_be_read_are_left_out_and_named(text: str, tmp_path: Path) -> None:
    found, broken = Results(make_study(), write_results(tmp_path)), cell("cifar10", "fedavg", 0)
    (tmp_path / "analysis" / "toy" / str(broken) / "hessian.json").write_text(text)
    cells = found.study.select(dataset="cifar10", algorithm="fedavg")
    assert found.status(broken) == "completed" and found.hessian(broken) is None
    ours = summarize(found, cells, lambda one: values.lambda1(found, one))
    assert [*ours.values] == [42, 200299] and ours.missing == 1
    phrase = results.measured_unlike(found, cells)
    assert phrase is not None
    said = f"λ₁ of 1 run is left out, as if not measured: {broken}: hessian.json: "
    assert phrase.startswith(said) and phrase.endswith("; delete it to have it made again")


def test_a_surface_that_cannot_be_read_is_not_drawn_and_the_caption_says_why(
    tmp_path: Path,
) -> None:
    found, broken = Results(make_study(), write_results(tmp_path)), cell("cifar10", "fedavg", 0)
    (tmp_path / f"analysis/toy/{broken}/landscape-{AROUND.name}.csv").write_text("x,y\n1,2\n")
    shown = [(one, AROUND) for one in (broken, replace(broken, seed=42))]
    assert [found.view(*one) is None for one in shown] == [True, False]
    assert definitions.not_drawn(found, shown) == (
        f" Left out: FedAvg at α = 0 (unreadable: landscape-{AROUND.name}.csv: no column 'loss';"
        " delete it to have it made again)."
    )


def test_what_was_measured_on_an_earlier_run_is_left_out_and_named(tmp_path: Path) -> None:
    """Neither an import nor a run trained again alone makes the eigenvalues again."""
    found, old = Results(make_study(), write_results(tmp_path)), cell("cifar10", "fedavg", 0)
    hashes = json.loads((found.run(old) / "manifest.json").read_text())["outputs"]
    analysis = tmp_path / "analysis" / "toy" / str(old)

    def measured_on(digest: str) -> Results:
        for name in ("hessian", f"landscape-{AROUND.name}"):
            file = analysis / f"{name}.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "sha256": [digest]}))
        return Results(make_study(), tmp_path)

    found = measured_on(hashes["average.safetensors"])
    assert found.hessian(old) and found.view(old, AROUND)
    found = measured_on("0" * 64)
    assert found.status(old) == "completed"
    assert found.hessian(old) is None and found.view(old, AROUND) is None
    said = "is not of the models that are there now (SHA-256); delete it to have it made again"
    hessian, surface = (found.why_absent(old, of) for of in ("hessian", AROUND))
    assert hessian and hessian.detail == f"hessian.json: {said}"
    assert surface and surface.detail == f"landscape-{AROUND.name}.csv: {said}"


def test_neither_are_results_of_a_partition_made_since(tmp_path: Path) -> None:
    found, old = Results(make_study(), write_results(tmp_path)), cell("cifar10", "fedavg", 0)
    partition = tmp_path / "partitions" / "cifar10" / "alpha-0" / "partition.json"
    partition.parent.mkdir(parents=True)
    assert found.status(old) == "completed"
    partition.write_text("another")
    again = Results(make_study(), tmp_path)
    assert again.status(old) == "outdated"
    assert "inputs.partition" in again.why_absent(old, "hessian").detail
    assert again.status(cell("cifar100", "fedavg", 0)) == "completed"


@pytest.mark.parametrize(
    "hessian", [{"data": "official_code"}, {"models": ["final"]}, {"models": ["final", "average"]}]
)
def test_nor_eigenvalues_of_another_hessian_than_the_study_names(hessian, tmp_path: Path) -> None:
    found = Results(make_study(hessian=hessian), write_results(tmp_path))
    assert found.hessian(cell("cifar10", "fedavg", 0)) is None
    assert found.status(cell("cifar10", "fedavg", 0)) == "completed"


def test_where_all_is_up_to_date_nothing_is_said(tmp_path: Path) -> None:
    found = Results(make_study(), write_results(tmp_path))
    assert list(results.left_out(found, found.study.cells)) == []


def test_a_summary_counts_every_seed_once(tmp_path: Path) -> None:
    found = Results(make_study(), write_results(tmp_path))

    def accuracy(dataset: str, algorithm: str) -> Summary:
        cells = found.study.select(dataset=dataset, algorithm=algorithm)
        return summarize(found, cells, lambda one: values.accuracy(found, one))

    assert accuracy("cifar10", "fedavg") == Summary({0: 59.0, 42: 60.0, 200299: 62.0})
    assert accuracy("cifar10", "scaffold") == Summary({0: 25.0, 200299: 26.0}, {42: DIVERGED})
    assert accuracy("cifar10", "fedgloss").absent == {42: NOT_RUN}
    assert accuracy("cifar100", "scaffold").absent == {0: DIVERGED, 42: NOT_RUN, 200299: NOT_RUN}
    cells = found.study.select(dataset="cifar10", algorithm="fedavg")
    unreached = summarize(found, cells, lambda one: NOT_REACHED)
    assert (unreached.planned, unreached.unreached, unreached.missing) == (3, 3, 0)


def test_std_is_the_sample_standard_deviation() -> None:
    ours = Summary({0: 59.0, 1: 60.0, 2: 62.0})
    assert ours.mean == pytest.approx(181 / 3)
    assert ours.std == pytest.approx((7 / 3) ** 0.5)  # ddof = 1; ddof = 0 would give sqrt(14 / 9)
    assert Summary({0: 59.0}, {1: NOT_RUN, 2: NOT_RUN}).std is None


def test_communication_is_counted_in_the_manifests(tmp_path: Path) -> None:
    found = Results(make_study(), write_results(tmp_path))

    def cost(dataset: str, algorithm: str) -> float | None:
        cells = found.study.select(dataset=dataset, algorithm=algorithm)
        return values.communication_cost(found, cells)

    assert cost("cifar10", "fedavg") == 1.0
    assert cost("cifar10", "scaffold") == 2.0
    assert cost("cifar100", "scaffold") is None  # its only run diverged: it has not sent it all
    one = cell("cifar10", "fedavg", 0)
    edit_manifest(found.run(one), lambda m: m.update(bytes_down=500, bytes_up=3))
    assert values.exchanged(Results(make_study(), tmp_path), one) == 503


def test_a_gain_is_over_fedavgs_run_of_the_same_seed(tmp_path: Path) -> None:
    found = Results(make_study(), write_results(tmp_path))
    cells = found.study.select(dataset="cifar10", algorithm="feddyn-sam")
    gains = summarize(found, cells, lambda one: values.accuracy_gain(found, one))
    assert gains.values == {0: 20.0, 42: 20.0, 200299: 20.5}


def test_a_title_says_if_it_is_of_a_part(tmp_path: Path) -> None:
    """Diverged runs are there; missing and outdated ones are not."""
    found = Results(make_study(), write_results(tmp_path))
    assert results.part(found, found.study.select(dataset="cifar10")) == " (11 of 12 runs)"
    assert results.part(found, found.study.select(dataset="cifar10", algorithm="fedavg")) == ""
    found.run(cell("cifar10", "fedavg", 0)).joinpath("metrics.csv").write_text("mine")
    again = Results(make_study(), tmp_path)
    assert results.part(again, found.study.select(algorithm="fedavg")) == " (5 of 6 runs)"
