"""The interval of a few independent estimates."""

import pytest
from scipy import stats

from fedgloss.student import quantile


@pytest.mark.parametrize("degrees", [*range(1, 40), 99, 100, 1000])
def test_the_quantile_is_students(degrees):
    assert quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)
