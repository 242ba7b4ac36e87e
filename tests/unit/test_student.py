"""The interval of a few independent estimates."""

import pytest
from scipy import stats

from fedgloss.student import mean_interval, quantile


@pytest.mark.parametrize("degrees", [*range(1, 40), 99, 100, 1000, 1.5, 2.0001, 2.7, 3.99, 17.3])
def test_the_quantile_is_students(degrees):
    assert quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


def test_the_mean_has_students_interval():
    values = [3.0, 5.0, 4.5, 7.0]
    mean, half = mean_interval(values)
    interval = stats.ttest_1samp(values, 0).confidence_interval()
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert mean_interval([3.0]) == (3.0, None)
