"""What a short time with a GPU is prepared with, rehearsed on a processor.

Every stage of benchmarks/gpu.py at a small size; and cells on their way in parcels to a machine
that has torch, torchvision and numpy alone, there interrupted and continued, and back to a table.
"""

import csv
import importlib.util
import json
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from alone import command_with
from fedgloss.cli import main
from fedgloss.study.layout import Layout
from fedgloss.study.study import load_study
from refusal import refused
from sweeps import BLOCK, prepare_for, train

ROOT = Path(__file__).resolve().parents[2]
ON_A_GPU = ("candidates", "profile")
"""The stages that have nothing to measure without one."""
SEARCH = {
    "study": "search",
    "seeds": [1],
    "training": {"rounds": 200, "last": 20, "evaluate_every": 20, "lr": 0.1},
    "sweep": {
        "held_out": {"share": 0.2},
        "choose": "best-mean",
        "search": [
            {"labels": ["feddyn"], "hyperparameters": {"alpha": [0.1, 0.3]}},
            {"labels": ["fedsam"], "hyperparameters": {"rho_l": [0.05, 0.1]}},
        ],
    },
    "grid": [{**BLOCK, "algorithms": ["feddyn", "fedsam"]}],
    "tables": {"trials": {"kind": "sweep"}},
}
WILD = {
    "study": "wild",
    "seeds": [0],
    "training": {"rounds": 20, "last": 5, "evaluate_every": 5},
    "algorithms": {"wild": {"like": "fedavg", "training": {"lr": 1e9}}},
    "grid": [{**BLOCK, "algorithms": ["fedavg", "wild"]}],
    "tables": {"accuracy": {"kind": "methods"}},
}


def home(folder, content):
    """A study's file in a folder, and its data and partitions below the results there."""
    file = folder / f"{content['study']}.yaml"
    file.write_text(json.dumps(content), encoding="utf-8")
    prepare_for(load_study(file), folder / "results")
    return file


def lease(folder, *arguments):
    """What benchmarks/lease.py says, called in a folder."""
    command = [sys.executable, ROOT / "benchmarks/lease.py", *arguments]
    return subprocess.run(map(str, command), capture_output=True, text=True, cwd=folder)


def packed(folder, *arguments):
    """The commands for the machine that `pack` prints, each a list of words."""
    shown = lease(folder, "pack", "--out", folder / "lease", *arguments)
    assert shown.returncode == 0, shown.stderr
    lines = [line for line in shown.stdout.splitlines() if " && " in line]
    return [shlex.split(command) for line in lines for command in line.split(" && ")]


def there(words, machine, out):
    """The command on the machine, in the checkout: on its processor, which a GPU has as well."""
    python, script, *arguments = words
    assert python == "python3" and (ROOT / script).is_file()
    places = {"/tmp/lease": str(machine), "$OUT": str(out)}
    arguments = [places.get(word, word) for word in arguments]
    if script.endswith("gpu.py"):
        arguments += ["--toy", "--device", "cpu"]
    code = f"import runpy, sys; sys.argv = {[script, *arguments]!r}\n"
    return command_with(
        ["torch", "torchvision", "numpy"], code + f"runpy.run_path({script!r}, run_name='__main__')"
    )


def call(words, machine, out):
    shown = subprocess.run(there(words, machine, out), capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0, shown.stdout + shown.stderr


def found(out):
    """What gpu.py has written."""
    return json.loads((out / "gpu.json").read_text())


@pytest.mark.slow
def test_every_stage_runs_without_a_gpu(tmp_path):
    study = home(tmp_path, WILD)
    unpack, run = packed(tmp_path, study, "fedavg", "--divergence", "wild")
    assert run[run.index("--stages") + 1] == "divergence,cells"
    call(unpack, tmp_path / "machine", tmp_path)
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--toy", "--device", "cpu"]
    command += ["--out", tmp_path / "out", "--data", tmp_path / "machine"]
    command += ["--precisions", "float16", "--minutes", "60"]
    shown = subprocess.run(map(str, command), capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    facts = found(tmp_path / "out")
    assert facts["failed"] == []
    assert facts["recorded"].startswith("nothing")
    reasons = {name: facts[name] for name in facts["stages"] if isinstance(facts[name], str)}
    assert reasons == dict.fromkeys(ON_A_GPU, "not measured: needs CUDA")
    assert len(facts["stages"]) == 16  # and so none was left out for lack of time
    assert len(facts["tune"]) == 8 and all(len(times) == 2 for times in facts["tune"].values())
    gaps = facts["agreement"]["float16"]
    assert len(gaps) == 3 and all(0 < gap < 0.2 for gap in gaps)
    assert all(gap < 1e-4 for gap in facts["others"]["agreement"]["graph, gap to autograd"])
    assert [*facts["others"]["repeats"].values()] == [[None], None]
    assert facts["divergence"]["wild/digits/alpha-0.5/smallcnn/wild/seed-0"]["diverged_in"] < 10
    assert "seconds" in facts["cells"]["groups"][0] and facts["cells"]["analyses"]
    with tarfile.open(tmp_path / "out" / "results.tar") as back:
        assert any(name.endswith("hessian.json") for name in back.getnames())


@pytest.mark.slow
def test_a_stage_that_fails_is_named_and_the_next_one_runs(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--toy", "--device", "cpu"]
    command += ["--out", tmp_path, "--data", tmp_path, "--stages", "cells,environment"]
    shown = subprocess.run(map(str, command), capture_output=True, text=True)
    assert shown.returncode == 1
    facts = found(tmp_path)
    assert facts["failed"] == ["cells"] and facts["cells"].startswith("JSONDecodeError: ")
    assert "torch" in facts["environment"]


def with_stages(out, stages, before=""):
    """gpu.py with other stages, a dictionary's text, and something done before they begin."""
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import gpu
gpu.STAGES = {stages}
sys.argv = ["gpu.py", "--toy", "--device=cpu", "--out={out}", "--stages=" + ",".join(gpu.STAGES)]
{before}
sys.exit(gpu.main())
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.slow
def test_stages_without_time_are_left_out_and_not_taken_for_done(tmp_path):
    """The clock runs since before torch was imported."""
    stages = "{'first': lambda bench: {}, 'second': lambda bench: {}}"
    shown = with_stages(tmp_path, stages, "gpu.BEGUN -= 8 * 60")
    assert shown.returncode == 3, shown.stderr
    assert found(tmp_path)["left_out"] == ["first", "second"]


@pytest.mark.slow
def test_a_stage_that_hangs_ends_and_earlier_findings_are_whole(tmp_path):
    stages = "{'done': lambda bench: {'is': 1}, 'hangs': lambda bench: time.sleep(300)}"
    shown = with_stages(tmp_path, stages, "gpu.BEGUN, gpu.HANGS = time.monotonic(), 5 - 8 * 60")
    assert shown.returncode == 1
    assert "Timeout (0:00:0" in shown.stderr and "in <lambda>" in shown.stderr
    assert found(tmp_path)["done"] == {"is": 1}


@pytest.mark.slow
def test_cells_are_trained_in_two_calls_and_brought_home(tmp_path, monkeypatch, capsys):
    file, machine = home(tmp_path, SEARCH), tmp_path / "machine"
    unpack, run = packed(tmp_path, file, "feddyn", "fedsam", "--bring", "feddyn")
    call(unpack, machine, tmp_path)
    interrupted_in_the_second_group(run, machine, tmp_path / "out1")
    first = found(tmp_path / "out1")["cells"]["groups"]
    assert "seconds" in first[0] and "interrupted" in first[1]
    with tarfile.open(tmp_path / "out1" / "averages-0.tar") as models:  # it came before the signal
        assert len(models.getnames()) == 2 and all("feddyn" in name for name in models.getnames())

    call(run, machine, tmp_path / "out2")
    second = found(tmp_path / "out2")["cells"]["groups"]
    assert second[0]["cells"] == [] and "seconds" in second[1]
    assert "seconds_a_unit" not in second[1]  # it went on, and says nothing of a whole run

    back = tmp_path / "out2" / "results.tar"
    with tarfile.open(back) as opened:
        assert not [name for name in opened.getnames() if name.endswith(".safetensors")]
    monkeypatch.chdir(tmp_path)
    Path("back").mkdir()
    subprocess.run(["tar", "-xf", back, "-C", "back"], check=True)
    assert main(["collect", str(file), "--results", "back/results", "--out", "runs.zip"]) == 0
    assert main(["import", "runs.zip", str(file)]) == 0
    assert "4 imported, 0 here already, 0 not there, 0 refused" in capsys.readouterr().err
    assert main(["table", str(file), "trials"]) == 0
    with open("results/tables/search/trials.csv", newline="") as table:
        rows = [*csv.DictReader(table)]
    assert len(rows) == 4 and all(float(row["mean"]) > 20 for row in rows)
    assert [row["algorithm"] for row in rows if row["state"] == "chosen"] == ["feddyn", "fedsam"]

    # As if none of this had happened.
    study, here, alone = load_study(file), Layout(Path("results")), tmp_path / "alone"
    prepare_for(study, alone)
    cell = study.cells[-1]
    train(study, alone, [cell], device="cpu")
    expected = Layout(alone).metrics(study.name, cell).read_bytes()
    assert here.metrics(study.name, cell).read_bytes() == expected

    again = lease(tmp_path, "pack", "--out", tmp_path / "lease", file, "feddyn", "fedsam")
    assert again.returncode == 2 and "all of these cells have been trained here" in again.stderr


def interrupted_in_the_second_group(run, machine, out):
    """A call that ends by a signal in the middle of the second group's rounds."""
    out.mkdir()
    with subprocess.Popen(there(run, machine, out), cwd=ROOT, stdout=subprocess.PIPE) as process:
        rows = out / "rows.csv"
        while not (rows.exists() and "fedsam" in rows.read_text()):
            assert process.poll() is None, "it ended before"
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 0


def test_parcels_that_cannot_be_used_are_refused(tmp_path):
    """One that was damaged on the way, and one that another checkout has packed."""
    unpack, _ = packed(tmp_path, home(tmp_path, WILD), "fedavg")
    parcel = Path(unpack[3])
    facts = (parcel / "parcel.json").read_text()
    others = json.dumps(json.loads(facts) | {"code": "other"})
    [partition] = parcel.rglob("partition.json")
    partition.write_text("{}")
    for text, reason in (
        (facts, "partition.json: is not the file that was packed (SHA-256)"),
        (others, "was packed by other code than this checkout's; pack it again"),
    ):
        (parcel / "parcel.json").write_text(text)
        shown = lease(ROOT, "unpack", parcel, tmp_path / "machine")
        assert shown.returncode == 2 and reason in shown.stderr
        assert shown.stderr.startswith("lease: error: ") and shown.stderr.count("\n") == 1


@pytest.mark.slow
def test_parcels_hold_what_is_allowed_and_come_in_any_order(tmp_path):
    file, machine = home(tmp_path, WILD), tmp_path / "machine"
    parcels = [unpack[3] for unpack in packed(tmp_path, file, "fedavg", "--most", "0.04")[::2]]
    count = len(parcels)
    assert count > 1
    images = Path("results/data/digits/data.safetensors")
    for come, parcel in enumerate(2 * parcels[::-1], 1):  # every call is made again
        assert (machine / images).exists() == (come > count)
        shown = lease(ROOT, "unpack", parcel, machine)
        assert shown.stdout == f"{machine}: {min(come, count)} of {count} parcels\n", shown.stderr
    assert (machine / images).read_bytes() == (tmp_path / images).read_bytes()
    assert {file.name for file in (machine / images).parent.iterdir()} == {
        "data.safetensors",
        "manifest.json",
    }
    out = tmp_path / "lease"
    shown = lease(tmp_path, "pack", "--out", out, file, "fedavg", "--most=0.01")
    assert shown.returncode == 2 and "--most: train_images-000.webp alone has" in shown.stderr
    shown = lease(tmp_path, "pack", "--out", tmp_path, file, "fedavg")
    assert shown.returncode == 2 and "holds no parcels (allowed: a new folder)" in shown.stderr


def benchmark(name):
    """A file of benchmarks, which are in no package; some names stand for other files here."""
    spec = importlib.util.spec_from_file_location(f"lent_{name}", ROOT / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    before = [*sys.path]
    sys.path.append(str(ROOT / "benchmarks"))
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def plan():
    return benchmark("plan")


@pytest.fixture(scope="module")
def lent():
    return benchmark("cells")


def bench_of(folder, plan, text, seconds=1e9):
    """A bench with so many seconds left, whose plan is one group of the pilots, at 10 s a unit."""
    study = load_study(ROOT / "config/pilots.yaml")
    group = [plan.planned(study, cell, (), ()) for cell in plan.group_of(study, text)]
    content = {"seconds_a_unit": 10, "groups": [group]}
    (folder / "plan.json").write_text(json.dumps(content))
    (folder / "results").mkdir()
    options = SimpleNamespace(data=folder, out=folder, device="cpu")
    clock = {"left": lambda: seconds, "write": lambda: None}
    return SimpleNamespace(options=options, found={"failed": []}, tiles={}, **clock)


@pytest.mark.parametrize(
    ("seconds", "begun"), [(73.9, 1), (74.1, 2), (96.1, 3)], ids=["one", "two", "all three"]
)
def test_cells_are_begun_that_end_in_time_with_a_tenth_to_spare(
    tmp_path, monkeypatch, lent, plan, seconds, begun
):
    """Two units each: 15 s to pack, 15 s for the group, and 11 s for each unit."""
    monkeypatch.setattr(lent, "train", lambda bench, cells, stopped: len(cells))
    [group] = lent.cells(bench_of(tmp_path, plan, "fedgamma", seconds))["groups"]
    assert len(group["cells"]) == begun


def test_a_signal_while_data_are_loaded_is_not_forgotten(tmp_path, monkeypatch, lent, plan):
    def train_cells(cells, data, *, watch, **options):
        signal.raise_signal(signal.SIGTERM)
        watch("cells", 10_000, 2500.0)
        pytest.fail("the first round is begun")

    monkeypatch.setattr(lent, "train_cells", train_cells)
    [group] = lent.cells(bench_of(tmp_path, plan, "feddyn"))["groups"]
    assert group["interrupted"] == "a signal came before the first round"


def test_a_searched_label_stands_for_all_its_trials(plan):
    study = load_study(ROOT / "config/pilots.yaml")
    labels = [cell.algorithm for cell in plan.group_of(study, "fedsmoo")]
    trials = [cell.algorithm for cell in study.cells if cell.algorithm.startswith("fedsmoo~")]
    assert len(trials) > 1 and labels == trials
    one = plan.group_of(study, f"{trials[0]}:1")
    assert [cell.algorithm for cell in one] == trials[:1]


def test_a_group_is_seed_after_seed_in_the_order_asked_for(plan):
    study = load_study(ROOT / "config/reproduction.yaml")
    cells = plan.group_of(study, "cifar10/fedsmoo-clipped,feddyn-clipped:200299,0")
    assert [(cell.algorithm, cell.seed) for cell in cells] == [
        ("fedsmoo-clipped", 200299),
        ("feddyn-clipped", 200299),
        ("fedsmoo-clipped", 0),
        ("feddyn-clipped", 0),
    ]


def test_groups_that_cannot_be_are_refused(plan):
    study = load_study(ROOT / "config/reproduction.yaml")
    with refused("fedsmo:0", "no cells of 'fedsmo'", "did you mean 'fedsmoo'"):
        plan.group_of(study, "fedsmo:0")
    words = [str(study.file), "fedavg"]
    options = {"unit": 18, "locals_of": (), "divergence": "", "seconds": 1}
    with refused("--bring", "no cells of 'fedglos'", "did you mean 'fedgloss'"):
        plan.plan_of(words, bring=["fedglos"], **options)
    with refused("no cells of the seed '7'"):
        plan.group_of(study, "fedavg:7")
    with refused("fedavg,fedavg-image-crops:0", "training.augmentation", "must agree"):
        plan.group_of(study, "cifar10/fedavg,fedavg-image-crops:0")
    with refused("'fedavg' is no study file"):
        [*plan.studies_and_groups(["fedavg"])]
    with refused("pilots.yaml: is followed by no group"):
        [*plan.studies_and_groups([str(ROOT / "config/pilots.yaml")])]


def test_no_archive_of_models_is_too_large_to_come_home(lent, tmp_path, monkeypatch):
    """Five averages of the CNN have 15 MiB; each archive is whole before it takes a place."""
    monkeypatch.chdir(tmp_path)
    cells = [{"train": {"run": f"run-{i}"}, "locals": i == 6 or None} for i in range(7)]
    for cell in cells[:2] + cells[3:]:
        Path(cell["train"]["run"]).mkdir()
        for name in ("average", "locals"):
            Path(cell["train"]["run"], f"{name}.safetensors").write_bytes(b"model")
    lent.pack_models(cells, tmp_path)
    archives = {}
    for file in tmp_path.glob("*.tar"):
        with tarfile.open(file) as opened:
            archives[file.stem] = opened.getnames()
    assert archives == {
        "averages-0": [f"run-{i}/average.safetensors" for i in (0, 1, 3, 4)],
        "averages-1": [f"run-{i}/average.safetensors" for i in (5, 6)],
        "locals-0": ["run-6/locals.safetensors"],
    }


def test_what_is_recorded_of_a_group_is_known_before(plan):
    """Cells of a method with the same variants are one stack; clipping is work of its own."""
    stacks_of = benchmark("lease").stacks_of
    study = load_study(ROOT / "config/reproduction.yaml")
    groups = [
        [plan.planned(study, cell, (), ()) for cell in plan.group_of(study, f"cifar10/{text}")]
        for text in ("fedavg,fedsmoo-clipped:0,42", "fedgloss,fedgloss-printed-dual:0", "fedavg:0")
    ]
    assert stacks_of({"groups": groups}) == ("fedavg=2,fedsmoo clipped at 10=2,fedgloss=1,fedavg=1")


def test_the_page_packs_every_pilot(plan):
    """The command on the page, in whose order they are trained, and what it prints."""
    page = (ROOT / "docs/lent-gpu.md").read_text(encoding="utf-8")
    [line] = [line for line in page.splitlines() if "lease.py pack" in line and "pilots" in line]
    words = shlex.split(line)
    study, groups = next(plan.studies_and_groups(words[words.index("config/pilots.yaml") :]))
    groups = [plan.group_of(study, text) for text in groups]
    assert sorted(str(cell) for group in groups for cell in group) == sorted(map(str, study.cells))
    planned = [[plan.planned(study, cell, (), ()) for cell in group] for group in groups]
    assert f"--warm {shlex.quote(benchmark('lease').stacks_of({'groups': planned}))} " in page
