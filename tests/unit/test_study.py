"""From a study file to cells with every number resolved; and what bad study files say."""

import copy
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedgloss.algorithms import METHODS, resolve_variants
from fedgloss.errors import InputError
from fedgloss.study import Cell, check_study, check_writable, load_study, read_yaml
from refusal import refused
from test_fingerprint import forget

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted(
    path for path in (ROOT / "config").glob("*.yaml") if path.stem not in ("methods", "resources")
)
# Through JSON: YAML's aliases would let a change of one list change the others.
QUICKSTART = json.loads(
    json.dumps(yaml.safe_load((ROOT / "config" / "quickstart.yaml").read_text(encoding="utf-8")))
)

SMALL = """\
study: tiny
seeds: [0, 1]
training: {rounds: 6, last: 2}
algorithms:
  gentle: {method: fedgloss, hyperparameters: {rho: 0.01}, variants: {sigma_scaling: paper}}
grid:
  - {dataset: digits, alphas: ["0", "0.5"], model: smallcnn, algorithms: [fedavg, gentle]}
tables:
  accuracy:
    kind: methods
    columns: [{dataset: digits, alpha: "0", model: smallcnn}]
    rows: [fedavg, gentle]
figures:
  curves:
    kind: curves
    columns: [{dataset: digits, alpha: "0.5", model: smallcnn}]
    rows: [gentle]
"""


@pytest.fixture
def study_file(tmp_path):
    """Write a study file; by default the one above with one piece of text replaced."""

    def write(old="", new="", text=SMALL):
        assert old in text
        path = tmp_path / "tiny.yaml"
        path.write_text(text.replace(old, new), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("file", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_are_valid(file):
    study = load_study(file)
    assert study.name == file.stem
    assert len(set(study.cells)) == len(study.cells) > 0
    for cell in study.cells:
        settings = study.settings(cell)
        assert json.loads(json.dumps(settings)) == settings
        assert settings["method"] in METHODS
        assert 1 <= settings["training"]["clients_per_round"] <= settings["training"]["clients"]


def test_the_cells_are_the_grid_in_order(study_file):
    study = load_study(study_file())
    assert [str(cell) for cell in study.cells] == [
        f"digits/alpha-{alpha}/smallcnn/{algorithm}/seed-{seed}"
        for alpha in ("0", "0.5")
        for algorithm in ("fedavg", "gentle")
        for seed in (0, 1)
    ]


def test_blocks_may_overlap(study_file):
    """A table may repeat another's cells: each is there once."""
    more = "  - {dataset: digits, alphas: ['0', '1'], model: smallcnn, algorithms: [fedavg]}"
    study = load_study(study_file("tables:\n", f"{more}\ntables:\n"))
    assert len(study.cells) == 10
    assert study.cells[8:] == (
        Cell("digits", "1", "smallcnn", "fedavg", 0),
        Cell("digits", "1", "smallcnn", "fedavg", 1),
    )


def test_cells_are_found_by_path_and_by_field(study_file):
    study = load_study(study_file())
    cell = study.cell("digits/alpha-0.5/smallcnn/gentle/seed-1")
    assert cell == Cell("digits", "0.5", "smallcnn", "gentle", 1)
    assert study.cell("/digits/alpha-0.5/smallcnn/gentle/seed-1/") == cell
    assert study.select(algorithm="gentle", seed=1) == [
        Cell("digits", alpha, "smallcnn", "gentle", 1) for alpha in ("0", "0.5")
    ]
    with refused("tiny.yaml", "seed-2", "did you mean", "seed-"):
        study.cell("digits/alpha-0.5/smallcnn/gentle/seed-2")


# A number has one text: alpha is in paths, and chooses constants and partitions


SPELLINGS = {"5.0": "5", "0.50": "0.5", "5.": "5", ".5": "0.5", "05": "5", "00": "0", "0.0": "0"}
SPELLINGS |= {"5e-1": "0.5", "1E2": "100", "+5": "5", "-0": "0", " 5": "5", "1_0": "10", "٣": "3"}


@pytest.mark.parametrize("text", SPELLINGS)
def test_another_spelling_of_a_number_is_refused_with_its_one_text(text, study_file):
    with refused("grid[0].alphas", repr(text), f'must be written "{SPELLINGS[text]}"'):
        load_study(study_file('"0.5"]', f'"{text}"]'))


@pytest.mark.parametrize("text", ["5", "10", "1000", "0.05", "10.5", "0.000000001"])
def test_the_one_text_of_a_number_stays_as_it_is(text, study_file):
    study = load_study(study_file('alphas: ["0", "0.5"]', f'alphas: ["0", "0.5", "{text}"]'))
    assert {cell.alpha for cell in study.cells} == {"0", "0.5", text}


@pytest.mark.parametrize("text", ["1e400", "1e-400", "1e999999999", "9" * 30, "0." + "1" * 30])
def test_numbers_beyond_any_use_are_refused(text, study_file):
    with refused("grid[0].alphas", text[:9], "not a number"):
        load_study(study_file('"0.5"]', f'"{text}"]'))


PLACES_OF_ALPHA = {
    "a table": ('"0", model: smallcnn}]', '"0.0", model: smallcnn}]', "tables.accuracy.columns"),
    "a figure": ('"0.5", model', '"0.50", model', "figures.curves.columns"),
    "a data set's by_alpha": (
        "grid:",
        "datasets: {digits: {source: digits, partition: "
        '{scheme: dirichlet, clients: 50, by_alpha: {"0.50": iid}}}}\ngrid:',
        "datasets.digits.partition.by_alpha",
    ),
}


@pytest.mark.parametrize("place", PLACES_OF_ALPHA)
def test_so_is_another_spelling_wherever_alpha_stands(place, study_file):
    old, new, key = PLACES_OF_ALPHA[place]
    with refused("tiny.yaml", key, "must be written"):
        load_study(study_file(old, new))


@pytest.mark.parametrize("where", ["training", "hyperparameters"])
def test_so_is_one_among_the_constants_that_would_never_be_used(
    where, study_file, monkeypatch, tmp_path
):
    odd = {"lr": entry(0.1, **{"0.50": 0.2})}
    changes = {"training": odd} if where == "training" else {"fedgloss": {where: odd}}
    constants(monkeypatch, tmp_path, **changes)
    with refused("config/methods.yaml", "digits/smallcnn", where, "lr.by_alpha", '"0.5"'):
        load_study(study_file())


def test_numbers_of_the_settings_have_one_text_too(study_file):
    """1 and 1.0 train the same: cells must not run again for it."""
    old = "training: {rounds: 6, last: 2}"
    cell = "digits/alpha-0/smallcnn/gentle/seed-0"
    one, other = (
        json.dumps(settings_of(study_file(f"{old}\n", f"{new}\n"), cell))
        for new in (
            "training: {rounds: 6, last: 2, lr: 1, weight_decay: 0}",
            "training: {rounds: 6, last: 2, lr: 1.0, weight_decay: 0.0}",
        )
    )
    assert one == other
    rho = (study_file("rho: 0.01", f"rho: {text}") for text in ("1", "1.0"))
    assert len({json.dumps(settings_of(file, cell)) for file in rho}) == 1


def settings_of(file, cell):
    study = load_study(file)
    return study.settings(study.cell(cell))


def test_settings_name_everything_that_decides_the_numbers(study_file):
    settings = settings_of(study_file(), "digits/alpha-0/smallcnn/gentle/seed-1")
    assert settings == {
        "dataset": "digits",
        "alpha": "0",
        "data": {"source": "digits", "images": "clean", "size": None},
        "partition": {"scheme": "dirichlet", "clients": 50, "seed": 0},
        "model": "smallcnn",
        "weights": None,
        "algorithm": "gentle",
        "method": "fedgloss",
        "variants": settings["variants"],
        "hyperparameters": settings["hyperparameters"],
        "training": settings["training"],
        "precision": "float32",
        "seed": 1,
    }
    assert settings["variants"]["sigma_scaling"] == "paper"
    assert settings["hyperparameters"]["rho"] == 0.01
    assert settings["training"]["rounds"] == 6


def constants(monkeypatch, tmp_path, **changes):
    """Constants of the paper with other entries for digits/smallcnn."""
    from fedgloss import study

    methods = yaml.safe_load((ROOT / "config" / "methods.yaml").read_text(encoding="utf-8"))
    here = methods["settings"]["digits/smallcnn"]
    here["training"] |= changes.get("training", {})
    here["algorithms"]["fedgloss"] = changes.get("fedgloss", here["algorithms"]["fedgloss"])
    (tmp_path / "methods.yaml").write_text(yaml.safe_dump(methods), encoding="utf-8")
    monkeypatch.setattr(study, "METHODS_FILE", tmp_path / "methods.yaml")


def entry(value, **by_alpha):
    return {"value": value, "source": "test", "by_alpha": by_alpha}


def test_each_layer_of_the_configuration_overrides_the_weaker_ones(
    study_file, monkeypatch, tmp_path
):
    """(data set, model) < (method there) < the study's training < the study's algorithms."""
    known = {
        "hyperparameters": {name: entry(0.1) for name in ("rho", "rho_l", "T_s", "rho0")}
        | {"beta": entry(10)},
        "training": {"lr": entry(2), "epochs": entry(2), "batch_size": entry(2)},
    }
    training = {name: entry(1) for name in ("lr", "epochs", "batch_size", "weight_decay")}
    constants(monkeypatch, tmp_path, training=training, fedgloss=known)
    file = study_file(
        "training: {rounds: 6, last: 2}\nalgorithms:\n  gentle: {method: fedgloss, ",
        "training: {epochs: 3, batch_size: 3}\nalgorithms:\n"
        "  gentle: {method: fedgloss, training: {batch_size: 4}, ",
    )
    training = settings_of(file, "digits/alpha-0/smallcnn/gentle/seed-0")["training"]
    assert [training[k] for k in ("weight_decay", "lr", "epochs", "batch_size")] == [1, 2, 3, 4]
    training = settings_of(file, "digits/alpha-0/smallcnn/fedavg/seed-0")["training"]
    assert [training[k] for k in ("weight_decay", "lr", "epochs", "batch_size")] == [1, 1, 3, 3]


def test_constants_may_depend_on_alpha_and_studies_override_them(study_file, monkeypatch, tmp_path):
    known = {
        "hyperparameters": {
            "rho": entry(0.1),
            "rho_l": entry(0.2, **{"0.5": 0.3}),
            "beta": entry(10),
            "T_s": entry(0),
        }
    }
    constants(monkeypatch, tmp_path, fedgloss=known)
    hyper = [
        settings_of(study_file(), f"digits/alpha-{alpha}/smallcnn/gentle/seed-0")["hyperparameters"]
        for alpha in ("0", "0.5")
    ]
    assert [h["rho_l"] for h in hyper] == [0.2, 0.3]
    assert [h["rho"] for h in hyper] == [0.01, 0.01]


def test_a_preset_chooses_variants_and_an_algorithm_may_differ(study_file):
    file = study_file("seeds:", "preset: official\nseeds:")
    variants = settings_of(file, "digits/alpha-0/smallcnn/gentle/seed-0")["variants"]
    official = resolve_variants("fedgloss", "official")
    assert variants == official | {"sigma_scaling": "paper"} != official


def test_a_table_of_the_settings_changes_only_with_what_it_says(study_file):
    """The workflow runs a cell again when these change: they must not change without reason."""
    before = load_study(study_file())
    after = load_study(study_file("rho: 0.01", "rho: 0.02"))
    different = [c for c in before.cells if before.settings(c) != after.settings(c)]
    assert different == before.select(algorithm="gentle")


def test_a_study_can_be_handed_on_as_json(study_file):
    study = load_study(study_file())
    again = load_study(json.dumps(study.config))
    assert again.cells == study.cells
    assert [again.settings(c) for c in again.cells] == [study.settings(c) for c in study.cells]


def test_partitions_follow_the_definition_of_the_data_set(study_file):
    study = load_study(study_file())
    expected = {"scheme": "dirichlet", "clients": 50, "seed": 0, "alpha": "0.5"}
    assert study.partition("digits", "0.5") == expected
    assert study.partition("digits", "iid")["scheme"] == "iid"


# Models with labels of their own


@pytest.fixture
def warm_file(study_file, tmp_path):
    """The small study with the small CNN and, beside it, one that starts from a file."""
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"first")
    definition = f"models:\n  warm: {{model: smallcnn, weights: {weights}}}\n"
    block = '  - {dataset: digits, alphas: ["0"], model: warm, algorithms: [fedavg]}\n'
    return study_file("grid:\n", f"{definition}grid:\n{block}")


def test_a_label_stands_for_a_model_and_its_weights(warm_file, tmp_path):
    """Paths have the label; constants are those of the model behind it."""
    warm = settings_of(warm_file, "digits/alpha-0/warm/fedavg/seed-0")
    cold = settings_of(warm_file, "digits/alpha-0/smallcnn/fedavg/seed-0")
    assert warm == cold | {"weights": hashlib.sha256(b"first").hexdigest()}
    assert (cold["model"], cold["weights"]) == ("smallcnn", None)


def test_other_weights_change_the_settings_of_their_cells_alone(warm_file, tmp_path):
    before = load_study(warm_file)
    (tmp_path / "weights.safetensors").write_bytes(b"second")
    after = load_study(warm_file)
    changed = {cell.model for cell in after.cells if before.settings(cell) != after.settings(cell)}
    assert changed == {"warm"}


def test_a_label_may_be_a_models_own_name_or_stand_for_an_import_path(
    study_file, tmp_path, my_package
):
    (tmp_path / "w").write_bytes(b"w")
    entry = json.dumps({"smallcnn": {"weights": str(tmp_path / "w")}})
    study = load_study(study_file("grid:\n", f"models: {entry}\ngrid:\n"))
    assert {cell.model for cell in study.cells} == {"smallcnn"}
    assert all(study.settings(cell)["weights"] for cell in study.cells)
    own = own_study(OWN) | {"models": {"small": {"model": "my_package.nets:small"}}}
    own["grid"][0]["model"] = "small"
    study = check_study(own, "own.yaml")
    assert study.cells[0].model == "small"
    found = study.settings(study.cells[0])
    assert (found["model"], found["weights"]) == ("my_package.nets:small", None)


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ({"weights": "absent.safetensors"}, ["weights", "absent.safetensors", "cannot be read"]),
        ({"weights": "."}, ["weights", "'.'", "cannot be read"]),
        ({"weights": "a\0b"}, ["weights", "cannot be read", "null"]),
        ({"weights": ""}, ["weights", "at least 1"]),
        ({"weights": 5}, ["weights", "5", "text"]),
        ({"weight": "w"}, ["weight", "'weights'"]),
        ({"model": "../cnn"}, ["model", "../cnn", "package.module:function"]),
    ],
)
def test_bad_models_are_refused(definition, words, study_file):
    changed = f"models: {{warm: {json.dumps(definition)}}}\ngrid:\n"
    with refused("tiny.yaml", "models.warm", *words):
        load_study(study_file("grid:\n", changed))


# Bad input: (what is replaced, by what, what the one line must name)
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
        ["training.clients", "40", "partition.clients", "50"],
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
    "a key that is a number": ("seeds:", "5: x\nseeds:", ["5", "unknown key"]),
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
    assert settings["hyperparameters"] == {"alpha": 0.25, "rho_l": 0.05}


def test_merged_keys_may_be_overridden(tmp_path):
    """YAML's own way to repeat a block is no key given twice."""
    (tmp_path / "x.yaml").write_text("base: &b {x: 1, y: 2}\nmore:\n  <<: *b\n  x: 3\n")
    assert read_yaml(tmp_path / "x.yaml")["more"] == {"x": 3, "y": 2}


def test_refused_folders(tmp_path):
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == ["file"]
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with refused(path, "not writable"):
            check_writable(path)


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
        json.dumps(study.settings(cell), allow_nan=False)
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


OWN = {
    "rounds": 2,
    "clients": 4,
    "clients_per_round": 2,
    "epochs": 1,
    "batch_size": 8,
    "lr": 0.1,
    "weight_decay": 0.0,
    "augmentation": "none",
    "evaluate_every": 1,
    "last": 1,
    "record": [],
}


def own_study(training):
    return {
        "study": "own",
        "seeds": [0],
        "datasets": {
            "flowers": {
                "source": "folder",
                "root": "flowers",
                "partition": {"scheme": "iid", "clients": 4, "seed": 0},
            }
        },
        "training": training,
        "algorithms": {"fedsam": {"hyperparameters": {"rho_l": 0.1}}},
        "grid": [
            {
                "dataset": "flowers",
                "alphas": ["iid"],
                "model": "my_package.nets:small",
                "algorithms": ["fedavg", "fedsam"],
            }
        ],
    }


@pytest.fixture
def my_package(tmp_path, monkeypatch):
    """A package of one's own with a model."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "nets.py").write_text("def small(shape, classes): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path / "my_package"
    forget()


def test_data_and_models_of_ones_own_need_no_constants(my_package):
    study = check_study(own_study(OWN), "own.yaml")
    assert all(study.settings(cell)["training"] == OWN for cell in study.cells)


def test_but_then_the_study_gives_every_key_and_all_that_are_missing_are_named_at_once(my_package):
    config = own_study({"rounds": 2, "lr": 0.1})
    config["algorithms"] = {"strong": {"method": "fedgloss", "hyperparameters": {"rho": 1}}}
    config["grid"][0]["algorithms"] = ["fedavg", "fedsam", "strong"]
    needed = [f"training.{key}" for key in OWN if key not in ("rounds", "lr", "record")]
    needed += [f"algorithms.strong.hyperparameters.{name}" for name in ("beta", "rho_l")]
    needed += ["algorithms.fedsam.hyperparameters.rho_l", "'folder/my_package.nets:small'"]
    with refused("own.yaml", "missing, must be given", *needed):
        check_study(config, "own.yaml")


def test_what_no_number_depends_on_need_not_be_given(my_package):
    """What is recorded has a default; without it figures of norms would stay empty."""
    study = check_study(own_study({k: v for k, v in OWN.items() if k != "record"}), "own.yaml")
    found = [study.settings(cell)["training"]["record"] for cell in study.cells]
    assert found == [["norms", "communication"]] * 2


@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        (["study", "seeds"], ["study, seeds: missing"]),
        (["seeds", "grid"], ["seeds, grid: missing"]),
        (["study", "seeds", "grid"], ["study, seeds, grid: missing"]),
    ],
)
def test_all_missing_keys_of_a_study_are_named_at_once(dropped, words):
    config = {k: v for k, v in QUICKSTART.items() if k not in dropped}
    with refused("quickstart.yaml", *words):
        check_study(config, "quickstart.yaml")


def test_so_are_those_further_down(study_file):
    file = study_file("    kind: methods\n", "")
    text = file.read_text().replace("    rows: [gentle]\n", "").replace("study: tiny\n", "")
    file.write_text(text)
    with refused(file, "study, figures.curves.rows, tables.accuracy.kind: missing, must be given"):
        load_study(file)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("resnet81", ["'resnet81'", "did you mean 'resnet18'"]),
        ("my_package.nest:small", ["my_package.nest:small", "no module 'my_package.nest'"]),
        ("nowhere:net", ["nowhere:net", "no module 'nowhere'"]),
        ("my_package.nets", ["'my_package.nets'", "package.module:function"]),
    ],
)
def test_a_model_that_is_not_there_is_refused_before_any_job(model, words, my_package):
    config = own_study(OWN)
    config["grid"][0]["model"] = model
    with refused("own.yaml", "grid[0].model", *words):
        check_study(config, "own.yaml")


def test_the_models_by_name_are_those_there_are():
    from fedgloss import models
    from fedgloss.study import MODELS

    assert MODELS == models.MODELS


# Numbers that YAML takes for text


NUMBERS = {
    "lr: 1e-4": ["training.lr", '"1e-4"', "write 1.0e-4"],
    "lr: 1E-4": ["training.lr", "write 1.0e-4"],
    "lr: 5e2": ["training.lr", "write 5.0e+2"],
    "lr: 1.5e3": ["training.lr", "write 1.5e+3"],
    "weight_decay: 4e-4": ["training.weight_decay", "write 4.0e-4"],
    'lr: "0.1"': ["training.lr", "write 0.1, without quotes"],
    "batch_size: 1e2": ["training.batch_size", "write 100"],
    'rounds: "6"': ["training.rounds", "write 6, without quotes"],
}


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_that_is_text_is_refused_with_how_to_write_it(text, study_file):
    file = study_file("rounds: 6", text)
    with refused(file, *NUMBERS[text]):
        load_study(file)
    word = NUMBERS[text][-1].removeprefix("write ").removesuffix(", without quotes")
    assert yaml.safe_load(word) == float(yaml.safe_load(text.split(": ")[1]))


def test_so_is_one_further_down(study_file):
    with refused("gentle.hyperparameters.rho", '"1e-2"', "write 1.0e-2"):
        load_study(study_file("rho: 0.01", "rho: 1e-2"))
    with refused("landscape.extent", "write 2.0e+0"):
        load_study(study_file("grid:", "landscape: {extent: 2e0}\ngrid:"))
    with refused("seeds[1]", "write 1, without quotes"):
        load_study(study_file("[0, 1]", '[0, "1"]'))


@pytest.mark.parametrize("text", ["six", "1e-4x", "nan", "1e999"])
def test_other_text_gets_no_such_advice(text, study_file):
    with pytest.raises(InputError) as caught:
        load_study(study_file("rounds: 6", f"lr: {text}"))
    assert "write" not in str(caught.value)


def test_a_byte_order_mark_is_no_obstacle(study_file):
    file = study_file()
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_study(file).name == "tiny"


# Settings that cannot be meant


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ("rounds: 60, last: 100", ["training.last: 100 of only 60 rounds"]),
        ("rounds: 6", ["training.last: 20 of only 6 rounds"]),  # the 20 is a constant
        ("last: 121", ["training.last: 121 of only 120 rounds"]),
    ],
)
def test_more_last_rounds_than_rounds_are_refused(training, words, study_file):
    with refused("tiny.yaml", "digits/alpha-0/smallcnn", *words):
        load_study(study_file("rounds: 6, last: 2", training))


def test_those_of_one_method_are_refused_too(study_file):
    with refused("smallcnn/gentle", "training.last: 2 of only 1 rounds"):
        load_study(study_file("{method: fedgloss,", "{method: fedgloss, training: {rounds: 1},"))


def test_as_many_last_rounds_as_rounds_are_fine(study_file):
    load_study(study_file("last: 2", "last: 6"))


def gentle(study_file, text):
    return load_study(study_file("rho: 0.01", text))


@pytest.mark.parametrize("T_s", [6, 7, 2000])
def test_a_warm_up_that_never_ends_is_a_warning_in_one_line(T_s, study_file):
    study = gentle(study_file, f"T_s: {T_s}")
    assert list(study.warnings()) == [
        f"{study.file}: algorithms.gentle.hyperparameters.T_s: {T_s}, but digits/smallcnn trains"
        " for 6 rounds: the method never leaves its warm-up"
    ]


@pytest.mark.parametrize("T_s", [0, 1, 5])
def test_one_that_ends_is_none(T_s, study_file):
    assert list(gentle(study_file, f"T_s: {T_s}").warnings()) == []


def test_without_a_schedule_there_is_no_warm_up(study_file):
    constant = "variants: {rho_schedule: constant, rho_l_schedule: constant}"
    file = study_file("variants: {sigma_scaling: paper}", constant)
    file.write_text(file.read_text().replace("rho: 0.01", "T_s: 2000"))
    assert list(load_study(file).warnings()) == []


FAVG = "columns: [{dataset: digits, alpha: '0', model: smallcnn}], rows: [gentle]"


def test_a_table_against_fedavg_needs_fedavg(study_file):
    """Under whatever label: it is the method that counts."""
    table = f"tables:\n  cost: {{kind: communication, {FAVG}}}\n"
    load_study(study_file("tables:\n", table))
    renamed = "algorithms: [plain, gentle]"
    file = study_file("tables:\n", table)
    text = file.read_text().replace("algorithms: [fedavg, gentle]", renamed)
    text = text.replace("rows: [fedavg, gentle]", "rows: [gentle]")
    file.write_text(text.replace("algorithms:\n", "algorithms:\n  plain: {method: fedavg}\n"))
    study = load_study(file)
    assert {cell.algorithm for cell in study.baselines(study.tables["cost"]["columns"][0])} == {
        "plain"
    }
    file.write_text(text.replace("algorithms:\n", "algorithms:\n  plain: {method: fedprox}\n"))
    with refused("tables.cost", "counts against fedavg", "digits/0/smallcnn"):
        load_study(file)


@pytest.mark.parametrize(
    ("metric", "record"),
    [("w_norm", "norms"), ("pseudo_gradient_norm", "norms"), ("delta_epsilon", "delta_epsilon")],
)
def test_a_figure_shows_what_is_recorded(metric, record, study_file):
    text = SMALL.replace("kind: curves", f"kind: curves\n    metric: {metric}")
    with refused("figures.curves.metric", metric, f"put {record}", "training.record"):
        load_study(study_file("last: 2", "last: 2, record: [communication]", text))
    load_study(study_file("last: 2", f"last: 2, record: [{record}]", text))


@pytest.mark.parametrize("key", ["images", "size"])
def test_keys_of_other_sources_are_refused(key):
    digits = {**DIGITS, key: {"images": "official_overlap", "size": 8}[key]}
    with refused(f"datasets.digits.{key}", "not for digits"):
        with_datasets(digits=digits)


# Methods of one's own


def method_named(tmp_path, monkeypatch, **declared):
    """A module with a method that declares these names."""
    text = ", ".join(f"{key}={value!r}" for key, value in declared.items())
    (tmp_path / "odd_method.py").write_text(
        "from fedgloss.algorithms.core import Algorithm\n"
        f"def odd(): return Algorithm('odd', lambda *a: a, lambda *a: a, {text})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_method", raising=False)


TAKEN = ["m", "n", "p", "share", "lr", "wd", "steps", "t", "full_gradient"]
TAKEN += ["self", "get", "items", "keys", "replace", "values"]


@pytest.mark.parametrize("name", TAKEN)
def test_hyperparameters_with_the_engines_own_names_are_refused(
    name, study_file, tmp_path, monkeypatch
):
    method_named(tmp_path, monkeypatch, hyperparameters={name: 0.1})
    file = study_file("{method: fedgloss, hyperparameters: {rho: 0.01}, variants: ", "{variants: ")
    file.write_text(
        file.read_text().replace("{variants: {sigma_scaling: paper}}", "{method: 'odd_method:odd'}")
    )
    with refused(file, "odd_method:odd", f"hyperparameters: {name!r}", "full_gradient"):
        load_study(file)


@pytest.mark.parametrize("kind", ["global_state", "client_state", "local_state"])
@pytest.mark.parametrize("name", ["self", "get", "items", "keys", "replace", "values"])
def test_so_are_states_with_the_names_of_what_records_can_do(
    kind, name, study_file, tmp_path, monkeypatch
):
    method_named(tmp_path, monkeypatch, **{kind: ("m", name)})  # Adam's m is fine
    gentle = "{method: fedgloss, hyperparameters: {rho: 0.01}, variants: {sigma_scaling: paper}}"
    with refused("odd_method:odd", f"{kind}: {name!r}"):
        load_study(study_file(gentle, "{method: 'odd_method:odd'}"))


def test_the_engine_fills_h_with_these_names():
    """`FACTS` is what the engine adds to the hyperparameters, no more and no less."""
    import ast

    from fedgloss.algorithms import declared
    from fedgloss.simulation import rounds

    tree = ast.parse(Path(rounds.__file__).read_text(encoding="utf-8"))
    calls = [
        {keyword.arg for keyword in node.keywords if keyword.arg}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Named"
    ]
    assert set(declared.FACTS) in calls


# Data sets and partitions: what differs lies under another path


DIGITS = {"source": "digits", "partition": {"scheme": "dirichlet", "clients": 50, "seed": 0}}


def with_datasets(alphas=("0", "0.5"), **datasets):
    """A study of FedAvg on the first of some data sets."""
    name, *_ = [*datasets, "digits"]
    block = {"dataset": name, "alphas": [*alphas], "model": "smallcnn", "algorithms": ["fedavg"]}
    return check_study(
        {"study": "s", "seeds": [0], "datasets": datasets, "grid": [block]}, "s.yaml"
    )


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
    (a,), (b,) = (list(map(study.settings, study.cells)) for study in (usual, other))
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
    leaf = {"users": ["0", "1"], "users_data": {}}
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
    assert settings["training"]["clients"] == clients
    assert settings["partition"]["scheme"] == "file"
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
        return study.settings(study.cells[0])["partition"]

    before = cut("mine.json")
    Path("moved.json").write_text(Path("mine.json").read_text())
    assert cut("moved.json") == before
    Path("moved.json").write_text('{"clients": [[0], [1], [3]]}')
    assert cut("moved.json") != before


ABSENT = {
    "a file": ("absent.json", ["0.5"], ["absent.json", "cannot be read"]),
    "a folder": ("absent", ["0.5"], ["absent", "cannot be read"]),
    "an alpha": ("splits", ["0.5", "5"], ["federated_train_alpha_5.00.json", "cannot be read"]),
    "no split": ("tiny.yaml", ["0.5"], ["tiny.yaml", "not valid JSON"]),
    "an odd split": ("odd.json", ["0.5"], ["odd.json", "neither"]),
    "a list": ("list.json", ["0.5"], ["list.json", "neither"]),
}


@pytest.mark.parametrize("what", ABSENT)
def test_a_split_that_is_not_there_is_refused_before_any_job(what, split, study_file):
    study_file()
    Path("odd.json").write_text('{"clients": 5}')
    Path("list.json").write_text("[1]")
    file, alphas, words = ABSENT[what]
    with refused("s.yaml", "datasets.digits.partition.file", *words):
        of_split(file, alphas)


def test_a_file_without_its_scheme_or_a_scheme_without_its_file_is_refused(split):
    with refused("partition.file: is given", "'file'"):
        digits = {**DIGITS, "partition": {**DIGITS["partition"], "file": "mine.json"}}
        with_datasets(digits=digits)
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


# Code of one's own that is no method, or fails


OWN_METHODS = """\
from typing import Literal
from fedgloss.algorithms.core import Algorithm, mean, named
NUMBER = 7
def fails(*, kind: Literal["a"] = "a"):
    return 1 / 0
def nothing(*, kind: Literal["a"] = "a"): ...
def required(*, kind: Literal["a"]): ...
"""


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("own:named", ["'own:named' is not a method"]),
        ("own:mean", ["'own:mean' is not a method"]),
        ("own:required", ["'own:required' is not a method", "default"]),
        ("own:NUMBER", ["not a function"]),
        ("own:nope", ["cannot be imported", "nope"]),
        ("own:fails", ["cannot be built", "ZeroDivisionError: division by zero", "own.py line 5"]),
        ("own:nothing", ["returns no Algorithm"]),
        ("divides:f", ["cannot be imported", "ZeroDivisionError", "divides.py line 2"]),
        ("leaves:f", ["cannot be imported", "SystemExit: 3", "leaves.py line 2"]),
        ("breaks:f", ["cannot be imported", "SyntaxError"]),
    ],
)
def test_code_that_is_no_method_is_refused_in_one_line(
    method, words, study_file, tmp_path, monkeypatch
):
    files = {"own": OWN_METHODS, "divides": "\n1 / 0\n", "breaks": "def (:\n"}
    for name, text in (files | {"leaves": "import sys\nsys.exit(3)\n"}).items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    entry = 'algorithms:\n  mine: {method: "' + method + '"}\n'
    file = study_file("algorithms:\n", entry)
    file.write_text(file.read_text().replace("[fedavg, gentle]}", "[fedavg, mine, gentle]}"))
    with refused(file, "mine", *words):
        load_study(file)
