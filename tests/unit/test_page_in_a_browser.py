"""The page as a browser shows it: nothing cut, nothing asked for, usable by keyboard and by ear."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from browser import CHROMIUM, Browser, browser
from fedgloss.report import figures, html, tables
from fedgloss.report.writing import write
from toy_results import make_study, write_results

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed"),
    pytest.mark.slow,
]
WIDTHS = (400, 1400)
MANY = {"claims": {"kind": "claims"}}
LONG = "FedGloSS (printed dual step), gradients clipped at 10"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("results"))
    shown = {"tables": {**make_study().config["tables"], **MANY}, "note": "No evidence."}
    study = make_study(**shown, algorithms={"fedgloss": {"name": LONG}})
    for name in study.tables:
        write(tables.build(study, name, folder), folder / "tables" / "toy")
    for name in study.figures:
        figures.draw(study, name, folder, folder / "figures" / "toy" / name)
    html.write_report(study, folder, folder / "toy.html")
    return folder / "toy.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_or_asked_for_or_complained_of(
    width: int, page: Path, chromium: Browser
) -> None:
    chromium.requests.clear()
    chromium.open(page, width)
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
    cut = chromium.run(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.wide') &&"
        " e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert cut == []
    assert chromium.complaints == []
    assert chromium.requests == [page.as_uri()]


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_wider_than_the_page_says_so_and_scrolls_by_the_keyboard(
    width: int, page: Path, chromium: Browser
) -> None:
    chromium.open(page, width)
    boxes = chromium.run(
        "[...document.querySelectorAll('.wide')].filter(box => box.checkVisibility()).map(box => ["
        "box.scrollWidth > box.clientWidth + 1, !box.previousElementSibling.hidden,"
        " box.tabIndex === 0, Boolean(box.getAttribute('aria-label'))])"
    )
    assert all(len({*said}) == 1 for said in boxes), "it says so where it is, and only there"
    assert any(wide for wide, *_ in boxes) == (width == 400)


def test_on_a_phone_names_leave_room_for_numbers(page: Path, chromium: Browser) -> None:
    chromium.open(page, 400)
    rows = ".wide table:not(.text) tbody tr:not(.group)"
    shares = chromium.run(
        f"[...document.querySelectorAll('{rows}')].filter(row => row.checkVisibility())"
        ".map(row => row.cells[0].getBoundingClientRect().width / innerWidth)"
    )
    assert len(shares) > 10 and max(shares) < 0.5


TABLE = "document.getElementById('table-table3').parentElement.querySelector('table.data')"


def column(chromium: Browser, table: str, number: int) -> list[str]:
    """The texts of a column's cells, from above."""
    found: list[str] = chromium.run(
        f"[...{table}.querySelectorAll('tbody tr:not(.group)')].map(row => row.cells[{number}]"
        ".textContent.trim().replace(/\\s+/g, ' '))"
    )
    return found


def test_a_table_sorts_by_click_and_by_key_upwards_downwards_and_back(
    page: Path, chromium: Browser
) -> None:
    chromium.open(page, 1400)
    before = column(chromium, TABLE, 0)
    head = f"[...{TABLE}.tHead.rows].at(-1).cells[2]"
    said = f"{head}.getAttribute('aria-sort')"
    assert before == ["FedAvg", "SCAFFOLD", "FedDyn + SAM", LONG]
    assert chromium.run(said) == "none"
    chromium.run(f"{head}.querySelector('button').click()")
    assert chromium.run(said) == "ascending"
    assert column(chromium, TABLE, 0) == ["SCAFFOLD", "FedAvg", "FedDyn + SAM", LONG]
    chromium.run(f"{head}.querySelector('button').focus()")
    chromium.press("Enter", "\r")
    assert chromium.run(said) == "descending"
    assert column(chromium, TABLE, 0) == ["FedAvg", "SCAFFOLD", LONG, "FedDyn + SAM"]
    chromium.press(" ", " ")
    assert chromium.run(said) == "none" and column(chromium, TABLE, 0) == before


def test_what_has_no_number_is_last_either_way_and_groups_stay_together(
    page: Path, chromium: Browser
) -> None:
    chromium.open(page, 1400)
    head = f"[...{TABLE}.tHead.rows].at(-1).cells[5]"
    for _ in ("ascending", "descending"):
        chromium.run(f"{head}.querySelector('button').click()")
        assert column(chromium, TABLE, 0) == ["FedAvg", "SCAFFOLD", "FedDyn + SAM", LONG]
        groups = f"[...{TABLE}.querySelectorAll('tr.group')].map(row => row.textContent.trim())"
        assert chromium.run(groups) == ["Client SGD", "Client SAM"]


def test_claims_sort_by_their_words(page: Path, chromium: Browser) -> None:
    chromium.open(page, 1400)
    table = "document.querySelector('table.claims')"
    chromium.run(f"{table}.tHead.rows[0].cells[4].querySelector('button').click()")
    words = column(chromium, table, 4)
    assert words == sorted(words) and words[0] == "fails" and len(words) == 36


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("figure", "mark"), [("landscape", "canvas"), ("curves", ".legend")])
def test_curves_and_surfaces_come_alive_without_a_complaint(
    figure: str, mark: str, width: int, page: Path, chromium: Browser
) -> None:
    chromium.open(page, width)
    chromium.run(f"document.querySelector('#figure-{figure} details').open = true")
    drawn = f"document.querySelectorAll('#figure-{figure} details {mark}').length"
    look = f"const look = () => {drawn} ? done(1) : setTimeout(look, 50); look()"
    assert chromium.run(f"new Promise(done => {{ {look} }})") == 1
    assert chromium.complaints == []
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_can_be_heard(page: Path, chromium: Browser) -> None:
    """Its language, one title, headings without gaps, texts for pictures, heads of tables."""
    chromium.open(page, 1400)
    assert chromium.run("document.documentElement.lang") == "en"
    levels = chromium.run("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    assert chromium.run("[...document.images].every(image => image.alt.length > 20)")
    empty = "[...document.querySelectorAll('th')].filter(head => !head.textContent.trim()).length"
    assert chromium.run(empty) == 0
    assert chromium.run(
        "[...document.querySelectorAll('table.data tbody tr')].every(r =>"
        " r.cells[0].matches('th[scope]'))"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(
    scheme: str, page: Path, chromium: Browser
) -> None:
    """WCAG's contrast for text, 4.5 to 1, of each colour of the page."""
    chromium.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    chromium.open(page, 1400)
    names = ("page", "ink", "soft", "good", "near", "off")
    style = "getComputedStyle(document.documentElement).getPropertyValue('--{}')"
    values = {name: luminance(chromium.run(style.format(name))) for name in names}
    for name in names[1:]:
        high, low = sorted((values["page"], values[name]), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, name


def luminance(colour: str) -> float:
    """WCAG's relative luminance of #rrggbb."""
    parts = [int(part, 16) / 255 for part in re.findall("[0-9a-f]{2}", colour)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
