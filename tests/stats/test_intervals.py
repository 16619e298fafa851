"""Known answers by hand or from the cited papers, and properties that any interval must have."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitzones.stats import intervals


@pytest.mark.parametrize(
    ("k", "n", "low", "high"), [(8, 10, 0.490, 0.943), (0, 20, 0.0, 0.161), (20, 20, 0.839, 1.0), (250, 500, 0.456, 0.544)]
)
def test_wilson_known(k: int, n: int, low: float, high: float) -> None:
    interval = intervals.wilson_interval(k, n)
    assert (interval.value, round(interval.low, 3), round(interval.high, 3)) == (k / n, low, high)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.data())
def test_wilson_is_scipy_s(n: int, data: st.DataObject) -> None:
    from scipy.stats import binomtest

    k = data.draw(st.integers(0, n))
    theirs = binomtest(k, n).proportion_ci(method="wilson")
    ours = intervals.wilson_interval(k, n)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1


@pytest.mark.parametrize(("k", "n"), [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_share(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="is not a share"):
        intervals.wilson_interval(k, n)


def test_paired_difference_is_bonett_and_price() -> None:
    # By hand: p_gained = 4/102, p_lost = 11/102, half = 1.96 * sqrt((15/102 - (7/102)^2) / 102).
    interval = intervals.paired_difference(lost=10, gained=3, n=100)
    half = 1.959964 * ((15 / 102 - (7 / 102) ** 2) / 102) ** 0.5
    assert interval.value == pytest.approx(-0.07)
    assert (interval.low, interval.high) == pytest.approx((-7 / 102 - half, -7 / 102 + half), abs=1e-6)


def test_an_estimate_has_two_ends_or_none() -> None:
    with pytest.raises(ValueError, match="two ends or none"):
        intervals.Estimate(value=1.0, low=0.5, high=None)
    assert intervals.Estimate(value=1.0, low=None, high=None).interval is None
    assert intervals.Estimate(value=1.0, low=0.5, high=2.0).interval == intervals.Interval(value=1.0, low=0.5, high=2.0)
