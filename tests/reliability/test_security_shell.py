"""No value of a configuration, no name and no path becomes a command, through Snakemake too."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from fedgloss.data.dataset import load
from fedgloss.data.partition.partition import load_partition
from fedgloss.jobs.landscape import landscape
from fedgloss.models import build_model
from fedgloss.study.jobfile import LandscapeJob
from fedgloss.tensors import save_tensors
from reliability.test_security_text import NASTY, TEX, Tags
from reliability.toy import CELL, TRAINING, picture
from workflow.project import copy_project, snakemake

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("nothing_is_run")


# The shell

RULES = {
    file.name: file.read_text() for file in sorted((ROOT / "workflow" / "rules").glob("*.smk"))
}
COMMANDS = {
    name: command
    for text in RULES.values()
    for name, command in re.findall(r'^([A-Z]+) = (\(\n(?: +".*"\n)+\)|".*")$', text, flags=re.M)
}
"""Those that several rules share, by name."""
PLAIN = {"threads"}  # numbers that Snakemake itself gives


def test_every_value_in_a_shell_command_is_quoted():
    """`:q` quotes for the shell; the values of a configuration reach commands in no other way."""
    found = 0
    for name, text in RULES.items():
        assert not re.search(r"^    (run|script|notebook|wrapper):", text, flags=re.M), name
        literal = re.findall(r'^ +shell:\n((?: +".*"\n?)+)', text, flags=re.M)
        named = re.findall(r"^ +shell:\n +([A-Z]+)\n", text, flags=re.M)
        assert text.count("shell:") == len(literal) + len(named), name
        for block in [*literal, *(COMMANDS[command] for command in named)]:
            for value in re.findall(r"\{([^{}]+)\}", block):
                found += 1
                assert value.endswith(":q") or value in PLAIN, f"{name}: {value}"
    assert found > 20
    for text in (*RULES.values(), (ROOT / "Snakefile").read_text()):
        assert not re.search(r"\b(shell|os\.system|subprocess|eval|exec)\(", text)


EVIL = "-r {x} {{y}} '\"$(touch pwned1) `touch pwned2`;touch pwned3 & \n|<b>\\"
# In the path of an input file Snakemake itself reads {x} and <b>; the schema refuses these.
EVIL_FILES = EVIL.translate(str.maketrans(dict.fromkeys("{}<>", "")))
# Without a space: with one, even a value that begins with a dash is none of the options' names.
EVIL_SPLIT = "-split;$(touch$IFS$()pwned0);.json"
EVIL_CLASSES = ("$(touch pwned4)", "<b>`touch pwned5`", r"$\frac$ & \input{x}; touch pwned6")
EVIL_FOLDER = "con fig {s} '\"$(touch pwned7)"
EVIL_TITLE = "T {x} {table} {0} $(touch pwned8) `touch pwned9` '; touch pwned10 #" + NASTY + TEX
CONDITION = {"dataset": "evil", "alpha": "0", "model": "warm"}


def evil_study():
    shown = {"columns": [CONDITION], "rows": ["fedavg"], "title": EVIL_TITLE}
    return {
        "study": "hostile",
        "title": EVIL_TITLE,
        "note": EVIL_TITLE,
        "seeds": [0],
        "training": TRAINING,
        "models": {"warm": {"model": "smallcnn", "weights": f"{EVIL_FILES}/-w.safetensors"}},
        "datasets": {
            "evil": {
                "source": "folder",
                "root": EVIL,
                "size": 8,
                "partition": {
                    "scheme": "file", "clients": 3, "seed": 0, "file": EVIL_SPLIT,
                },
            }
        },
        "grid": [{"dataset": "evil", "alphas": ["0"], "model": "warm", "algorithms": ["fedavg"]}],
        "hessian": {"count": 1, "models": ["average"]},
        "landscape": {"points": 3},
        "tables": {"t": {"kind": "methods", "show": ["accuracy", "lambda1"], **shown}},
        "figures": {"f": {"kind": "landscape", "seed": 0, **shown}},
    }  # fmt: skip


@pytest.mark.slow
def test_hostile_values_build_a_study_and_run_nothing(tmp_path):
    """Folders, classes, weights, splits, titles and the study's own path, full of signs."""
    project = copy_project(tmp_path / "project")
    for number in range(18):
        part = "train" if number < 12 else "test"
        picture(project / EVIL / part / EVIL_CLASSES[number % 3] / f"{number}.png", number)
    save_tensors(
        project / EVIL_FILES / "-w.safetensors",
        dict(build_model("smallcnn", (3, 8, 8), 3).named_parameters()),
    )
    clients = [[*range(i, 12, 3)] for i in range(3)]
    (project / EVIL_SPLIT).write_text(json.dumps({"clients": clients}))
    (project / EVIL_FOLDER).mkdir()
    file = project / EVIL_FOLDER / "st udy.yaml"
    file.write_text(yaml.safe_dump(evil_study()), encoding="utf-8")
    made = project / "results"
    shown = snakemake(project, "--configfile", str(file.relative_to(project)))
    assert shown.returncode == 0, shown.stderr[-3000:]
    names = ["report/hostile.html", "tables/hostile/t.tex", "figures/hostile/f.png"]
    assert all((made / name).is_file() for name in names)
    page = Tags((made / "report/hostile.html").read_text(encoding="utf-8"))
    # The surfaces as data, plotly, and what draws them with it.
    assert page.tags.count("script") == 3 and "onerror" not in page.attributes
    (prepared,) = made.glob("data/evil+*/manifest.json")
    assert json.loads(prepared.read_text())["classes"] == sorted(EVIL_CLASSES)
    # Changed on the command line, the whole study travels in the commands.
    again = f"title={EVIL_TITLE} again"
    shown = snakemake(project, "--configfile", str(file.relative_to(project)), "--config", again)
    assert shown.returncode == 0, shown.stderr[-3000:]
    assert "again" in (made / "report/hostile.html").read_text(encoding="utf-8")
    assert not [*tmp_path.rglob("pwned*")]


# Refusals through Snakemake

SMOKE = ROOT / "config" / "smoke.yaml"
TEXT = SMOKE.read_text(encoding="utf-8")
BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)
REFUSED = {
    "an unknown key": (["--config", "sedes=[1]"], None, "sedes"),
    "text for a list": (["--config", "seeds=five"], None, "seeds"),
    "a number for text": (["--config", "study=5"], None, "study"),
    "a path for a name": (["--config", "study=../x"], None, "study"),
    "a command for a name": (["--config", "study=$(touch pwned)"], None, "study"),
    "nothing for a grid": (["--config", "grid=[]"], None, "grid"),
    "text for a number": (["--config", "hessian={count: $(touch pwned)}"], None, "hessian.count"),
    "a bomb": ([], BOMB, "100,000"),
    "a key twice": ([], TEXT + "study: again\n", "twice"),
    "an unknown data set": ([], TEXT.replace("digits", "../x"), "../x"),
    "no YAML": ([], "study: [", None),
    "an object": ([], TEXT + "note: !!python/object/apply:os.system [touch pwned]\n", None),
    "no mapping": ([], "- a\n- b\n", None),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("untouched") / "project")


FEW = ("a command for a name", "an object")


@pytest.mark.parametrize(
    "case", [pytest.param(k, marks=() if k in FEW else pytest.mark.slow) for k in REFUSED]
)
def test_snakemake_refuses_before_any_job(case, untouched):
    """Where Snakemake reads the file before us (word None), its own message must do."""
    arguments, text, word = REFUSED[case]
    file = untouched / "config" / "case.yaml"
    file.write_text(TEXT if text is None else text)
    shown = snakemake(untouched, "--configfile", "config/case.yaml", *arguments, timeout=120)
    assert shown.returncode != 0 and "Traceback" not in shown.stderr, shown.stderr[-2000:]
    if word:
        lines = [line for line in shown.stderr.splitlines() if line.startswith("fedgloss: error:")]
        assert shown.returncode == 2 and len(lines) == 1 and word in lines[0], shown.stderr
    assert not (untouched / "results").exists() and not [*untouched.rglob("pwned*")]
    assert "rule " not in shown.stderr


def test_library_functions_take_paths_as_they_are(project):
    """Names with signs of the shell are names, for files that are read and written."""
    odd = project / EVIL.strip().replace("\n", " ")
    odd.mkdir()
    shutil.copytree(project / "data", odd / "data")
    shutil.copy(project / "partition.json", odd / "p.json")
    load_partition(odd / "p.json", load(odd / "data"))
    run = project / "results/runs/toy" / CELL
    where = {"run": run, "data": odd / "data", "partition": odd / "p.json"}
    around = {"model": "average", "on": "all", "images": "auto", "code": "code"}
    landscape(LandscapeJob(**where, **around, out=odd / "l.csv", points=2, extent=1.0, seed=0))
    assert (odd / "l.csv").is_file()
