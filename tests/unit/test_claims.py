"""The paper's claims: quoted as printed, decided by a rule, in our runs and in its own numbers."""

import csv
import io
import re
import shutil
from pathlib import Path
from typing import get_args

import pytest

from fedgloss.algorithms.names import METHODS
from fedgloss.errors import InputError
from fedgloss.report import claims, grids, tables
from fedgloss.report.judging import Number, decided_by, judge
from fedgloss.report.results import Results
from fedgloss.study import claims as papers_claims
from fedgloss.study.claims import compared
from fedgloss.study.configuration import validate
from fedgloss.study.schema.claims import Claims, Metric
from fedgloss.study.study import check_study, load_study
from refusal import refused
from test_local_models import local, write_locals
from toy_results import C10, SEEDS, make_study, write_results

PAPER = Path(__file__).parents[3] / "shared/paper/paper.md"
CLAIMS = papers_claims.claims()
BY_ID = {claim.id: claim for claim in CLAIMS}


def words(text):
    """The words of a text as they are typeset anywhere: no mark-up, no signs, no references."""
    text = re.sub(r"\[[\d, ]+\]", " ", text).replace("₁", "1")
    text = re.sub(r"\\(approx|alpha|lambda|delta_\\epsilon\^t|rightarrow)", " ", text)
    return re.sub(r"[^a-z0-9]+", " ", text.lower())


@pytest.mark.skipif(not PAPER.exists(), reason="the paper's text is not here")
@pytest.mark.parametrize("claim", CLAIMS, ids=BY_ID)
def test_a_claim_is_quoted_as_printed(claim):
    assert words(claim.quote).strip() in words(PAPER.read_text(encoding="utf-8"))


def test_claims_have_names_of_their_own():
    assert len(BY_ID) == len(CLAIMS) >= 25


def test_the_papers_own_numbers_decide_these():
    """Most hold, some by their own tables do not."""
    found = {claim.id: judge(claim, claims._printed, "not printed") for claim in CLAIMS}
    fails = {name for name, judgement in found.items() if judgement.verdict == "fails"}
    assert fails == {"scaffold-fedgamma-diverge", "resnet-fedsmoo-by-5", "nearly-double"}
    (ratio,) = found["nearly-double"].comparisons
    assert "fedgloss 83.9, fedavg 59.9" in ratio.text
    assert found["best-client-sgd"].verdict == "holds" and found["best-client-sgd"].judged == 16
    assert found["norms"].verdict == "not printed"
    assert found["fedsam-sharper-globally-on-cifar100"].verdict == "holds"
    assert found["flattest-globally"].verdict == "holds"
    (pairs,) = found["fedsam-flatter-globally-on-cifar10"].comparisons
    assert (
        pairs.text == "cifar10, alpha 0, cnn: fedsam 81.42, fedsam (lambda1_global) 30.42: +51 ± 33"
    )
    unclear = [c.text for c in found["best-client-sam"].comparisons if c.verdict == "unclear"]
    assert unclear == ["cifar10, alpha 0, cnn: fedgloss 83.9, feddyn-sam 79.3: +4.6 ± 7.5"]


def claim(**keys):
    """A claim of fedgloss against fedavg in one condition."""
    base = {"id": "a", "where": "b", "quote": "c", "in": [C10]}
    if "diverges" not in keys:
        base |= {"metric": "accuracy", "more": [{"algorithm": "fedgloss"}]}
        base |= {"less": [{"algorithm": "fedavg"}]}
    return validate({"claims": [base | keys]}, Claims, "claims.yaml").claims[0]


def runs(*values, **facts):
    mean = sum(values) / len(values) if values else None
    return Number(mean, None, len(values), dict(enumerate(values)), **facts)


def verdict(fedgloss, fedavg, **keys):
    numbers = {"fedgloss": fedgloss, "fedavg": fedavg}
    return judge(claim(**keys), lambda condition, method, metric: numbers[method]).verdict


DIVERGED, UNREACHED = Number(diverged=True), Number(unreached=True)


@pytest.mark.parametrize(
    "fedgloss, fedavg, expected",
    [
        (runs(81.0, 82.0, 83.0), runs(79.0, 80.1, 80.9), "holds"),
        (runs(79.0, 80.1, 80.9), runs(81.0, 82.0, 83.0), "fails"),
        (runs(70.0, 82.0, 90.0), runs(79.0, 80.1, 80.9), "unclear"),
        (runs(81.0), runs(80.0), "holds"),  # single runs: the sign
        (runs(80.0), runs(81.0), "fails"),
        (runs(80.0), runs(80.0), "unclear"),
        (runs(80.0), DIVERGED, "holds"),
        (DIVERGED, runs(80.0), "fails"),
        (DIVERGED, DIVERGED, "no number"),
        (None, runs(80.0), "not run"),
    ],
)
def test_more_is_more_beyond_the_interval(fedgloss, fedavg, expected):
    assert verdict(fedgloss, fedavg) == expected


def test_pairs_of_seeds_are_what_is_compared():
    """A spread that both sides share says nothing about their difference."""
    ours, theirs = (70.0, 80.0, 90.0), (69.0, 79.1, 88.9)
    assert verdict(runs(*ours), runs(*theirs)) == "holds"
    assert verdict(Number(80.0, 10.0, 3), Number(79.0, 9.95, 3)) == "unclear"


@pytest.mark.parametrize(
    "fedgloss, fedavg, expected",
    [
        (runs(5.0), runs(2.0), "holds"),
        (UNREACHED, runs(2.0), "holds"),  # that many rounds are more than any
        (runs(5.0), UNREACHED, "fails"),
        (DIVERGED, runs(2.0), "holds"),
    ],
)
@pytest.mark.parametrize("metric", [m for m in get_args(Metric) if not m.startswith("accuracy")])
def test_where_lower_is_better_less_is_the_better_side(fedgloss, fedavg, expected, metric):
    assert verdict(fedgloss, fedavg, metric=metric) == expected


@pytest.mark.parametrize(
    "keys, words",
    [
        ({}, "accuracy: fedgloss above fedavg"),
        ({"by": 2.5, "margin": 1.0}, "accuracy: fedgloss 2.5 ± 1 above fedavg"),
        ({"least": 4.0, "margin": 1.0}, "accuracy: fedgloss at least 3 above fedavg"),
        ({"times": 2.0}, "accuracy: fedgloss at least 1.8 times fedavg"),
        ({"same": True, "margin": 1.0}, "accuracy: fedgloss within 1 of fedavg"),
        ({"diverges": ["feddyn", "fedavg"]}, "diverges: feddyn, fedavg"),
        (
            {"less": [{"algorithm": "fedavg"}, {"algorithm": "fedsam", "alpha": "5"}]},
            "accuracy: fedgloss above fedavg, fedsam (alpha 5)",
        ),
    ],
)
def test_what_decides_a_claim_is_said(keys, words):
    assert decided_by(claim(**keys)) == words


A = runs(82.4, 82.5, 82.6)
WIDE = runs(80.0, 82.5, 85.0)
B = runs(80.0, 80.0, 80.0)


@pytest.mark.parametrize(
    "keys, fedgloss, expected",
    [
        ({"by": 2.5, "margin": 1.0}, A, "holds"),
        ({"by": 3.4, "margin": 1.0}, A, "holds"),
        ({"by": 5.0, "margin": 1.0}, A, "fails"),
        ({"by": 5.0, "margin": 1.0}, WIDE, "unclear"),
        ({"by": 0.5, "margin": 1.0}, A, "fails"),
        ({"least": 3.0, "margin": 1.0}, A, "holds"),
        ({"least": 1.0, "margin": 0.0}, A, "holds"),
        ({"least": 4.0, "margin": 1.0}, A, "fails"),
        ({"least": 4.0, "margin": 1.0}, WIDE, "unclear"),
        ({"times": 1.1}, A, "holds"),  # 1.03 is at least 0.99
        ({"times": 1.145}, A, "holds"),  # of fedavg's 80: 2.44 more; of its own 82.5 it were 2.52
        ({"times": 2.0}, A, "fails"),
        ({"same": True, "margin": 3.0}, A, "holds"),
        ({"same": True, "margin": 1.0}, A, "fails"),
        ({"same": True, "margin": 1.0}, WIDE, "unclear"),
        ({"same": True, "margin": 1.0}, DIVERGED, "fails"),
    ],
)
def test_a_size_holds_within_its_margin(keys, fedgloss, expected):
    assert verdict(fedgloss, B, **keys) == expected


def test_divergence_is_a_claim_too():
    numbers = {"feddyn": DIVERGED, "fedavg": runs(60.0), "scaffold": None}

    def of(*methods):
        return judge(claim(diverges=list(methods)), lambda c, method, m: numbers[method]).verdict

    assert verdict(DIVERGED, DIVERGED, same=True) == "holds"
    assert of("feddyn") == "holds" and of("feddyn", "fedavg") == "fails"
    assert of("feddyn", "scaffold") == "open" and of("scaffold") == "not run"


@pytest.mark.parametrize(
    "keys",
    [
        {"by": 1, "least": 2},
        {"diverges": ["fedavg"], "by": 1},
        {"more": []},
        {"metric": "speed"},
        {"by": -1},
    ],
)
def test_what_is_no_claim_is_refused(keys):
    with pytest.raises(InputError, match=r"claims\.yaml"):
        claim(**keys)


def test_of_our_local_models_a_seeds_middle_one_counts(tmp_path):
    folder = write_results(tmp_path)
    for seed, own in zip(SEEDS, ((1.0, 3.0, 50.0), (4.0,), (7.0, 9.0)), strict=True):
        write_locals(folder, seed, [local(i, "cat", v, 10 * v) for i, v in enumerate(own)])
    found, (first, *_) = Results(make_study(), folder), make_study().cells
    ours = claims._ours(found, first.column, "fedavg", "lambda1_local")
    assert ours.by_pair == {0: 3.0, 42: 4.0, 200299: 8.0} and ours.mean == 5.0
    everyone = claims._ours(found, first.column, "fedavg", "lambda1_global")
    assert everyone.by_pair == {0: 30.0, 42: 40.0, 200299: 80.0}
    assert claims._ours(found, first.column, "fedgloss", "lambda1_local").absent == "not run"
    assert claims._ours(found, first.column, "feddyn-sam", "lambda1_local").absent == "not computed"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return Results(make_study(), write_results(tmp_path_factory.mktemp("results")))


def test_our_runs_decide_what_they_can(found):
    every = {one.claim.id: one.ours for one in claims.judged(found)}
    # FedDyn + SAM diverged on CIFAR-100 in all seeds, FedDyn is not in the study.
    assert every["feddyn-diverges"].verdict == "open" and every["feddyn-diverges"].judged == 1
    # FedGloSS has two of three seeds: no claim about it is decided.
    assert every["fedsmoo-by-2.5"].verdict == "not run"
    assert every["landmarks-diverge"].verdict == "not run"


def test_a_label_of_a_method_stands_for_it_if_it_is_the_only_one(found):
    study = make_study(algorithms={"scaffold": {"method": "fedgloss"}})
    (condition,) = {c.column for c in study.cells if c.dataset == "cifar10"}
    assert study.stands_for("fedgloss", condition) == "fedgloss"  # though scaffold is one, too
    assert study.stands_for("scaffold", condition) == "scaffold"
    assert study.stands_for("fedprox", condition) is None
    other = make_study(algorithms={"scaffold": {"method": "fedprox"}})
    assert other.stands_for("fedprox", condition) == "scaffold"


def test_runs_shorter_than_the_papers_are_called_early(tmp_path):
    training = {"rounds": 200, "evaluate_every": 10, "last": 10, "record": []}
    study = make_study(training=training)
    found = Results(study, write_results(tmp_path, study))
    every = {one.claim.id: one.ours for one in claims.judged(found)}
    assert every["feddyn-diverges"].early == "after 200 of 20,000 rounds"


def test_the_table_says_both_verdicts_and_the_csv_each_comparison(found):
    asked = make_study(tables={"claims": {"kind": "claims"}})
    grid = tables.build(asked, "claims", found.folder)
    markdown = grids.to_markdown(grid)
    assert "| `nearly-double`" in markdown and "| fails" in markdown
    assert "In the paper's own tables, of 36 claims:" in markdown
    rows = [*csv.DictReader(io.StringIO(grids.to_csv(grid)))]
    assert len(rows) == sum(
        len(c.places) * (len(c.diverges or ()) or len(c.more) * len(c.less)) for c in CLAIMS
    )
    assert {row["id"] for row in rows} == {*BY_ID}
    latex = grids.to_latex(grid)
    assert latex.count(r"\\") >= len(CLAIMS) and "“" not in latex


def test_the_claims_table_waits_for_what_claims_compare_alone(found):
    study = make_study(tables={"claims": {"kind": "claims"}})
    entry = study.tables["claims"]
    behind = study.cells_behind(entry)
    assert {cell.algorithm for cell in behind} == {"fedavg", "scaffold", "feddyn-sam", "fedgloss"}
    assert all(("locals" in study.sources(entry, c)) == (c.algorithm != "scaffold") for c in behind)
    sources = {c.algorithm: study.sources(entry, c) for c in behind if c.dataset == "cifar10"}
    assert "hessian" in sources["fedgloss"] and "hessian" not in sources["scaffold"]


def test_a_claims_title_is_one_line_and_says_if_it_is_of_a_part(found):
    asked = make_study(tables={"claims": {"kind": "claims", "title": "first\n\nsecond"}})
    assert tables.build(asked, "claims", found.folder).title == "first second (18 of 24 runs)"


def test_rounds_against_a_part_of_fedavg_decide_nothing(tmp_path):
    folder = write_results(tmp_path)
    shutil.rmtree(folder / "runs" / "toy" / f"{C10['dataset']}/alpha-0/cnn/fedavg/seed-42")
    found = Results(make_study(), folder)
    (column,) = {c.column for c in make_study().cells if c.dataset == "cifar10"}
    for metric in ("rounds", "cost"):
        assert claims._ours(found, column, "feddyn-sam", metric).absent == "seeds missing"


def test_a_study_that_no_claim_is_about_has_no_such_table(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        "study: own\nseeds: [0]\ngrid: [{dataset: digits, alphas: ['0'], model: smallcnn,"
        " algorithms: [fedavg]}]\ntables: {claims: {kind: claims}}\n"
    )
    with pytest.raises(InputError, match=r"tables\.claims: none of the paper's claims is about"):
        load_study(file)


@pytest.mark.parametrize(("key", "value"), [("rows", ["fedavg"]), ("columns", [C10])])
def test_claims_are_of_the_whole_grid(key, value):
    claims = {"claims": {"kind": "claims", key: value}}
    with refused("tables.claims: kind claims is of the whole grid; leave out columns and rows"):
        check_study({**make_study().config, "tables": claims, "figures": {}}, "own.yaml")


def test_every_method_of_a_claim_is_one():
    named = {method for c in CLAIMS for _, method, _ in compared(c)}
    assert named - {*METHODS} == {"fedgloss-without-admm"}  # a label of config/paper.yaml
