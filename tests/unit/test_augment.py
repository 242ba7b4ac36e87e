"""Augmentation: what is drawn, and that the device operations are torchvision's transforms."""

import numpy as np
import pytest
import torch
from scipy import stats

from fedgloss.data.augment import KINDS, crop_flip, draw, normalize
from fedgloss.rng import Stream
from fedgloss.torchvision_compat import torchvision
from refusal import refused

SIZES = [64] * 7 + [52]  # the paper's 500 images per client in mini-batches of 64


def rounds(kind, count):
    return np.concatenate([draw(kind, Stream(0, "augment", t, 5), SIZES) for t in range(count)])


# What is drawn


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_per_image_of_offsets_and_flip(kind):
    found = draw(kind, Stream(0, "augment"), SIZES)
    assert found.shape == (500, 3) and found.dtype == np.int64
    assert found.min(axis=0).tolist() >= [0, 0, 0]
    assert (found.max(axis=0) <= [8, 8, 1]).all()


def independent(kind):
    """Independent draws only: one row per mini-batch, or per image."""
    if kind == "image_aug":
        return rounds(kind, 80)
    return rounds(kind, 3000).reshape(3000, 500, 3)[:, ::64].reshape(-1, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_are_uniform_over_81_positions_and_flips_fair(kind):
    found = independent(kind)
    cells = np.bincount(found @ [18, 2, 1], minlength=162)
    assert len(cells) == 162 and cells.sum() >= 24_000
    assert stats.chisquare(cells).pvalue > 1e-3  # all 81 positions x flip, jointly
    assert stats.chisquare(np.bincount(found[:, :2] @ [9, 1])).pvalue > 1e-3
    assert stats.binomtest(int(found[:, 2].sum()), len(found)).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_successive_draws_are_independent(kind):
    found = independent(kind).astype(float)
    for a in range(3):
        for b in range(3):
            r, p = stats.pearsonr(found[:-1, a], found[1:, b])
            assert p > 1e-3, (a, b, r)


def test_batch_aug_draws_once_per_mini_batch():
    found = draw("batch_aug", Stream(1, "augment", 2, 3), SIZES)
    batches = np.split(found, np.cumsum(SIZES)[:-1])
    assert all((batch == batch[0]).all() for batch in batches)
    assert len({tuple(batch[0]) for batch in batches}) > 4


def test_image_aug_draws_for_each_image():
    found = draw("image_aug", Stream(1, "augment", 2, 3), SIZES)
    assert len({tuple(row) for row in found[:64]}) > 40


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_a_function_of_seed_purpose_round_and_client(kind):
    base = {"seed": 1, "purpose": "augment", "round": 2, "client": 3}
    first = draw(kind, Stream(**base), SIZES)
    assert np.array_equal(first, draw(kind, Stream(**base), SIZES))
    for key, value in (("seed", 9), ("round", 9), ("client", 9), ("purpose", "probe")):
        assert not np.array_equal(first, draw(kind, Stream(**(base | {key: value})), SIZES))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("batch_aug", [[5, 1, 1], [5, 1, 1], [4, 7, 0]]),
        ("image_aug", [[7, 7, 1], [4, 6, 0], [0, 1, 0]]),
    ],
)
def test_recorded_draws_stay_what_they_are(kind, expected):
    """As those of test_rng.py: no edit may move a number of a run."""
    assert draw(kind, Stream(42, "batches/augment", 7, 5), [2, 1]).tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_padding_sets_the_range_of_offsets(kind):
    found = np.concatenate(
        [draw(kind, Stream(0, "augment", t), SIZES, padding=1) for t in range(40)]
    )
    assert {tuple(row) for row in found[:, :2]} == {(y, x) for y in range(3) for x in range(3)}
    assert (draw(kind, Stream(0, "augment"), SIZES, padding=0)[:, :2] == 0).all()


def test_an_unknown_kind_is_refused():
    with refused("augmentation", "'mixup'", "batch_aug", "image_aug"):
        draw("mixup", Stream(0, "augment"), SIZES)


# What is done with it


def images(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def reference(image, dy, dx, flip, padding):
    """torchvision on a single image: pad with zeros, crop, flip."""
    functional = torchvision("transforms.functional")
    height, width = image.shape[-2:]
    out = functional.crop(functional.pad(image, padding), dy, dx, height, width)
    return functional.hflip(out) if flip else out


@pytest.mark.parametrize(
    ("shape", "padding"), [((3, 32, 32), 4), ((1, 8, 8), 1), ((3, 7, 10), 2), ((3, 6, 6), 0)]
)
def test_crop_flip_equals_torchvision_at_every_offset(shape, padding):
    side = 2 * padding + 1
    every = [(y, x, f) for y in range(side) for x in range(side) for f in (0, 1)]
    batch = images(len(every), *shape)
    found = crop_flip(batch, torch.tensor(every), padding)
    assert found.dtype == torch.uint8
    for image, row, out in zip(batch, every, found, strict=True):
        assert torch.equal(out, reference(image, *row, padding))


def test_clients_stacked_and_one_by_one_are_the_same():
    batch = images(5, 16, 3, 32, 32)
    draws = torch.from_numpy(
        np.stack([draw("image_aug", Stream(0, "augment", client=k), [16]) for k in range(5)])
    )
    together = crop_flip(batch, draws, 4)
    for k in range(5):
        assert torch.equal(together[k], crop_flip(batch[k], draws[k], 4))


def test_torchvision_on_a_batch_shares_one_offset_and_flip_as_batch_aug_does():
    """What the released code does: transforms applied to the whole mini-batch tensor."""
    transforms = torchvision("transforms")
    pipeline = transforms.Compose(
        [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    )
    batch = images(8, 3, 32, 32)
    every = torch.tensor([(y, x, f) for y in range(9) for x in range(9) for f in (0, 1)])
    candidates = crop_flip(batch.expand(162, 8, 3, 32, 32), every[:, None].expand(162, 8, 3), 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(5):
            matches = (pipeline(batch) == candidates).flatten(1).all(1)
            assert matches.sum() == 1


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8)])
def test_the_pipeline_equals_torchvision_bit_for_bit(shape):
    """Crop, flip, ToTensor, Normalize on the same offsets."""
    channels = shape[0]
    mean, std = (0.4914, 0.4822, 0.4465)[:channels], (0.2470, 0.2434, 0.2616)[:channels]
    batch, draws = (
        images(40, *shape),
        torch.from_numpy(draw("image_aug", Stream(0, "augment"), [40])),
    )
    ours = normalize(crop_flip(batch, draws, 4), mean, std, torch.float32)
    functional = torchvision("transforms.functional")
    for image, row, out in zip(batch, draws.tolist(), ours, strict=True):
        cropped = reference(image, *row, 4).permute(1, 2, 0).numpy()
        theirs = functional.normalize(functional.to_tensor(cropped), mean, std)
        assert torch.equal(out, theirs)


def test_padding_is_black_before_normalisation():
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    out = crop_flip(white, torch.tensor([[0, 8, 0]]), 4)
    assert (out[0, :, :4] == 0).all() and (out[0, :, :, -4:] == 0).all()
    assert (out[0, :, 4:, :-4] == 255).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalize_gives_the_dtype_and_leaves_its_input(dtype):
    for source in (images(2, 3, 4, 4), images(2, 3, 4, 4).to(dtype)):
        before = source.clone()
        assert normalize(source, (0.5,) * 3, (0.25,) * 3, dtype).dtype == dtype
        assert torch.equal(source, before)


def test_nothing_waits_for_the_device():
    """Tensors without data stand for a device: any value read on the host would raise."""
    batch = torch.empty(2, 16, 3, 32, 32, dtype=torch.uint8, device="meta")
    draws = torch.empty(2, 16, 3, dtype=torch.int64, device="meta")
    out = normalize(crop_flip(batch, draws, 4), (0.5,) * 3, (0.25,) * 3, torch.float32)
    assert out.shape == batch.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_pipeline_can_be_captured_in_a_cuda_graph():
    batch, draws = images(16, 3, 32, 32).cuda(), torch.zeros(16, 3, dtype=torch.int64).cuda()

    def step():
        return normalize(crop_flip(batch, draws, 4), (0.5,) * 3, (0.25,) * 3, torch.float32)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    draws.copy_(torch.from_numpy(draw("image_aug", Stream(0, "augment"), [16])))
    graph.replay()
    assert torch.equal(out, step())
