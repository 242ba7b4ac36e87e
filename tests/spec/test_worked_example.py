"""The examples of the documentation run, and do what their pages say."""

import re
import sys
from pathlib import Path

import pytest
import torch

import fedgloss
from fedgloss.algorithms import METHODS, variant_choices
from fedgloss.study.study import check_study, read_yaml
from problem import random_problem

ROOT = Path(__file__).resolve().parents[2]
SCHEDULE = [[0, 1], [1, 2, 3], [0, 3]]
NAME = "server_momentum:fedavgm"


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))


@pytest.mark.parametrize(
    ("momentum", "twin", "values"),
    [(0.0, "fedavg", {}), (0.9, "fedopt", {"momentum": 0.9})],
)
def test_the_added_method_is_what_its_page_says(momentum, twin, values):
    problem = random_problem(0)
    ours = problem.train(NAME, 4, SCHEDULE, hyperparameters={"momentum": momentum})
    theirs = problem.train(twin, 4, SCHEDULE, hyperparameters=values)
    assert torch.allclose(ours.history, theirs.history, rtol=1e-12, atol=1e-13)


def test_one_line_of_configuration_adds_it_to_a_study():
    config = read_yaml(ROOT / "config" / "smoke.yaml")
    config["algorithms"] = {"fedavgm": {"method": NAME, "hyperparameters": {"momentum": 0.9}}}
    config["grid"][0]["algorithms"].append("fedavgm")
    study = check_study(config, "study.yaml")
    (cell, _) = study.select(algorithm="fedavgm")
    assert study.settings(cell).hyperparameters == {"momentum": 0.9}


def test_the_page_shows_the_file_as_it_is():
    page = (ROOT / "docs" / "own-method.md").read_text()
    code = (ROOT / "examples" / "server_momentum.py").read_text()
    block = re.search(r"```python\n(@named.*?)```", page, re.DOTALL)[1]
    assert block in code


def blocks_of_the_page():
    page = (ROOT / "docs" / "own-method.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_the_pages_scaffold_is_scaffold():
    (block,) = (block for block in blocks_of_the_page() if "def scaffold" in block)
    names = {}
    exec(block, names)
    problem = random_problem(0)
    ours = problem.train(names["scaffold"](), 4, SCHEDULE, hyperparameters={})
    theirs = problem.train("scaffold", 4, SCHEDULE, hyperparameters={})
    assert torch.allclose(ours.history, theirs.history, rtol=1e-12, atol=1e-13)
    assert ours.bytes_up == theirs.bytes_up


def test_the_pages_schedule_warms_up():
    (block,) = (block for block in blocks_of_the_page() if "def warm_up" in block)
    names = {}
    exec(block, names)
    momenta = [names["warm_up"]({"momentum": 0.8, "T_s": 4}, t)["momentum"] for t in range(6)]
    assert momenta == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8])
    assert names["warm_up"]({"momentum": 0.8, "T_s": 0}, 0)["momentum"] == 0.8


def test_the_readmes_library_example_runs(monkeypatch):
    readme = (ROOT / "README.md").read_text()
    block = re.search(r"```python\n(import fedgloss.*?)```", readme, re.DOTALL)[1]
    assert len(block.splitlines()) <= 15
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(9, 6, generator=generator), torch.randint(3, (9,), generator=generator))
        for _ in range(20)
    ]
    monkeypatch.setitem(sys.modules, "my_project", None)
    names = {
        "my_model": torch.nn.Sequential(torch.nn.Linear(6, 3)),
        "my_clients": data,
        "x_test": data[0][0],
        "y_test": data[0][1],
    }
    exec(block, names)
    assert isinstance(names["result"], fedgloss.Result)


def test_the_manual_lists_every_method_variant_and_hyperparameter():
    manual = (ROOT / "docs" / "methods.md").read_text()
    for name in METHODS:
        section = re.search(rf"^### `{name}`\n(.*?)(?=^##|\Z)", manual, re.DOTALL | re.MULTILINE)
        assert section, name
        for variant, values in variant_choices(name).items():
            for word in (variant, *values):
                assert f"`{word}`" in section[1], (name, word)
        for hyperparameter in fedgloss.algorithms.build_algorithm(name).hyperparameters:
            assert f"`{hyperparameter}`" in section[1], (name, hyperparameter)
