"""Studies and the constants of the paper, damaged: what is wrong is one line with file and key."""

import copy
import itertools
import json
from pathlib import Path

import pytest
import yaml

from fedgloss.errors import InputError
from fedgloss.study import study
from fedgloss.study.configuration import read_yaml
from reliability.hostile import accepted, as_json, at_random, bytes_at_random, key_by_key
from reliability.toy import STUDY as TOY

ROOT = Path(__file__).resolve().parents[2]
ALSO = {"like": "mine", "name": "Also mine", "hyperparameters": {"rho": 0.02}}
STUDY = TOY | {"algorithms": {**TOY["algorithms"], "also": ALSO}}
# What a changed grid leaves without a cell is reported where it is missed.
ELSEWHERE = [*STUDY["tables"], *STUDY["figures"], "cell", "training.", "grid[0]", "pets"]


def test_every_key_of_a_study_dropped_renamed_and_mistyped(tmp_path, every):
    for case in itertools.islice(key_by_key(STUDY, "study", wrong=5), 0, None, every):
        words = [case.key, *ELSEWHERE] if case.key else []
        if accepted(case.what, ["check", as_json(case.value).decode()], tmp_path, words):
            usable(case.what, case.value)


def test_studies_changed_at_random(tmp_path, every):
    for case in itertools.islice(at_random(STUDY, "study", 500), 0, None, every):
        if accepted(case.what, ["check", as_json(case.value).decode()], tmp_path, ["--config: "]):
            usable(case.what, case.value)


def usable(what, config):
    """What is accepted has cells with settings that JSON can hold, and paths below the study's."""
    checked = study.check_study(config, "x")
    for cell in checked.cells:
        json.dumps(checked.settings(cell).to_json(), allow_nan=False)
        parts = str(cell).split("/")
        assert len(parts) == 5 and ".." not in parts and str(cell).isprintable(), what
        assert all(len(part.encode()) < 200 for part in parts), what


@pytest.mark.parametrize("name", ["quickstart", "paper"])
def test_study_files_with_damaged_bytes(name, tmp_path, every):
    good, file = (ROOT / "config" / f"{name}.yaml").read_bytes(), tmp_path / "study.yaml"
    for case in itertools.islice(bytes_at_random(good, name, 150), 0, None, every):
        file.write_bytes(case.value)
        accepted(case.what, ["check", file], tmp_path, [file])


SMALL_METHODS = {
    "sources": {"own": "made up"},
    "datasets": {"digits": {"source": "digits", "partition": {"scheme": "iid", "seed": 0}}},
    "settings": {
        "digits/smallcnn": {
            "training": {
                key: {"value": value, "source": "own", "by_alpha": {"0": value}}
                for key, value in STUDY["training"].items()
            },
            "algorithms": {
                "fedsam": {
                    "variants": {"average": "weighted"},
                    "hyperparameters": {"rho_l": {"value": 0.1, "source": "unknown", "why": "so"}},
                    "training": {"lr": {"value": 0.2, "source": "own"}},
                }
            },
        }
    },
}
OF_METHODS = {
    "study": "x",
    "seeds": [0],
    "grid": [{"dataset": "digits", "alphas": ["0"], "model": "smallcnn", "algorithms": ["fedsam"]}],
}


@pytest.fixture
def methods_file(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "METHODS_FILE", tmp_path / "methods.yaml")
    return tmp_path / "methods.yaml"


def test_constants_of_the_paper_damaged(methods_file, tmp_path, every):
    (tmp_path / "out").mkdir()
    command = ["check", json.dumps(OF_METHODS)]
    methods_file.write_bytes(as_json(SMALL_METHODS))
    assert accepted("the good one", command, tmp_path / "out")
    for case in itertools.islice(key_by_key(SMALL_METHODS, "methods", wrong=2), 0, None, every):
        methods_file.write_bytes(yaml.safe_dump(case.value).encode())
        words = [case.key, "digits", "training.", "fedsam", "invalid Unicode character escape"]
        accepted(case.what, command, tmp_path / "out", words)
    for case in itertools.islice(at_random(SMALL_METHODS, "methods", 100), 0, None, every):
        methods_file.write_bytes(yaml.safe_dump(case.value).encode())
        accepted(case.what, command, tmp_path / "out")
    text = yaml.safe_dump(SMALL_METHODS).encode()
    for case in itertools.islice(bytes_at_random(text, "methods", 100), 0, None, every):
        methods_file.write_bytes(case.value)
        accepted(case.what, command, tmp_path / "out")


# Found by the above, or by hand.


def tower(levels, width, leaf, level):
    """YAML in which each anchor holds the one before `width` times."""
    lines = [f"a0: &a0 {leaf}"]
    lines += [
        f"a{i}: &a{i} {level.format(', '.join([f'*a{i - 1}'] * width))}" for i in range(1, levels)
    ]
    return "\n".join(lines)


SEED_LIST = "[" + ", ".join(map(str, range(3000))) + "]"
ALPHA_LIST = "[" + ", ".join(f'"{i}"' for i in range(3000)) + "]"
METHOD_LIST = "[" + ", ".join(["fedavg"] * 3000) + "]"
BOMBS = {
    "a billion lists": f"{tower(10, 9, '[x, x]', '[{}]')}\npreset: *a9",
    "a billion seeds": f"{tower(10, 9, '[0, 1]', '[{}]')}\nseeds: *a9",
    "two towers alike": "\n".join(
        tower(30, 2, "[0]", "[{}]").replace("a", letter) for letter in "bc"
    )
    + "\nseeds: [*b29, *c29]",
    "a billion merged keys": tower(12, 9, "{x: 1, y: 2}", "{{<<: [{}]}}"),
    "a billion cells": f"study: x\nseeds: {SEED_LIST}\ngrid: [{{dataset: digits, model: smallcnn,"
    f" alphas: {ALPHA_LIST}, algorithms: {METHOD_LIST}}}]",
    "an integer too long to print": f"study: x\nseeds: [0x{'f' * 5000}]",
    "an integer in base 60": f"study: {'1:' * 5000}1",
    "a list that holds itself": "study: &a [*a]",
    "a mapping that holds itself": "study: &a {x: *a}",
    "nested as JSON": '{"study": ' + "[" * 980 + "]" * 980 + "}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_small_files_that_would_grow_without_end_are_refused(bomb, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(BOMBS[bomb])
    assert not accepted(bomb, ["check", file], tmp_path, [file])


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["training", "lr"], 10**400, ["training.lr"]),
        (["algorithms", "mine", "hyperparameters", "rho"], 10**400, ["rho"]),
        (["landscape", "extent"], 10**400, ["landscape.extent"]),
        (["algorithms", "mine", "method"], ".a:b", ["mine", ".a:b"]),
        (["algorithms", "mine", "method"], "math:pi", ["mine", "math:pi"]),
        (["study"], "x" * 101, ["study", "at most 100"]),
        (["grid", 0, "alphas"], ["9" * 400], ["grid[0].alphas"]),
        (["datasets", "pets", "root"], "a\0b", ["datasets.pets.root"]),
        (["datasets", "pets", "partition", "file"], "w{seed}", ["partition.file", "{ } < >"]),
        (["models"], {"m": {"weights": "<b>"}}, ["models.m.weights", "{ } < >"]),
        (["note"], "\ud800", ["note"]),
        (["\x1b[2J\ud800"], 1, ["\\x1b[2J\\ud800"]),
    ],
    ids=lambda value: f"{value}"[:40],
)
def test_values_that_were_not_refused_by_name(path, value, words):
    config = copy.deepcopy(STUDY)
    holder = config
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises(InputError) as caught:
        study.check_study(config, "study.yaml")
    assert all(word in str(caught.value) for word in ["study.yaml", *words]), str(caught.value)


def test_a_broken_module_of_ones_own_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = copy.deepcopy(STUDY)
    config["algorithms"]["mine"]["method"] = "broken_module:f"
    with pytest.raises(InputError, match=r"mine.*broken_module.*line 1"):
        study.check_study(config, "study.yaml")


def test_json_with_a_key_given_twice_is_refused(tmp_path):
    text = json.dumps(STUDY).replace('"preset"', '"study": "other", "preset"')
    assert not accepted("twice", ["check", text], tmp_path, ["'study' is given twice"])


def test_aliases_within_reason_are_fine(tmp_path):
    lists = "\n".join(f"  - &m{i} [fedavg, fedsam]" for i in range(50))
    (tmp_path / "x.yaml").write_text(f"lists:\n{lists}\nagain: [*m0, *m1, *m49]\n")
    assert len(read_yaml(tmp_path / "x.yaml")["again"]) == 3
