"""Data sets, partitions and splits of a study: what differs lies under another path."""

import json
from pathlib import Path

import pytest

from fedgloss.study.study import check_study, load_study
from refusal import refused
from studies import DIGITS, OWN, ROOT, own_study, with_datasets


def folders(study):
    name = study.cells[0].dataset
    return study.data_folder(name), *(
        study.partition_folder(name, alpha)
        for alpha in dict.fromkeys(cell.alpha for cell in study.cells)
    )


def test_the_known_definitions_keep_their_plain_folders():
    assert folders(with_datasets()) == ("digits", "digits", "digits")
    assert folders(with_datasets(digits=DIGITS)) == ("digits", "digits", "digits")
    paper = load_study(ROOT / "config" / "paper.yaml")
    for cell in paper.cells:
        assert paper.data_folder(cell.dataset) == cell.dataset
        assert paper.partition_folder(cell.dataset, cell.alpha) == cell.dataset


PARTITIONS = {
    "another scheme": {"scheme": "dirichlet-per-class"},
    "another seed": {"seed": 1},
}


@pytest.mark.parametrize("what", PARTITIONS)
def test_another_partition_lies_elsewhere_and_shares_the_data(what):
    digits = {**DIGITS, "partition": {**DIGITS["partition"], **PARTITIONS[what]}}
    data, *cuts = folders(with_datasets(["0.1", "0.5"], digits=digits))
    assert data == "digits"
    assert len({*cuts}) == 1 and cuts[0].startswith("digits+")


def test_another_scheme_at_one_alpha_moves_that_one_alone():
    partition = {**DIGITS["partition"], "by_alpha": {"0.5": "dirichlet-per-class"}}
    data, usual, other = folders(with_datasets(digits={**DIGITS, "partition": partition}))
    assert (data, usual) == ("digits", "digits") and other.startswith("digits+")


CIFAR = {
    "source": "cifar10",
    "root": "data/cifar10",
    "partition": {
        "scheme": "dirichlet",
        "by_alpha": {"5": "dirichlet-per-class-capped"},
        "clients": 100,
        "seed": 0,
    },
}


@pytest.mark.parametrize(
    "change", [{"images": "official_overlap"}, {"root": "elsewhere"}, {"download": True}]
)
def test_other_data_lie_elsewhere_and_so_do_their_partitions(change):
    """Also where only the way to them differs: preparing again would date all that follows."""
    block = {"dataset": "cifar10", "alphas": ["0"], "model": "cnn", "algorithms": ["fedavg"]}
    config = {"study": "s", "seeds": [0], "grid": [block]}
    usual = check_study({**config, "datasets": {"cifar10": CIFAR}}, "s.yaml")
    other = check_study({**config, "datasets": {"cifar10": CIFAR | change}}, "s.yaml")
    assert folders(usual) == ("cifar10", "cifar10")
    assert all(folder.startswith("cifar10+") for folder in folders(other))


def test_data_of_ones_own_are_told_apart_by_their_definition(my_package):
    """Two studies may both call theirs `flowers`."""
    found = []
    for root in ("flowers", "flowers", "other/flowers"):
        config = own_study(OWN)
        config["datasets"]["flowers"]["root"] = root
        found.append(folders(check_study(config, "own.yaml")))
    assert found[0] == found[1]
    assert not {*found[0]} & {*found[2]}
    assert all(name.startswith("flowers+") for name in (*found[0], *found[2]))


def test_settings_say_which_data_and_which_partition():
    """So a run on other ones is another run, wherever they lie."""
    usual = with_datasets(["0.5"])
    other = with_datasets(["0.5"], digits={**DIGITS, "partition": {"scheme": "iid", "clients": 50}})
    (a,), (b,) = (
        [study.settings(cell).to_json() for cell in study.cells] for study in (usual, other)
    )
    assert {key for key in a if a[key] != b[key]} == {"partition"}
    assert b["partition"] == {"scheme": "iid", "clients": 50, "seed": 0}


def test_a_partition_of_as_many_clients_as_are_trained_need_not_repeat_it():
    digits = {"source": "digits", "partition": {"scheme": "iid"}}
    study = with_datasets(["0.5"], digits=digits)
    assert study.partition("digits", "0.5")["clients"] == 50


# Splits that come as files


@pytest.fixture
def split(tmp_path, monkeypatch):
    """Study files are beside a split of three clients, and a folder of splits by alpha."""
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text('{"clients": [[0], [1], [2]], "test": [0]}')
    Path("splits").mkdir()
    images = {"x": ["a.png"], "y": [0]}
    leaf = {"users": ["0", "1"], "users_data": {"0": images, "1": images}}
    Path("splits/federated_train_alpha_0.50.json").write_text(json.dumps(leaf))
    return tmp_path


def of_split(file, alphas=("0.5",), training={"clients_per_round": 1}, **partition):
    digits = {"source": "digits", "partition": {"scheme": "file", "file": file, **partition}}
    block = {"dataset": "digits", "alphas": [*alphas], "model": "smallcnn"}
    config = {"study": "s", "seeds": [0], "datasets": {"digits": digits}}
    config |= {"grid": [{**block, "algorithms": ["fedavg"]}], "training": dict(training)}
    return check_study(config, "s.yaml")


def own_split(file, clients=None):
    """A data set without constants: nothing says how many clients it has."""
    config = own_study({k: v for k, v in OWN.items() if k != "clients"})
    config["training"] |= {"clients": clients} if clients else {}
    config["datasets"]["flowers"]["partition"] = {"scheme": "file", "file": file}
    config["grid"][0] |= {"model": "smallcnn", "alphas": ["0.5"]}
    return check_study(config, "own.yaml")


@pytest.mark.parametrize(("file", "clients"), [("mine.json", 3), ("splits", 2)])
def test_the_seed_and_the_clients_of_an_imported_split_need_not_be_given(file, clients, split):
    study = own_split(file)
    settings = study.settings(study.cells[0])
    assert settings.training["clients"] == clients
    assert settings.partition["scheme"] == "file"
    assert not {"seed", "clients"} & {*study.partition("flowers", "0.5")}


def test_given_clients_must_be_those_of_the_split(split):
    assert own_split("mine.json", 3)
    with refused("own.yaml", "training.clients", "4", "mine.json", "3"):
        own_split("mine.json", 4)
    with refused("s.yaml", "training.clients", "50", "mine.json", "3"):
        of_split("mine.json")  # the constants' 50


def test_the_content_of_a_split_is_among_the_settings_and_its_place_is_not(split):
    def cut(file):
        study = own_split(file)
        return study.settings(study.cells[0]).partition

    before = cut("mine.json")
    Path("moved.json").write_text(Path("mine.json").read_text())
    assert cut("moved.json") == before
    Path("moved.json").write_text('{"clients": [[0], [1], [3]]}')
    assert cut("moved.json") != before


def test_a_split_that_a_study_names_by_its_hash_need_not_be_here(split):
    def cut(**partition):
        training = {"clients": 3, "clients_per_round": 1}
        study = of_split("mine.json", training=training, **partition)
        return study.settings(study.cells[0]).partition

    there = cut()
    pinned = {"clients": 3, "sha256": {"0.5": there["sha256"]}}
    assert cut(**pinned) == there
    Path("mine.json").unlink()
    assert cut(**pinned) == there
    with refused("partition.clients: missing", "sha256"):
        cut(sha256=pinned["sha256"])
    Path("mine.json").write_text('{"clients": [[0], [1], [3]]}')
    with refused("mine.json", "not the split that the study names", "3 clients"):
        cut(**pinned)


ABSENT = {
    "a file": ("absent.json", ["0.5"], ["absent.json", "cannot be read"]),
    "a folder": ("absent", ["0.5"], ["absent", "cannot be read"]),
    "an alpha": ("splits", ["0.5", "5"], ["federated_train_alpha_5.00.json", "cannot be read"]),
    "no split": ("tiny.yaml", ["0.5"], ["tiny.yaml", "not valid JSON"]),
    "an odd split": ("odd.json", ["0.5"], ["odd.json", "'clients' is not a list"]),
    "no image": ("empty.json", ["0.5"], ["empty.json: client 1 has no images"]),
    "no test image": ("untested.json", ["0.5"], ["untested.json", "has no test images"]),
    "no number": ("words.json", ["0.5"], ["words.json", "client 1: index 'a' is not an integer"]),
    "no users": ("leaf.json", ["0.5"], ["leaf.json", "not a LEAF split"]),
    "a list": ("list.json", ["0.5"], ["list.json", "neither"]),
}


@pytest.mark.parametrize("what", ABSENT)
def test_a_split_that_is_not_there_or_broken_is_refused_before_any_job(what, split, study_file):
    study_file()
    Path("odd.json").write_text('{"clients": 5}')
    Path("list.json").write_text("[1]")
    Path("empty.json").write_text('{"clients": [[0], [], [1]]}')
    Path("untested.json").write_text('{"clients": [[0], [1]], "test": []}')
    Path("words.json").write_text('{"clients": [[0], ["a"]]}')
    Path("leaf.json").write_text('{"users": ["0"], "users_data": {}}')
    file, alphas, words = ABSENT[what]
    with refused("s.yaml", "datasets.digits.partition.file", *words):
        of_split(file, alphas)


def test_a_file_without_its_scheme_or_a_scheme_without_its_file_is_refused(split):
    with refused("partition.file: is given", "'file'"):
        digits = {**DIGITS, "partition": {**DIGITS["partition"], "file": "mine.json"}}
        with_datasets(digits=digits)
    with refused("partition.sha256: is given", "'file'"):
        content = {"sha256": {"0": ["a" * 64]}}
        with_datasets(digits={**DIGITS, "partition": {**DIGITS["partition"], **content}})
    with refused("partition.file: missing"):
        with_datasets(digits={**DIGITS, "partition": {"scheme": "file"}})
    partition = {**DIGITS["partition"], "by_alpha": {"5": "file"}, "file": "mine.json"}
    with_datasets(digits={**DIGITS, "partition": partition})  # for another study's alpha 5


@pytest.mark.parametrize("alpha", ["natural", "iid", "0"])
def test_a_split_is_what_it_is_whatever_alpha_calls_it(alpha, split):
    study = of_split("mine.json", [alpha], {"clients": 3, "clients_per_round": 1})
    assert study.partition("digits", alpha) == {
        "scheme": "file",
        "file": "mine.json",
        "alpha": alpha,
    }


@pytest.mark.parametrize("alpha", ["natural", "iid"])
def test_a_folder_of_splits_has_none_for_a_word(alpha, split):
    with refused("partition.file", repr(alpha), f"by_alpha: {{{alpha}: {alpha}}}"):
        of_split("splits", [alpha])


def test_what_is_drawn_beside_imported_splits_is_said(split):
    study = of_split(
        "splits", ["iid"], {"clients": 2, "clients_per_round": 1}, by_alpha={"iid": "iid"}
    )
    assert study.partition("digits", "iid") == {"scheme": "iid", "clients": 2, "seed": 0}


def test_natural_needs_data_with_users():
    with refused("datasets.digits.partition", "'natural'", "no users", "landmarks"):
        with_datasets(["natural"])
    with refused("datasets.digits.partition", "'0.5'", "no users"):
        with_datasets(["0.5"], digits={**DIGITS, "partition": {"scheme": "natural"}})


def test_data_sets_of_one_study_may_have_different_numbers_of_clients():
    """Each gives its own in its partition; the constants of a known data set do not count then."""
    cut = {"scheme": "dirichlet", "clients": 8}
    alone = {"alphas": ["0.5"], "model": "smallcnn", "algorithms": ["fedavg"]}
    config = {
        "study": "two",
        "seeds": [0],
        "training": {"clients_per_round": 3, "epochs": 1, "batch_size": 10, "lr": 0.1}
        | {"rounds": 4, "last": 2, "weight_decay": 0.0, "augmentation": "none"}
        | {"evaluate_every": 2},
        "datasets": {
            "mine": {"source": "folder", "root": "mine", "partition": {**cut, "clients": 6}},
            "digits": {"partition": cut},
        },
        "grid": [{"dataset": name, **alone} for name in ("mine", "digits")],
    }
    study = check_study(config, "two.yaml")
    assert [study.settings(cell).training["clients"] for cell in study.cells] == [6, 8]
    with refused("two.yaml: mine/", "training.clients: 8", "partition.clients is 6; training is"):
        check_study({**config, "training": {**config["training"], "clients": 8}}, "two.yaml")
