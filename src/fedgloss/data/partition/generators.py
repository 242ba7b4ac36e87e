"""Who gets which image: the generators of partitions, as functions of labels and a seed.

Each returns one index array per client. All are pure: the same arguments give the same partition
on every machine, since even the gamma variates are spelled out (NumPy's may change with a release).
"""

import numpy as np

from fedgloss.errors import InputError
from fedgloss.rng import Stream

TRIES = 100

Clients = list[np.ndarray]


def iid(labels: np.ndarray, clients: int, seed: int) -> Clients:
    """A random order cut into pieces whose sizes differ by one at most."""
    order = Stream(seed, "partition iid").permutation(len(labels))
    return np.array_split(order, clients)


def natural(users: np.ndarray | None, clients: int | None) -> Clients:
    """One client per user, in the order of the users' numbers."""
    if users is None:
        raise InputError("scheme natural: this dataset does not say which user took an image")
    found = np.unique(users)
    if clients is not None and clients != len(found):
        raise InputError(f"scheme natural: {clients} clients asked for, the data has {len(found)}")
    order = np.argsort(users, kind="stable")
    return np.split(order, np.searchsorted(users[order], found)[1:])


def one_class(labels: np.ndarray, clients: int, seed: int) -> Clients:
    """One class per client and equal sizes (differing by one at most): Dirichlet at alpha = 0."""
    pools = _pools(labels, seed)
    small, extra = divmod(len(labels), clients)
    large = small + (extra > 0)
    counts = np.array([len(pool) for pool in pools])
    # n clients can share a class of between n * small and n * large images.
    fewest, most = -(-counts // large), counts // small
    if (fewest > most).any() or not fewest.sum() <= clients <= most.sum():
        label = int(np.argmax(fewest > most))
        raise InputError(
            f"alpha 0: {clients} clients with one class each and {small} to {large} images do not "
            f"fit these classes (class {label} has {counts[label]} images)"
        )
    shares = fewest
    more = np.repeat(np.arange(len(pools)), most - fewest)[: clients - fewest.sum()]
    np.add.at(shares, more, 1)
    return [
        part for pool, n in zip(pools, shares, strict=True) if n for part in np.array_split(pool, n)
    ]


def dirichlet(labels: np.ndarray, clients: int, seed: int, alpha: float) -> Clients:
    """Hsu et al. (arXiv 1909.06335), as the paper's benchmarks: equal sizes, total concentration.

    Client after client draws its label proportions q from Dirichlet(alpha * p), p being the
    classes' shares of the data (so alpha / classes per class), and takes round(size * q) images.
    When classes run out it takes what there is and draws proportions for the rest anew among the
    classes left, with the shares p that these had. The published splits show all of it
    (docs/splits.md): one order of clients, counts that vary less than multinomial ones would, and
    more classes in the clients that emptied one.
    """
    pools = _pools(labels, seed)
    left = np.array([len(pool) for pool in pools])
    prior = left / left.sum()
    taken = np.zeros_like(left)
    parts = []
    for client in range(clients):
        size = len(labels) // clients + (client < len(labels) % clients)
        counts = _one_client(left, alpha * prior, size, seed, client)
        ends = taken + counts
        parts.append(
            np.concatenate([pool[a:b] for pool, a, b in zip(pools, taken, ends, strict=True)])
        )
        taken, left = ends, left - counts
    return parts


def _one_client(
    left: np.ndarray, concentrations: np.ndarray, size: int, seed: int, client: int
) -> np.ndarray:
    """How many images of each class the client takes of those left."""
    counts = np.zeros_like(left)
    draws = 0
    while (missing := size - counts.sum()) > 0:
        open_classes = np.flatnonzero(left > counts)
        shape = concentrations[open_classes]
        q = _dirichlet(shape, Stream(seed, "partition dirichlet", draws, client))
        asked = np.zeros_like(left)
        asked[open_classes] = _round_to(missing * q, missing)
        counts = np.minimum(counts + asked, left)
        draws += 1
    return counts


def dirichlet_per_class(
    labels: np.ndarray, clients: int, seed: int, alpha: float, cap: bool
) -> Clients:
    """Each class is cut by proportions over the clients drawn from Dirichlet(alpha, ..., alpha).

    Sizes come out unequal. With `cap`, a client that has its fair share of images gets none of
    the classes that follow (Li et al., arXiv 2102.02079, and the paper's alpha = 5 split). A draw
    that leaves a client without images is repeated, TRIES times at most.
    """
    pools = _pools(labels, seed)
    for attempt in range(TRIES):
        sizes = np.zeros(clients, dtype=np.int64)
        cuts = []
        for label, pool in enumerate(pools):
            # Among the open clients, Dirichlet proportions made to sum to one are Dirichlet again.
            open_ = np.flatnonzero(sizes < len(labels) / clients) if cap else np.arange(clients)
            q = np.zeros(clients)
            shape = np.full(len(open_), alpha)
            q[open_] = _dirichlet(shape, Stream(seed, "partition per class", attempt, label))
            ends = np.cumsum(q)
            cuts.append((ends[:-1] / ends[-1] * len(pool)).astype(np.int64))
            sizes += np.diff(cuts[-1], prepend=0, append=len(pool))
        if sizes.min() > 0:
            pieces = [np.split(pool, cut) for pool, cut in zip(pools, cuts, strict=True)]
            return [np.concatenate(part) for part in zip(*pieces, strict=True)]
    raise InputError(
        f"alpha {alpha:g}: in {TRIES} tries some of the {clients} clients got no images; "
        "use fewer clients or a larger alpha"
    )


def _pools(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """The images of each class, shuffled."""
    order = Stream(seed, "partition pools").permutation(len(labels))
    return [order[labels[order] == label] for label in range(labels.max() + 1)]


def _round_to(values: np.ndarray, total: int) -> np.ndarray:
    """Non-negative values that sum to `total`, rounded to integers that do (largest remainder)."""
    floor = np.floor(values).astype(np.int64)
    up = np.argsort(floor - values, kind="stable")[: total - floor.sum()]
    floor[up] += 1
    return floor


def _dirichlet(shape: np.ndarray, stream: Stream) -> np.ndarray:
    """One draw from Dirichlet(shape), float64 of the same length.

    Gamma variates by Marsaglia and Tsang (2000) for shape + 1, brought down to `shape` by a factor
    U^(1/shape), in logarithms: at shape 0.005 most of them are below the smallest float.
    """
    count = len(shape)
    d = shape + 1 - 1 / 3
    gamma = np.zeros(count)
    attempt = 0
    while (open_ := gamma == 0).any():
        u = stream.of(f"gamma {attempt}").uniform(3 * count)
        u1, u2, u3 = 1 - u.reshape(3, count)
        normal = np.sqrt(-2 * np.log(u1)) * np.cos(2 * np.pi * u2)
        v = np.maximum(1 + normal / np.sqrt(9 * d), 1e-9) ** 3  # at the bound, never accepted
        accept = np.log(u3) < 0.5 * normal**2 + d * (1 - v + np.log(v))
        gamma = np.where(open_ & accept, d * v, gamma)
        attempt += 1
    u = 1 - stream.of("power").uniform(count)
    log_gamma = np.log(gamma) + np.log(u) / shape
    q = np.exp(log_gamma - log_gamma.max())
    return q / q.sum()
