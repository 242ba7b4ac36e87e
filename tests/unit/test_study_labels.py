"""A study in ten lines: what need not be said, labels like others, names, and splits by name."""

import json
import re
from pathlib import Path

import pytest
import yaml

from fedgloss.report import formats, latex, names, tables
from fedgloss.study.schema.shown import Condition
from fedgloss.study.study import check_study, load_study
from refusal import refused
from studies import DIGITS, ROOT, STUDIES, digits

README = (ROOT / "config" / "README.md").read_text(encoding="utf-8")


def test_the_first_study_of_the_manual_is_whole_in_ten_lines(tmp_path):
    text = re.search(r"```yaml\n(.*?)```", README, re.S)[1]
    assert len(text.splitlines()) <= 10
    (tmp_path / "first.yaml").write_text(text, encoding="utf-8")
    study = load_study(tmp_path / "first.yaml")
    for cell in study.cells:
        assert study.settings(cell).hyperparameters is not None
    labels = list(dict.fromkeys(cell.algorithm for cell in study.cells))
    table = tables.build(study, "accuracy", tmp_path)
    assert [row.label for row in table.rows] == labels
    assert {c.condition.alpha for c in table.columns} == {cell.alpha for cell in study.cells}
    shown = formats.to_markdown(table)
    assert all(names.algorithm(study, label) in shown for label in labels)
    assert study.definition("gentle").method == "fedgloss"
    assert names.algorithm(study, "gentle") in shown != "gentle"
    assert study.cells_of(study.figures["curves"]) == list(study.cells)


# Tables and figures


def test_a_table_without_columns_or_rows_is_about_the_whole_grid():
    """A fifth method is one edit, and is in every table."""
    more = {"tables": {"t": {"kind": "methods"}}, "figures": {"f": {"kind": "curves"}}}
    study = digits(labels=["fedavg", "fedsam"], alphas=["0", "0.5"], **more)
    for name, entry in (("t", study.tables["t"]), ("f", study.figures["f"])):
        assert entry.title == name
        assert entry.rows == ("fedavg", "fedsam")
        assert [column.alpha for column in entry.columns] == ["0", "0.5"]
        assert study.cells_of(entry) == list(study.cells)


def test_what_it_says_itself_counts():
    column = {"dataset": "digits", "alpha": "0.5", "model": "smallcnn"}
    entries = {"rows": {"kind": "methods", "rows": ["fedsam"]}}
    entries["columns"] = {"kind": "methods", "columns": [column]}
    study = digits(labels=["fedavg", "fedsam"], alphas=["0", "0.5"], tables=entries)
    assert {cell.algorithm for cell in study.cells_of(study.tables["rows"])} == {"fedsam"}
    assert {cell.alpha for cell in study.cells_of(study.tables["rows"])} == {"0", "0.5"}
    assert {cell.algorithm for cell in study.cells_of(study.tables["columns"])} == {
        "fedavg",
        "fedsam",
    }
    assert {cell.alpha for cell in study.cells_of(study.tables["columns"])} == {"0.5"}


def figure(**entries):
    return {"figures": {"f": {"kind": "landscape", "seed": 0, **entries}}}


def test_local_models_are_of_one_column_two_methods_and_participants_that_there_are():
    two = ["0", "0.5"]
    assert digits(alphas=two, **figure()) and digits(**figure(participants=[1, 5]))
    with refused("figures.f.columns", "one column", "digits/0/smallcnn, digits/0.5/smallcnn"):
        digits(alphas=two, **figure(participants=[1]))
    with refused("figures.f.participants: 6", "digits/alpha-0/smallcnn/fedavg has 5"):
        digits(**figure(participants=[1, 6]))
    with refused("figures.f.rows: 3 rows", "one to compare them with"):
        digits(labels=["fedavg", "fedsam", "fedgloss"], **figure(participants=[1]))
    with refused("figures.f.participants[0]", "0", "at least 1"):
        digits(**figure(participants=[0]))


def test_a_line_needs_two_models():
    def lines(between, **more):
        return {"figures": {"f": {"kind": "lines", "between": between, **more}}}

    assert digits(**lines("models")) and digits(seeds=[0, 1], **lines("seeds"))
    with refused("figures.f.between: seeds", "has one", "methods, models"):
        digits(**lines("seeds"))
    with refused("figures.f.seed", "first two"):
        digits(seeds=[0, 1], **lines("seeds", seed=1))
    with refused("figures.f.rows", "two rows"):
        digits(**lines("methods"))
    kept = {"training": {"keep": [9, -20]}}
    for round_ in (9, -20, 100):  # of 120
        assert digits(**kept, **lines("rounds", round=round_))
    with refused("figures.f.round", "keep its model after round 110", "put -10 into", "keep"):
        digits(**kept, **lines("rounds", round=-10))
    for between, more in (("rounds", {}), ("models", {"round": 9})):
        with refused("figures.f.round", "between rounds"):
            digits(**kept, **lines(between, **more))
    with refused("figures.f.between", '"all" is unknown', "seeds, methods, models"):
        digits(**lines("all"))


def test_a_part_of_the_papers_table_has_its_numbers():
    """By its name, with any columns: `snakemake table_table3-cifar10`."""
    config = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text(encoding="utf-8"))
    part = {**config["tables"]["table3"], "columns": config["tables"]["table3"]["columns"][:2]}
    study = check_study({**config, "tables": {"table3-cifar10": part}}, "paper.yaml")
    table = tables.build(study, "table3-cifar10", Path("nowhere"))
    assert {column.condition.dataset for column in table.columns} == {"cifar10"}
    assert {entry.paper.table for row in table.rows for entry in row.entries} == {"3"}


# Labels like others


BASE = {
    "method": "fedgloss",
    "variants": {"sigma_scaling": "paper"},
    "hyperparameters": {"rho": 0.02, "beta": 5},
    "training": {"lr": 0.2, "epochs": 2},
}


def settings_of(study, label):
    return study.settings(study.select(algorithm=label)[0])


def test_a_label_like_another_keeps_both_results():
    ours = {"like": "base", "hyperparameters": {"rho": 0.01}, "training": {"lr": 0.1}}
    study = digits({"base": BASE, "ours": ours}, ["base", "ours"])
    base, ours = (settings_of(study, label).to_json() for label in ("base", "ours"))
    assert base["hyperparameters"]["rho"] == 0.02 and ours["hyperparameters"]["rho"] == 0.01
    assert base["training"]["lr"] == 0.2 and ours["training"]["lr"] == 0.1
    for given in (base, ours):
        del given["algorithm"], given["hyperparameters"]["rho"], given["training"]["lr"]
    assert base == ours


def test_a_label_that_says_null_is_not_clipped_where_the_study_is():
    algorithms = {
        "free": {"method": "fedavg", "training": {"clip": None}},
        "like-it": {"like": "free"},
        "back": {"like": "free", "training": {"clip": 2.5}},
    }
    study = digits(algorithms, ["fedavg", *algorithms], training={"clip": 10})
    found = {c.algorithm: study.settings(c).training.get("clip", "no key") for c in study.cells}
    assert found == {"fedavg": 10, "free": "no key", "like-it": "no key", "back": 2.5}
    study = digits({"own": {"method": "fedavg"}}, ["own"], training={"clip": None})
    assert "clip" not in study.settings(study.cells[0]).to_json()["training"]


def test_a_label_like_a_method_has_its_constants_and_variants():
    """Those of digits/smallcnn: FedGloSS has the paper's ramp there."""
    study = digits(
        {"ours": {"like": "fedgloss", "variants": {"sigma_scaling": "paper"}}},
        ["fedgloss", "ours"],
    )
    known, ours = (settings_of(study, label) for label in ("fedgloss", "ours"))
    assert known.variants["rho_schedule"] == "paper_ramp"
    assert {**ours.variants} == {**known.variants, "sigma_scaling": "paper"}
    assert ours.hyperparameters == known.hyperparameters


def test_labels_may_be_like_labels_that_are_like_others():
    chain = {"base": BASE, "a": {"like": "base", "hyperparameters": {"rho": 0.3}}}
    chain["b"] = {"like": "a", "variants": "official", "training": {"epochs": 3}}
    found = settings_of(digits(chain, ["b"]), "b")
    assert (found.hyperparameters["rho"], found.hyperparameters["beta"]) == (0.3, 5)
    assert (found.training["lr"], found.training["epochs"]) == (0.2, 3)
    assert found.variants["sigma_scaling"] == "official_code"


def test_a_beta_replaces_the_alpha_of_the_label_it_is_like():
    chain = {"base": {"method": "feddyn", "hyperparameters": {"alpha": 0.5}}}
    chain["ours"] = {"like": "base", "hyperparameters": {"beta": 4}}
    assert settings_of(digits(chain, ["ours"]), "ours").hyperparameters == {"alpha": 0.25}


def test_an_alpha_and_a_beta_of_ones_own_method_are_two_numbers(tmp_path, monkeypatch):
    (tmp_path / "two_numbers.py").write_text(
        "from fedgloss.algorithms.core import Algorithm\n"
        "def method(): return Algorithm('two', lambda *a: a, lambda *a: a,"
        " hyperparameters={'alpha': 0.1, 'beta': None})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    chain = {"base": {"method": "two_numbers:method", "hyperparameters": {"alpha": 0.5}}}
    chain["ours"] = {"like": "base", "hyperparameters": {"beta": -4}}
    found = settings_of(digits(chain, ["ours"]), "ours").hyperparameters
    assert found == {"alpha": 0.5, "beta": -4}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"a": {"like": "fedglos"}}, ["a.like", "'fedglos'", "did you mean 'fedgloss'"]),
        ({"own-acg": {"like": "own-ac"}}, ["unknown method 'own-ac'; allowed: "]),
        ({"a": {"like": "a"}}, ["a.like", "like itself"]),
        ({"a": {"like": "b"}, "b": {"like": "c"}, "c": {"like": "b"}}, ["like itself"]),
        ({"a": {"like": 5}}, ["algorithms.a.like", "5", "text"]),
        ({"a": {"name": "two\nlines"}}, ["algorithms.a.name", "one line"]),
        ({"a": {"name": " "}}, ["algorithms.a.name", "one line"]),
        ({"a": {"name": "a | b"}}, ["algorithms.a.name", "without |"]),
        ({"a": {"name": ""}}, ["algorithms.a.name"]),
    ],
)
def test_labels_that_cannot_be_are_refused(entries, words):
    with refused("s.yaml: algorithms.", *words):
        digits(entries)


# Names to be shown


def test_labels_have_names_in_tables(tmp_path):
    label, shown = "my_sam", "SAM & mine (50 %)"
    study = digits(
        {label: {"like": "fedsam", "name": shown}},
        ["fedavg", label],
        tables={"t": {"kind": "methods"}},
        datasets={"digits": {**DIGITS, "name": "Handwriting"}},
        models={"smallcnn": {"name": "tiny net"}},
    )
    table = tables.build(study, "t", tmp_path)
    assert [row.name for row in table.rows] == ["FedAvg", shown]
    markdown, typeset = formats.to_markdown(table), latex.to_latex(table)
    assert f"| {shown}" in markdown and "Handwriting, α = 0" in markdown and "tiny net" in markdown
    assert r"SAM \& mine (50 \%)" in typeset
    assert f",{label}," in formats.to_csv(table), "programs have the label"


def test_a_name_changes_no_number_and_no_path():
    plain, named = ({}, {"name": "Something else"})
    studies = [
        digits({"fedavg": entry}, datasets={"digits": DIGITS | entry}) for entry in (plain, named)
    ]
    (a,), (b,) = ([study.settings(cell) for cell in study.cells] for study in studies)
    assert a == b
    assert len({study.data_folder("digits") for study in studies}) == 1
    assert len({study.partition_folder("digits", "0") for study in studies}) == 1


# Data sets that are known, and splits with a name


def test_a_known_data_set_is_changed_by_what_differs():
    block = {"dataset": "cifar10", "alphas": ["5"], "model": "cnn", "algorithms": ["fedavg"]}
    config = {"study": "s", "seeds": [0], "grid": [block]}
    study = check_study(config | {"datasets": {"cifar10": {"root": "/elsewhere"}}}, "s.yaml")
    assert study.datasets["cifar10"].root == "/elsewhere"
    assert study.partition("cifar10", "5")["scheme"] == "dirichlet-per-class-capped"
    usual = check_study(config, "s.yaml")
    assert study.settings(study.cells[0]) == usual.settings(usual.cells[0])
    assert study.data_folder("cifar10") != usual.data_folder("cifar10") == "cifar10"


@pytest.mark.parametrize("given", [{"root": "x"}, {"source": "folder", "root": "x"}, {}])
def test_one_of_ones_own_is_given_whole(given):
    needed = {"datasets.pets.source", "datasets.pets.partition"} - {
        f"datasets.pets.{k}" for k in given
    }
    with refused("s.yaml", *needed, "missing, must be given"):
        digits(datasets={"pets": given})


OFFICIAL = re.search(r"(cifar10: \{partition: .*\})", README)[1]
IMAGES = {"x": ["a.png"], "y": [0]}
LEAF = {"users": ["0", "1"], "num_samples": [1, 1], "users_data": {"0": IMAGES, "1": IMAGES}}


def test_the_official_split_is_one_line_of_the_manual(tmp_path, monkeypatch):
    """Its folder has a split for each alpha; the number of clients is the split's."""
    monkeypatch.chdir(tmp_path)
    datasets = yaml.safe_load(OFFICIAL)
    folder = Path(datasets["cifar10"]["partition"]["file"])
    folder.mkdir(parents=True)
    users = [str(k) for k in range(100)]
    leaf = LEAF | {"users": users, "users_data": dict.fromkeys(users, IMAGES)}
    (folder / "federated_train_alpha_0.05.json").write_text(json.dumps(leaf))
    block = {"dataset": "cifar10", "alphas": ["0.05"], "model": "cnn", "algorithms": ["fedgloss"]}
    config = {"study": "s", "seeds": [0], "datasets": datasets, "grid": [block]}
    study = check_study(config, "s.yaml")
    settings = study.settings(study.cells[0])
    assert settings.partition["scheme"] == "file" and settings.training["clients"] == 100
    assert settings.data == {"source": "cifar10", "images": "clean", "size": None}
    assert study.data_folder("cifar10") == "cifar10", "the images are the known ones"
    assert study.partition_folder("cifar10", "0.05").startswith("cifar10+")


def test_a_split_of_ones_own_has_a_name_in_place_of_alpha(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text('{"clients": [[0], [1], [2]]}')
    file = {"scheme": "file", "file": "mine.json"}
    more = {
        "training": {"clients": 3, "clients_per_round": 1},
        "tables": {"t": {"kind": "methods"}},
    }
    study = digits(alphas=["own"], datasets={"digits": {"partition": file}}, **more)
    assert str(study.cells[0]) == "digits/alpha-own/smallcnn/fedavg/seed-0"
    assert study.partition("digits", "own") == {**file, "alpha": "own"}
    shown = formats.to_markdown(tables.build(study, "t", tmp_path))
    assert "Digits, own split" in shown and "paper" not in shown
    drawn = {"scheme": "dirichlet", "clients": 3, "by_alpha": {"own": "file"}, "file": "mine.json"}
    both = digits(alphas=["0", "own"], datasets={"digits": {"partition": drawn}}, **more)
    schemes = [both.partition("digits", alpha)["scheme"] for alpha in ("0", "own")]
    assert schemes == ["dirichlet", "file"]


def test_a_name_is_for_a_split_that_is_imported():
    with refused("s.yaml: grid[0].alphas: 'own'", "split", "digits", "scheme dirichlet, not file"):
        digits(alphas=["0", "own"])


def test_the_papers_numbers_are_not_those_of_a_named_split(tmp_path, monkeypatch):
    from fedgloss.report.published import published

    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(json.dumps({"clients": [[k] for k in range(100)]}))
    block = {"dataset": "cifar10", "alphas": ["own"], "model": "cnn", "algorithms": ["fedavg"]}
    datasets = {"cifar10": {"partition": {"scheme": "file", "file": "mine.json"}}}
    config = {"study": "s", "seeds": [0], "datasets": datasets, "grid": [block]}
    study = check_study(config, "s.yaml")
    column = Condition(dataset="cifar10", alpha="own", model="cnn")
    assert published(study, column, "fedavg", "accuracy") is None


@pytest.mark.parametrize(
    ("name", "other"), [("FedAvg", "fedavg"), ("FedGloSS (printed)", "fedgloss-printed")]
)
def test_two_labels_have_no_name_in_common(name, other):
    """Their rows could not be told apart."""
    labels = ["fedavg", "wide", "fedgloss-printed"]
    entries = {"wide": {"like": "fedgloss", "name": name}, "fedgloss-printed": {"like": "fedgloss"}}
    with refused(f"s.yaml: algorithms.wide.name: {name!r} is what {other} is called"):
        names.check_distinct(digits(entries, labels))
    entries["wide"]["name"] = "FedGloSS, wide"
    names.check_distinct(digits(entries, labels))


def test_nor_do_data_sets():
    entries = {"mine": {**DIGITS, "name": "Digits"}}
    block = {"alphas": ["0"], "model": "smallcnn", "algorithms": ["fedavg"]}
    grid = [{"dataset": name, **block} for name in ("digits", "mine")]
    with refused("s.yaml: datasets.mine.name: 'Digits' is what digits is called"):
        names.check_distinct(digits(datasets=entries, grid=grid))


def test_every_study_here_has_a_name_for_each_row():
    for file in STUDIES:
        names.check_distinct(load_study(file))
