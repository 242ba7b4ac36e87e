"""What training and analysis read, damaged: settings, splits, data, weights, manifests."""

import json

import pytest
import torch

from fedgloss.data.dataset import load
from fedgloss.data.partition.partition import load_partition, make_partition
from fedgloss.data.partition.picture import plot_partition
from fedgloss.errors import InputError
from fedgloss.models import build_model
from fedgloss.models.weights import read
from fedgloss.tensors import load_tensors
from reliability.hostile import (
    Damage,
    accepted,
    as_json,
    at_random,
    bytes_at_random,
    fedgloss,
    key_by_key,
)
from reliability.toy import CELL, INPUTS, settings, training
from unit.cells import JOBS, job_file


def reasonable(case):
    """Whether a case does not ask for years of training: that is allowed."""
    training = case.value["settings"].get("training")
    return not isinstance(training, dict) or all(
        type(training.get(key)) is not int or training[key] < 100 for key in ("rounds", "epochs")
    )


GOOD = settings(CELL)
JOB = training(CELL, "new/run")
TRAIN = ["train", "job.json", "--device", "cpu"]


def job_entries(told):
    """All entries of a training job's file."""
    return JOBS["train"] | told


def in_job(cases):
    """Damaged settings in a job's file that is whole else: no other path is written to."""
    for case in cases:
        yield case._replace(value=job_entries({**JOB, "settings": case.value}))


def train_with(project, what, **changes):
    """Train with other settings; a refusal names one of the words."""
    job_file(project / "job.json", **{**JOB, "settings": {**GOOD, **changes}})
    return lambda *words: accepted(what, TRAIN, project / "new", words)


def test_settings(project):
    good = settings(CELL)
    train = Damage(project / "job.json", TRAIN, project / "new", job_entries(JOB))
    cases = in_job(key_by_key(good, "settings", wrong=5))
    train(filter(reasonable, cases))
    # Which of several changed keys is named first is open.
    train(filter(reasonable, in_job(at_random(good, "settings", 150))), [""], keys=False)
    before, after = as_json(job_entries({**JOB, "settings": "HERE"})).split(b'"HERE"')
    damaged = bytes_at_random(as_json(good), "settings", 100)
    train((c._replace(value=before + c.value + after) for c in damaged), [""], keys=False)


def test_the_entries_of_a_job_file(project):
    """Each dropped, renamed, or given values of other kinds."""
    told = job_entries({key: value for key, value in JOB.items() if key != "settings"})
    whole = {**told, "settings": JOB["settings"]}
    train = Damage(project / "job.json", TRAIN, project / "new", whole)
    damaged = key_by_key(told, "job", wrong=6)
    # A path may be any text; where it leads is up to who writes the file.
    cases = (c for c in damaged if not isinstance(c.value.get(c.key), str))
    train(c._replace(value={**c.value, "settings": JOB["settings"]}) for c in cases)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": ":f"}, [":f", "imported"]),
        ({"model": ".a:b"}, [".a:b", "imported"]),
        ({"model": "os:getcwd"}, ["os:getcwd", "(shape, classes)"]),
        ({"model": "math:pi"}, ["math:pi", "(shape, classes)"]),
        ({"method": ":f"}, [":f", "imported"]),
        ({"method": "math:pi"}, ["math:pi", "not a function"]),
        ({"seed": 2**63}, ["settings.seed"]),
        ({"seed": -1}, ["settings.seed"]),
        ({"hyperparameters": {**GOOD["hyperparameters"], "rho": 10**400}}, ["hyperparameters.rho"]),
        ({"hyperparameters": {**GOOD["hyperparameters"], "rho": 1e300}}, ["hyperparameters.rho"]),
        ({"training": {**GOOD["training"], "lr": 10**400}}, ["lr"]),
        ({"training": {**GOOD["training"], "lr": 1e39}}, ["lr"]),
    ],
    ids=lambda value: f"{value}"[:40],
)
def test_settings_that_were_not_refused_by_name(project, change, words):
    train = train_with(project, str(change), **change)
    assert not train(*words[:1]) and not train(*words[1:])


def test_settings_nested_too_deeply_or_given_twice(project):
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    twice = json.dumps(job_entries(JOB)).replace('"seed"', '"seed": 7, "seed"')
    for text, word in ((deep, "nested too deeply"), (twice, "'seed' is given twice")):
        (project / "job.json").write_text(text)
        assert not accepted(word, TRAIN, project / "new", [word])


OWN = {"clients": [[0, 1], [2, 3, 4], [5]], "test": [0, 2]}
LEAF = {
    "users": [0, 1],
    "num_samples": [2, 2],
    "users_data": {
        "0": {"x": ["0.png", "2.png"], "y": [0, 0]},
        "1": {"x": ["1.png", "3.png"], "y": [1, 1]},
    },
}
LEAF_TEST = {"users": [7], "users_data": {"7": {"x": ["12.png", "14.png"], "y": [0, 0]}}}
IMPORT = ["partition", "--data", "data", "--scheme", "file", "--file", "split.json"]
IMPORT += ["--out", "new/partition.json"]


@pytest.mark.parametrize("kind", ["own", "leaf", "test"])
def test_split_files(project, kind):
    (project / "split.json").write_bytes(as_json(LEAF))
    good = {"own": OWN, "leaf": LEAF, "test": LEAF_TEST}[kind]
    file = project / ("test.json" if kind == "test" else "split.json")
    split = Damage(file, IMPORT, project / "new", good)
    split(key_by_key(good, kind, wrong=6), [".json"])
    split(at_random(good, kind, 80), [".json"])
    split(bytes_at_random(as_json(good), kind, 60), [".json"])


@pytest.mark.parametrize(
    ("good", "old", "new", "word"),
    [
        (OWN, "[0, 1]", f"[{2**63}]", "not that of an image"),
        (OWN, "[0, 1]", f"[{2**63 - 1}]", "outside 0"),
        (LEAF, "[0, 0]", "[Infinity, 0]", "infer"),
        (LEAF, "[0, 0]", "[0.7, 0]", "integer"),
        (LEAF, '"users"', '"users": [1], "users"', "twice"),
        (OWN, '"clients"', '"clients": [[3]], "clients"', "twice"),
    ],
    ids=[
        "int64 plus one",
        "int64",
        "infinite label",
        "half a label",
        "users twice",
        "clients twice",
    ],
)
def test_splits_that_were_not_refused_in_one_line(project, good, old, new, word):
    text = json.dumps(good)
    assert old in text
    (project / "split.json").write_text(text.replace(old, new, 1))
    words = ["split.json"] if word == "infer" else [word]
    assert not accepted(word, IMPORT, project / "new", words)


def test_a_test_file_without_users(project):
    (project / "split.json").write_bytes(as_json(LEAF))
    (project / "test.json").write_bytes(as_json({**LEAF_TEST, "users": []}))
    assert not accepted("no users", IMPORT, project / "new", ["test.json: not a LEAF split"])


@pytest.mark.parametrize("alpha", ["1e-10", "1e-400", "1e10", "9" * 400, "1e999999"])
@pytest.mark.parametrize("scheme", ["dirichlet", "dirichlet-per-class"])
def test_concentrations_that_no_float_holds_are_refused(project, scheme, alpha):
    command = ["partition", "--data", "data", "--scheme", scheme, "--clients", "3"]
    command += ["--alpha", alpha, "--out", "new/partition.json"]
    assert not accepted(alpha[:9], command, project / "new", ["alpha"])


@pytest.mark.parametrize("alpha", ["1e-9", "1e9", "0.000000001", "999999999"])
@pytest.mark.parametrize("scheme", ["dirichlet", "dirichlet-per-class"])
def test_and_those_at_the_limits_end(project, scheme, alpha):
    command = ["partition", "--data", "data", "--scheme", scheme, "--clients", "2"]
    command += ["--alpha", alpha, "--out", "new/partition.json"]
    assert accepted(alpha, command, project / "new") or scheme == "dirichlet-per-class"


def test_the_manifest_of_prepared_data(project):
    good = json.loads((project / "data" / "manifest.json").read_bytes())
    free = ("source", "size", "train", "test", "train_images_in_test")
    used = {key: good[key] for key in good if key not in free}
    train = Damage(project / "data" / "manifest.json", TRAIN, project / "new", used)
    # Another hash than the data's is met where it is compared with the partition's.
    words = ["data/", "data: holds", "made for other data"]
    train(key_by_key(used, "manifest", wrong=5), words)
    train(at_random(used, "manifest", 100), words)
    train(bytes_at_random(as_json(used), "manifest", 60), words)


def test_prepared_data_with_damaged_bytes(project):
    """Whatever byte it is: the hash is checked before training."""
    file = project / "data" / "data.safetensors"
    train = Damage(file, TRAIN, project / "new")
    train(bytes_at_random(file.read_bytes(), "data", 40), ["data/"])


def tensors_of(project, **changes):
    """The prepared data with some tensors changed, under a manifest that describes them."""
    from fedgloss.data.dataset import _dtype
    from fedgloss.tensors import save_tensors

    file, manifest = project / "data" / "data.safetensors", project / "data" / "manifest.json"
    tensors = {key: tensor.clone() for key, tensor in load_tensors(file).items()} | changes
    save_tensors(file, {key: tensor for key, tensor in tensors.items() if tensor is not None})
    record = json.loads(manifest.read_bytes())
    shapes = {k: [_dtype(t), *t.shape] for k, t in sorted(load_tensors(file).items())}
    record |= {"tensors": shapes, "bytes": file.stat().st_size}
    manifest.write_text(json.dumps(record))


UINT8 = torch.zeros(12, 3, 8, 8, dtype=torch.uint8)
LABELS = torch.arange(12) % 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"train_labels": LABELS + 1}, "train_labels"),
        ({"train_labels": LABELS - 1}, "train_labels"),
        ({"train_labels": LABELS[:-1]}, "train_labels"),
        ({"train_labels": LABELS.int()}, "train_labels"),
        ({"train_labels": LABELS[:, None]}, "train_labels"),
        ({"test_labels": torch.full((6,), 2)}, "test_labels"),
        ({"train_images": UINT8.int()}, "train_images"),
        ({"train_images": UINT8[:, 0]}, "train_images"),
        ({"train_images": UINT8[:0], "train_labels": LABELS[:0]}, "train_images"),
        ({"test_images": UINT8[:6, :1]}, "test_images"),
        ({"train_users": LABELS[:3]}, "train_users"),
        ({"train_users": LABELS.double()}, "train_users"),
        ({"train_names": LABELS}, "train_names"),
        ({"train_labels": None}, "train_labels"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_tensors_that_are_no_data_set(project, changes, word):
    tensors_of(project, **changes)
    with pytest.raises(InputError, match=word):
        load(project / "data")


def test_names_that_are_not_one_for_each_image(project):
    for names in (b"a\nb", b"\xff\xfe", b"", b"\n" * 40):
        tensors_of(project, train_names=torch.tensor([*names], dtype=torch.uint8))
        (project / "split.json").write_bytes(as_json(LEAF))
        data = load(project / "data")
        with pytest.raises(InputError, match="train_names"):
            make_partition(
                data, project / "p.json", scheme="file", clients=None, alpha=None, seed=0,
                file=project / "split.json",
            )  # fmt: skip
    assert not (project / "p.json").exists()


def test_partition_files(project):
    good = json.loads((project / "partition.json").read_bytes())
    used = {key: good[key] for key in ("format", "dataset", "sha256", "test", "clients")}
    del used["dataset"]["name"], used["dataset"]["images"]
    train = Damage(project / "partition.json", TRAIN, project / "new", used)
    train(key_by_key(used, "partition", wrong=5), ["partition.json"])
    train(at_random(used, "partition", 80), ["partition.json"])
    train(bytes_at_random(as_json(used), "partition", 80), ["partition.json"])


def test_a_partition_of_more_images_than_the_data_has(project):
    record = json.loads((project / "partition.json").read_bytes())
    record["dataset"]["train_images"] = 10**9
    (project / "partition.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="numbers of images"):
        load_partition(project / "partition.json", load(project / "data"))


def framed(header, body):
    text = header if isinstance(header, bytes) else as_json(header)
    return len(text).to_bytes(8, "little") + text + body


@pytest.fixture
def weights(project):
    """The header and the bytes of a trained model."""
    content = (project / "results/runs/toy" / CELL / "average.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def weight_cases(header, body, seed):
    for case in (*key_by_key(header, seed, wrong=3), *at_random(header, seed, 60)):
        yield case._replace(key="", value=framed(case.value, body))
    yield from bytes_at_random(framed(header, body), seed, 60)


def test_models_of_a_run(project, weights):
    run = f"results/runs/toy/{CELL}"
    told = {**INPUTS, "run": run, "out": "new/l.csv"}
    command = ["landscape", job_file(project / "draw.json", "landscape", **told)]
    analyse = Damage(project / run / "average.safetensors", command, project / "new")
    analyse(weight_cases(*weights, "models"))


def test_initial_weights(weights, tmp_path):
    """Through the library: every file is refused in one line that names it, or read whole."""
    file, fates = tmp_path / "weights.safetensors", set()
    for case in weight_cases(*weights, "weights"):
        file.write_bytes(case.value)
        model = build_model("smallcnn", (3, 8, 8), 2)
        try:
            read(model, file)
            fates.add("read")
        except InputError as error:
            fates.add("refused")
            assert str(file) in str(error) and str(error).isprintable(), case.what
    assert fates == {"read", "refused"}


def test_weights_with_a_name_twice_are_refused(weights, tmp_path):
    header, body = weights
    text = as_json(header)
    name = json.dumps(next(iter(header))).encode()
    (tmp_path / "w").write_bytes(framed(b"{" + name + b": {}, " + text[1:], body))
    with pytest.raises(InputError, match="twice"):
        load_tensors(tmp_path / "w")


@pytest.mark.parametrize("command", ["landscape", "hessian"])
def test_the_manifest_of_a_run_that_is_analysed(project, command):
    run = f"results/runs/toy/{CELL}"
    good = json.loads((project / run / "manifest.json").read_bytes())
    used = {key: good[key] for key in ("status", "inputs", "settings")}
    used["inputs"] = {"data": used["inputs"]["data"]}
    used["settings"] = {"model": used["settings"]["model"], "seed": used["settings"]["seed"]}
    used["outputs"] = {"average.safetensors": good["outputs"]["average.safetensors"]}
    told = {**INPUTS, "run": run, "out": "new/out"}
    command = [command, job_file(project / "analyse.json", command, **told)]
    analyse = Damage(project / run / "manifest.json", command, project / "new", used)
    analyse(key_by_key(used, "analysed", wrong=8), ["manifest.json"])
    analyse(at_random(used, "analysed", 40), ["manifest.json"])
    analyse(bytes_at_random(as_json(used), "analysed", 40), ["manifest.json"])


def test_several_runs_at_once_name_the_broken_one(project):
    runs = [f"results/runs/toy/{CELL[:-1]}{seed}" for seed in (0, 1)]
    (project / runs[1] / "manifest.json").write_text("{")
    jobs = [
        job_file(project / f"{i}.json", "hessian", **INPUTS, run=run, out=f"{i}-made.json")
        for i, run in enumerate(runs)
    ]
    code, lines = fedgloss("hessian", *jobs)
    assert code == 2 and runs[1] in lines[-1] and lines[-1].startswith("fedgloss: error: ")
    assert sum("error" in line for line in lines) == 1  # the others are the first's progress


def test_classes_named_like_formulas_are_drawn_as_they_are(project):
    record = json.loads((project / "data" / "manifest.json").read_bytes())
    record |= {"classes": [r"$\frac$", "$x^$"], "name": r"$\nothing{$"}
    (project / "data" / "manifest.json").write_text(json.dumps(record))
    plot_partition(project / "partition.json", load(project / "data"), project / "p.png")
    assert (project / "p.png").read_bytes().startswith(b"\x89PNG")
