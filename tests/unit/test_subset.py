"""A balanced subset: every class equally often, from a seed alone."""

import pytest
import torch

from fedgloss.data.subset import balanced_subset
from fedgloss.errors import InputError

LABELS = torch.arange(1000) % 7 % 4
"""Four classes; the last has half as many members as each of the others."""


@pytest.mark.parametrize("count", [1, 4, 10, 401, 999])
def test_every_class_is_drawn_equally_often_up_to_one_while_it_lasts(count: int) -> None:
    chosen = balanced_subset(LABELS, count, seed=3)
    assert len(chosen) == count and torch.equal(chosen, chosen.unique())
    drawn = torch.bincount(LABELS[chosen], minlength=4)
    left = torch.bincount(LABELS, minlength=4) - drawn
    assert all(drawn[c] >= drawn.max() - 1 or left[c] == 0 for c in range(4))


def test_all_are_taken_where_there_are_no_more() -> None:
    assert torch.equal(balanced_subset(LABELS, 1000, seed=0), torch.arange(1000))
    assert torch.equal(balanced_subset(LABELS, 5000, seed=0), torch.arange(1000))


def test_the_seed_decides_and_a_smaller_subset_is_part_of_a_larger() -> None:
    first, again, other = (balanced_subset(LABELS, 40, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert set(balanced_subset(LABELS, 17, seed=1).tolist()) < set(first.tolist())


def test_a_recorded_draw_stays_what_it_is() -> None:
    """Eigenvalues are published of such images."""
    expected = [11, 13, 37, 63, 71, 75, 88]
    assert balanced_subset(torch.arange(100) % 3, 7, seed=42).tolist() == expected


def test_labels_that_are_no_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"^labels: .*allowed: one class"):
        balanced_subset(torch.rand(5), 2, seed=0)
    with pytest.raises(InputError, match=r"^count: 0 \(allowed: at least 1\)$"):
        balanced_subset(LABELS, 0, seed=0)
