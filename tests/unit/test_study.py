"""From a study file to cells with every number resolved; and what bad study files say."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from fedgloss.algorithms import METHODS, resolve_variants
from fedgloss.errors import InputError
from fedgloss.study.study import Cell, check_study, load_study
from refusal import refused
from studies import (
    DIGITS,
    OWN,
    QUICKSTART,
    ROOT,
    SMALL,
    STUDIES,
    own_study,
    settings_of,
    with_datasets,
)


@pytest.mark.parametrize("file", STUDIES, ids=lambda path: path.stem)
def test_shipped_studies_are_valid(file):
    study = load_study(file)
    assert study.name == file.stem
    assert len(set(study.cells)) == len(study.cells) > 0
    for cell in study.cells:
        settings = study.settings(cell).to_json()
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
    with refused("constants/methods.yaml", "digits/smallcnn", where, "lr.by_alpha", '"0.5"'):
        load_study(study_file())


def test_numbers_of_the_settings_have_one_text_too(study_file):
    """1 and 1.0 train the same: cells must not run again for it."""
    old = "training: {rounds: 6, last: 2}"
    cell = "digits/alpha-0/smallcnn/gentle/seed-0"
    one, other = (
        json.dumps(settings_of(study_file(f"{old}\n", f"{new}\n"), cell))
        for new in (
            "training: {rounds: 6, last: 2, lr: 1, weight_decay: 0, clip: 10}",
            "training: {rounds: 6, last: 2, lr: 1.0, weight_decay: 0.0, clip: 10.0}",
        )
    )
    assert one == other
    rho = (study_file("rho: 0.01", f"rho: {text}") for text in ("1", "1.0"))
    assert len({json.dumps(settings_of(file, cell)) for file in rho}) == 1


def test_clipping_is_in_the_settings_where_it_is_asked_for(study_file):
    cells = [f"digits/alpha-0/smallcnn/{label}/seed-0" for label in ("fedavg", "gentle")]
    plain = [settings_of(study_file(), cell) for cell in cells]
    of_all = "rounds: 6", "rounds: 6, clip: 10"
    of_one = "{rho: 0.01}", "{rho: 0.01}, training: {clip: 10}"
    for change, clips in ((of_all, ({"clip": 10}, {"clip": 10})), (of_one, ({}, {"clip": 10}))):
        for cell, before, clip in zip(cells, plain, clips, strict=True):
            training = before["training"] | clip
            assert settings_of(study_file(*change), cell) == before | {"training": training}


def test_rounds_to_keep_are_counted_from_either_end_and_change_nothing_else(study_file):
    cell = "digits/alpha-0/smallcnn/gentle/seed-0"
    plain = settings_of(study_file(), cell)
    for text, kept in (("[2, 5]", [2, 5]), ("[-1, 5, -4]", [2, 5])):
        found = settings_of(study_file("rounds: 6", f"rounds: 6, keep: {text}"), cell)
        assert found == plain | {"training": plain["training"] | {"keep": kept}}
    assert settings_of(study_file("rounds: 6", "rounds: 6, keep: []"), cell) == plain


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
    from fedgloss.study import study

    methods = yaml.safe_load(
        (ROOT / "src/fedgloss/study/constants" / "methods.yaml").read_text(encoding="utf-8")
    )
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
    assert all(study.settings(cell).weights for cell in study.cells)
    own = own_study(OWN) | {"models": {"small": {"model": "my_package.nets:small"}}}
    own["grid"][0]["model"] = "small"
    study = check_study(own, "own.yaml")
    assert study.cells[0].model == "small"
    found = study.settings(study.cells[0]).to_json()
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


def test_data_and_models_of_ones_own_need_no_constants(my_package):
    study = check_study(own_study(OWN), "own.yaml")
    assert all(study.settings(cell).training == OWN for cell in study.cells)


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
    found = [study.settings(cell).training["record"] for cell in study.cells]
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
    text = file.read_text().replace("study: tiny\n", "")
    file.write_text(text)
    with refused(file, "study, tables.accuracy.kind: missing, must be given"):
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
    from fedgloss.study.checking import MODELS

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


def test_so_is_a_constant_one_in_a_shorter_training(study_file):
    """The paper's own numbers are no mistake of the user's, whatever they are."""
    paper = QUICKSTART | {
        "grid": [
            {
                "dataset": "cifar100",
                "alphas": ["0"],
                "model": "resnet18",
                "algorithms": ["fedgloss"],
            }
        ],
        **{key: {} for key in ("tables", "figures", "algorithms", "training")},
    }
    assert list(check_study(paper, "s.yaml").warnings()) == []
    (line,) = check_study({**paper, "training": {"rounds": 9000}}, "s.yaml").warnings()
    assert "T_s: 15000, but cifar100/resnet18 trains for 9000 rounds" in line


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
    assert {cell.algorithm for cell in study.baselines(study.tables["cost"].columns[0])} == {
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


@pytest.mark.parametrize(
    ("key", "value", "sources"),
    [
        ("root", "data/digits", "cifar10, cifar100, folder and landmarks"),
        ("download", True, "cifar10 and cifar100"),
        ("images", "official_overlap", "cifar10 and cifar100"),
        ("size", 8, "folder and landmarks"),
    ],
)
def test_keys_of_other_sources_are_refused(key, value, sources):
    with refused(f"datasets.digits.{key}: is for {sources}, not for digits"):
        with_datasets(digits={**DIGITS, key: value})


def test_what_is_downloaded_is_cifar():
    with_datasets(digits={**DIGITS, "download": False})
    folder = {"source": "folder", "root": "pets", "download": True}
    with refused("datasets.digits.download: is for cifar10 and cifar100, not for folder"):
        with_datasets(digits={**DIGITS, **folder})


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
    from fedgloss.engine import federation as rounds

    tree = ast.parse(Path(rounds.__file__).read_text(encoding="utf-8"))
    calls = [
        {keyword.arg for keyword in node.keywords if keyword.arg}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Named"
    ]
    assert set(declared.FACTS) in calls


# Code of one's own that is no method, or fails


OWN_METHODS = """\
from typing import Literal
from fedgloss.algorithms.core import Algorithm, mean, named
NUMBER = 7
def fails(*, kind: Literal["a"] = "a"):
    return 1 / 0
def nothing(*, kind: Literal["a"] = "a"): ...
def required(*, kind: Literal["a"]): ...
def needy():
    return Algorithm("needy", mean, mean, hyperparameters={"lam": None})
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
        ("absent:f", ["cannot be imported", "'absent'; PYTHONPATH must name the folder"]),
        ("own.fails", ["unknown method 'own.fails'", "package.module:function"]),
        ('own:needy", hyperparameters: {lamda: 1}, name: "N', ["'lamda'", "did you mean 'lam'"]),
        ('own:needy", hyperparameters: {}, name: "N', ["missing", "mine.hyperparameters.lam"]),
    ],
)
def test_code_that_is_no_method_is_refused_in_one_line(
    method, words, study_file, tmp_path, monkeypatch
):
    files = {"own": OWN_METHODS, "divides": "\n1 / 0\n", "breaks": "def (:\n"}
    for name, text in (files | {"leaves": "import sys\nsys.exit(3)\n"}).items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setitem(sys.modules, name, sys)  # so that it is gone afterwards, too
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    entry = 'algorithms:\n  mine: {method: "' + method + '"}\n'
    file = study_file("algorithms:\n", entry)
    file.write_text(file.read_text().replace("[fedavg, gentle]}", "[fedavg, mine, gentle]}"))
    with refused(file, "mine", *words):
        load_study(file)
