"""The rules and the study: what would run, what is refused, how the files are written."""

import os
import re
import subprocess
import sys

import pytest

from fedgloss.study import load_study
from workflow.project import ROOT, SMOKE, build, environment, files, planned, rules, snakemake

RULE_FILES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
STUDIES = sorted(
    path.stem
    for path in (ROOT / "config").glob("*.yaml")
    if path.stem not in ("methods", "resources")
)


def expected_jobs(study):
    """The closed form: how many jobs of each rule a study needs from nothing."""
    spots = {
        (cell, kind)
        for entries, kinds in ((study.tables, None), (study.figures, "kind"))
        for entry in entries.values()
        for kind in ([entry[kinds]] if kinds else entry.get("show", []))
        for cell in study.cells
        if (cell.dataset, cell.alpha, cell.model)
        in {(c["dataset"], c["alpha"], c["model"]) for c in entry["columns"]}
        and cell.algorithm in entry["rows"]
        and entry.get("seed", cell.seed) == cell.seed
    }
    conditions = {cell.condition for cell, kind in spots if kind in ("lambda1", "eigenvalues")}
    surfaces = {cell for cell, kind in spots if kind == "landscape"}
    # Whose originals may differ from one checkout to the next: these are never cached.
    own = {name for name, d in study.datasets.items() if d["source"] in ("folder", "landmarks")}
    data, cuts = ({c.dataset for c in study.cells}, {(c.dataset, c.alpha) for c in study.cells})
    counts = {
        "prepare": len(data - own),
        "prepare_uncached": len(data & own),
        "partition": sum(dataset not in own for dataset, _ in cuts),
        "partition_uncached": sum(dataset in own for dataset, _ in cuts),
        "train": len(study.cells),
        "hessian": len(conditions),
        "landscape": len(surfaces),
        "table": len(study.tables),
        "figure": len(study.figures),
        "report": 1,
    }
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_from_nothing_needs_the_jobs_of_the_closed_form(name, fresh, monkeypatch):
    monkeypatch.setattr("fedgloss.study.METHODS_FILE", fresh / "config" / "methods.yaml")
    study = load_study(fresh / "config" / f"{name}.yaml")
    named = [] if name == "quickstart" else [f"--configfile=config/{name}.yaml"]  # the default
    jobs = planned(fresh, *named)
    assert len(set(jobs)) == len(jobs)
    assert rules(jobs) == expected_jobs(study)
    trained = {values for rule, values in jobs if rule == "train"}
    assert trained == {
        f"{name}/{c.dataset}/{c.alpha}/{c.model}/{c.algorithm}/{c.seed}" for c in study.cells
    }
    assert not (fresh / "results").exists(), "a dry run writes no results"


def test_every_table_figure_and_algorithm_has_a_target_of_its_name(fresh):
    listed = build(fresh, "--list-rules").splitlines()
    text = (fresh / "config" / "quickstart.yaml").read_text(encoding="utf-8")
    study = load_study(fresh / "config" / "quickstart.yaml")
    names = [f"table_{t}" for t in study.tables] + [f"figure_{f}" for f in study.figures]
    for name in [*names, *(f"only_{cell.algorithm}" for cell in study.cells)]:
        assert name in listed and name.split("_", 1)[1] in text


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("table_accuracy", {"table": 1, "hessian": 2, "train": 4}),
        ("only_fedgloss", {"train": 2}),
        ("results/runs/smoke/digits/alpha-0/smallcnn/fedgloss/seed-1/metrics.csv", {"train": 1}),
    ],
    ids=["a table", "a method", "a cell"],
)
def test_a_target_needs_its_own_jobs_alone(target, expected, fresh):
    assert rules(planned(fresh, target, SMOKE)) == {"partition": 1, "prepare": 1, **expected}


BAD = {
    "an unknown key": ("rounds: 6", "round: 6", ["training.round", "'rounds'"]),
    "mistyped rounds": ("rounds: 6", "rounds: six", ["training.rounds", '"six"', "an integer"]),
    "alpha as a number": ('alphas: ["0"]', "alphas: [0]", ["grid[0].alphas[0]", "text"]),
    "an unknown method": ("algorithms: [fedavg", "algorithms: [fedavq", ["'fedavq'", "fedavg"]),
    "a key given twice": ("title: Smoke test", "title: a\ntitle: b", ["'title'", "twice"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_study_is_one_line_and_2_and_leaves_nothing(case, fresh):
    old, new, words = BAD[case]
    file = fresh / "config" / "smoke.yaml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    refused(snakemake(fresh, SMOKE), ["config/smoke.yaml", *words])
    assert not (fresh / "results").exists() and not (fresh / "logs").exists()


def refused(shown, words):
    """Exit code 2, and one line beside what Snakemake says about its profile."""
    lines = [line for line in shown.stderr.splitlines() if not line.startswith("Using workflow")]
    assert (shown.returncode, len(lines)) == (2, 1), shown.stderr
    assert lines[0].startswith("fedgloss: error: ")
    for word in words:
        assert word in lines[0]
    assert shown.stdout == ""


def test_changes_on_the_command_line_are_checked_too(fresh):
    shown = snakemake(fresh, SMOKE, "--config", "preset=papers")
    refused(shown, ["preset", '"papers"', "'paper'"])


def test_a_results_folder_that_cannot_be_written_is_refused_first(fresh):
    (fresh / "results").write_text("a file in the way")
    refused(snakemake(fresh, SMOKE), ["results", "not writable"])
    assert (fresh / "results").read_text() == "a file in the way"
    (fresh / "results").unlink()
    if os.geteuid() == 0:  # for root every folder is writable
        return
    (fresh / "results").mkdir(mode=0o555)
    refused(snakemake(fresh, SMOKE), ["results", "not writable"])


def test_a_cell_outside_the_grid_is_no_target(fresh):
    cell = "results/runs/smoke/digits/alpha-0/smallcnn/fedsam/seed-0/metrics.csv"
    shown = snakemake(fresh, "--dry-run", cell, SMOKE)
    assert shown.returncode != 0 and "Traceback" not in shown.stderr


# How the rules are written


RULES = {
    name[1]: block
    for file in RULE_FILES
    for block in re.split(r"^(?=rule )", file.read_text(encoding="utf-8"), flags=re.M)
    if (name := re.match(r"rule (\w+):", block))
}


@pytest.mark.parametrize("block", list(RULES.values()), ids=list(RULES))
def test_every_rule_has_its_sentence_log_benchmark_environment_and_fingerprint(block):
    assert re.search(r'^    """[A-Z].*\."""$', block, flags=re.M)
    for directive in ("output:", "log:", "conda:", "params:", "shell:"):
        assert f"\n    {directive}\n" in block, directive
    # Snakemake allows one of them: what comes from a cache took no time.
    assert ("\n    benchmark:\n" in block) != ("\n    cache: " in block)
    assert re.search(r"^        code=", block, flags=re.M), "no fingerprint of its code"
    assert "2> {log:q}" in block
    assert "checkpoints" not in re.search(r"output:\n(.*?)\n    \w+:\n", block, flags=re.S)[1]


@pytest.mark.parametrize("file", RULE_FILES, ids=lambda path: path.stem)
def test_every_rule_file_says_what_it_requires_and_provides(file):
    opening = file.read_text(encoding="utf-8").split('"""')[1]
    assert "\nREQUIRES  " in opening and "\nPROVIDES  " in opening


def test_the_conda_environment_is_there():
    for block in RULE_FILES:
        for path in re.findall(r'conda:\n +"(.*)"', block.read_text(encoding="utf-8")):
            assert (block.parent / path).is_file()


def test_lint_is_clean(fresh):
    assert "good condition" in build(fresh, "--lint", SMOKE)


def test_snakefmt_is_clean():
    command = [sys.executable, "-m", "snakefmt", "--check", "-l", "100", "Snakefile", "workflow"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr


def test_reading_the_workflow_does_not_wait_for_torch(fresh):
    """Every call of Snakemake, and every job on a cluster, reads it again."""
    code = """
import sys
from snakemake.cli import main
try:
    main(["--dry-run", "--quiet", "all", "--configfile", "config/smoke.yaml"])
except SystemExit as ended:
    assert not ended.code, ended.code
sys.exit("torch" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    shown = subprocess.run(
        command, cwd=fresh, env=environment(fresh), capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr


def test_profiles_explain_every_line():
    for file in (ROOT / "profiles").rglob("config.yaml"):
        before = ""
        for line in file.read_text(encoding="utf-8").splitlines():
            if re.match(r"[a-z]", line):
                assert before.startswith("#"), f"{file}: {line}"
            before = line


@pytest.mark.slow
def test_seeds_trained_together_leave_the_same_files(fresh, built):
    build(fresh, SMOKE, "--config", "together=seeds")
    for pattern in ("metrics.csv", "*.safetensors"):
        runs = files(fresh / "results" / "runs", pattern)
        assert runs == files(built / "results" / "runs", pattern) and runs
    tables = files(fresh / "results" / "tables", "*")
    assert tables == files(built / "results" / "tables", "*") and tables
    logs = files(fresh / "results" / "logs" / "train", "*.log")
    assert len(logs) == 2  # one job for each method
    assert planned(fresh, SMOKE, "--config", "together=seeds") == []


def test_an_unknown_way_of_packing_is_refused(fresh):
    shown = snakemake(fresh, SMOKE, "--config", "together=everything", "--dry-run")
    assert shown.returncode == 2
    assert "together: 'everything' is unknown; allowed: cells, seeds" in shown.stderr
