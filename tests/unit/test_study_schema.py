"""The types of a study: schemas for editors, defaults; settings that read what they wrote."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pydantic
import pytest

from fedgloss.study.configuration import validate
from fedgloss.study.schema.__main__ import SCHEMAS, json_schemas
from fedgloss.study.schema.constants import Entry, Methods
from fedgloss.study.schema.kinds import Count
from fedgloss.study.settings import Settings, check_alpha, is_name
from fedgloss.study.study import check_study, load_study
from refusal import refused
from studies import QUICKSTART, ROOT, STUDIES


def test_the_schemas_for_editors_are_those_of_the_types():
    """After a change of the types: python -m fedgloss.study.schema."""
    there = {file.name: file.read_text(encoding="utf-8") for file in SCHEMAS.iterdir()}
    assert there == json_schemas()


@pytest.mark.parametrize("file", STUDIES, ids=lambda path: path.stem)
def test_editors_are_told_of_every_key_that_studies_use(file):
    """What the types take, the schemas take: properties, and what may stand in them."""
    found = json.loads(json_schemas()["study.schema.json"])
    assert set(load_study(file).config) <= set(found["properties"])
    assert found["required"] == ["study", "seeds", "grid"]
    assert found["additionalProperties"] is False
    text = json.dumps(found)
    assert text.count('"null"') == 1, "a key may be left out, but not be null"
    assert found["$defs"]["Training"]["properties"]["clip"]["type"] == ["number", "null"]
    for limit in ('"exclusiveMinimum": 0', '"minItems": 1', '"uniqueItems": true', '"maximum": 50'):
        assert limit in text


def test_the_defaults_of_the_analyses_are_those_of_the_types():
    config = {
        key: value for key, value in QUICKSTART.items() if key not in ("hessian", "landscape")
    }
    study = check_study(config, "quickstart.yaml")
    assert (study.hessian.data, study.hessian.count) == ("paper", 5)
    assert study.hessian.models == ("average", "final")
    assert (study.landscape.points, study.landscape.extent) == (25, 1.0)
    study = check_study(config | {"hessian": {"count": 2}, "landscape": {"points": 5}}, "q.yaml")
    assert (study.hessian.count, study.hessian.data, study.landscape.points) == (2, "paper", 5)


def test_what_was_read_is_never_changed():
    study = check_study(QUICKSTART, "quickstart.yaml")
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        study.asked.hessian.count = 3
    with pytest.raises(FrozenInstanceError):
        study.settings(study.cells[0]).seed = 3


ENTRY = {"value": 1, "source": "paper"}


def test_constants_are_explained_or_refused():
    known = validate(ENTRY | {"by_alpha": {"0.5": 2}}, Entry[Count], "m.yaml")
    assert (known.at("0.5"), known.at("5")) == (2, 1)
    with refused("m.yaml: why: missing, must be given"):
        validate(ENTRY | {"source": "unknown"}, Entry[Count], "m.yaml")
    with refused("m.yaml: by_alpha: ", '"0.5"', "one text"):
        validate(ENTRY | {"by_alpha": {"0.50": 2}}, Entry[Count], "m.yaml")
    with refused("a.training.rounds, settings.a.training.clients", "missing, must be given"):
        content = {
            "sources": {},
            "datasets": {},
            "settings": {"a": {"training": {}, "algorithms": {}}},
        }
        validate(content, Methods, "m.yaml")


# Settings


def settings():
    study = check_study(QUICKSTART, "quickstart.yaml")
    return study.settings(study.cells[-1])


def test_settings_read_what_they_wrote():
    text = json.dumps(settings().to_json())
    assert Settings.from_json(json.loads(text)) == settings()
    assert json.dumps(Settings.from_json(json.loads(text)).to_json()) == text


def test_what_settings_wrote_is_the_readers_to_change():
    found = settings()
    found.to_json()["training"]["record"].append("nothing")
    assert found == settings()


def test_a_study_resolves_each_cell_once():
    study = check_study(QUICKSTART, "quickstart.yaml")
    assert study.settings(study.cells[0]) is study.settings(study.cells[0])


def test_settings_need_neither_pydantic_nor_yaml_nor_torch():
    code = "import sys; import fedgloss.study.settings; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pydantic", "yaml", "torch", "numpy"} & {*shown.stdout.split()}


def test_reading_a_study_does_not_wait_for_torch():
    code = "import sys; from fedgloss.study.study import load_study; load_study(sys.argv[1])"
    code += "; print(*sys.modules)"
    command = [sys.executable, "-c", code, str(Path(ROOT, "config", "paper.yaml"))]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "jsonschema"} & {*shown.stdout.split()}


# Alpha: a number, a word, or the name of a split


@pytest.mark.parametrize("alpha", ["own", "official", "split-2", "A", "x" * 50])
def test_a_word_is_the_name_of_a_split(alpha):
    check_alpha(alpha)
    assert is_name(alpha)


@pytest.mark.parametrize("alpha", ["0", "0.05", "iid", "natural"])
def test_numbers_and_known_words_are_none(alpha):
    check_alpha(alpha)
    assert not is_name(alpha)


@pytest.mark.parametrize(
    "alpha",
    ["", "nan", "NaN", "inf", "Infinity", "-own", "a b", "a.b", "a/b", "ä", "x" * 51, "2nd"],
)
def test_what_is_neither_is_refused(alpha):
    with refused(repr(alpha), "not a number of at least 0", "'iid'", "name of a split"):
        check_alpha(alpha)


def test_what_may_be_said_of_the_spectrum():
    def hessian(**asked):
        return check_study({**QUICKSTART, "hessian": asked}, "q.yaml").hessian

    asked = hessian()
    assert (asked.method, asked.images, asked.choices) == ("lanczos", "auto", ("paper",))
    assert (asked.trace, asked.density) == (None, None)
    assert hessian(data=["official_code", "paper"]).choices == ("official_code", "paper")
    assert hessian(images=5000).images == 5000 and hessian(images="all").images == "all"
    assert hessian(trace={}).trace.products == 90
    assert hessian(density={"starts": 3}).density.steps == 80


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"method": "power"}, ["hessian.method", "lanczos", "pyhessian", "eigsh"]),
        ({"images": "some"}, ["hessian.images", "all"]),
        ({"images": 99}, ["hessian.images", "100"]),
        ({"data": []}, ["hessian.data"]),
        ({"data": "papers"}, ["hessian.data", "paper", "official_code"]),
        ({"data": ["paper", "paper"]}, ["hessian.data", "twice"]),
        ({"trace": {"products": 5}}, ["hessian.trace.products", "6"]),
        ({"density": {"starts": 1}}, ["hessian.density.starts", "2"]),
    ],
)
def test_a_spectrum_that_cannot_be_is_refused_in_one_line(asked, words):
    with refused(*words):
        check_study({**QUICKSTART, "hessian": asked}, "q.yaml")
