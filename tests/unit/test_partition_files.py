"""Partition files: what they say, how they are checked, and users' own split files."""

import json
import math

import numpy as np
import pytest
import torch

from fedgloss.data.dataset import Dataset
from fedgloss.data.facts import encode_names
from fedgloss.data.partition import splits
from fedgloss.data.partition.partition import (
    SCHEMES,
    describe,
    load_partition,
    make_partition,
)
from fedgloss.data.partition.picture import plot_partition
from refusal import refused


def dataset(labels, users=None, names=None, sha256="ab" * 32):
    count = len(labels)
    return Dataset(
        name="toy",
        train_images=torch.zeros(count, 1, 2, 2, dtype=torch.uint8),
        train_labels=torch.tensor(labels),
        test_images=torch.zeros(6, 1, 2, 2, dtype=torch.uint8),
        test_labels=torch.zeros(6, dtype=torch.int64),
        classes=tuple("abcdefghij"),
        mean=(0.5,),
        std=(0.5,),
        train_users=users,
        train_names=None if names is None else encode_names(names),
        test_names=None,
        images="clean",
        sha256=sha256,
    )


TOY = dataset(np.repeat(np.arange(10), 60))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "alpha-1" / "partition.json"


def make(path, data=TOY, scheme="dirichlet", clients=20, alpha="1", seed=0, file=None):
    make_partition(data, path, scheme=scheme, clients=clients, alpha=alpha, seed=seed, file=file)
    return load_partition(path, data)


def test_the_file_says_what_was_asked_and_what_came_out(path):
    partition = make(path)
    record = json.loads(path.read_text())
    assert (record["scheme"], record["alpha"], record["seed"]) == ("dirichlet", "1", 0)
    assert record["dataset"]["sha256"] == TOY.sha256
    assert record["sizes"] == [30] * 20 == [len(client) for client in partition.clients]
    for client, row in zip(partition.clients, record["labels"], strict=True):
        counts = torch.bincount(TOY.train_labels[client]).tolist()
        assert row == {str(label): n for label, n in enumerate(counts) if n}
    found = record["statistics"]
    assert found["classes_per_client"] == np.mean([len(row) for row in record["labels"]])
    assert (found["clients"], found["images"]) == (20, 600)
    assert partition.manifest["statistics"] == found


def test_the_same_request_gives_the_same_bytes(path, tmp_path):
    make(path)
    make(tmp_path / "again.json")
    assert path.read_bytes() == (tmp_path / "again.json").read_bytes()
    assert (
        make(tmp_path / "other.json", seed=1).manifest["sha256"]
        != json.loads(path.read_text())["sha256"]
    )


def test_the_bytes_do_not_depend_on_the_machine(path):
    """The generators spell out their random variates, so this hash holds everywhere."""
    expected = "07404541ac6afcdce7e0394bad7e347349620dfba88859871acdb22303e36a2d"
    assert make(path).manifest["sha256"] == expected


def test_clients_are_sorted_int64_tensors(path):
    for client in make(path).clients:
        assert client.dtype == torch.int64
        assert torch.equal(client, client.sort().values)


def test_alpha_is_text_and_kept_as_written(path):
    assert make(path, alpha="1.0").manifest["alpha"] == "1.0"


def test_statistics_by_hand():
    """Three clients: one class; two classes half and half; one image. Prior (4/5, 1/5)."""
    labels = np.array([0, 0, 0, 1, 0])
    parts = [np.array([0, 1]), np.array([2, 3]), np.array([4])]
    found = describe(parts, labels, classes=2)["statistics"]
    assert (found["smallest"], found["largest"], found["images"]) == (1, 2, 5)
    assert found["classes_per_client"] == pytest.approx(4 / 3)
    assert found["entropy"] == pytest.approx(np.log(2) / 3)
    square, prior = (1 + 0.5 + 1) / 3, 0.8**2 + 0.2**2
    assert found["concentration"] == pytest.approx((1 - square) / (square - prior))


def test_clients_drawn_at_a_concentration_show_it():
    rng = np.random.default_rng(0)
    counts = [np.round(1e3 * rng.dirichlet([2.0] * 5)).astype(int) for _ in range(2000)]
    labels = np.concatenate([np.repeat(np.arange(5), row) for row in counts])
    parts = np.split(np.arange(len(labels)), np.cumsum([row.sum() for row in counts])[:-1])
    assert describe(parts, labels, 5)["statistics"]["concentration"] == pytest.approx(10, rel=0.05)


def test_clients_more_alike_than_chance_have_no_concentration():
    labels = np.tile([0, 1], 10)
    parts = np.split(np.arange(20), 10)
    assert describe(parts, labels, 2)["statistics"]["concentration"] is None


# Requests that cannot be met


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"scheme": "zipf"}, ["scheme", "'zipf'", *SCHEMES]),
        ({"clients": 601}, ["601 clients", "600 images"]),
        ({"clients": 0}, ["at least 1"]),
        ({"clients": None}, ["at least 1"]),
        ({"alpha": None}, ["alpha", "None"]),
        ({"alpha": "-1"}, ["alpha", "'-1'"]),
        ({"alpha": "nan"}, ["alpha", "'nan'"]),
        ({"alpha": "inf"}, ["alpha", "'inf'"]),
        ({"alpha": "half"}, ["alpha", "'half'"]),
        ({"alpha": "0", "clients": 7}, ["alpha 0", "7 clients", "class 0 has 60 images"]),
        ({"alpha": "0", "scheme": "dirichlet-per-class"}, ["alpha must be above 0"]),
        ({"scheme": "natural"}, ["natural", "user"]),
        ({"scheme": "file"}, ["no split file"]),
        ({"alpha": "0.001", "scheme": "dirichlet-per-class", "clients": 99}, ["100 tries"]),
    ],
)
def test_impossible_requests_are_refused_with_the_reason(path, request_, words):
    with refused(*words):
        make(path, **request_)
    assert not path.exists()


# Checks on loading


def change(path, **entries):
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | entries))


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ([[0, 1], [2], [3, 1]], ["client 2: training image 1 is client 0's too"]),
        ([[2], [0, 600]], ["client 1: training index 600 is outside 0 .. 599"]),
        ([[-1, 0]], ["client 0: training index -1 is outside"]),
        ([[0], []], ["client 1 has no images"]),
        ([[0], [0.5]], ["client 1: a training index is not an integer"]),
        ([["0"]], ["partition.json"]),
        ("nonsense", ["partition.json"]),
        ([[0, 1], [2]], ["SHA-256"]),
    ],
)
def test_changed_indices_are_refused(path, clients, words):
    make(path)
    change(path, clients=clients)
    with refused(path, *words):
        load_partition(path, TOY)


def test_a_partition_of_another_dataset_is_refused(path):
    make(path)
    with refused(path, "other data"):
        load_partition(path, dataset(TOY.train_labels.tolist(), sha256="cd" * 32))


@pytest.mark.parametrize("key", ["clients", "dataset", "sha256", "format", "test"])
def test_a_missing_entry_is_refused(path, key):
    make(path)
    record = json.loads(path.read_text())
    del record[key]
    path.write_text(json.dumps(record))
    with refused(path, key):
        load_partition(path, TOY)


def test_a_truncated_or_missing_file_is_refused(path):
    with refused(path, "cannot be read"):
        load_partition(path)
    make(path)
    path.write_text(path.read_text()[:-50])
    with refused(path, "JSON"):
        load_partition(path)


# Split files


def leaf(users):
    return {
        "users": list(users),
        "num_samples": [0] * len(users),
        "users_data": {str(u): {"x": x, "y": y} for u, (x, y) in users.items()},
    }


NAMED = dataset([0, 1, 1, 2], names=["a/p.png", "b/p.png", "b/q.png", "c/r.png"])


def imported(path, record, data=NAMED):
    file = path.parent.parent / "split.json"
    file.write_text(json.dumps(record))
    return make(path, data, scheme="file", clients=None, alpha=None, file=file)


def test_a_users_own_file_gives_indices(path):
    partition = imported(path, {"clients": [[3, 0], [2]], "test": [5, 1]})
    assert [client.tolist() for client in partition.clients] == [[0, 3], [2]]
    assert partition.test.tolist() == [5, 1]


def test_an_imported_split_needs_neither_a_number_of_clients_nor_a_seed(path):
    file = path.parent.parent / "split.json"
    file.write_text(json.dumps({"clients": [[0, 2], [1], [3]]}))
    make_partition(NAMED, path, scheme="file", file=file)
    assert load_partition(path, NAMED).manifest["statistics"]["clients"] == 3


def test_how_many_clients_a_split_has_is_known_without_the_data(tmp_path):
    """So that a study can be checked before its data sets are prepared."""
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"clients": [[0, 2], [1], [3]]}))
    assert splits.count_clients(file, None) == 3
    (tmp_path / "federated_train_alpha_0.50.json").write_text(
        json.dumps(leaf({4: (["p.png"], [0]), 7: (["q.png"], [1])}))
    )
    assert splits.count_clients(tmp_path, "0.5") == 2
    with refused("federated_train_alpha_5.00.json", "cannot be read"):
        splits.count_clients(tmp_path, "5")
    with refused(tmp_path / "none.json", "cannot be read"):
        splits.count_clients(tmp_path / "none.json", None)


@pytest.mark.parametrize(("dataset", "alpha"), [("cifar10", "5"), ("cifar100", "0.5")])
def test_the_official_splits_have_100_clients(shared, dataset, alpha):
    assert splits.count_clients(shared / "data/official_splits" / dataset, alpha) == 100


@pytest.mark.parametrize("kind", ["own", "leaf"])
def test_a_split_may_begin_with_a_byte_order_mark(path, kind):
    """As some editors on Windows write it."""
    record = {"clients": [[2]]} if kind == "own" else leaf({0: (["q.png"], [1])})
    file = path.parent.parent / "split.json"
    file.write_text(json.dumps(record), encoding="utf-8-sig")
    partition = make(path, NAMED, scheme="file", clients=None, alpha=None, file=file)
    assert partition.clients[0].tolist() == [2]


def test_a_test_file_without_images_is_refused(path):
    file = path.parent.parent / "split.json"
    file.write_text(json.dumps(leaf({0: (["q.png"], [1])})))
    for users in ({7: ([], []), 8: ([], [])}, {}):
        (file.parent / "test.json").write_text(json.dumps(leaf(users)))
        for attempt in (
            lambda: make(path, NAMED, scheme="file", clients=1, alpha=None, file=file),
            lambda: splits.count_clients(file, None),
        ):
            with refused(file.parent / "test.json", "has no test images"):
                attempt()
    assert not path.exists()


def test_a_partition_whose_test_list_is_empty_is_refused_when_read(path):
    make(path)
    change(path, test=[])
    with refused(path, "test: has no images"):
        load_partition(path, TOY)


def test_a_leaf_file_gives_names_and_labels(path):
    users = {10: (["p.png"], [1]), 9: (["r.png", "p.png"], [2, 0])}
    partition = imported(path, leaf(users))
    assert [client.tolist() for client in partition.clients] == [[0, 3], [1]]
    assert partition.manifest["users"] == ["9", "10"]
    assert partition.test is None


@pytest.mark.parametrize("key", ["users_data", "user_data"])
def test_both_spellings_of_the_leaf_key_are_read(path, key):
    record = leaf({0: (["q.png"], [1])})
    record[key] = record.pop("users_data")
    assert imported(path, record).clients[0].tolist() == [2]


@pytest.mark.parametrize("place", ["test.json", "../test/test.json"])
def test_a_test_file_beside_it_gives_the_test_images(path, place):
    from dataclasses import replace

    data = replace(NAMED, test_names=encode_names([f"{i}.png" for i in range(6)]))
    file = path.parent.parent / "train" / "split.json"
    beside = file.parent / place
    for target, users in (
        (file, {0: (["q.png"], [1])}),
        (beside, {7: (["4.png", "2.png"], [0] * 2)}),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(leaf(users)))
    partition = make(path, data, scheme="file", clients=1, alpha=None, file=file)
    assert partition.test.tolist() == [2, 4]


def test_a_folder_of_the_authors_files_is_searched_by_alpha(path):
    folder = path.parent.parent
    for alpha, index in (("0.05", 0), ("100.00", 1)):
        file = folder / f"federated_train_alpha_{alpha}.json"
        file.write_text(json.dumps({"clients": [[index]]}))
    for alpha, index in (("0.05", 0), ("100", 1)):
        partition = make(path, NAMED, scheme="file", clients=1, alpha=alpha, file=folder)
        assert partition.clients[0].tolist() == [index]
    with refused("federated_train_alpha_7.00.json", "cannot be read"):
        make(path, NAMED, scheme="file", clients=1, alpha="7", file=folder)
    with refused(folder, "two decimals", "alpha is '0.051'"):  # 0.05 is another split
        make(path, NAMED, scheme="file", clients=1, alpha="0.051", file=folder)
    with refused(folder, "alpha is None"):
        make(path, NAMED, scheme="file", clients=1, alpha=None, file=folder)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (leaf({3: (["p.png", "z.png"], [0, 2])}), ["user 3", "1 images", "z.png with label 2"]),
        (leaf({3: (["p.png"], [2])}), ["p.png with label 2"]),
        (leaf({1: (["q.png", "q.png"], [1, 1])}), ["client 0: training image 2 is there twice"]),
        (leaf({1: (["q.png"], [1]), 2: ([], [])}), ["client 1 has no images"]),
        (leaf({1: (["q.png"], [1, 1])}), ["LEAF"]),
        ({"users": [1], "users_data": {}}, ["LEAF"]),
        ({"some": "json"}, ["LEAF"]),
        ({"users": [[0], [1]]}, ["split.json: has neither 'clients'", "'users_data'"]),
        ([1, 2], ["clients"]),
        ({"clients": [[1], [0, 4]]}, ["client 1: training index 4 is outside 0 .. 3"]),
        ({"clients": [[0, 0]]}, ["client 0: training image 0 is there twice"]),
        ({"clients": [[0], [1], [0]]}, ["client 2: training image 0 is client 0's too"]),
        ({"clients": [[2], [0, "1"]]}, ["client 1: index '1' is not an integer"]),
        ({"clients": [[0, True]]}, ["client 0: index True is not an integer"]),
        ({"clients": [[0], [-1]]}, ["client 1: index -1 is not that of an image"]),
        ({"clients": [[0], 1]}, ["'client 1' is not a list"]),
        ({"clients": {"0": [1]}}, ["not a list"]),
        ({"clients": [[0]], "test": [6]}, ["test: test index 6 is outside 0 .. 5"]),
        ({"clients": []}, ["no clients"]),
        ({"clients": [[]]}, ["client 0 has no images"]),
        ({"clients": [[0]], "test": []}, ["split.json", "has no test images"]),
        ({"clients": [[0]], "test": "all"}, ["'test' is not a list"]),
        ({"clients": [[0]], "Test": [1]}, ["'Test' is not read", "'test'"]),
        ({"clients": [[0]], "test_indices": [1]}, ["'test_indices' is not read"]),
        ({"clients": [[math.nan]]}, ["not an integer"]),
        (leaf({1: (["q.png"], [math.nan])}), ["LEAF"]),
        (leaf({1: (["q.png"], [1])}) | {"users": [1, 1]}, ["LEAF", "same users"]),
        (leaf({1: (["q.png"], [1]), 2: (["p.png"], [0])}) | {"users": [2]}, ["same users"]),
        ({"users": [], "users_data": {}}, ["split.json"]),
    ],
)
def test_bad_split_files_are_refused(path, record, words):
    with refused(*words):
        imported(path, record)
    assert not path.exists()


def test_names_need_names(path):
    with refused("toy", "no file names", "indices"):
        imported(path, leaf({1: (["q.png"], [1])}), TOY)


def test_ambiguous_names_are_refused(path):
    data = dataset([1, 1], names=["x/q.png", "y/q.png"])
    with refused("toy", "q.png (label 1)"):
        imported(path, leaf({1: (["q.png"], [1])}), data)


def test_the_number_of_clients_must_be_the_files(path):
    file = path.parent.parent / "split.json"
    file.write_text(json.dumps({"clients": [[0], [1]]}))
    with refused(file, "2 clients", "3 asked for"):
        make(path, NAMED, scheme="file", clients=3, alpha=None, file=file)


# The figure


def test_the_figure_is_a_png_and_repeats_byte_for_byte(path, tmp_path):
    pytest.importorskip("matplotlib")
    make(path)
    for name in ("one.png", "two.png"):
        plot_partition(path, TOY, tmp_path / name)
    content = (tmp_path / "one.png").read_bytes()
    assert content.startswith(b"\x89PNG") and content == (tmp_path / "two.png").read_bytes()
