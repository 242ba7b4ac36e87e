"""What is asked of Snakemake: refused in one line where it would end in a traceback."""

import json
import sys
from pathlib import Path

import pytest

from fedgloss.errors import InputError
from fedgloss.study import invocation
from refusal import refused
from studies import DIGITS, QUICKSTART, with_datasets


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("config/quickstart.yaml", "config/methods.yaml", "mine/study.yaml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("study: x")


def said(arguments, capsys):
    """The one line on standard error with which a command line ends, or None."""
    try:
        invocation.check_command_line(arguments)
    except SystemExit as ended:
        assert ended.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("fedgloss: error: ")
        return lines[0]
    assert capsys.readouterr().err == ""
    return None


FINE = [
    [],
    ["--configfile=mine/study.yaml"],
    ["--configfile", "mine/study.yaml"],
    ["--configfile", "mine/study.yaml", "config/quickstart.yaml", "--cores", "1"],
    ["--configfiles", "mine/study.yaml"],
    ["table_x", "--configfile", "mine/study.yaml"],
    ["--configfile", "mine/study.yaml", "--", "table_x"],
    ["--configfile", "mine/study.yaml", "-n", "table_x"],
    ["--configfile=mine/study.yaml", "table_x"],
    ["--config", "preset=paper", "seeds=[0]", "-n", "table_x"],
    ["-C", "title=a b", "--", "table_x"],
    ["--config", "training={rounds: 7, lr: 0.1}"],
    ["-Cpreset=paper", "table_x"],
    ["--config", "preset=paper", "--", "--config", "seeds=[0]"],
]


@pytest.mark.parametrize("arguments", FINE, ids=" ".join)
def test_what_can_be_meant_passes(arguments, capsys):
    assert said(arguments, capsys) is None


BAD = [
    (["--configfile", "mine/studdy.yaml"], ["studdy.yaml", "did you mean 'mine/study.yaml'"]),
    (["--configfile=mine/studdy.yaml"], ["studdy.yaml", "did you mean 'mine/study.yaml'"]),
    (["--configfile=config/quikstart.yaml"], ["'config/quickstart.yaml'", "allowed: config"]),
    (["--configfile=quickstart.yaml"], ["'quickstart.yaml'", "config/quickstart.yaml"]),
    (["--configfile=mine"], ["no file 'mine'"]),
    (["--configfile="], ["no file ''"]),
    (["--configfile", "mine/study.yaml", "table_x"], ["'table_x'", "second", "--configfile=FILE"]),
    (["--configfile", "mine/study.yaml", "only_x", "-n"], ["'only_x'", "--configfile=FILE"]),
    (["-n", "--configfiles", "mine/study.yaml", "b"], ["'b'", "--configfile=FILE"]),
    (["--config", "preset=paper", "table_x"], ["'table_x'", "targets go before"]),
    (["--config", "training.rounds=7"], ["'training.rounds=7'", "training={rounds: 60}"]),
    (["-C", "a=1"], ["'a=1'"]),  # Snakemake wants two letters
    (["--config=seeds"], ["'seeds'"]),
    (["-nCseeds"], ["'seeds'"]),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=lambda value: " ".join(value))
def test_what_cannot_be_meant_is_one_line(arguments, words, capsys):
    line = said(arguments, capsys)
    for word in words:
        assert word in line
    assert "methods.yaml" not in line


TWICE = [
    ["--config", "study=try", "--config", "seeds=[0]"],
    ["--config", "study=try", "-n", "--config=seeds=[0]"],
    ["-C", "study=try", "-kC", "seeds=[0]"],
    ["-Cstudy=try", "--config", "seeds=[0]"],
    ["-C=study=try", "all", "-nCseeds=[0]"],
]


@pytest.mark.parametrize("arguments", TWICE, ids=" ".join)
def test_values_given_in_two_options_are_refused(arguments, capsys):
    """Snakemake forgets the first: the results of the study itself would be replaced."""
    line = said(arguments, capsys) or ""
    assert "--config: is given 2 times" in line
    assert line.endswith("give it once: --config study=try 'seeds=[0]'")


def test_study_files_given_in_two_options_are_refused(capsys):
    files = ["mine/study.yaml", "config/quickstart.yaml"]
    for first, second in (("--configfile=", "--configfile="), ("--configfiles=", "--configf=")):
        line = said([f"{first}{files[0]}", f"{second}{files[1]}"], capsys) or ""
        assert "--configfile: is given 2 times" in line
        assert line.endswith(f"give it once: --configfile {files[0]} {files[1]}")


NO_YAML = {
    "a tab": b"study: x\n\tseeds: [0]\n",
    "Latin-1": "study: é\n".encode("latin-1"),
    "nothing": b"",
    "two documents": b"study: x\n---\nstudy: y\n",
    "NUL": b"study: x\0\n",
    "a list": b"- study: x\n",
    "a tag": b"study: !!python/name:os.system\n",
    "a key twice": b"study: x\nstudy: y\n",
}


@pytest.mark.parametrize("content", NO_YAML.values(), ids=NO_YAML)
def test_a_file_that_is_no_mapping_in_yaml_is_named(content, capsys):
    """Each of several: Snakemake puts them into one without a word on a key given twice."""
    Path("mine/bad.yaml").write_bytes(content)
    for files in (["mine/bad.yaml"], ["config/quickstart.yaml", "mine/bad.yaml"]):
        assert "error: mine/bad.yaml: " in (said(["--configfile", *files], capsys) or "")


def test_values_of_the_command_line_are_those_of_a_study_file():
    entries = ["seeds=[0, 1]", "training={rounds: 7, lr: 1e-4}", "title=a = b", "precision=tf32"]
    assert invocation.config_values(entries) == {
        "seeds": [0, 1],
        "training": {"rounds": 7, "lr": "1e-4"},  # which a study file refuses, too
        "title": "a = b",
        "precision": "tf32",
    }


def test_text_stays_text_where_it_is_quoted():
    assert invocation.config_values(["alphas=['0', \"0.5\"]"]) == {"alphas": ["0", "0.5"]}


@pytest.mark.parametrize("text", ["[0", "It's: [half", "!!python/name:os.system", "[" * 3000])
def test_a_value_that_is_no_yaml_is_text(text):
    assert invocation.config_values([f"title={text}"]) == {"title": text}


def test_values_go_below_what_is_there():
    study = {"seeds": [0, 1], "training": {"rounds": 6, "last": 2}}
    changes = {"seeds": [5], "training": {"rounds": 7}, "hessian": {"count": 1}}
    assert invocation.merge(study, changes) == {
        "seeds": [5],
        "training": {"rounds": 7, "last": 2},
        "hessian": {"count": 1},
    }
    assert study["training"] == {"rounds": 6, "last": 2}


def test_a_misspelt_key_of_the_command_line_is_said_of_it():
    allowed = ["seeds", "training", "only", "together"]
    invocation.check_keys({"only": "x", "seeds": []}, allowed)
    with refused("--config: onyl: unknown key (did you mean 'only'?)", "allowed: seeds, training"):
        invocation.check_keys({"onyl": "digits"}, allowed)


def test_what_the_command_line_makes_wrong_is_said_of_it(tmp_path):
    (tmp_path / "s.yaml").write_text(json.dumps(QUICKSTART))
    error = InputError("s.yaml: training.roundz: unknown key")
    assert str(invocation.of_values(error, "s.yaml")) == "--config: training.roundz: unknown key"
    (tmp_path / "s.yaml").write_text(json.dumps({**QUICKSTART, "training": {"roundz": 7}}))
    assert invocation.of_values(error, "s.yaml") is error


@pytest.mark.parametrize("file", ["runs/paper/a/b/c", "tables/paper/x.md", "report/paper.html"])
def test_a_result_of_another_study_is_refused_with_its_file(file):
    study = with_datasets(digits=DIGITS)
    invocation.check_study_of(f"results/{file}".replace("paper", "s"), study)
    invocation.check_study_of("results/data/paper/x", study)
    with refused(f"'results/{file}' is of the study 'paper'", "the file of that one"):
        invocation.check_study_of(f"results/{file}", study)
    Path("config/quickstart.yaml").write_text("study: paper")
    with refused("s.yaml is 's'; needs --configfile=config/quickstart.yaml"):
        invocation.check_study_of(f"results/{file}", study)


KNOWN = ["all", "table_accuracy", "only_fedavg", "only_fedgloss"]
LONG = ["only_fedavg", "only_fedsam", "only_fedgloss-printed", "only_fedgloss-released"]


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("only_fedsam", "allowed: all, table_accuracy, only_fedavg, only_fedgloss"),
        ("only_fedglos", "did you mean 'only_fedgloss'"),
        ("tabel_accuracy", "did you mean 'table_accuracy'"),
        ("accuracy", "table_accuracy"),
        ("results/tables/smoke/x.md", "allowed"),
    ],
)
def test_a_target_that_no_rule_makes_is_refused_with_those_there_are(target, word):
    with refused(repr(target), word):
        invocation.check_target(target, False, KNOWN)


@pytest.mark.parametrize("target", ["only_fedglos", "only_fedglss", "only_fedgloss-prnted"])
def test_a_name_that_was_cut_short_is_nearer_than_one_of_its_length(target):
    with refused("did you mean 'only_fedgloss-printed'"):
        invocation.check_target(target, False, LONG)


def test_targets_that_are_there_pass():
    invocation.check_target("only_fedavg", False, KNOWN)
    invocation.check_target("results/tables/smoke/accuracy.md", True, KNOWN)
    invocation.check_target("mine/study.yaml", False, KNOWN)


def test_it_is_read_without_what_takes_long():
    """profiles/default has it called in every run of Snakemake, and in every job on a cluster."""
    import subprocess

    code = "import sys, fedgloss.study.invocation; "
    code += "print([*{'torch', 'numpy', 'yaml'} & {*sys.modules}])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout.strip() == "[]", shown.stderr


def test_of_many_targets_the_nearest_are_named_and_the_rest_counted():
    known = [f"table_{i}" for i in range(500)] + ["only_fedavg"]
    with refused("did you mean 'only_fedavg'", "allowed: only_fedavg, ", "and 477 more"):
        invocation.check_target("only_fedvag", False, known)


def test_a_part_of_a_study_is_named_by_the_folders_its_cells_lie_in():
    study = with_datasets(alphas=("0", "0.5"), digits=DIGITS, digits2=DIGITS)
    paths = [str(cell) for cell in study.cells]
    for part, found in (("", paths), ("digits", paths), ("digits/alpha-0", paths[:1])):
        assert [str(cell) for cell in invocation.cells_below(study, part)] == found
    with refused("s.yaml", "'digit/alpha-0' is no", "did you mean 'digits/alpha-0'"):
        invocation.cells_below(study, "digit/alpha-0")


def test_a_part_that_is_none_is_said_of_the_command_line():
    study = with_datasets(digits=DIGITS)
    assert invocation.part_of(study, "") == [*study.cells]
    with refused("--config: only: 'digit' is no beginning of a cell's path", "mean 'digits'"):
        invocation.part_of(study, "digit")
    for value in (None, ["digits"], {"digits": 0}):  # only= has nothing behind it
        with refused("--config: only: must be how cells' paths begin, such as only=digits/alpha-0"):
            invocation.part_of(study, value)
