"""Accuracy by class: the mean over the seeds that ran, and what is said of those that did not."""

from pathlib import Path

from fedgloss.files import write_json
from fedgloss.report.classes import draw_classes
from fedgloss.report.results import Results
from toy_results import make_study, write_results


def test_a_field_is_the_mean_over_the_seeds_that_ran_to_the_end(tmp_path: Path) -> None:
    """Synthetic runs have two classes, 2 points below the mean and above; a third has no image."""
    study = make_study()
    found = Results(study, write_results(tmp_path))
    figure = draw_classes(found, study.figures["classes"])
    left, right = figure.axes
    fedavg = (59 + 60 + 62) / 3
    texts = [(*map(round, text.get_position()), text.get_text()) for text in left.texts]
    assert texts[:2] == [(0, 0, f"{fedavg - 2:.0f}"), (1, 0, f"{fedavg + 2:.0f}")]
    assert len(texts) == 2 * 4  # nothing stands where a class has no image
    labels = [text.get_text() for text in right.get_yticklabels()]
    assert labels == ["FedAvg", "SCAFFOLD", "FedDyn + SAM", "FedGloSS"]
    absent = {
        round(t.get_position()[1]): t.get_text() for t in right.texts if t.get_text().islower()
    }
    assert absent == {1: "diverged or not run", 2: "diverged", 3: "not run"}


def test_without_any_run_there_is_a_figure_too(tmp_path: Path) -> None:
    study = make_study()
    figure = draw_classes(Results(study, tmp_path), study.figures["classes"])
    assert [text.get_text() for text in figure.axes[0].texts] == ["not run"] * 4


def test_classes_bear_their_names_where_the_manifest_of_the_data_is_there(tmp_path: Path) -> None:
    """It comes with an archive, too. Without it, or where it is about others, they are numbered."""
    study = make_study()
    found = Results(study, write_results(tmp_path))
    third = "a very long name of a class"
    for name, classes in (("cifar10", ["cat", "$x$", third]), ("cifar100", ["one", "two"])):
        record = {"classes": classes, "sha256": "da7a" * 16}  # as the runs say
        write_json(tmp_path / "data" / name / "manifest.json", record)
    left, right = draw_classes(found, study.figures["classes"]).axes
    labels = [label.get_text() for label in left.get_xticklabels()]
    assert labels == ["cat", "$x$", "a very long nam…"]
    assert not any(label.get_parse_math() for label in left.get_xticklabels())
    assert [label.get_text() for label in right.get_xticklabels()] == ["0", "1", "2"]
