"""The `fedgloss` command: its help, its refusals, and every step from data to report."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cells import cell_settings, job_file, prepare_inputs
from fedgloss import __version__, cli
from fedgloss.cli import main
from fedgloss.files import read_json
from fedgloss.study.jobfile import KINDS, file_for, job_of, read_job, to_json
from fedgloss.study.layout import HERE
from fedgloss.study.ownership import check_owner, note_owner
from fedgloss.study.study import load_study
from refusal import refused

ROOT = Path(__file__).resolve().parents[2]
SMOKE = str(ROOT / "config" / "smoke.yaml")
SUBPARSERS = next(
    action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)
)
COMMANDS = SUBPARSERS.choices
EXPECTED = {
    *(
        "prepare",
        "partition",
        "train",
        "hessian",
        "locals",
        "landscape",
        "line",
        "table",
        "figure",
        "report",
    ),
    *("check", "cells", "job", "status"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare_inputs(tmp_path_factory.mktemp("inputs"))


def helped(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


def test_help_names_every_command(capsys):
    text = helped([], capsys)
    assert set(COMMANDS) >= EXPECTED
    for name in COMMANDS:
        assert f"\n  {name} " in text, f"{name} is missing in the overview"
    assert text.count("\n") < 60


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_explains_every_option(name, capsys):
    text = " ".join(helped([name], capsys).split())
    for action in COMMANDS[name]._actions:
        assert action.help, f"{name} {action.dest}: no help"
        for word in action.option_strings or [action.dest]:
            assert word in text
        assert " ".join((action.help % {"prog": "fedgloss"}).split()) in text


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fedgloss {__version__}\n"


STUDY_COMMANDS = {
    "check": [],
    "cells": [],
    "job": ["digits/alpha-0/smallcnn/fedavg/seed-0"],
    "status": [],
    "table": ["accuracy"],
    "figure": ["curves"],
    "report": [],
}


@pytest.mark.parametrize("command", STUDY_COMMANDS)
def test_commands_refuse_bad_studies(command, refuse, tmp_path):
    rest = STUDY_COMMANDS[command]
    refuse(command, "absent.yaml", *rest, words=["absent.yaml", "cannot be read"])
    text = Path(SMOKE).read_text(encoding="utf-8")
    (tmp_path / "bad.yaml").write_text(text.replace("rounds: 6", "rounds: -6"))
    refuse(command, "bad.yaml", *rest, words=["bad.yaml", "training.rounds", "-6", "at least 1"])
    (tmp_path / "tag.yaml").write_text("study: !!python/object/apply:os.mkdir [pwned]")
    refuse(command, "tag.yaml", *rest, words=["tag.yaml", "not valid YAML"])
    refuse(command, '{"study": 1', *rest, words=["not valid"])


@pytest.mark.parametrize(
    "arguments",
    [
        *(["table"], ["figure"], ["report"], ["status"], ["estimate"], ["collect"], ["compare"]),
        *(["promote", "fedavg", "1"], ["choose"]),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_misspelt_results_folder_is_no_empty_one(arguments, refuse):
    command, *rest = arguments
    rest += ["--of", "algorithm", "fedavg", "fedgloss"] * (command == "compare")
    words = ["nosuch: there is no such results folder"]
    refuse(command, SMOKE, *rest, "--results", "nosuch", words=words)


def test_what_may_be_left_out_may_also_stand_after_an_option():
    """A table's name, for one; and a job's file before an option that takes several files."""

    def read(*arguments):
        found = vars(cli._parser().parse_args(arguments))
        return {key: str(value) for key, value in found.items() if key != "run"}

    for command, names in (
        ("table", ["accuracy"]),
        ("figure", ["curves", "kept"]),
        ("estimate", ["table1"]),
        ("job", ["digits/alpha-0/smallcnn/fedavg/seed-0", "line"]),
        ("compare", ["other.yaml"]),
    ):
        expected = read(command, SMOKE, *names, "--results", "r")
        assert expected["results"] == "r"
        assert read(command, SMOKE, "--results", "r", *names) == expected
        assert read(command, "--results", "r", SMOKE, *names) == expected
        assert read(command, SMOKE, names[0], "--results", "r", *names[1:]) == expected
    paused = read("train", "a.json", "b.json", "--until", "2", "--paused", "a", "b")
    assert paused == read("train", "--paused", "a", "b", "--until", "2", "a.json", "b.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["trian"], ["'trian'", "train"]),
        (["check"], ["config", "fedgloss check --help"]),
        (["check", SMOKE, "more"], ["more"]),
        (["cells", "--no-such-option", SMOKE], ["--no-such-option"]),
        (["train"], ["job", "fedgloss train --help"]),
        (["job", SMOKE, "digits/alpha-0/smallcnn/fedavg/seed-7"], ["seed-7", "did you mean"]),
        (["table", SMOKE, "accuracies"], ["'accuracies'", "did you mean 'accuracy'"]),
        (["figure", SMOKE, "curve"], ["'curve'", "did you mean 'curves'"]),
        (["prepare", "mnist", "--out", "x"], ["mnist", "digits", "cifar10"]),
        (["prepare", "digits"], ["--out"]),
        (["prepare", "digits", "--out", "x", "--size", "0"], ["--size", "'0'", "at least 1"]),
        (["prepare", "cifar10", "--out", "x", "--images", "dirty"], ["dirty", "clean"]),
        (["prepare", "cifar10", "--out", "x", "--root", "absent"], ["absent"]),
    ],
    ids=lambda value: " ".join(Path(word).name for word in value) or "none",
)
def test_bad_arguments(arguments, words, refuse):
    refuse(*arguments, words=words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--data": "absent"}, ["absent", "manifest.json", "cannot be read"]),
        ({"--scheme": "dirichlett"}, ["dirichlett", "dirichlet"]),
        ({"--clients": "0"}, ["--clients", "'0'", "at least 1"]),
        ({"--clients": "many"}, ["--clients", "'many'", "an integer"]),
        ({"--clients": "5000"}, ["5000", "1400"]),
        ({"--alpha": "half"}, ["alpha", "half"]),
        ({"--alpha": "-1"}, ["alpha", "-1"]),
        ({"--seed": "-1"}, ["--seed", "'-1'", "at least 0"]),
        ({"--scheme": "file"}, ["file"]),
        ({"--scheme": "file", "--file": "absent.json"}, ["absent.json"]),
        ({"--scheme": "natural"}, ["natural"]),
    ],
    ids=str,
)
def test_bad_partitions(change, words, refuse, inputs):
    options = {"--data": inputs["data"], "--scheme": "dirichlet", "--clients": 50, "--alpha": "0"}
    options |= {"--out": "new/partition.json", **change}
    refuse("partition", *(word for pair in options.items() for word in pair), words=words)


GOOD = json.dumps(cell_settings())
NAMED_WEIGHTS = json.loads(GOOD.replace('"weights": null', '"weights": "5eed"'))


def changed(old, new):
    assert old in GOOD
    return {"settings": json.loads(GOOD.replace(old, new))}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": {}}, ["settings.dataset", "missing"]),
        ({"settings": [1]}, ["settings", "keys and values"]),
        ({"seting": 5}, ["seting", "unknown key", "settings"]),
        (changed('"rounds"', '"round"'), ["training.round", "'rounds'"]),
        (changed('"rounds": 12', '"rounds": "12"'), ["training.rounds"]),
        (changed('"rounds": 12', '"rounds": -1'), ["rounds", "-1"]),
        (changed('"last": 4', '"last": 13'), ["training.last", "13", "12"]),
        (changed('"alpha": "0"', '"alpha": "0.0"'), ["alpha", "'0.0'", '"0"']),
        (changed('"method": "fedgloss"', '"method": "fedglos"'), ["fedglos"]),
        (changed('"method": "fedgloss"', '"method": 5'), ["method", "5"]),
        (changed("smallcnn", "smalcnn"), ["smalcnn", "smallcnn"]),
        (changed('"rho"', '"roh"'), ["roh", "rho"]),
        (changed('"none"', '"flip"'), ["flip", "batch_aug"]),
        (changed('"weights": null', '"weights": 5'), ["weights", "5", "null"]),
        ({"data": "absent"}, ["absent", "cannot be read"]),
        ({"data": ""}, ["job.json", "data", "a path"]),
        ({"data": "a\0b"}, ["job.json", "data", "a path"]),
        ({"partition": "absent"}, ["absent", "cannot be read"]),
        ({"partition": 5}, ["job.json", "partition", "a path"]),
        ({"weights": "absent"}, ["absent", "settings.weights", "null"]),
        ({"settings": NAMED_WEIGHTS}, ["weights", "no file", "5eed"]),
        ({"settings": NAMED_WEIGHTS, "weights": "absent"}, ["absent", "cannot be read"]),
        ({"settings": NAMED_WEIGHTS, "weights": "file"}, ["file", "SHA-256", "5eed"]),
        ({"run": "file/below"}, ["file", "not a folder"]),
        ({"run": "file"}, ["file", "not a folder"]),
        ({"checkpoints": "file"}, ["file", "not a folder"]),
        ({"code": None}, ["job.json", "code", "text"]),
        ({"code": "of another day"}, ["job.json: code", "edited since the job was made"]),
    ],
    ids=str,
)
def test_bad_training_jobs(change, words, refuse, inputs, tmp_path):
    (tmp_path / "file").write_text("in the way")
    entries = {"settings": json.loads(GOOD), **inputs, "run": "out", **change}
    job_file(tmp_path / "job.json", **entries)
    refuse("train", "job.json", "--device", "cpu", words=words)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--device", "gpu"], ["gpu", "cpu", "cuda"]),
        (["--backend", "fast"], ["fast", "autograd", "stacked"]),
        (["--threads", "0"], ["--threads", "'0'", "at least 1"]),
        (["--checkpoint-rounds", "0"], ["--checkpoint-rounds", "'0'"]),
        (["--checkpoint-seconds", "nan"], ["--checkpoint-seconds", "'nan'"]),
    ],
    ids=str,
)
def test_bad_options_of_training(option, words, refuse, inputs, tmp_path):
    job_file(tmp_path / "job.json", settings=json.loads(GOOD), **inputs, run="out")
    refuse("train", "job.json", *option, words=words)


@pytest.mark.parametrize("text", ["[1]", "5", "null", '"text"', "{", ""])
@pytest.mark.parametrize("command", ["train", "hessian", "locals", "landscape", "line"])
def test_job_files_that_are_none(command, text, refuse, tmp_path):
    (tmp_path / "job.json").write_text(text)
    refuse(command, "job.json", words=["job.json"])
    refuse(command, "absent.json", words=["absent.json", "cannot be read"])


def test_a_cell_is_not_trained_beside_itself(refuse, inputs, tmp_path):
    job_file(tmp_path / "job.json", settings=json.loads(GOOD), **inputs, run="out")
    refuse("train", "job.json", "job.json", words=["job.json: run", "given twice"])


def test_cells_trained_together_have_one_data_set(refuse, inputs, tmp_path):
    for i, data in enumerate((inputs["data"], "elsewhere")):
        told = {**inputs, "data": data, "settings": json.loads(GOOD), "run": f"out{i}"}
        job_file(tmp_path / f"{i}.json", **told)
    refuse("train", "0.json", "1.json", words=["1.json: data", "elsewhere"])


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("hessian", {}, ["absent", "cannot be read"]),
        ("hessian", {"count": 0}, ["job.json", "count", "0", "at least 1"]),
        ("hessian", {"choices": ["papers"]}, ["choices", "papers", "official_code"]),
        ("hessian", {"method": "power"}, ["method", "'power'", "lanczos, pyhessian, eigsh"]),
        ("hessian", {"images": 0}, ["images", "0", "all, auto"]),
        ("hessian", {"density": {"starts": 3}}, ["density", "starts and steps"]),
        ("locals", {}, ["absent", "cannot be read"]),
        ("locals", {"count": 1}, ["count", "unknown key"]),
        ("hessian", {"models": []}, ["models", "average and final"]),
        ("hessian", {"models": ["average"] * 2}, ["models", "at most once"]),
        ("hessian", {"models": ["last"]}, ["models", "average and final"]),
        ("hessian", {"points": 3}, ["points", "unknown key"]),
        ("landscape", {}, ["absent", "cannot be read"]),
        ("landscape", {"points": 1}, ["points", "1", "at least 2"]),
        ("landscape", {"extent": 0}, ["extent", "0", "above 0"]),
        ("landscape", {"extent": 10**400}, ["extent", "above 0"]),
        ("landscape", {"seed": -1}, ["seed", "-1"]),
    ],
    ids=str,
)
def test_bad_analysis_jobs(kind, change, words, refuse, inputs, tmp_path):
    job_file(tmp_path / "job.json", kind, run="absent", **inputs, out="new/out", **change)
    refuse(kind, "job.json", words=words)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_file_is_read_back_as_it_was_written(kind, tmp_path):
    study = load_study(SMOKE)
    job = job_of(kind, study, study.cells[0], HERE)
    file = file_for(tmp_path, to_json(job))
    file.write_text(to_json(job))
    assert read_job(file, KINDS[kind]) == job
    assert file_for(tmp_path, to_json(replace(job, run=Path("other")))) != file


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("of", [HERE.run, HERE.metrics, HERE.hessian, lambda _, cell: cell])
def test_a_job_is_of_the_cell_whose_folder_or_file_is_named(of, absolute, capsys):
    cell = load_study(SMOKE).cells[1]
    named = of("smoke", cell)
    named = Path.cwd() / named if absolute and isinstance(named, Path) else named
    assert main(["job", SMOKE, str(named)]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == str(HERE.run("smoke", cell))


def test_every_step_by_hand(tmp_path, monkeypatch, capsys):
    """The commands of the workflow, in the order of the help text, on the smoke study."""
    monkeypatch.chdir(tmp_path)
    study = load_study(SMOKE)
    partition = "results/partitions/digits/alpha-0/partition.json"

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    assert run("check", SMOKE) == f"{SMOKE}: a valid study of 4 cells\n"
    cells = run("cells", SMOKE).split()
    assert cells == [str(cell) for cell in study.cells]
    assert "4 missing" in run("status", SMOKE)
    run("prepare", "digits", "--out", "results/data/digits")
    scheme = ["--scheme", "dirichlet", "--clients", "50", "--alpha", "0"]
    run("partition", "--data", "results/data/digits", "--out", partition, *scheme)
    for number, cell in enumerate(cells):
        told = run("job", SMOKE, cell)
        assert json.loads(told)["settings"] == study.settings(study.cell(cell)).to_json()
        Path("job.json").write_text(told)
        run("train", "job.json", "--device", "cpu")
        assert read_json(f"results/runs/smoke/{cell}/manifest.json")["code"]
        Path("job.json").write_text(run("job", SMOKE, cell, "hessian"))
        run("hessian", "job.json")
        assert read_json(f"results/analysis/smoke/{cell}/hessian.json")["lambda1"] > 0
        assert f"{number + 1} done" in run("status", SMOKE)
    told = json.loads(run("job", SMOKE, cell, "landscape"))
    Path("job.json").write_text(json.dumps({**told, "points": 3, "out": "landscape.csv"}))
    run("landscape", "job.json")
    assert len(Path("landscape.csv").read_text().splitlines()) == 10
    told = json.loads(run("job", SMOKE, cell, "line"))
    Path("job.json").write_text(json.dumps({**told, "points": 5, "out": "line.csv"}))
    run("line", "job.json")
    assert len(Path("line.csv").read_text().splitlines()) == 8
    said = run("table", SMOKE, "accuracy") + run("figure", SMOKE, "curves") + run("report", SMOKE)
    assert said == (
        "wrote results/tables/smoke/accuracy.{csv,md,tex}\n"
        "wrote results/figures/smoke/curves.{png,pdf}\n"
        "wrote results/report/smoke.html\n"
    )
    for made in ("tables/smoke/accuracy.md", "figures/smoke/curves.pdf", "report/smoke.html"):
        assert Path("results", made).stat().st_size > 100
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_all_tables_and_figures_are_made_where_none_is_named(tmp_path, capsys):
    """As for runs that were imported; the report says which figures it lacks."""
    place = ["--results", str(tmp_path)]
    assert main(["report", SMOKE, *place]) == 0
    said = f"1 figure is not drawn yet: fedgloss figure {SMOKE} curves --results {tmp_path}\n"
    assert capsys.readouterr().err == said
    for command in ("table", "figure", "report"):
        assert main([command, SMOKE, *place]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"wrote {tmp_path}/tables/smoke/accuracy.{{csv,md,tex}}",
        f"wrote {tmp_path}/figures/smoke/curves.{{png,pdf}}",
        f"wrote {tmp_path}/report/smoke.html",
    ]
    assert err == ""


# Two files with one study's name


OTHER = "study: mine\nseeds: [0]\ngrid:\n  - {dataset: digits, alphas: ['0'], model: smallcnn,"
OTHER += " algorithms: [%s]}\n"
LOOKING = {"status": [], "estimate": [], "report": [], "table": ["x"], "figure": ["x"]}


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two files with a study `mine`; the results are those of the first."""
    monkeypatch.chdir(tmp_path)
    for name, method in (("one", "fedavg"), ("two", "fedsam")):
        Path(f"{name}.yaml").write_text(OTHER % method)
    note_owner(load_study("one.yaml"))
    return tmp_path


@pytest.mark.parametrize("command", [*LOOKING, "check"])
def test_a_study_with_the_name_of_anothers_results_is_refused(command, two, refuse):
    rest = LOOKING.get(command, [])
    refuse(command, "two.yaml", *rest, words=["two.yaml: study: 'mine'", "one.yaml", "runs/mine"])


def test_it_may_take_the_place_of_one_that_is_gone_or_renamed(two):
    check_owner(load_study("one.yaml"))
    Path("one.yaml").write_text((OTHER % "fedavg").replace("mine", "first"))
    check_owner(load_study("two.yaml"))
    Path("one.yaml").unlink()
    check_owner(load_study("two.yaml"))
    Path("three.yaml").write_text(Path("two.yaml").read_text())
    note_owner(load_study("two.yaml"))
    check_owner(load_study("three.yaml"))  # the same study, word for word, does no harm


@pytest.fixture
def elsewhere(two, monkeypatch):
    """A project whose `one.yaml` is another study `mine`, in a folder beside the first."""
    folder = two / "elsewhere"
    folder.mkdir()
    (folder / "one.yaml").write_text(OTHER % "fedsam")
    monkeypatch.chdir(folder)
    return folder


def test_two_projects_with_one_results_folder_may_not_have_one_name_for_two_studies(two, elsewhere):
    (elsewhere / "results").symlink_to("../results")
    with refused("one.yaml: study: 'mine'", f"the study in {two}/one.yaml too"):
        check_owner(load_study("one.yaml"))
    (elsewhere / "one.yaml").write_text((two / "one.yaml").read_text())
    check_owner(load_study("one.yaml"))


def test_a_copy_of_a_project_and_one_that_was_moved_may_change_their_study(two, elsewhere):
    shutil.copytree(two / "results", elsewhere / "results")
    check_owner(load_study("one.yaml"))
    for name in ("one.yaml", "results"):  # as if the first project had been moved here
        shutil.move(two / name, two / f"gone-{name}")
    check_owner(load_study("one.yaml"))


@pytest.mark.parametrize("name", ["quickstart", "smoke", "paper"])
def test_the_names_of_the_projects_own_studies_are_taken(name, refuse, tmp_path):
    (tmp_path / "copy.yaml").write_text((OTHER % "fedavg").replace("mine", name))
    refuse("check", "copy.yaml", words=[f"copy.yaml: study: '{name}'", f"config/{name}.yaml"])


def test_a_copy_of_one_of_them_is_no_other_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("copy.yaml").write_text(Path(SMOKE).read_text())
    assert main(["check", "copy.yaml"]) == 0


def test_check_warns_of_what_can_hardly_be_meant(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text((OTHER % "fedgloss") + "training: {rounds: 20}\n")
    assert main(["check", "s.yaml"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "s.yaml: a valid study of 1 cells\n"
    assert shown.err.startswith("fedgloss: warning: s.yaml: ") and shown.err.count("\n") == 1
    assert "T_s: 20" in shown.err and "never leaves its warm-up" in shown.err


# The process itself


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "fedgloss", *arguments], capture_output=True, text=True, **options
    )


def test_the_installed_command_refuses_without_a_traceback(tmp_path):
    shown = command("check", "absent.yaml", cwd=tmp_path)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert (
        shown.stderr == "fedgloss: error: absent.yaml: cannot be read (No such file or directory)\n"
    )
    assert os.listdir(tmp_path) == []


def test_a_reader_that_leaves_early_is_no_error():
    """`fedgloss cells study.yaml | head -1`."""
    line = f"{sys.executable} -m fedgloss cells {ROOT}/config/quickstart.yaml | true; "
    shown = subprocess.run(
        ["bash", "-c", f"{line} exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [["cells", SMOKE], ["status", SMOKE], ["check", SMOKE], ["job", SMOKE, "@"], ["--help"]],
    ids=lambda arguments: arguments[0],
)
def test_looking_at_a_study_does_not_wait_for_torch(arguments):
    cell = "digits/alpha-0/smallcnn/fedgloss/seed-0"
    arguments = [cell if word == "@" else word for word in arguments]
    code = f"""
import sys
from fedgloss.cli import main
from fedgloss.files import sha256
from fedgloss.study.layout import RUN_FILES
try:
    main({arguments!r})
except SystemExit:
    pass
heavy = {{"torch", "torchvision", "pandas", "matplotlib", "sklearn", "scipy"}}
sys.exit(", ".join(heavy & {{*sys.modules}}) or 0)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr


def test_what_is_not_installed_is_named(tmp_path):
    """The package alone trains; what reads studies comes with an extra."""
    code = "import sys; sys.modules['yaml'] = None; from fedgloss.cli import main; "
    code += f"sys.exit(main(['check', {SMOKE!r}]))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 2 and shown.stderr.count("\n") == 1
    assert "needs the package yaml; pip install 'fedgloss[workflow]'" in shown.stderr


@pytest.mark.parametrize(("file", "code"), [(SMOKE, 0), ("no such file", 2)])
def test_the_program_ends_with_its_exit_code_and_leaves_nothing_unsaid(file, code):
    """It does not wait until Python has taken torch apart, but for what is to be done at exit."""
    program = "import atexit; atexit.register(print, 'the last word'); import sys; "
    program += f"sys.argv = ['fedgloss', 'cells', {file!r}]; from fedgloss.cli import main; "
    shown = subprocess.run(
        [sys.executable, "-c", program + "main(); print('not reached')"],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == code, shown.stderr
    *cells, last = shown.stdout.splitlines()
    assert last == "the last word" and len(cells) == (0 if code else 4)
    assert shown.stderr.count("\n") == (1 if code else 0)
