"""The models: sizes as published, nothing but parameters, and what is refused."""

import pickle
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from fedgloss.models import MODELS, build_model
from refusal import refused

CIFAR, LANDMARKS, DIGITS = (3, 32, 32), (3, 224, 224), (1, 8, 8)
SHAPES = {"smallcnn": DIGITS, "cnn": CIFAR, "resnet18": CIFAR, "resnet18-cifar": CIFAR}


def model(name, seed=0, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(name, SHAPES.get(name, (3, 64, 64)), kwargs.pop("classes", 10), **kwargs)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("smallcnn", DIGITS, 10, 13_706),
        ("cnn", CIFAR, 10, 797_962),
        ("cnn", CIFAR, 100, 815_332),
        ("resnet18", CIFAR, 10, 11_181_642),
        ("resnet18", CIFAR, 100, 11_227_812),
        ("resnet18-cifar", CIFAR, 10, 11_173_962),
        ("resnet18-cifar", CIFAR, 100, 11_220_132),
        ("mobilenetv2", LANDMARKS, 2028, 4_821_740),
    ],
)
def test_parameter_counts_are_the_published_ones(name, shape, classes, parameters):
    net = build_model(name, shape, classes)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_models_map_a_batch_to_logits(name):
    shape = SHAPES.get(name, (3, 64, 64))
    assert model(name)(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("name", MODELS)
def test_the_state_is_the_parameters_alone(name):
    net = model(name)
    assert list(net.buffers()) == []
    groups = [m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)]
    assert set(groups) <= {2} and bool(groups) == (name not in ("smallcnn", "cnn"))


@pytest.mark.parametrize("name", MODELS)
def test_initial_values_come_from_torchs_generator(name):
    first, again, other = (list(model(name, seed).parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_training_mode_draws_nothing(name):
    """The paper mentions no dropout."""
    net, x = model(name).train(), torch.randn(2, *SHAPES.get(name, (3, 64, 64)))
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("name", ["smallcnn", "cnn"])
def test_the_small_models_are_plain_sequences_that_can_be_stacked(name):
    net = model(name)
    assert type(net) is nn.Sequential
    allowed = {nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Linear}
    assert {type(layer) for layer in net} <= allowed


def test_pooling_before_the_relu_changes_neither_values_nor_gradients():
    ours = model("cnn")
    order = [0, 2, 1, 3, 5, 4, *range(6, len(ours))]  # conv, ReLU, pool: the released code's
    theirs = nn.Sequential(*(ours[i] for i in order))
    assert [type(theirs[i]) for i in (1, 2)] == [nn.ReLU, nn.MaxPool2d]
    x = torch.randn(8, *CIFAR)
    results = []
    for net in (ours, theirs):
        net.zero_grad()
        loss = net(x).square().sum()
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in ours.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_cifar_stem_keeps_the_resolution():
    sizes = {}
    for name in ("resnet18", "resnet18-cifar"):
        net = model(name)
        net.layer1.register_forward_pre_hook(
            lambda module, args, name=name: sizes.update({name: tuple(args[0].shape[-2:])})
        )
        net(torch.zeros(1, *CIFAR))
    assert sizes == {"resnet18": (8, 8), "resnet18-cifar": (32, 32)}


@pytest.mark.parametrize("name", ["resnet18", "resnet18-cifar", "mobilenetv2"])
def test_a_stem_of_another_shape_is_initialised_like_the_original(name):
    """torchvision's rule: normal with variance 2 / fan out."""
    net = build_model(name, (1, 64, 64), 10)
    stem = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    assert stem.in_channels == 1
    expected = (2 / (stem.out_channels * stem.kernel_size[0] ** 2)) ** 0.5
    assert stem.weight.std().item() == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("cnn", (3, 15, 32)), ("smallcnn", (1, 3, 8)), ("mobilenetv2", (*CIFAR[:2], 31))],
)
def test_images_too_small_are_refused(name, shape):
    with refused(f"model {name}", "pixels", f"{shape[1]} x {shape[2]}"):
        build_model(name, shape, 10)


def test_building_a_cnn_imports_no_torchvision():
    code = (
        "import sys; from fedgloss.models import build_model; build_model('cnn', (3, 32, 32), 10)\n"
        "assert not {'torchvision', 'PIL', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Pretrained weights


def saved(tmp_path, net, **changes):
    file = tmp_path / "weights.safetensors"
    tensors = {name: p.detach().clone() for name, p in net.named_parameters()} | changes
    kept = {key: value for key, value in tensors.items() if value is not None}
    safetensors.torch.save_file(kept, file)
    return file


@pytest.mark.parametrize("name", ["cnn", "mobilenetv2"])
def test_weights_are_read_from_safetensors(tmp_path, name):
    source = model(name, seed=1)
    loaded = model(name, seed=2, weights=saved(tmp_path, source))
    assert all(
        torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True)
    )


def test_a_head_for_other_classes_keeps_its_initial_values(tmp_path):
    source, plain = model("resnet18", seed=1, classes=7), dict(model("resnet18").named_parameters())
    loaded = dict(model("resnet18", weights=saved(tmp_path, source)).named_parameters())
    for name, value in source.named_parameters():
        expected = plain[name] if name.startswith("fc.") else value
        assert torch.equal(loaded[name], expected), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"0.weight": torch.zeros(64, 3, 3, 3)}, ["'0.weight'", "(64, 3, 3, 3)", "(64, 3, 5, 5)"]),
        ({"0.bias": None}, ["no tensor '0.bias'"]),
        ({"bn1.running_mean": torch.zeros(64)}, ["'bn1.running_mean'", "not a parameter"]),
        ({"11.weight": torch.zeros(10, 99)}, ["'11.weight'", "(10, 99)"]),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, changes, words):
    file = saved(tmp_path, model("cnn"), **changes)
    with refused(file, *words):
        model("cnn", weights=file)


def test_weights_that_are_missing_or_a_pickle_are_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "exploded"), "w")

    with refused(tmp_path / "none.safetensors", "cannot be read"):
        model("cnn", weights=tmp_path / "none.safetensors")
    bomb = tmp_path / "weights.safetensors"
    bomb.write_bytes(pickle.dumps(Bomb()))
    with refused(bomb, "safetensors"):
        model("cnn", weights=bomb)
    assert not (tmp_path / "exploded").exists()


# A user's own model


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "def linear(shape, classes):\n"
        "    c, h, w = shape\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, classes))\n"
        "def batchnorm(shape, classes):\n"
        "    return nn.Sequential(nn.BatchNorm2d(shape[0]), nn.Flatten())\n"
        "def number(shape, classes):\n"
        "    return 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_a_users_model_is_found_by_import_path(module):
    net = build_model("my_models:linear", (3, 4, 5), 6)
    assert net(torch.zeros(2, 3, 4, 5)).shape == (2, 6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_models:batchnorm", ["buffer '0.running_mean'", "GroupNorm"]),
        ("my_models:number", ["int", "torch.nn.Module"]),
        ("my_models:absent", ["absent"]),
        ("no_such_package.models:net", ["no_such_package"]),
        ("lenet", ["'lenet'", *MODELS, "package.module:function"]),
    ],
)
def test_unusable_models_are_refused(module, name, words):
    with refused("model", *words):
        build_model(name, (3, 8, 8), 10)
