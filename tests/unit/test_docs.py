"""The documentation: its links lead somewhere, and the API reference can be built."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedgloss
from fedgloss.study.study import load_study

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    file
    for folder in (".", "docs", "config", "examples", "examples/flower", "reproduction")
    for file in (ROOT / folder).glob("*.md")
)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_somewhere(page: str) -> None:
    for link in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


STUDIES = [page for page in PAGES if "\nstudy: " in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in STUDIES])
def test_a_study_on_a_page_is_one(page: str, tmp_path: Path) -> None:
    """Whole studies; their tables have all their methods where they name none."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.M | re.S)
    studies = [block for block in blocks if re.search(r"^study: ", block, re.M)]
    assert studies
    for text in studies:
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        study = load_study(tmp_path / "mine.yaml")
        labels = {cell.algorithm for cell in study.cells}
        assert all({*table.rows} == labels for table in study.tables.values())


def test_every_page_is_linked_from_the_first() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index


def test_the_reference_is_built_of_docstrings_alone(tmp_path) -> None:
    """Public names without one, and warnings, are errors."""
    command = [sys.executable, str(ROOT / "docs" / "reference.py"), str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    page = (tmp_path / "fedgloss.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in fedgloss.__all__)


def test_what_is_public_is_said_once() -> None:
    """The names for editors and type checkers are those that are found when running."""
    assert sorted(fedgloss._HOMES) == sorted(fedgloss.__all__)
    assert all(getattr(fedgloss, name) is not None for name in fedgloss.__all__)
    assert dir(fedgloss) == sorted(fedgloss.__all__)
