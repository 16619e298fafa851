"""Rank correlations are scipy's, and their intervals those of the formula; where there is no order there is no number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from bitzones.stats.correlation import MIN_PAIRS, spearman, spearman_interval, spearman_p

FEW_VALUES = st.lists(st.integers(0, 6), min_size=12, max_size=12)


@given(a=FEW_VALUES, b=FEW_VALUES)
def test_it_is_scipys_with_ties(a: list[int], b: list[int]) -> None:
    ours = float(spearman(np.array(a, dtype=float), np.array(b, dtype=float)))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_rows_are_correlated_one_by_one() -> None:
    rng = np.random.default_rng(1)
    a, rows = rng.normal(size=15), rng.normal(size=(20, 15))
    assert spearman(a, rows) == pytest.approx([spearmanr(a, row).statistic for row in rows])


@given(a=FEW_VALUES, b=FEW_VALUES)
def test_the_p_value_is_scipys(a: list[int], b: list[int]) -> None:
    assume(len(set(a)) > 1 and len(set(b)) > 1)
    expected = spearmanr(a, b, alternative="greater")
    assert spearman_p(float(expected.statistic), 12) == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-15)


def test_the_interval_is_bonett_and_wrights() -> None:
    """The example of the authors' own package (statpsych, ci.spear): 0.8699639, 0.5840951 to 0.9638297."""
    y = np.array([21, 4, 9, 12, 35, 18, 10, 22, 24, 1, 6, 8, 13, 16, 19], dtype=float)
    x = np.array([67, 28, 30, 28, 52, 40, 25, 37, 44, 10, 14, 20, 28, 40, 51], dtype=float)
    interval = spearman_interval(float(spearman(y, x)), 15)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.8699639, 0.5840951, 0.9638297), abs=1e-7)


def test_resamples_add_their_variance_on_fishers_scale() -> None:
    resampled = np.tanh(np.array([0.3, 0.7, math.nan]))  # a standard deviation of 0.2; a resample without an order says nothing
    interval = spearman_interval(0.0, 28, resampled)
    assert math.atanh(interval.high) == pytest.approx(1.959964 * math.sqrt(1 / 25 + 0.04), abs=1e-6)
    assert spearman_interval(0.0, 28, np.full(3, math.nan)) == spearman_interval(0.0, 28)


@pytest.mark.parametrize("rho", [1.0, -1.0])
def test_a_perfect_order_is_not_certain(rho: float) -> None:
    interval = spearman_interval(rho, 12)
    assert interval.value == rho
    assert abs(interval.low if rho > 0 else interval.high) == pytest.approx(math.tanh(math.atanh(1 - 12 / 1716) - 1.959964 / math.sqrt(6)))
    assert (interval.high if rho > 0 else interval.low) == rho


def test_too_few_pairs_have_no_interval() -> None:
    with pytest.raises(ValueError, match=f"9 pairs are fewer than {MIN_PAIRS}"):
        spearman_interval(0.5, 9)


@given(rho=st.floats(-1, 1), n=st.integers(MIN_PAIRS, 200))
def test_the_interval_holds_its_estimate_and_is_a_correlation(rho: float, n: int) -> None:
    interval = spearman_interval(rho, n)
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
