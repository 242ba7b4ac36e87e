"""Hostile text in tables, on the report's page and on the terminal stays text."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from fedgloss.report.latex import to_latex
from fedgloss.report.tables import build
from fedgloss.study.study import load_study
from reliability.hostile import as_json, fedgloss
from reliability.toy import STUDY

pytestmark = pytest.mark.usefixtures("nothing_is_run")


# Text in tables and on the page

NASTY = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> {{ 7773*7771 }} `<b>` &amp; {x}"
TEX = r"] \input{/etc/passwd} \write18{touch pwned} % & # $x$ _ ^ ~ } { \end{table} | < > `a\b`"


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.words.append(data)


def nasty_study():
    study = json.loads(json.dumps(STUDY))
    study |= {"title": NASTY, "note": NASTY}
    for entry in (*study["tables"].values(), *study["figures"].values()):
        entry["title"] = NASTY
    return study


def nasty_manifests(project):
    for file in (project / "results/runs").rglob("manifest.json"):
        manifest = json.loads(file.read_text())
        manifest |= dict.fromkeys(("device", "backend", "precision", "code"), NASTY)
        manifest["versions"] = manifest["inputs"] = {NASTY: NASTY}
        manifest["settings"]["variants"] = {NASTY: NASTY}
        manifest["settings"]["algorithm"] = manifest["settings"]["method"] = NASTY
        manifest["settings"]["hyperparameters"] = {NASTY: 1}
        file.write_text(json.dumps(manifest))


def test_nothing_breaks_out_of_the_page(project):
    """The page of hostile text has the same tags and attributes as the page of plain text."""

    def page():
        assert fedgloss("figure", "study.yaml", "curves") == (0, [])
        code, lines = fedgloss("report", "study.yaml")  # which says that the others are not drawn
        assert (code, len(lines)) == (0, 1)
        return Tags((project / "results/report/toy.html").read_text(encoding="utf-8"))

    plain = page()
    (project / "study.yaml").write_bytes(as_json(nasty_study()))
    nasty_manifests(project)
    nasty = page()
    assert {*nasty.tags} <= {*plain.tags, "code"} and {*nasty.attributes} <= {*plain.attributes}
    assert nasty.tags.count("img") == plain.tags.count("img")
    # Plotly, what it is to draw, and the page's own; of outdated runs there is nothing to draw.
    assert (plain.tags.count("script"), nasty.tags.count("script")) == (3, 1)
    assert str(7773 * 7771) not in " ".join(nasty.words) and NASTY in "".join(nasty.words)


def hostile_table(project, title):
    study = json.loads(json.dumps(STUDY))
    study["tables"]["numbers"]["title"] = title
    return build(load_study(json.dumps(study)), "numbers", project / "results")


def test_nothing_breaks_out_of_a_latex_table(project):
    text = to_latex(hostile_table(project, f"{TEX}\n\n{TEX}"))
    plain = to_latex(hostile_table(project, "x"))
    for command in (r"\input", r"\write", r"\end"):
        assert len(re.findall(rf"(?<!\\)\{command}\b", text)) == plain.count(command)
    assert "\n\n" not in text and text.count("\n") == plain.count("\n")
    assert not re.search(r"(?<!\\)%.*input", text)
    # A bracket in the title must not end the short title.
    assert r"\caption[{A [b] c}]{A [b] c. " in to_latex(hostile_table(project, "A [b]\n c"))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_hostile_table_compiles_and_runs_nothing(project):
    table = to_latex(hostile_table(project, f"{TEX} A [b] c"))
    (project / "main.tex").write_text(
        "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\n"
        f"\\begin{{document}}\\listoftables\n{table}\\end{{document}}\n",
        encoding="utf-8",
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    for _ in range(2):  # the second time with the list of tables that the first has written
        shown = subprocess.run(command, cwd=project, capture_output=True, timeout=120)
        assert shown.returncode == 0, shown.stdout[-2000:]


def test_a_csv_table_reads_back_what_was_written(project):
    for text in ("a,b", 'a"b', "x" * 300):
        table = hostile_table(project, text)
        from fedgloss.report.formats import to_csv

        rows = [*csv.DictReader(io.StringIO(to_csv(table)))]
        assert {row["table"] for row in rows} == {"numbers"}


def test_no_terminal_command_reaches_the_terminal(tmp_path):
    for name in ("a\x1b]0;title\x07b", "a\nfedgloss: error: not this", "a\r\x1b[2K", "\u202eb"):
        for command in (["check", tmp_path / name], ["train", name]):
            code, lines = fedgloss(*command)
            assert code == 2 and len(lines) == 1 and lines[0].isprintable(), lines


def test_a_process_of_its_own_shows_no_traceback(tmp_path):
    """The same through a real process, where nothing is captured on the way."""
    (tmp_path / "a\nb.yaml").write_text("study: !!python/object/apply:os.system [touch pwned]\n")
    command = [sys.executable, "-m", "fedgloss", "check", "a\nb.yaml"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (2, "", 1)
