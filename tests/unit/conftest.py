"""What several of these files ask for by name."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from cells import job_file, tree
from fedgloss.cli import main
from fedgloss.study.study import load_study
from finished import PARTITION, STUDY
from studies import SMALL
from test_fingerprint import forget


@pytest.fixture
def study_file(tmp_path):
    """Write a study file; by default the one above with one piece of text replaced."""

    def write(old="", new="", text=SMALL):
        assert old in text
        path = tmp_path / "tiny.yaml"
        path.write_text(text.replace(old, new), encoding="utf-8")
        return path

    return write


@pytest.fixture
def my_package(tmp_path, monkeypatch):
    """A package of one's own with a model."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "nets.py").write_text("def small(shape, classes): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path / "my_package"
    forget()


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    """Run a command that must end with 2, one line on stderr, and nothing written anywhere."""
    monkeypatch.chdir(tmp_path)

    def refuse(*arguments, words=()):
        before = tree(tmp_path)
        code = main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        assert code == 2
        assert shown.out == ""
        assert shown.err.startswith("fedgloss: error: ")
        assert shown.err.count("\n") == 1 and shown.err.endswith("\n"), shown.err
        for word in words:
            assert str(word) in shown.err, shown.err
        assert tree(tmp_path) == before, "something was written"

    return refuse


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The study of finished.py: its file and, in `theirs`, its results.

    `ours` has the data and the partition alone.
    """
    folder = tmp_path_factory.mktemp("finished")
    file, theirs = folder / "study.yaml", folder / "theirs"
    file.write_text(STUDY, encoding="utf-8")
    study = load_study(file)

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 0

    run("prepare", "digits", "--out", theirs / "data/digits")
    inputs = {"data": theirs / "data/digits", "partition": theirs / PARTITION}
    scheme = ["--scheme", "dirichlet", "--clients", "50", "--alpha", "0"]
    run("partition", "--data", inputs["data"], "--out", inputs["partition"], *scheme)
    shutil.copytree(theirs, folder / "ours")
    for cell in study.cells:
        told = {
            "settings": study.settings(cell).to_json(),
            "run": theirs / "runs/shared" / str(cell),
        }
        code = study.code(cell.algorithm, cell.model)
        run("train", job_file(folder / "job.json", **told, **inputs, code=code), "--device", "cpu")
    return folder


@pytest.fixture
def place(finished, tmp_path):
    """A copy of it, free to be changed."""
    shutil.copytree(finished, tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture(scope="session")
def reported(shared_by_all: Path) -> Path:
    """The results of toy_results.py, with every table and figure: only to be read."""
    from fedgloss.report import figures, tables
    from fedgloss.report.writing import write
    from toy_results import make_study, write_results

    folder, study = shared_by_all / "reported", make_study()
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            write_results(folder)
            for name in study.tables:
                write(tables.build(study, name, folder), folder / "tables" / "toy")
            for name in study.figures:
                figures.draw(study, name, folder, folder / "figures" / "toy" / name)
            (folder / "done").touch()
    return folder
