"""Every draw is a pure function of (seed, purpose, round, client), and stays what it is."""

import hashlib
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedgloss import rng

keys = st.tuples(
    st.integers(0, 2**63 - 1),
    st.text(max_size=20),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
)
fuzz = settings(max_examples=100, deadline=None)


def stream(seed=0, purpose="batches", round=0, client=0, count=64):
    return rng.bits(seed, purpose, count, round, client)


# Recorded draws. They may never change: neither a release of NumPy nor an edit may move a number.
GOLDEN = {
    "bits": (
        lambda: rng.bits(42, "batches", 3, round=7, client=5).tolist(),
        [13697874215756281459, 17558371438843346646, 9716895704856698256],
    ),
    "bits at the far end": (
        lambda: rng.bits(2**63 - 1, "", 2, round=2**40, client=2**40).tolist(),
        [10664330520073253775, 16957889390063787957],
    ),
    "uniform": (
        lambda: rng.uniform(0, "u", 3).tolist(),
        [0.999780674152705, 0.9197472804764611, 0.22329275929205605],
    ),
    "permutation": (
        lambda: rng.permutation(200299, "batches/epoch-0", 10, 3, 1).tolist(),
        [3, 7, 0, 4, 9, 1, 5, 8, 6, 2],
    ),
    "participants": (
        lambda: rng.sample(0, "participants", 5, 100, 1).tolist(),
        [62, 70, 88, 90, 94],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_recorded_draws(name):
    draw, expected = GOLDEN[name]
    assert draw() == expected


def test_recorded_digest_of_many_draws():
    """A long stream, so that no block boundary of the generator can move unseen."""
    digest = hashlib.sha256(rng.bits(0, "digest", 10_001, 3, 4).astype("<u8").tobytes())
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
    assert rng.bits(seed, purpose, 8, round, client).tolist() == expected


@fuzz
@given(keys, st.integers(0, 50))
def test_a_draw_is_pure(parts, count):
    seed, purpose, round, client = parts
    before = rng.bits(seed, purpose, count, round, client)
    np.random.seed(0)
    np.random.rand(3)
    stream(seed + 1)
    assert np.array_equal(rng.bits(seed, purpose, count, round, client), before)


def test_draws_leave_numpys_global_generator_alone():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    rng.permutation(0, "x", 100)
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
    seed, purpose, round, client = parts
    short, long = sorted((a, b))
    longer = rng.bits(seed, purpose, long, round, client)
    assert np.array_equal(longer[:short], rng.bits(seed, purpose, short, round, client))


@fuzz
@given(keys, keys)
def test_streams_differ_by_each_part_of_the_key(one, other):
    """The bits, not their order: streams must share no value at all (chance: below 1e-15)."""
    for i in range(4):
        if one[i] != other[i]:
            mixed = (*one[:i], other[i], *one[i + 1 :])
            a, b = (rng.bits(k[0], k[1], 32, k[2], k[3]) for k in (one, mixed))
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
    seed, purpose, round, client = parts
    order = rng.permutation(seed, purpose, count, round, client)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(count))


@fuzz
@given(keys, st.integers(0, 200), st.integers(0, 200))
def test_a_sample_is_increasing_and_without_repetition(parts, a, b):
    count, population = sorted((a, b))
    ids = rng.sample(parts[0], parts[1], count, population, parts[2])
    assert ids.dtype == np.int64 and len(ids) == count
    assert np.all(np.diff(ids) > 0)
    assert not count or (ids[0] >= 0 and ids[-1] < population)


@fuzz
@given(keys)
def test_uniforms_keep_their_bounds(parts):
    seed, purpose, round, client = parts
    uniforms = rng.uniform(seed, purpose, 100, round, client)
    assert uniforms.dtype == np.float64 and 0 <= uniforms.min() <= uniforms.max() < 1


def chi_square(counts, expected):
    return stats.chisquare(counts, np.full(len(counts), expected)).pvalue


def test_every_client_is_sampled_equally_often():
    counts = np.zeros(20)
    for t in range(4000):
        counts[rng.sample(7, "participants", 5, 20, t)] += 1
    # Without replacement counts vary less than a multinomial's: scale by 1 / (1 - 5 / 20).
    statistic = ((counts - 1000) ** 2 / 1000).sum() / 0.75 / (20 / 19)
    assert 0.001 < stats.chi2.sf(statistic, 19) < 0.999


def test_every_order_of_four_items_is_equally_likely():
    orders = [tuple(rng.permutation(3, "orders", 4, t)) for t in range(12_000)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and chi_square(counts, 500) > 0.001


def test_uniforms_are_uniform():
    assert stats.kstest(rng.uniform(5, "uniform", 20_000), "uniform").pvalue > 0.001


def test_draws_of_neighbouring_clients_are_uncorrelated():
    a = np.concatenate([rng.uniform(0, "x", 10, t, 0) for t in range(1000)])
    b = np.concatenate([rng.uniform(0, "x", 10, t, 1) for t in range(1000)])
    c = np.concatenate([rng.uniform(0, "x", 10, t + 1, 0) for t in range(1000)])
    for other in (b, c):
        assert stats.pearsonr(a, other).pvalue > 0.001
