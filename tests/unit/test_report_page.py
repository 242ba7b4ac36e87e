"""The HTML page: complete, self-contained, escaped, and never at odds with the tables' files."""

import base64
import json
import re
import shutil
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects
import pytest

from fedgloss.errors import InputError
from fedgloss.files import write_json
from fedgloss.report import html, names, rerun, tables
from fedgloss.report.writing import write
from fedgloss.study.layout import Layout
from toy_results import SEEDS, cell, make_study, write_cell, write_results

CELL_42 = "cifar10/alpha-0/cnn/fedavg/seed-42"


class Page(HTMLParser):
    """Collects what a page would fetch, its text, and whether its tags close."""

    VOID = ("meta", "img", "br", "link", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


@pytest.fixture(scope="module")
def folder(reported: Path) -> Path:
    return reported


def page(folder: Path, out: Path, **config: object) -> str:
    html.write_report(make_study(**config), folder, out / "toy.html")
    return (out / "toy.html").read_text(encoding="utf-8")


def test_the_page_asks_nothing_of_the_network(folder: Path, tmp_path: Path) -> None:
    text = page(folder, tmp_path)
    seen = Page(text)
    assert not seen.open
    assert all(a.startswith(("#", "data:image/png;base64,")) for a in seen.addresses)
    assert sum(a.startswith("data:") for a in seen.addresses) == len(make_study().figures)
    assert not seen.tags & {"link", "iframe", "object"}
    assert "default-src 'none'" in text and text.index("default-src") < text.index("<style>")


def test_curves_and_surfaces_alone_bring_plotly_and_all_scripts_are_named_by_their_hash(
    folder: Path, tmp_path: Path
) -> None:
    text = page(folder, tmp_path)
    assert text.count("plotly.js v") == 1 and text.count("Plotly.newPlot(") == 1
    assert text.count('<script type="application/json">') == 2
    without = page(folder, tmp_path, figures={"sharpness": {"kind": "eigenvalues"}})
    assert "plotly" not in without and "unsafe-eval" not in without
    for shown, count in ((text, 2), (without, 1)):
        scripts = re.findall(r"<script>(.*?)</script>", shown, re.DOTALL)
        hashes = [base64.b64encode(sha256(script.encode()).digest()) for script in scripts]
        (policy,) = re.findall(r"script-src ([^;\"]*)", shown)
        said = [word for word in policy.split() if word != "'unsafe-eval'"]
        assert said == [f"'sha256-{one.decode()}'" for one in hashes] and len(said) == count
    assert not re.search(r"https?://|@import|url\(", without)


def test_surfaces_can_be_turned_around_and_their_text_cannot_end_the_script(
    folder: Path, tmp_path: Path
) -> None:
    hostile = "</script><script>alert(1)</script>"
    shown = {"landscape": make_study().config["figures"]["landscape"]}
    fedavg = {"fedavg": {"name": hostile}}
    text = page(folder, tmp_path, algorithms=fedavg, tables={}, figures=shown)
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    assert "<" not in found
    drawn = json.loads(found)
    plotly.graph_objects.Figure(data=drawn["data"], layout=drawn["layout"])  # knows every key
    solid, net = drawn["data"]
    assert (solid["type"], solid["name"]) == ("surface", hostile)
    assert (net["type"], net["name"]) == ("scatter3d", "FedGloSS")
    loss = 0.1 + 20 * (np.linspace(-1, 1, 7)[:, None] ** 2 + np.linspace(-1, 1, 7) ** 2) / 2
    np.testing.assert_allclose(solid["z"], np.log1p(loss), rtol=1e-3)


def test_the_values_of_curves_can_be_read(folder: Path, tmp_path: Path) -> None:
    """The means over the seeds, of each panel, with their spread; one name for a method in all."""
    text = page(folder, tmp_path, tables={}, figures={"curves": {"kind": "curves"}})
    (found,) = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    drawn = json.loads(found)
    plotly.graph_objects.Figure(data=drawn["data"], layout=drawn["layout"])
    assert [(trace["name"], trace["yaxis"], trace["showlegend"]) for trace in drawn["data"]] == [
        ("FedAvg", "y", True),
        ("SCAFFOLD (n=2, × 1/3)", "y", True),
        ("FedDyn + SAM", "y", True),
        ("FedGloSS (n=2/3)", "y", True),
        ("FedAvg", "y2", False),
    ]
    first = drawn["data"][0]
    assert (first["x"][-1], first["y"][-1], first["text"][-1]) == (10000, 60.33, "60.33 ± 1.5")
    assert first["line"]["dash"] == "dash", "client SGD"


def test_the_page_shows_everything(folder: Path, tmp_path: Path) -> None:
    text = Page(page(folder, tmp_path, note="No evidence.")).text
    for part in (
        "A study",
        "No evidence.",
        "18 of 24 runs are done, 5 of them diverged.",
        "60.3 ± 1.5 n=3",
        "25.5 ± 0.7 n=2, × 1/3",
        "≠ diverged here only",
        "Verdict on ours against the paper's.",
        "completed (13)",
        "diverged (5)",
        "missing (6)",
        "rho = 0.15",
        "average = weighted",
        "clients_per_round = 5",
        "2.6.0",
        make_study().code("fedavg", "cnn")[:12],
        "da7a" * 16,
        "float32, TF32 off",
        "snakemake --cores 1 --configfile=config/toy.yaml --force results/tables/toy/table3.md",
        "snakemake --cores all --configfile=config/toy.yaml brings",
        "results/runs/toy/cifar10/alpha-0/cnn/fedgloss/seed-{0,42,200299}/metrics.csv",
    ):
        assert part in text, part


def test_the_page_adds_up_the_verdicts_and_names_what_differs_most(
    folder: Path, tmp_path: Path
) -> None:
    text = " ".join(filter(None, map(str.strip, Page(page(folder, tmp_path)).words)))
    outcomes = "agrees close uncertain above below diverged or not reached in one no verdict"
    assert f"Table {outcomes} Accuracy (18 of 24 runs) 4 1 1 2" in text
    assert f"Method {outcomes} FedAvg 3 SCAFFOLD 1 2 FedDyn + SAM 1 1 1 FedGloSS 4" in text
    assert "FedDyn + SAM CIFAR-10, α = 0 rounds 8,000 ± 0 3,000 above" in text
    digits = {"source": "digits", "partition": {"scheme": "iid", "clients": 5}}
    own = make_study(datasets={"cifar10": digits, "cifar100": digits})
    html.write_report(own, tmp_path, tmp_path / "own.html")  # of which the paper has nothing
    assert "Against the paper" not in (tmp_path / "own.html").read_text(encoding="utf-8")


def test_the_page_says_what_has_no_verdict_and_why(folder: Path, tmp_path: Path) -> None:
    text = " ".join(filter(None, map(str.strip, Page(page(folder, tmp_path)).words)))
    text = text.replace("\u00a0", " ")
    (part,) = re.findall(r"4 numbers without a verdict, and why (.*?) Tables ", text)
    assert part == (
        "Method Column What Why"
        " FedGloSS CIFAR-10, α = 0 accuracy (%) incomplete 2/3"
        " FedGloSS CIFAR-100, α = 0 accuracy (%) not run"
        " FedGloSS CIFAR-10, α = 0 λ₁ incomplete 2/3"
        " FedGloSS CIFAR-10, α = 0 rounds incomplete 2/3"
    )


def test_the_page_says_at_its_top_what_became_of_the_claims(folder: Path, tmp_path: Path) -> None:
    text = page(folder, tmp_path, tables={"claims": {"kind": "claims"}}, figures={})
    top, _, _ = text.partition("<nav>")
    assert re.search(
        r"<li>Here, of 36 claims: 28 not run, 5 seeds missing, 2 open and 1 not computed\.</li>",
        top,
    )
    assert '<a href="#table-claims">Claims</a>' in text


def test_every_run_has_its_numbers_and_the_hashes_of_code_and_metrics(
    folder: Path, tmp_path: Path
) -> None:
    text = page(folder, tmp_path)
    (row,) = re.findall(r"<tr><td>cifar10/alpha-0/cnn/fedavg/seed-42</td>.*?</tr>", text)
    metrics = sha256((folder / f"runs/toy/{CELL_42}/metrics.csv").read_bytes()).hexdigest()
    cells = re.findall(r"<td>(?:<code [^>]*>)?([^<]*)", row)
    code = make_study().code("fedavg", "cnn")
    numbers = ["completed", "60.00", "20", "12.5", "1,234", "stacked", "cpu", "1"]
    assert cells == [CELL_42, *numbers, code[:12], metrics[:12]]
    assert f'title="{code}"' in row and f'title="{metrics}"' in row


def test_methods_are_named_if_they_are_few_and_told_apart_if_a_name_has_a_comma() -> None:
    assert names.listed(["a", "b", "c"]) == "a, b and c"
    assert names.listed(["a, clipped", "b", "c"]) == "a, clipped; b; and c"
    assert names.listed(["a, clipped"]) == "a, clipped"


def test_the_page_says_and_shows_what_was_trained_on(folder: Path, tmp_path: Path) -> None:
    study = make_study()
    file = Layout(tmp_path).partition(study.partition_folder("cifar10", "0"), "0")
    statistics = {"clients": 100, "images": 50000, "smallest": 400, "largest": 600}
    about = {"images": "official_overlap", "test_images": 10000}
    record = {"dataset": about, "statistics": statistics | {"classes_per_client": 1.0}}
    write_json(file, record | {"scheme": "dirichlet", "seed": 3})
    file.with_suffix(".png").write_bytes(b"\x89PNG")
    text = page(tmp_path, tmp_path)
    assert (
        "CIFAR-10, α = 0: 100 clients with 400 to 600 training images each, 50,000 in all (the"
        " released code's images, some of which are test images, too); 10,000 test images; 1"
        " class a client on average; scheme dirichlet, seed 3."
    ) in Page(text).text
    assert text.count("data:image/png;base64,iVBORw==") == 1


def test_outdated_runs_are_counted_as_such_and_not_shown(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "runs", tmp_path / "runs")  # without tables, which would contradict
    edited = {"fedavg": {"training": {"lr": 0.5}}}
    text = Page(page(tmp_path, tmp_path, algorithms=edited)).text
    for part in (
        "12 of 24 runs are done, 5 of them diverged. 6 runs are outdated and left out",
        "completed (7)",
        "outdated (6)",
        "missing (6)",
        "settings.training.lr is 0.01 in the run, 0.5 here",
    ):
        assert part in text, part
    assert "60.3 ± 1.5" not in text


@pytest.mark.parametrize(
    ("file", "given", "words"),
    [
        ("config/quickstart.yaml", "", "snakemake --cores all brings"),
        ("mine/study.yaml", "", "snakemake --cores all --configfile=mine/study.yaml brings"),
        ("/a/study.yaml", "", "snakemake --cores all --configfile=/a/study.yaml brings"),
        ("my study.yaml", "", "snakemake --cores all --configfile='my study.yaml' brings"),
        (
            "mine.yaml",
            "--configfile=mine.yaml --config 'seeds=[0]'",
            "snakemake --cores all --configfile=mine.yaml --config 'seeds=[0]' brings",
        ),
    ],
)
def test_the_commands_to_run_again_name_the_file_there_is(
    file: str, given: str, words: str, tmp_path: Path
) -> None:
    study = replace(make_study(), file=file, given=given, name="quickstart")
    html.write_report(study, tmp_path, tmp_path / "page.html")
    assert words in Page((tmp_path / "page.html").read_text(encoding="utf-8")).text


def test_verdicts_do_not_rely_on_colour(folder: Path, tmp_path: Path) -> None:
    badges = re.findall(r'<span class="verdict[^>]*><b>(.)</b>', page(folder, tmp_path))
    assert badges
    assert set(badges) <= set("=≈∼<>≠·") | {"&"}


def test_everything_is_escaped(folder: Path, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> & `code`"
    curves = {"curves": {"kind": "curves"}}
    text = page(folder, tmp_path, title=hostile, note=hostile, figures=curves)
    assert "<script>alert" not in text
    assert Page(text).text.count("<script>alert(1)</script> & `code`") == 3


def test_the_page_is_byte_stable(folder: Path, tmp_path: Path) -> None:
    assert page(folder, tmp_path) == page(folder, tmp_path)


def test_nothing_run_yet_is_a_page_too(tmp_path: Path) -> None:
    text = Page(page(tmp_path, tmp_path)).text
    assert "0 of 24 runs are done" in text
    assert "curves: not drawn yet." in text
    assert "Nothing has been run yet." in text


def test_a_page_that_would_contradict_a_tables_file_is_refused(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    study = make_study()
    write(tables.build(study, "table3", folder), folder / "tables" / "toy")
    write_cell(folder, cell("cifar10", "fedgloss", SEEDS[1]), 83.0)
    with pytest.raises(InputError, match=r"table3\.md: not what the study and its runs give now"):
        page(folder, tmp_path)
    assert not (tmp_path / "toy.html").exists()


def test_commands_name_only_cells_of_the_grid() -> None:
    """Alphas with other seeds do not share braces."""
    cells = (cell("cifar10", "fedavg", 0), cell("cifar10", "fedavg", 42))
    cells += (replace(cells[0], alpha="0.05"), replace(cells[0], alpha="5"))
    targets = rerun._targets(replace(make_study(), cells=cells), "fedavg")
    assert [*map(str, targets)] == [
        "results/runs/toy/cifar10/alpha-0/cnn/fedavg/seed-{0,42}/metrics.csv",
        "results/runs/toy/cifar10/alpha-{0.05,5}/cnn/fedavg/seed-0/metrics.csv",
    ]
