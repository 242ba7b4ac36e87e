"""The rules and the study: what would run, what is refused, how the files are written."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedgloss.study import resources
from fedgloss.study.costs import has_gpu
from fedgloss.study.layout import CELL as CELL_PATH
from fedgloss.study.layout import SEED
from fedgloss.study.study import load_study
from fedgloss.study.sweep import packs
from workflow.project import (
    CONSTANTS,
    CORES,
    ROOT,
    SMOKE,
    build,
    copy_project,
    environment,
    files,
    planned,
    rules,
    snakemake,
)

RULE_FILES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
# Five need the authors' splits, which are not in the repository; which cells of the other are
# trained is found on the way.
NOT_PLANNED = ("reproduction", "float32", "cifar10-early", "cifar10-early-42", "pilots")
NOT_PLANNED += ("quickstart-sweep",)
STUDIES = sorted({path.stem for path in (ROOT / "config").glob("*.yaml")}.difference(NOT_PLANNED))


def together(study):
    """The trials of a sweep that one job trains."""
    return packs(study.trials.values(), most=8)


def expected_jobs(study):
    """The closed form: how many jobs of each rule a study needs from nothing."""
    spots = {
        (cell, kind)
        for entry in (*study.tables.values(), *study.figures.values())
        for kind in (entry.kind, *getattr(entry, "show", ()))
        for cell in study.cells
        if cell.column in entry.columns
        and cell.algorithm in entry.rows
        and getattr(entry, "seed", None) in (None, cell.seed)
    }
    sharp = {cell.condition for cell, kind in spots if kind in ("lambda1", "eigenvalues")}
    local = {cell for cell, kind in spots if kind == "locals"}
    seen = {(cell, view) for figure in study.figures.values() for cell, view in study.views(figure)}
    trained = {cell.condition: cell for cell in study.cells}
    small = [c for c in trained if resources.training(study, trained[c]).gpu == 0]
    settings = {cell.setting for cell in study.cells}
    whole = len(settings) if len(settings) >= CORES and {*small} == sharp == {*trained} else 0
    counts = {
        "prepare": len({cell.dataset for cell in study.cells}),
        "partition": len({(cell.dataset, cell.alpha) for cell in study.cells}),
        "train": len(study.cells) - len(small) * len(study.config["seeds"]),
        "train_seeds": sum(trained[c].algorithm not in study.trials for c in small),
        **{f"train_trials{i}": len(settings) for i, _ in enumerate(together(study))},
        "hessian_methods": whole,
        "hessian_seeds": 0 if whole else len(sharp),
        "locals": len(local),
        "landscape": sum(view.kind == "landscape" for _, view in seen),
        "line": sum(view.kind == "line" for _, view in seen),
        "table": len(study.tables),
        "figure": len(study.figures),
        "report": 1,
        "choose": 1 if study.trials else 0,
    }
    return {name: count for name, count in counts.items() if count}


def trained(jobs, study):
    """The cells that the training jobs of a dry run serve."""
    cells = set()
    for rule, values in jobs:
        if rule == "train_seeds":
            condition = values.removeprefix(f"{study.name}/")
            cells |= {f"{condition}/{SEED.format(seed=seed)}" for seed in study.config["seeds"]}
        elif pack := re.fullmatch(r"train_trials([0-9]+)", rule):
            setting = values.removeprefix(f"{study.name}/")
            labels = together(study)[int(pack[1])]
            cells |= {str(c) for c in study.cells if c.algorithm in labels and c.setting == setting}
        elif rule == "train":
            names = ("dataset", "alpha", "model", "algorithm", "seed")
            parts = dict(zip(names, values.split("/")[1:], strict=True))
            cells.add(CELL_PATH.format(**parts))
    return cells


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_from_nothing_needs_the_jobs_of_the_closed_form(name, fresh, monkeypatch):
    monkeypatch.setattr("fedgloss.study.study.METHODS_FILE", fresh / CONSTANTS / "methods.yaml")
    study = load_study(fresh / "config" / f"{name}.yaml")
    named = [] if name == "quickstart" else [f"--configfile=config/{name}.yaml"]  # the default
    jobs = planned(fresh, *named)
    assert len(set(jobs)) == len(jobs)
    assert rules(jobs) == expected_jobs(study)
    assert trained(jobs, study) == {*map(str, study.cells)}
    assert not (fresh / "results").exists(), "a dry run writes no results"


def test_every_table_figure_and_algorithm_has_a_target_of_its_name(fresh):
    listed = build(fresh, "--list-rules").splitlines()
    text = (fresh / "config" / "quickstart.yaml").read_text(encoding="utf-8")
    study = load_study(fresh / "config" / "quickstart.yaml")
    names = [f"table_{t}" for t in study.tables] + [f"figure_{f}" for f in study.figures]
    for name in [*names, *(f"only_{cell.algorithm}" for cell in study.cells)]:
        assert name in listed and name.split("_", 1)[1] in text


CELL = "digits/alpha-0/smallcnn/fedgloss/seed-1"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("table_accuracy", {"table": 1, "hessian_seeds": 2, "train_seeds": 2}),
        ("only_fedgloss", {"train_seeds": 1}),
        (f"results/runs/smoke/{CELL}/metrics.csv", {"train": 1}),
        (f"results/analysis/smoke/{CELL}/hessian.json", {"train": 1, "hessian": 1}),
    ],
    ids=["a table", "a method", "a cell", "a cell's sharpness"],
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


COMMAND_LINES = {
    "a misspelt study file": (
        ["--configfile=config/smok.yaml"],
        ["no file 'config/smok.yaml'", "did you mean 'config/smoke.yaml'", "config/paper.yaml"],
    ),
    "a target taken for a file": (
        ["--configfile", "config/smoke.yaml", "table_accuracy"],
        ["'table_accuracy'", "--configfile=FILE"],
    ),
    "a target taken for a value": ([SMOKE, "--config", "preset=paper", "all"], ["'all'"]),
    "values in two options": (
        [SMOKE, "--config", "study=try", "--config", "seeds=[0]"],
        ["--config: is given 2 times", "--config study=try 'seeds=[0]'"],
    ),
    "a method outside the study": (
        [SMOKE, "only_fedsam"],
        ["no target 'only_fedsam'", "allowed: all, table_accuracy", "only_fedgloss"],
    ),
    "a misspelt table": ([SMOKE, "tabel_accuracy"], ["did you mean 'table_accuracy'"]),
    "a misspelt rule": ([SMOKE, "--until", "trian"], ["did you mean 'train'"]),
    "a cell outside the grid": (
        [SMOKE, "results/runs/smoke/digits/alpha-0/smallcnn/fedsam/seed-0/metrics.csv"],
        ["config/smoke.yaml: no cell 'digits/alpha-0/smallcnn/fedsam/seed-0'", "did you mean"],
    ),
    "a file that no rule makes": ([SMOKE, "results/tables/smoke/acuracy.md"], ["no target"]),
    "a file of another study": (
        [SMOKE, "results/tables/paper/table3.md"],
        ["is of the study 'paper'", "is 'smoke'; needs --configfile=config/paper.yaml"],
    ),
    "a misspelt key": (
        [SMOKE, "--config", "onyl=digits"],
        ["error: --config: onyl: unknown key (did you mean 'only'?)", "seeds", "together"],
    ),
    "a misspelt key below": (
        [SMOKE, "--config", "training={roundz: 5}"],
        ["error: --config: training.roundz: unknown key (did you mean 'rounds'?)"],
    ),
    "one name for two methods": (
        [SMOKE, "--config", "algorithms={fedgloss: {name: FedAvg}}"],
        ["config/smoke.yaml: algorithms.fedgloss.name: 'FedAvg' is what fedavg is called"],
    ),
    "the learning rate as text": (
        [SMOKE, "--config", "training={lr: 1e-4}"],
        ["training.lr", "write 1.0e-4"],
    ),
}


@pytest.mark.parametrize("case", COMMAND_LINES)
def test_a_command_line_that_cannot_be_meant_is_one_line_and_2(case, fresh):
    arguments, words = COMMAND_LINES[case]
    refused(snakemake(fresh, "--dry-run", *arguments), words)
    assert not (fresh / "results").exists()


@pytest.mark.parametrize("named", [[], ["--configfile=config/quickstart.yaml"]], ids=len)
def test_a_study_file_that_is_no_yaml_is_named(named, fresh):
    (fresh / "config" / "quickstart.yaml").write_text("study: x\n\tseeds: [0]\n")
    refused(snakemake(fresh, "--dry-run", *named), ["config/quickstart.yaml: not valid YAML"])


def test_a_study_file_that_the_profile_names_is_read_as_strictly(fresh):
    """Snakemake reads it by itself, and takes 010 for 8."""
    smoke = (fresh / "config" / "smoke.yaml").read_text().replace("seeds: [0,", "seeds: [010,")
    (fresh / "config" / "smoke.yaml").write_text(smoke)
    with open(fresh / "profiles" / "default" / "config.yaml", "a") as profile:
        profile.write("configfile: config/smoke.yaml\n")
    refused(snakemake(fresh, "--dry-run"), ["config/smoke.yaml: 010 in line "])


def test_values_of_the_command_line_are_read_as_a_study_file_is(fresh):
    changed = ["--config", "seeds=[7]", "training={rounds: 5}"]
    jobs = planned(fresh, "only_fedavg", SMOKE, *changed)
    assert [job for job in jobs if job[0].startswith("train")] == [
        ("train", "smoke/digits/0/smallcnn/fedavg/7")
    ]


def test_a_warm_up_that_never_ends_is_said_in_one_line(fresh):
    shown = snakemake(fresh, "--dry-run", "--quiet", SMOKE, "--config", "training={rounds: 3}")
    warned = [line for line in shown.stderr.splitlines() if "warning" in line]
    assert shown.returncode == 0 and len(warned) == 1
    assert warned[0].startswith("fedgloss: warning: config/smoke.yaml: algorithms.fedgloss")


def test_the_quickstarts_name_is_the_quickstarts(fresh):
    (fresh / "mine.yaml").write_text(
        (fresh / "config" / "smoke.yaml").read_text().replace("study: smoke", "study: quickstart")
    )
    shown = snakemake(fresh, "--dry-run", "--configfile=mine.yaml")
    refused(shown, ["mine.yaml: study: 'quickstart'", "config/quickstart.yaml", "another name"])


def test_a_damaged_manifest_of_the_data_is_refused_in_one_line(fresh):
    """Whether a run is still the one that is asked for depends on it."""
    run = fresh / "results/runs/smoke/digits/alpha-0/smallcnn/fedavg/seed-0/manifest.json"
    data = fresh / "results/data/digits/manifest.json"
    for manifest, text in ((run, "{}"), (data, '{"sha2')):
        manifest.parent.mkdir(parents=True)
        manifest.write_text(text)
    shown = snakemake(fresh, "--dry-run", SMOKE)
    refused(shown, ["results/data/digits/manifest.json: not valid JSON"])


def test_a_file_in_the_place_of_results_is_refused_first(fresh):
    (fresh / "results").write_text("a file in the way")
    refused(snakemake(fresh, "--dry-run", SMOKE), ["results: is not a folder"])
    assert (fresh / "results").read_text() == "a file in the way"


# How the rules are written: as Snakemake sees them, not as they are laid out


SHOWN = """

import json as _json
print("RULES", _json.dumps({rule.name: {
    "docstring": rule.docstring, "shell": rule.shellcmd,
    "output": [*map(str, rule.output)], "log": [*map(str, rule.log)],
    "benchmark": str(rule.benchmark or ""), "conda": str(rule.conda_env or ""),
    "params": [*rule.params.keys()],
} for rule in workflow.rules}))
"""
JOBS = {
    "prepare",
    "partition",
    "train",
    "hessian",
    "locals",
    "landscape",
    "line",
    "pause",
    "promote",
    "choose",
    "table",
    "figure",
    "report",
}
PACKED = {"train_seeds", "pause_seeds", "hessian_seeds", "hessian_methods"}


@pytest.fixture(scope="module")
def rules_found(source, tmp_path_factory):
    """Every rule that makes something, with its parts."""
    project = copy_project(tmp_path_factory.mktemp("shown") / "project", source)
    with open(project / "Snakefile", "a", encoding="utf-8") as snakefile:
        snakefile.write(SHOWN)
    shown = snakemake(project, "--list-rules", SMOKE)
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("RULES "))
    found = json.loads(line.removeprefix("RULES "))
    return {name: parts for name, parts in found.items() if parts["output"]}


def test_these_are_the_rules(rules_found):
    assert rules_found.keys() == JOBS | PACKED


def faults(rule):
    """What a rule lacks of what every rule has."""
    if not re.fullmatch(r"[A-Z].*\.", rule["docstring"] or "", re.S):
        yield "a sentence"
    if not rule["shell"].startswith("fedgloss "):
        yield "one command"
    if len(rule["log"]) != 1 or not rule["shell"].endswith(" 2> {log:q}"):
        yield "a log of what it says"
    if not rule["benchmark"]:
        yield "a benchmark"
    if not rule["conda"].endswith("envs/fedgloss.yaml"):
        yield "an environment"
    if "code" not in rule["params"]:
        yield "the fingerprint of its code"
    if any("checkpoints" in file for file in rule["output"]):
        yield "checkpoints that a failure does not delete"
    if re.search(r"\{(?!log:q)[^}]*(?<!:q)\}", rule["shell"].replace("{threads}", "")):
        yield "quotes around everything"


@pytest.mark.parametrize("name", sorted(JOBS | PACKED))
def test_every_rule_has_its_sentence_log_benchmark_environment_and_fingerprint(name, rules_found):
    assert list(faults({"name": name, **rules_found[name]})) == []


HARM = {
    "a sentence": {"docstring": ""},
    "one command": {"shell": "python -m fedgloss 2> {log:q}"},
    "a log of what it says": {"shell": "fedgloss train"},
    "a benchmark": {"benchmark": ""},
    "an environment": {"conda": ""},
    "the fingerprint of its code": {"params": ["settings"]},
    "checkpoints that a failure does not delete": {"output": ["results/checkpoints/x"]},
    "quotes around everything": {"shell": "fedgloss train {params.data} 2> {log:q}"},
}


@pytest.mark.parametrize("what", HARM)
def test_a_rule_without_any_of_them_would_be_noticed(what, rules_found):
    assert list(faults({"name": "train", **rules_found["train"], **HARM[what]})) == [what]


def test_the_environment_of_the_rules_is_there(rules_found):
    places = {rule["conda"] for rule in rules_found.values()}
    assert len(places) == 1
    assert (ROOT / "envs" / Path(places.pop()).name).is_file()


def test_every_rule_file_says_what_it_requires_and_provides():
    names = [file.stem for file in RULE_FILES]
    assert {"data", "train", "analysis", "report"} < {*names}
    for file in RULE_FILES:
        opening = file.read_text(encoding="utf-8").split('"""')[1]
        assert "\nREQUIRES  " in opening and "\nPROVIDES  " in opening, file


def test_lint_is_clean(fresh):
    assert "good condition" in build(fresh, "--lint", SMOKE)


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


def unexplained(profile):
    """The keys of a profile without a comment above them."""
    before = ""
    for line in profile.splitlines():
        if re.match(r"[a-z_-]+:", line) and not before.startswith("#"):
            yield line.split(":")[0]
        before = before if line.startswith("__") else line  # one comment for the three hook's keys


def test_profiles_explain_every_line():
    profiles = {file.parent.name: file for file in (ROOT / "profiles").rglob("config.yaml")}
    assert profiles.keys() == {"default", "slurm"}
    for file in profiles.values():
        text = file.read_text(encoding="utf-8")
        assert len(yaml.safe_load(text)) >= 5
        assert list(unexplained(text)) == []
    assert list(unexplained("# Cores.\ncores: all\nretries: 3\n")) == ["retries"]


def test_jobs_are_packed_as_the_command_line_says(fresh):
    for way, expected in (("seeds", {"train_seeds": 2}), ("cells", {"train": 4})):
        jobs = rules(planned(fresh, SMOKE, "--config", f"together={way}"))
        assert {name: n for name, n in jobs.items() if name.startswith("train")} == expected
    jobs = rules(planned(fresh, SMOKE, "--forcerun", "train"))
    assert jobs["train"] == 4 and jobs["hessian_seeds"] == 2, "whoever names `train` means it"
    jobs = planned(fresh, SMOKE, "--config", "only=digits/alpha-0/smallcnn/fedavg/seed-1")
    assert [cell[-9:] for rule, cell in jobs if rule.startswith("train")] == ["/fedavg/1"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("--cores=3", {"hessian_seeds": 14}),
        ("table_accuracy", {"hessian_seeds": 14}),
        ("--config=together=cells", {"hessian": 42}),
    ],
)
def test_the_eigenvalues_of_all_methods_are_one_job_unless_cores_were_idle_or_less_is_asked_for(
    said, expected, fresh
):
    """Of the quickstart, of two settings, where two cores build it all: see the closed form."""
    jobs = rules(planned(fresh, said))
    assert {name: n for name, n in jobs.items() if name.startswith("hessian")} == expected


@pytest.mark.slow
def test_cells_trained_alone_leave_the_same_files_and_stay_done_otherwise_packed(fresh, built):
    build(fresh, SMOKE, "--config", "together=cells")
    for folder, pattern in (("runs", "metrics.csv"), ("runs", "*.safetensors"), ("tables", "*")):
        found = files(fresh / "results" / folder, pattern)
        assert found == files(built / "results" / folder, pattern) and found
    logs = files(fresh / "results" / "logs" / "train", "*.log")
    assert len(logs) == 4 and len(files(built / "results" / "logs" / "train", "*.log")) == 2
    assert planned(fresh, SMOKE) == planned(fresh, SMOKE, "--config", "together=cells") == []


@pytest.mark.slow
def test_eigenvalues_computed_in_one_job_are_the_same_files_and_stay_done(finished, built):
    shutil.rmtree(finished / "results" / "analysis")
    assert rules(planned(finished, SMOKE, "--cores=1"))["hessian_methods"] == 1
    build(finished, SMOKE, "--cores=1")
    found = files(finished / "results" / "analysis", "hessian.json")
    assert found == files(built / "results" / "analysis", "hessian.json") and len(found) == 4
    assert planned(finished, SMOKE) == planned(finished, SMOKE, "--config", "together=cells") == []


def test_an_unknown_way_of_packing_is_refused(fresh):
    shown = snakemake(fresh, SMOKE, "--config", "together=everything", "--dry-run")
    assert shown.returncode == 2
    assert "together: 'everything' is unknown; allowed: cells, seeds" in shown.stderr


OWN_MODEL = """\
study: own
seeds: [0]
training: {rounds: 2, clients: 4, clients_per_round: 2, epochs: 1, batch_size: 8, REST}
models: {mine: {model: "my_net:net"}}
datasets: {few: {source: digits, partition: {scheme: dirichlet}}}
grid:
  - {dataset: few, alphas: ["0"], model: mine, algorithms: [fedavg]}
"""
RUN_OF_OWN = "results/runs/own/few/alpha-0/mine/fedavg/seed-0/metrics.csv"
REST = "lr: 0.1, weight_decay: 0.0, augmentation: none, evaluate_every: 1, last: 1"


def refused_and_kept(project, *arguments):
    """The one line with which a build is refused that would train a finished run."""
    run = project / RUN_OF_OWN
    run.parent.mkdir(parents=True)
    run.write_text("finished")
    shown = snakemake(project, RUN_OF_OWN, "--force", "--configfile=own.yaml", *arguments)
    said = [line for line in shown.stderr.splitlines() if line.startswith("fedgloss: error: ")]
    assert shown.returncode == 2 and len(said) == 1, shown.stderr
    assert run.read_text() == "finished"
    return said[0]


def test_weights_that_are_none_are_refused_before_finished_runs_are_lost(fresh):
    model = '{model: smallcnn, weights: "w.safetensors"}'
    text = OWN_MODEL.replace("REST", REST).replace('{model: "my_net:net"}', model)
    (fresh / "own.yaml").write_text(text, encoding="utf-8")
    (fresh / "w.safetensors").write_text("none")
    said = refused_and_kept(fresh)
    assert "own.yaml: models.mine.weights: w.safetensors: not a safetensors file" in said


@pytest.mark.skipif(has_gpu(), reason="needs a machine without a GPU")
def test_a_precision_of_gpus_is_refused_before_finished_runs_are_lost(fresh):
    text = OWN_MODEL.replace("REST", REST).replace('"my_net:net"', "smallcnn")
    (fresh / "own.yaml").write_text(f"{text}precision: tf32\n", encoding="utf-8")
    line = "own.yaml: precision: 'tf32' is for GPUs, and here is none; allowed: float32, bfloat16"
    assert line in refused_and_kept(fresh)
    assert line in build(fresh, RUN_OF_OWN, "--dry-run", "--force", "--configfile=own.yaml")


def test_a_model_of_ones_own_that_fails_is_refused_before_finished_runs_are_lost(fresh):
    (fresh / "own.yaml").write_text(OWN_MODEL.replace("REST", REST), encoding="utf-8")
    (fresh / "src" / "my_net.py").write_text("def net(shape, classes):\n    return 1 / 0\n")
    said = refused_and_kept(fresh)
    assert "own.yaml: models.mine.model: " in said
    assert "ZeroDivisionError" in said and "my_net.py line 2" in said
