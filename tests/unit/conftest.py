"""What several of these files ask for by name."""

import pytest

from cells import tree
from fedgloss.cli import main
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
