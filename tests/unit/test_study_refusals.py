"""Studies that are wrong: one line with file, key and allowed values."""

import copy
import json
import os
import tempfile
from datetime import date

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedgloss.errors import InputError
from fedgloss.files import check_writable
from fedgloss.study.invocation import config_values
from fedgloss.study.study import check_study, load_study, read_yaml
from refusal import refused
from studies import (
    QUICKSTART,
)

# (what is replaced, by what, what the one line must name)
BAD = {
    "unknown key": ("seeds:", "sedes: [1]\nseeds:", ["sedes", "unknown key", "'seeds'", "grid"]),
    "unknown key below": ("rounds: 6", "round: 6", ["training.round", "'rounds'", "batch_size"]),
    "unknown key of a table": ("kind: methods", "kinds: 1\n    kind: methods", ["accuracy.kinds"]),
    "missing key": ("seeds: [0, 1]\n", "", ["seeds", "missing"]),
    "missing key below": ("    kind: methods\n", "", ["tables.accuracy.kind", "missing"]),
    "mistyped rounds": ("rounds: 6", "rounds: six", ["training.rounds", '"six"', "an integer"]),
    "rounds as text": ("rounds: 6", 'rounds: "6"', ["training.rounds", '"6"', "an integer"]),
    "rounds as a list": ("rounds: 6", "rounds: [6]", ["training.rounds", "an integer"]),
    "rounds as 6.0": ("rounds: 6", "rounds: 6.0", ["training.rounds", "6.0", "an integer"]),
    "rounds as true": ("rounds: 6", "rounds: true", ["training.rounds", "true", "an integer"]),
    "rounds as a date": ("rounds: 6", "rounds: 2025-01-01", ["training.rounds", "2025-01-01"]),
    "rounds as nothing": ("rounds: 6", "rounds:", ["training.rounds", "null", "an integer"]),
    "negative rounds": ("rounds: 6", "rounds: -6", ["training.rounds", "-6", "at least 1"]),
    "no rounds": ("rounds: 6", "rounds: 0", ["training.rounds", "0", "at least 1"]),
    "lr not a number": ("rounds: 6", "lr: .nan", ["training.lr", "NaN", "a finite number"]),
    "infinite lr": ("rounds: 6", "lr: .inf", ["training.lr", "Infinity", "a finite number"]),
    "negative lr": ("rounds: 6", "lr: -0.1", ["training.lr", "-0.1", "greater than 0"]),
    "a clip of 0": ("rounds: 6", "clip: 0", ["training.clip", "0", "greater than 0"]),
    "negative clip": ("rounds: 6", "clip: -1", ["training.clip", "-1", "greater than 0"]),
    "clip as text": ("rounds: 6", "clip: ten", ["training.clip", "a finite number (a norm"]),
    "a label's clip of 0": (
        "hyperparameters: {rho: 0.01}",
        "training: {clip: 0}",
        ["algorithms.gentle.training.clip", "0", "greater than 0"],
    ),
    "a short fingerprint": (
        "seeds: [0, 1]",
        "seeds: [0, 1]\nsame_code: {abc: as today}",
        ["same_code", '"abc"', "64 hexadecimal digits"],
    ),
    "a short hash": (
        "seeds: [0, 1]",
        "seeds: [0, 1]\ndatasets: {mine: {partition: {scheme: file, sha256: {'0': [short]}}}}",
        ["datasets.mine.partition.sha256.0[0]", '"short"', "64 hexadecimal digits"],
    ),
    "keeping round 0": ("rounds: 6", "keep: [0]", ["training.keep[0]", "0", "at least 1"]),
    "keeping the last": ("rounds: 6", "rounds: 6, keep: [6]", ["training.keep", "6", "1 to 5"]),
    "keeping before": ("rounds: 6", "rounds: 6, keep: [-6]", ["training.keep", "-6", "1 to 5"]),
    "keeping one number": ("rounds: 6", "keep: 3", ["training.keep", "3", "a list"]),
    "unknown record": ("rounds: 6", "record: [norm]", ["training.record[0]", "'norms'"]),
    "alpha as a number": ('["0", "0.5"]', "[0, 0.5]", ["grid[0].alphas[0]", "0", "text"]),
    "alpha not a number": ('"0.5"]', '"half"]', ["grid[0].alphas", "'half'", "'iid'", "number"]),
    "alpha negative": ('"0.5"]', '"-1"]', ["grid[0].alphas", "'-1'", "at least 0"]),
    "alpha nan": ('"0.5"]', '"nan"]', ["grid[0].alphas", "'nan'"]),
    "alpha a path": ('"0.5"]', '"../0"]', ["grid[0].alphas", "'../0'"]),
    "no alphas": ('["0", "0.5"]', "[]", ["grid[0].alphas", "at least 1"]),
    "unknown method": (
        "[fedavg, gentle]}",
        "[fedavg, gentel]}",
        ["grid[0].algorithms[1]", "'gentel'", "did you mean 'gentle'", "fedsmoo"],
    ),
    "unknown method below": ("method: fedgloss", "method: fedglos", ["gentle", "'fedgloss'"]),
    "a method not to be found": ("method: fedgloss", "method: no.such:f", ["gentle", "no.such"]),
    "a method not in its module": ("method: fedgloss", "method: json:f", ["gentle", "json:f"]),
    "a method's name with spaces": ("method: fedgloss", "method: a b", ["gentle.method", "a b"]),
    "unknown data set": (
        "- {dataset: digits",
        "- {dataset: digit",
        ["grid[0].dataset", "'digit'", "did you mean 'digits'", "cifar10"],
    ),
    "unknown model": (
        'alphas: ["0", "0.5"], model: smallcnn',
        'alphas: ["0", "0.5"], model: smalcnn',
        ["grid[0].model", "'smalcnn'", "did you mean 'smallcnn'", "package.module:function"],
    ),
    "more clients a round than clients": (
        "rounds: 6",
        "clients_per_round: 51",
        ["training.clients_per_round", "51", "50"],
    ),
    "other clients than the partition has": (
        "rounds: 6",
        "clients: 40",
        ["training.clients: 40", "partition.clients is 50 (constants/methods.yaml)", "whole"],
    ),
    "unknown hyperparameter": ("rho: 0.01", "roh: 0.01", ["gentle", "'roh'", "'rho'", "beta"]),
    "hyperparameter as text": ("rho: 0.01", "rho: small", ["gentle.hyperparameters.rho", "small"]),
    "hyperparameter true": ("rho: 0.01", "rho: true", ["gentle.hyperparameters.rho", "true"]),
    "hyperparameter nan": ("rho: 0.01", "rho: .nan", ["gentle.hyperparameters.rho", "NaN"]),
    "negative hyperparameter": ("rho: 0.01", "rho: -1", ["gentle", "rho", "-1", "at least 0"]),
    "beta of 0": ("rho: 0.01", "beta: 0", ["gentle", "beta", "greater than 0"]),
    "unknown variant": ("sigma_scaling: paper", "sigma: paper", ["gentle", "'sigma'", "scaling"]),
    "unknown value of a variant": (
        "sigma_scaling: paper",
        "sigma_scaling: papers",
        ["gentle", "sigma_scaling", "'papers'", "'paper'"],
    ),
    "unknown combination of variants": (
        "{sigma_scaling: paper}",
        "offical",
        ["gentle", "'offical'", "'official'", "recommended"],
    ),
    "unknown preset": ("seeds:", "preset: papers\nseeds:", ["preset", '"papers"', "'paper'"]),
    "table naming a missing condition": (
        'columns: [{dataset: digits, alpha: "0",',
        'columns: [{dataset: digits, alpha: "5",',
        ["tables.accuracy.columns", "digits/5/smallcnn", "digits/0/smallcnn"],
    ),
    "table naming a missing algorithm": (
        "rows: [fedavg, gentle]",
        "rows: [fedavg, fedsam]",
        ["tables.accuracy.rows", "'fedsam'", "gentle"],
    ),
    "figure naming a missing seed": (
        "kind: curves",
        "kind: curves\n    seed: 7",
        ["figures.curves.seed", "7", "0, 1"],
    ),
    "unknown kind of table": ("kind: methods", "kind: method", ["accuracy.kind", "'methods'"]),
    "unknown kind of figure": ("kind: curves", "kind: curve", ["curves.kind", "'curves'"]),
    "seed as text": ("[0, 1]", "[a, 1]", ["seeds[0]", '"a"', "an integer"]),
    "seed negative": ("[0, 1]", "[-1, 1]", ["seeds[0]", "-1", "at least 0"]),
    "seed too large": ("[0, 1]", f"[{2**64}]", ["seeds[0]", "at most"]),
    "seed as 1.0": ("[0, 1]", "[0, 1.0]", ["seeds[1]", "1.0", "an integer"]),
    "seed twice": ("[0, 1]", "[1, 1]", ["seeds", "twice"]),
    "alpha twice": ('"0.5"]', '"0"]', ["grid[0].alphas: must have no entry twice"]),
    "algorithm twice": ("gentle]}", "fedavg]}", ["grid[0].algorithms: must have no entry twice"]),
    "row twice": ("rows: [gentle]", "rows: [gentle, gentle]", ["curves.rows: must have no entry"]),
    "column twice": (
        'columns: [{dataset: digits, alpha: "0", model: smallcnn}]',
        'columns: [&c {dataset: digits, alpha: "0", model: smallcnn}, *c]',
        ["tables.accuracy.columns: must have no entry twice"],
    ),
    **{
        f"too many {key}": ("rounds: 6", f"{key}: {2**31}", [f"training.{key}", "at most"])
        for key in ("rounds", "epochs", "batch_size", "evaluate_every")
    },
    "a key of another kind of figure": (
        "kind: curves",
        "kind: eigenvalues\n    metric: loss",
        ["figures.curves.metric: unknown key", "columns, kind, paper, rows, seed, title"],
    ),
    "a kind without a value": (
        "kind: curves",
        "kind:",
        ["figures.curves.kind: null is unknown", "flatness, classes, landscape, lines"],
    ),
    "landscape of all seeds": (
        "kind: curves",
        "kind: landscape",
        ["figures.curves.seed: missing, must be given"],
    ),
    "no root": (
        "grid:\n  - {dataset: digits",
        "datasets: {pets: {source: folder, partition: {scheme: iid}}}\ngrid:\n  - {dataset: pets",
        ["datasets.pets.root: missing, must be given for source folder"],
    ),
    "alpha and beta": (
        "{method: fedgloss, hyperparameters: {rho: 0.01}, variants: {sigma_scaling: paper}}",
        "{method: feddyn, hyperparameters: {alpha: 0.01, beta: 100}}",
        ["hyperparameters: both alpha and beta for feddyn; give one of the two"],
    ),
    "no seeds": ("[0, 1]", "[]", ["seeds", "at least 1"]),
    "study's name a path": ("study: tiny", "study: ../tiny", ["study", "../tiny", "letters"]),
    "study's name empty": ("study: tiny", "study: ''", ["study", "letters"]),
    "study's name two lines": ("study: tiny", 'study: "tiny\\n"', ["study", "letters"]),
    "study's name a number": ("study: tiny", "study: 5", ["study", "5", "text"]),
    "algorithm's name a path": ("  gentle: {", "  a/b: {", ["algorithms", "a/b", "letters"]),
    "a key that is a number": ("seeds:", "5: x\nseeds:", [": 5: unknown key"]),
    "a key that is nothing": ("seeds:", "null: x\nseeds:", ["None", "unknown key"]),
    "a key of two lines": ("seeds:", '"a\\nb": x\nseeds:', ["a b", "unknown key"]),
    "key twice": ("seeds:", "study: again\nseeds:", ["'study'", "twice", "line 2"]),
    "key twice below": ("last: 2", "rounds: 7", ["'rounds'", "twice", "line 3"]),
    "a tag": ("study: tiny", "study: !!python/name:os.system", ["not valid YAML", "python/name"]),
    "a tag that runs": (
        "study: tiny",
        "study: !!python/object/apply:os.system [touch pwned]",
        ["not valid YAML", "os.system"],
    ),
    "binary": ("study: tiny", "study: !!binary aGVsbG8=", ["study", "text"]),
    "a set": ("seeds: [0, 1]", "seeds: !!set {0, 1}", ["seeds", "a list"]),
    "a recursive alias": ("[fedavg, gentle]}", "&a [*a]}", ["grid[0].algorithms[0]", "text"]),
    "unbalanced": ("seeds: [0, 1]", "seeds: [0, 1", ["not valid YAML", "line"]),
    "a tab": ("seeds: [0, 1]", "\tseeds: [0, 1]", ["not valid YAML", "line 2"]),
    "deeply nested": ("[0, 1]", "[" * 3000 + "]" * 3000, ["not valid YAML"]),
    "a control character": ("tiny", "ti\x07ny", ["not valid YAML"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_with_file_key_and_allowed_values(
    case, study_file, tmp_path, monkeypatch
):
    old, new, words = BAD[case]
    monkeypatch.chdir(tmp_path)
    file = study_file(old, new)
    with refused(file, *words):
        load_study(file)
    assert os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n- b\n", "just text", "5", "null"])
def test_a_file_that_is_no_mapping_is_refused(text, study_file):
    file = study_file(text=text)
    with refused(file, "top level"):
        load_study(file)


def test_bytes_that_are_not_text_are_refused(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"study: \xff\xfe")
    with refused(tmp_path / "x.yaml", "not valid YAML"):
        load_study(tmp_path / "x.yaml")


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with refused(path, "cannot be read"):
            load_study(path)


def test_a_misspelt_file_is_refused_with_the_one_there_is(study_file, monkeypatch):
    monkeypatch.chdir(study_file().parent)
    with refused("tinny.yaml: there is no such file", "did you mean 'tiny.yaml'"):
        load_study("tinny.yaml")


@pytest.mark.parametrize("text", ["{", '{"study": 1', "{}", '{"study": NaN}'])
def test_broken_json_text_is_refused(text):
    with refused():
        load_study(text)


def test_a_studys_beta_replaces_the_constants_alpha():
    config = copy.deepcopy(QUICKSTART)
    config["algorithms"]["feddyn-sam-printed"]["hyperparameters"] = {"beta": 4}
    study = check_study(config, "quickstart.yaml")
    settings = study.settings(study.select(algorithm="feddyn-sam-printed")[0])
    assert settings.hyperparameters == {"alpha": 0.25, "rho_l": 0.05}


def test_merged_keys_may_be_overridden(tmp_path):
    """YAML's own way to repeat a block is no key given twice."""
    (tmp_path / "x.yaml").write_text("base: &b {x: 1, y: 2}\nmore:\n  <<: *b\n  x: 3\n")
    assert read_yaml(tmp_path / "x.yaml")["more"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *(("010", 8), ("-07", -7), ("00", 0), ("0_10", 8)),
        *(("1:30", 90), ("12:30:45", 45045), ("1:30.5", 90.5)),
    ],
)
def test_numbers_that_yaml_takes_to_another_base_are_refused(written, read, tmp_path):
    """Seed 8 would be trained without a word where 010 is written."""
    file = tmp_path / "x.yaml"
    file.write_text(f"study: x\nseeds: [{written}]\n")
    with refused(f"{file}: {written} in line 2 is {read} in YAML", "allowed: ", "quotes"):
        read_yaml(file)
    with refused(f"--config: {written} in line 1 is {read} in YAML"):
        config_values([f"seeds=[{written}]"])


def test_other_numbers_and_what_is_text_are_read_as_ever(tmp_path):
    text = "[0, 10, -3, 0.1, 00.5, 1_000, 0x1F, 0b11, 09, '010', \"1:30\", 2025-01-02, 01ab]"
    (tmp_path / "x.yaml").write_text(f"values: {text}\n")
    values = [0, 10, -3, 0.1, 0.5, 1000, 31, 3, "09", "010", "1:30", date(2025, 1, 2), "01ab"]
    assert read_yaml(tmp_path / "x.yaml")["values"] == values


def test_refused_folders(tmp_path):
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == ["file"]
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with refused(path, "not a folder"):
            check_writable(path)
    with pytest.raises(InputError, match=r"^[^ ]*file: is not a folder$"):
        check_writable(tmp_path / "file")


def test_a_link_to_nothing_is_no_folder_for_results(tmp_path):
    link = tmp_path / "results"
    link.symlink_to(tmp_path / "not-mounted")
    for path in (link, link / "below"):
        with refused(path, f"{link}", f"is a link to {tmp_path}/not-mounted, which is not there"):
            check_writable(path)
    (tmp_path / "not-mounted").mkdir()
    check_writable(link / "below")
    link.unlink()
    link.symlink_to(link)
    with refused(link, "which is not there"):
        check_writable(link)


# Every key of the quickstart study, dropped, renamed, or given another value.


def places(value, path=()):
    """The path of every entry of a nested structure."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in entries:
        yield (*path, key)
        if isinstance(child, (dict, list)):
            yield from places(child, (*path, key))


PLACES = list(places(QUICKSTART))
NAMED = [*QUICKSTART["tables"], *QUICKSTART["figures"]]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=3),
    st.sampled_from(["0", "nan", "fedavg", "digits", "curves", "lambda1", "", "a\nb", "../x"]),
    st.lists(st.one_of(st.integers(-2, 2), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 3)), st.integers(), max_size=2),
)


def parent(config, path):
    for key in path[:-1]:
        config = config[key]
    return config


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(["drop", "rename", "retype", "add"]), st.data())
def test_a_changed_study_is_valid_or_refused_in_one_line(path, how, data):
    config = copy.deepcopy(QUICKSTART)
    holder, key, named = parent(config, path), path[-1], path[-1]
    if how == "drop":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        named = data.draw(st.one_of(st.text(max_size=6), st.integers(), st.just(f"{key}s")))
        holder[named] = holder.pop(key)
    elif how == "add" and isinstance(holder, dict):
        named = data.draw(st.one_of(st.text(max_size=6), st.integers()))
        holder[named] = data.draw(VALUES)
    else:
        holder[key] = data.draw(VALUES)
    check(config, path, named)


def check(config, path, named):
    try:
        study = check_study(config, "quickstart.yaml")
    except InputError as error:
        message = str(error)
        assert "\n" not in message and message.startswith("quickstart.yaml: ")
        keys = [str(k) for k in (*path, named) if isinstance(k, str)]
        # A table or figure may name what the changed grid no longer has.
        keys += [f"{name}.{key}" for name in NAMED for key in ("columns", "rows", "seed")]
        assert any(" ".join(key.split()) in message for key in keys), message
        return
    # What is accepted must really work: paths, settings, and JSON for the jobs.
    for cell in study.cells:
        assert "\n" not in str(cell) and ".." not in str(cell).split("/")
        json.dumps(study.settings(cell).to_json(), allow_nan=False)
        study.partition(cell.dataset, cell.alpha)


def fixed_names():
    """The keys that the quickstart study does not choose itself, as it does its tables' names."""
    for path in PLACES:
        chosen = path[:1] in (("tables",), ("figures",)) and len(path) == 2
        if isinstance(parent(QUICKSTART, path), dict) and not chosen:
            yield path


@pytest.mark.parametrize("path", list(fixed_names()), ids=lambda path: ".".join(map(str, path)))
def test_every_renamed_key_is_refused_by_name(path):
    config = copy.deepcopy(QUICKSTART)
    holder = parent(config, path)
    holder[f"{path[-1]}x"] = holder.pop(path[-1])
    with refused("quickstart.yaml", path[-1]):
        check_study(config, "quickstart.yaml")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
@example("{")
@example("a: [")
@example("? [a]\n: b")
@example("{a: 1, a: 2}")
@example("&a a: *a")
@example("<<: 1")
@example("!!timestamp 2020-99-99")
@example("a: 2020-99-99")
@example("!!int x")
@example("!!float x")
@example("a: !!omap [b]")
@example("'\\x'")
def test_any_text_as_a_study_file_is_refused_in_one_line(text):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        with refused():
            load_study(file.name)
