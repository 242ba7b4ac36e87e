"""Who gets which image: the generators' properties, and ours against the official splits."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedgloss.data.partition import generators
from fedgloss.data.partition.partition import describe
from fedgloss.errors import InputError
from fedgloss.rng import Stream
from refusal import refused

CIFAR10 = np.repeat(np.arange(10), 500)  # a tenth of CIFAR-10: 100 clients of 50 images


def generate(scheme, labels, clients, seed, alpha):
    if scheme == "iid":
        return generators.iid(labels, clients, seed)
    if scheme == "dirichlet":
        return generators.dirichlet(labels, clients, seed, alpha)
    return generators.dirichlet_per_class(labels, clients, seed, alpha, scheme == "capped")


@settings(max_examples=60, deadline=None)
@given(
    scheme=st.sampled_from(["iid", "dirichlet", "per-class", "capped"]),
    labels=st.lists(st.integers(0, 6), min_size=60, max_size=200).map(np.array),
    clients=st.integers(1, 12),
    seed=st.integers(0, 2**40),
    alpha=st.floats(1, 100),
)
def test_every_image_goes_to_exactly_one_client(scheme, labels, clients, seed, alpha):
    parts = generate(scheme, labels, clients, seed, alpha)
    assert len(parts) == clients
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    if scheme in ("iid", "dirichlet"):
        assert np.ptp([len(part) for part in parts]) <= 1


@pytest.mark.parametrize("scheme", ["iid", "dirichlet", "per-class", "capped"])
def test_a_partition_is_a_function_of_its_arguments(scheme):
    first, again = (generate(scheme, CIFAR10, 20, 7, 1.0) for _ in range(2))
    other = generate(scheme, CIFAR10, 20, 8, 1.0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("alpha", [0.001, 0.05, 1.0, 1e4, 1e9])
def test_dirichlet_works_at_any_concentration(alpha):
    parts = generators.dirichlet(CIFAR10, 100, 0, alpha)
    assert {len(part) for part in parts} == {50}


def test_images_within_a_class_are_given_out_at_random():
    """A client's images of a class are spread over the class, not its first or last ones."""
    labels = np.zeros(10_000, dtype=np.int64)
    part = generators.dirichlet(labels, 10, 0, 1.0)[0]
    assert stats.kstest(part, stats.uniform(0, 10_000).cdf).pvalue > 1e-3


# alpha = 0


def test_at_alpha_zero_each_client_holds_one_class_and_equal_shares():
    parts = generators.one_class(CIFAR10, 100, 0)
    assert all(len(part) == 50 and len(set(CIFAR10[part])) == 1 for part in parts)
    assert np.bincount([CIFAR10[part[0]] for part in parts]).tolist() == [10] * 10
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(5000))


def test_at_alpha_zero_unequal_classes_are_shared_by_unequally_many_clients():
    labels = np.repeat([0, 1, 2, 4], [301, 200, 100, 101])
    parts = generators.one_class(labels, 7, 3)
    assert sorted(len(part) for part in parts) == [100] * 5 + [101] * 2
    assert all(len(set(labels[part])) == 1 for part in parts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 30))
def test_alpha_zero_gives_equal_one_class_clients_or_a_reason(counts, clients):
    labels = np.repeat(np.arange(len(counts)), counts)
    if clients > len(labels):
        return
    small, extra = divmod(len(labels), clients)
    sizes = {small, small + (extra > 0)}

    def possible(count):  # in how many equal shares a class can be cut
        return {n for n in range(1, count + 1) if {count // n, -(-count // n)} <= sizes}

    totals = {0}
    for count in counts:
        totals = {total + n for total in totals for n in possible(count)}
    if clients in totals:
        parts = generators.one_class(labels, clients, 0)
        assert len(parts) == clients
        assert all(len(part) in sizes and len(set(labels[part])) == 1 for part in parts)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    else:
        with refused("alpha 0", f"{clients} clients"):
            generators.one_class(labels, clients, 0)


# The laws


@pytest.mark.parametrize("shape", [[0.005, 0.015, 0.3], [0.5, 0.5, 2.0], [10.0, 30.0, 1.0]])
def test_dirichlet_draws_have_beta_marginals(shape):
    """Compared at fixed points, since at small shapes much of the mass is at 0 and 1 exactly."""
    count, shape = 1500, np.array(shape)
    q = np.array([generators._dirichlet(shape, Stream(3, "test", 0, i)) for i in range(count)])
    assert q.sum(axis=1) == pytest.approx(1)
    for column, a in zip(q.T, shape, strict=True):
        for point in (1e-300, 1e-100, 1e-20, 1e-3, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.999):
            expected = stats.beta(a, shape.sum() - a).cdf(point)
            spread = np.sqrt(expected * (1 - expected) / count)
            assert (column <= point).mean() == pytest.approx(expected, abs=4 * spread + 1e-9)


def test_dirichlet_proportions_follow_the_prior_and_the_total_concentration():
    """While no class has run out, client proportions are Dirichlet(alpha p) rounded."""
    labels = np.repeat([0, 1, 2], [60_000, 30_000, 10_000])
    parts = generators.dirichlet(labels, 1000, 0, 4.0)[:500]
    share = np.array([np.bincount(labels[part], minlength=3) / 100 for part in parts])
    prior = np.array([0.6, 0.3, 0.1])
    assert share.mean(axis=0) == pytest.approx(prior, abs=0.03)
    assert share.var(axis=0) == pytest.approx(prior * (1 - prior) / (4 + 1), rel=0.2)


def test_per_class_proportions_follow_dirichlet_over_clients():
    labels = np.zeros(200_000, dtype=np.int64)
    parts = generators.dirichlet_per_class(labels, 400, 0, 2.0, cap=False)
    share = np.array([len(part) for part in parts]) / len(labels)
    assert share.std() == pytest.approx(np.sqrt((1 / 400) * (399 / 400) / 801), rel=0.15)


def test_each_class_is_cut_by_proportions_of_its_own():
    labels = np.repeat([0, 1], 1000)
    parts = generators.dirichlet_per_class(labels, 5, seed=0, alpha=1.0, cap=False)
    first, second = np.array([np.bincount(labels[part], minlength=2) for part in parts]).T
    assert np.abs(first - second).max() > 100


def test_per_class_refuses_what_bounded_tries_cannot_give():
    with refused("100 tries", "500 clients", "alpha 0.01"):
        generators.dirichlet_per_class(CIFAR10, 500, 0, 0.01, cap=False)


@pytest.mark.parametrize("alpha", [0.001, 1.0, 1e6])
def test_a_capped_client_exceeds_its_share_by_one_class_at_most(alpha):
    for seed in range(5):
        try:
            parts = generators.dirichlet_per_class(CIFAR10, 10, seed, alpha, cap=True)
        except InputError:
            continue
        for part in parts:
            counts = np.bincount(CIFAR10[part], minlength=10)
            last = np.flatnonzero(counts)[-1]
            assert len(part) - counts[last] < 500


# Against the official splits

STATISTICS = ("classes_per_client", "entropy", "concentration")
SEEDS = 20
EQUAL_SIZES = [
    ("cifar10", "0.05"),
    ("cifar10", "1.00"),
    ("cifar10", "10.00"),
    ("cifar10", "100.00"),
    ("cifar100", "0.50"),
    ("cifar100", "1000.00"),
]


def official_users(shared, dataset, alpha):
    """The official clients in the order of their numbers, which is the order they were drawn in."""
    file = shared / "data/official_splits" / dataset / f"federated_train_alpha_{alpha}.json"
    users = json.loads(file.read_text())["users_data"]
    return [users[number] for number in sorted(users, key=int)]


def official(shared, dataset, alpha):
    """Labels in the order of the official clients, and the clients as indices into them."""
    labels = [np.array(user["y"]) for user in official_users(shared, dataset, alpha)]
    ends = np.cumsum([len(y) for y in labels])
    return np.concatenate(labels), np.split(np.arange(ends[-1]), ends[:-1])


def table(labels, clients):
    """How many images of each class a client has: [clients, classes]."""
    return np.array([np.bincount(labels[part], minlength=labels.max() + 1) for part in clients])


def sample(labels, theirs, generate, statistics):
    """The official split's statistics, and those of ours over SEEDS."""
    classes = labels.max() + 1
    ours = [statistics(describe(generate(seed), labels, classes)) for seed in range(SEEDS)]
    return np.array(statistics(describe(theirs, labels, classes))), np.array(ours)


def deviations(*arguments):
    """How many of our standard deviations their statistics lie from our means."""
    found, ours = sample(*arguments)
    return (found - ours.mean(axis=0)) / ours.std(axis=0, ddof=1)


@pytest.mark.parametrize(
    ("dataset", "alphas"),
    [
        ("cifar10", ["0.00", "0.05", "1.00", "10.00", "100.00"]),
        ("cifar100", ["0.00", "0.50", "1000.00"]),
    ],
)
def test_the_official_clients_were_drawn_one_after_another_from_the_same_piles(
    shared, dataset, alphas
):
    """Of every class, the first clients of one file and those of another hold nested images.

    So each class was one pile, shuffled once for all files, and client after client, in the order
    of their numbers, took the next images from it.
    """
    files = [official_users(shared, dataset, alpha) for alpha in alphas]
    for clients in (1, 5, 50, 95):
        piles = []
        for users in files:
            taken = {}
            for user in users[:clients]:
                for label, name in zip(user["y"], user["x"], strict=True):
                    taken.setdefault(label, set()).add(name)
            piles.append(taken)
        for one, other in itertools.combinations(piles, 2):
            for label in one.keys() & other.keys():
                assert one[label] <= other[label] or other[label] <= one[label]


def test_the_official_counts_are_rounded_proportions_not_draws(shared):
    """Their variance is the proportions' and that of rounding, where draws would triple it."""
    labels, theirs = official(shared, "cifar100", "1000.00")
    early = table(labels, theirs)[:60]  # before the first class runs out
    proportions = 500**2 * 0.01 * 0.99 / 1001
    variance = ((early - 5.0) ** 2).mean()
    assert abs(variance - (proportions + 1 / 12)) < 0.15
    assert variance < (proportions + 500 * 0.01 * 0.99) / 2


def test_official_clients_that_empty_a_pile_draw_proportions_anew(shared):
    """They hold more classes than the others, as ours do.

    Had they shared the missing images out by the proportions they had, they would hold no more.
    """
    labels, theirs = official(shared, "cifar100", "0.50")

    def excess(clients):
        counts = table(labels, clients)
        left = counts.sum(axis=0) - np.cumsum(counts, axis=0) + counts
        emptied = ((counts == left) & (counts > 0)).any(axis=1)
        held = (counts > 0).sum(axis=1)
        return held[emptied].mean() - held[~emptied].mean()

    ours = [excess(generators.dirichlet(labels, 100, seed, 0.5)) for seed in range(SEEDS)]
    assert min(ours) < excess(theirs) < max(ours)
    assert excess(theirs) > 1 and np.mean(ours) > 1


def distance(found, ours):
    """How far a split is from ours: statistics beyond all of ours, and the largest deviation in sd.

    found: [statistics]; ours: [seeds, statistics].
    """
    beyond = (found < ours.min(axis=0)) | (found > ours.max(axis=0))
    deviations = np.abs(found - ours.mean(axis=0)) / ours.std(axis=0, ddof=1)
    return np.array([beyond.sum(), deviations.max()])


def official_splits_are_like(shared, generate):
    """Whether they differ from a generator's partitions no more than these do from each other.

    By both measures of `distance`, over all statistics of all splits. Each of the SEEDS seeds in
    turn is held against the others, as the official splits are against all of them.
    generate: (labels, seed, alpha) to a partition.
    """
    theirs, ours = [], []
    for dataset, alpha in EQUAL_SIZES:
        labels, clients = official(shared, dataset, alpha)
        found, made = sample(
            labels,
            clients,
            lambda seed, labels=labels, alpha=alpha: generate(labels, seed, float(alpha)),
            lambda made: [made["statistics"][name] for name in STATISTICS],
        )
        theirs.append(found)
        ours.append(made)
    theirs, ours = np.concatenate(theirs), np.concatenate(ours, axis=1)
    assert ours.shape == (SEEDS, 18)
    among_ours = [distance(ours[seed], np.delete(ours, seed, axis=0)) for seed in range(SEEDS)]
    return (distance(theirs, ours) <= np.max(among_ours, axis=0)).all()


def test_the_official_splits_differ_from_ours_no_more_than_ours_from_each_other(shared):
    assert official_splits_are_like(
        shared, lambda labels, seed, alpha: generators.dirichlet(labels, 100, seed, alpha)
    )


@pytest.mark.parametrize("factor", [pytest.param(0.8, marks=pytest.mark.slow), 1.25])
def test_a_generator_of_another_concentration_is_told_from_theirs(shared, factor):
    """The comparison above would be worth nothing if other generators passed it."""
    assert not official_splits_are_like(
        shared, lambda labels, seed, alpha: generators.dirichlet(labels, 100, seed, factor * alpha)
    )


def test_a_generator_that_shares_out_missing_images_otherwise_is_told_from_theirs(
    shared, monkeypatch
):
    """By the proportions at hand, instead of new ones, when a class runs out."""

    def one_client(left, concentrations, size, seed, client):
        q = generators._dirichlet(concentrations, Stream(seed, "partition dirichlet", 0, client))
        counts = np.zeros_like(left)
        while (missing := size - counts.sum()) > 0:
            open_ = left > counts
            share = np.where(open_, q, 0)
            share = share / share.sum() if share.any() else open_ / open_.sum()
            counts = np.minimum(counts + generators._round_to(missing * share, missing), left)
        return counts

    monkeypatch.setattr(generators, "_one_client", one_client)
    assert not official_splits_are_like(
        shared, lambda labels, seed, alpha: generators.dirichlet(labels, 100, seed, alpha)
    )


@pytest.mark.parametrize(
    ("dataset", "alpha"),
    [
        pytest.param(*split, marks=() if split == ("cifar10", "0.05") else pytest.mark.slow)
        for split in EQUAL_SIZES
    ],
)
def test_given_the_images_left_each_official_client_is_like_ours(shared, dataset, alpha):
    """Client after client against 100 draws of ours from the piles that the official one met.

    This takes out what one client's draw does to all that follow. Deviations are summed over the
    clients: of the number of classes and of the label entropy.
    """
    labels, theirs = official(shared, dataset, alpha)
    counts = table(labels, theirs)
    left = counts.sum(axis=0)
    concentrations = float(alpha) * left / left.sum()

    def statistics(counts):
        p = counts[counts > 0] / counts.sum()
        return len(p), -(p * np.log(p)).sum()

    deviation, variance = np.zeros(2), np.zeros(2)
    for client, found in enumerate(counts):
        ours = [
            statistics(generators._one_client(left, concentrations, found.sum(), seed, client))
            for seed in range(100)
        ]
        deviation += statistics(found) - np.mean(ours, axis=0)
        variance += np.var(ours, axis=0, ddof=1)
        left = left - found
    # One of these twelve sums lies beyond 3 sd in three of a hundred draws of all of them.
    assert (np.abs(deviation) <= 3 * np.sqrt(variance)).all()


def test_the_official_split_at_alpha_5_gives_nothing_more_to_clients_with_their_share(shared):
    """Exactly: who lacks a class had 500 images before it, and who had fewer got some of it."""
    counts = table(*official(shared, "cifar10", "5.00"))
    before = np.cumsum(counts, axis=1) - counts
    assert before[counts == 0].min() >= 500 > before[counts > 0].max()
    assert (counts == 0).sum(axis=0).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 7, 22]


def test_the_official_split_at_alpha_5_is_the_capped_per_class_generators(shared):
    """Which classes some clients lack tells the generator: the last ones, after the cap bites."""
    labels, theirs = official(shared, "cifar10", "5.00")

    def statistics(made):
        lacking = [sum(str(c) not in row for row in made["labels"]) for c in (8, 9)]
        return [*(made["statistics"][name] for name in STATISTICS), *lacking]

    def capped(seed):
        return generators.dirichlet_per_class(labels, 100, seed, 5.0, cap=True)

    assert np.abs(deviations(labels, theirs, capped, statistics)).max() < 3

    # The one difference: the official clients' sizes vary less than this generator's.
    def spread(made):
        return [np.std(made["sizes"])]

    assert deviations(labels, theirs, capped, spread)[0] < -3


def test_the_official_split_at_alpha_5_is_not_from_the_other_generator(shared):
    labels, theirs = official(shared, "cifar10", "5.00")
    off = deviations(
        labels,
        theirs,
        lambda seed: generators.dirichlet(labels, 100, seed, 5.0),
        lambda made: [made["statistics"][name] for name in STATISTICS],
    )
    assert np.abs(off).min() > 5
