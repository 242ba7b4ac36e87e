"""Every draw is a pure function of (seed, purpose, round, client, step), and stays what it is."""

import hashlib
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedgloss.rng import Stream

keys = st.tuples(
    st.integers(0, 2**63 - 1),
    st.text(max_size=20),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
)
fuzz = settings(max_examples=100, deadline=None)


def stream(seed=0, purpose="batches", round=0, client=0, count=64):
    return Stream(seed, purpose, round, client).bits(count)


# Recorded draws. They may never change: neither a release of NumPy nor an edit may move a number.
GOLDEN = {
    "bits": (
        lambda: Stream(42, "batches", round=7, client=5).bits(3).tolist(),
        [13697874215756281459, 17558371438843346646, 9716895704856698256],
    ),
    "bits at the far end": (
        lambda: Stream(2**63 - 1, "", round=2**40, client=2**40).bits(2).tolist(),
        [10664330520073253775, 16957889390063787957],
    ),
    "uniform": (
        lambda: Stream(0, "u").uniform(3).tolist(),
        [0.999780674152705, 0.9197472804764611, 0.22329275929205605],
    ),
    "permutation": (
        lambda: Stream(200299, "batches", 3, 1).of("epoch-0").permutation(10).tolist(),
        [3, 7, 0, 4, 9, 1, 5, 8, 6, 2],
    ),
    "seed of a step": (
        lambda: [Stream(3, "batches", 7, 5).of("model").seed_of(step) for step in (0, 4)],
        [589799185124666713, 7645811120377729105],
    ),
    "participants": (
        lambda: Stream(0, "participants", 1).sample(5, 100).tolist(),
        [62, 70, 88, 90, 94],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_recorded_draws(name):
    draw, expected = GOLDEN[name]
    assert draw() == expected


def test_recorded_digest_of_many_draws():
    """A long stream, so that no block boundary of the generator can move unseen."""
    digest = hashlib.sha256(Stream(0, "digest", 3, 4).bits(10_001).astype("<u8").tobytes())
    assert digest.hexdigest() == "c7d78c856ecd84d5ef9b47b864447aac41acd832b139d22732dafa0c37b9d0eb"


def philox4x64(counter, key):
    """Philox4x64-10 as published (Salmon et al. 2011, section 4.3), on Python integers."""
    low = 2**64 - 1
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(b >> 64) ^ c[1] ^ k[0], b & low, (a >> 64) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + 0x9E3779B97F4A7C15) & low, (k[1] + 0xBB67AE8584CAA73B) & low]
    return c


@fuzz
@given(keys)
def test_the_bits_are_those_of_the_published_generator(parts):
    seed, purpose, round, client = parts
    key = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    key = [int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")]
    expected = [n for block in (1, 2) for n in philox4x64([block, 0, client, round], key)]
    assert Stream(*parts).bits(8).tolist() == expected


@fuzz
@given(keys, st.integers(0, 50))
def test_a_draw_is_pure(parts, count):
    before = Stream(*parts).bits(count)
    np.random.seed(0)
    np.random.rand(3)
    stream(parts[0] + 1)
    assert np.array_equal(Stream(*parts).bits(count), before)


def test_draws_leave_numpys_global_generator_alone():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    Stream(0, "x").permutation(100)
    assert np.array_equal(np.random.get_state()[1], before)


def test_threads_do_not_disturb_one_another():
    expected = [stream(client=k, count=1000) for k in range(8)]
    found = {}
    threads = [
        threading.Thread(target=lambda k=k: found.update({k: stream(client=k, count=1000)}))
        for k in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[k], expected[k]) for k in range(8))


@fuzz
@given(keys, st.integers(0, 40), st.integers(0, 40))
def test_a_longer_draw_begins_with_the_shorter_one(parts, a, b):
    short, long = sorted((a, b))
    longer = Stream(*parts).bits(long)
    assert np.array_equal(longer[:short], Stream(*parts).bits(short))


@fuzz
@given(keys, keys)
def test_streams_differ_by_each_part_of_the_key(one, other):
    """The bits, not their order: streams must share no value at all (chance: below 1e-15)."""
    for i in range(4):
        if one[i] != other[i]:
            mixed = (*one[:i], other[i], *one[i + 1 :])
            a, b = (Stream(*k).bits(32) for k in (one, mixed))
            assert not set(a.tolist()) & set(b.tolist())


def test_neighbouring_rounds_and_clients_never_overlap():
    values = [stream(round=t, client=k) for t in range(20) for k in range(20)]
    assert len(np.unique(np.concatenate(values))) == 20 * 20 * 64


def test_seed_and_purpose_do_not_run_together():
    assert not np.array_equal(stream(1, "1/x"), stream(11, "/x"))
    assert not np.array_equal(stream(1, "2"), stream(12, ""))


@fuzz
@given(keys, st.integers(0, 300))
def test_a_permutation_has_every_item_once(parts, count):
    order = Stream(*parts).permutation(count)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


@fuzz
@given(keys, st.integers(0, 200), st.integers(0, 200))
def test_a_sample_is_increasing_and_without_repetition(parts, a, b):
    count, population = sorted((a, b))
    ids = Stream(*parts).sample(count, population)
    assert ids.dtype == np.int64 and len(ids) == count
    assert np.all(np.diff(ids) > 0)
    assert not count or (ids[0] >= 0 and ids[-1] < population)


@fuzz
@given(keys)
def test_uniforms_keep_their_bounds(parts):
    uniforms = Stream(*parts).uniform(100)
    assert uniforms.dtype == np.float64 and 0 <= uniforms.min() <= uniforms.max() < 1


def chi_square(counts, expected):
    return stats.chisquare(counts, np.full(len(counts), expected)).pvalue


def test_every_client_is_sampled_equally_often():
    counts = np.zeros(20)
    for t in range(4000):
        counts[Stream(7, "participants", t).sample(5, 20)] += 1
    # Without replacement counts vary less than a multinomial's: scale by 1 / (1 - 5 / 20).
    statistic = ((counts - 1000) ** 2 / 1000).sum() / 0.75 / (20 / 19)
    assert 0.001 < stats.chi2.sf(statistic, 19) < 0.999


def test_every_order_of_four_items_is_equally_likely():
    orders = [tuple(Stream(3, "orders", t).permutation(4)) for t in range(12_000)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and chi_square(counts, 500) > 0.001


def test_uniforms_are_uniform():
    assert stats.kstest(Stream(5, "uniform").uniform(20_000), "uniform").pvalue > 0.001


def test_draws_of_neighbouring_clients_are_uncorrelated():
    a = np.concatenate([Stream(0, "x", t, 0).uniform(10) for t in range(1000)])
    b = np.concatenate([Stream(0, "x", t, 1).uniform(10) for t in range(1000)])
    c = np.concatenate([Stream(0, "x", t + 1, 0).uniform(10) for t in range(1000)])
    for other in (b, c):
        assert stats.pearsonr(a, other).pvalue > 0.001
